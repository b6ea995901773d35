import fc from 'fast-check'
import { generate } from 'mqtt-packet'
import { describe, expect, test } from 'vitest'
import { Framer } from '../../../src/mqtt/codec/framer.ts'
import { decodePublish, sharedPublish, writePublish } from '../../../src/mqtt/codec/publish.ts'
import { Message, type MessageFields, NO_IDENTIFIERS, Topic } from '../../../src/mqtt/message.ts'
import type { ProtocolVersion, PublishPacket } from '../../../src/mqtt/packet.ts'
import {
  decodeForwardedProperties,
  encodeForwardedProperties,
} from '../../../src/mqtt/properties/forwarded.ts'
import { PacketSlab } from '../../../src/mqtt/slab.ts'
import { TopicInterner } from '../../../src/mqtt/topic-interner.ts'
import { bytesOf, encodePublish } from '../encoded.ts'
import { connect, decodeAll, packet } from '../packets.ts'
import { decodeNamed, parsed } from './reading.ts'

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

describe('reading', () => {
  test('properties for the Server are removed, the rest stays raw and in order', () => {
    const publish = decodeNamed('PUBLISH QoS 1, every property') as PublishPacket
    expect(publish).toMatchObject({ topicAlias: 7, expirySeconds: 60, packetId: 9, qos: 1, dup: false })
    expect(publish.topic!.name).toBe('a/b')
    expect(publish.payload).toEqual(Buffer.from([1, 2, 3]))
    expect(decodeForwardedProperties(publish.properties)).toEqual({
      payloadFormatIndicator: 1,
      contentType: 'text/plain',
      responseTopic: 'answers',
      correlationData: Buffer.from('id'),
      userProperties: [
        ['__proto__', '1'],
        ['a', ''],
        ['__proto__', '3'],
      ],
    })
  })

  test('an alias stands for an empty topic name', () => {
    expect(decodeNamed('PUBLISH, alias for the topic name')).toMatchObject({ topic: null, topicAlias: 1 })
  })

  test('flags', () => {
    expect(decodeNamed('PUBLISH QoS 1, DUP')).toMatchObject({ qos: 1, dup: true, retain: false })
    expect(decodeNamed('PUBLISH QoS 2, RETAIN')).toMatchObject({
      qos: 2,
      dup: false,
      retain: true,
      packetId: 65_535,
    })
  })
})

test('names that differ in one byte anywhere, or in length, are told apart on one connection', () => {
  const names = ['ab/cd', 'ab/cd', 'xb/cd', 'ab/cx', 'ab/xd', 'b/cd', 'ab/cd', 'ab/cd/e']
  const packets = names.map((name) => packet(0x30, name, [1, 2]))
  const found = decodeAll([Buffer.concat(packets)], 4)
  expect(found.map((one) => one.type === 'publish' && one.topic?.name)).toEqual(names)
})

test('a connection does not keep a long name', () => {
  const topics = new TopicInterner(8)
  const framer = new Framer(100_000)
  framer.push(connect(4, 2, [0, 0], 'c'))
  framer.next()
  const kept = ['a', 'b'.repeat(256), 'c'.repeat(257), 'c'.repeat(257), 'd'].map((name) => {
    framer.push(packet(0x30, name))
    framer.next()
    decodePublish(framer, 4, topics)
    return framer.latestTopic?.name.length
  })
  expect(kept).toEqual([1, 256, undefined, undefined, 1])
})

describe('a PUBLISH that receivers may get unchanged', () => {
  const topic = [0, 1, 0x61]
  test.each([
    ['3.1.1', 4, packet(0x30, topic, 'payload')],
    ['3.1.1 without a payload', 4, packet(0x30, topic)],
    ['5.0', 5, packet(0x30, topic, 0, 'payload')],
    ['5.0 with User Properties', 5, packet(0x30, topic, 7, 0x26, [0, 1, 0x6b, 0, 1, 0x76], 'payload')],
  ] as const)('%s: refers to its own bytes', (_, version, bytes) => {
    const [found] = decodeAll([Buffer.concat([packet(0xc0), bytes])], version).slice(1)
    expect(found).toMatchObject({ type: 'publish' })
    if (found?.type !== 'publish') return
    expect(found.isShared).toBe(true)
    expect(bytesOf(found)).toEqual(bytes)
  })

  test.each([
    ['RETAIN', 4, packet(0x31, topic, 'payload')],
    ['QoS 1', 4, packet(0x32, topic, [0, 1], 'payload')],
    ['a Topic Alias', 5, packet(0x30, topic, 3, 0x23, [0, 1], 'payload')],
    ['an expiry', 5, packet(0x30, topic, 5, 0x02, [0, 0, 0, 9], 'payload')],
  ] as const)('%s: none', (_, version, bytes) => {
    expect(decodeAll([bytes], version)[0]).toMatchObject({ isShared: false })
  })
})

test('a packet of mqtt-packet is decoded', () => {
  const bytes = generate(
    { cmd: 'publish', topic: 'a', payload: 'x', qos: 0, dup: false, retain: true },
    { protocolVersion: 4 },
  )
  expect(decodeAll([bytes], 4)[0]).toMatchObject({ type: 'publish', retain: true })
})

describe('writing', () => {
  test('QoS 0 without RETAIN is encoded once for each format and shared', () => {
    const one = message({ properties: PROPERTIES })
    const slab = new PacketSlab()
    const four = sharedPublish(slab, one, 4)
    expect(sharedPublish(slab, one, 3)).toBe(four)
    const five = sharedPublish(slab, one, 5)
    expect(sharedPublish(slab, one, 5)).toBe(five)
    for (const [encoded, version] of [
      [four, 4],
      [five, 5],
    ] as const) {
      expect(bytesOf(encoded)).toEqual(encodePublish(one, version, 0, 0, NO_IDENTIFIERS, -1, 0, false))
    }
  })

  test('other encodings do not change the shared ones', () => {
    const one = message({ properties: PROPERTIES })
    const slab = new PacketSlab()
    const packets = [sharedPublish(slab, one, 4), sharedPublish(slab, one, 5)]
    const before = packets.map(bytesOf)
    for (const version of [3, 4, 5] as const) {
      for (const flags of [1, 2, 3, 4, 5, 10, 11, 12, 13]) {
        writePublish(slab, one, version, flags, 7, NO_IDENTIFIERS, -1, 0, false)
      }
    }
    writePublish(slab, one, 5, 0, 0, [1], 5, 3, false)
    expect(packets.map(bytesOf)).toEqual(before)
  })

  test('mqtt-packet reads every combination, and so does our decoder', () => {
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

  test('an expiry beyond four bytes becomes the longest', () => {
    const bytes = encodePublish(message(), 5, 0, 0, NO_IDENTIFIERS, 2 ** 32, 0, false)
    expect(parsed('publish', bytes, 5).properties?.messageExpiryInterval).toBe(0xffffffff)
  })

  test('a packet that is too long for the protocol is an empty buffer', () => {
    const huge = message({ payload: Buffer.alloc(268_435_455 - 5) })
    expect(encodePublish(huge, 4, 0, 0, NO_IDENTIFIERS, -1, 0, false)).toHaveLength(268_435_460)
    expect(encodePublish(huge, 5, 0, 0, NO_IDENTIFIERS, -1, 0, false)).toHaveLength(0)
    expect(encodePublish(huge, 5, 0, 0, [1], -1, 0, false)).toHaveLength(0)
  })
})
