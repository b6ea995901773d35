/**
 * Limits on what is kept for a client, a user, an address, and all. A client at a limit can still come back.
 */
import { describe, expect, it } from 'vitest'
import { COSTS } from '../../../src/broker/accounts/costs.ts'
import type { Limit } from '../../../src/broker/boundary/events.ts'
import { type Limits, limitsWith, PROFILES } from '../../../src/broker/boundary/limits.ts'
import { exceededLimits } from '../../../src/broker/relief/exceeded-limits.ts'
import { type Recovered, type RecoveredSession, StoreError } from '../../../src/store/store.ts'
import { type Given, lasting, World } from '../harness.ts'

/** Believes every user name. */
const policy = {
  authenticate: ({ userName }: { readonly userName: string | undefined }) => ({
    allow: true as const,
    userName: userName ?? null,
  }),
}

async function made(limits: Partial<Limits>): Promise<World> {
  return World.make({ limits, policy })
}

const ada = (more: Given = {}): Given => lasting(1000, { username: 'ada', ...more })

/** Returns the code of CONNACK: 0, or a refusal. */
async function connected(
  world: World,
  clientId: string,
  connect: Given = ada(),
  version: 4 | 5 = 5,
): Promise<number> {
  const { connack } = await world.connect(clientId, connect, version)
  if (connack?.cmd !== 'connack') return -1
  return (version === 5 ? connack.reasonCode : connack.returnCode) ?? -1
}

const refusals = (world: World, limit: Limit): number => world.server.state.counters.limits[limit]

describe('Sessions', () => {
  it('of a user: one more is refused with the reason, in 3.1.1 as well; others come in', async () => {
    const world = await made({ sessionsPerUserMax: 2 })
    const limited = world.record('limited')
    expect([await connected(world, 'a'), await connected(world, 'b'), await connected(world, 'c')]).toEqual([
      0, 0, 0x97,
    ])
    expect(await connected(world, 'c', ada({ properties: undefined }), 4)).toBe(3)
    expect(await connected(world, 'd', lasting(1000, { username: 'bob' }))).toBe(0)
    expect(refusals(world, 'sessionsPerUserMax')).toBe(2)
    expect(limited[0]).toEqual({ limit: 'sessionsPerUserMax', clientId: 'c', detail: '2 Sessions of ada' })
  })

  it('of a user at the limit: the same client may come back, take over, and start clean', async () => {
    const world = await made({ sessionsPerUserMax: 1 })
    const first = await world.connect('a', ada())
    expect(await connected(world, 'a')).toBe(0)
    expect(first.closed).toBe(true)
    const second = await world.connect('a', ada({ clean: true }))
    expect(second.connack).toMatchObject({ reasonCode: 0, sessionPresent: false })
    await second.vanish()
    expect(await connected(world, 'a')).toBe(0)
    expect(await connected(world, 'b')).toBe(0x97)
  })

  it('of clients without a user name count by their address', async () => {
    const world = await made({ sessionsPerUserMax: 1 })
    expect([await connected(world, 'a', {}), await connected(world, 'b', {})]).toEqual([0, 0x97])
  })

  it('make room for another when they end', async () => {
    const world = await made({ sessionsPerUserMax: 1 })
    const client = await world.connect('a', { username: 'ada' })
    await client.vanish()
    expect(await connected(world, 'b')).toBe(0)
  })

  it('in all', async () => {
    const world = await made({ sessionsMax: 2 })
    for (const [clientId, username, reasonCode] of [
      ['a', 'ada', 0],
      ['b', 'bob', 0],
      ['c', 'cy', 0x97],
      ['a', 'ada', 0],
    ] as const) {
      expect(await connected(world, clientId, lasting(1000, { username }))).toBe(reasonCode)
    }
    expect(refusals(world, 'sessionsMax')).toBe(1)
  })
})

describe('connections', () => {
  it('of a user: one more is refused, but the same client may take over its own', async () => {
    const world = await made({ connectionsPerUserMax: 2 })
    const first = await world.connect('a', ada())
    await world.connect('b', ada())
    expect(await connected(world, 'c')).toBe(0x97)
    expect(await connected(world, 'a')).toBe(0)
    expect(first.closed).toBe(true)
    expect(await connected(world, 'd', { username: 'bob' })).toBe(0)
    expect(refusals(world, 'connectionsPerUserMax')).toBe(1)
    expect(world.server.state.usage.user('ada')!.connections).toBe(2)
  })

  const from = async (world: World, remoteAddress: string, clientId: string): Promise<number | undefined> => {
    const client = world.open(5, { remoteAddress })
    const [connack] = await client.send({
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: 5,
      clientId,
      clean: true,
      keepalive: 0,
      properties: {},
    })
    return connack?.cmd === 'connack' ? connack.reasonCode : undefined
  }

  it('of an address or IPv6 network: one more is refused; this machine has no such limit', async () => {
    const world = await made({ connectionsPerAddressMax: 2 })
    const codes: (number | undefined)[] = []
    for (const clientId of ['a', 'b', 'c', 'a']) codes.push(await from(world, '192.0.2.1', clientId))
    expect(codes).toEqual([0, 0, 0x97, 0])
    for (const [host, code] of [
      [1, 0],
      [2, 0],
      [3, 0x97],
    ]) {
      expect(await from(world, `2001:db8:0:1::${host}`, `six${host}`)).toBe(code)
    }
    for (let number = 0; number < 4; number++) expect(await from(world, '127.0.0.1', `l${number}`)).toBe(0)
    expect(await from(world, '192.0.2.2', 'z')).toBe(0)
    expect(refusals(world, 'connectionsPerAddressMax')).toBe(2)
  })

  it('of an address without CONNECT are closed beyond 64 more', async () => {
    const world = await made({ connectionsPerAddressMax: 2 })
    const open = () => world.open(5, { remoteAddress: '192.0.2.1' }).link.handler
    for (let number = 0; number < 66; number++) expect(open()).not.toBeNull()
    expect(open()).toBeNull()
    expect(refusals(world, 'connectionsPerAddressMax')).toBe(1)
  })
})

describe('Subscriptions', () => {
  it('of a user: one more is refused, but an existing one may be replaced', async () => {
    const world = await made({ subscriptionsPerUserMax: 3 })
    const [a, b] = [await world.connect('a', ada()), await world.connect('b', ada())]
    expect([await a.subscribe('1'), await a.subscribe('2'), await b.subscribe('3')]).toEqual([0, 0, 0])
    expect([await b.subscribe('4'), await b.subscribe('3', 1), await a.subscribe('1', 1)]).toEqual([
      0x97, 1, 1,
    ])
    await a.unsubscribe('2')
    expect(await b.subscribe('4')).toBe(0)
    expect(refusals(world, 'subscriptionsPerUserMax')).toBe(1)
  })

  it('that are shared, of a client', async () => {
    const world = await made({ sharedSubscriptionsPerClientMax: 1 })
    const client = await world.connect('a', ada())
    expect([await client.subscribe('$share/g/1'), await client.subscribe('$share/g/2')]).toEqual([0, 0x97])
    expect([await client.subscribe('3'), await client.subscribe('$share/g/1', 1)]).toEqual([0, 1])
    expect(refusals(world, 'sharedSubscriptionsPerClientMax')).toBe(1)
  })

  it('with a ShareName that is too long are refused with 0x8F', async () => {
    const world = await made({ shareNameBytesMax: 4 })
    const client = await world.connect('a', ada())
    expect([await client.subscribe('$share/1234/x'), await client.subscribe('$share/1234é/x')]).toEqual([
      0, 0x8f,
    ])
  })

  it('a user may open a limited number of groups, and join those of others', async () => {
    const world = await made({ shareGroupsPerUserMax: 2 })
    const [a, b] = [await world.connect('a', ada()), await world.connect('b', ada())]
    const bob = await world.connect('bob', lasting(1000, { username: 'bob' }))
    expect([await a.subscribe('$share/1/x'), await b.subscribe('$share/2/x')]).toEqual([0, 0])
    expect([await a.subscribe('$share/3/x'), await a.subscribe('$share/2/x')]).toEqual([0x97, 0])
    expect([await bob.subscribe('$share/3/x'), await a.subscribe('$share/3/x')]).toEqual([0, 0])
    // A group closes with its last member, and makes room for another.
    await a.unsubscribe('$share/2/x')
    expect(await b.subscribe('$share/4/x')).toBe(0x97)
    await b.unsubscribe('$share/2/x')
    expect(await b.subscribe('$share/4/x')).toBe(0)
    expect(refusals(world, 'shareGroupsPerUserMax')).toBe(2)
  })

  it('groups that others keep open still count for the user who opened them and left', async () => {
    const world = await made({ shareGroupsPerUserMax: 1 })
    const a = await world.connect('a', { username: 'ada' })
    const bob = await world.connect('bob', lasting(1000, { username: 'bob' }))
    expect([await a.subscribe('$share/1/x'), await bob.subscribe('$share/1/x')]).toEqual([0, 0])
    await a.vanish()
    await world.pass(2.1)
    const again = await world.connect('a', { username: 'ada' })
    expect(await again.subscribe('$share/2/x')).toBe(0x97)
    await again.vanish()
    await bob.unsubscribe('$share/1/x')
    await world.pass(2.1)
    expect([...world.server.state.usage.users()].map(({ name }) => name)).toEqual(['bob'])
  })

  it('groups of a user that get the same message: those of other topics do not count', async () => {
    const world = await made({ shareGroupsPerMessageMax: 2 })
    const client = await world.connect('a', ada())
    const filters = [
      '$share/1/x/#',
      '$share/2/x/+',
      '$share/3/x/y',
      '$share/3/y/y',
      '$share/4/z',
      '$share/4/#',
    ]
    const codes: (number | undefined)[] = []
    for (const filter of filters) codes.push(await client.subscribe(filter))
    expect(codes).toEqual([0, 0, 0x97, 0, 0, 0])
    const bob = await world.connect('bob', lasting(1000, { username: 'bob' }))
    expect(await bob.subscribe('$share/3/x/y')).toBe(0)
    expect(refusals(world, 'shareGroupsPerMessageMax')).toBe(1)
  })

  it('after everything has ended, the count of groups is that of the router', async () => {
    const world = await made({ shareGroupsPerUserMax: 3 })
    for (let round = 0; round < 3; round++) {
      const client = await world.connect('a', { username: 'ada' })
      for (const name of ['1', '2', '3']) expect(await client.subscribe(`$share/${name}/x`)).toBe(0)
      await client.vanish()
    }
  })
})

describe('retained messages', () => {
  const retain = { retain: true }

  it('of a user: one more is refused, but existing ones may be replaced and cleared', async () => {
    const world = await made({ retainedMessagesPerUserMax: 2 })
    const client = await world.connect('a', ada())
    for (const [topic, text, code] of [
      ['1', 'x', 0x10],
      ['2', 'x', 0x10],
      ['3', 'x', 0x97],
      ['2', 'much longer than before', 0x10],
      ['1', '', 0x10],
      ['3', 'x', 0x10],
    ] as const) {
      expect(await client.publish(topic, text, 1, retain)).toMatchObject([
        { cmd: 'puback', reasonCode: code },
      ])
    }
    const bob = await world.connect('bob', { username: 'bob' })
    // To replace a message of another user counts as one more.
    expect(await bob.publish('3', 'x', 1, retain)).toMatchObject([{ reasonCode: 0x10 }])
    expect(await client.publish('4', 'x', 1, retain)).toMatchObject([{ reasonCode: 0x10 }])
    expect(refusals(world, 'retainedMessagesPerUserMax')).toBe(1)
  })

  it('a client of 3.1.1 that is refused is disconnected, so that it keeps the message', async () => {
    const world = await made({ retainedMessagesPerUserMax: 1 })
    const client = await world.connect('a', { username: 'ada', properties: undefined }, 4)
    expect(await client.publish('1', 'x', 1, retain)).toMatchObject([{ cmd: 'puback' }])
    expect(await client.publish('2', 'x', 1, retain)).toEqual([])
    expect(client.closed).toBe(true)
  })

  it('of a user in bytes: one that is no larger may replace another, even above the limit', async () => {
    const world = await made({ retainedBytesPerUserMax: 4000 })
    const client = await world.connect('a', ada())
    expect(await client.publish('1', 'x'.repeat(3000), 1, retain)).toMatchObject([{ reasonCode: 0x10 }])
    expect(await client.publish('2', 'x'.repeat(500), 1, retain)).toMatchObject([{ reasonCode: 0x97 }])
    ;(world.server.state.limits as { retainedBytesPerUserMax: number }).retainedBytesPerUserMax = 1000
    expect(await client.publish('1', 'x'.repeat(2900), 1, retain)).toMatchObject([{ reasonCode: 0x10 }])
    expect(await client.publish('1', 'x'.repeat(3100), 1, retain)).toMatchObject([{ reasonCode: 0x97 }])
    expect(refusals(world, 'retainedBytesPerUserMax')).toBe(2)
  })

  it('in all, in bytes: one that is no larger may replace another, even above the limit', async () => {
    const world = await made({})
    const client = await world.connect('a', ada())
    await client.publish('1', 'x'.repeat(3000), 1, retain)
    ;(world.server.state.limits as { retainedBytesMax: number }).retainedBytesMax = 1024
    expect(await client.publish('1', 'x'.repeat(2900), 1, retain)).toMatchObject([{ reasonCode: 0x10 }])
    expect(await client.publish('1', 'x'.repeat(2901), 1, retain)).toMatchObject([{ reasonCode: 0x97 }])
  })

  it('a Will that may not be retained is still published', async () => {
    const world = await made({ retainedMessagesPerUserMax: 1 })
    const will = { topic: 'gone', payload: Buffer.from('gone'), qos: 1, retain: true }
    const client = await world.connect('a', { username: 'ada', will })
    const watcher = await world.connect('w', { username: 'bob' })
    await watcher.subscribe('gone')
    await client.publish('1', 'x', 1, retain)
    await client.vanish()
    expect(watcher.texts()).toEqual(['gone'])
    expect(world.server.state.retained.count).toBe(1)
    expect(refusals(world, 'retainedMessagesPerUserMax')).toBe(1)
  })

  it('messages retained by the embedding program have no user', async () => {
    const world = await made({ retainedMessagesPerUserMax: 1 })
    for (const topic of ['1', '2', '3']) {
      const published = world.server.publish({
        topic,
        payload: Buffer.from('x'),
        qos: 0,
        retain: true,
        publisher: '',
      })
      while (await world.commit());
      await published
    }
    expect(world.server.state.retained.count).toBe(3)
  })
})

describe('Wills', () => {
  const will = (text = 'gone') => ({ topic: 'gone', payload: Buffer.from(text), qos: 0, retain: false })

  it('of a user: one more is refused, but the same client may replace its own', async () => {
    const world = await made({ willsPerUserMax: 1 })
    expect(await connected(world, 'a', ada({ will: will() }))).toBe(0)
    expect(await connected(world, 'b', ada({ will: will() }))).toBe(0x97)
    expect(await connected(world, 'a', ada({ will: will('other') }))).toBe(0)
    expect(await connected(world, 'b')).toBe(0)
    expect(refusals(world, 'willsPerUserMax')).toBe(1)
  })

  it('in all', async () => {
    const world = await made({ willsMax: 1 })
    expect(await connected(world, 'a', ada({ will: will() }))).toBe(0)
    expect(await connected(world, 'b', lasting(1, { username: 'bob', will: will() }))).toBe(0x97)
    expect(await connected(world, 'a', ada({ will: will() }))).toBe(0)
  })

  it.each([
    ['willsBytesMax', 'bob'],
    ['willsBytesPerUserMax', 'ada'],
  ] as const)(
    '%s: the same client may connect with a Will that is no larger, even above the limit',
    async (limit, other) => {
      const world = await made({ [limit]: COSTS.will + 900 })
      expect(await connected(world, 'a', ada({ will: will('x'.repeat(800)) }))).toBe(0)
      expect(await connected(world, 'b', lasting(1, { username: other, will: will() }))).toBe(0x97)
      ;(world.server.state.limits as unknown as Record<string, number>)[limit] = COSTS.will
      expect(await connected(world, 'a', ada({ will: will('x'.repeat(800)) }))).toBe(0)
      expect(await connected(world, 'a', ada({ will: will('x'.repeat(801)) }))).toBe(0x97)
      expect(refusals(world, limit)).toBe(2)
    },
  )

  it('with a longer delay are published after will_delay_seconds_max', async () => {
    const world = await made({ willDelaySecondsMax: 10 })
    const delayed = { ...will(), properties: { willDelayInterval: 500 } }
    const client = await world.connect('a', ada({ will: delayed }))
    const watcher = await world.connect('w', { username: 'bob' })
    await watcher.subscribe('gone')
    await client.vanish()
    await world.pass(9)
    expect(watcher.texts()).toEqual([])
    await world.pass(2)
    expect(watcher.texts()).toEqual(['gone'])
  })
})

describe('bytes in flight', () => {
  it('above in_flight_bytes_max the next message waits until one is acknowledged', async () => {
    const world = await made({ inFlightBytesMax: 2000 })
    const reader = await world.connect('r', ada())
    await reader.subscribe('t', 1)
    const publisher = await world.connect('p', { username: 'bob' })
    for (let number = 0; number < 5; number++) await publisher.publish('t', 'x'.repeat(900), 1)
    while (await world.commit());
    const { sessions } = world.server.state
    expect(sessions.get('r')).toMatchObject({ inFlightCount: 3, queueLength: 2 })
    expect(await reader.drain()).toHaveLength(5)
  })
})

describe('after a restart, and after a full disk', () => {
  const subscription = {
    qos: 1,
    noLocal: false,
    retainAsPublished: false,
    retainHandling: 0,
    identifier: 0,
  } as const
  const stored = (clientId: string, id: number, filters: readonly string[]): RecoveredSession => ({
    id,
    record: { clientId, owner: 'ada', ownerId: null, expirySeconds: 1000, disconnectedAt: 50_000 },
    subscriptions: filters.map((filter) => [filter, subscription]),
    inFlight: [],
    queue: [],
    queueHead: 0,
    lastPacketId: 0,
    inbound: [],
  })
  const recovered = (wallTime: number): Recovered => ({
    brokerTime: 50_000,
    wallTime,
    bootTime: null,
    doubt: null,
    sessions: [stored('a', 1, ['$share/1/x', '$share/2/x', 'y']), stored('b', 2, ['z'])],
    retained: [],
    wills: [],
  })
  const limits = {
    sessionsMax: 1,
    sessionsPerUserMax: 1,
    subscriptionsPerClientMax: 1,
    shareGroupsPerUserMax: 1,
    shareGroupsPerMessageMax: 1,
  }

  it('stored things beyond lowered limits stay and may be used; nothing new is added', async () => {
    const world = await World.make({ limits, policy }, (made) => {
      made.ledger.recovered = recovered(made.wall - 1000)
    })
    expect(world.census()).toMatchObject({ sessions: 2, subscriptions: 4 })
    expect(await connected(world, 'c')).toBe(0x97)
    const client = await world.connect('a', ada())
    expect(client.connack).toMatchObject({ reasonCode: 0, sessionPresent: true })
    expect([await client.subscribe('$share/1/x', 1), await client.subscribe('y', 1)]).toEqual([1, 1])
    expect([await client.subscribe('new'), await client.subscribe('$share/3/x')]).toEqual([0x97, 0x97])
    expect(await connected(world, 'b')).toBe(0)
  })

  it('the start reports them', async () => {
    const world = await World.make({ policy })
    const again = await World.make({ limits, policy }, (made) => {
      made.ledger.recovered = recovered(made.wall - 1000)
    })
    expect(world.server.beyondBy(limitsWith(limits))).toEqual([])
    expect(again.server.beyondBy(limitsWith(limits))).toHaveLength(4)
  })

  it('the counts are right after the store was read again, and groups make room when they end', async () => {
    const world = await World.make({ limits: { sessionsPerUserMax: 2, shareGroupsPerUserMax: 2 }, policy })
    const first = await world.connect('lost', ada())
    for (const filter of ['$share/1/x', '$share/2/x']) expect(await first.subscribe(filter, 1)).toBe(1)
    world.ledger.automatic = false
    await first.publish('x', 'x', 1)
    world.ledger.recovered = recovered(world.wall)
    world.ledger.fail(new StoreError('full', 'no space left', 'Make room.'))
    await world.settle()
    world.ledger.automatic = true
    expect(await connected(world, 'c')).toBe(0x97)
    const client = await world.connect('a', ada())
    expect(client.connack).toMatchObject({ reasonCode: 0, sessionPresent: true })
    expect(await client.subscribe('$share/3/x')).toBe(0x97)
    await client.unsubscribe('$share/2/x')
    expect(await client.subscribe('$share/3/x')).toBe(0)
    expect(world.server.state.usage.user('ada')).toMatchObject({ sessions: 2, subscriptions: 4 })
  })
})

describe('limits that are exceeded already', () => {
  it('are reported in one sentence each, and nothing is removed', async () => {
    const world = await made({})
    const client = await world.connect(
      'a',
      ada({ will: { topic: 'w', payload: Buffer.from('x'), qos: 0, retain: false } }),
    )
    await world.connect('b', ada())
    for (const filter of ['1', '2', '$share/1/x', '$share/2/x']) await client.subscribe(filter)
    for (const topic of ['1', '2', '3']) await client.publish(topic, 'x', 0, { retain: true })
    const told = (limits: Partial<Limits>): string[] => exceededLimits(world.server.state, limitsWith(limits))
    expect(told({})).toEqual([])
    expect(exceededLimits(world.server.state, PROFILES.internet)).toEqual([])
    expect(told({ sessionsMax: 1, retainedMessagesMax: 2, shareGroupsPerUserMax: 1 })).toEqual([
      'There are 2 Sessions, more than limits.sessions_max allows, 1; they stay, and new ones are refused.',
      'There are 3 retained messages, more than limits.retained_messages_max allows, 2; ' +
        'they stay, and new ones are refused.',
      '1 user has more groups than limits.share_groups_per_user_max allows, 1 (at most 2); ' +
        'they stay, and new ones are refused.',
    ])
    const lines = told({
      connectionsPerUserMax: 1,
      sessionsPerUserMax: 1,
      subscriptionsPerUserMax: 1,
      retainedMessagesPerUserMax: 1,
      subscriptionsPerClientMax: 1,
      sharedSubscriptionsPerClientMax: 1,
    })
    expect(lines).toHaveLength(6)
  })
})
