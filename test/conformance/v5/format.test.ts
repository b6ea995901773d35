/** MQTT 5.0, chapters 1 and 2: data representations, and the format of packets. */
import { describe, expect, it } from 'vitest'
import { lasting, World } from '../../broker/harness.ts'
import { connect, field, packet, properties, uint16, variable } from '../../mqtt/packets.ts'
import { acknowledge, expectRefused, publish, sent, subscribe, unsubscribe } from '../wire.ts'
import { expectConnectRefused } from './answers.ts'

const NONE = properties()
const USER = 0x26

/** Every UTF-8 Encoded String that a client may send, with these bytes as its content. */
const STRINGS: readonly (readonly [name: string, make: (bytes: readonly number[]) => Buffer])[] = [
  ['the Client Identifier', (b) => connect(5, 2, NONE, field(b))],
  ['the User Name', (b) => connect(5, 0x82, NONE, 'a', field(b))],
  ['the Will Topic', (b) => connect(5, 6, NONE, 'a', NONE, field(b), 'w')],
  ['the Authentication Method', (b) => connect(5, 2, properties(0x15, field(b)), 'a')],
  ['a User Property name of CONNECT', (b) => connect(5, 2, properties(USER, field(b), 'v'), 'a')],
  ['a User Property value of CONNECT', (b) => connect(5, 2, properties(USER, 'n', field(b)), 'a')],
  ['the Will’s Content Type', (b) => connect(5, 6, NONE, 'a', properties(0x03, field(b)), 'w', 'w')],
  ['the Will’s Response Topic', (b) => connect(5, 6, NONE, 'a', properties(0x08, field(b)), 'w', 'w')],
  ['a User Property of the Will', (b) => connect(5, 6, NONE, 'a', properties(USER, field(b), ''), 'w', 'w')],
  ['the Topic Name', (b) => packet(0x30, field(b), NONE)],
  ['the Content Type', (b) => packet(0x30, 't', properties(0x03, field(b)))],
  ['the Response Topic', (b) => packet(0x30, 't', properties(0x08, field(b)))],
  ['a User Property name of PUBLISH', (b) => packet(0x30, 't', properties(USER, field(b), 'v'))],
  ['a User Property value of PUBLISH', (b) => packet(0x30, 't', properties(USER, 'n', field(b)))],
  ['a Topic Filter of SUBSCRIBE', (b) => packet(0x82, uint16(1), NONE, 'ok', 0, field(b), 0)],
  ['a User Property of SUBSCRIBE', (b) => packet(0x82, uint16(1), properties(USER, field(b), ''), 'a', 0)],
  ['a Topic Filter of UNSUBSCRIBE', (b) => packet(0xa2, uint16(1), NONE, field(b))],
  ['a User Property of UNSUBSCRIBE', (b) => packet(0xa2, uint16(1), properties(USER, '', field(b)), 'a')],
  ...([0x40, 0x50, 0x62, 0x70] as const).flatMap((first) => [
    [
      `the Reason String of 0x${first.toString(16)}`,
      (b: readonly number[]) => packet(first, uint16(1), 0, properties(0x1f, field(b))),
    ] as const,
    [
      `a User Property of 0x${first.toString(16)}`,
      (b: readonly number[]) => packet(first, uint16(1), 0, properties(USER, 'n', field(b))),
    ] as const,
  ]),
  ['the Reason String of DISCONNECT', (b) => packet(0xe0, 0, properties(0x1f, field(b)))],
  ['a User Property of DISCONNECT', (b) => packet(0xe0, 0, properties(USER, field(b), 'v'))],
  ['the Authentication Method of AUTH', (b) => packet(0xf0, 0x18, properties(0x15, field(b)))],
  ['the Reason String of AUTH', (b) => packet(0xf0, 0x18, properties(0x15, 'm', 0x1f, field(b)))],
]

const ILL_FORMED: readonly (readonly number[])[] = [
  [0xed, 0xa0, 0x80], // U+D800
  [0x61, 0xed, 0xbf, 0xbf], // U+DFFF
  [0xed, 0xa0, 0x80, 0xed, 0xb0, 0x80], // a surrogate pair
  [0xc1, 0xbf], // longer than it needs to be
  [0xf4, 0x90, 0x80, 0x80], // above U+10FFFF
  [0x61, 0x80], // a continuation of nothing
  [0xe2, 0x98], // cut
  [0xff],
]

async function expectMalformed(bytes: Buffer): Promise<void> {
  const world = await World.make()
  if (bytes[0] === 0x10) await expectConnectRefused(world, bytes, 0x81)
  else await expectRefused(await world.connect('a'), bytes, 0x81)
}

describe('UTF-8 Encoded Strings', () => {
  it.each(STRINGS)(
    '[MQTT-1.5.4-1] [MQTT-1.5.7-1] ' + '%s that is ill-formed UTF-8 is refused with 0x81',
    async (_, make) => {
      for (const bytes of ILL_FORMED) await expectMalformed(make(bytes))
    },
  )

  it.each(STRINGS)('[MQTT-1.5.4-2] [MQTT-1.5.7-1] %s with U+0000 is refused with 0x81', async (_, make) => {
    for (const bytes of [[0], [0x61, 0, 0x62], [0x61, 0]]) await expectMalformed(make(bytes))
  })

  it(
    '[MQTT-1.5.4-3] ' +
      'U+FEFF is a character: in names and filters, in Client Identifiers, and in forwarded strings',
    async () => {
      const world = await World.make()
      const mark = '\ufeff'
      const marked = await world.connect(`${mark}a`)
      const plain = await world.connect('a')
      expect(Array.from(world.server.state.sessions.values(), ({ clientId }) => clientId)).toEqual([
        '\ufeffa',
        'a',
      ])
      await marked.subscribe(`${mark}t`)
      await plain.subscribe('t')
      const pub = await world.connect('pub')
      sent(marked)
      const forwarded = properties(0x03, mark, USER, `${mark}n`, `v${mark}`)
      await pub.bytes(packet(0x30, `${mark}t`, forwarded, Buffer.from('x')))
      expect(sent(marked)).toBe(
        packet(0x30, Buffer.from('0004efbbbf74', 'hex'), forwarded, Buffer.from('x')).toString('hex'),
      )
      expect(plain.got()).toEqual([])
    },
  )

  it('all of Unicode passes, up to its last character and next to the surrogates', async () => {
    const world = await World.make()
    const topic = '\u0001\u007f\u0080\u07ff\u0800\ud7ff\ue000\ufffd\uffff\u{10000}\u{10ffff}'
    const sub = await world.connect(topic)
    expect(await sub.subscribe(topic)).toBe(0)
    await (await world.connect('pub')).publish(topic, 'x')
    expect(sub.got()).toMatchObject([{ cmd: 'publish', topic }])
  })
})

describe('Variable Byte Integers', () => {
  const longer = (value: number, bytes: number): Buffer => {
    const padded = Buffer.alloc(bytes)
    for (let at = 0; at < bytes; at++)
      padded[at] = ((value >>> (7 * at)) & 0x7f) | (at < bytes - 1 ? 0x80 : 0)
    return padded
  }
  const raw = (first: number, length: Buffer, ...rest: Buffer[]) =>
    Buffer.concat([Buffer.from([first]), length, ...rest])

  it.each([
    ['Remaining Length 0 in two bytes', raw(0xc0, longer(0, 2))],
    ['Remaining Length 0 in four bytes', raw(0xc0, longer(0, 4))],
    ['Remaining Length 4 in three bytes', raw(0x30, longer(4, 3), field('t'), NONE)],
    ['Remaining Length 127 in two bytes', raw(0x30, longer(127, 2), field('t'), NONE, Buffer.alloc(123))],
    ['Property Length of PUBLISH', packet(0x30, 't', longer(0, 2))],
    ['Property Length of PUBACK', packet(0x40, uint16(1), 0, longer(0, 2))],
    ['Property Length of SUBSCRIBE', packet(0x82, uint16(1), longer(0, 3), 't', 0)],
    ['Property Length of UNSUBSCRIBE', packet(0xa2, uint16(1), longer(0, 4), 't')],
    ['Property Length of DISCONNECT', packet(0xe0, 0, longer(0, 2))],
    ['Property Length of AUTH', packet(0xf0, 0x18, longer(4, 2), 0x15, 'm')],
    ['a Subscription Identifier', packet(0x82, uint16(1), properties(0x0b, longer(5, 2)), 't', 0)],
    ['Property Length of CONNECT', connect(5, 2, longer(0, 2), 'a')],
    ['Property Length of a Will', connect(5, 6, NONE, 'a', longer(0, 2), 'w', 'w')],
    ['Remaining Length of CONNECT', raw(0x10, longer(14, 2), connect(5, 2, NONE, 'a').subarray(2))],
  ])('[MQTT-1.5.5-1] %s longer than it needs to be is refused with 0x81', async (_, bytes) => {
    const world = await World.make()
    if (bytes[0] === 0x10) {
      const client = world.open(5)
      const answers = await client.bytes(bytes)
      // Before the protocol name is read nobody knows what the client speaks.
      expect(answers.every((p) => p.cmd === 'connack' && p.reasonCode === 0x81)).toBe(true)
      expect(client.closed).toBe(true)
    } else await expectRefused(await world.connect('a'), bytes, 0x81)
  })

  it.each([
    ['Remaining Length', Buffer.from('30ffffffff01', 'hex')],
    ['Remaining Length with a valid continuation', Buffer.from('308080808001', 'hex')],
    ['Property Length', packet(0x30, 't', Buffer.from('8080808001', 'hex'), Buffer.alloc(9))],
    [
      'a Subscription Identifier',
      packet(0x82, uint16(1), properties(0x0b, [0xff, 0xff, 0xff, 0xff, 1]), 't', 0),
    ],
  ])('a %s of five bytes is refused with 0x81', async (_, bytes) => {
    await expectRefused(await (await World.make()).connect('a'), bytes, 0x81)
  })

  it('[MQTT-1.5.5-1] the Server’s own are minimal, on both sides of each change of length', async () => {
    const world = await World.make()
    const sub = await world.connect('sub')
    await sub.subscribe('t')
    const pub = await world.connect('pub')
    for (const remaining of [127, 128, 16_383, 16_384, 2_097_151, 2_097_152]) {
      sent(sub)
      const payload = Buffer.alloc(remaining - 4, 0x78)
      await pub.bytes(packet(0x30, 't', NONE, payload))
      const answer = Buffer.concat([Buffer.from([0x30]), variable(remaining)]).toString('hex')
      expect(sent(sub).slice(0, answer.length + 8)).toBe(`${answer}00017400`)
    }
  })
})

describe('reserved flags', () => {
  /** A client's Control Packets except PUBLISH, by type: the flags that they must have, and a valid body. */
  const FLAGS: readonly (readonly [name: string, type: number, flags: number, body: Buffer])[] = [
    ['PUBACK', 4, 0, uint16(1)],
    ['PUBREC', 5, 0, uint16(1)],
    ['PUBREL', 6, 2, uint16(1)],
    ['PUBCOMP', 7, 0, uint16(1)],
    ['SUBSCRIBE', 8, 2, subscribe(5, 1, 't', 0).subarray(2)],
    ['UNSUBSCRIBE', 10, 2, unsubscribe(5, 1, 't').subarray(2)],
    ['PINGREQ', 12, 0, Buffer.alloc(0)],
    ['DISCONNECT', 14, 0, Buffer.alloc(0)],
    ['AUTH', 15, 0, Buffer.concat([Buffer.from([0x18]), properties(0x15, 'm')])],
  ]

  it.each(FLAGS)(
    '[MQTT-2.1.3-1] [MQTT-4.13.1-1] ' +
      'every other flag of %s is refused with 0x81, and the packet has no effect',
    async (_, type, right, body) => {
      const world = await World.make()
      for (let flags = 0; flags < 16; flags++) {
        if (flags === right) continue
        await expectRefused(await world.connect('a'), packet((type << 4) | flags, body), 0x81)
        expect(world.census()).toMatchObject({ subscriptions: 0 })
      }
    },
  )

  it(
    '[MQTT-3.6.1-1] ' + 'a PUBREL whose flags are not 0010 is malformed, and its message is not released',
    async () => {
      const world = await World.make()
      // The Session outlives the Network Connection, and so do messages that were not released.
      const lasting = { clean: false, properties: { sessionExpiryInterval: 60 } }
      for (let flags = 0; flags < 16; flags++) {
        if (flags === 2) continue
        const client = await world.connect('a', lasting)
        await client.bytes(publish(5, 4, 't', 1))
        const session = world.server.state.sessions.get('a')
        await expectRefused(client, packet(0x60 | flags, uint16(1)), 0x81)
        expect(session?.isInbound(1)).toBe(true)
      }
      const right = await world.connect('a', lasting)
      expect(await right.bytes(acknowledge(0x62, 1))).toMatchObject([{ cmd: 'pubcomp', reasonCode: 0 }])
    },
  )

  it('[MQTT-2.1.3-1] a CONNECT with flags is not answered', async () => {
    const world = await World.make()
    for (let flags = 1; flags < 16; flags++) {
      const client = world.open(5)
      const bytes = connect(5, 2, NONE, 'a')
      bytes[0] = 0x10 | flags
      expect(await client.bytes(bytes)).toEqual([])
      expect(client.closed).toBe(true)
    }
    expect(world.census()).toMatchObject({ sessions: 0 })
  })

  it('[MQTT-2.1.3-1] the Server’s own flags are right on every packet that it sends', async () => {
    const world = await World.make()
    const firsts: string[] = []
    const client = world.open(5)
    const note = async (bytes: Buffer) => {
      await client.bytes(bytes)
      firsts.push(sent(client).slice(0, 2))
    }
    await note(connect(5, 2, NONE, 'a'))
    await note(subscribe(5, 1, 't', 2))
    await note(publish(5, 2, 'u', 2))
    await note(publish(5, 4, 'u', 3))
    await note(acknowledge(0x62, 3))
    await note(packet(0xc0))
    await note(publish(5, 0, 't'))
    await client.bytes(publish(5, 4, 't', 4))
    sent(client)
    await note(acknowledge(0x50, 1))
    await note(unsubscribe(5, 5, 't'))
    await note(packet(0x00))
    expect(firsts).toEqual(['20', '90', '40', '50', '70', 'd0', '30', '62', 'b0', 'e0'])
  })

  it.each([
    ['0', [0x00], 0x81],
    ['CONNACK', [0x20, 0x23], 0x82],
    ['SUBACK', [0x90, 0x92], 0x82],
    ['UNSUBACK', [0xb0, 0xb2], 0x82],
    ['PINGRESP', [0xd0, 0xdf], 0x82],
  ] as const)('packet type %s is not for a Server', async (_, firsts, reasonCode) => {
    for (const first of firsts) {
      await expectRefused(await (await World.make()).connect('a'), packet(first, uint16(1), 0), reasonCode)
    }
  })
})

describe('Packet Identifiers', () => {
  it('[MQTT-2.2.1-2] QoS 0 has none: properties and payload follow the Topic Name, both ways', async () => {
    const world = await World.make()
    const sub = await world.connect('sub')
    await sub.subscribe('t', 2)
    sent(sub)
    const bytes = packet(0x30, 't', NONE, [0, 5, 0, 1])
    await (await world.connect('pub')).bytes(bytes)
    expect(sent(sub)).toBe(bytes.toString('hex'))
    // These bytes look like an identifier, but are a Property Length of 0 and a payload.
    await (await world.connect('pub')).bytes(packet(0x30, 't', [0, 9]))
    expect(sent(sub)).toBe(packet(0x30, 't', NONE, [9]).toString('hex'))
  })

  it.each([
    ['PUBLISH QoS 1', publish(5, 2, 't', 0)],
    ['PUBLISH QoS 2', publish(5, 4, 't', 0)],
    ['SUBSCRIBE', subscribe(5, 0, 't', 0)],
    ['UNSUBSCRIBE', unsubscribe(5, 0, 't')],
    ['PUBACK', acknowledge(0x40, 0)],
    ['PUBREC', acknowledge(0x50, 0)],
    ['PUBREL', acknowledge(0x62, 0)],
    ['PUBCOMP', acknowledge(0x70, 0)],
  ])('[MQTT-2.2.1-3] %s with 0 is refused with 0x81', async (_, bytes) => {
    const world = await World.make()
    const seen = world.record('published')
    await expectRefused(await world.connect('a'), bytes, 0x81)
    expect([seen.length, world.census().subscriptions]).toEqual([0, 0])
  })

  it(
    '[MQTT-2.2.1-3] ' +
      'one that belongs to a QoS 2 message until PUBREL is refused with 0x91, and the packet has no ' +
      'effect',
    async () => {
      const world = await World.make()
      const seen = world.record('published')
      const client = await world.connect('a')
      await client.subscribe('kept')
      await client.bytes(publish(5, 4, 't', 9))
      sent(client)
      await client.bytes(publish(5, 2, 't', 9, 'another'))
      expect(sent(client)).toBe('4003000991')
      await client.bytes(subscribe(5, 9, 'a', 0, 'b', 0))
      expect(sent(client)).toBe('9005000900' + '9191')
      await client.bytes(unsubscribe(5, 9, 'kept'))
      expect(sent(client)).toBe('b004000900' + '91')
      expect([seen.length, world.census().subscriptions]).toEqual([1, 1])
      await client.bytes(acknowledge(0x62, 9))
      sent(client)
      await client.bytes(publish(5, 2, 't', 9))
      expect(sent(client)).toBe('4003000910')
    },
  )

  it('one that an earlier connection left is free, since the client may have lost its state', async () => {
    const world = await World.make()
    const first = await world.connect('a', lasting())
    await first.subscribe('kept')
    await first.bytes(publish(5, 4, 't', 9, 'one'))
    await first.vanish()
    const client = await world.connect('a', lasting())
    const pub = await world.connect('pub')
    await pub.subscribe('t', 1)
    sent(client)
    await client.bytes(subscribe(5, 9, 'a', 0))
    expect(sent(client)).toBe('900400090000')
    await client.bytes(publish(5, 2, 't', 9, 'two'))
    expect(sent(client)).toBe('40020009')
    await client.bytes(unsubscribe(5, 9, 'kept'))
    expect(sent(client)).toBe('b004000900' + '00')
    // [MQTT-4.3.3-10] forbids delivering one message twice. Another message is delivered and takes the
    // identifier.
    await client.bytes(publish(5, 4, 't', 9, 'three'))
    expect(sent(client)).toBe('50020009')
    await client.bytes(subscribe(5, 9, 'b', 0))
    expect(sent(client)).toBe('900400090091')
    expect(pub.texts()).toEqual(['two', 'three'])
  })

  it.each([1, 0x1234, 65_535])(
    '[MQTT-2.2.1-5] [MQTT-2.2.1-6] every answer has the identifier %i of the packet that it answers',
    async (packetId) => {
      const world = await World.make()
      const client = await world.connect('a')
      const hex = packetId.toString(16).padStart(4, '0')
      const answer = async (bytes: Buffer): Promise<string> => {
        sent(client)
        await client.bytes(bytes)
        return sent(client)
      }
      expect(await answer(subscribe(5, packetId, 'x', 2))).toBe(`9004${hex}0002`)
      expect(await answer(unsubscribe(5, packetId, 'x'))).toBe(`b004${hex}0000`)
      expect(await answer(publish(5, 2, 't', packetId))).toBe(`4003${hex}10`)
      expect(await answer(publish(5, 4, 't', packetId))).toBe(`5003${hex}10`)
      expect(await answer(acknowledge(0x62, packetId))).toBe(`7002${hex}`)
      expect(await answer(acknowledge(0x50, packetId))).toBe(`6203${hex}92`)
    },
  )

  it('[MQTT-2.2.1-4] [MQTT-2.2.1-5] the Server’s own are not 0, not in use, and kept by PUBREL', async () => {
    const world = await World.make()
    const sub = await world.connect('sub')
    await sub.subscribe('#', 2)
    const pub = await world.connect('pub')
    for (const qos of [1, 2, 1, 2] as const) await pub.publish('t', '', qos)
    const ids = sub.got().map(({ messageId }) => messageId)
    expect(new Set(ids).size).toBe(4)
    expect(ids).not.toContain(0)
    // Only the second one is acknowledged: its identifier alone is free.
    expect(await sub.send({ cmd: 'pubrec', messageId: ids[1] })).toMatchObject([
      { cmd: 'pubrel', messageId: ids[1] },
    ])
    await pub.publish('t', '', 1)
    expect(ids).not.toContain(sub.got()[0]?.messageId)
  })
})

describe('Property Length', () => {
  it('[MQTT-2.2.2-1] is 0 in packets of the Server without properties', async () => {
    const world = await World.make({ limits: { profile: 'open', topicAliasMaximum: 0 } })
    const client = world.open(5)
    await client.bytes(connect(5, 2, NONE, 'a'))
    expect(sent(client)).toBe('2003000000')
    await client.bytes(subscribe(5, 1, 't', 1))
    expect(sent(client)).toBe('900400010001')
    await client.bytes(unsubscribe(5, 1, 'u'))
    expect(sent(client)).toBe('b00400010011')
    await client.bytes(publish(5, 0, 't'))
    expect(sent(client)).toBe('30050001740078')
    await (await world.connect('pub')).bytes(publish(5, 2, 't', 1))
    expect(sent(client)).toBe('320700017400010078')
  })

  it.each([
    ['CONNECT', connect(5, 2)],
    ['CONNECT, its Will', connect(5, 6, NONE, 'a')],
    ['PUBLISH', packet(0x30, 't')],
    ['PUBLISH QoS 1', packet(0x32, 't', uint16(1))],
    ['SUBSCRIBE', packet(0x82, uint16(1))],
    ['UNSUBSCRIBE', packet(0xa2, uint16(1))],
    ['AUTH', packet(0xf0, 0x18)],
  ])('[MQTT-2.2.2-1] %s without one is malformed', async (_, bytes) => {
    await expectMalformed(bytes)
  })
})
