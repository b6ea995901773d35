/**
 * PURE. A heap of actions and the times at which they are due. The caller passes the time; there are no
 * timers.
 */
import type { Meter } from '../../mqtt/meter.ts'

/** Units that finding the next deadline takes. */
const DEADLINE_UNITS = 8

export interface Deadline {
  /** Broker time in ms. */
  readonly time: number
  /** Null once it ran or is cancelled. */
  action: (() => void) | null
}

export class Deadlines {
  #heap: Deadline[] = []
  #cancelled = 0
  readonly #meter: Meter
  /**
   * Deadlines up to this time count as passed, even those whose actions still wait for a later turn because
   * many are due at once.
   */
  judgedTo = Number.NEGATIVE_INFINITY
  /** Called when a new deadline is earlier than all others. */
  onEarlierDeadline: () => void = () => {}

  constructor(meter: Meter = { units: 0 }) {
    this.#meter = meter
  }

  /** Number of deadlines that are still to run. */
  get size(): number {
    return this.#heap.length - this.#cancelled
  }

  /** Runs `action` at the first `advance` that is at `time` or later. */
  at(time: number, action: () => void): Deadline {
    const deadline: Deadline = { time, action }
    this.#heap.push(deadline)
    this.#up(this.#heap.length - 1)
    if (this.#heap[0] === deadline) this.onEarlierDeadline()
    return deadline
  }

  /** Broker time of the next deadline, perhaps a cancelled one; `Infinity` if there is none. */
  get nextTime(): number {
    return this.#heap[0]?.time ?? Number.POSITIVE_INFINITY
  }

  /** Does nothing if the deadline ran or is already cancelled. */
  cancel(deadline: Deadline | null): void {
    if (deadline === null || deadline.action === null) return
    deadline.action = null
    this.#cancelled++
    // Cancelled ones are removed when they come up, or all at once when they are the majority.
    if (this.#cancelled > 64 && this.#cancelled * 2 > this.#heap.length) this.#sweep()
  }

  /**
   * Runs what is due by `now`, in order of time, until the meter reaches `until`. Actions may add and cancel
   * deadlines. Returns true if more is due.
   */
  advance(now: number, until = Number.POSITIVE_INFINITY): boolean {
    const meter = this.#meter
    for (;;) {
      const first = this.#heap[0]
      if (first === undefined || (first.action !== null && first.time > now)) return false
      if (meter.units >= until) return true
      meter.units += DEADLINE_UNITS
      this.#removeFirst()
      const { action } = first
      if (action === null) {
        this.#cancelled--
        continue
      }
      first.action = null
      action()
    }
  }

  /** Runs a deadline that counts as passed and has not run yet, so that nobody finds what should be gone. */
  runIfPassed(deadline: Deadline | null): void {
    if (deadline === null || deadline.action === null || deadline.time > this.judgedTo) return
    const { action } = deadline
    deadline.action = null
    // It stays in the heap without an action, as a cancelled one does.
    this.#cancelled++
    action()
  }

  clear(): void {
    for (const deadline of this.#heap) deadline.action = null
    this.#heap = []
    this.#cancelled = 0
  }

  #sweep(): void {
    const left = this.#heap.filter((deadline) => deadline.action !== null)
    this.#heap = left
    this.#cancelled = 0
    for (let index = (left.length >> 1) - 1; index >= 0; index--) this.#down(index)
  }

  #removeFirst(): void {
    const last = this.#heap.pop()!
    if (this.#heap.length === 0) return
    this.#heap[0] = last
    this.#down(0)
  }

  #up(start: number): void {
    const heap = this.#heap
    const item = heap[start]!
    let index = start
    while (index > 0) {
      const parent = (index - 1) >> 1
      if (heap[parent]!.time <= item.time) break
      heap[index] = heap[parent]!
      index = parent
    }
    heap[index] = item
  }

  #down(start: number): void {
    const heap = this.#heap
    const item = heap[start]!
    let index = start
    for (;;) {
      let child = 2 * index + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && heap[child + 1]!.time < heap[child]!.time) child++
      if (heap[child]!.time >= item.time) break
      heap[index] = heap[child]!
      index = child
    }
    heap[index] = item
  }
}
