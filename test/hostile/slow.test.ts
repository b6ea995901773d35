/** Bytes that come slowly, or one by one, or not at all after a large announcement. */
import { afterEach, describe, expect, it, vi } from 'vitest'
import { COSTS, topicsBytes } from '../../src/broker/accounts/costs.ts'
import { connectPacket, type TestClient, type Version, World } from '../broker/harness.ts'
import { packet, properties, uint16 } from '../mqtt/packets.ts'

const CONNECT = packet(0x10, 'MQTT', 5, 2, uint16(0), properties(), 'slow')

/** The header of a PUBLISH whose Remaining Length is the largest there is: 256 MB. */
const ANNOUNCED = Buffer.from([0x30, 0xff, 0xff, 0xff, 0x7f])

afterEach(() => {
  vi.restoreAllMocks()
})

/** Everybody else is served. */
async function expectService(world: World): Promise<void> {
  const client = await world.connect('witness')
  expect(await client.subscribe('witness', 1)).toBe(1)
  const answers = await client.publish('witness', 'here', 1)
  expect(answers.map(({ cmd }) => cmd).sort()).toEqual(['puback', 'publish'])
  await client.send({ cmd: 'disconnect' })
}

describe('slow loris', () => {
  it('in CONNECT: is cut off after connectTimeoutSeconds, however steadily it sends', async () => {
    const world = await World.make({ limits: { connectTimeoutSeconds: 10 } })
    const limited = world.record('limited')
    const slow = Array.from({ length: 100 }, () => world.open())
    for (let second = 0; second < 9; second++) {
      for (const client of slow) await client.bytes(CONNECT.subarray(second, second + 1))
      await world.pass(1)
    }
    expect(slow.every((client) => !client.closed)).toBe(true)
    await expectService(world)
    await world.pass(1.5)
    expect(slow.every((client) => client.closed)).toBe(true)
    expect(limited.map(({ limit }) => limit)).toEqual(Array(100).fill('connectTimeoutSeconds'))
    expect(world.census()).toMatchObject({ connections: 0, deadlines: 0 })
  })

  it('[MQTT-3.1.2-22] in the middle of a packet: only whole packets count for the Keep Alive', async () => {
    const world = await World.make()
    const slow = await world.connect('slow', { keepalive: 10 })
    const bytes = packet(0x30, 't', properties(), Buffer.alloc(100))
    for (let second = 0; second < 14; second++) {
      await slow.bytes(bytes.subarray(second, second + 1))
      await world.pass(1)
    }
    expect(slow.closed).toBe(false)
    await expectService(world)
    await world.pass(2)
    expect(slow.got()).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x8d }])
    expect(slow.closed).toBe(true)
  })

  it('in packets without Keep Alive: when they are too many, the largest alone goes', async () => {
    const world = await World.make({ limits: { profile: 'open', memoryBytesMax: 8 * 1024 ** 2 } })
    const limited = world.record('limited')
    const slow: TestClient[] = []
    for (const [index, mebibytes] of [1, 3, 2].entries()) {
      const client = await world.connect(`slow${index}`)
      await client.bytes(ANNOUNCED)
      client.link.handler!.received(Buffer.alloc(mebibytes * 1024 ** 2))
      await world.settle()
      slow.push(client)
    }
    expect(slow.map((client) => client.closed)).toEqual([false, true, false])
    expect(slow[1]!.got()).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x97 }])
    expect(limited.map(({ limit, clientId }) => [limit, clientId])).toContainEqual([
      'memoryIncompletePercent',
      'slow1',
    ])
    await world.pass(1.5)
    expect(slow.map((client) => client.closed)).toEqual([false, true, false])
    await expectService(world)
  })
})

describe('very many strangers', () => {
  it('with large CONNECTs that are never whole: they alone go as soon as they are too many', async () => {
    const world = await World.make({ limits: { profile: 'open', memoryBytesMax: 8 * 1024 ** 2 } })
    const limited = world.record('limited')
    const client = await world.connect('client')
    await client.bytes(Buffer.concat([ANNOUNCED, Buffer.alloc(200_000)]))
    const begun = async (bytes: number): Promise<TestClient> => {
      const stranger = world.open()
      await stranger.bytes(Buffer.concat([Buffer.from([0x10, 0xfb, 0xff, 0x3f]), Buffer.alloc(bytes)]))
      return stranger
    }
    const slow = await begun(1000)
    const strangers: TestClient[] = []
    for (let count = 0; count < 10; count++) strangers.push(await begun(1_000_000))
    expect(world.server.state.incomplete.strangersBytes).toBeLessThan(0.05 * 8 * 1024 ** 2)
    expect(strangers.every(({ closed }) => closed)).toBe(true)
    expect([client.closed, slow.closed]).toEqual([false, false])
    expect(limited.filter(({ limit }) => limit === 'memoryStrangersPercent').length).toBe(10)
    await expectService(world)
  })
})

describe('Topic Aliases', () => {
  it('for very long topics count as memory: when it is short, who has most of them goes', async () => {
    const world = await World.make({ limits: { topicAliasMaximum: 65_535, memoryBytesMax: 8 * 1024 ** 2 } })
    const greedy = await world.connect('greedy')
    const modest = await world.connect('modest')
    const set = (alias: number, topic: string): Buffer =>
      packet(0x30, topic, properties(0x23, uint16(alias)), Buffer.from('x'))
    for (let alias = 1; alias <= 150; alias++) {
      await greedy.bytes(set(alias, `${alias}/${'x'.repeat(60_000)}`))
      await modest.bytes(set(1, `${alias}/${'x'.repeat(60_000)}`))
    }
    expect(world.server.memoryBytes()).toBeGreaterThan(9_000_000)
    await world.pass(1.5)
    expect(greedy.got()).toMatchObject([{ cmd: 'disconnect', reasonCode: 0x97 }])
    expect([greedy.closed, modest.closed]).toEqual([true, false])
    expect(world.server.memoryBytes()).toBeLessThan(61_000 + COSTS.connection + COSTS.session)
    await expectService(world)
  })
})

describe('one byte at a time', () => {
  /** What one client's PUBLISH of this payload costs in steps and in bytes copied, sent in single bytes. */
  async function cost(payloadBytes: number, version: Version): Promise<{ copied: number; copies: number }> {
    const world = await World.make()
    const client = await world.connect('dripping', {}, version)
    const bytes = packet(0x30, 't', version === 5 ? properties() : [], Buffer.alloc(payloadBytes, 1))
    const copy = vi.spyOn(Buffer.prototype, 'copy')
    for (let at = 0; at < bytes.length; at++) client.link.handler!.received(bytes.subarray(at, at + 1))
    await world.settle()
    const copied = copy.mock.results.reduce((sum, { value }) => sum + Number(value), 0)
    const copies = copy.mock.calls.length
    copy.mockRestore()
    expect(world.server.state.counters).toMatchObject({
      publishReceived: 1,
      publishBytesReceived: payloadBytes,
    })
    return { copied, copies }
  }

  it.each([4, 5] as const)('200 KB: bytes copied and steps are linear, version %i', async (version) => {
    const single = await cost(100_000, version)
    const double = await cost(200_000, version)
    // Each byte once, and again while the buffer doubles.
    expect(double.copied).toBeLessThan(4 * 200_000)
    expect(double.copied).toBeLessThan(2.7 * single.copied)
    // One step a byte, and one each time that the buffer doubles.
    expect(double.copies).toBeLessThan(200_000 + 100)
  })

  it('a packet of many fields is looked into when it is whole, to check it and to handle it', async () => {
    const world = await World.make()
    const client = await world.connect('dripping')
    const filters = Array.from({ length: 5000 }, (_, index) => [`f/${index}`, 1]).flat()
    const bytes = packet(0x82, uint16(1), properties(), ...filters)
    const decoded = vi.spyOn(Buffer.prototype, 'toString')
    for (let at = 0; at < bytes.length; at++) client.link.handler!.received(bytes.subarray(at, at + 1))
    await world.settle()
    const texts = decoded.mock.calls.filter(([encoding]) => encoding === 'utf8')
    decoded.mockRestore()
    expect(texts.length).toBe(2 * 5000)
    expect(client.got()).toMatchObject([{ cmd: 'suback' }])
    expect(world.server.state.router.subscriptionCount).toBe(5000)
  })

  it('a CONNECT, for every version', async () => {
    const world = await World.make()
    for (const version of [3, 4, 5] as const) {
      const client = world.open(version)
      const { protocolId } = connectPacket('c', version) as { protocolId: string }
      const bytes = packet(
        0x10,
        protocolId,
        version,
        2,
        uint16(0),
        version === 5 ? properties() : [],
        `c${version}`,
      )
      for (let at = 0; at < bytes.length; at++) await client.bytes(bytes.subarray(at, at + 1))
      expect(world.server.state.sessions.has(`c${version}`)).toBe(true)
    }
  })
})

describe('announced 256 MB', () => {
  it('cost what arrives: a thousand clients that announce them hold a few kilobytes each', async () => {
    const world = await World.make()
    const clients: TestClient[] = []
    for (let number = 0; number < 1000; number++) {
      const client = await world.connect(`c${number}`)
      client.link.handler!.received(ANNOUNCED)
      client.link.handler!.received(Buffer.alloc(1000))
      clients.push(client)
    }
    const { external, arrayBuffers } = process.memoryUsage()
    expect(Math.max(external, arrayBuffers)).toBeLessThan(256 * 1024 ** 2)
    expect(world.server.memoryBytes()).toBeLessThan(1000 * 1100)
    await expectService(world)
    for (const client of clients) await client.vanish()
    expect(world.server.memoryBytes()).toBe(topicsBytes(world.server.state.topics))
  })

  it('before CONNECT, and in packets that are no PUBLISH, are refused when they are announced', async () => {
    const world = await World.make()
    const limited = world.record('limited')
    const stranger = world.open()
    await stranger.bytes(Buffer.from([0x10, 0xff, 0xff, 0xff, 0x7f]))
    expect(stranger.closed).toBe(true)
    for (const first of [0x82, 0xa2, 0xe0, 0xf0, 0x40, 0xc0]) {
      const client = await world.connect('c')
      await client.bytes(Buffer.from([first, 0xff, 0xff, 0xff, 0x7f]))
      expect(client.closed).toBe(true)
    }
    expect(limited.length).toBe(7)
    expect(world.server.memoryBytes()).toBe(topicsBytes(world.server.state.topics))
  })
})
