/**
 * How many waiting newcomers may come in while other clients are active. Each takes 0.2 ms and allocates
 * 29 KB, which V8 collects in pauses of 12 to 20 ms. A fleet that comes back within a second would make every
 * active client wait for these; over ten seconds, hardly anybody notices.
 */

/** So many may come in without waiting for time to pass. */
const AT_ONCE = 100

/** So many come in together, since each turn has a cost of its own, such as a commit. */
const BATCH = 4

/** Newcomers per ms, if these are enough for `LAST_MS`. */
const PER_MS = 0.5

/** The last one of a larger fleet is let in after this time at the latest, as far as there is CPU time. */
const LAST_MS = 10_000

/** The longest time between two turns while somebody waits: what it would have allowed is not lost. */
const GAP_MS_MAX = 100

export class NewcomerPace {
  #allowed = AT_ONCE
  #countedAt = 0
  /** The most that have waited together since nobody did. */
  #most = 0

  /** Returns how many of those who wait may come in now, in broker time in ms, but at most `countMax`. */
  mayComeIn(now: number, waiting: number, countMax: number): number {
    this.#most = Math.max(this.#most, waiting)
    const perMs = Math.max(PER_MS, this.#most / LAST_MS)
    const since = Math.max(0, now - this.#countedAt)
    this.#countedAt = now
    this.#allowed = Math.min(this.#allowed + since * perMs, Math.max(AT_ONCE, perMs * GAP_MS_MAX))
    if (this.#allowed < Math.min(BATCH, waiting)) return 0
    return Math.min(Math.floor(this.#allowed), waiting, countMax)
  }

  /** Counts a CONNECT. A newcomer that sends none costs next to nothing and makes nobody wait longer. */
  cameIn(): void {
    this.#allowed = Math.max(this.#allowed - 1, -AT_ONCE)
  }

  /** Nobody waits any more. */
  over(): void {
    this.#most = 0
  }
}
