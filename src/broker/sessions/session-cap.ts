/**
 * Applies a new maximum of the Session Expiry Interval to existing Sessions, in slices since there may be
 * very many.
 */
import type { Session } from '../../session/session.ts'
import type { ServerState } from '../state/server-state.ts'
import { SLICE_UNITS } from '../state/work.ts'
import type { Sessions } from './sessions.ts'

/** Cost of applying the maximum to one Session, in units. */
const CAP_UNITS = 32

/** Effects of a maximum. */
export interface Capped {
  /** Sessions that expire sooner. */
  readonly shortened: number
  /** Sessions that end, since their clients have been away for longer than the maximum. */
  readonly ended: number
}

export class SessionCap {
  readonly #state: ServerState
  readonly #sessions: Sessions
  #rest: Iterator<Session> | null = null
  #capped = { shortened: 0, ended: 0 }
  readonly #waiters: ((capped: Capped) => void)[] = []

  constructor(state: ServerState, sessions: Sessions) {
    this.#state = state
    this.#sessions = sessions
  }

  /** Counts the effects that this maximum would have now. */
  preview(expirySecondsMax: number): Capped {
    const capped = { shortened: 0, ended: 0 }
    for (const session of this.#state.sessions.values()) {
      if (session.expirySeconds <= expirySecondsMax) continue
      if (this.#sessions.outlasts(session, expirySecondsMax)) capped.ended++
      else capped.shortened++
    }
    return capped
  }

  /** Applies the maximum that is in force to all Sessions. Resolves when all of them are done. */
  run(): Promise<Capped> {
    const isUnderWay = this.#rest !== null
    if (!isUnderWay) this.#capped = { shortened: 0, ended: 0 }
    this.#rest = this.#state.sessions.values()
    const done = new Promise<Capped>((resolve) => {
      this.#waiters.push(resolve)
    })
    this.#state.turn.begin()
    if (!isUnderWay) this.#slice()
    return done
  }

  #slice(): void {
    // When the store is read again, its Sessions are made with the new maximum.
    if (this.#state.unavailable !== null) this.#rest = null
    const { work } = this.#state
    const until = work.units + SLICE_UNITS
    while (this.#rest !== null && work.units < until) {
      work.units += CAP_UNITS
      const next = this.#rest.next()
      if (next.done === true) {
        this.#rest = null
        break
      }
      const outcome = this.#sessions.cap(next.value)
      if (outcome !== 'kept') this.#capped[outcome]++
    }
    if (this.#rest !== null && !this.#state.stopping) {
      this.#state.turn.continueLater(() => this.#slice())
      return
    }
    this.#rest = null
    this.#tell()
    for (const resolve of this.#waiters.splice(0)) resolve({ ...this.#capped })
  }

  #tell(): void {
    const { shortened, ended } = this.#capped
    if (shortened + ended === 0) return
    const maximumSeconds = this.#state.limits.sessionExpirySecondsMax
    this.#state.events.emit('sessionsCapped', { maximumSeconds, shortened, ended })
  }
}
