/**
 * HOT. Decides whether the next commit waits a moment for the clients that were just answered. PURE: time
 * comes in.
 *
 * Clients that wait for each acknowledgement fall into two groups: while one group waits for the disk, the
 * other is answered and comes back. Then each commit carries half of what it could. So a commit that would be
 * due at once waits until about as much has come as the last one carried, for no longer than that one took.
 * Where clients do not come back in time (they are far away, or do not wait for answers), the next commits do
 * not wait.
 */

/** Share of the last commit: from this much on, the next one is the larger half, and does not wait. */
const ENOUGH = 1.5
/** Share of the last commit: when this much has come since, the remaining clients make no difference. */
const RETURNED = 0.7
/** Share of the last commit: when less has come since, waiting was in vain. */
const WORTH_WHILE = 0.35
/** Bounds the time during which the event loop turns, which costs something. */
const WAIT_MS_MAX = 0.5
/** Commits that do not wait after one that waited in vain. */
const REST_COMMITS = 16

export class GroupCommit {
  /** Commits that will not wait. */
  #rest = 0
  #startBytes = 0
  #lastBytes = 0
  #deadline = 0

  /**
   * Returns whether the next commit waits. A commit of `lastBytes` of records is durable, and its clients are
   * to be answered; `bytes` of records wait for the next one.
   */
  begins(lastBytes: number, bytes: number): boolean {
    // A client that is alone never waits.
    if (bytes === 0 || bytes >= lastBytes * ENOUGH) return false
    if (this.#rest > 0) {
      this.#rest--
      return false
    }
    this.#startBytes = bytes
    this.#lastBytes = lastBytes
    return true
  }

  /** The clients were answered, and the waiting begins. Their commit took `tookMs`; `now` is in ms. */
  waits(tookMs: number, now: number): void {
    this.#deadline = now + Math.min(tookMs, WAIT_MS_MAX)
  }

  /** Returns whether enough has come, or will not come; `bytes` of records wait by now. */
  isOver(bytes: number, now: number): boolean {
    const cameBytes = bytes - this.#startBytes
    if (cameBytes >= this.#lastBytes * RETURNED) return true
    if (now < this.#deadline) return false
    if (cameBytes < this.#lastBytes * WORTH_WHILE) this.#rest = REST_COMMITS
    return true
  }
}
