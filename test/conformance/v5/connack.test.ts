/** MQTT 5.0, section 3.2: CONNACK. */
import { describe, expect, it } from 'vitest'
import type { Reason } from '../../../src/mqtt/reason.ts'
import { lasting, World, type WorldOptions } from '../../broker/harness.ts'
import { connect, packet, properties, uint16, uint32 } from '../../mqtt/packets.ts'
import { expectRefused, publish, sent } from '../wire.ts'
import { ask, expectConnectRefused } from './answers.ts'

const NONE = properties()
const PLAIN = connect(5, 2, NONE, 'a')
const WILLED = (flags: number, topic = 'w') => connect(5, flags, NONE, 'a', NONE, topic, 'p')

/** Reason Codes that table 3-1 allows in a refusal. */
const REFUSALS = new Set([
  0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97, 0x99, 0x9a, 0x9b,
  0x9c, 0x9d, 0x9f,
])

const refusing = (reasonCode: number): WorldOptions => ({
  policy: { authenticate: () => ({ allow: false, reasonCode: reasonCode as Reason, reason: 'no' }) },
})

interface Way {
  readonly name: string
  readonly bytes: Buffer
  readonly reasonCode: number
  readonly options: WorldOptions
}

/** Every way that leads to a refusing CONNACK. */
const WAYS: readonly Way[] = [
  way('a malformed CONNECT', connect(5, 3, NONE, 'a'), 0x81),
  way('a protocol error', connect(5, 2, properties(0x21, uint16(0)), 'a'), 0x82),
  way('an unknown version', packet(0x10, 'MQTT', 6, 2, uint16(0), NONE, 'a'), 0x84),
  way('no empty identifier', connect(5, 2, NONE, ''), 0x85, {
    limits: { emptyClientIdentifierAllowed: false },
  }),
  way('a method that is not known', connect(5, 2, properties(0x15, 'X'), 'a'), 0x8c),
  way('a Will Topic with a wildcard', WILLED(6, 'a/#'), 0x90),
  way('a Will Topic of the Server', WILLED(6, '$SYS/a'), 0x87),
  way(
    'a Will Payload that is not what it says',
    connect(5, 6, NONE, 'a', properties(1, 1), 'w', [0, 1, 0xff]),
    0x99,
  ),
  way('Will Retain that is not supported', WILLED(0x26), 0x9a, { limits: { retainAvailable: false } }),
  way('a Will QoS that is not supported', WILLED(0x0e), 0x9b, { limits: { maximumQoS: 0 } }),
]

function way(name: string, bytes: Buffer, reasonCode: number, options: WorldOptions = {}): Way {
  return { name, bytes, reasonCode, options }
}

describe('refusals', () => {
  it.each(WAYS)(
    '[MQTT-3.2.2-7] [MQTT-3.2.2-8] [MQTT-4.13.2-1] $name is answered by its Reason Code, and closed',
    async (given) => {
      expect(REFUSALS.has(given.reasonCode)).toBe(true)
      await expectConnectRefused(await World.make(given.options), given.bytes, given.reasonCode)
    },
  )

  it('a CONNECT that is too large is closed before it is read, as its version is unknown', async () => {
    const client = (await World.make({ limits: { packetBytesMax: 100 } })).open(5)
    expect(await client.bytes(connect(5, 2, NONE, 'a'.repeat(90)))).toEqual([])
    expect(client.closed).toBe(true)
  })

  it('[MQTT-3.2.2-6] no refusal says that a Session is present, though there is one', async () => {
    for (const { bytes, reasonCode, options } of WAYS) {
      const world = await World.make(options)
      await (await world.connect('a', lasting())).vanish()
      const client = world.open(5)
      const hex = await ask(client, bytes)
      expect(hex.slice(4, 8)).toBe(`00${reasonCode.toString(16)}`)
      expect(client.closed).toBe(true)
    }
  })

  it('[MQTT-3.2.2-8] a Reason Code of a policy that CONNACK does not have is replaced', async () => {
    for (let code = 0x80; code <= 0xff; code++) {
      const expected = REFUSALS.has(code) ? code : code === 0x8b ? 0x88 : 0x80
      await expectConnectRefused(await World.make(refusing(code)), PLAIN, expected)
    }
  })

  it('[MQTT-3.2.2-8] [MQTT-3.1.2-30] other packets during authentication are protocol errors', async () => {
    const policy = {
      authenticationExchange: () => ({ next: () => ({ type: 'continue', data: undefined }) as const }),
    }
    for (const bytes of [
      packet(0x30, 't', properties(0x23, uint16(0))),
      packet(0x30, 'a/#', NONE),
      packet(0x82, uint16(1), NONE),
      packet(0xc0),
      PLAIN,
    ]) {
      const world = await World.make({ policy })
      const client = world.open(5)
      await client.bytes(connect(5, 2, properties(0x15, 'M'), 'a'))
      client.got()
      expect(await client.bytes(bytes)).toMatchObject([{ cmd: 'connack', reasonCode: 0x82 }])
      expect(client.closed).toBe(true)
    }
  })

  it('[MQTT-3.2.2-12] a Will QoS above the Maximum QoS is refused with 0x9B, up to it accepted', async () => {
    for (const maximumQoS of [0, 1] as const) {
      const world = await World.make({ limits: { maximumQoS } })
      for (const qos of [0, 1, 2]) {
        const bytes = WILLED(6 | (qos << 3))
        if (qos > maximumQoS) await expectConnectRefused(world, bytes, 0x9b)
        else expect(await world.open(5).bytes(bytes)).toMatchObject([{ reasonCode: 0 }])
      }
    }
  })

  it(
    '[MQTT-3.2.2-13] ' + 'Will Retain is refused with 0x9A where retained messages are not available',
    async () => {
      const world = await World.make({ limits: { retainAvailable: false } })
      await expectConnectRefused(world, WILLED(0x26), 0x9a)
      expect(await world.open(5).bytes(WILLED(6))).toMatchObject([
        { reasonCode: 0, properties: { retainAvailable: false } },
      ])
    },
  )
})

describe('acceptance', () => {
  it('[MQTT-3.2.0-1] no packet precedes it, though many wait for the client', async () => {
    const world = await World.make()
    const sub = await world.connect('sub', lasting())
    await sub.subscribe('t', 2)
    const pub = await world.connect('pub')
    await pub.publish('t', 'in flight', 2)
    await sub.vanish()
    await pub.publish('t', 'queued', 1)
    const back = world.open(5)
    const answers = await back.bytes(
      Buffer.concat([
        connect(5, 0, properties(0x11, uint32(60)), 'sub'),
        packet(0xc0),
        publish(5, 2, 'x', 1),
      ]),
    )
    expect(answers[0]).toMatchObject({ cmd: 'connack', reasonCode: 0, sessionPresent: true })
    expect(
      answers
        .slice(1)
        .map(({ cmd }) => cmd)
        .sort(),
    ).toEqual(['pingresp', 'puback', 'publish', 'publish'])
  })

  it('[MQTT-3.2.0-2] there is only one, however the connection goes on', async () => {
    const world = await World.make()
    const client = world.open(5)
    const answers = [
      ...(await client.bytes(Buffer.concat([PLAIN, packet(0xc0)]))),
      ...(await client.bytes(packet(0xc0))),
      ...(await client.bytes(PLAIN)),
      ...(await client.bytes(PLAIN)),
    ]
    expect(answers.map(({ cmd }) => cmd)).toEqual(['connack', 'pingresp', 'pingresp', 'disconnect'])
    const refused = world.open(5)
    const wrong = connect(5, 3, NONE, 'a')
    expect([
      ...(await refused.bytes(Buffer.concat([wrong, wrong]))),
      ...(await refused.bytes(PLAIN)),
    ]).toHaveLength(1)
  })

  it(
    '[MQTT-3.2.2-1] [MQTT-3.2.2-2] [MQTT-3.2.2-3] ' +
      'the acknowledge flags are 0 except Session Present, which tells whether there was a Session',
    async () => {
      const world = await World.make()
      const flags = async (clean: 0 | 2): Promise<string> => {
        const client = world.open(5)
        const hex = await ask(client, connect(5, clean, properties(0x11, uint32(60)), 'a'))
        await client.vanish()
        return hex.slice(4, 8)
      }
      expect(await flags(0)).toBe('0000')
      expect(await flags(0)).toBe('0100')
      expect(await flags(2)).toBe('0000')
      expect(await flags(0)).toBe('0100')
      await world.pass(61)
      expect(await flags(0)).toBe('0000')
    },
  )

  it.each([0, 1] as const)(
    '[MQTT-3.2.2-9] [MQTT-3.2.2-10] [MQTT-3.2.2-11] ' +
      'Maximum QoS %i is announced; a SUBSCRIBE with more is accepted, a PUBLISH refused with 0x9B',
    async (maximumQoS) => {
      const world = await World.make({ limits: { profile: 'open', maximumQoS, topicAliasMaximum: 0 } })
      const client = world.open(5)
      expect(await ask(client, PLAIN)).toBe(`20050000${'0224'}0${maximumQoS}`)
      for (const qos of [0, 1, 2] as const) {
        expect(await client.subscribe('t', qos)).toBe(Math.min(qos, maximumQoS))
      }
      for (const qos of [1, 2]) {
        if (qos <= maximumQoS) continue
        await expectRefused(await world.connect('b'), publish(5, qos << 1, 't', 1), 0x9b)
      }
      expect(await client.publish('t', 'x', maximumQoS)).not.toContainEqual(
        expect.objectContaining({ cmd: 'disconnect' }),
      )
      const full = await (await World.make()).connect('a')
      expect(full.connack).not.toHaveProperty('properties.maximumQoS')
    },
  )

  it('[MQTT-3.2.2-14] RETAIN is refused with 0x9A where it is not available', async () => {
    const world = await World.make({ limits: { retainAvailable: false } })
    for (const flags of [1, 3, 5]) {
      await expectRefused(await world.connect('a'), publish(5, flags, 't', 1), 0x9a)
    }
  })

  it(
    '[MQTT-3.2.2-15] ' +
      'a packet above the Server’s Maximum Packet Size is refused with 0x95, one that just fits is ' +
      'accepted',
    async () => {
      const world = await World.make({ limits: { packetBytesMax: 200 } })
      const seen = world.record('published')
      const client = await world.connect('a')
      expect(client.connack).toMatchObject({ properties: { maximumPacketSize: 200 } })
      const fits = packet(0x30, 't', NONE, Buffer.alloc(193))
      expect(fits).toHaveLength(200)
      expect(await client.bytes(fits)).toEqual([])
      expect(seen).toHaveLength(1)
      await expectRefused(client, packet(0x30, 't', NONE, Buffer.alloc(194)), 0x95)
      for (const bytes of [
        packet(0x82, uint16(1), NONE, 'f'.repeat(200), 0),
        packet(0xa2, uint16(1), NONE, 'f'.repeat(200)),
        packet(0xe0, 0, properties(0x1f, 'r'.repeat(200))),
        Buffer.from('30ffffff7f', 'hex'),
      ]) {
        await expectRefused(await world.connect('a'), bytes, 0x95)
      }
      expect(seen).toHaveLength(1)
    },
  )

  it('[MQTT-3.2.2-16] an assigned Client Identifier has no other Session, not even offline', async () => {
    const world = await World.make()
    const next = Number(/\d+/.exec(world.server.state.host.randomId())![0]) + 1
    await (await world.connect(`auto-id${next}`, lasting())).vanish()
    await world.connect(`auto-id${next + 1}`)
    const client = await world.connect('')
    expect(client.connack).toMatchObject({
      sessionPresent: false,
      properties: { assignedClientIdentifier: `auto-id${next + 2}` },
    })
  })

  it(
    '[MQTT-3.2.2-17] [MQTT-3.3.2-9] [MQTT-3.3.2-12] ' +
      'every Topic Alias up to the Server’s maximum is accepted, a higher one refused with 0x94',
    async () => {
      const world = await World.make({ limits: { topicAliasMaximum: 5 } })
      const seen = world.record('published')
      const client = await world.connect('a')
      expect(client.connack).toMatchObject({ properties: { topicAliasMaximum: 5 } })
      for (const alias of [1, 2, 3, 4, 5]) {
        await client.bytes(packet(0x30, `t${alias}`, properties(0x23, uint16(alias))))
      }
      for (const alias of [5, 1, 4, 2, 3])
        await client.bytes(packet(0x30, '', properties(0x23, uint16(alias))))
      expect(seen.map(({ message }) => message.topic.name).join(' ')).toBe('t1 t2 t3 t4 t5 t5 t1 t4 t2 t3')
      for (const alias of [6, 65_535]) {
        const bytes = packet(0x30, 't', properties(0x23, uint16(alias)))
        await expectRefused(await world.connect('b'), bytes, 0x94)
      }
    },
  )

  it('[MQTT-3.2.2-18] without a Topic Alias Maximum every Topic Alias is refused with 0x94', async () => {
    const world = await World.make({ limits: { topicAliasMaximum: 0 } })
    const client = await world.connect('a')
    expect(client.connack).not.toHaveProperty('properties.topicAliasMaximum')
    await expectRefused(client, packet(0x30, 't', properties(0x23, uint16(1))), 0x94)
  })

  it(
    '[MQTT-3.2.2-19] [MQTT-3.2.2-20] [MQTT-3.1.2-24] ' +
      'Reason String and User Properties are left out if the client’s Maximum Packet Size is too ' +
      'small',
    async () => {
      const limits = { profile: 'open', topicAliasMaximum: 0 } as const
      const refused = await World.make({ ...refusing(0x87), limits })
      const admitted = await World.make({
        limits,
        policy: {
          authenticate: () => ({ allow: true, userName: null, userProperties: [['key', 'value']] }),
        },
      })
      const answer = async (world: World, size: number): Promise<string> =>
        ask(world.open(5), connect(5, 2, properties(0x27, uint32(size)), 'a'))
      expect(await answer(refused, 10)).toBe('20080087051f00026e6f')
      expect(await answer(refused, 9)).toBe('2003008700')
      expect(await answer(admitted, 18)).toBe('201000000d2600036b6579000576616c7565')
      expect(await answer(admitted, 17)).toBe('2003000000')
      // Not even the rest: nothing is sent, and it is closed.
      expect(await answer(admitted, 4)).toBe('')
      expect(await answer(refused, 4)).toBe('')
    },
  )

  it('[MQTT-3.2.2-22] without Server Keep Alive the client’s Keep Alive holds', async () => {
    const world = await World.make({ limits: { keepAliveSecondsMax: 100 } })
    const client = await world.connect('a', { keepalive: 10 })
    expect(client.connack).not.toHaveProperty('properties.serverKeepAlive')
    await world.pass(14.9)
    expect(client.closed).toBe(false)
    await world.pass(0.2)
    expect(client.closed).toBe(true)
    const never = await (await World.make()).connect('b', { keepalive: 0 })
    expect(never.connack).not.toHaveProperty('properties.serverKeepAlive')
    expect(sent(never)).not.toBe('')
  })
})
