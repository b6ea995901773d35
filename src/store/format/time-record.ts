/**
 * The store's value about time: which part of it is in doubt, and which messages expire later than their
 * bodies say, since they were stored before a time that turned out not to have passed.
 */
import type { TimeDoubt } from '../store.ts'
import { type ByteReader, ByteWriter } from './encoding.ts'

/**
 * Messages whose bodies are named by pages before `before`, and that expire after `since`, expire `ms` later.
 */
export interface Postponed {
  readonly before: number
  readonly since: number
  readonly ms: number
}

/** HOT. Converts between the stored expiry of a message and the real one. Nearly always they are the same. */
export class PageTimes {
  /** In the order of their starts, which is that of their pages. */
  #postponed: Postponed[] = []

  /** Returns when a message expires, from its stored expiry and the page that names its body. */
  expiry(page: number, stored: number): number {
    let expiresAt = stored
    for (let index = 0; index < this.#postponed.length; index++) {
      const { before, since, ms } = this.#postponed[index]!
      if (page < before && expiresAt > since) expiresAt += ms
    }
    return expiresAt
  }

  /** Returns the expiry to store for a message that expires at this time. */
  stored(page: number, expiresAt: number): number {
    let stored = expiresAt
    for (let index = this.#postponed.length - 1; index >= 0; index--) {
      const { before, since, ms } = this.#postponed[index]!
      if (page < before && stored > since + ms) stored -= ms
    }
    return stored
  }

  add(postponed: Postponed): void {
    this.#postponed.push(postponed)
  }

  /** Forgets entries that concern only pages before this one. */
  prune(firstPage: number): void {
    this.#postponed = this.#postponed.filter(({ before }) => before > firstPage)
  }

  [Symbol.iterator](): Iterator<Postponed> {
    return this.#postponed[Symbol.iterator]()
  }

  get count(): number {
    return this.#postponed.length
  }
}

/** A doubt, and the first page that was written after the time in doubt. */
export interface StoredDoubt extends TimeDoubt {
  readonly before: number
}

/** Returns the unsealed value. */
export function encodeTimes(doubt: StoredDoubt | null, times: PageTimes): Buffer {
  const writer = new ByteWriter(64)
  writer.reserve(48 + times.count * 24)
  writer.f64(doubt?.ms ?? 0)
  writer.f64(doubt?.since ?? 0)
  writer.f64(doubt?.until ?? 0)
  writer.varint(doubt?.before ?? 0)
  writer.varint(times.count)
  for (const { before, since, ms } of times) {
    writer.varint(before)
    writer.f64(since)
    writer.f64(ms)
  }
  return writer.taken()
}

/** Reads a value into `times`, and returns the doubt; null for none. */
export function decodeTimes(reader: ByteReader, times: PageTimes): StoredDoubt | null {
  const ms = reader.f64()
  const since = reader.f64()
  const until = reader.f64()
  const page = reader.varint()
  for (let count = reader.varint(); count > 0; count--) {
    const before = reader.varint()
    const from = reader.f64()
    times.add({ before, since: from, ms: reader.f64() })
  }
  return ms === 0 ? null : { ms, since, until, before: page }
}
