/** How much of what is retained has expired, while its deletion is under way: very much may expire at once, and limits count none. */
import type { Deadline, Deadlines } from './deadlines.ts'

/** Time is told in so many ms: what expired a moment ago counts a little longer. */
const SPAN_MS = 100

/** Spans that are looked at. Deletion is not so late. */
const SPANS_MAX = 1000

interface Expiring {
  count: number
  bytes: number
}

export class ExpiredRetained {
  readonly #deadlines: Deadlines
  /** Messages by the span in which they expire. */
  readonly #spans = new Map<number, Expiring>()

  /** `deadlines` are those at which retained messages go. */
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

  /** Messages that have expired by now and are still there. */
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
