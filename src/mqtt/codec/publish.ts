/** HOT. PUBLISH (section 3.3). */
import {
  illegal,
  malformed,
  readVariableByteInteger,
  truncated,
  VARIABLE_BYTE_INTEGER_MAX,
  variableByteIntegerBytes,
  writeVariableByteInteger,
} from '../field.ts'
import type { EncodedPacket, Message, Topic } from '../message.ts'
import type { ProtocolVersion, PublishPacket, QoS } from '../packet.ts'
import { readMessageProperties } from '../properties/message-properties.ts'
import { PropertyId, PropertyPlace } from '../properties/table.ts'
import { ProtocolError, Reason } from '../reason.ts'
import type { PacketWriter } from '../slab.ts'
import type { TopicInterner } from '../topic-interner.ts'
import { type Framer, propertiesTooLong } from './framer.ts'
import { zeroPacketId } from './packet-body.ts'

const PUBLISH = 0x30
const UINT32_MAX = 0xffff_ffff
const EMPTY: Buffer = Buffer.alloc(0)

/** Longer names, in bytes, are looked up each time: a connection could keep 128 KiB for one, uncounted. */
const LATEST_TOPIC_BYTES_MAX = 256

/**
 * Payloads of this size, in bytes, and more are not copied after their header: each receiver would need
 * memory.
 */
const BODY_BYTES_MIN = 2048

/** Decodes a PUBLISH. Throws ProtocolError. */
export function decodePublish(
  framer: Framer,
  version: ProtocolVersion,
  topics: TopicInterner,
): PublishPacket {
  const { buffer, end, flags } = framer
  const qos = ((flags >> 1) & 3) as QoS
  if (qos === 0 && (flags & 8) !== 0) checkDup(framer, version)
  let at = framer.start + 2
  if (at > end) throw truncated()
  const topicEnd = at + ((buffer[at - 2]! << 8) | buffer[at - 1]!)
  if (topicEnd > end) throw truncated()
  const topic = topicEnd === at ? null : resolveTopic(framer, topics, at, topicEnd)
  at = topicEnd

  let packetId = 0
  if (qos !== 0) {
    if (at + 2 > end) throw truncated()
    packetId = (buffer[at]! << 8) | buffer[at + 1]!
    if (packetId === 0 && (qos === 2 || framer.leniences?.use('packet-identifier-zero') !== true)) {
      throw zeroPacketId()
    }
    at += 2
  }

  let properties: Buffer = EMPTY
  let topicAlias = 0
  let expirySeconds: number | undefined
  let payloadIsText = false
  if (version === 5) {
    const propertyBytes = readVariableByteInteger(buffer, at, end)
    at += variableByteIntegerBytes(propertyBytes)
    if (propertyBytes > 0) {
      const propertiesEnd = at + propertyBytes
      if (propertiesEnd > end) throw truncated()
      if (propertyBytes > framer.propertyBytesMax)
        throw propertiesTooLong(propertyBytes, framer.propertyBytesMax)
      const read = readMessageProperties(buffer, at, propertiesEnd, PropertyPlace.Publish)
      properties = read.forwarded
      topicAlias = read.topicAlias
      expirySeconds = read.expirySeconds
      payloadIsText = read.payloadIsText
      at = propertiesEnd
    }
  }
  if (topic === null && topicAlias === 0) throw emptyTopic(version)
  return new ReceivedPublish(
    framer,
    topic,
    topicAlias,
    packetId,
    at,
    properties,
    expirySeconds,
    payloadIsText,
    flags === 0 && topicAlias === 0 && expirySeconds === undefined,
  )
}

/** Checks a PUBLISH with QoS 0 that has DUP set. 3.1 gives it no meaning there. */
function checkDup(framer: Framer, version: ProtocolVersion): void {
  if (version === 3 || framer.leniences?.use('dup-on-qos-0') === true) return
  throw malformed('MQTT-3.3.1-2', 'DUP is set on a PUBLISH with QoS 0')
}

class ReceivedPublish implements PublishPacket {
  readonly type = 'publish'
  readonly topic: Topic | null
  readonly topicAlias: number
  readonly qos: QoS
  readonly retain: boolean
  readonly dup: boolean
  readonly packetId: number
  readonly buffer: Buffer
  readonly start: number
  readonly payloadStart: number
  readonly end: number
  readonly properties: Buffer
  readonly expirySeconds: number | undefined
  readonly payloadIsText: boolean
  readonly isShared: boolean

  constructor(
    framer: Framer,
    topic: Topic | null,
    topicAlias: number,
    packetId: number,
    payloadStart: number,
    properties: Buffer,
    expirySeconds: number | undefined,
    payloadIsText: boolean,
    isShared: boolean,
  ) {
    const { flags, end } = framer
    this.topic = topic
    this.topicAlias = topicAlias
    this.qos = ((flags >> 1) & 3) as QoS
    this.retain = (flags & 1) !== 0
    this.dup = (flags & 8) !== 0
    this.packetId = packetId
    this.buffer = framer.buffer
    this.start = end - framer.packetBytes
    this.payloadStart = payloadStart
    this.end = end
    this.properties = properties
    this.expirySeconds = expirySeconds
    this.payloadIsText = payloadIsText
    this.isShared = isShared
  }

  get payload(): Buffer {
    return this.buffer.subarray(this.payloadStart, this.end)
  }
}

/** Compares with the latest Topic Name first, which saves hashing the name and looking it up. */
function resolveTopic(framer: Framer, topics: TopicInterner, start: number, end: number): Topic {
  const { buffer, latestTopic } = framer
  if (latestTopic?.isNamed(buffer, start, end) === true) {
    // A name that came twice will come again: from now on its bytes are compared.
    void latestTopic.bytes
    return latestTopic
  }
  const topic = topics.resolve(buffer, start, end)
  framer.latestTopic = end - start > LATEST_TOPIC_BYTES_MAX ? null : topic
  return topic
}

function emptyTopic(version: ProtocolVersion): ProtocolError {
  if (version === 5) return illegal('3.3.2.1', 'the topic name is empty and there is no Topic Alias')
  return new ProtocolError(Reason.TopicNameInvalid, 'MQTT-4.7.3-1', 'the topic name is empty')
}

/**
 * Writes a PUBLISH. `flags` is the low nibble of the fixed header: DUP 8, QoS times 2, RETAIN 1. `packetId`
 * is not used at QoS 0. `expirySeconds` -1: none; `alias` 0: none; `aliasKnown`: the client knows the
 * alias, so the topic name stays empty. Identifiers, expiry and alias are for 5.0 only.
 *
 * A large payload stays where the message has it: `writer.body`, which follows the written bytes. A packet
 * that is too long for the protocol has no bytes: it cannot be sent [MQTT-3.1.2-25].
 */
export function writePublish(
  writer: PacketWriter,
  message: Message,
  version: ProtocolVersion,
  flags: number,
  packetId: number,
  subscriptionIdentifiers: readonly number[],
  expirySeconds: number,
  alias: number,
  aliasKnown: boolean,
): void {
  if (version === 5 && (subscriptionIdentifiers.length > 0 || expirySeconds >= 0 || alias > 0)) {
    const topic = aliasKnown ? EMPTY : message.topic.bytes
    writeWithMore(writer, message, flags, packetId, topic, subscriptionIdentifiers, expirySeconds, alias)
  } else writePlain(writer, message, version, flags, packetId, BODY_BYTES_MIN)
}

/**
 * Encodes a PUBLISH at QoS 0 without RETAIN, identifiers, expiry and alias, once: its bytes are the same
 * for all receivers of a protocol version, and are the publisher's packet when that looked like this. Empty
 * where `writePublish` writes nothing.
 */
export function sharedPublish(
  writer: PacketWriter,
  message: Message,
  version: ProtocolVersion,
): EncodedPacket {
  const known = version === 5 ? message.encoded5 : message.encoded3
  if (known !== null) return known
  writePlain(writer, message, version, 0, 0, Number.POSITIVE_INFINITY)
  const encoded = { buffer: writer.buffer, start: writer.start, end: writer.end }
  if (version === 5) message.encoded5 = encoded
  else message.encoded3 = encoded
  return encoded
}

function writePlain(
  writer: PacketWriter,
  message: Message,
  version: ProtocolVersion,
  flags: number,
  packetId: number,
  bodyBytesMin: number,
): void {
  const topic = message.topic.bytes
  const payload = message.payload
  const properties = message.properties
  const hasId = (flags & 6) !== 0
  const propertyBytes = properties.length
  let remaining = 2 + topic.length + payload.length
  if (hasId) remaining += 2
  if (version === 5) remaining += variableByteIntegerBytes(propertyBytes) + propertyBytes
  const body = payload.length >= bodyBytesMin ? payload : null
  if (!reserved(writer, remaining, body)) return
  const packet = writer.buffer
  let at = writeHead(packet, writer.start, flags, remaining, topic)
  if (hasId) {
    packet[at++] = packetId >>> 8
    packet[at++] = packetId
  }
  if (version === 5) {
    at = writeVariableByteInteger(packet, at, propertyBytes)
    if (propertyBytes > 0) {
      packet.set(properties, at)
      at += propertyBytes
    }
  }
  if (body === null && payload.length > 0) packet.set(payload, at)
}

/** Writes a packet of 5.0 with properties that differ per receiver; they precede the forwarded ones. */
function writeWithMore(
  writer: PacketWriter,
  message: Message,
  flags: number,
  packetId: number,
  topic: Buffer,
  subscriptionIdentifiers: readonly number[],
  expirySeconds: number,
  alias: number,
): void {
  const payload = message.payload
  const properties = message.properties
  const hasId = (flags & 6) !== 0
  let propertyBytes = properties.length
  if (expirySeconds >= 0) propertyBytes += 5
  if (alias > 0) propertyBytes += 3
  for (let index = 0; index < subscriptionIdentifiers.length; index++) {
    propertyBytes += 1 + variableByteIntegerBytes(subscriptionIdentifiers[index]!)
  }
  const remaining =
    2 +
    topic.length +
    (hasId ? 2 : 0) +
    variableByteIntegerBytes(propertyBytes) +
    propertyBytes +
    payload.length
  const body = payload.length >= BODY_BYTES_MIN ? payload : null
  if (!reserved(writer, remaining, body)) return
  const packet = writer.buffer
  let at = writeHead(packet, writer.start, flags, remaining, topic)
  if (hasId) {
    packet[at++] = packetId >>> 8
    packet[at++] = packetId
  }
  at = writeVariableByteInteger(packet, at, propertyBytes)
  if (expirySeconds >= 0) {
    packet[at++] = PropertyId.MessageExpiryInterval
    at = packet.writeUInt32BE(Math.min(expirySeconds, UINT32_MAX), at)
  }
  if (alias > 0) {
    packet[at++] = PropertyId.TopicAlias
    packet[at++] = alias >>> 8
    packet[at++] = alias
  }
  for (let index = 0; index < subscriptionIdentifiers.length; index++) {
    packet[at++] = PropertyId.SubscriptionIdentifier
    at = writeVariableByteInteger(packet, at, subscriptionIdentifiers[index]!)
  }
  packet.set(properties, at)
  if (body === null) packet.set(payload, at + properties.length)
}

/**
 * Reserves room for a packet of this Remaining Length without its `body`; false when it is too long for the
 * protocol.
 */
function reserved(writer: PacketWriter, remaining: number, body: Buffer | null): boolean {
  if (remaining > VARIABLE_BYTE_INTEGER_MAX) {
    writer.reserve(0)
    return false
  }
  writer.reserve(1 + variableByteIntegerBytes(remaining) + remaining - (body === null ? 0 : body.length))
  writer.body = body
  return true
}

/** Writes the fixed header and topic name; returns the position after them. */
function writeHead(packet: Buffer, start: number, flags: number, remaining: number, topic: Buffer): number {
  packet[start] = PUBLISH | flags
  const at = writeVariableByteInteger(packet, start + 1, remaining)
  packet[at] = topic.length >>> 8
  packet[at + 1] = topic.length
  packet.set(topic, at + 2)
  return at + 2 + topic.length
}
