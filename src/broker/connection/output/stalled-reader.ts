/** Clients that stop reading. */
import type { Link } from '../../boundary/link.ts'
import type { Deadline, Deadlines } from '../../state/deadlines.ts'

interface Clock {
  readonly deadlines: Deadlines
  /** Broker time in ms. */
  now(): number
}

/** Watches a client that has bytes waiting: calls `stalled` once it has taken none of them for too long. */
export class StalledReader {
  readonly #clock: Clock
  readonly #link: Link
  readonly #allowedMs: number
  readonly #stalled: () => void
  #flushedBytes = 0
  #deadline: Deadline | null = null

  constructor(clock: Clock, link: Link, allowedSeconds: number, stalled: () => void) {
    this.#clock = clock
    this.#link = link
    this.#allowedMs = allowedSeconds * 1000
    this.#stalled = stalled
  }

  /** Starts to watch, unless it does already, since something was written. */
  written(): void {
    if (this.#deadline !== null || this.#link.bufferedBytes === 0) return
    if (this.#allowedMs === Number.POSITIVE_INFINITY) return
    this.#flushedBytes = this.#link.flushedBytes
    this.#deadline = this.#clock.deadlines.at(this.#clock.now() + this.#allowedMs, () => this.#look())
  }

  stop(): void {
    this.#clock.deadlines.cancel(this.#deadline)
    this.#deadline = null
  }

  #look(): void {
    this.#deadline = null
    if (this.#link.bufferedBytes === 0) return
    if (this.#link.flushedBytes > this.#flushedBytes) this.written()
    else this.#stalled()
  }
}
