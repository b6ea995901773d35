import { describe, expect, it } from 'vitest'
import { COSTS } from '../../../src/broker/accounts/costs.ts'
import { Reason } from '../../../src/mqtt/reason.ts'
import { MemoryStore } from '../../../src/store/memory/memory-store.ts'
import { field, packet, properties, uint16 } from '../../mqtt/packets.ts'
import { connectPacket, lasting, type TestClient, World } from '../harness.ts'

const MIB = 1024 * 1024
/** The first byte and the length of a PUBLISH of 24 MB to `t`. */
const LARGE_PUBLISH = Buffer.from([0x30, 0x80, 0xd8, 0xb8, 0x0b, 0, 1, 0x74, 0])

/** Expects that a client can connect, gets messages, and may retain one. */
async function expectService(world: World, name = 'newcomer'): Promise<void> {
  const client = await world.connect(name, lasting(60))
  expect(client.connack).toMatchObject({ reasonCode: 0 })
  expect(await client.subscribe(`${name}/t`, 1)).toBe(1)
  const answers = await client.publish(`${name}/t`, 'here', 1)
  expect(answers.map(({ cmd }) => cmd).sort()).toEqual(['puback', 'publish'])
  await client.drain()
  await client.send({ cmd: 'disconnect', properties: { sessionExpiryInterval: 0 } })
}

/** Looks at memory once. */
async function look(world: World): Promise<void> {
  const { server } = world
  world.monotonic += 1000
  server.state.turn.begin()
  server.relief.look(server.memoryBytes())
  await world.settle()
}

/** Returns the bytes of messages that Sessions keep in memory, each message once. */
function trueBytes(world: World): number {
  const messages = new Set<{ readonly size: number }>()
  for (const session of world.server.state.sessions.values()) {
    for (const message of session.held()) if ('topic' in message) messages.add(message)
  }
  return [...messages].reduce((sum, { size }) => sum + size, 0)
}

describe('clients that hold most of the memory', () => {
  /** Makes five clean Sessions that acknowledge nothing, and publishes messages of 1 MiB. */
  async function unacknowledged(
    messages: number,
  ): Promise<{ world: World; five: TestClient[]; pub: TestClient }> {
    const world = await World.make({ limits: { profile: 'open', memoryBytesMax: 32 * MIB } })
    const five: TestClient[] = []
    for (let number = 0; number < 5; number++) {
      const client = await world.connect(`sub${number}`, { properties: { receiveMaximum: 4 } })
      await client.subscribe('load', 1)
      five.push(client)
    }
    const pub = await world.connect('pub')
    for (let number = 0; number < messages; number++) {
      const [answer] = await pub.publish('load', 'x'.repeat(MIB), 1)
      // Once these Sessions are gone, no Subscription matches.
      expect([Reason.Success, Reason.NoMatchingSubscribers]).toContain(
        answer?.cmd === 'puback' && answer.reasonCode,
      )
      await world.pass(0.25)
      if (number % 10 === 0) await expectService(world)
    }
    return { world, five, pub }
  }

  it('by never acknowledging pay: nobody else is refused, and memory stays within its limit', async () => {
    const { world, five } = await unacknowledged(100)
    expect(trueBytes(world)).toBeLessThan(32 * MIB)
    const { counters } = world.server.state
    expect(counters.connectionsRefused).toBe(0)
    expect(counters.publishRefused).toBe(0)
    expect(counters.relief.capped).toBeGreaterThan(0)
    expect(counters.drops['memory-short']).toBeGreaterThan(0)
    expect(five.every(({ closed }) => closed)).toBe(true)
    expect(five[0]!.got().at(-1)).toMatchObject({ cmd: 'disconnect', reasonCode: 0x97 })
    await expectService(world)
  })

  it('and share messages are counted once: five with 20 MiB in common do not exceed 32', async () => {
    const { world } = await unacknowledged(20)
    expect(world.server.memoryBytes()).toBeGreaterThan(20 * MIB)
    expect(world.server.memoryBytes()).toBeLessThan(21 * MIB)
    expect(world.server.health).toEqual({ state: 'ok', detail: '' })
    expect(world.server.state.counters.relief).toMatchObject({ capped: 0, shed: 0, disconnected: 0 })
  })

  it('are named with advice in events, counters and health, until relief is over', async () => {
    const world = await World.make({ limits: { profile: 'open', memoryBytesMax: 8 * MIB } })
    const relieved = world.record('relieved')
    const health = world.record('health')
    const idle = await world.connect('idle', { properties: { receiveMaximum: 1 } })
    await idle.subscribe('load', 1)
    const pub = await world.connect('pub')
    for (let number = 0; number < 7; number++) await pub.publish('load', 'x'.repeat(MIB), 1)
    await world.pass(0.1)
    expect(world.server.health.state).toBe('pressed')
    expect(world.server.health.detail).toMatch(/those who hold most pay: idle with \d+ MiB/)
    expect(world.server.health.detail).toContain('limits.memory_bytes_max is 8 MiB')
    expect(relieved.map(({ clientId, step, of }) => [clientId, step, of])).toEqual([
      ['idle', 'capped', 'memory'],
    ])
    await idle.drain()
    await world.pass(2.1)
    expect(world.server.health).toEqual({ state: 'ok', detail: '' })
    expect(health.map(({ state }) => state)).toEqual(['pressed', 'ok'])
    expect([...world.server.state.sessions.values()].some(({ queue }) => queue.isCapped)).toBe(false)
  })

  it('pay step by step: the queue stops growing, is dropped, and 0x97 disconnects them', async () => {
    const world = await World.make({ limits: { profile: 'open', memoryBytesMax: 32 * MIB } })
    const steps = world.record('relieved')
    const slow = await world.connect('slow')
    await slow.subscribe('load', 0)
    await slow.subscribe('kept', 1)
    slow.link.stuck = true
    slow.link.lingers = true
    const pub = await world.connect('pub')
    for (let number = 0; number < 4; number++) await pub.publish('load', 'x'.repeat(MIB - 100), 0)
    for (let number = 0; number < 23; number++) await pub.publish('kept', 'x'.repeat(MIB), 1)
    await look(world)
    await look(world)
    expect(steps.map(({ step }) => step)).toEqual(['capped', 'shed'])
    expect(slow.closed).toBe(false)
    expect(world.server.state.counters.drops['memory-short']).toBe(22)
    world.monotonic += 1000
    for (let number = 0; number < 23; number++) await pub.publish('kept', 'x'.repeat(MIB), 1)
    expect(steps.map(({ step }) => step)).toEqual(['capped', 'shed', 'disconnected'])
    expect(slow.got().at(-1)).not.toMatchObject({ cmd: 'disconnect' })
    expect(slow.link.destroyed).toBe(true)
  })

  it('with stored Sessions lose no acknowledged messages; the bodies are only on the disk', async () => {
    const world = await World.make({ limits: { profile: 'open', memoryBytesMax: 8 * MIB } })
    let evicted = 0
    world.ledger.evict = (bytes) => {
      evicted += bytes
      return bytes
    }
    const kept = await world.connect('kept', lasting())
    await kept.subscribe('t', 1)
    await kept.vanish()
    const pub = await world.connect('pub')
    for (let number = 0; number < 12; number++) await pub.publish('t', `${number}`.padEnd(MIB), 1)
    world.ledger.figures.residentBytes = 12 * MIB
    await world.pass(3.1)
    expect(evicted).toBeGreaterThan(0)
    const back = await world.connect('kept', lasting())
    expect((await back.drain()).map((text) => text.trim())).toEqual([...Array(12).keys()].map(String))
    expect(world.server.state.counters.publishDropped).toBe(0)
  })

  it('with stored Sessions in memory have queues that stop growing; nobody else is refused', async () => {
    const world = await World.make({
      limits: { profile: 'open', memoryBytesMax: 32 * MIB },
      store: new MemoryStore(),
    })
    for (const name of ['kept', 'other']) {
      const client = await world.connect(name, lasting())
      await client.subscribe(name, 1)
      await client.vanish()
    }
    const pub = await world.connect('pub')
    for (let number = 0; number < 100; number++) {
      const [answer] = await pub.publish('kept', `${number}`.padEnd(MIB), 1)
      expect(answer).toMatchObject({ cmd: 'puback', reasonCode: 0 })
      await world.pass(0.25)
      if (number % 20 === 0) await expectService(world)
    }
    expect(world.server.memoryBytes()).toBeLessThan(32 * MIB)
    const { counters } = world.server.state
    expect([counters.connectionsRefused, counters.publishRefused, counters.relief.capped]).toEqual([0, 0, 1])
    expect(await pub.publish('other', 'x', 1)).toMatchObject([{ reasonCode: 0 }])
    const back = await world.connect('kept', lasting())
    expect((await back.drain()).at(-1)!.trim()).toBe('99')
  })

  it('that read nothing pay for it: new clients come in', async () => {
    const world = await World.make({ limits: { profile: 'open', memoryBytesMax: 16 * MIB } })
    const readers: TestClient[] = []
    for (let number = 0; number < 5; number++) {
      const reader = await world.connect(`reader${number}`)
      await reader.subscribe('load', 0)
      reader.link.stuck = true
      readers.push(reader)
    }
    const pub = await world.connect('pub')
    for (let second = 0; second < 5; second++) {
      for (let number = 0; number < 10; number++)
        await pub.publish('load', `${second}.${number}`.padEnd(MIB / 5), 0)
      await world.pass(1)
      await expectService(world, `newcomer${second}`)
    }
    expect(world.server.memoryBytes()).toBeLessThan(16 * MIB)
    expect(world.server.state.counters.relief.disconnected).toBeGreaterThan(0)
    expect(readers.some(({ closed }) => closed)).toBe(true)
    expect(readers.every(({ closed }) => closed)).toBe(false)
  })

  it('may be many of one user: the largest pay, its new Sessions get 0x97, others go on', async () => {
    const authenticate = ({ userName }: { userName: string | null | undefined }) =>
      ({ allow: true, userName: userName ?? null }) as const
    const world = await World.make({
      limits: { profile: 'open', memoryBytesMax: 64 * MIB },
      policy: { authenticate },
    })
    const many: TestClient[] = []
    for (let number = 0; number < 600; number++) {
      const client = await world.connect(`many${number}`, {
        username: 'crowd',
        properties: { receiveMaximum: 1 },
      })
      await client.subscribe(`many/${number}`, 1)
      many.push(client)
    }
    const pub = await world.connect('pub', { username: 'pub' })
    for (let number = 0; number < 600; number++) {
      await pub.publish(`many/${number}`, 'x', 1)
      await pub.publish(`many/${number}`, 'x'.repeat(92 * 1024), 1)
    }
    await look(world)
    expect(world.server.health.state).toBe('pressed')
    const refused = world.open()
    const [connack] = await refused.send({ ...connectPacket('another'), properties: {}, username: 'crowd' })
    expect(connack).toMatchObject({ cmd: 'connack', reasonCode: 0x97 })
    const other = await world.connect('other', { username: 'other' })
    expect(other.connack).toMatchObject({ reasonCode: 0 })
    expect(world.server.state.counters.relief['session-refused']).toBe(1)
    expect(many.some(({ closed }) => closed)).toBe(false)
    await world.pass(3.1)
    expect(world.server.health.state).toBe('ok')
    expect(await pub.publish('many/1', 'x', 1)).toMatchObject([{ cmd: 'puback', reasonCode: 0 }])
  })

  it('may all be small, of many users: everybody is refused as a last resort, with the reason', async () => {
    const world = await World.make({
      limits: { profile: 'open', memoryBytesMax: 10_000_000, whenExhausted: 'refuse' },
    })
    world.ledger.figures.residentBytes = 10_000_001
    await world.pass(1.1)
    expect(world.server.health).toMatchObject({ state: 'refusing' })
    expect(world.server.health.detail).toContain('nobody holds much of it')
    expect((await world.connect('new')).connack).toMatchObject({ reasonCode: 0x89 })
    world.ledger.figures.residentBytes = 0
    await world.pass(1.1)
    expect((await world.connect('new')).connack).toMatchObject({ reasonCode: 0 })
  })
})

describe('a client that pays', () => {
  /** `idle` has 7 MiB of 8 and is capped. */
  async function pressed(
    more: { share?: boolean; will?: boolean } = {},
  ): Promise<{ world: World; pub: TestClient; idle: TestClient }> {
    const world = await World.make({ limits: { profile: 'open', memoryBytesMax: 8 * MIB } })
    const will = { topic: 'gone', payload: Buffer.from('idle'), qos: 0, retain: false }
    const idle = await world.connect('idle', {
      properties: { receiveMaximum: 1 },
      ...(more.will === true && { will }),
    })
    await idle.subscribe(more.share === true ? '$share/g/load' : 'load', 1)
    const pub = await world.connect('pub')
    for (let number = 0; number < 7; number++) await pub.publish('load', `${number}`.padEnd(MIB), 1)
    await look(world)
    expect(world.server.state.counters.relief.capped).toBe(1)
    return { world, pub, idle }
  }

  it('is taken over like any other', async () => {
    const { world } = await pressed()
    const again = await world.connect('idle')
    expect(again.connack).toMatchObject({ reasonCode: 0, sessionPresent: false })
    await world.pass(2.1)
    expect(world.server.health.state).toBe('ok')
    expect(world.census()).toMatchObject({ connected: 2 })
  })

  it('has its Will published when it is disconnected', async () => {
    const { world, pub, idle } = await pressed({ will: true })
    const witness = await world.connect('witness')
    await witness.subscribe('gone', 0)
    for (let round = 0; round < 3; round++) {
      world.monotonic += 1000
      for (let number = 0; number < 9; number++) await pub.publish('load', 'x'.repeat(MIB), 1)
    }
    expect(idle.closed).toBe(true)
    expect(idle.got().at(-1)).toMatchObject({ cmd: 'disconnect', reasonCode: 0x97 })
    expect(witness.texts()).toEqual(['idle'])
  })

  it('gives its messages of a Shared Subscription to the other members', async () => {
    const { world } = await pressed({ share: true })
    const other = await world.connect('other')
    await other.subscribe('$share/g/load', 1)
    const texts = await other.drain()
    expect(texts.map((text) => text.trim())).toEqual(['1', '2', '3', '4', '5', '6'])
    expect(world.server.state.counters.publishDropped).toBe(0)
    await world.pass(2.1)
    expect(world.server.health.state).toBe('ok')
  })

  it('is not read from if most of it is what it sends, until there is room', async () => {
    const world = await World.make({
      limits: { profile: 'open', memoryBytesMax: 8 * MIB, memoryIncompletePercent: 90 },
    })
    const paused = world.record('paused')
    const resumed = world.record('resumed')
    const sender = await world.connect('sender')
    await sender.bytes(Buffer.concat([LARGE_PUBLISH, Buffer.alloc(7 * MIB - 10)]))
    await world.pass(1.1)
    expect(sender.link.paused).toBe(true)
    expect(world.server.state.counters.relief.paused).toBe(1)
    expect(paused).toMatchObject([{ clientId: 'sender', reason: 'memory' }])
    Object.assign(world.server.state.limits, { memoryBytesMax: 80 * MIB })
    await world.pass(1.1)
    expect(sender.link.paused).toBe(false)
    expect(resumed).toMatchObject([{ clientId: 'sender' }])
  })
})

/** Returns the counted bytes without those of connections as such. */
function bufferedBytes({ server }: World): number {
  return server.memoryBytes() - server.state.usage.total.connections * COSTS.connection
}

describe('incomplete packets', () => {
  it('200 half-sent PUBLISH packets of 24 MB are bounded as they arrive; others are served', async () => {
    const world = await World.make({ limits: { profile: 'open', memoryBytesMax: 64 * MIB } })
    const senders: TestClient[] = []
    for (let number = 0; number < 200; number++) senders.push(await world.connect(`half${number}`))
    const chunk = Buffer.alloc(128 * 1024)
    let most = 0
    for (let round = 0; round < 20; round++) {
      for (const { link, closed } of senders) {
        if (closed) continue
        link.handler!.received(round === 0 ? LARGE_PUBLISH : chunk)
        most = Math.max(most, bufferedBytes(world))
      }
      await world.settle()
    }
    expect(most).toBeLessThan(33 * MIB)
    expect(senders.filter(({ closed }) => closed).length).toBeGreaterThan(100)
    expect(world.server.state.counters.limits.memoryIncompletePercent).toBeGreaterThan(100)
    await expectService(world)
  })

  it('40 SUBSCRIBE packets of 1 MiB at once are bounded while handled; others are served', async () => {
    const world = await World.make({ limits: { profile: 'open', memoryBytesMax: 48 * MIB } })
    const filters = Array.from({ length: 2000 }, (_, number) =>
      Buffer.concat([field(`${number}/${'x'.repeat(490)}`), Buffer.of(0)]),
    )
    const subscribe = packet(0x82, uint16(1), properties(), Buffer.concat(filters))
    const clients: TestClient[] = []
    for (let number = 0; number < 40; number++) clients.push(await world.connect(`many${number}`))
    for (const { link } of clients) {
      link.handler!.received(Buffer.from(subscribe.subarray(0, 500_000)))
      link.handler!.received(Buffer.from(subscribe.subarray(500_000)))
      expect(world.server.state.incomplete.bytes).toBeLessThan(24 * MIB)
    }
    await expectService(world)
    expect(world.server.state.incomplete.bytes).toBe(0)
  })

  it('of strangers have their own share: beside 2,000 of 63 KB, an ordinary CONNECT gets in', async () => {
    const world = await World.make({ limits: { profile: 'open', memoryBytesMax: 64 * MIB } })
    const begun = Buffer.concat([Buffer.from([0x10, 0xfb, 0xff, 0x3f]), Buffer.alloc(63_000)])
    let most = 0
    for (let number = 0; number < 2000; number++) {
      world.open().link.handler!.received(begun)
      most = Math.max(most, bufferedBytes(world))
      if (number % 500 === 0) await expectService(world)
    }
    expect(most).toBeLessThan(4 * MIB)
    await expectService(world)
    expect(world.server.state.counters.connectionsRefused).toBe(0)
  })

  it('of strangers are cut off at the address with most; others keep their large CONNECT', async () => {
    const world = await World.make({ limits: { profile: 'open', memoryBytesMax: 64 * MIB } })
    const begun = Buffer.concat([Buffer.from([0x10, 0xfb, 0xff, 0x3f]), Buffer.alloc(63_000)])
    const other = world.open(5, { remoteAddress: '127.0.0.9' })
    await other.bytes(begun)
    for (let number = 0; number < 200; number++) await world.open().bytes(begun)
    expect(other.closed).toBe(false)
  })

  it('208,000 User Properties in CONNECTs that wait for a policy are counted and bounded', async () => {
    const waiting = () => new Promise<never>(() => {})
    const world = await World.make({
      limits: { profile: 'open', memoryBytesMax: 1024 * MIB, propertyBytesMax: MIB },
      policy: { authenticate: waiting },
    })
    const many = Buffer.concat(Array<Buffer>(200_000).fill(Buffer.from([0x26, 0, 0, 0, 0])))
    const connect = packet(0x10, 'MQTT', 5, 2, uint16(0), properties(many), 'c')
    const clients: TestClient[] = []
    for (let number = 0; number < 6; number++) {
      const client = world.open()
      await client.bytes(connect)
      clients.push(client)
    }
    expect(world.server.state.incomplete.strangersBytes).toBeLessThan(52 * MIB)
    expect(clients.filter(({ closed }) => closed).length).toBeGreaterThanOrEqual(4)
    expect(clients.some(({ closed }) => !closed)).toBe(true)
    expect(world.server.state.counters.limits.memoryStrangersPercent).toBeGreaterThanOrEqual(4)
  })

  it('are freed with their connection, at once and only once', async () => {
    const world = await World.make({ limits: { profile: 'open' } })
    const { incomplete } = world.server.state
    const client = await world.connect('c')
    await client.bytes(Buffer.concat([LARGE_PUBLISH, Buffer.alloc(100_000)]))
    expect(incomplete.bytes).toBeGreaterThanOrEqual(100_000)
    const again = await world.connect('c')
    expect(incomplete.bytes).toBe(0)
    const stranger = world.open()
    await stranger.bytes(Buffer.concat([Buffer.from([0x10, 0xfb, 0xff, 0x3f]), Buffer.alloc(10_000)]))
    expect(incomplete.strangersBytes).toBeGreaterThanOrEqual(10_000)
    await stranger.vanish()
    await again.vanish()
    expect([incomplete.bytes, incomplete.strangersBytes]).toEqual([0, 0])
  })
})
