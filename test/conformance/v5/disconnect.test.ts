/** DISCONNECT and AUTH of MQTT 5.0 (sections 3.14, 3.15, 4.12, 4.13). */
import type { Packet } from 'mqtt-packet'
import { describe, expect, it } from 'vitest'
import type { AuthenticationExchange, AuthenticationStep } from '../../../src/broker/boundary/policy.ts'
import { connectPacket, lasting, type TestClient, World } from '../../broker/harness.ts'
import { packet, properties, uint16, uint32 } from '../../mqtt/packets.ts'
import { acknowledge, expectEachRefused, expectRefused, publish, sent, subscribe } from '../wire.ts'

/** Reason Codes that table 3-10 lets a Server send. */
const FROM_SERVER = [
  0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
  0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2,
]
/** ... and a client. */
const FROM_CLIENT = [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99]

const method = (name: string) => [0x15, name] as const

describe('DISCONNECT from the Server', () => {
  const causes: [string, (world: World, client: TestClient) => unknown][] = [
    ['a malformed packet', (_, client) => feed(client, packet(0xc0, 1))],
    ['a protocol error', (_, client) => feed(client, packet(0xd0))],
    ['an invalid filter', (_, client) => feed(client, subscribe(5, 1, 'a#', 0))],
    ['an invalid topic name', (_, client) => feed(client, publish(5, 0, '+'))],
    ['an alias above the maximum', (_, client) => feed(client, ALIASED)],
    ['a packet above the maximum', (_, client) => feed(client, publish(5, 0, 't', 0, 'x'.repeat(2000)))],
    ['QoS above the maximum', (_, client) => feed(client, publish(5, 4, 't', 1))],
    ['RETAIN where there is none', (_, client) => feed(client, publish(5, 1, 't'))],
    ['Keep Alive', (world) => world.pass(16)],
    ['takeover', (world) => world.connect('a')],
    ['shutdown', (world) => void world.server.stop(new Promise(() => {}))],
    ['an operator, with a code that a Server does not have', (world) => end(world, 0x00)],
    ['an operator, with a code of CONNACK', (world) => end(world, 0x86)],
    ['an operator, with a code of PUBREL', (world) => end(world, 0x92)],
  ]
  const ALIASED = packet(0x30, 't', properties(0x23, uint16(65_535)), [0x78])
  const limits = { maximumQoS: 1, retainAvailable: false, packetBytesMax: 1000 } as const

  const feed = (client: TestClient, bytes: Buffer): unknown => client.link.handler?.received(bytes)
  const end = (world: World, reasonCode: number): unknown =>
    world.server.disconnect('a', reasonCode as 0x98, 'why')

  it.each(causes)(
    '[MQTT-3.14.2-1] [MQTT-3.14.2-2] [MQTT-3.14.2-4] [MQTT-4.13.2-1] ' +
      '%s: one of its codes and at most a Reason String, without other properties, then the close',
    async (_, cause) => {
      const world = await World.make({ limits })
      const client = await world.connect('a', { ...lasting(), keepalive: 10 })
      await cause(world, client)
      await world.settle()
      const packets = client.got() as (Packet & { reasonCode: number; properties?: object })[]
      expect(packets.map(({ cmd }) => cmd)).toEqual(['disconnect'])
      expect(FROM_SERVER).toContain(packets[0]!.reasonCode)
      expect(Object.keys(packets[0]!.properties ?? {})).toEqual(['reasonString'])
      expect(client.closed).toBe(true)
    },
  )

  it.each(causes)(
    '[MQTT-3.14.2-3] [MQTT-4.13.2-1] %s: without the Reason String if that exceeds Maximum Packet Size',
    async (_, cause) => {
      const world = await World.make({ limits: { ...limits, topicAliasMaximum: 0 } })
      const maximumPacketSize = 16
      const client = await world.connect('a', { keepalive: 10, properties: { maximumPacketSize } })
      sent(client)
      await cause(world, client)
      await world.settle()
      expect(sent(client)).toMatch(/^e00[12](8|9)[0-9a-f](00)?$|^e0/)
      expect(client.closed).toBe(true)
    },
  )

  it('[MQTT-3.14.0-1] none is sent before a CONNACK with 0x00', async () => {
    const refuse = { authenticate: () => ({ allow: false, reasonCode: 0x87, reason: '' }) as const }
    const failing = { authenticate: () => Promise.reject(new Error('no database')) }
    for (const [options, bytes] of [
      [{ policy: refuse }, connectBytes()],
      [{ policy: failing }, connectBytes()],
      [{}, packet(0xc0)],
      [{}, packet(0x10, 'MQTT', 6, 2, uint16(0), 0, 'a')],
      [{}, Buffer.concat([packet(0x10, 'MQTT', 5, 3, uint16(0), 0, 'a'), packet(0xc0)])],
    ] as const) {
      const world = await World.make(options)
      const client = world.open(5)
      const answers = await client.bytes(bytes)
      expect(answers.filter(({ cmd }) => cmd !== 'connack')).toEqual([])
      expect(client.closed).toBe(true)
    }
  })
})

describe('DISCONNECT from a client', () => {
  it('[MQTT-3.14.2-1] codes of the Server or of other packets are a protocol error', async () => {
    const world = await World.make()
    for (let code = 0; code < 256; code++) {
      const client = await world.connect('a')
      const answers = await client.bytes(packet(0xe0, code))
      const expected = FROM_CLIENT.includes(code) ? [] : [{ cmd: 'disconnect', reasonCode: 0x82 }]
      expect([code, answers]).toMatchObject([code, expected])
      expect([code, client.closed]).toEqual([code, true])
    }
  })

  it(
    '[MQTT-3.14.4-3] ' +
      '0x00 discards the Will, in each way to write it; any other code and any wrong DISCONNECT ' +
      'publishes it',
    async () => {
      const world = await World.make()
      const watcher = await world.connect('watcher')
      await watcher.subscribe('will')
      const will = { topic: 'will', payload: Buffer.from('lost'), qos: 0 as const, retain: false }
      for (const [bytes, published] of [
        [packet(0xe0), false],
        [packet(0xe0, 0), false],
        [packet(0xe0, 0, properties()), false],
        [packet(0xe0, 0, properties(0x1f, 'bye', 0x26, 'k', 'v')), false],
        [packet(0xe0, 4), true],
        [packet(0xe0, 0x80), true],
        [packet(0xe1), true],
        [packet(0xe0, 0x8e), true],
        [packet(0xe0, 0, properties(), 0), true],
      ] as const) {
        const client = await world.connect('a', { will })
        await client.bytes(bytes)
        expect([bytes.toString('hex'), watcher.texts()]).toEqual([
          bytes.toString('hex'),
          published ? ['lost'] : [],
        ])
        expect(world.census()).toMatchObject({ wills: 0 })
      }
    },
  )

  it(
    'section 3.14.2.2: properties that are misplaced, repeated or cut off, and a Session Expiry ' +
      'Interval that was 0',
    async () => {
      const world = await World.make()
      await expectEachRefused(world, 5, [
        [packet(0xe0, 0, properties(0x11, uint32(1))), 0x82], // it was 0
        [packet(0xe0, 4, properties(0x11, uint32(0xffffffff))), 0x82],
        [packet(0xe0, 0, properties(0x11, uint32(0), 0x11, uint32(0))), 0x82],
        [packet(0xe0, 0, properties(0x11, uint16(0))), 0x81],
        [packet(0xe0, 0, properties(0x0b, 1)), 0x81],
        [packet(0xe0, 0, properties(0x21, uint16(1))), 0x81],
        [packet(0xe0, 0, [5]), 0x81],
        [packet(0xe0, 0, [0x80, 0]), 0x81],
        [packet(0xe0, 0, properties(0x1f, [0, 1, 0])), 0x81],
      ])
      const kept = await world.connect('kept', lasting(10))
      expect(await kept.bytes(packet(0xe0, 0, properties(0x11, uint32(20))))).toEqual([])
      await world.pass(19)
      expect(world.census()).toMatchObject({ sessions: 1 })
      await world.pass(2)
      expect(world.census()).toMatchObject({ sessions: 0 })
    },
  )
})

const connectBytes = (...more: Buffer[]): Buffer =>
  packet(0x10, 'MQTT', 5, 2, uint16(0), ...(more.length > 0 ? more : [properties()]), 'a')

describe('AUTH', () => {
  const success: AuthenticationStep = { type: 'success', userName: 'anna', data: undefined }
  const more: AuthenticationStep = { type: 'continue', data: Buffer.from('more') }

  /** A world whose method M takes these steps, and a client that began with it. */
  async function exchanging(
    steps: AuthenticationStep[],
    maximumPacketSize?: number,
  ): Promise<{ world: World; client: TestClient }> {
    const exchange: AuthenticationExchange = { next: () => steps.shift()! }
    const world = await World.make({
      policy: { authenticationExchange: (name) => (name === 'M' ? exchange : null) },
    })
    const client = world.open(5)
    const size = maximumPacketSize === undefined ? [] : [0x27, uint32(maximumPacketSize)]
    await client.bytes(connectBytes(properties(...method('M'), ...size)))
    return { world, client }
  }
  const auth = (code: number, name = 'M'): Buffer => packet(0xf0, code, properties(...method(name)))

  it('[MQTT-3.15.1-1] flags other than 0 are malformed, before CONNACK and after it', async () => {
    for (let flags = 1; flags < 16; flags++) {
      const wrong = packet(0xf0 | flags, 0x19, properties(...method('M')))
      const { client: open } = await exchanging([success, success])
      open.got()
      await expectRefused(open, wrong, 0x81)
      const { client: early } = await exchanging([more, success])
      early.got()
      expect(await early.bytes(wrong)).toMatchObject([{ cmd: 'connack', reasonCode: 0x81 }])
      expect(early.closed).toBe(true)
    }
  })

  it(
    '[MQTT-3.15.2-1] [MQTT-4.12.0-3] [MQTT-4.12.1-1] ' +
      'a client’s AUTH has 0x18 as an answer and 0x19 to begin again; any other code is a protocol ' +
      'error',
    async () => {
      for (let code = 0; code < 256; code++) {
        const { client: asked } = await exchanging([more, success])
        asked.got()
        const [early] = await asked.bytes(auth(code))
        expect([code, early]).toMatchObject([code, { cmd: 'connack', reasonCode: code === 0x18 ? 0 : 0x82 }])
        expect([code, asked.closed]).toEqual([code, code !== 0x18])
        const { client: open } = await exchanging([success, success])
        open.got()
        const [late] = await open.bytes(auth(code))
        expect([code, late]).toMatchObject([
          code,
          code === 0x19 ? { cmd: 'auth', reasonCode: 0 } : { cmd: 'disconnect', reasonCode: 0x82 },
        ])
      }
    },
  )

  it(
    '[MQTT-3.15.2-1] [MQTT-3.15.2-2] [MQTT-3.15.2-3] [MQTT-4.12.0-2] [MQTT-4.12.0-5] ' +
      'the Server’s AUTH has 0x18 or 0x00, with method and data and nothing else',
    async () => {
      const { client } = await exchanging([more, success, more, success])
      expect(sent(client)).toBe('f00d180b1500014d1600046d6f7265')
      await client.bytes(auth(0x18))
      expect(sent(client)).toMatch(/^20.*1500014d/)
      await client.bytes(auth(0x19))
      expect(sent(client)).toBe('f00d180b1500014d1600046d6f7265')
      await client.bytes(auth(0x18))
      expect(sent(client)).toMatch(/^f006?00041500014d|^f00600041500014d$/)
    },
  )

  it(
    '[MQTT-3.1.2-24] ' + 'an AUTH above the client’s Maximum Packet Size is not sent: the exchange ends',
    async () => {
      const { client: fits } = await exchanging([more, success], 15)
      expect(sent(fits)).toBe('f00d180b1500014d1600046d6f7265')
      const { client } = await exchanging([more, success], 14)
      expect(sent(client)).toBe('2003009500')
      expect(client.closed).toBe(true)
    },
  )

  it(
    '[MQTT-4.12.0-5] [MQTT-4.12.0-7] ' +
      'section 3.15.2.2: without a method, with another one, without CONNECT’s, with properties that ' +
      'are wrong',
    async () => {
      const wrong: [Buffer, number][] = [
        [packet(0xf0), 0x82],
        [packet(0xf0, 0x19, properties()), 0x82],
        [packet(0xf0, 0x19), 0x81], // a Property Length is missing
        [auth(0x19, 'm'), 0x82],
        [packet(0xf0, 0x19, properties(...method('M'), ...method('M'))), 0x82],
        [packet(0xf0, 0x19, properties(0x16, [0, 1, 0])), 0x82], // data without a method
        [packet(0xf0, 0x19, properties(...method('M'), 0x11, uint32(1))), 0x81],
        [packet(0xf0, 0x19, properties(...method('M')), 0), 0x81],
      ]
      for (const [bytes, code] of wrong) {
        const { client } = await exchanging([success, success])
        client.got()
        await expectRefused(client, bytes, code)
      }
      const world = await World.make()
      const plain = await world.connect('a')
      await expectRefused(plain, auth(0x19), 0x82)
    },
  )

  it('[MQTT-4.12.0-6] a client without a method is never sent AUTH, nor a method in CONNACK', async () => {
    const world = await World.make({
      policy: {
        authenticate: () => ({ allow: true, userName: null }),
        authenticationExchange: () => ({ next: () => more }),
      },
    })
    const client = world.open(5)
    const answers = await client.send(connectPacket('a'), { cmd: 'pingreq' })
    expect(answers.map(({ cmd }) => cmd)).toEqual(['connack', 'pingresp'])
    expect(answers[0]).not.toHaveProperty('properties.authenticationMethod')
  })

  it(
    '[MQTT-4.12.0-4] [MQTT-4.12.1-2] ' +
      'a failure closes with CONNACK before, with DISCONNECT after, whatever code the policy gives',
    async () => {
      for (let reasonCode = 0; reasonCode < 256; reasonCode++) {
        const failure = { type: 'failure', reasonCode: reasonCode as 0x87, reason: 'no' } as const
        const { client: early } = await exchanging([more, failure])
        early.got()
        const [connack] = (await early.bytes(auth(0x18))) as (Packet & { reasonCode: number })[]
        expect([reasonCode, connack]).toMatchObject([reasonCode, { cmd: 'connack' }])
        expect(connack!.reasonCode).toBeGreaterThanOrEqual(0x80)
        const { client: open } = await exchanging([success, failure])
        open.got()
        const [last] = (await open.bytes(auth(0x19))) as (Packet & { reasonCode: number })[]
        expect([reasonCode, last]).toMatchObject([reasonCode, { cmd: 'disconnect' }])
        expect(FROM_SERVER).toContain(last!.reasonCode)
        expect([early.closed, open.closed]).toEqual([true, true])
      }
    },
  )
})

describe('Maximum Packet Size of the client', () => {
  it('[MQTT-4.13.2-1] the connection is closed even if no DISCONNECT fits', async () => {
    const world = await World.make({ limits: { topicAliasMaximum: 0, packetBytesMax: 268_435_460 } })
    const tiny = world.open(5)
    await tiny.bytes(connectBytes(properties(0x27, uint32(3))))
    expect([sent(tiny), tiny.closed]).toEqual(['', true])
    const small = world.open(5)
    await small.bytes(connectBytes(properties(0x27, uint32(5))))
    expect(sent(small)).toBe('2003000000')
    await small.bytes(acknowledge(0x40, 0))
    expect(sent(small)).toMatch(/^e0(0181|028100)$/)
    expect(small.closed).toBe(true)
  })
})
