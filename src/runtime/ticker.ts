/** Wakes a Server when something is due: one that has nothing to do hardly costs anything. */

/** A Server, as far as its time is concerned. */
export interface Ticking {
  tick(): void
  /** Milliseconds until it has something to do. */
  readonly idleMs: number
  /** Called when that may be less than was said. */
  soon: () => void
}

/**
 * Calls `tick` when it is due, and no more often than every `leastMs`: what is due soon after something else waits for as
 * long. Ten looks a second, whether or not anything was due, were half a hundredth of a processor. Keeps the process alive.
 */
export class Ticker {
  readonly #server: Ticking
  readonly #leastMs: number
  #timer: NodeJS.Timeout | null = null
  /** By `performance.now`. */
  #ringsAt = 0
  #tickedAt = 0

  constructor(server: Ticking, leastMs: number) {
    this.#server = server
    this.#leastMs = leastMs
    server.soon = () => this.#arm()
    this.#arm()
  }

  stop(): void {
    this.#server.soon = () => {}
    this.#letGo()
  }

  #arm(): void {
    const now = performance.now()
    const rest = Math.max(this.#server.idleMs, this.#tickedAt + this.#leastMs - now)
    const ringsAt = now + rest
    if (this.#timer !== null && this.#ringsAt <= ringsAt) return
    this.#letGo()
    this.#ringsAt = ringsAt
    // Timers count whole milliseconds, and ring up to one too soon.
    this.#timer = setTimeout(() => this.#ring(), Math.ceil(rest) + 1)
  }

  #ring(): void {
    this.#timer = null
    this.#tickedAt = performance.now()
    this.#server.tick()
    if (this.#timer === null) this.#arm()
  }

  #letGo(): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
  }
}
