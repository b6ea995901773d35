/**
 * Parks what waits for clients that are away, once memory is short for messages that are stored. A long queue
 * parks by itself as it grows; this is for very many short ones, for what was in flight, and for what
 * somebody looked at.
 */
import type { Session } from '../../session/session.ts'
import type { ServerState } from '../state/server-state.ts'

/** What one step may do: looks at Sessions, and entries that it parks. */
const STEP = 2048
/** What each of them takes, in units. */
const ENTRY_UNITS = 4
/**
 * How long a pass that parked hardly anything is not repeated, in ms: what is in memory is of clients that
 * are connected.
 */
const REST_MS = 10_000
/** Fewer entries make a pass one that was in vain. */
const WORTH_WHILE = 1024

export class Parking {
  readonly #state: ServerState
  #sessions: Iterator<Session> | null = null
  /** Not done yet; null between two. */
  #session: Session | null = null
  /** By the pass that is under way. */
  #parked = 0
  /** Broker time in ms before which no pass begins. */
  #restsUntil = Number.NEGATIVE_INFINITY

  constructor(state: ServerState) {
    this.#state = state
  }

  /** To be called now and then: begins a pass over all stored Sessions if memory is short. */
  look(): void {
    const { store, sessionsById } = this.#state
    if (this.#sessions !== null || !store.isShort || this.#state.now() < this.#restsUntil) return
    this.#parked = 0
    this.#sessions = sessionsById.values()
    this.#step()
  }

  /** The Sessions are being read again. */
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
      this.#session ??= this.#state.store.isShort ? nextOf(sessions) : null
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
