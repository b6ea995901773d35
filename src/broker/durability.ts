/** Releases output and promises that wait for commits, once their block is durable. */
import type { CommitWaiter, ServerState } from './state/server-state.ts'
import { SLICE_UNITS, UNITS } from './state/work.ts'

/** Units that the output of a commit may take in one turn, about 5 ms. */
const RELEASE_UNITS = 5 * SLICE_UNITS

/** A promise that is settled by a commit. */
interface Waiter {
  readonly durableAt: number
  resolve(): void
  reject(error: Error): void
}

/** Keeps what waits for commits. */
export class Durability {
  readonly #state: ServerState
  readonly #waiters: Waiter[] = []
  readonly #releaseWaiters: CommitWaiter = { committed: (sequence) => this.#resolveWaiters(sequence) }
  /** Waiters that a commit releases, while that takes several turns; null if no release is under way. */
  #released: Iterator<CommitWaiter> | null = null
  /** Whether another commit was made meanwhile. */
  #isReleaseDue = false

  constructor(state: ServerState) {
    this.#state = state
  }

  /** Resolves once everything up to block `wanted` is durable. Rejects with StoreError if the store fails. */
  durable(wanted: number): Promise<void> {
    const durableAt = Math.min(wanted, this.#state.store.recordedSequence)
    if (durableAt <= this.#state.store.committedSequence) return Promise.resolve()
    return new Promise((resolve, reject) => {
      this.#waiters.push({ durableAt, resolve, reject })
      this.#state.waiting.add(this.#releaseWaiters)
    })
  }

  /**
   * Releases the output that waited for a commit, which is durable now. Resumes publishers once little is
   * pending.
   */
  committed(): void {
    const state = this.#state
    state.turn.begin()
    this.#releaseWaiting()
    if (state.paused.size === 0 || state.store.pendingBytes > state.limits.pendingCommitBytesMax / 2) return
    for (const connection of [...state.paused]) connection.resume()
  }

  /** Rejects all promises: the store failed. */
  failed(error: Error): void {
    for (const waiter of this.#waiters.splice(0)) waiter.reject(error)
  }

  /** Forgets all output that waits: the store is read again, and counts its commits anew. */
  forget(): void {
    this.#state.waiting.clear()
    this.#released = null
    this.#isReleaseDue = false
  }

  /** Releases all output that waits, in slices. */
  #releaseWaiting(): void {
    if (this.#released !== null) {
      this.#isReleaseDue = true
      return
    }
    this.#released = [...this.#state.waiting][Symbol.iterator]()
    this.#releaseSlice()
  }

  #releaseSlice(): void {
    const state = this.#state
    const { turn, work } = state
    const until = work.units + RELEASE_UNITS
    for (;;) {
      // `forget` was called meanwhile: the store failed.
      const next = this.#released?.next()
      if (next === undefined) return
      if (next.done === true) break
      work.units += UNITS.continuation
      next.value.committed(state.store.committedSequence)
      if (work.units < until) continue
      turn.continueLater(() => this.#releaseSlice())
      return
    }
    this.#released = null
    if (!this.#isReleaseDue) return
    this.#isReleaseDue = false
    this.#releaseWaiting()
  }

  #resolveWaiters(sequence: number): void {
    let count = 0
    while (count < this.#waiters.length && this.#waiters[count]!.durableAt <= sequence) count++
    for (const waiter of this.#waiters.splice(0, count)) waiter.resolve()
    if (this.#waiters.length === 0) this.#state.waiting.delete(this.#releaseWaiters)
  }
}
