/**
 * The time that a client has to log in. It stands still while the client waits in the log-in queue, among
 * many newcomers, or for a rate, and begins anew after that. The time of a policy's answer counts.
 */
import type { WaitingClient } from '../boundary/policy.ts'
import type { Deadline } from '../state/deadlines.ts'
import type { ServerState } from '../state/server-state.ts'

/** The time that has run out: the client's own, or the longest time that it may wait for the Server. */
export type LateBy = 'client' | 'queue'

/** Gets a call when its time is over. An object, since a closure for each CONNECT would take 90 bytes. */
export interface LateClient {
  timedOut(by: LateBy): void
}

export class LoginTime implements WaitingClient {
  readonly #state: ServerState
  readonly #allowedMs: number
  readonly #client: LateClient
  #deadline: Deadline | null = null
  #leave: (() => void) | null = null
  #hasEnded = false
  /** The client's time does not begin before this moment, in broker time. */
  #beginsAt = 0

  /** Starts the time, of which `takenMs` have passed already, and tells `client` when it is over. */
  constructor(state: ServerState, allowedMs: number, takenMs: number, client: LateClient) {
    this.#state = state
    this.#allowedMs = allowedMs
    this.#client = client
    this.#set(allowedMs - takenMs, 'client')
  }

  /** Whether the client waits in the log-in queue. */
  get isQueued(): boolean {
    return this.#leave !== null
  }

  queued(secondsMax: number, leave: () => void): void {
    if (this.#hasEnded) {
      leave()
      return
    }
    if (this.#leave === null) this.#state.loginQueue.length++
    this.#leave = leave
    this.#set(secondsMax * 1000, 'queue')
  }

  served(): void {
    if (this.#leave === null) return
    this.#left()
    if (!this.#hasEnded) this.#set(this.#allowedMs, 'client')
  }

  /** Lets the client's time begin anew in so many ms, until when the Server keeps it waiting. */
  postpone(ms: number): void {
    this.#beginsAt = this.#state.now() + ms
    this.released()
  }

  /** Stops the client's time, for at most this many seconds, since the Server does not read from it. */
  held(secondsMax: number): void {
    if (!this.#hasEnded) this.#set(secondsMax * 1000, 'queue')
  }

  /** Starts the client's time anew, since the Server reads from it again. */
  released(): void {
    const waitMs = Math.max(0, this.#beginsAt - this.#state.now())
    if (!this.#hasEnded) this.#set(waitMs + this.#allowedMs, 'client')
  }

  /** Gives up the client's place: it was let in, or its Network Connection ends. Idempotent. */
  end(): void {
    this.#hasEnded = true
    this.#state.deadlines.cancel(this.#deadline)
    this.#deadline = null
    const leave = this.#leave
    if (leave === null) return
    this.#left()
    leave()
  }

  #left(): void {
    this.#leave = null
    const { loginQueue } = this.#state
    loginQueue.length--
    loginQueue.busyAt = this.#state.now()
  }

  #set(ms: number, by: LateBy): void {
    this.#state.deadlines.cancel(this.#deadline)
    this.#deadline =
      ms === Number.POSITIVE_INFINITY
        ? null
        : this.#state.deadlines.at(this.#state.now() + ms, () => {
            this.#deadline = null
            this.#client.timedOut(by)
          })
  }
}
