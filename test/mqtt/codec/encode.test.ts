import fc from 'fast-check'
import { generate, type Packet, parser } from 'mqtt-packet'
import { describe, expect, test } from 'vitest'
import {
  encodeAuth,
  encodeConnack,
  encodeDisconnect,
  encodeSuback,
  encodeUnsuback,
  PINGRESP,
  publishWire,
  setSessionPresent,
  writePublish,
} from '../../../src/mqtt/codec/encode.ts'
import {
  encodeForwardedProperties,
  PropertyPlace,
  walkUserProperties,
} from '../../../src/mqtt/codec/properties.ts'
import { Message, type MessageFields, NO_IDENTIFIERS, Topic } from '../../../src/mqtt/message.ts'
import type { AcknowledgeType, ProtocolVersion, UserProperties } from '../../../src/mqtt/packet.ts'
import { Reason } from '../../../src/mqtt/reason.ts'
import { PacketSlab } from '../../../src/mqtt/slab.ts'
import { encodeAcknowledge, encodePublish, wireBytes } from '../encoded.ts'
import { decodeAll } from '../packets.ts'

function parsed<Command extends Packet['cmd']>(
  command: Command,
  bytes: Buffer,
  version: ProtocolVersion,
): Extract<Packet, { cmd: Command }> {
  const packets: Packet[] = []
  const oracle = parser({ protocolVersion: version })
  oracle.on('packet', (packet) => packets.push(packet))
  expect(oracle.parse(bytes)).toBe(0)
  expect(packets).toHaveLength(1)
  expect(packets[0]!.cmd).toBe(command)
  return packets[0] as Extract<Packet, { cmd: Command }>
}

function message(fields: Partial<MessageFields> = {}): Message {
  return Message.of({
    topic: new Topic('a/b'),
    payload: Buffer.from('payload'),
    qos: 2,
    retain: false,
    publisher: 'p',
    ...fields,
  })
}

const PROPERTIES = encodeForwardedProperties({
  payloadFormatIndicator: 1,
  contentType: 'text/plain',
  responseTopic: 'answers',
  correlationData: Buffer.from('id'),
  userProperties: [
    ['b', '1'],
    ['a', '2'],
  ],
})

describe('PUBLISH', () => {
  test('QoS 0 without RETAIN is encoded once and shared, per format', () => {
    const one = message({ properties: PROPERTIES })
    const slab = new PacketSlab()
    const four = publishWire(slab, one, 4)
    expect(publishWire(slab, one, 3)).toBe(four)
    const five = publishWire(slab, one, 5)
    expect(publishWire(slab, one, 5)).toBe(five)
    for (const [wire, version] of [
      [four, 4],
      [five, 5],
    ] as const) {
      expect(wireBytes(wire)).toEqual(encodePublish(one, version, 0, 0, NO_IDENTIFIERS, -1, 0, false))
    }
  })

  test('no other encoding changes the shared ones', () => {
    const one = message({ properties: PROPERTIES })
    const slab = new PacketSlab()
    const wires = [publishWire(slab, one, 4), publishWire(slab, one, 5)]
    const before = wires.map(wireBytes)
    for (const version of [3, 4, 5] as const) {
      for (const flags of [1, 2, 3, 4, 5, 10, 11, 12, 13]) {
        writePublish(slab, one, version, flags, 7, NO_IDENTIFIERS, -1, 0, false)
      }
    }
    writePublish(slab, one, 5, 0, 0, [1], 5, 3, false)
    expect(wires.map(wireBytes)).toEqual(before)
  })

  test('mqtt-packet reads back every combination, and so do we', () => {
    const text = fc.string({ unit: 'grapheme' }).map((s) => s.replaceAll('\u0000', ''))
    fc.assert(
      fc.property(
        fc.constantFrom<ProtocolVersion>(3, 4, 5),
        text.map((s) => `t${s.replaceAll(/[#+]/g, '')}`),
        fc.oneof(
          fc.uint8Array(),
          fc.integer({ min: 100, max: 20_000 }).map((n) => new Uint8Array(n)),
        ),
        fc.constantFrom(0, 1, 2, 3, 4, 5, 10, 11, 12, 13),
        fc.integer({ min: 1, max: 65_535 }),
        fc.array(fc.integer({ min: 1, max: 268_435_455 }), { maxLength: 3 }),
        fc.option(fc.integer({ min: 0, max: 0xffffffff })),
        fc.option(fc.integer({ min: 1, max: 65_535 })),
        fc.boolean(),
        fc.option(fc.array(fc.tuple(text, text), { maxLength: 3 })),
        (version, name, payload, flags, packetId, identifiers, expiry, alias, known, userProperties) => {
          const properties = encodeForwardedProperties(
            userProperties === null ? {} : { contentType: 'c', userProperties },
          )
          const one = message({ topic: new Topic(name), payload: Buffer.from(payload), properties })
          const v5 = version === 5
          const aliasKnown = v5 && alias !== null && known
          const bytes = v5
            ? encodePublish(one, version, flags, packetId, identifiers, expiry ?? -1, alias ?? 0, aliasKnown)
            : encodePublish(one, version, flags, packetId, NO_IDENTIFIERS, -1, 0, false)
          const theirs = parsed('publish', bytes, version)
          expect(theirs.topic).toBe(aliasKnown ? '' : name)
          expect(Buffer.from(theirs.payload)).toEqual(one.payload)
          expect(theirs.qos).toBe((flags >> 1) & 3)
          expect([theirs.dup, theirs.retain]).toEqual([(flags & 8) !== 0, (flags & 1) !== 0])
          if (flags & 6) expect(theirs.messageId).toBe(packetId)
          if (v5) {
            expect(theirs.properties?.messageExpiryInterval).toBe(expiry ?? undefined)
            expect(theirs.properties?.topicAlias).toBe(alias ?? undefined)
            expect([theirs.properties?.subscriptionIdentifier ?? []].flat()).toEqual(identifiers)
          }
          if (identifiers.length === 0 || !v5) {
            const [ours] = decodeAll([bytes], version)
            expect(ours).toMatchObject({ type: 'publish', qos: theirs.qos, payload: one.payload })
            if (v5) {
              expect(ours).toMatchObject({ properties, expirySeconds: expiry ?? undefined })
            }
          }
        },
      ),
    )
  })

  test('an expiry beyond four bytes is the longest there is', () => {
    const bytes = encodePublish(message(), 5, 0, 0, NO_IDENTIFIERS, 2 ** 32, 0, false)
    expect(parsed('publish', bytes, 5).properties?.messageExpiryInterval).toBe(0xffffffff)
  })

  test('what the protocol cannot express is an empty buffer', () => {
    const huge = message({ payload: Buffer.alloc(268_435_455 - 5) })
    expect(encodePublish(huge, 4, 0, 0, NO_IDENTIFIERS, -1, 0, false)).toHaveLength(268_435_460)
    expect(encodePublish(huge, 5, 0, 0, NO_IDENTIFIERS, -1, 0, false)).toHaveLength(0)
    expect(encodePublish(huge, 5, 0, 0, [1], -1, 0, false)).toHaveLength(0)
  })
})

test('acknowledgements: short where that says the same', () => {
  for (const type of ['puback', 'pubrec', 'pubrel', 'pubcomp'] satisfies AcknowledgeType[]) {
    for (const version of [3, 4, 5] as const) {
      for (const reasonCode of [0, 0x92]) {
        const bytes = encodeAcknowledge(type, version, 258, reasonCode)
        const code = type === 'puback' || type === 'pubrec' ? 0x97 : 0x92
        const other = encodeAcknowledge(type, version, 258, reasonCode === 0 ? 0 : code)
        expect(bytes.length).toBe(version === 5 && reasonCode !== 0 ? 5 : 4)
        expect(parsed(type, other, version)).toMatchObject({ messageId: 258 })
        if (version === 5) expect(parsed(type, other, 5).reasonCode).toBe(reasonCode === 0 ? 0 : code)
      }
    }
  }
  expect(parsed('pingresp', PINGRESP, 4)).toBeDefined()
})

describe('CONNACK', () => {
  const everything = {
    sessionExpirySeconds: 1,
    receiveMaximum: 2,
    maximumQoS: 1,
    retainAvailable: false,
    maximumPacketSize: 3,
    assignedClientIdentifier: 'id',
    topicAliasMaximum: 4,
    reasonString: 'because',
    userProperties: [
      ['b', '1'],
      ['__proto__', '2'],
      ['b', ''],
      ['7', 'x'],
    ] satisfies UserProperties,
    serverKeepAliveSeconds: 5,
    responseInformation: 'answers/',
    authenticationMethod: 'SCRAM',
    authenticationData: Buffer.from('data'),
  } as const

  test('every property, User Properties in order', () => {
    const bytes = encodeConnack(
      { sessionPresent: true, reasonCode: 0, properties: everything },
      5,
      Number.POSITIVE_INFINITY,
    )!
    const { sessionPresent, reasonCode, properties } = parsed('connack', bytes, 5)
    expect([sessionPresent, reasonCode]).toEqual([true, 0])
    expect(properties).toMatchObject({
      sessionExpiryInterval: 1,
      receiveMaximum: 2,
      maximumQoS: 1,
      retainAvailable: false,
      maximumPacketSize: 3,
      assignedClientIdentifier: 'id',
      topicAliasMaximum: 4,
      reasonString: 'because',
      serverKeepAlive: 5,
      responseInformation: 'answers/',
      authenticationMethod: 'SCRAM',
      authenticationData: Buffer.from('data'),
    })
    // Fixed header, flags and code take four bytes, the Property Length one.
    expect(walkUserProperties(bytes, 5, bytes.length, PropertyPlace.Connack)).toEqual(
      everything.userProperties,
    )
  })

  test.each([4, 5] as const)('Session Present can be said afterwards, version %d', (version) => {
    for (const value of ['', 'x'.repeat(200), 'x'.repeat(20_000)]) {
      const userProperties: UserProperties = [['name', value]]
      const connack = (sessionPresent: boolean) =>
        encodeConnack({ sessionPresent, reasonCode: 0, properties: { userProperties } }, version, 1e9)!
      const bytes = connack(false)
      setSessionPresent(bytes)
      expect(bytes.equals(connack(true))).toBe(true)
      expect(bytes.equals(connack(false))).toBe(false)
    }
  })

  test('[MQTT-3.2.2-19] [MQTT-3.2.2-20] Reason String and then User Properties give way to Maximum Packet Size', () => {
    const refusal = {
      sessionPresent: true,
      reasonCode: 0x97,
      properties: { reasonString: 'r'.repeat(50), userProperties: [['n', 'v']] satisfies UserProperties },
    }
    const full = encodeConnack(refusal, 5, Number.POSITIVE_INFINITY)!
    expect(encodeConnack(refusal, 5, full.length)).toEqual(full)
    const less = encodeConnack(refusal, 5, full.length - 1)!
    expect(less.length).toBe(full.length - 53)
    expect(encodeConnack(refusal, 5, less.length - 1)).toEqual(Buffer.from([0x20, 3, 0, 0x97, 0]))
    expect(encodeConnack(refusal, 5, 1)).toHaveLength(5)
  })

  test('no User Properties are as good as none given', () => {
    const properties = { userProperties: [] }
    expect(encodeConnack({ sessionPresent: false, reasonCode: 0, properties }, 5, 1e6)).toHaveLength(5)
  })

  test('a Reason String that is no UTF-8 Encoded String is left out', () => {
    for (const reasonString of ['a\u0000', '\ud800', 'x'.repeat(65_536)]) {
      const properties = { reasonString }
      expect(encodeConnack({ sessionPresent: false, reasonCode: 0x80, properties }, 5, 1e6)).toHaveLength(5)
      expect(encodeDisconnect(0x80, reasonString, 1e6)).toHaveLength(4)
    }
  })

  test('[MQTT-3.2.2-6] a refusal never says that a Session is present', () => {
    for (const version of [3, 4, 5] as const) {
      const bytes = encodeConnack({ sessionPresent: true, reasonCode: 0x87, properties: {} }, version, 1e6)!
      expect(bytes[2]).toBe(0)
    }
  })

  test('3.1 and 3.1.1: return codes, and none where none fits', () => {
    const codes: (readonly [number, number | null])[] = [
      [Reason.Success, 0],
      [Reason.UnsupportedProtocolVersion, 1],
      [Reason.ClientIdentifierNotValid, 2],
      [Reason.ServerUnavailable, 3],
      [Reason.ServerBusy, 3],
      [Reason.BadUserNameOrPassword, 4],
      [Reason.NotAuthorized, 5],
      [Reason.Banned, 5],
      [Reason.MalformedPacket, null],
      [Reason.ProtocolError, null],
    ]
    for (const [reasonCode, returnCode] of codes) {
      const bytes = encodeConnack({ sessionPresent: false, reasonCode, properties: everything }, 4, 1e6)
      expect(bytes).toEqual(returnCode === null ? null : Buffer.from([0x20, 2, 0, returnCode]))
    }
    const resumed = { sessionPresent: true, reasonCode: 0, properties: {} }
    expect(encodeConnack(resumed, 4, 1e6)).toEqual(Buffer.from([0x20, 2, 1, 0]))
    expect(encodeConnack(resumed, 3, 1e6)).toEqual(Buffer.from([0x20, 2, 0, 0]))
  })
})

test('[MQTT-3.9.3-2, 3.1.1] SUBACK: in 3.1.1 every failure is 0x80; 3.1 has none and grants QoS 0', () => {
  expect(encodeSuback(3, 258, [0, 1, 2, 0x8f, 0x87])).toEqual(Buffer.from([0x90, 7, 1, 2, 0, 1, 2, 0, 0]))
  expect(encodeSuback(4, 258, [0, 1, 2, 0x8f, 0x87])).toEqual(
    Buffer.from([0x90, 7, 1, 2, 0, 1, 2, 0x80, 0x80]),
  )
  expect(parsed('suback', encodeSuback(5, 258, [0, 1, 2, 0x8f, 0x87]), 5)).toMatchObject({
    messageId: 258,
    granted: [0, 1, 2, 0x8f, 0x87],
  })
})

test('UNSUBACK: Reason Codes in 5.0 only', () => {
  expect(encodeUnsuback(4, 258, [0, 0x11])).toEqual(Buffer.from([0xb0, 2, 1, 2]))
  expect(encodeUnsuback(5, 258, [0, 0x11])).toEqual(Buffer.from([0xb0, 5, 1, 2, 0, 0, 0x11]))
})

test('[MQTT-3.14.2-3] DISCONNECT: the Reason String gives way to Maximum Packet Size', () => {
  const full = encodeDisconnect(0x8e, 'taken over', 1e6)
  expect(parsed('disconnect', full, 5)).toMatchObject({
    reasonCode: 0x8e,
    properties: { reasonString: 'taken over' },
  })
  expect(encodeDisconnect(0x8e, 'taken over', full.length)).toEqual(full)
  expect(encodeDisconnect(0x8e, 'taken over', full.length - 1)).toEqual(Buffer.from([0xe0, 2, 0x8e, 0]))
  expect(encodeDisconnect(0x8e, undefined, 1e6)).toEqual(Buffer.from([0xe0, 2, 0x8e, 0]))
})

test('AUTH', () => {
  expect(parsed('auth', encodeAuth(0x18, 'SCRAM', Buffer.from('data')), 5)).toMatchObject({
    reasonCode: 0x18,
    properties: { authenticationMethod: 'SCRAM', authenticationData: Buffer.from('data') },
  })
  expect(parsed('auth', encodeAuth(0, 'SCRAM', undefined), 5).properties?.authenticationData).toBeUndefined()
})

test('mqtt-packet reads back every CONNACK that lets a client in, whatever it says', () => {
  const optional = <T>(of: fc.Arbitrary<T>) => fc.option(of, { nil: undefined })
  const uint16 = fc.integer({ min: 1, max: 65_535 })
  const uint32 = fc.integer({ min: 1, max: 0xffff_ffff })
  const bit = fc.constantFrom<0 | 1>(0, 1)
  const said = fc.record({
    sessionExpirySeconds: optional(uint32),
    receiveMaximum: optional(uint16),
    maximumQoS: optional(bit),
    retainAvailable: optional(fc.boolean()),
    maximumPacketSize: optional(uint32),
    // Beyond 127 bytes the lengths in the packet have two.
    assignedClientIdentifier: optional(fc.string({ minLength: 1, maxLength: 150, unit: 'grapheme-ascii' })),
    topicAliasMaximum: optional(uint16),
    wildcardSubscriptionAvailable: optional(fc.boolean()),
    subscriptionIdentifiersAvailable: optional(fc.boolean()),
    sharedSubscriptionAvailable: optional(fc.boolean()),
    serverKeepAliveSeconds: optional(uint16),
    responseInformation: optional(fc.constant('information')),
    userProperties: optional(fc.constant([['a', 'b']] as const)),
  })
  fc.assert(
    fc.property(said, fc.boolean(), (given, sessionPresent) => {
      const properties = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
      const bytes = encodeConnack({ sessionPresent, reasonCode: 0, properties }, 5, 1e6)!
      const read = parsed('connack', bytes, 5)
      expect([read.sessionPresent, read.reasonCode]).toEqual([sessionPresent, 0])
      const { sessionExpirySeconds, serverKeepAliveSeconds, userProperties, ...same } = properties
      expect(read.properties ?? {}).toEqual({
        ...same,
        ...(sessionExpirySeconds !== undefined && { sessionExpiryInterval: sessionExpirySeconds }),
        ...(serverKeepAliveSeconds !== undefined && { serverKeepAlive: serverKeepAliveSeconds }),
        ...(userProperties !== undefined && { userProperties: { a: 'b' } }),
      })
    }),
    { numRuns: 2000 },
  )
})

test('SUBACK and UNSUBACK with many Reason Codes are what mqtt-packet writes', () => {
  for (const version of [4, 5] as const) {
    for (const count of [1, 124, 125, 126, 127, 300, 20_000]) {
      const codes = Array.from({ length: count }, (_, index) => index % 3)
      const written = (cmd: 'suback' | 'unsuback') =>
        generate({ cmd, messageId: 0x1234, granted: codes } as Packet, { protocolVersion: version })
      expect(encodeSuback(version, 0x1234, codes).equals(written('suback'))).toBe(true)
      expect(encodeUnsuback(version, 0x1234, codes).equals(written('unsuback'))).toBe(true)
    }
  }
})
