import { describe, expect, test } from 'vitest'
import { decodeConnect } from '../../src/mqtt/codec/connect.ts'
import { decode } from '../../src/mqtt/codec/decode.ts'
import { Framer } from '../../src/mqtt/codec/framer.ts'
import { LENIENCE_NAMES, LENIENCES, type Lenience, Leniences } from '../../src/mqtt/lenience.ts'
import type { ClientPacket } from '../../src/mqtt/packet.ts'
import { ProtocolError } from '../../src/mqtt/reason.ts'
import { TopicInterner } from '../../src/mqtt/topic-interner.ts'
import { packet, uint16 } from './packets.ts'

/** CONNECT with this name, level, flags and what comes behind the Client Identifier. */
function connect(name: string, level: number, flags: number, ...rest: readonly string[]): Buffer {
  return packet(0x10, name, level, flags, uint16(0), 'c', ...rest)
}

const GOOD = connect('MQTT', 4, 2)

interface Case {
  readonly rule: Lenience
  readonly broken: string
  /** A packet to send first; null when the broken one is the CONNECT. */
  readonly after: Buffer | null
  readonly packet: Buffer
  readonly decoded: object
}

const CASES: readonly Case[] = [
  {
    rule: 'dup-on-qos-0',
    broken: 'PUBLISH 0x38',
    after: GOOD,
    packet: packet(0x38, 't', Buffer.from('x')),
    decoded: { type: 'publish', qos: 0, packetId: 0 },
  },
  {
    rule: 'header-flags',
    broken: 'SUBSCRIBE 0x80',
    after: GOOD,
    packet: packet(0x80, uint16(1), 't', 1),
    decoded: { type: 'subscribe', packetId: 1, requests: [{ filter: 't', qos: 1 }] },
  },
  {
    rule: 'header-flags',
    broken: 'UNSUBSCRIBE 0xaf',
    after: GOOD,
    packet: packet(0xaf, uint16(1), 't'),
    decoded: { type: 'unsubscribe', filters: ['t'] },
  },
  {
    rule: 'header-flags',
    broken: 'PUBREL 0x6a, sent again',
    after: GOOD,
    packet: packet(0x6a, uint16(7)),
    decoded: { type: 'pubrel', packetId: 7 },
  },
  {
    rule: 'packet-identifier-zero',
    broken: 'SUBSCRIBE',
    after: GOOD,
    packet: packet(0x82, uint16(0), 't', 0),
    decoded: { type: 'subscribe', packetId: 0 },
  },
  {
    rule: 'packet-identifier-zero',
    broken: 'UNSUBSCRIBE',
    after: GOOD,
    packet: packet(0xa2, uint16(0), 't'),
    decoded: { type: 'unsubscribe', packetId: 0 },
  },
  {
    rule: 'packet-identifier-zero',
    broken: 'PUBLISH with QoS 1',
    after: GOOD,
    packet: packet(0x32, 't', uint16(0)),
    decoded: { type: 'publish', qos: 1, packetId: 0 },
  },
  {
    rule: 'will-flags-without-will',
    broken: 'Will QoS 3 and Will Retain',
    after: null,
    packet: connect('MQTT', 4, 0x3a),
    decoded: { type: 'connect', clientId: 'c', cleanStart: true, will: undefined },
  },
  {
    rule: 'password-without-user-name',
    broken: 'level 4',
    after: null,
    packet: connect('MQTT', 4, 0x42, 'token'),
    decoded: { protocolVersion: 4, userName: undefined, password: Buffer.from('token') },
  },
  {
    rule: 'password-without-user-name',
    broken: 'level 3',
    after: null,
    packet: connect('MQIsdp', 3, 0x42, 'token'),
    decoded: { protocolVersion: 3, userName: undefined, password: Buffer.from('token') },
  },
  {
    rule: 'protocol-name',
    broken: 'MQTT with level 3',
    after: null,
    packet: connect('MQTT', 3, 2),
    decoded: { protocolVersion: 3, clientId: 'c' },
  },
  {
    rule: 'protocol-name',
    broken: 'MQIsdp with level 4',
    after: null,
    packet: connect('MQIsdp', 4, 2),
    decoded: { protocolVersion: 4, clientId: 'c' },
  },
]

function read({ after, packet: bytes }: Case, rules: readonly Lenience[], used: Lenience[]): ClientPacket {
  const framer = new Framer(10_000)
  framer.leniences = new Leniences(rules, (rule) => used.push(rule))
  const topics = new TopicInterner(10)
  if (after === null) {
    framer.push(bytes)
    expect(framer.next()).toBe(true)
    return decodeConnect(framer)
  }
  framer.push(after)
  expect(framer.next()).toBe(true)
  framer.version = decodeConnect(framer).protocolVersion
  framer.push(bytes)
  expect(framer.next()).toBe(true)
  return decode(framer, 4, topics)
}

describe('a packet that breaks a rule', () => {
  test.each(CASES)('$rule, $broken: is read if that rule may be broken, and counted', (each) => {
    const used: Lenience[] = []
    expect(read(each, [each.rule], used)).toMatchObject(each.decoded)
    expect(used).toEqual([each.rule])
  })

  test.each(CASES)('$rule, $broken: is refused if only all others may be broken', (each) => {
    const used: Lenience[] = []
    const others = LENIENCE_NAMES.filter((rule) => rule !== each.rule)
    expect(() => read(each, others, used)).toThrow(ProtocolError)
    expect(used).toEqual([])
  })
})

test('a packet identifier 0 with QoS 2 is still refused', () => {
  const broken: Case = {
    rule: 'packet-identifier-zero',
    broken: 'QoS 2',
    after: GOOD,
    packet: packet(0x34, 't', uint16(0)),
    decoded: {},
  }
  expect(() => read(broken, LENIENCE_NAMES, [])).toThrow(ProtocolError)
})

test.each(['c1 00', '41 02 0001', 'e1 00', '36 05 0001 74 0001', '90 00'])(
  'flags and types without a rule are still refused: %s',
  (hex) => {
    const broken: Case = {
      rule: 'header-flags',
      broken: '',
      after: GOOD,
      packet: Buffer.from(hex.replaceAll(' ', ''), 'hex'),
      decoded: {},
    }
    expect(() => read(broken, LENIENCE_NAMES, [])).toThrow(ProtocolError)
  },
)

test('each rule has a sentence', () => {
  for (const sentence of Object.values(LENIENCES)) expect(sentence).toMatch(/ may /)
})
