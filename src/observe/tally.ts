/** Counts what happens often, so that it becomes a line now and then. */

/** Kinds counted at once; further ones share one count, so that clients cannot fill memory or log with new names. */
const KINDS_MAX = 1000

interface Entry<T> {
  readonly detail: T
  /** Since the last line. */
  count: number
  lastLineAt: number
}

/** Writes the first of a kind at once and then at most one line per interval, with the count since the last one. */
export class Tally<T> {
  readonly #intervalMs: number
  readonly #now: () => number
  readonly #write: (detail: T, count: number) => void
  readonly #entries = new Map<string, Entry<T>>()

  /** `now` in ms; `write` gets what the first of the kind was described with. */
  constructor(intervalMs: number, now: () => number, write: (detail: T, count: number) => void) {
    this.#intervalMs = intervalMs
    this.#now = now
    this.#write = write
  }

  /** Counts one of this kind, or `count`. `describe` is called for a new kind only; it is told when kinds are thrown together. */
  add(kind: string, describe: (together: boolean) => T, count = 1): void {
    const together = this.#entries.size >= KINDS_MAX && !this.#entries.has(kind)
    const key = together ? '' : kind
    const entry = this.#entries.get(key)
    if (entry !== undefined) {
      entry.count += count
      return
    }
    const detail = describe(together)
    this.#entries.set(key, { detail, count: 0, lastLineAt: this.#now() })
    this.#write(detail, count)
  }

  /** Writes what has waited long enough, and forgets kinds that have become quiet. */
  flush(): void {
    const due = this.#now() - this.#intervalMs
    for (const [key, entry] of this.#entries) if (entry.lastLineAt <= due) this.#settle(key, entry)
  }

  /** Writes everything that was counted and not written. */
  end(): void {
    for (const [key, entry] of this.#entries) this.#settle(key, entry)
    this.#entries.clear()
  }

  #settle(key: string, entry: Entry<T>): void {
    if (entry.count === 0) {
      this.#entries.delete(key)
      return
    }
    this.#write(entry.detail, entry.count)
    entry.count = 0
    entry.lastLineAt = this.#now()
  }
}
