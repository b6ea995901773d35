/**
 * Segments in memory that are complete: those whose commit is not durable yet, since they cannot be read from
 * disk, and those that were read lately, up to a limit.
 */
import type { Segment } from './segment.ts'

/** A segment in the cache, and its neighbours in the order of use. */
class Cached {
  readonly segment: Segment
  /** The block that makes it durable; 0 once it is. */
  sequence: number
  older: Cached | null = null
  newer: Cached | null = null

  constructor(segment: Segment, sequence: number) {
    this.segment = segment
    this.sequence = sequence
  }
}

export class SegmentCache {
  /** Memory of all segments in it. */
  bytes = 0
  readonly #bytesMax: number
  /** By log and first sequence. */
  readonly #logs = new Map<number, Map<number, Cached>>()
  /** Segments that are not durable yet, oldest first. */
  #fresh: Cached[] = []
  #oldest: Cached | null = null
  #newest: Cached | null = null

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax
  }

  /**
   * Keeps a segment until the block with this sequence is durable, or longer if it is being read. Keeps it
   * for ever if the sequence is Infinity.
   */
  addFresh(segment: Segment, sequence: number): void {
    const cached = this.#put(segment, sequence)
    if (sequence !== Number.POSITIVE_INFINITY) this.#fresh.push(cached)
  }

  /** Keeps a segment that was read. */
  add(segment: Segment): void {
    const cached = this.#put(segment, 0)
    this.#link(cached)
    this.#shrink()
  }

  /** Returns the segment that begins at this sequence, if it is here. */
  get(log: number, first: number): Segment | null {
    const cached = this.#logs.get(log)?.get(first)
    if (cached === undefined) return null
    if (cached.sequence === 0 && cached !== this.#newest) {
      this.#unlink(cached)
      this.#link(cached)
    }
    return cached.segment
  }

  /** Notes that blocks up to this one are durable. */
  durable(sequence: number): void {
    let count = 0
    while (count < this.#fresh.length && this.#fresh[count]!.sequence <= sequence) {
      const cached = this.#fresh[count++]!
      const { segment } = cached
      if (this.#logs.get(segment.log)?.get(segment.first) !== cached) continue
      cached.sequence = 0
      if (segment.wasRead) this.#link(cached)
      else this.#forget(cached)
    }
    if (count === 0) return
    this.#fresh.splice(0, count)
    this.#shrink()
  }

  /** Drops a segment that is no longer needed. */
  delete(log: number, first: number): void {
    const cached = this.#logs.get(log)?.get(first)
    if (cached !== undefined) this.#remove(cached)
  }

  /** Drops the durable segments of a log. */
  forgetLog(log: number): void {
    for (const cached of this.#logs.get(log)?.values() ?? []) if (cached.sequence === 0) this.#remove(cached)
  }

  #put(segment: Segment, sequence: number): Cached {
    this.delete(segment.log, segment.first)
    const cached = new Cached(segment, sequence)
    let segments = this.#logs.get(segment.log)
    if (segments === undefined) {
      segments = new Map()
      this.#logs.set(segment.log, segments)
    }
    segments.set(segment.first, cached)
    this.bytes += segment.memoryBytes
    return cached
  }

  #shrink(): void {
    while (this.bytes > this.#bytesMax && this.#oldest !== null && this.#oldest !== this.#newest) {
      this.#remove(this.#oldest)
    }
  }

  #remove(cached: Cached): void {
    if (cached.sequence === 0) this.#unlink(cached)
    this.#forget(cached)
  }

  #forget({ segment }: Cached): void {
    this.bytes -= segment.memoryBytes
    const segments = this.#logs.get(segment.log)!
    segments.delete(segment.first)
    if (segments.size === 0) this.#logs.delete(segment.log)
  }

  #link(cached: Cached): void {
    cached.older = this.#newest
    cached.newer = null
    if (this.#newest === null) this.#oldest = cached
    else this.#newest.newer = cached
    this.#newest = cached
  }

  #unlink(cached: Cached): void {
    const { older, newer } = cached
    if (older === null) this.#oldest = newer
    else older.newer = newer
    if (newer === null) this.#newest = older
    else newer.older = older
  }
}
