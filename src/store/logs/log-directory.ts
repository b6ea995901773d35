/**
 * The complete segments of one log, in the order of their sequences: 50 bytes of memory each. On disk the
 * directory is cut into parts of up to 64 segments, so that little is written when one comes or goes.
 */
import { type ByteReader, ByteWriter } from '../format/encoding.ts'
import { type BatchOperation, logKey, put, Table } from '../format/format.ts'

/** Segments of one part. */
const PART_SEGMENTS = 64
/** Numbers of a segment: first, end, entries and what is left, bytes, wall time, broker time, expiry. */
const NUMBERS = 7
const FIRST_CAPACITY = 4
/** An upper bound of a stored segment, by which the directory is encoded. */
const STORED_BYTES = 50
/** Two counts share one number. */
const COUNTS = 0x10000

/** Describes one complete segment. */
export interface SegmentEntry {
  readonly first: number
  /** One past its last sequence. */
  readonly end: number
  readonly count: number
  /** Sum of `Message.size` of its entries, settled ones included. */
  readonly bytes: number
  /** The highest wall time in ms of an entry so far. */
  readonly wall: number
  /** Broker time in ms of the last entry. */
  readonly time: number
  /** No entry expires before. */
  readonly expiry: number
}

/** Segments that are stored under one key. */
export class Part {
  /** Names it on disk: the first sequence of its first segment. */
  readonly key: number
  length = 0
  /** Segments that still exist. */
  live = 0
  numbers = new Float64Array(FIRST_CAPACITY * NUMBERS)

  constructor(key: number) {
    this.key = key
  }

  add({ first, end, count, bytes, wall, time, expiry }: SegmentEntry, left: number): void {
    this.#put(first, end, count * COUNTS + left)
    this.#describe(bytes, wall, time, expiry)
  }

  /**
   * Takes over a stored segment, of which all is left. Returns its end. Makes no object, since a start with
   * millions of messages reads tens of thousands of segments.
   */
  read(reader: ByteReader, before: number): number {
    const first = before + reader.varint()
    const end = first + reader.varint()
    const count = reader.varint()
    this.#put(first, end, count * COUNTS + count)
    this.#describe(reader.varint(), reader.f64(), reader.f64(), reader.f64())
    return end
  }

  /** Begins a segment, which `#describe` completes. */
  #put(first: number, end: number, counts: number): void {
    const at = this.length * NUMBERS
    if (at === this.numbers.length) {
      const grown = new Float64Array(Math.min(this.length * 2, PART_SEGMENTS) * NUMBERS)
      grown.set(this.numbers)
      this.numbers = grown
    }
    const { numbers } = this
    numbers[at] = first
    numbers[at + 1] = end
    numbers[at + 2] = counts
  }

  #describe(bytes: number, wall: number, time: number, expiry: number): void {
    const at = this.length * NUMBERS
    const { numbers } = this
    numbers[at + 3] = bytes
    numbers[at + 4] = wall
    numbers[at + 5] = time
    numbers[at + 6] = expiry
    this.length++
    this.live++
  }

  first(index: number): number {
    return this.numbers[index * NUMBERS]!
  }

  end(index: number): number {
    return this.numbers[index * NUMBERS + 1]!
  }

  count(index: number): number {
    return Math.floor(this.numbers[index * NUMBERS + 2]! / COUNTS)
  }

  /** Entries that are not settled; 0 once the segment is gone. */
  left(index: number): number {
    return this.numbers[index * NUMBERS + 2]! % COUNTS
  }

  bytes(index: number): number {
    return this.numbers[index * NUMBERS + 3]!
  }

  wall(index: number): number {
    return this.numbers[index * NUMBERS + 4]!
  }

  time(index: number): number {
    return this.numbers[index * NUMBERS + 5]!
  }

  entry(index: number): SegmentEntry {
    return {
      first: this.first(index),
      end: this.end(index),
      count: this.count(index),
      bytes: this.bytes(index),
      wall: this.wall(index),
      time: this.time(index),
      expiry: this.numbers[index * NUMBERS + 6]!,
    }
  }
}

/** A segment in the directory. It stays valid until the directory changes. */
export interface SegmentPlace {
  readonly part: Part
  readonly index: number
}

export class LogDirectory {
  /** Segments that exist. */
  segments = 0
  readonly #log: number
  /** From `#head` on, in order. Each has a live segment, but for the last one perhaps. */
  #parts: Part[] = []
  #head = 0
  readonly #changed = new Set<Part>()

  constructor(log: number) {
    this.#log = log
  }

  get memoryBytes(): number {
    let bytes = 0
    for (let index = this.#head; index < this.#parts.length; index++)
      bytes += this.#parts[index]!.numbers.byteLength + 200
    return bytes
  }

  /** Whether values are to be written. */
  get isChanged(): boolean {
    return this.#changed.size > 0
  }

  /** Notes a segment behind all others. */
  add(entry: SegmentEntry, left: number): void {
    let part = this.#parts[this.#parts.length - 1]
    if (part === undefined || this.#parts.length === this.#head || part.length === PART_SEGMENTS) {
      part = new Part(entry.first)
      this.#parts.push(part)
    }
    part.add(entry, left)
    this.segments++
    this.#changed.add(part)
  }

  /** Takes over a stored part. Parts come in order. Throws when it cannot be decoded. */
  read(key: number, reader: ByteReader): void {
    const part = new Part(key)
    let end = 0
    while (!reader.atEnd) {
      end = part.read(reader, end)
      this.segments++
    }
    this.#parts.push(part)
  }

  /** The segment with the first entry at or after this sequence, as far as the directory can tell. */
  find(sequence: number): SegmentPlace | null {
    let low = this.#head
    let high = this.#parts.length
    // The last part that begins at or before the sequence, else the first one.
    while (high - low > 1) {
      const middle = (low + high) >>> 1
      if (this.#parts[middle]!.key <= sequence) low = middle
      else high = middle
    }
    for (let at = low; at < this.#parts.length; at++) {
      const part = this.#parts[at]!
      for (let index = at === low ? indexIn(part, sequence) : 0; index < part.length; index++) {
        if (part.left(index) > 0 && part.end(index) > sequence) return { part, index }
      }
    }
    return null
  }

  /** The segment behind another one. */
  after({ part, index }: SegmentPlace): SegmentPlace | null {
    return this.find(part.end(index))
  }

  /**
   * Notes that `count` entries of a segment are settled. Returns true when none is left: then the segment
   * counts as gone.
   */
  settle({ part, index }: SegmentPlace, count: number): boolean {
    const left = part.left(index) - count
    if (left < 0) throw new Error(`log ${this.#log}: an entry was settled twice`)
    part.numbers[index * NUMBERS + 2]! -= count
    if (left > 0) return false
    this.segments--
    part.live--
    this.#changed.add(part)
    const { length } = this.#parts
    while (this.#head < length && this.#parts[this.#head]!.live === 0 && this.#mayGo(this.#head)) this.#head++
    if (this.#head > 64 && this.#head * 2 > length) {
      this.#parts = this.#parts.slice(this.#head)
      this.#head = 0
    }
    return true
  }

  /** Raises the time before which no entry of a segment expires. It is written with the next change. */
  expiresFrom({ part, index }: SegmentPlace, time: number): void {
    const at = index * NUMBERS + 6
    part.numbers[at] = Math.max(part.numbers[at]!, time)
  }

  /** Sets what is left of a segment when a store is opened. Returns true if nothing is. */
  recovered({ part, index }: SegmentPlace, left: number): boolean {
    return this.settle({ part, index }, part.left(index) - left)
  }

  /** One past the last sequence of all segments; 0 without any. */
  get end(): number {
    const part = this.#parts[this.#parts.length - 1]
    return part === undefined || part.length === 0 ? 0 : part.end(part.length - 1)
  }

  /** The parts as they are now, with segments that are gone. It may be changed meanwhile. */
  parts(): readonly Part[] {
    return this.#parts.slice(this.#head)
  }

  /** All segments that exist. */
  *[Symbol.iterator](): Generator<SegmentPlace> {
    for (let at = this.#head; at < this.#parts.length; at++) {
      const part = this.#parts[at]!
      for (let index = 0; index < part.length; index++) if (part.left(index) > 0) yield { part, index }
    }
  }

  /** Appends the values that changed. */
  seal(operations: BatchOperation[]): void {
    for (const part of this.#changed) {
      const key = logKey(Table.LogDirectory, this.#log, part.key)
      operations.push(part.live === 0 ? { type: 'del', key } : put(key, encoded(part)))
    }
    this.#changed.clear()
  }

  /** Whether an empty part may be deleted: not the last one, unless it is full, so that its place is kept. */
  #mayGo(at: number): boolean {
    return at < this.#parts.length - 1 || this.#parts[at]!.length === PART_SEGMENTS
  }
}

/** The first index in a part whose segment may have the sequence. */
function indexIn(part: Part, sequence: number): number {
  let low = 0
  let high = part.length
  while (high - low > 1) {
    const middle = (low + high) >>> 1
    if (part.first(middle) <= sequence) low = middle
    else high = middle
  }
  return low
}

function encoded(part: Part): Buffer {
  const writer = new ByteWriter(STORED_BYTES * part.live)
  writer.reserve(STORED_BYTES * part.live)
  let end = 0
  for (let index = 0; index < part.length; index++) {
    if (part.left(index) === 0) continue
    const entry = part.entry(index)
    writer.varint(entry.first - end)
    writer.varint(entry.end - entry.first)
    writer.varint(entry.count)
    writer.varint(entry.bytes)
    writer.f64(entry.wall)
    writer.f64(entry.time)
    writer.f64(entry.expiry)
    end = entry.end
  }
  return writer.taken()
}
