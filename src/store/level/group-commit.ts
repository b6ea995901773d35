/**
 * HOT. Whether the next commit waits a moment for those whom the last one has just answered. PURE: time comes in.
 *
 * Clients that wait for each acknowledgement fall into two groups: while one waits for the disk, the other is answered and
 * comes back, and each commit carries half of what it could. So a commit that would be due at once waits until about
 * as much has come as the last one carried, for no longer than that one took. Where they do not come back in time (they are
 * far away, or nobody waits for answers) it is not tried again for a while.
 */

/** Of what the last commit carried: with so much the next one is not half of anything, and does not wait. */
const ENOUGH = 1.5
/** Of what the last commit carried: when so much has come since, the others will not make a difference. */
const RETURNED = 0.7
/** Of the same: with less, waiting was in vain. */
const WORTH_WHILE = 0.35
/** The event loop turns meanwhile, which is not for free. */
const WAIT_MS_MAX = 0.5
/** Commits that do not wait after one that waited in vain. */
const REST_COMMITS = 16

export class GroupCommit {
  #rest = 0
  #startBytes = 0
  #lastBytes = 0
  #deadline = 0

  /**
   * A commit of `lastBytes` of records is durable, and `bytes` of records wait for the next one. True when that is to wait,
   * once those are answered who waited for the first.
   */
  begins(lastBytes: number, bytes: number): boolean {
    // Who is alone never waits.
    if (bytes === 0 || bytes >= lastBytes * ENOUGH) return false
    if (this.#rest > 0) {
      this.#rest--
      return false
    }
    this.#startBytes = bytes
    this.#lastBytes = lastBytes
    return true
  }

  /** They were answered; their commit took `tookMs`. `now` is in ms. */
  waits(tookMs: number, now: number): void {
    this.#deadline = now + Math.min(tookMs, WAIT_MS_MAX)
  }

  /** Whether what was waited for has come, or will not; `bytes` of records wait by now. */
  isOver(bytes: number, now: number): boolean {
    const cameBytes = bytes - this.#startBytes
    if (cameBytes >= this.#lastBytes * RETURNED) return true
    if (now < this.#deadline) return false
    if (cameBytes < this.#lastBytes * WORTH_WHILE) this.#rest = REST_COMMITS
    return true
  }
}
