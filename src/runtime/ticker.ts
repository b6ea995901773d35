/** Wakes a Server when something is due, so that an idle one costs hardly anything. */

/** The part of a Server that the ticker uses. */
export interface Tickable {
  tick(): void
  /** Milliseconds until something is due. */
  readonly idleMs: number
  /** Called when `idleMs` may have become shorter. */
  onEarlierDeadline: () => void
}

/**
 * Calls `tick` when something is due, but not within `leastMs` of the previous call. Polling ten times a
 * second took half a percent of a processor. Keeps the process alive.
 */
export class Ticker {
  readonly #server: Tickable
  readonly #leastMs: number
  #timer: NodeJS.Timeout | null = null
  /** The time of the timer, by `performance.now`. */
  #ringsAt = 0
  #tickedAt = 0

  constructor(server: Tickable, leastMs: number) {
    this.#server = server
    this.#leastMs = leastMs
    server.onEarlierDeadline = () => this.#arm()
    this.#arm()
  }

  stop(): void {
    this.#server.onEarlierDeadline = () => {}
    this.#clear()
  }

  #arm(): void {
    const now = performance.now()
    const rest = Math.max(this.#server.idleMs, this.#tickedAt + this.#leastMs - now)
    const ringsAt = now + rest
    if (this.#timer !== null && this.#ringsAt <= ringsAt) return
    this.#clear()
    this.#ringsAt = ringsAt
    // Timers count whole milliseconds and may fire up to one too early.
    this.#timer = setTimeout(() => this.#ring(), Math.ceil(rest) + 1)
  }

  #ring(): void {
    this.#timer = null
    this.#tickedAt = performance.now()
    this.#server.tick()
    if (this.#timer === null) this.#arm()
  }

  #clear(): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
  }
}
