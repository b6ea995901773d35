/**
 * HOT. Counts the expired messages of a queue. For each chunk of positions it keeps the time of the earliest
 * expiry, so that a search for newly expired messages skips all other chunks.
 */
import type { Delivery } from '../mqtt/message.ts'
import type { Parked, QueueReader } from '../store/store.ts'

/** Positions for which one earliest expiry is kept. */
const CHUNK = 256
/** Chunks that the head has passed before their memory is given back. */
const CHUNKS_PASSED = 64

/** The queue whose messages expire. */
interface Entries {
  readonly head: number
  readonly tail: number
  read(from: number, to: number, reader: QueueReader): void
}

export class QueueExpiry implements QueueReader {
  /** Expired messages that are still in the queue, and their bytes, as far as they are counted. */
  expired = 0
  expiredBytes = 0
  /** The time of the next expiry that is not counted yet, or earlier. */
  next = Number.POSITIVE_INFINITY
  /** By chunk, from `#firstChunk` on: the earliest expiry that is not counted yet, or an earlier time. */
  #earliest: number[] = []
  /** By chunk: the time up to which expiries are counted. */
  #counted: number[] = []
  #firstChunk: number
  /** While a chunk is read: the time now, the time up to which it was counted before, and its next expiry. */
  #now = 0
  #before = 0
  #nextOfChunk = 0

  /** `position` is that of the first entry that expires. */
  constructor(position: number) {
    this.#firstChunk = Math.floor(position / CHUNK)
  }

  /** Notes that an entry with an expiry was added. */
  add(position: number, expiresAt: number, size: number): void {
    const earliest = this.#earliest
    const index = Math.floor(position / CHUNK) - this.#firstChunk
    while (earliest.length <= index) {
      earliest.push(Number.POSITIVE_INFINITY)
      this.#counted.push(Number.NEGATIVE_INFINITY)
    }
    if (expiresAt <= this.#counted[index]!) {
      this.#count(size)
      return
    }
    if (expiresAt < earliest[index]!) earliest[index] = expiresAt
    if (expiresAt < this.next) this.next = expiresAt
  }

  /** Notes that parked entries were added, the first at position `from`. */
  addParked(parked: Parked, from: number): void {
    for (let index = 0; index < parked.length; index++) {
      const expiresAt = parked.expiresAt(index)
      if (expiresAt !== Number.POSITIVE_INFINITY) this.add(from + index, expiresAt, parked.sizeAt(index))
    }
  }

  /** Forgets the entry at the head, which has an expiry and is taken off. */
  remove(head: number, expiresAt: number, size: number): void {
    const index = Math.floor(head / CHUNK) - this.#firstChunk
    if (expiresAt <= this.#counted[index]!) {
      this.expired--
      this.expiredBytes -= size
    }
    if (index < CHUNKS_PASSED) return
    this.#earliest = this.#earliest.slice(index)
    this.#counted = this.#counted.slice(index)
    this.#firstChunk += index
  }

  /** Counts expired entries; looks at `chunksMax` chunks of positions at most. */
  sweep(entries: Entries, now: number, chunksMax: number): void {
    if (this.next > now) return
    const earliest = this.#earliest
    let left = chunksMax
    let next = Number.POSITIVE_INFINITY
    const first = Math.max(0, Math.floor(entries.head / CHUNK) - this.#firstChunk)
    for (let index = first; index < earliest.length; index++) {
      if (earliest[index]! <= now && left > 0) {
        left--
        earliest[index] = this.#sweepChunk(entries, index, now)
      }
      if (earliest[index]! < next) next = earliest[index]!
    }
    this.next = next
  }

  /** Returns when the next message of the chunk expires. */
  #sweepChunk(entries: Entries, index: number, now: number): number {
    const chunk = this.#firstChunk + index
    const from = Math.max(entries.head, chunk * CHUNK)
    const to = Math.min(entries.tail, (chunk + 1) * CHUNK)
    this.#now = now
    this.#before = this.#counted[index]!
    this.#nextOfChunk = Number.POSITIVE_INFINITY
    this.#counted[index] = now
    entries.read(from, to, this)
    return this.#nextOfChunk
  }

  /** See `QueueReader`. */
  delivery({ message }: Delivery): void {
    this.#look(message.expiresAt, message.size)
  }

  /** See `QueueReader`. */
  parked(parked: Parked, from: number, to: number): void {
    if (!parked.expires) return
    for (let index = from; index < to; index++) {
      const expiresAt = parked.expiresAt(index)
      if (expiresAt > this.#now) this.#nextOfChunk = Math.min(this.#nextOfChunk, expiresAt)
      else if (expiresAt > this.#before) this.#count(parked.sizeAt(index))
    }
  }

  #look(expiresAt: number, size: number): void {
    if (expiresAt > this.#now) this.#nextOfChunk = Math.min(this.#nextOfChunk, expiresAt)
    else if (expiresAt > this.#before) this.#count(size)
  }

  #count(size: number): void {
    this.expired++
    this.expiredBytes += size
  }
}
