/**
 * What a store knows about time beside its commits: how much of it is in doubt, and which messages expire later than
 * their bodies say, since they were stored before a time that did not pass.
 */
import { type ByteReader, ByteWriter } from './encoding.ts'
import type { TimeDoubt } from './store.ts'

/** Bodies that are named by pages before this one expire so many ms later than they say. */
interface Postponed {
  readonly before: number
  readonly ms: number
}

/** HOT. How much later messages expire than is stored, by the page that names their body. Nearly always nothing. */
export class PageTimes {
  /** Those with the lowest page first. */
  #postponed: Postponed[] = []

  /** In ms. */
  of(page: number): number {
    let ms = 0
    for (let index = this.#postponed.length - 1; index >= 0; index--) {
      const postponed = this.#postponed[index]!
      if (postponed.before <= page) break
      ms += postponed.ms
    }
    return ms
  }

  add(postponed: Postponed): void {
    this.#postponed.push(postponed)
    this.#postponed.sort((one, other) => one.before - other.before)
  }

  /** Forgets what concerns only pages before this one. */
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

/** The unsealed value. */
export function encodeTimes(doubt: TimeDoubt | null, times: PageTimes): Buffer {
  const writer = new ByteWriter(64)
  writer.reserve(32 + times.count * 16)
  writer.f64(doubt?.ms ?? 0)
  writer.f64(doubt?.until ?? 0)
  writer.varint(times.count)
  for (const { before, ms } of times) {
    writer.varint(before)
    writer.f64(ms)
  }
  return writer.taken()
}

/** Reads a value into `times`; returns the doubt, null for none. */
export function decodeTimes(reader: ByteReader, times: PageTimes): TimeDoubt | null {
  const ms = reader.f64()
  const until = reader.f64()
  for (let count = reader.varint(); count > 0; count--) {
    const before = reader.varint()
    times.add({ before, ms: reader.f64() })
  }
  return ms === 0 ? null : { ms, until }
}
