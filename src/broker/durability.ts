/** Waiting for commits: output and promises that depend on records leave once their block is durable. */
import type { CommitWaiter, ServerState } from './state/server-state.ts'
import { SLICE_UNITS, UNITS } from './state/work.ts'

/** Units of what a commit releases in one turn, about 5 ms. */
const RELEASE_UNITS = 5 * SLICE_UNITS

/** A promise's ends, for a commit that somebody waits for. */
interface Waiter {
  readonly durableAt: number
  resolve(): void
  reject(error: Error): void
}

export class Durability {
  readonly #state: ServerState
  readonly #waiters: Waiter[] = []
  readonly #releaseWaiters: CommitWaiter = { committed: (sequence) => this.#resolveWaiters(sequence) }
  /** Those whose output a commit releases, while that takes several turns; null when none is under way. */
  #released: Iterator<CommitWaiter> | null = null
  /** Another commit came meanwhile. */
  #isReleaseDue = false

  constructor(state: ServerState) {
    this.#state = state
  }

  /** Resolves once everything recorded up to block `wanted` is durable; rejects with StoreError when the store failed. */
  durable(wanted: number): Promise<void> {
    const durableAt = Math.min(wanted, this.#state.store.recordedSequence)
    if (durableAt <= this.#state.store.committedSequence) return Promise.resolve()
    return new Promise((resolve, reject) => {
      this.#waiters.push({ durableAt, resolve, reject })
      this.#state.waiting.add(this.#releaseWaiters)
    })
  }

  /** A commit is on the disk: what waited for it leaves, and publishers are read from again once little is pending. */
  committed(): void {
    const state = this.#state
    state.turn.begin()
    this.#releaseWaiting()
    if (state.paused.size === 0 || state.store.pendingBytes > state.limits.pendingCommitBytesMax / 2) return
    for (const connection of [...state.paused]) connection.resume()
  }

  /** The store failed: nothing that is waited for will come. */
  failed(error: Error): void {
    for (const waiter of this.#waiters.splice(0)) waiter.reject(error)
  }

  /** Forgets who waits: the store is read again, and counts its commits anew. */
  forget(): void {
    this.#state.waiting.clear()
    this.#released = null
    this.#isReleaseDue = false
  }

  /** What waited for a commit leaves, as far as a slice goes, and then in later turns. */
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
      // Nothing is released once the store failed: it is read again, and counts its commits anew.
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
