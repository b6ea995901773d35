/**
 * HOT. A segment of a log: up to 1,024 entries one behind the other, in the bytes that are stored. They are
 * read in place.
 *
 * ```
 * value: u8 kind (0 fragment, 1 segment) | u48 first sequence | u32 entries | f64 wall time | f64 broker time
 *        | entries | crc u32
 * entry: varint gap | u8 flags (QoS, RETAIN, expires) | varint ms since the segment's broker time
 *        | [f64 expires at] | text publisher | blob topic | blob properties | blob payload
 * ```
 *
 * `gap` is the number of sequences that are left out before the entry: none, but where a log was filled from
 * records, thinned out, or opened again after what came last in it was settled. The first entry has the first
 * sequence of the segment, whatever its gap.
 */
import { Message, NO_TOPIC, type QoS } from '../../mqtt/message.ts'
import { TruncatedError } from '../format/encoding.ts'
import { corrupt, LOSS, unsealed } from '../format/format.ts'
import type { TopicCache } from '../journal/topic-cache.ts'
import type { LogCursor, LogSegment } from '../log-store.ts'

export const FRAGMENT = 0
export const SEGMENT = 1
export const HEADER_BYTES = 27
const QOS_MASK = 3
export const RETAIN = 0x04
export const EXPIRES = 0x08

/** Memory of a segment besides its bytes. */
export const SEGMENT_OVERHEAD = 200

/** Decodes entries of any segment of one store. */
export interface EntryDecoding {
  readonly topics: TopicCache
  /** Returns when an entry of this age expires, from its stored expiry. See `log-times.ts`. */
  expiry(appendedAt: number, stored: number): number
}

/** The header of a stored value. */
export interface SegmentHeader {
  readonly kind: number
  readonly first: number
  readonly count: number
  readonly wall: number
  readonly time: number
}

export class Segment implements LogSegment {
  readonly log: number
  readonly decoding: EntryDecoding
  first: number
  end: number
  count = 0
  /** Wall time and broker time in ms from which the times of its entries count. */
  readonly wall: number
  readonly time: number
  /** Where its first entry begins, and where the last one ends. */
  begin = HEADER_BYTES
  stop = HEADER_BYTES
  /** The buffer of the entries. The open segment replaces it when it grows; places stay. */
  bytes: Buffer
  /** Set once somebody read it: it may be read on. */
  wasRead = false
  /** Positions itself where it was asked last, for single questions. */
  #asked: SegmentCursor | null = null

  constructor(log: number, decoding: EntryDecoding, header: Omit<SegmentHeader, 'kind'>, bytes: Buffer) {
    this.log = log
    this.decoding = decoding
    this.first = header.first
    this.end = header.first
    this.count = header.count
    this.wall = header.wall
    this.time = header.time
    this.bytes = bytes
  }

  /** Reads a stored value. Throws StoreError `corrupt`. */
  static read(log: number, decoding: EntryDecoding, key: Buffer, sealedValue: Buffer): Segment {
    const value = unsealed(key, sealedValue)
    if (value.length < HEADER_BYTES) throw corrupt(`segment ${key.toString('hex')} is cut off`, LOSS.messages)
    const segment = new Segment(log, decoding, headerOf(value), value)
    segment.stop = value.length
    const cursor = segment.from(0)
    segment.wasRead = false
    let count = 0
    try {
      while (cursor.next()) count++
    } catch (error) {
      throw corrupt(`segment ${key.toString('hex')} cannot be decoded`, LOSS.messages, error)
    }
    if (count !== segment.count) {
      throw corrupt(
        `segment ${key.toString('hex')} has ${count} entries, not ${segment.count}`,
        LOSS.messages,
      )
    }
    segment.end = cursor.sequence + 1
    return segment
  }

  get memoryBytes(): number {
    return this.bytes.length + SEGMENT_OVERHEAD
  }

  from(sequence: number): SegmentCursor {
    this.wasRead = true
    return new SegmentCursor(this).moveBefore(sequence)
  }

  has(sequence: number): boolean {
    return this.#at(sequence) !== null
  }

  sizeAt(sequence: number): number {
    return this.#needed(sequence).size
  }

  expiresAt(sequence: number): number {
    return this.#needed(sequence).expiresAt
  }

  message(sequence: number): Message {
    return this.#needed(sequence).message()
  }

  #needed(sequence: number): SegmentCursor {
    const cursor = this.#at(sequence)
    if (cursor === null) throw new Error(`log ${this.log} has no entry ${sequence} in this segment`)
    return cursor
  }

  #at(sequence: number): SegmentCursor | null {
    if (sequence < this.first || sequence >= this.end) return null
    this.wasRead = true
    let cursor = this.#asked
    if (cursor === null || cursor.sequence > sequence) {
      cursor = new SegmentCursor(this)
      this.#asked = cursor
    }
    while (cursor.sequence < sequence) if (!cursor.next()) return null
    return cursor.sequence === sequence ? cursor : null
  }
}

/** Reads the header of an unsealed value. */
export function headerOf(value: Buffer): SegmentHeader {
  return {
    kind: value[0]!,
    first: value.readUIntLE(1, 6),
    count: value.readUInt32LE(7),
    wall: value.readDoubleLE(11),
    time: value.readDoubleLE(19),
  }
}

/** Walks over the entries of a segment, in place. */
export class SegmentCursor implements LogCursor {
  sequence: number
  size = 0
  /** Where the next entry begins. */
  #at: number
  #segment: Segment
  #flags = 0
  #ms = 0
  #expiresAt = Number.POSITIVE_INFINITY
  #publisherAt = 0
  #publisherEnd = 0
  #topicAt = 0
  #topicEnd = 0
  #propertiesAt = 0
  #propertiesEnd = 0
  #payloadAt = 0
  /** Where the latest varint ended. */
  #read = 0

  constructor(segment: Segment) {
    this.#segment = segment
    this.#at = segment.begin
    this.sequence = segment.first - 1
  }

  /** Moves to the last entry before this sequence. */
  moveBefore(sequence: number): this {
    if (sequence <= this.#segment.first) return this
    for (;;) {
      const at = this.#at
      const before = this.sequence
      if (!this.next()) return this
      if (this.sequence < sequence) continue
      this.#at = at
      this.sequence = before
      return this
    }
  }

  next(): boolean {
    const segment = this.#segment
    const { bytes, stop } = segment
    let at = this.#at
    if (at >= stop) return false
    const gap = bytes[at]! < 128 ? bytes[at++]! : this.#long(bytes, at)
    if (gap > 127) at = this.#read
    // The gap of the first entry counts from what was before it, in the segment that it was written to.
    this.sequence = this.#at === segment.begin ? segment.first : this.sequence + 1 + gap
    const flags = bytes[at++]!
    this.#flags = flags
    const ms = bytes[at]! < 128 ? bytes[at++]! : this.#long(bytes, at)
    if (ms > 127) at = this.#read
    this.#ms = ms
    if ((flags & EXPIRES) !== 0) {
      this.#expiresAt = bytes.readDoubleLE(at)
      at += 8
    }
    const publisher = bytes[at]! < 128 ? bytes[at++]! : this.#long(bytes, at)
    if (publisher > 127) at = this.#read
    this.#publisherAt = at
    at += publisher
    this.#publisherEnd = at
    const topic = bytes[at]! < 128 ? bytes[at++]! : this.#long(bytes, at)
    if (topic > 127) at = this.#read
    this.#topicAt = at
    at += topic
    this.#topicEnd = at
    const properties = bytes[at]! < 128 ? bytes[at++]! : this.#long(bytes, at)
    if (properties > 127) at = this.#read
    this.#propertiesAt = at
    at += properties
    this.#propertiesEnd = at
    const payload = bytes[at]! < 128 ? bytes[at++]! : this.#long(bytes, at)
    if (payload > 127) at = this.#read
    this.#payloadAt = at
    at += payload
    if (!(at <= stop)) throw new TruncatedError('a segment ends within an entry')
    this.#at = at
    this.size = topic + properties + payload
    return true
  }

  /** Where the current entry ends in the segment's bytes. */
  get place(): number {
    return this.#at
  }

  get expiresAt(): number {
    if ((this.#flags & EXPIRES) === 0) return Number.POSITIVE_INFINITY
    return this.#segment.decoding.expiry(this.appendedAt, this.#expiresAt)
  }

  /** As it is stored. */
  get storedExpiry(): number {
    return (this.#flags & EXPIRES) === 0 ? Number.POSITIVE_INFINITY : this.#expiresAt
  }

  get qos(): QoS {
    return (this.#flags & QOS_MASK) as QoS
  }

  get retain(): boolean {
    return (this.#flags & RETAIN) !== 0
  }

  get appendedAt(): number {
    return this.#segment.time + this.#ms
  }

  get appendedWall(): number {
    return this.#segment.wall + this.#ms
  }

  get publisher(): string {
    return this.#segment.bytes.toString('utf8', this.#publisherAt, this.#publisherEnd)
  }

  topicBytes(): Buffer {
    return this.#segment.bytes.subarray(this.#topicAt, this.#topicEnd)
  }

  properties(): Buffer {
    return this.#segment.bytes.subarray(this.#propertiesAt, this.#propertiesEnd)
  }

  payload(): Buffer {
    return this.#segment.bytes.subarray(this.#payloadAt, this.#at)
  }

  message(): Message {
    const { bytes, decoding } = this.#segment
    const propertiesBytes = this.#propertiesEnd - this.#propertiesAt
    const buffer = Buffer.allocUnsafe(propertiesBytes + this.#at - this.#payloadAt)
    bytes.copy(buffer, 0, this.#propertiesAt, this.#propertiesEnd)
    bytes.copy(buffer, propertiesBytes, this.#payloadAt, this.#at)
    const hasTopic = this.#topicEnd > this.#topicAt
    return new Message(
      hasTopic ? decoding.topics.topic(bytes.toString('utf8', this.#topicAt, this.#topicEnd)) : NO_TOPIC,
      this.publisher,
      { buffer, payloadStart: propertiesBytes, end: buffer.length },
      buffer.subarray(0, propertiesBytes),
      this.qos,
      this.retain,
      this.expiresAt,
    )
  }

  /** Reads a varint of more than one byte. `#read` is behind it. */
  #long(bytes: Buffer, from: number): number {
    let at = from
    let value = 0
    let factor = 1
    for (;;) {
      const byte = bytes[at++]
      if (byte === undefined) throw new TruncatedError('a segment ends within an entry')
      value += (byte & 127) * factor
      if (byte < 128) {
        this.#read = at
        return value
      }
      factor *= 128
    }
  }
}
