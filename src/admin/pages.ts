/** Long lists in pages: each costs what it returns, and no other work waits for it. */
import { randomBytes } from 'node:crypto'
import { setImmediate } from 'node:timers/promises'

/** Steps of a list that are taken before others are served. */
const SLICE_STEPS = 256
/** Rows of a page, and bytes of its rows as JSON (a page has at least one row). */
export const PAGE_ROWS_MAX = 1000
const PAGE_BYTES_MAX = 1024 * 1024
/** Lists that may be gone on with; of more, those that rest for longest are let go of. */
const LISTS_MAX = 16
/** How long a list may rest. */
const REST_MS = 300_000

export interface Page<T> {
  readonly rows: readonly T[]
  /** What to ask for to go on behind the last row; null when there is nothing more. */
  readonly after: string | null
}

/** The place where a page ended is not known, any more. */
export class CursorError extends Error {
  override readonly name = 'CursorError'
  readonly advice = 'Begin the list again, without --after.'
}

interface Resting {
  /** What the list is of, and with which filters. */
  readonly list: string
  readonly rows: Iterator<unknown>
  /** The row that did not fit. */
  readonly next: unknown
  readonly timer: NodeJS.Timeout
}

export class Pages {
  readonly #resting = new Map<string, Resting>()

  /**
   * The first `limit` rows (null rows are none) of a list; `list` says which one it is, with its filters. Where there
   * are more, they rest for `after`.
   */
  begin<T>(list: string, rows: Iterator<T | null>, limit: number): Promise<Page<T>> {
    return this.#page(list, rows, null, limit)
  }

  /** Goes on where a page of the same list ended. Each place can be used once. Throws CursorError. */
  resume<T>(list: string, after: string, limit: number): Promise<Page<T>> {
    const resting = this.#resting.get(after)
    if (resting === undefined)
      throw new CursorError(`the broker does not know the place '${after}' (any more)`)
    if (resting.list !== list) throw new CursorError(`the place '${after}' is one of another list`)
    this.#letGo(after)
    return this.#page(list, resting.rows as Iterator<T | null>, resting.next as T, limit)
  }

  /** Lets go of all lists. */
  clear(): void {
    for (const after of this.#resting.keys()) this.#letGo(after)
  }

  async #page<T>(list: string, source: Iterator<T | null>, first: T | null, limit: number): Promise<Page<T>> {
    const rows: T[] = []
    let bytes = 0
    let row = first
    for (let step = 1; ; step++) {
      if (row !== null) {
        bytes += Buffer.byteLength(JSON.stringify(row))
        if (rows.length === limit || (rows.length > 0 && bytes > PAGE_BYTES_MAX)) {
          return { rows, after: this.#rest(list, source, row) }
        }
        rows.push(row)
      }
      if (step % SLICE_STEPS === 0) await setImmediate()
      const next = source.next()
      if (next.done === true) return { rows, after: null }
      row = next.value
    }
  }

  #rest(list: string, rows: Iterator<unknown>, next: unknown): string {
    const after = randomBytes(9).toString('hex')
    const timer = setTimeout(() => this.#letGo(after), REST_MS).unref()
    const [oldest] = this.#resting.size >= LISTS_MAX ? this.#resting.keys() : []
    if (oldest !== undefined) this.#letGo(oldest)
    this.#resting.set(after, { list, rows, next, timer })
    return after
  }

  #letGo(after: string): void {
    clearTimeout(this.#resting.get(after)?.timer)
    this.#resting.delete(after)
  }
}
