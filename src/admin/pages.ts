/** Serves long lists in pages. A page costs only what it returns and holds up no other work. */

import { randomBytes } from 'node:crypto'
import { setImmediate } from 'node:timers/promises'
import type { ErrorCode } from '../errors.ts'

/** The steps of one slice, after which the broker serves others. */
const SLICE_STEPS = 256
/** The most rows of a page, and the most bytes of its rows as JSON; a page has at least one row. */
export const PAGE_ROWS_MAX = 1000
const PAGE_BYTES_MAX = 1024 * 1024
/** At most so many lists stay open; beyond that the oldest is dropped. */
const LISTS_MAX = 16
/** A list stays open for so long. */
const OPEN_MS = 300_000

/** A page of a list. */
export interface Page<T> {
  readonly rows: readonly T[]
  /** The cursor of the next page; null after the last one. */
  readonly after: string | null
}

/** The cursor is unknown or no longer valid. */
export class CursorError extends Error {
  override readonly name = 'CursorError'
  readonly code: ErrorCode = 'GODWIT_CURSOR_INVALID'
  readonly advice = 'Begin the list again, without --after.'
}

interface OpenList {
  /** The name of the list and its filters. */
  readonly list: string
  readonly rows: Iterator<unknown>
  /** The first row of the next page. */
  readonly next: unknown
  readonly timer: NodeJS.Timeout
}

/** Keeps lists open between their pages. */
export class Pages {
  /** The open lists by their cursors. */
  readonly #open = new Map<string, OpenList>()

  /**
   * Returns the first page of a list, with at most `limit` rows; null rows do not count. `list` identifies
   * the list and its filters. A longer list stays open for `resume`.
   */
  begin<T>(list: string, rows: Iterator<T | null>, limit: number): Promise<Page<T>> {
    return this.#page(list, rows, null, limit)
  }

  /** Returns the next page of the same list. Each cursor can be used once. Throws CursorError. */
  resume<T>(list: string, after: string, limit: number): Promise<Page<T>> {
    const open = this.#open.get(after)
    if (open === undefined) throw new CursorError(`the cursor '${after}' is unknown or no longer valid`)
    if (open.list !== list) throw new CursorError(`the cursor '${after}' belongs to another list`)
    this.#drop(after)
    return this.#page(list, open.rows as Iterator<T | null>, open.next as T, limit)
  }

  /** Drops all open lists. */
  clear(): void {
    for (const after of this.#open.keys()) this.#drop(after)
  }

  async #page<T>(list: string, source: Iterator<T | null>, first: T | null, limit: number): Promise<Page<T>> {
    const rows: T[] = []
    let bytes = 0
    let row = first
    for (let step = 1; ; step++) {
      if (row !== null) {
        bytes += Buffer.byteLength(JSON.stringify(row))
        if (rows.length === limit || (rows.length > 0 && bytes > PAGE_BYTES_MAX)) {
          return { rows, after: this.#keep(list, source, row) }
        }
        rows.push(row)
      }
      if (step % SLICE_STEPS === 0) await setImmediate()
      const next = source.next()
      if (next.done === true) return { rows, after: null }
      row = next.value
    }
  }

  #keep(list: string, rows: Iterator<unknown>, next: unknown): string {
    const after = randomBytes(9).toString('hex')
    const timer = setTimeout(() => this.#drop(after), OPEN_MS).unref()
    const [oldest] = this.#open.size >= LISTS_MAX ? this.#open.keys() : []
    if (oldest !== undefined) this.#drop(oldest)
    this.#open.set(after, { list, rows, next, timer })
    return after
  }

  #drop(after: string): void {
    clearTimeout(this.#open.get(after)?.timer)
    this.#open.delete(after)
  }
}
