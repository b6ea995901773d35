import fc from 'fast-check'
import { describe, expect, it, test } from 'vitest'
import { exactBytes } from '../../../src/broker/accounts/costs.ts'
import { usageOf } from '../../../src/broker/accounts/usage.ts'
import type { AuthenticationResult, Policy } from '../../../src/broker/boundary/policy.ts'
import type { ServerState } from '../../../src/broker/state/server-state.ts'
import { type Recovered, StoreError } from '../../../src/store/store.ts'
import { packet } from '../../mqtt/packets.ts'
import { lasting, type TestClient, World } from '../harness.ts'
import { expectCounted } from '../recount.ts'

/** Lets everybody in under the given name, without a password. */
const named: Policy = {
  authenticate: ({ userName }): AuthenticationResult => ({ allow: true, userName: userName ?? null }),
}

const full = () => new StoreError('full', 'no space left', 'Free some.')

/** Returns this state as a store would recover it. */
function stored(state: ServerState): Recovered {
  const sessions = [...state.sessionsById.values()].map((session) => ({
    id: session.id,
    record: session.record(),
    subscriptions: [...session.subscriptions],
    inFlight: [],
    queue: [],
    queueHead: 0,
    lastPacketId: 0,
    inbound: [],
  }))
  const wills = [...state.wills].map(([clientId, { record }]) => [clientId, record] as const)
  const retained = [...state.retained].filter(({ topic }) => !topic.name.startsWith('$SYS'))
  return { brokerTime: 0, wallTime: 0, bootTime: null, doubt: null, sessions, retained, wills }
}

describe('counts that are updated at once', () => {
  test('a client, its user and its address have the same counts', async () => {
    const world = await World.make({ policy: named })
    const { state } = world.server
    const client = await world.connect('c', lasting(100, { username: 'anna' }))
    await client.subscribe('a/b')
    await client.subscribe('$share/g/a/#')
    await client.publish('r', 'x', 0, { retain: true })
    const usage = usageOf(state.sessions.get('c')!)!
    expect(usage).toMatchObject({ name: 'c', connections: 1, sessions: 1, subscriptions: 2 })
    expect(usage.user).toMatchObject({ name: 'anna', connections: 1, sharedSubscriptions: 1 })
    expect(usage.user).toMatchObject({ retainedMessages: 1 })
    expect(usage.address).toMatchObject({ name: '127.0.0.1', connections: 1, sessions: 1, subscriptions: 2 })
    expect(state.usage.client('c')).toBe(usage)
    expect(state.usage.user('anna')).toBe(usage.user)
    expect(state.usage.address('127.0.0.1')).toBe(usage.address)
    await client.vanish()
    expect(usage.address).toMatchObject({ connections: 0, sessions: 1 })
    expectCounted(state, [])
  })

  test('anonymous clients are one user per address; without a known address, one user together', async () => {
    const world = await World.make({ policy: named })
    const { usage } = world.server.state
    const open = async (clientId: string, remoteAddress: string) => {
      const client = world.open(5, { remoteAddress })
      await client.send({ cmd: 'connect', protocolId: 'MQTT', protocolVersion: 5, clientId, keepalive: 0 })
    }
    await open('a', '10.0.0.1')
    await open('b', '10.0.0.2')
    await open('c', '2001:db8::1')
    await open('d', '2001:db8::2')
    usage.forgetUnused()
    expect([...usage.users()].map(({ name, sessions }) => [name, sessions])).toEqual([
      ['(anonymous at 10.0.0.1)', 1],
      ['(anonymous at 10.0.0.2)', 1],
      ['(anonymous at 2001:db8:0:0::/64)', 2],
    ])
    expect(usage.user(null, '2001:db8:0:0:1::')?.connections).toBe(2)
  })

  test('a retained message counts for its author, who may be gone', async () => {
    const world = await World.make({ policy: named })
    const { state } = world.server
    const client = await world.connect('c', { username: 'anna' })
    await client.publish('r', 'one', 0, { retain: true })
    await client.publish('s', 'two', 0, { retain: true })
    await client.vanish()
    expect(state.usage.user('anna')).toMatchObject({ sessions: 0, retainedMessages: 2 })
    const other = await world.connect('d', { username: 'otto' })
    await other.publish('r', 'three', 0, { retain: true })
    expect(state.usage.user('anna')?.retainedMessages).toBe(1)
    expect(state.usage.user('otto')?.retainedMessages).toBe(1)
    await other.publish('s', '', 0, { retain: true })
    expectCounted(state, ['127.0.0.1'])
    expect(state.usage.user('anna')).toBeNull()
  })
})

describe('looks at memory', () => {
  test('one follows the turn in which much came in or was kept, before a second has passed', async () => {
    const world = await World.make()
    const { state } = world.server
    const client = await world.connect('a')
    for (const due of ['bytesReceived', 'entriesMade', 'keptBytes'] as const) {
      await world.pass(2)
      await client.subscribe('t', 1)
      state.memoryWatch.lookAt[due] = 0
      await client.publish('t', 'x', 1)
      expect(state.memoryWatch.lookAt.bytesReceived).toBeGreaterThan(state.counters.bytesReceived)
      expect(state.memoryWatch.lookAt.entriesMade).toBeGreaterThan(state.store.held.made)
      expect(state.memoryWatch.lookAt.keptBytes).toBeGreaterThan(state.usage.total.keptBytes)
    }
  })

  test('tiny retained messages do not outrun the looks', async () => {
    const limits = { memoryBytesMax: 32 * 1024 * 1024, retainedMessagesPerUserMax: 1_000_000 }
    const world = await World.make({ limits })
    const { usage } = world.server.state
    const publisher = await world.connect('p', {}, 4)
    await world.pass(2)
    for (let round = 0; round < 70; round++) {
      const packets = Array.from({ length: 1000 }, (_, n) => packet(0x31, `r/${1000 * round + n}`, 'x'))
      await publisher.bytes(Buffer.concat(packets))
    }
    // 85 % of the memory, and what comes between two looks.
    expect(usage.total.retainedBytes).toBeGreaterThan(24 * 1024 * 1024)
    expect(usage.total.retainedBytes).toBeLessThan(28 * 1024 * 1024)
  })

  test('five clean Sessions that never acknowledge share one copy of a message', async () => {
    const world = await World.make({ limits: { inFlightMax: 10 } })
    const { state } = world.server
    for (const clientId of ['a', 'b', 'c', 'd', 'e']) await (await world.connect(clientId)).subscribe('t', 1)
    const publisher = await world.connect('p')
    for (let i = 0; i < 300; i++) await publisher.publish('t', 'x'.repeat(100_000), 1)
    state.usage.look()
    expect(state.usage.bytes).toBeGreaterThan(30_000_000)
    expect(state.usage.bytes).toBeLessThan(31_000_000)
    // Each counts all messages in full. Its real share is computed when clients have to pay.
    const session = state.sessions.get('a')!
    expect(usageOf(session)!.bytes).toBeGreaterThan(30_000_000)
    expect(exactBytes(session)).toBeGreaterThan(6_000_000)
    expect(exactBytes(session)).toBeLessThan(6_200_000)
    expect(
      state.usage
        .largest('client', 3)
        .map(({ name }) => name)
        .sort(),
    ).not.toContain('p')
    expect(state.usage.largest('user', 1)).toMatchObject([{ name: '(anonymous at 127.0.0.1)' }])
  })

  test('remembered topic names have a small share of memory, as no client could pay for them', async () => {
    const world = await World.make({ limits: { memoryBytesMax: 16 * 1024 ** 2, profile: 'open' } })
    const { topics } = world.server.state
    const client = await world.connect('a')
    for (let i = 0; i < 1000; i++) await client.publish(`${i}/${'x'.repeat(5000)}`, '', 0)
    await world.pass(2)
    expect(topics.bytes).toBeLessThan(1024 ** 2)
    expect(client.closed).toBe(false)
  })

  test('much input leads to a look before a second has passed', async () => {
    const world = await World.make({ limits: { memoryBytesMax: 64 * 1024 ** 2 } })
    const { usage } = world.server.state
    await (await world.connect('a')).subscribe('t', 1)
    await world.pass(2)
    const publisher = await world.connect('p')
    for (let i = 0; i < 1100; i++) await publisher.publish('t', 'x'.repeat(5000), 1)
    expect(usage.bytes).toBeGreaterThan(2_000_000)
  })
})

// ── anything, at any time ──────────────────────────────────────────────────────────────────────────────────

const CLIENTS = ['c0', 'c1', 'c2', 'c3', 'é'.repeat(20)] as const
const USERS = [undefined, 'anna', 'otto', 'anonymous'] as const
const ADDRESSES = ['127.0.0.1', '::ffff:127.0.0.1', '10.0.0.2', '2001:db8::1', '2001:db8::2', ''] as const
const FILTERS = ['a', 'a/+', 'Ω/#', '$share/g/a', '$share/h/a', `long/${'x'.repeat(300)}`] as const
const TOPICS = ['a', 'b/Ω', 'w'] as const

type Step =
  | {
      do: 'connect'
      who: number
      user: number
      from: number
      clean: boolean
      will: boolean
      expiry: number
      delay: number
    }
  | { do: 'vanish' | 'disconnect' | 'violate'; who: number }
  | { do: 'subscribe' | 'unsubscribe'; who: number; filter: number; qos: number }
  | { do: 'retain'; who: number; topic: number; bytes: number; expiry: number }
  | { do: 'publish'; who: number; topic: number; qos: number; count: number }
  | { do: 'drain'; who: number }
  | { do: 'own'; user: number; id: number }
  | { do: 'delete'; who: number }
  | { do: 'stranger'; from: number }
  | { do: 'pass'; seconds: number }
  | { do: 'lose' | 'restart' }

const who = fc.nat({ max: CLIENTS.length - 1 })
const one = <const T extends string>(name: T) => fc.constant(name)
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      do: one('connect'),
      who,
      user: fc.nat({ max: USERS.length - 1 }),
      from: fc.nat({ max: ADDRESSES.length - 1 }),
      clean: fc.boolean(),
      will: fc.boolean(),
      expiry: fc.constantFrom(0, 5, 1000),
      delay: fc.constantFrom(0, 3, 1000),
    }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constantFrom('vanish', 'disconnect', 'violate'), who }) },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constantFrom('subscribe', 'subscribe', 'unsubscribe'),
      who,
      filter: fc.nat({ max: FILTERS.length - 1 }),
      qos: fc.nat({ max: 2 }),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      do: one('retain'),
      who,
      topic: fc.nat({ max: 2 }),
      bytes: fc.constantFrom(0, 1, 2000),
      expiry: fc.constantFrom(0, 2),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      do: one('publish'),
      who,
      topic: fc.nat({ max: 2 }),
      qos: fc.nat({ max: 2 }),
      count: fc.constantFrom(1, 30),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: one('drain'), who }) },
  { weight: 1, arbitrary: fc.record({ do: one('own'), user: fc.nat({ max: 3 }), id: fc.nat({ max: 2 }) }) },
  { weight: 1, arbitrary: fc.record({ do: one('delete'), who }) },
  { weight: 2, arbitrary: fc.record({ do: one('stranger'), from: fc.nat({ max: ADDRESSES.length - 1 }) }) },
  { weight: 2, arbitrary: fc.record({ do: one('pass'), seconds: fc.constantFrom(1, 4, 60) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constantFrom('lose', 'restart') }) },
)

class Run {
  world: World
  clients: (TestClient | null)[] = CLIENTS.map(() => null)
  /** Connections that never send CONNECT. */
  strangers: TestClient[] = []
  all: TestClient[] = []

  constructor(world: World) {
    this.world = world
  }

  async take(next: Step): Promise<void> {
    const { state } = this.world.server
    switch (next.do) {
      case 'connect':
        await this.#connect(next)
        break
      case 'stranger':
        this.all.push(this.world.open(5, { remoteAddress: ADDRESSES[next.from]! }))
        break
      case 'own':
        if (USERS[next.user] !== undefined)
          this.world.server.adopt(new Map([[USERS[next.user]!, `id${next.id}`]]))
        break
      case 'delete':
        this.world.server.inventory.endSession(CLIENTS[next.who]!)
        break
      case 'pass':
        await this.world.pass(next.seconds)
        break
      case 'lose':
        // Without Sessions that end with their connections, as on the disk.
        this.world.ledger.recovered = stored(state)
        this.world.ledger.fail(full())
        break
      case 'restart': {
        const recovered = stored(state)
        this.world = await World.make({ policy: named }, ({ ledger }) => {
          ledger.recovered = recovered
        })
        this.all = []
        this.clients = CLIENTS.map(() => null)
        break
      }
      default:
        await this.#online(next)
    }
    await this.world.settle()
    const open = this.all
      .filter(({ closed }) => !closed)
      .map(({ link }) => networkName(link.info.remoteAddress))
    expectCounted(this.world.server.state, open)
  }

  async #connect(next: Extract<Step, { do: 'connect' }>): Promise<void> {
    const client = this.world.open(5, { remoteAddress: ADDRESSES[next.from]! })
    this.all.push(client)
    this.clients[next.who] = client
    const username = USERS[next.user]
    const properties = { willDelayInterval: next.delay }
    const will = { topic: 'w', payload: 'gone', qos: 0, retain: true, properties }
    await client.send({
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: 5,
      clientId: CLIENTS[next.who]!,
      clean: next.clean,
      keepalive: 0,
      properties: { sessionExpiryInterval: next.expiry },
      ...(username !== undefined && { username }),
      ...(next.will && { will }),
    })
  }

  async #online(next: Exclude<Step, { do: 'connect' | 'stranger' | 'own' | 'pass' }>): Promise<void> {
    const client = 'who' in next ? this.clients[next.who] : null
    if (client == null || client.closed) return
    if (next.do === 'vanish') await client.vanish()
    else if (next.do === 'violate') await client.bytes(Buffer.from('20020000', 'hex'))
    else if (next.do === 'disconnect') await client.send({ cmd: 'disconnect', reasonCode: 0 })
    else if (next.do === 'subscribe') await client.subscribe(FILTERS[next.filter]!, next.qos as 0 | 1 | 2)
    else if (next.do === 'unsubscribe') await client.unsubscribe(FILTERS[next.filter]!)
    else if (next.do === 'drain') await client.drain()
    else if (next.do === 'publish') {
      const text = 'x'.repeat(next.count)
      for (let i = 0; i < next.count; i++)
        await client.publish(TOPICS[next.topic]!, text, next.qos as 0 | 1 | 2)
    } else if (next.do === 'retain') {
      const properties = next.expiry === 0 ? {} : { messageExpiryInterval: next.expiry }
      await client.publish(TOPICS[next.topic]!, 'x'.repeat(next.bytes), 0, { retain: true, properties })
    }
  }
}

function networkName(address: string): string {
  if (address === '') return 'local'
  if (address.startsWith('::ffff:')) return '127.0.0.1'
  return address.startsWith('2001') ? '2001:db8:0:0::/64' : address
}

/** Recounts after each step, and at the end, when no client is left. */
async function takeAll(steps: readonly Step[]): Promise<void> {
  const run = new Run(await World.make({ policy: named, limits: { inFlightMax: 10 } }))
  for (const next of steps) await run.take(next)
  for (const client of run.all) if (!client.closed) await client.vanish()
  for (const clientId of CLIENTS) run.world.server.inventory.endSession(clientId)
  await run.world.pass(2000)
  const { state } = run.world.server
  for (const { topic } of [...state.retained]) run.world.server.inventory.clearRetained(topic.name)
  expectCounted(state, [])
  expect([...state.usage.users(), ...state.usage.addresses(), ...state.usage.clients()]).toEqual([])
  expect(state.usage.total.bytes).toBe(0)
  expect(state.store.held.bytes).toBe(0)
}

it('whatever happens, the counts are those of a recount', async () => {
  const sequences = fc.array(step, { minLength: 10, maxLength: 60 })
  await fc.assert(fc.asyncProperty(sequences, takeAll), { numRuns: 200 })
})

it('a group stays with the anonymous user of its address when the client moves to another one', async () => {
  const connect = {
    do: 'connect',
    who: 2,
    user: 0,
    clean: false,
    will: false,
    expiry: 1000,
    delay: 0,
  } as const
  await takeAll([
    { ...connect, from: 2 },
    { do: 'subscribe', who: 2, filter: 3, qos: 0 },
    { ...connect, from: 0 },
    { do: 'pass', seconds: 60 },
  ])
})
