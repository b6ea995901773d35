import { describe, expect, it } from 'vitest'
import { COSTS, retainedBytes } from '../../src/broker/accounts/costs.ts'
import { Reason } from '../../src/mqtt/reason.ts'
import { type Recovered, StoreError } from '../../src/store/store.ts'
import { connectPacket, lasting, textsOf, World } from './harness.ts'

const EMPTY: Recovered = {
  brokerTime: 0,
  wallTime: 0,
  bootTime: null,
  doubt: null,
  sessions: [],
  retained: [],
  wills: [],
}
const full = () => new StoreError('full', 'no space left', 'Free some.')
const will = { topic: 'will', payload: Buffer.from('lost'), qos: 1, retain: false }

describe('health', () => {
  it('is reported once per change: refusing while the store refuses, then ok again', async () => {
    const world = await World.make()
    const told = world.record('health')
    expect(world.server.health).toEqual({ state: 'ok', detail: '' })
    world.server.tick()
    world.ledger.refusal = 'the disk is nearly full'
    for (let count = 0; count < 3; count++) world.server.tick()
    world.ledger.refusal = 'the disk is fuller still'
    world.server.tick()
    expect(world.server.health).toEqual({ state: 'refusing', detail: 'the disk is fuller still' })
    world.ledger.refusal = null
    for (let count = 0; count < 3; count++) world.server.tick()
    expect(told).toEqual([
      { state: 'refusing', detail: 'the disk is nearly full', before: 'ok' },
      { state: 'ok', detail: '', before: 'refusing' },
    ])
  })
})

describe('shutdown', () => {
  it('5.0 clients get 0x8B, others are closed, after all pending output is committed and sent', async () => {
    const world = await World.make()
    const sub = await world.connect('sub', lasting())
    await sub.subscribe('t', 1)
    const pub = await world.connect('pub')
    const old = await world.connect('old', {}, 4)
    const silent = world.open()
    const exchanging = world.open()
    world.ledger.automatic = false
    await pub.publish('t', 'x', 1)
    const stopped = world.server.stop(new Promise(() => {}))
    await world.settle()
    expect([sub.closed, pub.closed, old.closed, silent.closed]).toEqual([false, false, true, true])
    while (await world.commit());
    await stopped
    expect(pub.got()).toMatchObject([{ cmd: 'puback' }, { cmd: 'disconnect', reasonCode: 0x8b }])
    expect(sub.got()).toMatchObject([{ cmd: 'publish' }, { cmd: 'disconnect', reasonCode: 0x8b }])
    expect([old.got(), silent.got(), exchanging.got()]).toEqual([[], [], []])
    expect(world.server.accept(silent.link)).toBeNull()
  })

  it('a reader that takes nothing delays it for no longer than the time-out', async () => {
    const world = await World.make()
    const client = await world.connect('a')
    client.link.end = () => {}
    await world.server.stop(Promise.resolve())
    expect(client.link.destroyed).toBe(true)
  })

  it('Wills are deferred to the next start', async () => {
    const world = await World.make()
    const published = world.record('willPublished')
    await world.connect('a', { will })
    await world.connect('b', lasting(10, { will }))
    await world.server.stop(Promise.resolve())
    expect(published).toEqual([])
    expect(world.ledger.lines.filter((line) => line.startsWith('deleteWill'))).toEqual([])
    expect(world.census()).toMatchObject({ deadlines: 0 })
  })

  it('a Will stays stored while a policy still decides about it', async () => {
    let decide: (answer: boolean) => void = () => {}
    let asked = 0
    const world = await World.make({
      policy: {
        authorizePublish: () => (asked++ === 0 ? true : new Promise((resolve) => (decide = resolve))),
      },
    })
    const client = await world.connect('a', { will })
    await client.vanish()
    await world.server.stop(Promise.resolve())
    const lines = world.ledger.lines.length
    decide(true)
    await world.settle()
    expect(world.ledger.lines).toHaveLength(lines)
    expect(world.ledger.lines.filter((line) => line.startsWith('deleteWill'))).toEqual([])
  })

  it('a client that is authenticating is told that the Server is unavailable', async () => {
    const world = await World.make({ policy: { authenticate: () => new Promise(() => {}) } })
    const client = world.open(5)
    await client.send(connectPacket('a'))
    const stopped = world.server.stop(new Promise(() => {}))
    await world.settle()
    await stopped
    expect(client.got()).toMatchObject([{ cmd: 'connack', reasonCode: 0x88 }])
  })
})

describe('a failed store', () => {
  it('an I/O error is fatal, and promises of this process reject', async () => {
    const world = await World.make()
    const sub = await world.connect('sub', lasting())
    await sub.subscribe('t', 1)
    world.ledger.automatic = false
    const fields = { topic: 't', payload: Buffer.from('x'), qos: 1, retain: false, publisher: '' } as const
    const promise = world.server.publish(fields)
    const outcome = promise.then(
      () => 'kept',
      (error: Error) => error.message,
    )
    await world.settle()
    const events = world.record('storeFailed')
    world.ledger.fail(new StoreError('io', 'bad sector', 'Replace it.'))
    expect(await outcome).toBe('bad sector')
    expect(world.fatal).toMatchObject({ message: 'bad sector' })
    expect(events).toHaveLength(1)
  })

  it('a full disk closes connections that depend on it with 0x97, and the store is read again', async () => {
    const world = await World.make()
    const kept = await world.connect('kept', lasting())
    await kept.subscribe('t', 1)
    const live = await world.connect('live')
    await live.subscribe('t', 1)
    const pub = await world.connect('pub')
    const old = await world.connect('old', {}, 4)
    world.ledger.automatic = false
    expect(await pub.publish('t', 'unacknowledged', 1)).toEqual([])
    await old.publish('t', 'unacknowledged', 1)
    world.ledger.recovered = {
      ...EMPTY,
      brokerTime: 1,
      wallTime: world.wall,
      sessions: [
        {
          id: 1,
          record: { clientId: 'kept', owner: null, ownerId: null, expirySeconds: 1000, disconnectedAt: 0 },
          subscriptions: [
            ['t', { qos: 1, noLocal: false, retainAsPublished: false, retainHandling: 0, identifier: 0 }],
          ],
          inFlight: [],
          queue: [],
          queueHead: 0,
          lastPacketId: 0,
          inbound: [],
        },
      ],
    }
    const recovered = world.record('storeRecovered')
    world.ledger.fail(full())
    const early = await world.connect('early')
    expect(early.connack).toMatchObject({ reasonCode: 0x88 })
    await world.settle()
    expect(pub.got()).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x97 }])
    expect(old.got()).toEqual([])
    expect(kept.got()).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x97 }])
    expect([pub.closed, old.closed, kept.closed]).toEqual([true, true, true])
    expect(recovered).toEqual([{ sessions: 1 }])
    expect(world.fatal).toBeNull()
    // The store was told that the client of `kept` left.
    expect(await world.commit()).toBe(true)
    world.ledger.automatic = true
    const back = await world.connect('kept', lasting())
    expect(back.connack).toMatchObject({ sessionPresent: true })
    const again = await world.connect('pub')
    expect(await again.publish('t', 'again', 1)).toMatchObject([{ cmd: 'puback', reasonCode: 0 }])
    expect(back.texts()).toEqual(['again'])
  })

  it('output that depended on lost records is never sent', async () => {
    const world = await World.make()
    const kept = await world.connect('kept', lasting())
    await kept.subscribe('t', 1)
    const pub = await world.connect('pub')
    world.ledger.automatic = false
    await pub.publish('t', 'x', 1)
    // The client leaves while its PUBACK still waits.
    await pub.send({ cmd: 'disconnect', reasonCode: 0 })
    expect(pub.closed).toBe(false)
    world.ledger.fail(full())
    await world.settle()
    expect(pub.got()).toEqual([])
    expect(pub.closed).toBe(true)
    expect(world.census()).toMatchObject({ connections: 0, waiting: 0 })
  })

  it('messages that would be stored are refused until the store was read again', async () => {
    const world = await World.make({ limits: { whenExhausted: 'refuse' } })
    let opened: () => void = () => {}
    const pub = await world.connect('pub')
    const old = await world.connect('old', {}, 4)
    const sub = await world.connect('sub')
    await sub.subscribe('#', 0)
    const open = world.ledger.open.bind(world.ledger)
    world.ledger.open = async (source) => {
      await new Promise<void>((resolve) => (opened = resolve))
      return open(source)
    }
    world.ledger.fail(full())
    await world.settle()
    expect(await pub.publish('t', 'x', 1)).toMatchObject([{ cmd: 'puback', reasonCode: 0x97 }])
    expect(await pub.publish('t', 'x', 0)).toEqual([])
    expect(sub.texts()).toEqual(['x'])
    await old.publish('t', 'x', 1)
    expect(old.closed).toBe(true)
    opened()
    await world.settle()
    expect(await pub.publish('t', 'x', 1)).toMatchObject([{ cmd: 'puback', reasonCode: 0 }])
  })

  it('a paused publisher goes on when the store is back', async () => {
    const world = await World.make({ limits: { pendingCommitBytesMax: 50 } })
    const pub = await world.connect('pub')
    world.ledger.automatic = false
    await pub.publish('t', 'x', 0, { retain: true })
    expect(pub.link.paused).toBe(true)
    world.ledger.fail(full())
    world.ledger.pendingBytes = 0
    await world.settle()
    expect(pub.closed).toBe(false)
    expect(pub.link.paused).toBe(false)
    expect(world.census()).toMatchObject({ paused: 0 })
  })

  it('the Will of a client without a stored Session survives, and is published later', async () => {
    const world = await World.make()
    const client = await world.connect('a', { will: { ...will, qos: 0 } })
    world.ledger.fail(full())
    await world.settle()
    const sub = await world.connect('sub')
    await sub.subscribe('will', 0)
    await client.vanish()
    expect(sub.texts()).toEqual(['lost'])
  })

  it('a Session that was being read back when the store failed is forgotten without an error', async () => {
    const world = await World.make()
    const kept = await world.connect('kept', lasting())
    await kept.subscribe('t', 1)
    await kept.vanish()
    const pub = await world.connect('pub')
    await pub.publish('t', 'x', 1)
    const delivery = world.server.state.sessions.get('kept')!.queue.at(0)
    delivery.message.evict()
    let fail: (error: Error) => void = () => {}
    world.ledger.restore = () => new Promise((_, reject) => (fail = reject))
    const back = await world.connect('kept', lasting())
    world.ledger.fail(full())
    await world.settle()
    fail(new StoreError('io', 'the store is closed', ''))
    await world.settle()
    expect(world.fatal).toBeNull()
    expect(textsOf(back.got())).toEqual([])
  })

  it('a store on a disk that is too full is opened again and again until there is room', async () => {
    const world = await World.make()
    const { ledger } = world
    const open = ledger.open.bind(ledger)
    let attempts = 0
    ledger.open = () => {
      attempts++
      return Promise.reject(full())
    }
    ledger.fail(full())
    await world.settle()
    for (let second = 0; second < 5; second++) await world.pass(1)
    expect(attempts).toBeGreaterThan(2)
    expect(world.fatal).toBeNull()
    expect((await world.connect('kept', lasting())).connack).toMatchObject({ reasonCode: 0x88 })
    ledger.open = open
    await world.pass(2)
    expect((await world.connect('kept', lasting())).connack).toMatchObject({ reasonCode: 0 })
  })

  it('any other failure while the store is read again is fatal', async () => {
    const world = await World.make()
    world.ledger.open = () => Promise.reject(new StoreError('io', 'the disk failed', ''))
    world.ledger.fail(full())
    await world.settle()
    expect(world.fatal).toMatchObject({ message: 'the disk failed' })
  })
})

describe('time and memory', () => {
  it('memoryBytesMax refuses new work, and accepts it again below nine tenths', async () => {
    const world = await World.make({ limits: { memoryBytesMax: 1_000_000, whenExhausted: 'refuse' } })
    const limited = world.record('limited')
    const pub = await world.connect('pub')
    const sub = await world.connect('sub', lasting())
    await sub.subscribe('t', 1)
    world.ledger.figures.residentBytes = 1_000_001
    await world.pass(2)
    expect(limited).toMatchObject([{ limit: 'memoryBytesMax' }])
    expect(await pub.publish('t', 'x', 1)).toMatchObject([{ cmd: 'puback', reasonCode: 0x97 }])
    expect((await world.connect('new')).connack).toMatchObject({ reasonCode: 0x89 })
    await sub.vanish()
    expect((await world.connect('sub', lasting())).connack).toMatchObject({ reasonCode: 0 })
    expect(await pub.publish('u', 'x', 1)).toMatchObject([{ cmd: 'puback', reasonCode: 0x10 }])
    world.ledger.figures.residentBytes = 950_000
    await world.pass(2)
    expect(await pub.publish('t', 'x', 1)).toMatchObject([{ reasonCode: 0x97 }])
    world.ledger.figures.residentBytes = 800_000
    await world.pass(2)
    expect(await pub.publish('t', 'x', 1)).toMatchObject([{ reasonCode: 0 }])
  })

  it('memory counts waiting output, half a packet, and retained messages with their overhead', async () => {
    const world = await World.make()
    const pub = await world.connect('pub')
    const reader = await world.connect('reader')
    await reader.subscribe('t', 0)
    reader.link.stuck = true
    const before = world.server.memoryBytes()
    await pub.publish('t', 'x'.repeat(1000), 0)
    expect(world.server.memoryBytes() - before).toBeGreaterThan(1000)
    const waiting = world.server.memoryBytes()
    await pub.publish('r', 'x'.repeat(1000), 0, { retain: true })
    expect(world.server.memoryBytes() - waiting).toBe(retainedBytes(1001) + COSTS.topic + 1)
    const retained = world.server.memoryBytes()
    await pub.bytes(Buffer.concat([Buffer.from([0x30, 0xe8, 0x07]), Buffer.alloc(500)]))
    expect(world.server.memoryBytes() - retained).toBeGreaterThanOrEqual(500)
  })

  it('memory counts messages that wait for a closed window, also for idle connections', async () => {
    const world = await World.make()
    const pub = await world.connect('pub')
    const reader = await world.connect('reader', { properties: { receiveMaximum: 1 } })
    await reader.subscribe('t', 2)
    await pub.publish('t', 'first', 2)
    await reader.send({ cmd: 'pubrec', messageId: 1 })
    await world.pass(2)
    // Received and not released: only its identifier is left, and no output waits.
    const before = world.server.memoryBytes()
    expect(world.server.memoryBytes()).toBe(before)
    await pub.publish('t', 'x'.repeat(1000), 1)
    expect(world.server.memoryBytes() - before).toBeGreaterThan(1000)
    reader.link.destroy()
    await world.pass(2)
    expect(world.server.memoryBytes()).toBeLessThan(before)
    pub.link.destroy()
    await world.pass(2)
    // A topic name.
    expect(world.server.memoryBytes()).toBe(COSTS.topic + 1)
  })

  it('only active connections are looked at, and none that has gone', async () => {
    const world = await World.make()
    const clients = await Promise.all(['a', 'b', 'c', 'd'].map((clientId) => world.connect(clientId)))
    const { tracked: memoryTracked } = world.server.state.memoryWatch
    expect(memoryTracked.map(({ view }) => view.clientId).sort()).toEqual(['a', 'b', 'c', 'd'])
    clients[1]!.link.destroy()
    await Promise.resolve()
    expect(memoryTracked.map(({ view }) => view.clientId).sort()).toEqual(['a', 'c', 'd'])
    await clients[2]!.bytes(Buffer.from([0x30, 5]))
    world.server.memoryBytes()
    expect(memoryTracked.map(({ view }) => view.clientId)).toEqual(['c'])
    await clients[0]!.publish('t', 'x')
    clients[2]!.link.destroy()
    await Promise.resolve()
    expect(memoryTracked.map(({ view, memoryTrackedIndex }) => [view.clientId, memoryTrackedIndex])).toEqual([
      ['a', 0],
    ])
  })

  it('across a restart time goes on by the wall clock; if the clock went back, no time passed', async () => {
    const session = (expirySeconds: number, disconnectedAt: number, clientId: string, id: number) => ({
      id,
      record: { clientId, owner: null, ownerId: null, expirySeconds, disconnectedAt },
      subscriptions: [],
      inFlight: [],
      queue: [],
      queueHead: 0,
      lastPacketId: 0,
      inbound: [],
    })
    const make = (wallTime: (world: World) => number) =>
      World.make({ limits: { clockGraceSeconds: 0 } }, (world) => {
        world.ledger.recovered = {
          ...EMPTY,
          brokerTime: 50_000,
          wallTime: wallTime(world),
          sessions: [session(100, 40_000, 'a', 3), session(100, 0, 'b', 4), session(5, 40_000, 'c', 5)],
        }
      })
    const later = await make((world) => world.wall - 60_000)
    expect(Array.from(later.server.state.sessions.values(), ({ clientId }) => clientId)).toEqual(['a', 'b'])
    await later.pass(29)
    expect(Array.from(later.server.state.sessions.values(), ({ clientId }) => clientId)).toEqual(['a', 'b'])
    await later.pass(2)
    expect(Array.from(later.server.state.sessions.values(), ({ clientId }) => clientId)).toEqual(['b'])
    // Nobody knows when the broker ended: the client was connected until then, perhaps until now.
    await later.pass(68)
    expect(Array.from(later.server.state.sessions.values(), ({ clientId }) => clientId)).toEqual(['b'])
    await later.pass(2)
    expect(later.census()).toMatchObject({ sessions: 0, sessionsById: 0, deadlines: 0 })
    const back = await make((world) => world.wall + 60_000)
    expect(Array.from(back.server.state.sessions.values(), ({ clientId }) => clientId)).toEqual(['a', 'b'])
    expect(back.ledger.lines).toContain('deleteSession 5 holding 0')
    const next = await back.connect('new', lasting())
    expect(next.connack).toMatchObject({ reasonCode: 0 })
    expect(back.ledger.lines.at(-1)).toBe('putSession 6 new')
  })

  it('disconnect ends a client with the given Reason Code, and tells whether there was one', async () => {
    const world = await World.make()
    const client = await world.connect('a')
    expect(world.server.disconnect('a', Reason.AdministrativeAction, 'by hand')).toBe(true)
    await world.settle()
    expect(client.got()).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x98 }])
    expect(world.server.disconnect('a', Reason.AdministrativeAction, '')).toBe(false)
  })
})

it('a Route does not keep an ended Session in memory, even without another PUBLISH', async () => {
  const world = await World.make()
  const client = await world.connect('c')
  await client.subscribe('a')
  const stays = await world.connect('stays')
  await stays.subscribe('b')
  await stays.publish('a', 'x')
  await stays.publish('b', 'x')
  const { topics } = world.server.state
  const [gone, used] = [topics.intern('a'), topics.intern('b')]
  const { route } = used
  await client.vanish()
  expect(gone.route).not.toBeNull()
  await world.pass(2)
  expect(gone.route).toBeNull()
  expect(used.route).toBe(route)
})
