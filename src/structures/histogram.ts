/** HOT. Counts durations on a logarithmic scale: four buckets for each doubling, from 16 us to 16 s. */

const LOWEST_MS = 1 / 64
const BUCKETS_PER_DOUBLING = 4
const BUCKETS = 20 * BUCKETS_PER_DOUBLING + 1

/** A histogram of durations. */
export class Histogram {
  /** How many durations are in each bucket; see `bucketMs`. The last bucket also takes all longer ones. */
  readonly counts: number[] = new Array<number>(BUCKETS).fill(0)
  count = 0
  sumMs = 0
  maxMs = 0

  add(ms: number): void {
    const bucket = ms <= LOWEST_MS ? 0 : Math.ceil(Math.log2(ms / LOWEST_MS) * BUCKETS_PER_DOUBLING)
    const index = Math.min(bucket, BUCKETS - 1)
    this.counts[index] = this.counts[index]! + 1
    this.count++
    this.sumMs += ms
    if (ms > this.maxMs) this.maxMs = ms
  }

  /**
   * Returns a duration that this share (0 to 1) of all does not exceed, to within a fifth; 0 when there is
   * none.
   */
  quantileMs(share: number): number {
    let left = share * this.count
    for (let index = 0; index < BUCKETS - 1; index++) {
      left -= this.counts[index]!
      if (left <= 0) return Math.min(bucketMs(index), this.maxMs)
    }
    return this.maxMs
  }
}

/** Returns the longest duration of a bucket, in ms. */
export function bucketMs(index: number): number {
  return LOWEST_MS * 2 ** (index / BUCKETS_PER_DOUBLING)
}
