/**
 * HOT. Decides how long the next commit waits for company. PURE: time comes in.
 *
 * A commit costs about as much as handling ten messages, however few it carries. Where many clients publish
 * now and then, a commit that begins at once carries two or three of them; one that begins a few milliseconds
 * later carries ten. So while company can be expected, commits begin at least `paceMs` apart.
 *
 * "Company" means clients that did not wait for the last commits. A client that comes back as soon as it is
 * answered does not count: it sends nothing more until its commit is durable. So a client that is alone never
 * waits, nor do a few clients that each wait for their answers.
 */

/** The default. A commit of a busy fleet carries about ten messages. */
export const COMMIT_PACE_MS = 4

/** A commit waits if at least this many clients can be expected within one pace. */
const COMPANY_MIN = 2
/** Time over which the rate of company is averaged. */
const MEMORY_MS = 100
/** Writing a block of this many bytes costs more than a commit as such, so it does not wait. */
const BYTES_MAX = 256 * 1024

export class CommitPace {
  readonly #paceMs: number
  /** Expected company, in clients per ms. */
  #rate = 0
  #company = 0
  #sealedAt = Number.NEGATIVE_INFINITY

  /** `paceMs` is the least time from one commit to the next; 0 for no waiting at all. */
  constructor(paceMs: number) {
    this.#paceMs = paceMs
  }

  /** Counts company: clients that wait for a commit now, and did not wait for the last ones. */
  came(clients: number): void {
    this.#company += clients
  }

  /** A commit began at `now`, in ms. */
  sealed(now: number): void {
    const passedMs = now - this.#sealedAt
    if (passedMs > 0) {
      const weight = 1 - Math.exp(-passedMs / MEMORY_MS)
      this.#rate += (this.#company / passedMs - this.#rate) * weight
      this.#company = 0
      this.#sealedAt = now
    }
  }

  /** Returns how long the next commit waits, with `bytes` in its block; 0 or less for not at all. */
  waitMs(now: number, bytes: number): number {
    if (this.#rate * this.#paceMs < COMPANY_MIN || bytes >= BYTES_MAX) return 0
    return this.#sealedAt + this.#paceMs - now
  }
}
