import { describe, expect, test } from 'vitest'
import type { Limits } from '../../../src/broker/boundary/limits.ts'
import type { Capped } from '../../../src/broker/sessions/session-cap.ts'
import { lasting, World } from '../harness.ts'

const DAY = 86_400

/** A Server whose limits can change while it runs, as by a reload. */
async function changing(): Promise<{ world: World; limits: { -readonly [K in keyof Limits]: Limits[K] } }> {
  const world = await World.make({ limits: {} })
  return { world, limits: world.server.state.limits }
}

async function left(world: World, clientId: string, seconds = 0xffffffff): Promise<void> {
  const client = await world.connect(clientId, lasting(seconds))
  await client.subscribe('t', 1)
  await client.vanish()
}

async function capped(world: World): Promise<Capped> {
  const done = world.server.capSessions()
  await world.settle()
  return done
}

describe('a maximum of the Session Expiry Interval that became less', () => {
  test('holds for absent clients from when they left, durably [field-A4]', async () => {
    const { world, limits } = await changing()
    await left(world, 'long ago')
    await world.pass(3 * DAY)
    await left(world, 'today')
    await left(world, 'short', DAY)
    while (await world.commit());
    const told = world.record('sessionsCapped')
    const ended = world.record('sessionEnded')
    expect(world.server.cappedBy(2 * DAY)).toEqual({ shortened: 1, ended: 1 })
    expect(world.server.state.sessions.size).toBe(3)
    limits.sessionExpirySecondsMax = 2 * DAY
    const recorded = world.ledger.lines.length
    expect(await capped(world)).toEqual({ shortened: 1, ended: 1 })
    expect(told).toEqual([{ maximumSeconds: 2 * DAY, shortened: 1, ended: 1 }])
    expect(ended).toEqual([{ clientId: 'long ago', reason: 'expired' }])
    const lines = world.ledger.lines.slice(recorded).join('\n')
    expect(lines).toMatch(/session/i)
    expect([...world.server.state.sessions.values()].map(({ clientId }) => clientId)).toEqual([
      'today',
      'short',
    ])
    await world.pass(DAY + 1)
    expect(world.server.state.sessions.has('short')).toBe(false)
    expect(world.server.state.sessions.has('today')).toBe(true)
    await world.pass(DAY)
    expect(world.server.state.sessions.size).toBe(0)
    expect(world.census().deadlines).toBe(0)
  })

  test('applies to connected clients when they leave, whatever CONNACK said [field-A4]', async () => {
    const { world, limits } = await changing()
    const client = await world.connect('c', lasting())
    const old = await world.connect('old', { clean: false }, 4)
    limits.sessionExpirySecondsMax = 10
    expect(await capped(world)).toEqual({ shortened: 2, ended: 0 })
    await world.pass(60)
    expect([client.closed, old.closed]).toEqual([false, false])
    await client.vanish()
    await old.vanish()
    await world.pass(9)
    expect(world.server.state.sessions.size).toBe(2)
    await world.pass(2)
    expect(world.server.state.sessions.size).toBe(0)
  })

  test('is not told to have ended Sessions before that is on the disk [field-A4]', async () => {
    const { world, limits } = await changing()
    await left(world, 'a')
    while (await world.commit());
    world.ledger.automatic = false
    limits.sessionExpirySecondsMax = 0
    let isTold = false
    const done = world.server.capSessions().then((result) => {
      isTold = true
      return result
    })
    await world.settle()
    expect(world.server.state.sessions.size).toBe(0)
    expect(isTold).toBe(false)
    world.ledger.automatic = true
    await world.commit()
    expect(await done).toEqual({ shortened: 0, ended: 1 })
  })

  test('of 0 ends every absent Session', async () => {
    const { world, limits } = await changing()
    await left(world, 'a')
    limits.sessionExpirySecondsMax = 0
    expect(await capped(world)).toEqual({ shortened: 0, ended: 1 })
    expect(world.census()).toMatchObject({ sessions: 0, subscriptions: 0, deadlines: 0 })
  })

  test('goes through very many in slices, with others served between two [field-A4]', async () => {
    const { world, limits } = await changing()
    for (let index = 0; index < 1000; index++) await left(world, `c${index}`)
    await world.pass(100)
    const publisher = await world.connect('p')
    limits.sessionExpirySecondsMax = 10
    const done = world.server.capSessions()
    expect(world.server.state.sessions.size).toBeLessThan(1001)
    expect(world.server.state.sessions.size).toBeGreaterThan(1001 - 512)
    expect(await publisher.publish('x', 'x', 1)).toMatchObject([{ cmd: 'puback' }])
    await world.settle()
    expect(await done).toEqual({ shortened: 0, ended: 1000 })
  })
})
