/** PURE. Turns the broker times of a store into wall times, which records have. */
import type { TimeDoubt } from '../store.ts'

export class WallTimes {
  /** Is added to a broker time to make a wall time, in ms. */
  readonly #offset: number

  /** Both are times of one moment. */
  constructor(brokerTime: number, wallTime: number) {
    this.#offset = wallTime - brokerTime
  }

  of(brokerTime: number): number {
    return Math.round(brokerTime + this.#offset)
  }

  /** The time at which something expires; null for never. */
  expiry(expiresAt: number): number | null {
    // It is rounded down: after an import, no more time may be left than before.
    return expiresAt === Number.POSITIVE_INFINITY ? null : Math.floor(expiresAt + this.#offset)
  }

  doubt(doubt: TimeDoubt | null): TimeDoubt | null {
    return doubt === null ? null : { ms: doubt.ms, since: this.of(doubt.since), until: this.of(doubt.until) }
  }
}
