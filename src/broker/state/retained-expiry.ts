/**
 * The expiry of retained messages. Very many may expire at once: those that are not deleted yet are counted,
 * since limits must not count them.
 */
import type { Meter } from '../../mqtt/meter.ts'
import { ChurnMap } from '../../structures/churn-map.ts'
import { type Deadline, Deadlines } from './deadlines.ts'

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
class ExpiredRetained {
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

/** Deletes retained messages when they expire, or early when a new one needs the room. */
export class RetainedExpiry {
  /** The deadlines of all messages that expire. */
  readonly deadlines: Deadlines
  readonly #expired: ExpiredRetained
  #byTopic = new ChurnMap<string, Deadline>()

  constructor(meter: Meter) {
    this.deadlines = new Deadlines(meter)
    this.#expired = new ExpiredRetained(this.deadlines)
  }

  /** Number of messages that expire. */
  get size(): number {
    return this.#byTopic.size
  }

  /** Topic names of messages that expire. */
  topics(): Iterable<string> {
    return this.#byTopic.keys()
  }

  /** Calls `action` at this broker time. The message has `bytes`, and no deadline yet. */
  at(topic: string, bytes: number, time: number, action: () => void): void {
    const deadline = this.deadlines.at(time, action)
    this.#byTopic.set(topic, deadline)
    this.#expired.add(deadline, bytes)
  }

  /** Cancels the deadline of a message of `bytes`, if it has one. */
  cancel(topic: string, bytes: number): void {
    const deadline = this.#byTopic.get(topic)
    if (deadline === undefined) return
    this.deadlines.cancel(deadline)
    this.#byTopic.delete(topic)
    this.#expired.remove(deadline, bytes)
  }

  /** Counts the messages that have expired by now and are not deleted yet. */
  expiredBy(now: number): Readonly<Expiring> {
    return this.#expired.at(now)
  }

  /** Forgets all deadlines, before retained messages are read from the store again. */
  clear(): void {
    this.deadlines.clear()
    this.#byTopic = new ChurnMap()
    this.#expired.clear()
  }
}
