/** HOT. The segment of a log that still grows. */
import { crc32 } from 'node:zlib'
import type { Message, QoS } from '../../mqtt/message.ts'
import { ByteWriter, textBytesMax } from '../format/encoding.ts'
import { sealed } from '../format/format.ts'
import {
  type EntryDecoding,
  EXPIRES,
  FRAGMENT,
  HEADER_BYTES,
  RETAIN,
  SEGMENT,
  Segment,
  type SegmentHeader,
} from './segment.ts'

const CRC_BYTES = 4
/** Bytes of the buffer that it begins with, in a log that is quiet. */
const FIRST_BYTES = 512

/** The fields of an entry that is written. */
export interface EntryFields {
  readonly qos: QoS
  readonly retain: boolean
  readonly publisher: string
  readonly topic: Buffer
  readonly properties: Buffer
  readonly payload: Buffer
}

/** The segment of a log that still grows. */
export class GrowingSegment extends Segment {
  readonly #writer: ByteWriter

  constructor(
    log: number,
    decoding: EntryDecoding,
    first: number,
    wall: number,
    time: number,
    capacityBytes = FIRST_BYTES,
  ) {
    const writer = new ByteWriter(capacityBytes)
    writer.length = HEADER_BYTES
    super(log, decoding, { first, count: 0, wall, time }, writer.view(0, writer.capacity))
    this.#writer = writer
  }

  /** Bytes of its entries. */
  get length(): number {
    return this.stop - this.begin
  }

  /** Appends an entry of this broker time. Returns its `Message.size`. */
  add(sequence: number, time: number, expiresAt: number, fields: EntryFields): number {
    const { topic, properties, payload, publisher } = fields
    const size = topic.length + properties.length + payload.length
    const writer = this.#writer
    const { capacity } = writer
    writer.reserve(size + 64 + textBytesMax(publisher) + CRC_BYTES)
    if (writer.capacity !== capacity) this.bytes = writer.view(0, writer.capacity)
    if (this.count === 0) {
      this.first = sequence
      this.end = sequence
    }
    const expires = expiresAt !== Number.POSITIVE_INFINITY
    writer.varint(sequence - this.end)
    writer.u8(fields.qos | (fields.retain ? RETAIN : 0) | (expires ? EXPIRES : 0))
    writer.varint(Math.max(0, Math.round(time - this.time)))
    if (expires) writer.f64(expiresAt)
    writer.text(publisher)
    writer.blob(topic)
    writer.blob(properties)
    writer.blob(payload)
    this.stop = writer.length
    this.end = sequence + 1
    this.count++
    return size
  }

  /** Drops the entries before this place: they are not needed any more. `count` are left. */
  trim(begin: number, first: number, count: number): void {
    this.begin = begin
    this.first = first
    this.count = count
  }

  /** Returns a segment with the same entries, and a buffer of their size. */
  moved(): GrowingSegment {
    const { first, end, count, wall, time } = this
    const moved = new GrowingSegment(this.log, this.decoding, first, wall, time)
    moved.#take(this.bytes.subarray(this.begin, this.stop))
    moved.end = end
    moved.count = count
    moved.wasRead = this.wasRead
    return moved
  }

  #take(entries: Buffer): void {
    this.#writer.reserve(entries.length + CRC_BYTES)
    this.#writer.raw(entries)
    this.bytes = this.#writer.view(0, this.#writer.capacity)
    this.stop = this.#writer.length
  }

  /** Returns the sealed value of the entries from this place on, as a fragment. */
  fragment(key: Buffer, from: number, first: number, count: number): Buffer {
    const value = Buffer.allocUnsafe(HEADER_BYTES + this.stop - from)
    writeHeader(value, { kind: FRAGMENT, first, count, wall: this.wall, time: this.time })
    this.bytes.copy(value, HEADER_BYTES, from, this.stop)
    return sealed(key, value)
  }

  /** Returns the segment as it is stored from now on, and its sealed value, which shares its bytes. */
  complete(key: Buffer): { segment: Segment; value: Buffer } {
    const { first, count, wall, time } = this
    const end = HEADER_BYTES + this.length
    // Mostly nothing was trimmed: then its own bytes are the value.
    const isWhole = this.begin === HEADER_BYTES
    const value = isWhole ? this.bytes.subarray(0, end + CRC_BYTES) : Buffer.allocUnsafeSlow(end + CRC_BYTES)
    writeHeader(value, { kind: SEGMENT, first, count, wall, time })
    if (!isWhole) this.bytes.copy(value, HEADER_BYTES, this.begin, this.stop)
    value.writeUInt32LE(crc32(value.subarray(0, end), crc32(key)), end)
    const segment = new Segment(this.log, this.decoding, { first, count, wall, time }, value.subarray(0, end))
    segment.stop = end
    segment.end = this.end
    segment.wasRead = this.wasRead
    return { segment, value }
  }
}

/** Returns the fields of a message, as its entry has them. */
export function fieldsOf(message: Message): EntryFields {
  const { qos, retain, publisher, topic, properties, payload } = message
  return { qos, retain, publisher, topic: topic.bytes, properties, payload }
}

function writeHeader(value: Buffer, { kind, first, count, wall, time }: SegmentHeader): void {
  value[0] = kind
  value.writeUIntLE(first, 1, 6)
  value.writeUInt32LE(count, 7)
  value.writeDoubleLE(wall, 11)
  value.writeDoubleLE(time, 19)
}
