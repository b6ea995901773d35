/**
 * Counts retained messages that have expired and are not deleted yet. Very many may expire at once, and
 * limits must not count them.
 */
import type { Deadline, Deadlines } from './deadlines.ts'

/**
 * Messages are counted by spans of time: a message may still count as retained for as long after its expiry.
 */
const SPAN_MS = 100

/** Spans that `at` looks at. Deletion is never that late. */
const SPANS_MAX = 1000

interface Expiring {
  count: number
  bytes: number
}

/** Counts expired retained messages. */
export class ExpiredRetained {
  readonly #deadlines: Deadlines
  /** Messages that expire, by span. */
  readonly #spans = new Map<number, Expiring>()

  /** `deadlines` are those that delete retained messages. */
  constructor(deadlines: Deadlines) {
    this.#deadlines = deadlines
  }

  add({ time }: Deadline, bytes: number): void {
    const span = Math.floor(time / SPAN_MS)
    const expiring = this.#spans.get(span)
    if (expiring === undefined) this.#spans.set(span, { count: 1, bytes })
    else {
      expiring.count++
      expiring.bytes += bytes
    }
  }

  remove({ time }: Deadline, bytes: number): void {
    const span = Math.floor(time / SPAN_MS)
    const expiring = this.#spans.get(span)
    if (expiring === undefined) return
    expiring.count--
    expiring.bytes -= bytes
    if (expiring.count === 0) this.#spans.delete(span)
  }

  clear(): void {
    this.#spans.clear()
  }

  /** Counts the messages that have expired by now and are not deleted yet. */
  at(now: number): Readonly<Expiring> {
    const expired = { count: 0, bytes: 0 }
    const last = Math.floor(now / SPAN_MS)
    let span = Math.floor(this.#deadlines.nextTime / SPAN_MS)
    for (let left = SPANS_MAX; span < last && left > 0; span++, left--) {
      const expiring = this.#spans.get(span)
      if (expiring === undefined) continue
      expired.count += expiring.count
      expired.bytes += expiring.bytes
    }
    return expired
  }
}
