/** The table of named packets, valid and malformed, that clients may send; and the means to build more. */
import { decodeConnect } from '../../src/mqtt/codec/connect.ts'
import { decode } from '../../src/mqtt/codec/decode.ts'
import { Framer, PACKET_BYTES_MAX } from '../../src/mqtt/codec/framer.ts'
import { writeVariableByteInteger } from '../../src/mqtt/field.ts'
import type { ClientPacket, ProtocolVersion } from '../../src/mqtt/packet.ts'
import { Reason } from '../../src/mqtt/reason.ts'
import { TopicInterner } from '../../src/mqtt/topic-interner.ts'

type Part = string | number | readonly number[] | Buffer

/** A length-prefixed string or binary value. */
export function field(value: string | readonly number[]): Buffer {
  const bytes = typeof value === 'string' ? Buffer.from(value) : Buffer.from(value)
  return Buffer.concat([uint16(bytes.length), bytes])
}

export function uint16(value: number): Buffer {
  return Buffer.from([value >>> 8, value & 0xff])
}

export function uint32(value: number): Buffer {
  return Buffer.concat([uint16(value >>> 16), uint16(value & 0xffff)])
}

export function variable(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  return bytes.subarray(0, writeVariableByteInteger(bytes, 0, value))
}

/** Properties with their length. */
export function properties(...parts: readonly Part[]): Buffer {
  const bytes = joined(parts)
  return Buffer.concat([variable(bytes.length), bytes])
}

/** A packet with a right Remaining Length. Numbers are bytes, strings are fields with a length. */
export function packet(firstByte: number, ...parts: readonly Part[]): Buffer {
  const body = joined(parts)
  return Buffer.concat([Buffer.from([firstByte]), variable(body.length), body])
}

/** A CONNECT; `tail` begins after Keep Alive. */
export function connect(level: number, flags: number, ...tail: readonly Part[]): Buffer {
  return packet(0x10, level === 3 ? 'MQIsdp' : 'MQTT', level, flags, uint16(60), ...tail)
}

function joined(parts: readonly Part[]): Buffer {
  return Buffer.concat(
    parts.map((part) => {
      if (typeof part === 'string') return field(part)
      return typeof part === 'number' ? Buffer.from([part]) : Buffer.from(part)
    }),
  )
}

const NONE = properties()
const USER = 0x26

/** A framer past its CONNECT, of a client that speaks this version. */
export function framerAfterConnect(
  version: ProtocolVersion,
  packetBytesMax: number = PACKET_BYTES_MAX,
): Framer {
  const framer = new Framer(packetBytesMax)
  framer.push(CONNECTS[version])
  if (!framer.next()) throw new Error('the CONNECT is not whole')
  framer.version = version
  return framer
}

const CONNECTS: Readonly<Record<ProtocolVersion, Buffer>> = {
  3: connect(3, 2, 'a'),
  4: connect(4, 2, 'a'),
  5: connect(5, 2, NONE, 'a'),
}

/** Frames and decodes everything in these bytes, of which CONNECTs must be first. Throws ProtocolError. */
export function decodeAll(
  chunks: readonly Buffer[],
  version: ProtocolVersion,
  topics = new TopicInterner(1000),
): ClientPacket[] {
  const first = chunks.find((chunk) => chunk.length > 0)
  const isConnect = first !== undefined && first[0]! >> 4 === 1
  const framer = isConnect ? new Framer(PACKET_BYTES_MAX) : framerAfterConnect(version)
  const packets: ClientPacket[] = []
  let awaitsConnect = isConnect
  for (const chunk of chunks) {
    framer.push(chunk)
    while (framer.next()) {
      packets.push(awaitsConnect ? decodeConnect(framer) : decode(framer, version, topics))
      awaitsConnect = false
    }
  }
  return packets
}

export interface NamedPacket {
  readonly name: string
  readonly version: ProtocolVersion
  readonly bytes: Buffer
}

export interface MalformedPacket extends NamedPacket {
  readonly reasonCode: Reason
  /** The statement, or section, that it breaks. */
  readonly statement: string
}

const WILL_PROPERTIES = properties(
  0x18,
  uint32(30),
  0x01,
  1,
  0x02,
  uint32(60),
  0x03,
  'text/plain',
  0x08,
  'answers',
  0x09,
  'id',
  USER,
  'b',
  '1',
  USER,
  'a',
  '2',
  USER,
  'b',
  '3',
)
const PUBLISH_PROPERTIES = properties(
  0x01,
  1,
  0x02,
  uint32(60),
  0x23,
  uint16(7),
  0x03,
  'text/plain',
  0x08,
  'answers',
  0x09,
  'id',
  USER,
  '__proto__',
  '1',
  USER,
  'a',
  '',
  USER,
  '__proto__',
  '3',
)
const REASON_AND_USER = properties(0x1f, 'because', USER, 'a', '1', USER, 'a', '2')

/** Packets that the standards allow. */
export const VALID_PACKETS: readonly NamedPacket[] = [
  valid(3, 'CONNECT, 3.1', connect(3, 2, 'client')),
  valid(3, 'CONNECT, 3.1, the reserved flag', connect(3, 3, 'client')),
  valid(3, 'CONNECT, 3.1, a bridge', packet(0x10, 'MQIsdp', 0x83, 2, uint16(60), 'client')),
  valid(4, 'CONNECT, 3.1.1, a bridge', packet(0x10, 'MQTT', 0x84, 2, uint16(60), 'client')),
  valid(3, 'CONNECT, 3.1, everything', connect(3, 0xee, 'client', 'will', 'gone', 'user', 'pass')),
  valid(3, 'CONNECT, 3.1, User Name flag without User Name', connect(3, 0xc2, 'client')),
  valid(3, 'CONNECT, 3.1, Password flag without Password', connect(3, 0xc2, 'client', 'user')),
  valid(4, 'CONNECT, 3.1.1', connect(4, 2, 'client')),
  valid(4, 'CONNECT, empty Client Identifier', connect(4, 2, '')),
  valid(4, 'CONNECT, 3.1.1, everything', connect(4, 0xf4, 'client', 'will', 'gone', 'user', 'pass')),
  valid(4, 'CONNECT, Client Identifier with U+FEFF', connect(4, 2, '\ufeffclient\ufeff')),
  valid(5, 'CONNECT, 5.0', connect(5, 2, NONE, 'client')),
  valid(5, 'CONNECT, 5.0, Password without User Name', connect(5, 0x42, NONE, 'client', 'token')),
  valid(
    5,
    'CONNECT, 5.0, everything',
    connect(
      5,
      0xee,
      properties(
        0x11,
        uint32(3600),
        0x21,
        uint16(10),
        0x27,
        uint32(100_000),
        0x22,
        uint16(5),
        0x19,
        1,
        0x17,
        0,
        USER,
        'z',
        '1',
        USER,
        '__proto__',
        '2',
        USER,
        'z',
        '',
        0x15,
        'SCRAM',
        0x16,
        'data',
      ),
      'client',
      WILL_PROPERTIES,
      'will/topic',
      'gone',
      'user',
      'pass',
    ),
  ),
  valid(4, 'PUBLISH QoS 0', packet(0x30, 'a/b', Buffer.from('payload'))),
  valid(4, 'PUBLISH QoS 0, no payload, RETAIN', packet(0x31, 'a/b')),
  valid(4, 'PUBLISH QoS 1, DUP', packet(0x3a, 'a/b', uint16(1), Buffer.from('payload'))),
  valid(4, 'PUBLISH QoS 2, RETAIN', packet(0x35, 'a/b', uint16(65_535), Buffer.from('payload'))),
  valid(4, 'PUBLISH, topic name beyond ASCII', packet(0x30, 'größe/☃/𝄞/\ufeff', Buffer.from('x'))),
  valid(4, 'PUBLISH, Remaining Length of two bytes', packet(0x30, 'a', Buffer.alloc(200, 'x'))),
  valid(4, 'PUBLISH, Remaining Length of three bytes', packet(0x30, 'a', Buffer.alloc(20_000, 'x'))),
  valid(5, 'PUBLISH QoS 0, 5.0', packet(0x30, 'a/b', NONE, Buffer.from('payload'))),
  valid(5, 'PUBLISH QoS 1, every property', packet(0x32, 'a/b', uint16(9), PUBLISH_PROPERTIES, [1, 2, 3])),
  valid(5, 'PUBLISH, alias for the topic name', packet(0x30, '', properties(0x23, uint16(1)), [1])),
  valid(
    5,
    'PUBLISH, properties of more than 127 bytes',
    packet(0x30, 'a', properties(USER, 'n', 'v'.repeat(200))),
  ),
  ...(['PUBACK', 'PUBREC', 'PUBREL', 'PUBCOMP'] as const).flatMap((name, index) => {
    const first = ((4 + index) << 4) | (name === 'PUBREL' ? 2 : 0)
    const failure = index < 2 ? 0x97 : 0x92
    return [
      valid(4, `${name}`, packet(first, uint16(1))),
      valid(5, `${name}, 5.0, short`, packet(first, uint16(258))),
      valid(5, `${name}, 5.0, Reason Code`, packet(first, uint16(1), failure)),
      valid(5, `${name}, 5.0, no properties`, packet(first, uint16(1), 0, NONE)),
      valid(5, `${name}, 5.0, properties`, packet(first, uint16(1), failure, REASON_AND_USER)),
    ]
  }),
  valid(3, 'PUBLISH QoS 0 with DUP, 3.1', packet(0x38, 'a/b', Buffer.from('payload'))),
  valid(3, 'PUBACK with every flag, 3.1', packet(0x4f, uint16(1))),
  valid(3, 'PINGREQ with every flag, 3.1', packet(0xcf)),
  valid(3, 'DISCONNECT with every flag, 3.1', packet(0xef)),
  valid(3, 'PUBREL with RETAIN, 3.1', packet(0x63, uint16(1))),
  valid(3, 'SUBSCRIBE with RETAIN and reserved bits, 3.1', packet(0x83, uint16(1), 'a', 0xfd)),
  valid(3, 'PUBREL with DUP, 3.1', packet(0x6a, uint16(1))),
  valid(3, 'SUBSCRIBE with DUP, 3.1', packet(0x8a, uint16(1), 'a', 1)),
  valid(3, 'UNSUBSCRIBE with DUP, 3.1', packet(0xaa, uint16(1), 'a')),
  valid(4, 'SUBSCRIBE', packet(0x82, uint16(1), 'a/+/b', 0, '#', 1, '$share/g/a', 2)),
  valid(5, 'SUBSCRIBE, 5.0', packet(0x82, uint16(1), NONE, 'a/+/b', 0x2e, '#', 0x10)),
  valid(5, 'SUBSCRIBE, syntax left to the Server', packet(0x82, uint16(1), NONE, 'a#', 0, '', 0)),
  valid(
    5,
    'SUBSCRIBE, 5.0, properties',
    packet(0x82, uint16(1), properties(USER, 'b', '1', 0x0b, variable(268_435_455), USER, 'a', '2'), '#', 0),
  ),
  valid(4, 'UNSUBSCRIBE', packet(0xa2, uint16(1), 'a/+/b', '#')),
  valid(5, 'UNSUBSCRIBE, 5.0', packet(0xa2, uint16(1), properties(USER, 'b', '1'), 'a/+/b', '#')),
  valid(4, 'PINGREQ', packet(0xc0)),
  valid(4, 'DISCONNECT', packet(0xe0)),
  valid(5, 'DISCONNECT, 5.0, short', packet(0xe0)),
  valid(5, 'DISCONNECT, 5.0, Reason Code', packet(0xe0, 4)),
  valid(5, 'DISCONNECT, 5.0, no properties', packet(0xe0, 4, NONE)),
  valid(
    5,
    'DISCONNECT, 5.0, properties',
    packet(0xe0, 0x98, properties(0x11, uint32(9), 0x1f, 'why', USER, '', '')),
  ),
  valid(5, 'AUTH', packet(0xf0, 0x18, properties(0x15, 'SCRAM', 0x16, 'data', 0x1f, 'on', USER, 'a', 'b'))),
  valid(5, 'AUTH, re-authentication without data', packet(0xf0, 0x19, properties(0x15, 'SCRAM'))),
]

const NOT_UTF8: readonly (readonly [name: string, bytes: readonly number[]])[] = [
  ['U+0000', [0x61, 0x00]],
  ['a surrogate', [0xed, 0xa0, 0x80]],
  ['an overlong form', [0xc0, 0x80]],
  ['an overlong slash', [0xe0, 0x80, 0xaf]],
  ['a code point above U+10FFFF', [0xf4, 0x90, 0x80, 0x80]],
  ['a lone continuation byte', [0x61, 0x80]],
  ['a cut sequence', [0x61, 0xe2, 0x98]],
  ['0xFF', [0xff]],
]

/** Packets that the standards forbid, with the answer that is due. */
export const MALFORMED_PACKETS: readonly MalformedPacket[] = [
  // Fixed header
  malformed(4, 'packet type 0', Buffer.from([0x00, 0x00]), 0x81, '2.1.2'),
  malformed(4, 'AUTH before 5.0', packet(0xf0, 0x18, NONE), 0x81, '2.2.1'),
  ...[0x41, 0x58, 0x60, 0x6a, 0x72, 0x80, 0x8a, 0xa0, 0xaa, 0xc1, 0xe4, 0xf2].map((first) =>
    malformed(5, `reserved flags in 0x${first.toString(16)}`, Buffer.from([first]), 0x81, 'MQTT-2.1.3-1'),
  ),
  malformed(3, 'QoS 2 in SUBSCRIBE, 3.1', Buffer.from([0x84]), 0x81, 'MQTT-2.1.3-1'),
  malformed(3, 'QoS 0 in PUBREL, 3.1', Buffer.from([0x60]), 0x81, 'MQTT-2.1.3-1'),
  ...[0x20, 0x90, 0xb0, 0xd0].map((first) =>
    malformed(5, `server’s packet 0x${first.toString(16)}`, Buffer.from([first, 0]), 0x82, '4.13'),
  ),
  malformed(4, 'PUBLISH QoS 3', Buffer.from([0x36]), 0x81, 'MQTT-3.3.1-4'),
  malformed(5, 'Remaining Length in two bytes for one', Buffer.from([0xc0, 0x80, 0]), 0x81, 'MQTT-1.5.5-1'),
  malformed(
    5,
    'Remaining Length in four bytes for one',
    Buffer.from([0x40, 0x82, 0x80, 0x80, 0]),
    0x81,
    'MQTT-1.5.5-1',
  ),
  malformed(
    5,
    'Remaining Length of five bytes',
    Buffer.from([0x30, 0xff, 0xff, 0xff, 0xff, 1]),
    0x81,
    '1.5.5',
  ),
  malformed(
    4,
    'second CONNECT',
    Buffer.concat([connect(4, 2, 'a'), connect(4, 2, 'a')]),
    0x82,
    'MQTT-3.1.0-2',
  ),
  malformed(4, 'PINGREQ with a body', packet(0xc0, 0), 0x81, '2.1.4'),

  // CONNECT
  malformed(
    4,
    'CONNECT, wrong protocol name',
    packet(0x10, 'MQTX', 4, 2, uint16(0), 'a'),
    0x84,
    'MQTT-3.1.2-1',
  ),
  malformed(
    4,
    'CONNECT, name in lower case',
    packet(0x10, 'mqtt', 4, 2, uint16(0), 'a'),
    0x84,
    'MQTT-3.1.2-1',
  ),
  malformed(
    4,
    'CONNECT, 3.1’s name, level 4',
    packet(0x10, 'MQIsdp', 4, 2, uint16(0), 'a'),
    0x84,
    'MQTT-3.1.2-1',
  ),
  malformed(5, 'CONNECT, level 6', packet(0x10, 'MQTT', 6, 2, uint16(0), NONE, 'a'), 0x84, 'MQTT-3.1.2-2'),
  malformed(4, 'CONNECT, level 3', packet(0x10, 'MQTT', 3, 2, uint16(0), 'a'), 0x84, 'MQTT-3.1.2-2'),
  malformed(4, 'CONNECT, level 0x83', packet(0x10, 'MQTT', 0x83, 2, uint16(0), 'a'), 0x84, 'MQTT-3.1.2-2'),
  malformed(4, 'CONNECT, level 0x85', packet(0x10, 'MQTT', 0x85, 2, uint16(0), 'a'), 0x84, 'MQTT-3.1.2-2'),
  malformed(4, 'CONNECT, reserved flag', connect(4, 3, 'a'), 0x81, 'MQTT-3.1.2-3'),
  malformed(4, 'CONNECT, Will QoS without Will', connect(4, 0x0a, 'a'), 0x81, 'MQTT-3.1.2-11'),
  malformed(4, 'CONNECT, Will Retain without Will', connect(4, 0x22, 'a'), 0x81, 'MQTT-3.1.2-13'),
  malformed(4, 'CONNECT, Will QoS 3', connect(4, 0x1e, 'a', 'w', 'p'), 0x81, 'MQTT-3.1.2-12'),
  malformed(4, 'CONNECT, Password without User Name', connect(4, 0x42, 'a', 'p'), 0x81, 'MQTT-3.1.2-22'),
  malformed(4, 'CONNECT, User Name missing', connect(4, 0x82, 'a'), 0x81, '1.2'),
  malformed(4, 'CONNECT, trailing byte', connect(4, 2, 'a', 0), 0x81, '2.1.4'),
  malformed(4, 'CONNECT, trailing field', connect(4, 2, 'a', 'b'), 0x81, '2.1.4'),
  malformed(4, 'CONNECT, Will Topic with wildcard', connect(4, 6, 'a', 'w/#', 'p'), 0x90, 'MQTT-3.3.2-2'),
  malformed(4, 'CONNECT, empty Will Topic', connect(4, 6, 'a', '', 'p'), 0x90, 'MQTT-4.7.3-1'),
  ...NOT_UTF8.flatMap(([name, bytes]) => [
    malformed(
      4,
      `CONNECT, Client Identifier with ${name}`,
      connect(4, 2, field(bytes)),
      0x81,
      'MQTT-1.5.4-1',
    ),
    malformed(
      4,
      `CONNECT, Will Topic with ${name}`,
      connect(4, 6, 'a', field(bytes), 'p'),
      0x81,
      'MQTT-1.5.4-1',
    ),
    malformed(
      4,
      `CONNECT, User Name with ${name}`,
      connect(4, 0x82, 'a', field(bytes)),
      0x81,
      'MQTT-1.5.4-1',
    ),
    malformed(4, `PUBLISH, topic name with ${name}`, packet(0x30, field(bytes)), 0x81, 'MQTT-1.5.4-1'),
    malformed(
      4,
      `SUBSCRIBE, filter with ${name}`,
      packet(0x82, uint16(1), field(bytes), 0),
      0x81,
      'MQTT-1.5.4-1',
    ),
    malformed(
      4,
      `UNSUBSCRIBE, filter with ${name}`,
      packet(0xa2, uint16(1), field(bytes)),
      0x81,
      'MQTT-1.5.4-1',
    ),
    malformed(
      5,
      `PUBLISH, User Property with ${name}`,
      packet(0x30, 'a', properties(USER, 'n', field(bytes))),
      0x81,
      'MQTT-1.5.4-1',
    ),
  ]),
  ...(
    [
      ['Receive Maximum 0', properties(0x21, uint16(0)), 0x82],
      ['Maximum Packet Size 0', properties(0x27, uint32(0)), 0x82],
      ['Request Problem Information 2', properties(0x17, 2), 0x82],
      ['Request Response Information 2', properties(0x19, 2), 0x82],
      ['Receive Maximum twice', properties(0x21, uint16(1), 0x21, uint16(1)), 0x82],
      ['Session Expiry Interval twice', properties(0x11, uint32(1), 0x11, uint32(1)), 0x82],
      ['Authentication Data without Method', properties(0x16, 'data'), 0x82, '3.1.2.11.10'],
      ['Authentication Method twice', properties(0x15, 'a', 0x15, 'a'), 0x82],
      ['Topic Alias', properties(0x23, uint16(1)), 0x81],
      ['Will Delay Interval outside the Will', properties(0x18, uint32(1)), 0x81],
      ['unknown property', properties(0x7f, 0), 0x81],
      ['property identifier 0', properties(0, 0), 0x81],
      ['property identifier in two bytes', properties(0xa6, 0, 'a', 'b'), 0x81],
      ['cut property', properties(0x11, 0, 0), 0x81, '1.2'],
      ['half a User Property', properties(USER, 'a'), 0x81, '1.2'],
      ['a string beyond the properties', properties(0x15, [0, 9, 0x61]), 0x81, '1.2'],
      ['Property Length not minimal', Buffer.from([0x80, 0]), 0x81, 'MQTT-1.5.5-1'],
      ['Property Length beyond the packet', Buffer.from([0x7f]), 0x81, '1.2'],
    ] as const
  ).map(([name, bytes, code, statement]) =>
    malformed(5, `CONNECT, ${name}`, connect(5, 2, bytes, 'a'), code, statement),
  ),
  malformed(
    5,
    'CONNECT, Will with alias',
    connect(5, 6, NONE, 'a', properties(0x23, uint16(1)), 'w', 'p'),
    0x81,
  ),
  malformed(
    5,
    'CONNECT, Will Delay twice',
    connect(5, 6, NONE, 'a', properties(0x18, uint32(1), 0x18, uint32(1)), 'w', 'p'),
    0x82,
  ),

  // PUBLISH
  malformed(4, 'PUBLISH, empty topic name', packet(0x30, '', [1]), 0x90, 'MQTT-4.7.3-1'),
  malformed(5, 'PUBLISH, neither topic name nor alias', packet(0x30, '', NONE), 0x82, '3.3.2.1'),
  malformed(4, 'PUBLISH, topic name with #', packet(0x30, 'a/#'), 0x90, 'MQTT-3.3.2-2'),
  malformed(4, 'PUBLISH, topic name with +', packet(0x30, '+/a'), 0x90, 'MQTT-3.3.2-2'),
  malformed(4, 'PUBLISH QoS 1, Packet Identifier 0', packet(0x32, 'a', uint16(0)), 0x81, 'MQTT-2.2.1-3'),
  malformed(4, 'PUBLISH QoS 1, no Packet Identifier', packet(0x32, 'a'), 0x81, '1.2'),
  malformed(4, 'PUBLISH QoS 0 with DUP', packet(0x38, 'a'), 0x81, 'MQTT-3.3.1-2'),
  malformed(4, 'PUBLISH, topic name beyond the packet', packet(0x30, [0, 9, 0x61]), 0x81, '1.2'),
  malformed(5, 'PUBLISH, no Property Length', packet(0x30, 'a'), 0x81, '1.2'),
  ...(
    [
      ['Topic Alias 0', properties(0x23, uint16(0)), 0x94, 'MQTT-3.3.2-8'],
      ['Topic Alias twice', properties(0x23, uint16(1), 0x23, uint16(1)), 0x82],
      ['Payload Format Indicator 2', properties(0x01, 2), 0x82],
      ['Payload Format Indicator twice', properties(0x01, 1, 0x01, 1), 0x82],
      ['Message Expiry Interval twice', properties(0x02, uint32(1), 0x02, uint32(1)), 0x82],
      ['Content Type twice', properties(0x03, 'a', 0x03, 'a'), 0x82],
      ['Correlation Data twice', properties(0x09, 'a', 0x09, 'a'), 0x82],
      ['Response Topic with wildcard', properties(0x08, 'a/+'), 0x82, 'MQTT-3.3.2-14'],
      ['Response Topic empty', properties(0x08, ''), 0x82, 'MQTT-4.7.3-1'],
      ['Subscription Identifier', properties(0x0b, 1), 0x82, 'MQTT-3.3.4-6'],
      ['Reason String', properties(0x1f, 'a'), 0x81],
      ['Session Expiry Interval', properties(0x11, uint32(1)), 0x81],
      ['unknown property', properties(0x04, 1), 0x81],
    ] as const
  ).map(([name, bytes, code, statement]) =>
    malformed(5, `PUBLISH, ${name}`, packet(0x30, 'a', bytes, [1]), code, statement),
  ),

  // Acknowledgements
  ...[0x40, 0x50, 0x62, 0x70].flatMap((first) => {
    const name = `acknowledgement 0x${first.toString(16)}`
    return [
      malformed(4, `${name}, Packet Identifier 0`, packet(first, uint16(0)), 0x81, 'MQTT-2.2.1-3'),
      malformed(4, `${name}, empty`, packet(first), 0x81, '1.2'),
      malformed(4, `${name}, one byte`, packet(first, 1), 0x81, '1.2'),
      malformed(4, `${name}, trailing byte`, packet(first, uint16(1), 0), 0x81, '2.1.4'),
      malformed(5, `${name}, trailing byte, 5.0`, packet(first, uint16(1), 0, NONE, 0), 0x81, '2.1.4'),
      malformed(5, `${name}, unknown Reason Code`, packet(first, uint16(1), 0x42), 0x82, '2.4'),
      ...(first < 0x60
        ? []
        : [malformed(5, `${name}, server’s Reason Code`, packet(first, uint16(1), 0x10), 0x82, '2.4')]),
      malformed(
        5,
        `${name}, alias`,
        packet(first, uint16(1), 0, properties(0x23, uint16(1))),
        0x81,
        '2.2.2.2',
      ),
      malformed(
        5,
        `${name}, two Reason Strings`,
        packet(first, uint16(1), 0, properties(0x1f, 'a', 0x1f, 'a')),
        0x82,
        '2.2.2.2',
      ),
    ]
  }),

  // SUBSCRIBE and UNSUBSCRIBE
  malformed(4, 'SUBSCRIBE, Packet Identifier 0', packet(0x82, uint16(0), 'a', 0), 0x81, 'MQTT-2.2.1-3'),
  malformed(4, 'SUBSCRIBE without filter', packet(0x82, uint16(1)), 0x82, 'MQTT-3.8.3-2'),
  malformed(5, 'SUBSCRIBE without filter, 5.0', packet(0x82, uint16(1), NONE), 0x82, 'MQTT-3.8.3-2'),
  malformed(4, 'SUBSCRIBE, QoS 3', packet(0x82, uint16(1), 'a', 3), 0x81, 'MQTT-3-8.3-4'),
  malformed(4, 'SUBSCRIBE, options of 5.0', packet(0x82, uint16(1), 'a', 4), 0x81, 'MQTT-3-8.3-4'),
  malformed(5, 'SUBSCRIBE, QoS 3, 5.0', packet(0x82, uint16(1), NONE, 'a', 3), 0x82, '3.8.3.1'),
  malformed(5, 'SUBSCRIBE, reserved bits', packet(0x82, uint16(1), NONE, 'a', 0x40), 0x81, 'MQTT-3.8.3-5'),
  malformed(5, 'SUBSCRIBE, Retain Handling 3', packet(0x82, uint16(1), NONE, 'a', 0x30), 0x82, '3.8.3.1'),
  malformed(5, 'SUBSCRIBE, options missing', packet(0x82, uint16(1), NONE, 'a'), 0x81, '1.2'),
  malformed(
    5,
    'SUBSCRIBE, Subscription Identifier 0',
    packet(0x82, uint16(1), properties(0x0b, 0), 'a', 0),
    0x82,
  ),
  malformed(
    5,
    'SUBSCRIBE, two Subscription Identifiers',
    packet(0x82, uint16(1), properties(0x0b, 1, 0x0b, 2), 'a', 0),
    0x82,
  ),
  malformed(
    5,
    'SUBSCRIBE, Subscription Identifier not minimal',
    packet(0x82, uint16(1), properties(0x0b, 0x81, 0), 'a', 0),
    0x81,
    'MQTT-1.5.5-1',
  ),
  malformed(5, 'SUBSCRIBE, Reason String', packet(0x82, uint16(1), properties(0x1f, 'a'), 'a', 0), 0x81),
  malformed(4, 'UNSUBSCRIBE, Packet Identifier 0', packet(0xa2, uint16(0), 'a'), 0x81, 'MQTT-2.2.1-3'),
  malformed(4, 'UNSUBSCRIBE without filter', packet(0xa2, uint16(1)), 0x82, 'MQTT-3.10.3-2'),
  malformed(
    5,
    'UNSUBSCRIBE, Subscription Identifier',
    packet(0xa2, uint16(1), properties(0x0b, 1), 'a'),
    0x81,
  ),
  malformed(4, 'UNSUBSCRIBE, cut filter', packet(0xa2, uint16(1), [0, 5, 0x61]), 0x81, '1.2'),

  // DISCONNECT and AUTH
  malformed(4, 'DISCONNECT with a body, 3.1.1', packet(0xe0, 0), 0x81, '2.1.4'),
  malformed(5, 'DISCONNECT, trailing byte', packet(0xe0, 0, NONE, 0), 0x81, '2.1.4'),
  ...[0x01, 0x87, 0x8b, 0x8e, 0x9d, 0xff].map((code) =>
    malformed(5, `DISCONNECT, Reason Code 0x${code.toString(16)}`, packet(0xe0, code, NONE), 0x82, '2.4'),
  ),
  malformed(
    5,
    'DISCONNECT, Session Expiry Interval twice',
    packet(0xe0, 0, properties(0x11, uint32(1), 0x11, uint32(1))),
    0x82,
  ),
  malformed(5, 'DISCONNECT, Receive Maximum', packet(0xe0, 0, properties(0x21, uint16(1))), 0x81),
  malformed(5, 'AUTH, empty', packet(0xf0), 0x82, '2.4'),
  malformed(5, 'AUTH, Success', packet(0xf0, 0, properties(0x15, 'a')), 0x82, '2.4'),
  malformed(5, 'AUTH, unknown Reason Code', packet(0xf0, 0x1a, properties(0x15, 'a')), 0x82, '2.4'),
  malformed(5, 'AUTH without Property Length', packet(0xf0, 0x18), 0x81, '1.2'),
  malformed(5, 'AUTH without Method', packet(0xf0, 0x18, NONE), 0x82, '3.15.2.2.2'),
  malformed(5, 'AUTH, Data without Method', packet(0xf0, 0x18, properties(0x16, 'a')), 0x82, '3.1.2.11.10'),
  malformed(5, 'AUTH, trailing byte', packet(0xf0, 0x18, properties(0x15, 'a'), 0), 0x81, '2.1.4'),
]

/** Cuts every valid packet to every shorter body, with a right Remaining Length. */
export function* truncatedPackets(): Generator<NamedPacket> {
  for (const { name, version, bytes } of VALID_PACKETS) {
    const bodyStart = 1 + bytes.subarray(1).findIndex((byte) => byte < 0x80) + 1
    const body = bytes.subarray(bodyStart)
    for (let kept = 0; kept < Math.min(body.length, 400); kept++) {
      yield { name: `${name}, cut to ${kept}`, version, bytes: packet(bytes[0]!, body.subarray(0, kept)) }
    }
  }
}

function valid(version: ProtocolVersion, name: string, bytes: Buffer): NamedPacket {
  return { name, version, bytes }
}

function malformed(
  version: ProtocolVersion,
  name: string,
  bytes: Buffer,
  reasonCode: number,
  statement = '2.2.2.2',
): MalformedPacket {
  const known = Object.values(Reason).find((reason) => reason === reasonCode)
  if (known === undefined) throw new Error(`no such Reason Code: ${reasonCode}`)
  return { name, version, bytes, reasonCode: known, statement }
}
