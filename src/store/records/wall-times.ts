/** PURE. Turns the broker times of a store into wall times, which records have. */
import type { TimeDoubt } from '../store.ts'

export class WallTimes {
  /** Wall time minus broker time, in ms. */
  readonly #offset: number

  /** Both are times of one moment. */
  constructor(brokerTime: number, wallTime: number) {
    this.#offset = wallTime - brokerTime
  }

  /** Returns the wall time, in whole ms since 1970. */
  of(brokerTime: number): number {
    return Math.round(brokerTime + this.#offset)
  }

  /** The time at which something expires; null for never. */
  expiry(expiresAt: number): number | null {
    // It is rounded down: after an import, no more time may be left than before.
    return expiresAt === Number.POSITIVE_INFINITY ? null : Math.floor(expiresAt + this.#offset)
  }

  /** Returns the doubt in wall time. */
  doubt(doubt: TimeDoubt | null): TimeDoubt | null {
    return doubt === null ? null : { ms: doubt.ms, since: this.of(doubt.since), until: this.of(doubt.until) }
  }
}
