/** HOT. A queue while a store is read: its entries are parked from the beginning, and some may be missing. */
import { type EntryFields, MISSING_PAGE } from '../format/entry.ts'
import type { Extensions } from './extensions.ts'
import { ParkedEntries } from './parked-entries.ts'

/** Consecutive entries that were lost. */
export class MissingEntries {
  length: number

  constructor(length: number) {
    this.length = length
  }
}

export type QueuePart = ParkedEntries | MissingEntries

const NO_PARTS: readonly QueuePart[] = Object.freeze([])

export class ParkedQueue {
  /** How many entries were taken off. */
  taken = 0
  readonly #extensions: Extensions
  /** Oldest first; none is empty. */
  #parts: readonly QueuePart[] = NO_PARTS
  #newest: ParkedEntries | null = null

  constructor(extensions: Extensions) {
    this.#extensions = extensions
  }

  get parts(): readonly QueuePart[] {
    return this.#parts
  }

  /** Appends a copy of the entry. */
  push(entry: EntryFields): void {
    if (entry.page === MISSING_PAGE) {
      this.skip(1)
      return
    }
    if (this.#newest === null || this.#newest.full) {
      this.#newest = new ParkedEntries(this.#extensions)
      this.#ownParts.push(this.#newest)
    }
    this.#newest.add(entry)
  }

  /** Appends entries that are missing. */
  skip(count: number): void {
    this.#ownParts.push(new MissingEntries(count))
    this.#newest = null
  }

  /** Copies the oldest entry, with MISSING_PAGE for one that is missing; false when the queue is empty. */
  peek(into: EntryFields): boolean {
    const oldest = this.#parts[0]
    if (oldest === undefined) return false
    if (oldest instanceof MissingEntries) into.page = MISSING_PAGE
    else oldest.read(0, into)
    return true
  }

  /** Takes the oldest entry off; the queue is not empty. */
  shift(): void {
    const oldest = this.#parts[0]!
    if (oldest instanceof MissingEntries) oldest.length--
    else oldest.remove(1)
    this.taken++
    if (oldest.length > 0) return
    this.#ownParts.shift()
    if (this.#parts.length === 0) this.#newest = null
  }

  get #ownParts(): QueuePart[] {
    if (this.#parts === NO_PARTS) this.#parts = []
    return this.#parts as QueuePart[]
  }
}
