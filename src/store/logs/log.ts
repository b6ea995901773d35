/**
 * HOT. One log: its complete segments, and the one that grows. What came with one commit is a fragment of the
 * growing segment, and is stored by itself until the segment is complete. A fragment all of whose entries are
 * settled is deleted at once, so a queue that is consumed as it fills is written once.
 */
import type { LogFigures } from '../log-store.ts'
import type { GrowingSegment } from './growing-segment.ts'
import { LogDirectory, type SegmentEntry } from './log-directory.ts'

/** Memory of a log besides its segments. */
export const LOG_BYTES = 500

/** A part of the growing segment. */
export class Fragment {
  /** The sequence that names it on disk, and one past its last. */
  readonly first: number
  end: number
  /** Where it begins in the segment's bytes. */
  place: number
  count = 0
  /** Entries that are not settled. */
  left = 0
  /** Sum of `Message.size`. */
  bytes = 0
  expiry = Number.POSITIVE_INFINITY
  isWritten = false
  /** All of it is settled, and nothing of it is on disk. */
  isGone = false

  constructor(first: number, place: number) {
    this.first = first
    this.end = first
    this.place = place
  }
}

export class Log implements LogFigures {
  readonly number: number
  /** The number of its definition. */
  readonly definition: number
  readonly directory: LogDirectory
  next = 1
  messages = 0
  bytes = 0
  /** The segment that grows; null while there is none. */
  growing: GrowingSegment | null = null
  /** The buffer that the next growing segment begins with; undefined for a small one. */
  capacityBytes: number | undefined = undefined
  /** Of the growing segment, in order. */
  fragments: Fragment[] = []
  /** Written fragments that are settled and still on disk. */
  readonly dead: Fragment[] = []
  /** The highest wall time of an entry, and broker time of the last entry, in ms. */
  wall = 0
  time = 0
  /** Whether it is among those that the next commit looks at. */
  isChanged = false
  /** Whether an entry came since the last commit. */
  hasGrown = false
  /** Neighbours in the list of logs with a growing segment. */
  older: Log | null = null
  newer: Log | null = null
  isListed = false

  constructor(number: number, definition: number) {
    this.number = number
    this.definition = definition
    this.directory = new LogDirectory(number)
  }

  get first(): number {
    const place = this.directory.find(0)
    if (place !== null) return place.part.first(place.index)
    return this.fragments[0]?.first ?? this.next
  }

  get segments(): number {
    return this.directory.segments + (this.fragments.length > 0 ? 1 : 0)
  }

  get memoryBytes(): number {
    return LOG_BYTES + this.directory.memoryBytes + (this.growing?.memoryBytes ?? 0)
  }

  get earliestExpiry(): number {
    let expiry = Number.POSITIVE_INFINITY
    for (const { part, index } of this.directory) expiry = Math.min(expiry, part.entry(index).expiry)
    for (const fragment of this.fragments) expiry = Math.min(expiry, fragment.expiry)
    return expiry
  }

  /** Notes an entry that was added to the growing segment. */
  added(growing: GrowingSegment, place: number, first: number, size: number, expiresAt: number): void {
    let fragment = this.fragments[this.fragments.length - 1]
    if (fragment === undefined || fragment.isWritten || fragment.isGone) {
      fragment = new Fragment(first, place)
      this.fragments.push(fragment)
    }
    fragment.end = growing.end
    fragment.count++
    fragment.left++
    fragment.bytes += size
    if (expiresAt < fragment.expiry) fragment.expiry = expiresAt
    this.next = growing.end
    this.messages++
    this.bytes += size
  }

  /** Settles entries of the growing segment, from `first` up to, not including, `next`. */
  settleGrowing(first: number, next: number): void {
    let index = this.#fragmentOf(first)
    for (let from = first; from < next; index++) {
      const fragment = this.fragments[index]
      if (fragment === undefined || from < fragment.first) {
        throw new Error(`log ${this.number} has no entry ${from}`)
      }
      const to = Math.min(next, fragment.end)
      fragment.left -= to - from
      if (fragment.left < 0) throw new Error(`log ${this.number}: an entry was settled twice`)
      from = to
    }
  }

  /**
   * Notes which fragments are settled: those on disk go to `dead`. Drops those at the front with their bytes;
   * others stay until the segment is complete.
   */
  dropSettled(): void {
    const { fragments, growing } = this
    if (growing === null) return
    let front = 0
    let { count } = growing
    for (let index = 0; index < fragments.length; index++) {
      const fragment = fragments[index]!
      if (fragment.left > 0) continue
      if (fragment.isWritten) this.dead.push(fragment)
      fragment.isWritten = false
      fragment.isGone = true
      if (front < index) continue
      front++
      count -= fragment.count
    }
    if (front === 0) return
    const next = fragments[front]
    if (next === undefined) growing.trim(growing.stop, growing.end, 0)
    else growing.trim(next.place, next.first, count)
    fragments.splice(0, front)
  }

  /** Goes on in a segment that has the same entries. */
  moveTo(moved: GrowingSegment): void {
    const shift = moved.begin - this.growing!.begin
    for (const fragment of this.fragments) fragment.place += shift
    this.growing = moved
  }

  /** Describes the growing segment as it is completed now. */
  entry(growing: GrowingSegment): SegmentEntry {
    let bytes = 0
    let expiry = Number.POSITIVE_INFINITY
    for (const fragment of this.fragments) {
      bytes += fragment.bytes
      expiry = Math.min(expiry, fragment.expiry)
    }
    const { first, end, count } = growing
    return { first, end, count, bytes, wall: this.wall, time: this.time, expiry }
  }

  /** Entries of the growing segment that are not settled. */
  get growingLeft(): number {
    let left = 0
    for (const fragment of this.fragments) left += fragment.left
    return left
  }

  /** The index of the fragment that has this sequence. */
  #fragmentOf(sequence: number): number {
    const { fragments } = this
    let low = 0
    let high = fragments.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (fragments[middle]!.end > sequence) high = middle
      else low = middle + 1
    }
    return low
  }
}
