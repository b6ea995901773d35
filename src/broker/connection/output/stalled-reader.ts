/** Cuts off clients that stop reading. */
import type { Link } from '../../boundary/link.ts'
import type { Deadline } from '../../state/deadlines.ts'
import type { ServerState } from '../../state/server-state.ts'

/** Watches a client for which bytes wait, and calls `stalled` once it has taken none of them for too long. */
export class StalledReader {
  readonly #state: ServerState
  readonly #link: Link
  readonly #allowedMs: number
  readonly #stalled: () => void
  #flushedBytes = 0
  #deadline: Deadline | null = null

  constructor(state: ServerState, link: Link, allowedSeconds: number, stalled: () => void) {
    this.#state = state
    this.#link = link
    this.#allowedMs = allowedSeconds * 1000
    this.#stalled = stalled
  }

  /** Starts to watch after a write, unless it watches already or nothing waits. */
  written(): void {
    if (this.#deadline !== null || this.#link.bufferedBytes === 0) return
    if (this.#allowedMs === Number.POSITIVE_INFINITY) return
    this.#flushedBytes = this.#link.flushedBytes
    this.#deadline = this.#state.deadlines.at(this.#state.now() + this.#allowedMs, () => this.#look())
  }

  stop(): void {
    this.#state.deadlines.cancel(this.#deadline)
    this.#deadline = null
  }

  #look(): void {
    this.#deadline = null
    if (this.#link.bufferedBytes === 0) return
    if (this.#link.flushedBytes > this.#flushedBytes) this.written()
    else this.#stalled()
  }
}
