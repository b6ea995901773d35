/** How long a client may take to be let in. What the Server has it wait for is not the client's time. */

import type { WaitingClient } from '../boundary/policy.ts'
import type { Deadline, Deadlines } from '../state/deadlines.ts'

interface Clock {
  readonly deadlines: Deadlines
  /** Of policies: how many clients wait in it, and when the last one did. */
  readonly loginQueue: { length: number; busyAt: number }
  /** Broker time in ms. */
  now(): number
}

/** Whose time was up: the client's, or the one for which the Server may have it wait. */
export type LateBy = 'client' | 'queue'

/** The Network Connection. */
export interface LoginTimeSink {
  connectTimedOut(by: LateBy): void
}

export class LoginTime implements WaitingClient {
  readonly #clock: Clock
  readonly #allowedMs: number
  readonly #sink: LoginTimeSink
  #deadline: Deadline | null = null
  #leave: (() => void) | null = null
  #hasEnded = false

  /** `takenMs` of the allowed time have passed before. */
  constructor(clock: Clock, allowedMs: number, takenMs: number, sink: LoginTimeSink) {
    this.#clock = clock
    this.#allowedMs = allowedMs
    this.#sink = sink
    this.#set(allowedMs - takenMs, 'client')
  }

  /** Whether it waits in a queue. */
  get isQueued(): boolean {
    return this.#leave !== null
  }

  queued(secondsMax: number, leave: () => void): void {
    if (this.#hasEnded) {
      leave()
      return
    }
    if (this.#leave === null) this.#clock.loginQueue.length++
    this.#leave = leave
    this.#set(secondsMax * 1000, 'queue')
  }

  served(): void {
    if (this.#leave === null) return
    this.#left()
    if (!this.#hasEnded) this.#set(this.#allowedMs, 'client')
  }

  /** For so long at most the Server does not read what the client may have sent. */
  held(secondsMax: number): void {
    if (!this.#hasEnded) this.#set(secondsMax * 1000, 'queue')
  }

  /** The Server reads again. */
  released(): void {
    if (!this.#hasEnded) this.#set(this.#allowedMs, 'client')
  }

  /** It was let in, or its Network Connection ends: it gives up its place. Idempotent. */
  end(): void {
    this.#hasEnded = true
    this.#clock.deadlines.cancel(this.#deadline)
    this.#deadline = null
    const leave = this.#leave
    if (leave === null) return
    this.#left()
    leave()
  }

  #left(): void {
    this.#leave = null
    const { loginQueue } = this.#clock
    loginQueue.length--
    loginQueue.busyAt = this.#clock.now()
  }

  #set(ms: number, by: LateBy): void {
    this.#clock.deadlines.cancel(this.#deadline)
    this.#deadline =
      ms === Number.POSITIVE_INFINITY
        ? null
        : this.#clock.deadlines.at(this.#clock.now() + ms, () => {
            this.#deadline = null
            this.#sink.connectTimedOut(by)
          })
  }
}
