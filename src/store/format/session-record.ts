/** Sessions, their Subscriptions and the head values of their checkpoints, as they are stored. */
import type { QoS, SubscriptionOptions } from '../../mqtt/packet.ts'
import type { ConsumerRecord, InboundPacket, SessionRecord, SubscriptionRecord } from '../store.ts'
import { subscriptionRecord } from '../subscription-record.ts'
import { type ByteReader, ByteWriter, textBytesMax } from './encoding.ts'

/** The head value of a checkpoint. */
export interface CheckpointHead {
  /** Blocks of the journal up to this one are part of the checkpoint. */
  readonly covered: number
  readonly lastPacketId: number
  readonly queueHead: number
  readonly queueTail: number
}

/** Kinds of packets in a head value's in-flight list: received, a stored body, or an entry of a log. */
export const IN_FLIGHT = { released: 0, body: 1, log: 2 } as const

/** Writes the part of a head value before its in-flight list. */
export function writeHead(writer: ByteWriter, head: CheckpointHead): void {
  writer.reserve(48)
  writer.varint(head.covered)
  writer.u16(head.lastPacketId)
  writer.varint(head.queueHead)
  writer.varint(head.queueTail)
}

/** Reads the part of a head value before its in-flight list. */
export function readHead(reader: ByteReader): CheckpointHead {
  return {
    covered: reader.varint(),
    lastPacketId: reader.u16(),
    queueHead: reader.varint(),
    queueTail: reader.varint(),
  }
}

/** Writes the inbound packets that end a head value. */
export function writeInbound(writer: ByteWriter, inbound: readonly InboundPacket[]): void {
  writer.reserve(10 + inbound.length * 8)
  writer.varint(inbound.length)
  for (const [packetId] of inbound) writer.u16(packetId)
  for (const [, digest] of inbound) writer.u48(digest)
}

/** Reads the inbound packet identifiers at the end of a head value. In format 1 no digests follow them. */
export function readInbound(reader: ByteReader, add: (packetId: number, digest: number) => void): void {
  const packetIds: number[] = []
  for (let count = reader.varint(); count > 0; count--) packetIds.push(reader.u16())
  const hasDigests = !reader.atEnd
  for (const packetId of packetIds) add(packetId, hasDigests ? reader.u48() : 0)
}

/** Flags of a Session record. Format 1 knows the first one only. */
const HAS_OWNER = 1
const HAS_OWNER_ID = 2

/** Returns the unsealed value of a Session record. */
export function encodeSession(id: number, record: SessionRecord): Buffer {
  const writer = new ByteWriter(64)
  const { clientId, owner, ownerId } = record
  writer.reserve(40 + textBytesMax(clientId) + textBytesMax(owner ?? '') + textBytesMax(ownerId ?? ''))
  writer.varint(id)
  writer.varint(record.expirySeconds)
  writer.f64(record.disconnectedAt)
  writer.u8((owner === null ? 0 : HAS_OWNER) | (ownerId === null ? 0 : HAS_OWNER_ID))
  if (owner !== null) writer.text(owner)
  writer.text(clientId)
  if (ownerId !== null) writer.text(ownerId)
  return writer.taken()
}

/** Reads the unsealed value of a Session record. */
export function decodeSession(reader: ByteReader): { id: number; record: SessionRecord } {
  const id = reader.varint()
  const expirySeconds = reader.varint()
  const disconnectedAt = reader.f64()
  const flags = reader.u8()
  if (flags > (HAS_OWNER | HAS_OWNER_ID)) throw new RangeError(`flags ${flags} are not known`)
  const owner = flags & HAS_OWNER ? reader.text() : null
  const clientId = reader.text()
  const ownerId = flags & HAS_OWNER_ID ? reader.text() : null
  return { id, record: { clientId, owner, ownerId, expirySeconds, disconnectedAt } }
}

const NO_LOCAL = 0x04
const RETAIN_AS_PUBLISHED = 0x08
const RETAIN_HANDLING_SHIFT = 4
const RETAINED_PENDING = 0x40
/** A byte of flags and perhaps a number follow; never together with the one above. From format 4 on. */
const CONSUMER = 0x80

/** Flags of a consumer. */
const META = 1
/** The number follows; 0 stands for `auto`. */
const PREFETCH = 2
const EXPLICIT = 4
/** Seconds follow. */
const LEASE = 8
const CONSUMER_FLAGS = META | PREFETCH | EXPLICIT | LEASE

/** Returns the unsealed value of a Subscription. The topic filter is in the key. */
export function encodeSubscription(record: SubscriptionRecord): Buffer {
  const writer = new ByteWriter(24)
  const isPending = record.retainedPending === true
  writer.u8(
    record.qos |
      (record.noLocal ? NO_LOCAL : 0) |
      (record.retainAsPublished ? RETAIN_AS_PUBLISHED : 0) |
      (record.retainHandling << RETAIN_HANDLING_SHIFT) |
      (isPending ? RETAINED_PENDING : 0) |
      (record.consumer === undefined || isPending ? 0 : CONSUMER),
  )
  writer.varint(record.identifier)
  if (isPending) writer.f64(record.retainedSince ?? 0)
  else if (record.consumer !== undefined) writeConsumer(writer, record.consumer)
  return writer.taken()
}

function writeConsumer(writer: ByteWriter, { prefetch, meta, ack, leaseSeconds }: ConsumerRecord): void {
  writer.u8(
    (meta ? META : 0) |
      (prefetch === null ? 0 : PREFETCH) |
      (ack === undefined ? 0 : EXPLICIT) |
      (leaseSeconds === undefined ? 0 : LEASE),
  )
  if (prefetch !== null) writer.varint(prefetch === 'auto' ? 0 : prefetch)
  if (leaseSeconds !== undefined) writer.varint(leaseSeconds)
}

function readConsumer(reader: ByteReader): ConsumerRecord {
  const flags = reader.u8()
  if (flags > CONSUMER_FLAGS) throw new RangeError(`flags ${flags} of a consumer are not known`)
  const prefetch = (flags & PREFETCH) === 0 ? null : reader.varint() || 'auto'
  return {
    prefetch,
    meta: (flags & META) !== 0,
    ...((flags & EXPLICIT) !== 0 && { ack: 'explicit' as const }),
    ...((flags & LEASE) !== 0 && { leaseSeconds: reader.varint() }),
  }
}

/** Reads the unsealed value of a Subscription. */
export function decodeSubscription(reader: ByteReader): SubscriptionRecord {
  const flags = reader.u8()
  const options: SubscriptionOptions = {
    qos: (flags & 3) as QoS,
    noLocal: (flags & NO_LOCAL) !== 0,
    retainAsPublished: (flags & RETAIN_AS_PUBLISHED) !== 0,
    retainHandling: ((flags >>> RETAIN_HANDLING_SHIFT) & 3) as 0 | 1 | 2,
  }
  const record = subscriptionRecord(options, reader.varint())
  // A queue has no retained messages.
  if ((flags & CONSUMER) !== 0) return { ...record, consumer: readConsumer(reader) }
  if ((flags & RETAINED_PENDING) === 0) return record
  // Format 1 does not say since when.
  return { ...record, retainedPending: true, retainedSince: reader.atEnd ? 0 : reader.f64() }
}
