/** Entries of logs that expire later than they say, since they came before a time that did not pass. */
import { type ByteReader, ByteWriter } from '../format/encoding.ts'
import { TopicCache } from '../journal/topic-cache.ts'
import type { EntryDecoding } from './segment.ts'

/** Entries that came by `since`, and expire after it, expire `ms` later. Both in broker time. */
interface Postponement {
  readonly since: number
  readonly ms: number
}

/** Topics that entries which are read share. */
const TOPICS_MAX = 4096

/** Returns how entries of a store with these times are decoded. */
export function logDecoding(times: LogTimes): EntryDecoding {
  return {
    topics: new TopicCache(TOPICS_MAX),
    expiry: (appendedAt, stored) => times.expiry(appendedAt, stored),
  }
}

/** HOT. Nearly always there are none. */
export class LogTimes {
  readonly #postponements: Postponement[] = []

  expiry(appendedAt: number, stored: number): number {
    let expiresAt = stored
    for (let index = 0; index < this.#postponements.length; index++) {
      const { since, ms } = this.#postponements[index]!
      if (appendedAt <= since && expiresAt > since) expiresAt += ms
    }
    return expiresAt
  }

  add(ms: number, since: number): void {
    this.#postponements.push({ since, ms })
  }

  /** Forgets all of them: there are no entries. */
  clear(): void {
    this.#postponements.length = 0
  }

  /** Returns the unsealed value. */
  encoded(): Buffer {
    const writer = new ByteWriter(16 + this.#postponements.length * 16)
    writer.varint(this.#postponements.length)
    for (const { since, ms } of this.#postponements) {
      writer.f64(since)
      writer.f64(ms)
    }
    return writer.taken()
  }

  read(reader: ByteReader): void {
    for (let count = reader.varint(); count > 0; count--) {
      const since = reader.f64()
      this.add(reader.f64(), since)
    }
  }
}
