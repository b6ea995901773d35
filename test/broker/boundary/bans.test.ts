import { describe, expect, test } from 'vitest'
import type { Ban, BanKind } from '../../../src/broker/boundary/bans.ts'
import { Reason } from '../../../src/mqtt/reason.ts'
import { connectPacket, World } from '../harness.ts'

function banned(world: World, kind: BanKind, subject: string, seconds: number | null = null): Ban {
  const since = world.server.state.now()
  const until = seconds === null ? null : since + seconds * 1000
  const ban = { kind, subject, since, until, reason: 'because', by: 'test', isAutomatic: false }
  world.server.state.bans.add(ban)
  return ban
}

const policy = { authenticate: () => ({ allow: true, userName: 'named by a certificate' }) as const }

describe('a banned client', () => {
  test('by Client Identifier or user name gets 0x8A (5 before 5.0) without a password check', async () => {
    let asked = 0
    const world = await World.make({
      policy: {
        authenticate: ({ userName = null }) => {
          asked++
          return { allow: true, userName }
        },
      },
    })
    const refused = world.record('refused')
    banned(world, 'client', 'device-7')
    banned(world, 'user', 'mallory')
    const codes: unknown[] = []
    for (const version of [5, 4, 3] as const) {
      for (const [clientId, more] of [
        ['device-7', {}],
        ['other', { username: 'mallory', password: Buffer.from('x') }],
      ] as const) {
        const client = world.open(version)
        const [connack] = await client.send({
          ...connectPacket(clientId, version),
          ...(version === 5 && { properties: {} }),
          ...more,
        })
        const { reasonCode, returnCode } = connack as { reasonCode?: number; returnCode?: number }
        codes.push(reasonCode ?? returnCode)
        expect(JSON.stringify(connack)).not.toContain('because')
      }
    }
    expect(codes).toEqual([Reason.Banned, Reason.Banned, 5, 5, 5, 5])
    expect(asked).toBe(0)
    expect(refused[0]!.reason).toBe('the Client Identifier is banned: because')
    expect((await world.connect('other')).connack).toMatchObject({ reasonCode: 0 })
  })

  test('by a user name that only the policy knows gets 0x8A after it', async () => {
    const world = await World.make({ policy })
    banned(world, 'user', 'named by a certificate')
    expect((await world.connect('c')).connack).toMatchObject({ reasonCode: Reason.Banned })
  })

  test('by address or network is not even accepted, but counted', async () => {
    const world = await World.make()
    banned(world, 'address', '203.0.113.0/24')
    expect(world.open(5, { remoteAddress: '203.0.113.9' }).link.handler).toBeNull()
    expect(world.open(5, { remoteAddress: '203.0.114.9' }).link.handler).not.toBeNull()
    expect(world.server.state.counters.limits.bans).toBe(1)
  })

  test('is let in again when the ban is over by broker time', async () => {
    const world = await World.make()
    banned(world, 'client', 'c', 60)
    await world.pass(59)
    // To set the wall clock ends no ban.
    world.wall += 3_600_000
    expect((await world.connect('c')).connack).toMatchObject({ reasonCode: Reason.Banned })
    await world.pass(2)
    expect((await world.connect('c')).connack).toMatchObject({ reasonCode: 0 })
    expect(world.server.state.bans.list()).toEqual([])
  })
})

test('a new ban ends the connections that it applies to at once, and no others', async () => {
  const world = await World.make({
    policy: { authenticate: ({ userName = null }) => ({ allow: true, userName }) },
  })
  const of = (username: string): Record<string, unknown> => ({ username, password: Buffer.from('x') })
  const clients = [
    await world.connect('a', of('u')),
    await world.connect('b', of('v')),
    await world.connect('c', of('w')),
  ]
  const far = world.open(5, { remoteAddress: '203.0.113.9' })
  await far.send({ ...connectPacket('far'), properties: {} })
  const closed = (): boolean[] => [...clients, far].map((client) => client.closed)
  banned(world, 'client', 'a')
  expect(world.server.enforceBans(['client'])).toBe(1)
  await world.settle()
  expect(closed()).toEqual([true, false, false, false])
  expect(clients[0]!.got()).toMatchObject([{ cmd: 'disconnect', reasonCode: Reason.NotAuthorized }])
  banned(world, 'user', 'v')
  expect(world.server.enforceBans(['user'])).toBe(1)
  banned(world, 'address', '203.0.113.0/24')
  expect(world.server.enforceBans(['address'])).toBe(1)
  await world.settle()
  expect(closed()).toEqual([true, true, false, true])
})

describe('an automatic ban', () => {
  const automatic = (world: World, subject: string, until: number): boolean =>
    world.server.state.bans.add({
      ...{ kind: 'address', subject, until, since: 0, reason: '', by: 'broker', isAutomatic: true },
    })

  test('never applies to this machine, and never replaces that of an operator', async () => {
    const world = await World.make()
    const later = world.server.state.now() + 60_000
    for (const own of ['127.0.0.1', '::1', '::/64']) expect(automatic(world, own, later)).toBe(false)
    banned(world, 'address', '203.0.113.9')
    expect(automatic(world, '203.0.113.9', later)).toBe(false)
    expect(automatic(world, '203.0.113.10', later)).toBe(true)
    banned(world, 'address', '203.0.113.10')
    expect(world.server.state.bans.list().map(({ isAutomatic }) => isAutomatic)).toEqual([false, false])
    banned(world, 'address', '127.0.0.1')
    expect(world.server.state.bans.ofAddress('127.0.0.1')).not.toBeNull()
  })

  test('is one of 10,000 at most: one more replaces the first to end, but none of an operator', async () => {
    const world = await World.make()
    banned(world, 'address', '203.0.113.9', 1)
    const now = world.server.state.now() + 10_000
    for (let i = 0; i < 10_001; i++) automatic(world, `10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`, now + i)
    const { bans } = world.server.state
    expect(bans.list()).toHaveLength(10_001)
    expect(bans.ofAddress('10.0.0.0')).toBeNull()
    expect(bans.ofAddress('203.0.113.9')).not.toBeNull()
  })
})
