/**
 * Sets the pace at which newcomers come in while other clients are active. Each takes 0.2 ms and allocates
 * 29 KB, which V8 collects in pauses of 12 to 20 ms. A fleet that comes back within a second would make every
 * active client wait for these; over ten seconds, hardly anybody notices.
 */

/** Newcomers that may come in before any time has passed. */
const AT_ONCE = 100

/** The fewest that come in together, since each turn has a cost of its own, such as a commit. */
const BATCH = 4

/** Newcomers per ms, unless a fleet is so large that `LAST_MS` needs more. */
const PER_MS = 0.5

/** The last one of a large fleet comes in within this time, as far as there is CPU time. */
const LAST_MS = 10_000

/** The longest time between two turns while somebody waits. All that it allows may come in after it. */
const GAP_MS_MAX = 100

/** Counts the newcomers that may come in. */
export class NewcomerPace {
  #allowed = AT_ONCE
  #countedAt = 0
  /** The most that have waited together since nobody waited. */
  #most = 0

  /** Returns how many of `waiting` newcomers may come in, at most `countMax`. `now` is broker time in ms. */
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

  /** Notes that nobody waits any more. */
  over(): void {
    this.#most = 0
  }
}
