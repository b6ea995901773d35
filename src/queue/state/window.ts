/**
 * PURE. How many messages a consumer may hold. A fixed number fails both ways: 10 lets one consumer hoard
 * ten slow jobs, 1 costs a round trip for each. So by default the window learns from the acknowledgements,
 * and holds about 0.3 s of work.
 */

/** Time in ms that the messages in a window should take. */
const TARGET_MS = 300
const WINDOW_MAX = 100
/**
 * Slower work than this is given out one by one. A long line is told from slow work by the second message.
 */
const SLOW_MS = 1000

export class Window {
  /** Messages that the consumer may hold. */
  size: number
  /** A number that was asked for; 0 to learn it. */
  #fixed = 0
  /** Mean time in ms between acknowledgements; negative before the first one. */
  #mean = -1
  #acknowledgedAt = Number.NEGATIVE_INFINITY

  constructor(prefetch: 'auto' | number) {
    this.size = 1
    this.ask(prefetch)
  }

  /** Sets a fixed size, or lets the window adapt from its present size. */
  ask(prefetch: 'auto' | number): void {
    this.#fixed = prefetch === 'auto' ? 0 : prefetch
    if (prefetch !== 'auto') this.size = prefetch
    else if (this.size > WINDOW_MAX) this.size = WINDOW_MAX
  }

  /** Learns that a message which was sent at `sentAt` was acknowledged at `now`. */
  acknowledged(now: number, sentAt: number): void {
    const gap = now - (sentAt > this.#acknowledgedAt ? sentAt : this.#acknowledgedAt)
    this.#acknowledgedAt = now
    if (this.#fixed !== 0) return
    this.#mean = this.#mean < 0 ? gap : this.#mean + (gap - this.#mean) / 4
    const least = this.#mean < SLOW_MS ? 2 : 1
    const wanted = Math.min(Math.max(Math.round(TARGET_MS / this.#mean), least), WINDOW_MAX)
    this.size = Math.min(wanted, 2 * this.size)
  }
}
