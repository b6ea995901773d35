/**
 * HOT. Keeps queue entries without an object each: 16 bytes an entry, and 8 more where messages expire. The
 * bodies are on disk. The objects of a delivery are made when its turn to be sent comes near.
 */
import type { EntryFields } from '../format/entry.ts'
import type { Postponed } from '../format/time-record.ts'
import type { Parked } from '../store.ts'
import { Extensions } from './extensions.ts'

/** Entries that one ParkedEntries takes. */
export const PARKED_MAX = 1024
/** V8 keeps the words of this few entries inside the array object. More of them need memory of their own. */
const FIRST_CAPACITY = 4
/**
 * 32-bit words of an entry: page; page above 32 bits, and offset; size; number of the extension, and flags.
 */
const WORDS = 4
const HIGH = 0x100000000
/**
 * The lowest bits of the last word are flags. Above them is the number of the extension, up to 67 million.
 */
const FLAG_BITS = 6
const FLAGS = (1 << FLAG_BITS) - 1

export class ParkedEntries implements Parked {
  #words = new Uint32Array(FIRST_CAPACITY * WORDS)
  /** Null while no message expires. */
  #expiries: Float64Array | null = null
  readonly #extensions: Extensions
  /** Entries before this one were taken out. */
  #first = 0
  #end = 0
  #bytes = 0
  #shared = false

  /** `extensions` are shared by all entries of a store. */
  constructor(extensions = new Extensions()) {
    this.#extensions = extensions
  }

  get length(): number {
    return this.#end - this.#first
  }

  get bytes(): number {
    return this.#bytes
  }

  get shared(): boolean {
    return this.#shared
  }

  get expires(): boolean {
    return this.#expiries !== null
  }

  expiresAt(index: number): number {
    return this.#expiries === null ? Number.POSITIVE_INFINITY : this.#expiries[this.#first + index]!
  }

  sizeAt(index: number): number {
    return this.#words[(this.#first + index) * WORDS + 2]!
  }

  /** True when it takes no more entries, even if some were taken out. */
  get full(): boolean {
    return this.#end === PARKED_MAX
  }

  /** Appends a copy of the entry. */
  add(entry: EntryFields): void {
    const at = this.#end * WORDS
    if (at === this.#words.length) this.#grow()
    const words = this.#words
    words[at] = entry.page % HIGH
    words[at + 1] = ((Math.floor(entry.page / HIGH) << 16) | entry.offset) >>> 0
    words[at + 2] = entry.size
    words[at + 3] = entry.flags
    if (entry.extension !== null) {
      words[at + 3] = (this.#extensions.take(entry.extension) << FLAG_BITS) | entry.flags
      if (entry.extension.share !== null) this.#shared = true
    }
    if (entry.expiresAt !== Number.POSITIVE_INFINITY && this.#expiries === null) {
      this.#expiries = new Float64Array(words.length / WORDS).fill(Number.POSITIVE_INFINITY)
    }
    if (this.#expiries !== null) this.#expiries[this.#end] = entry.expiresAt
    this.#bytes += entry.size
    this.#end++
  }

  /** Copies the entry at this index into `into`; 0 is the oldest that is left. */
  read(index: number, into: EntryFields): void {
    const position = this.#first + index
    if (index < 0 || position >= this.#end) throw new RangeError(`no parked entry ${index}`)
    const words = this.#words
    const at = position * WORDS
    const place = words[at + 1]!
    into.page = words[at]! + (place >>> 16) * HIGH
    into.offset = place & 0xffff
    into.size = words[at + 2]!
    const tail = words[at + 3]!
    into.flags = tail & FLAGS
    into.extension = tail <= FLAGS ? null : this.#extensions.get(tail >>> FLAG_BITS)
    into.expiresAt = this.#expiries === null ? Number.POSITIVE_INFINITY : this.#expiries[position]!
  }

  /**
   * Adds `ms` to the expiry of entries that expire after `since` and whose bodies are named by pages before
   * `before`.
   */
  postpone({ before, since, ms }: Postponed): void {
    const expiries = this.#expiries
    if (expiries === null) return
    for (let position = this.#first; position < this.#end; position++) {
      const at = position * WORDS
      const page = this.#words[at]! + (this.#words[at + 1]! >>> 16) * HIGH
      if (page < before && expiries[position]! > since) expiries[position]! += ms
    }
  }

  /** Takes the oldest entries out. */
  remove(count: number): void {
    const end = this.#first + count
    for (let at = this.#first * WORDS; at < end * WORDS; at += WORDS) {
      this.#bytes -= this.#words[at + 2]!
      const tail = this.#words[at + 3]!
      if (tail > FLAGS) this.#extensions.release(tail >>> FLAG_BITS)
    }
    this.#first = end
  }

  #grow(): void {
    const words = new Uint32Array(this.#words.length * 2)
    words.set(this.#words)
    this.#words = words
    if (this.#expiries === null) return
    const expiries = new Float64Array(words.length / WORDS).fill(Number.POSITIVE_INFINITY)
    expiries.set(this.#expiries)
    this.#expiries = expiries
  }
}
