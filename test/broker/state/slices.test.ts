/**
 * The work of one packet or event is done in slices, counted in units, so that others need not wait for all
 * of it.
 */
import { describe, expect, it } from 'vitest'
import { SLICE_UNITS } from '../../../src/broker/state/work.ts'
import { type Given, lasting, type TestClient, World, type WorldOptions } from '../harness.ts'

/**
 * Units that a turn may take: a slice for continuations, and as much for work that shows its size only when
 * done.
 */
const TURN_UNITS_MAX = 4 * SLICE_UNITS

const UNLIMITED = {
  topicBytesMax: 65_535,
  topicLevelsMax: Number.POSITIVE_INFINITY,
  subscriptionsPerClientMax: Number.POSITIVE_INFINITY,
  retainedMessagesMax: Number.POSITIVE_INFINITY,
  controlPacketBytesMax: 16 * 1024 * 1024,
} as const

/** A world that measures the work of its longest turn since `begin`. */
async function watched(options: WorldOptions = {}): Promise<{ world: World; turns: Turns }> {
  const world = await World.make({ ...options, limits: { ...UNLIMITED, ...options.limits } })
  return { world, turns: new Turns(world) }
}

class Turns {
  /** Units of the longest turn, and the number of turns. */
  most = 0
  count = 0
  readonly #world: World
  #from: number

  constructor(world: World) {
    this.#world = world
    this.#from = world.server.state.work.units
    const { ledger } = world
    const commit = ledger.commit.bind(ledger)
    ledger.commit = () => {
      this.#ended()
      commit()
    }
  }

  begin(): void {
    this.#from = this.#world.server.state.work.units
    this.most = 0
    this.count = 0
  }

  #ended(): void {
    const { units } = this.#world.server.state.work
    this.most = Math.max(this.most, units - this.#from)
    this.#from = units
    this.count++
  }

  /** Expects that the work since `begin` took more than one slice, and no turn too long. */
  expectSlices(unitsMax = TURN_UNITS_MAX): void {
    expect(this.count).toBeGreaterThan(2)
    expect(this.most).toBeLessThanOrEqual(unitsMax)
  }
}

/** Makes several clients active, so that turns are short. */
async function bystander(world: World): Promise<TestClient> {
  const client = await world.connect('bystander')
  await client.subscribe('by', 0)
  return client
}

function subscribe(filters: readonly string[], qos = 0): Given {
  const subscriptions = filters.map((topic) => ({ topic, qos, nl: false, rap: false, rh: 0 }))
  return { cmd: 'subscribe', messageId: 1, subscriptions }
}

function numbered(count: number): string[] {
  return Array.from({ length: count }, (_, index) => `f/${index}`)
}

/** Returns all filters of this many levels made of `a` and `+`. */
function crossed(levels: number): string[] {
  return Array.from({ length: 2 ** levels }, (_, bits) =>
    Array.from({ length: levels }, (__, level) => ((bits >> level) & 1 ? '+' : 'a')).join('/'),
  )
}

describe('SUBSCRIBE and UNSUBSCRIBE', () => {
  it('with filters of very many levels look at long retained topic names in slices', async () => {
    const { world, turns } = await watched()
    const publisher = await world.connect('publisher')
    const name = '/x'.repeat(14_900)
    for (let index = 0; index < 100; index++)
      await publisher.publish(`${name}/${index}`, 'kept', 0, { retain: true })
    const client = await world.connect('client')
    turns.begin()
    const filters = Array.from({ length: 14 }, (_, index) => `${'+/'.repeat(14_902 + index)}+`)
    const [suback, ...kept] = await client.send(subscribe([...filters, `${'+/'.repeat(14_901)}+`]))
    expect(suback).toMatchObject({ cmd: 'suback' })
    expect(world.server.retainedDeliveries).toBe(0)
    turns.expectSlices()
    expect(kept.length).toBe(100)
  })

  it('of a MiB are read, checked and handled in slices, however long the filters are', async () => {
    const { world, turns } = await watched()
    await bystander(world)
    for (const filters of [
      Array.from({ length: 32 }, (_, index) => `${index}${'/+'.repeat(16_000)}`),
      numbered(40_000),
    ]) {
      const client = await world.connect('client')
      turns.begin()
      await client.send(subscribe(filters))
      turns.expectSlices()
      expect(client.got()).toEqual([])
      expect(world.server.state.router.subscriptionCount).toBe(1 + filters.length)
      turns.begin()
      await client.send({ cmd: 'unsubscribe', messageId: 2, unsubscriptions: filters })
      turns.expectSlices()
      expect(world.server.state.router.subscriptionCount).toBe(1)
      await client.vanish()
    }
  })

  it('do nothing if the last of many filters is invalid, and say so first', async () => {
    const { world } = await watched()
    const client = await world.connect('client')
    const got = await client.send(subscribe([...numbered(20_000), 'no/#/filter']))
    expect(got).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x8f }])
    expect(world.census()).toMatchObject({ subscriptions: 0, nodes: 0 })
  })

  it('keep a copy of the packet, since its memory is used for others between two slices', async () => {
    const { world } = await watched()
    const client = await world.connect('client')
    const filters = numbered(20_000)
    const { generate } = (await import('mqtt-packet')).default
    const bytes = generate(subscribe(filters) as never, { protocolVersion: 5 })
    client.link.handler!.received(bytes)
    bytes.fill(0xff)
    await world.settle()
    expect(client.got()).toMatchObject([{ cmd: 'suback' }])
    const session = world.server.state.sessions.get('client')!
    expect([...session.subscriptions.keys()]).toEqual(filters)
  })

  it('free the memory of the packet when they are done', async () => {
    const { world } = await watched()
    const client = await world.connect('client')
    const { generate } = (await import('mqtt-packet')).default
    client.link.handler!.received(generate(subscribe(numbered(20_000)) as never, { protocolVersion: 5 }))
    const connection = world.server.state.connected.get(world.server.state.sessions.get('client')!)!
    expect(connection.heldBytes).toBeGreaterThan(100_000)
    await world.settle()
    expect(connection.heldBytes).toBe(0)
  })
})

describe('the end of a Session', () => {
  it('with very many Subscriptions takes effect at once, and removes them in slices', async () => {
    const { world, turns } = await watched()
    const publisher = await bystander(world)
    const client = await world.connect('client')
    await client.send(subscribe(numbered(50_000)))
    const { router, sessions, counters } = world.server.state
    turns.begin()
    client.link.handler!.received(Buffer.from([0xe0, 0]))
    expect(sessions.get('client')).toBeUndefined()
    expect(router.subscriptionCount).toBeGreaterThan(40_000)
    // It gets nothing more, and there is nobody else.
    const before = counters.publishDropped
    await publisher.send()
    publisher.link.handler!.received(Buffer.from([0x32, 9, 0, 3, 0x66, 0x2f, 0x31, 0, 1, 0, 0x78]))
    const again = world.open(5)
    await again.send({
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: 5,
      clientId: 'client',
      clean: true,
    })
    expect(publisher.got()).toMatchObject([{ cmd: 'puback', reasonCode: 0x10 }])
    expect(again.got().length + counters.publishDropped - before).toBe(0)
    await again.subscribe('f/1', 1)
    await publisher.publish('f/1', 'new', 1)
    expect(again.texts()).toEqual(['new'])
    turns.expectSlices()
    expect(router.subscriptionCount).toBe(2)
  })

  it('that is stored is kept under another name until nothing is left of it', async () => {
    const { world, turns } = await watched()
    await bystander(world)
    const client = await world.connect('client', lasting())
    await client.send(subscribe(numbered(5000), 1))
    turns.begin()
    await world.connect('client')
    const { lines } = world.ledger
    const kept = lines.indexOf('putSession 1 \0ended 1')
    const deleted = lines.indexOf('deleteSession 1 holding 0')
    expect(kept).toBeGreaterThan(-1)
    expect(deleted).toBeGreaterThan(kept)
    const taken = lines.slice(kept, deleted).filter((line) => line.startsWith('deleteSubscription 1 '))
    expect(taken.length).toBeGreaterThan(3000)
    turns.expectSlices()
    expect(world.census()).toMatchObject({ sessionsById: 0, subscriptions: 1 })
  })

  it('gives many messages of a Shared Subscription to others in slices, each once and in order', async () => {
    const { world, turns } = await watched()
    const publisher = await bystander(world)
    const share = '$share/group/s'
    const first = await world.connect('first', lasting())
    await first.subscribe(share, 1)
    await first.vanish()
    const texts = Array.from({ length: 5000 }, (_, index) => `${index}`)
    for (const text of texts) await publisher.publish('s', text, 1)
    const second = await world.connect(
      'second',
      lasting(1000, { properties: { sessionExpiryInterval: 1000, receiveMaximum: 1 } }),
    )
    await second.subscribe('other', 1)
    await publisher.publish('other', 'busy', 1)
    await second.subscribe(share, 1)
    expect(second.got()).toMatchObject([{ cmd: 'publish' }])
    turns.begin()
    await world.connect('first')
    turns.expectSlices()
    const { lines } = world.ledger
    expect(lines.filter((line) => line === 'dropped 1').length).toBe(5000)
    expect(world.server.state.sessions.get('second')!.queueLength).toBe(5000)
    second.link.packets.length = 0
    expect((await second.send({ cmd: 'puback', messageId: 1 })).length).toBe(1)
    second.link.packets.length = 0
    await second.vanish()
    const back = await world.connect('second', lasting())
    expect(await back.drain()).toEqual(texts)
  })
})

describe('very many deadlines that are due at once', () => {
  it('expired retained messages are neither sent nor counted, and are deleted in slices', async () => {
    const { world, turns } = await watched({ limits: { retainedMessagesMax: 20_000 } })
    const publisher = await bystander(world)
    const properties = { messageExpiryInterval: 10 }
    for (let index = 0; index < 20_000; index++)
      await publisher.publish(`t/${index}`, 'x', 0, { retain: true, properties })
    const { state } = world.server
    expect(state.retained.count).toBe(20_000)
    world.monotonic += 10_500
    turns.begin()
    world.server.tick()
    publisher.got()
    // They are judged, but none of them is deleted yet.
    expect(state.retained.count).toBe(20_000)
    const client = await world.connect('client')
    await client.subscribe('t/#', 0)
    await publisher.publish('new', 'x', 1, { retain: true })
    expect(publisher.got()).toMatchObject([])
    await world.settle()
    expect([state.retained.count, client.texts()]).toEqual([1, []])
    expect(state.counters.limits.retainedMessagesMax).toBe(0)
    turns.expectSlices()
  })

  it('expired messages of a Shared Subscription are dropped in slices; others get the rest', async () => {
    const { world, turns } = await watched({ limits: { profile: 'open' } })
    const away = await world.connect('away', lasting())
    await away.subscribe('$share/g/t', 1)
    await away.vanish()
    const expiresAt = world.server.state.now() + 2000
    const publish = (text: string, fields = {}): void => {
      const payload = Buffer.from(text)
      void world.server.publish({ topic: 't', payload, qos: 1, retain: false, publisher: '', ...fields })
    }
    for (let at = 0; at < 20_000; at++) publish(`${at}`, { expiresAt })
    for (const text of ['a', 'b']) publish(text)
    const other = await world.connect('other', lasting())
    await bystander(world)
    await world.settle()
    turns.begin()
    await world.pass(1.9)
    world.monotonic += 200
    // Nothing was dropped so far: a new member finds the messages, and newer ones are queued behind them.
    const joined = other.subscribe('$share/g/t', 1)
    publish('c')
    await joined
    turns.expectSlices()
    expect(await other.drain()).toEqual(['a', 'b', 'c'])
    expect(world.server.state.sessions.get('away')!.queueLength).toBe(0)
  })

  it('the limit on bytes does not count expired messages that are not deleted yet', async () => {
    const { world } = await watched({ limits: { retainedBytesMax: 1024 * 1024 } })
    const publisher = await bystander(world)
    const properties = { messageExpiryInterval: 10 }
    const payload = 'x'.repeat(1000)
    for (let index = 0; index < 1000; index++)
      await publisher.publish(`t/${index}`, payload, 0, { retain: true, properties })
    world.monotonic += 10_500
    const puback = await publisher.publish('large', 'x'.repeat(900_000), 1, { retain: true })
    expect(puback).toMatchObject([{ cmd: 'puback', reasonCode: 0x10 }])
    expect(world.server.state.counters.limits.retainedBytesMax).toBe(0)
  })

  it('Sessions and Wills that are due are gone for a client that connects before their turn', async () => {
    const { world, turns } = await watched({ limits: { willGraceSeconds: 0 } })
    const watcher = await bystander(world)
    await watcher.subscribe('will/#', 0)
    const will = {
      topic: 'will/x',
      payload: 'lost',
      qos: 0,
      retain: false,
      properties: { willDelayInterval: 100 },
    }
    for (let index = 0; index < 3000; index++) {
      const client = await world.connect(`c${index}`, lasting(10, { will }))
      await client.subscribe(`own/${index}`, 1)
      client.link.destroy()
    }
    await world.settle()
    const { state } = world.server
    expect(state.sessions.size).toBe(3001)
    world.monotonic += 10_500
    turns.begin()
    world.server.tick()
    // The one that is due last connects after some of them are gone.
    while (state.sessions.size === 3001) await world.turn()
    expect(state.sessions.size).toBeGreaterThan(1000)
    const back = world.open(5)
    const connect = {
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: 5,
      clean: false,
      clientId: 'c2999',
    }
    expect((await back.send(connect)).at(0)).toMatchObject({ cmd: 'connack', sessionPresent: false })
    await world.settle()
    expect(watcher.texts().length).toBe(3000)
    expect(state.counters.clientsExpired).toBe(3000)
    expect(state.sessions.size).toBe(2)
    turns.expectSlices()
  })
})

describe('very many clients that leave at once', () => {
  /** As one pass of the event loop finds their ends. */
  function leave(clients: readonly TestClient[]): void {
    for (const { link } of clients) link.handler!.ended(undefined)
  }

  it('are gone turn by turn, with their Wills; one that is back before its turn resumes', async () => {
    const { world, turns } = await watched({ limits: { connectionsPerAddressMax: Number.POSITIVE_INFINITY } })
    const reader = await world.connect('reader')
    await reader.subscribe('will')
    const clients: TestClient[] = []
    for (let index = 0; index < 1500; index++) {
      const will = { topic: 'will', payload: Buffer.from(`${index}`), qos: 0, retain: false }
      clients.push(await world.connect(`c${index}`, { ...lasting(), will }))
    }
    await world.settle()
    const { counters, turn } = world.server.state
    turns.begin()
    turn.begin()
    leave(clients)
    const leftAtOnce = 1501 - counters.clientsConnected
    expect(leftAtOnce).toBeLessThanOrEqual(251)
    const back = await world.connect('c1499', lasting())
    expect(back.connack).toMatchObject({ sessionPresent: true })
    await world.settle()
    turns.expectSlices(11 * SLICE_UNITS)
    expect(counters.clientsConnected).toBe(2)
    expect(
      reader
        .texts()
        .map(Number)
        .sort((one, other) => one - other),
    ).toEqual([...clients.keys()])
  })

  it('are gone turn by turn, too, when they have not logged in yet', async () => {
    const { world, turns } = await watched()
    const before = world.census()
    const strangers = Array.from({ length: 1500 }, () => world.open(5))
    await world.settle()
    turns.begin()
    world.server.state.turn.begin()
    leave(strangers)
    expect(strangers.filter(({ link }) => link.ended).length).toBeLessThanOrEqual(251)
    await world.settle()
    turns.expectSlices(11 * SLICE_UNITS)
    expect(strangers.every(({ link }) => link.ended)).toBe(true)
    expect(world.census()).toEqual(before)
  })
})

describe('a topic that thousands of filters match', () => {
  it('is looked up in slices for a PUBLISH, while others are served', async () => {
    const { world, turns } = await watched()
    await bystander(world)
    const client = await world.connect('client')
    await client.send(subscribe(crossed(14)))
    const other = await world.connect('other')
    const publisher = await world.connect('publisher')
    turns.begin()
    const bytes = Buffer.concat([
      Buffer.from([0x30, 31, 0, 27]),
      Buffer.from(`${'a/'.repeat(13)}a`),
      Buffer.from([0, 0x78]),
    ])
    publisher.link.handler!.received(bytes)
    other.link.handler!.received(Buffer.from([0xc0, 0]))
    await world.turn()
    await world.turn()
    expect(other.got()).toMatchObject([{ cmd: 'pingresp' }])
    expect(client.got()).toEqual([])
    await world.settle()
    expect(client.texts()).toEqual(['x'])
    turns.expectSlices()
  })

  it('is looked up in slices for a Will, which stays stored until then', async () => {
    const { world, turns } = await watched()
    await bystander(world)
    const client = await world.connect('client')
    await client.send(subscribe(crossed(14)))
    const topic = `${'a/'.repeat(13)}a`
    const dying = await world.connect('dying', { will: { topic, payload: 'lost', qos: 1, retain: false } })
    turns.begin()
    dying.link.destroy()
    await world.turn()
    expect(world.ledger.lines).not.toContain('deleteWill dying')
    await world.settle()
    expect(client.texts()).toEqual(['lost'])
    expect(world.ledger.lines).toContain('deleteWill dying')
    turns.expectSlices()
  })
})

describe('a change of rights', () => {
  it('asks about very many Subscriptions in slices, even if the client connects meanwhile', async () => {
    const { world, turns } = await watched()
    await bystander(world)
    const client = await world.connect('client', lasting())
    await client.send(subscribe(numbered(5000), 1))
    await client.vanish()
    turns.begin()
    let isAway = true
    world.server.usePolicy({ authorizeSubscribe: ({ clientId }) => clientId === 'bystander' || !isAway })
    await world.settle()
    expect(world.server.suspendedCount).toBe(5000)
    isAway = false
    turns.expectSlices()
    turns.begin()
    await world.connect('client', lasting(1000, { clean: false }))
    expect(world.server.suspendedCount).toBe(0)
    turns.expectSlices()
  })

  it('ends very many Sessions in slices', async () => {
    const { world, turns } = await watched()
    await bystander(world)
    for (let index = 0; index < 40; index++) {
      const client = await world.connect(`c${index}`)
      await client.send(subscribe(numbered(1000)))
    }
    turns.begin()
    world.server.usePolicy({}, ({ clientId }) => clientId !== 'bystander')
    expect(world.server.state.sessions.size).toBe(1)
    await world.settle()
    expect(world.server.state.router.subscriptionCount).toBe(1)
    // No other client is active: several Sessions get a slice in one turn.
    turns.expectSlices(12 * SLICE_UNITS)
  })
})
