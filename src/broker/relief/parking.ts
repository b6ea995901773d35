/**
 * Parks queues of absent clients once memory is short for stored messages. A long queue parks by itself as it
 * grows. This is for very many short queues, for messages that were in flight, and for those that were read
 * back.
 */
import type { Session } from '../../session/session.ts'
import type { ServerState } from '../state/server-state.ts'

/** Sessions and entries of one step. */
const STEP = 2048
/** Units for each of them. */
const ENTRY_UNITS = 4
/** Time before the next pass after one that parked little: memory is then taken by connected clients. */
const REST_MS = 10_000
/** A pass that parks fewer entries has parked little. */
const WORTH_WHILE = 1024

/** Runs passes over all stored Sessions. */
export class Parking {
  readonly #state: ServerState
  #sessions: Iterator<Session> | null = null
  /** The Session that is being parked; null between two. */
  #session: Session | null = null
  /** Entries parked by this pass. */
  #parked = 0
  /** Broker time in ms before which no pass begins. */
  #restsUntil = Number.NEGATIVE_INFINITY

  constructor(state: ServerState) {
    this.#state = state
  }

  /** Begins a pass if memory is short. To be called about once a second. */
  look(): void {
    const { store, sessionsById } = this.#state
    if (this.#sessions !== null || !store.isMemoryShort || this.#state.now() < this.#restsUntil) return
    this.#parked = 0
    this.#sessions = sessionsById.values()
    this.#step()
  }

  /** Ends the pass: the Sessions are being read again. */
  stop(): void {
    this.#sessions = null
    this.#session = null
  }

  #step(): void {
    const sessions = this.#sessions
    if (sessions === null) return
    const { work } = this.#state
    let spent = 0
    while (spent < STEP) {
      this.#session ??= this.#state.store.isMemoryShort ? nextOf(sessions) : null
      if (this.#session === null) {
        this.#end()
        break
      }
      const most = STEP - spent
      const parked = this.#session.park(most)
      if (parked < most) this.#session = null
      this.#parked += parked
      spent += 1 + parked
    }
    work.units += spent * ENTRY_UNITS
    if (this.#sessions !== null) this.#state.turn.continueLater(() => this.#step())
  }

  #end(): void {
    this.#sessions = null
    if (this.#parked < WORTH_WHILE) this.#restsUntil = this.#state.now() + REST_MS
  }
}

function nextOf(sessions: Iterator<Session>): Session | null {
  const next = sessions.next()
  return next.done === true ? null : next.value
}
