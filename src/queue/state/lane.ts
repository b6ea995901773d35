/**
 * HOT. One lane of a queue: what is settled in its log, what is ready, and what the machine keeps in memory.
 *
 * Everything below the cursor has an entry in memory, or is gone. Everything from the cursor on is ready and
 * unread, unless it has an entry (after a restart) or is in `gone`. So ten million messages that wait take
 * no memory here, and neither do ten million that are gone.
 */
import type { LogCursor as StoredCursor, LogSegment as StoredSegment } from '../../store/log-store.ts'
import { Entry } from './consumer.ts'
import { EntryHeap } from './entry-heap.ts'
import { EntryList } from './entry-list.ts'
import { IdleEntries } from './idle-entries.ts'
import { type Run, Runs } from './runs.ts'

/** The parts of the store's segments that the machine needs. */
export interface LogSegment extends Pick<StoredSegment, 'first' | 'end'> {
  /** Returns a cursor before the first entry at or after this sequence. */
  from(sequence: number): LogCursor
}

export type LogCursor = Pick<
  StoredCursor,
  'next' | 'sequence' | 'size' | 'expiresAt' | 'appendedAt' | 'message'
>

export class Lane {
  readonly number: number
  /** One past the last sequence of its log. */
  end = 1
  /** The oldest message that is ready and unread; `end` if there is none. */
  cursor = 1
  /** Messages that are not settled, and the sum of their sizes. */
  messages = 0
  bytes = 0
  /** Entries that may be handed out: ready, or loose at a Session. */
  readonly ready = new EntryHeap<Entry>((entry) => entry.sequence)
  /** Entries that nobody holds. */
  readonly idle = new IdleEntries()
  /** Settled at or beyond the cursor. */
  readonly gone = new Runs()
  readonly #entries = new EntryList()
  /** The oldest entry beyond the cursor. Only a restart leaves entries there. */
  #ahead: Entry | null = null
  /** Whether its next segment is being read. */
  isLoading = false
  /** Everything below that nobody holds is being purged. */
  purgeTo = 0
  readonly #ask: (sequence: number) => LogSegment | null
  #segment: LogSegment | null = null
  #read: LogCursor | null = null

  /** `ask` returns the segment with a sequence, or has it read and returns null. */
  constructor(number: number, ask: (sequence: number) => LogSegment | null) {
    this.number = number
    this.#ask = ask
  }

  /** Entries in memory. */
  get count(): number {
    return this.#entries.count
  }

  /** The oldest entry. */
  get first(): Entry | null {
    return this.#entries.first
  }

  /** Whether something is ready that has no entry. */
  get hasFresh(): boolean {
    return this.cursor < this.end
  }

  /** Messages that are ready and unread. */
  get fresh(): number {
    return this.messages - this.count
  }

  /** The lowest sequence that is not settled; `end` if all are. */
  get floor(): number {
    const { first } = this
    return first !== null && first.sequence < this.cursor ? first.sequence : this.cursor
  }

  /** Iterates what is settled beyond the floor. */
  get runs(): Iterable<Run> {
    return this.#runs()
  }

  *#runs(): IterableIterator<Run> {
    let from = this.floor
    for (let one = this.first; one !== null && one.sequence < this.cursor; one = one.next) {
      if (one.sequence > from) yield { first: from, next: one.sequence }
      from = one.sequence + 1
    }
    if (from < this.cursor) yield { first: from, next: this.cursor }
    yield* this.gone
  }

  /** Sets what a recovery found settled. Call it before any entry is made. */
  recover(floor: number, runs: Iterable<Run>, end: number, messages: number, bytes: number): void {
    this.end = end
    this.cursor = floor
    this.messages = messages
    this.bytes = bytes
    for (const { first, next } of runs) this.gone.add(first, next)
    this.advance()
  }

  /** Makes an entry during a recovery, in any order. Its message is not settled. */
  restore(sequence: number, size: number): Entry {
    const entry = new Entry(this.number, sequence, size)
    this.#entries.add(entry)
    if (this.#ahead === null || sequence < this.#ahead.sequence) this.#ahead = entry
    this.advance()
    return entry
  }

  /** Takes notice of a message at the end of its log. */
  appended(sequence: number, size: number): void {
    if (this.cursor === this.end) this.cursor = sequence
    this.end = sequence + 1
    this.messages++
    this.bytes += size
  }

  /** Makes an entry of the message at the cursor, and moves the cursor on. */
  enter(size: number): Entry {
    const entry = new Entry(this.number, this.cursor, size)
    this.#entries.add(entry)
    this.cursor++
    if (this.#ahead !== null || this.gone.count > 0) this.advance()
    return entry
  }

  /** Takes an entry out, since it is settled. */
  remove(entry: Entry): void {
    if (this.#ahead === entry) this.#ahead = entry.next
    this.#entries.remove(entry)
    // The cursor must not read a settled entry again.
    if (entry.sequence >= this.cursor) this.gone.add(entry.sequence, entry.sequence + 1)
    this.#left(1, entry.size)
    if (entry.sequence >= this.cursor) this.advance()
  }

  /** Settles messages that are unread, from `first` up to, not including, `next`; all of them are. */
  pass(first: number, next: number, bytes: number): void {
    this.#left(next - first, bytes)
    if (first === this.cursor) this.cursor = next
    else this.gone.add(first, next)
    this.advance()
  }

  /** Whether a message has no entry and is not settled. */
  isUnread(sequence: number): boolean {
    if (sequence < this.cursor || sequence >= this.end || this.gone.has(sequence)) return false
    return this.#ahead === null || this.#entries.find(sequence) === null
  }

  /** Finds an entry; null if there is none. */
  find(sequence: number): Entry | null {
    return this.#entries.find(sequence)
  }

  /** Moves the cursor past entries and settled sequences. */
  advance(): void {
    for (;;) {
      if (this.#ahead !== null && this.#ahead.sequence <= this.cursor) {
        if (this.#ahead.sequence === this.cursor) this.cursor++
        this.#ahead = this.#ahead.next
        continue
      }
      const next = this.gone.skip(this.cursor)
      if (next === this.cursor) break
      this.cursor = next
    }
    if (this.gone.count > 0) this.gone.dropBelow(this.cursor)
  }

  /**
   * Returns a cursor at this message, good for this turn; null while it has to be read. All that are asked
   * for are not settled, so they are in the log.
   */
  read(sequence: number): LogCursor | null {
    const read = this.#read
    if (read !== null && read.sequence === sequence) return read
    const segment = this.#segment
    if (segment === null || sequence < segment.first || sequence >= segment.end) {
      const asked = this.#ask(sequence)
      this.#segment = asked
      if (asked === null) {
        this.#read = null
        this.isLoading = true
        return null
      }
      return this.#walk(asked.from(sequence), sequence)
    }
    const isNext = read !== null && read.sequence + 1 === sequence
    return this.#walk(isNext ? read : segment.from(sequence), sequence)
  }

  #walk(cursor: LogCursor, sequence: number): LogCursor {
    if (!cursor.next() || cursor.sequence !== sequence) {
      throw new Error(`lane ${this.number}: message ${sequence} is not in its log`)
    }
    this.#read = cursor
    return cursor
  }

  /** Lets go of the segment that was read: it is good for a turn only. */
  endTurn(): void {
    this.#segment = null
    this.#read = null
  }

  #left(count: number, bytes: number): void {
    this.messages -= count
    this.bytes -= bytes
  }
}
