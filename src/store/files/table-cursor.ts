/**
 * Reads and checks the values of one table in the order of their keys. Several cursors advance side by side.
 */
import type { DamageReport } from '../format/damage.ts'
import { ByteReader } from '../format/encoding.ts'
import { keyNumber, type Table, tableName, tableRange, unsealed } from '../format/format.ts'
import type { Database, DatabaseIterator } from './database.ts'

const SLICE_VALUES = 200
const SLICE_BYTES = 1024 * 1024

/** A value with a correct CRC. */
export interface TableValue {
  readonly key: Buffer
  readonly value: Buffer
}

export class TableCursor {
  readonly #iterator: DatabaseIterator
  readonly #report: DamageReport
  /** Says what is lost with a damaged value of this table. */
  readonly #lost: (key: Buffer) => string | null
  #slice: readonly (readonly [Buffer, Buffer])[] = []
  #at = 0

  constructor(db: Database, table: Table, report: DamageReport, lost: (key: Buffer) => string | null) {
    this.#iterator = db.iterator({ ...tableRange(table), highWaterMarkBytes: SLICE_BYTES, fillCache: false })
    this.#report = report
    this.#lost = lost
  }

  /** Returns the next sound value; undefined at the end. Reports and skips damaged ones. */
  async next(): Promise<TableValue | undefined> {
    for (;;) {
      if (!(await this.#filled())) return undefined
      const [key, bytes] = this.#slice[this.#at++]!
      const value = this.#sound(key, bytes)
      if (value !== undefined) return { key, value }
    }
  }

  /** Returns the next sound value of this Session. Skips the values of Sessions before it. */
  async nextOf(session: number): Promise<TableValue | undefined> {
    for (;;) {
      if (!(await this.#filled())) return undefined
      const [key, bytes] = this.#slice[this.#at]!
      const number = keyNumber(key)
      if (number > session) return undefined
      this.#at++
      if (number < session) continue
      const value = this.#sound(key, bytes)
      if (value !== undefined) return { key, value }
    }
  }

  /** Decodes the value. Reports a value that cannot be decoded, and returns undefined. */
  decoded<T>({ key, value }: TableValue, decode: (reader: ByteReader) => T): T | undefined {
    try {
      return decode(new ByteReader(value))
    } catch {
      this.#report({ what: `${tableName(key)} cannot be decoded`, lost: this.#lost(key) })
      return undefined
    }
  }

  close(): Promise<void> {
    return this.#iterator.close()
  }

  async #filled(): Promise<boolean> {
    if (this.#at < this.#slice.length) return true
    this.#slice = await this.#iterator.nextv(SLICE_VALUES)
    this.#at = 0
    return this.#slice.length > 0
  }

  #sound(key: Buffer, bytes: Buffer): Buffer | undefined {
    try {
      return unsealed(key, bytes)
    } catch {
      this.#report({ what: `${tableName(key)} does not match its checksum`, lost: this.#lost(key) })
      return undefined
    }
  }
}
