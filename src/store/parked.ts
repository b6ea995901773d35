/**
 * HOT. Queue entries without an object each: 16 bytes, and 8 more where messages expire. Their bodies are on disk; what
 * a message needs beside them is made again when its turn comes near.
 */
import type { EntryExtension, EntryFields } from './entry.ts'
import type { Parked } from './store.ts'
import type { Postponed } from './time-record.ts'

/** Entries that one of these takes. */
export const PARKED_MAX = 1024
const FIRST_CAPACITY = 16
/** 32-bit words of an entry: page, page above 32 bits and offset, size, flags and number of the extension. */
const WORDS = 4
const HIGH = 0x100000000
/** Extensions that are compared before another copy is kept. */
const COMPARED_MAX = 8

export class ParkedEntries implements Parked {
  #words = new Uint32Array(FIRST_CAPACITY * WORDS)
  /** Null as long as nothing expires. */
  #expiries: Float64Array | null = null
  /** Null without any; entries count from 1. */
  #extensions: EntryExtension[] | null = null
  /** Entries before this one were taken out. */
  #first = 0
  #end = 0
  #bytes = 0
  #shared = false

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

  /** Takes no more, even when some were taken out. */
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
    words[at + 3] = entry.flags | (this.#extension(entry.extension) << 8)
    if (entry.expiresAt !== Number.POSITIVE_INFINITY && this.#expiries === null) {
      this.#expiries = new Float64Array(words.length / WORDS).fill(Number.POSITIVE_INFINITY)
    }
    if (this.#expiries !== null) this.#expiries[this.#end] = entry.expiresAt
    this.#bytes += entry.size
    this.#end++
  }

  /** Copies the entry at this index out; 0 is the oldest that is left. */
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
    into.flags = tail & 0xff
    into.extension = tail >>> 8 === 0 ? null : this.#extensions![(tail >>> 8) - 1]!
    into.expiresAt = this.#expiries === null ? Number.POSITIVE_INFINITY : this.#expiries[position]!
  }

  /** Entries whose bodies are named by pages before this one, and that expire after `since`, expire later. */
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
    for (let at = this.#first * WORDS + 2; at < end * WORDS; at += WORDS) this.#bytes -= this.#words[at]!
    this.#first = end
  }

  #extension(extension: EntryExtension | null): number {
    if (extension === null) return 0
    this.#extensions ??= []
    const extensions = this.#extensions
    for (let index = extensions.length - 1; index >= Math.max(0, extensions.length - COMPARED_MAX); index--) {
      if (isSame(extensions[index]!, extension)) return index + 1
    }
    if (extension.share !== null) this.#shared = true
    return extensions.push(extension)
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

function isSame(one: EntryExtension, other: EntryExtension): boolean {
  const a = one.subscriptionIdentifiers
  const b = other.subscriptionIdentifiers
  if (one.share !== other.share || a.length !== b.length) return false
  for (let index = 0; index < a.length; index++) if (a[index] !== b[index]) return false
  return true
}
