/**
 * Network Connections that have not sent CONNECT yet. Reading from them takes time from connected clients,
 * even if their packets have to wait. So while many arrive at once, only a few of them are read from in each
 * turn, in order of arrival.
 */
import type { Deadline, Deadlines } from './deadlines.ts'
import type { Turn } from './turn.ts'

/** A Network Connection before its CONNECT. */
export interface Newcomer {
  /** Pauses reading until `resumeReading`. Returns false if the connection is closed. */
  pauseReading(): boolean
  /** Reads on. Returns false if the connection is closed or has sent CONNECT. */
  resumeReading(): boolean
}

/**
 * Newcomers that are paused for each CONNECT that has to wait. Pausing takes 0.5 ms at most, and libuv then
 * skips their pending input at almost no cost.
 */
const PAUSED_AT_ONCE = 128

/** Decides which newcomers are read from. */
export class ConnectQueue {
  readonly #turn: Turn
  readonly #deadlines: Deadlines
  /** Newcomers that are read from, the oldest first. */
  readonly #reading = new Set<Newcomer>()
  /** Begins a turn for newcomers that wait; null if none is needed. */
  #wakeUp: Deadline | null = null

  /** `clock` returns broker time of this moment in ms. */
  constructor(turn: Turn, deadlines: Deadlines, clock: () => number) {
    this.#turn = turn
    this.#deadlines = deadlines
    turn.onNewcomersWait = () => this.#wake(clock())
  }

  #wake(now: number): void {
    this.#wakeUp ??= this.#deadlines.at(now + 1, () => {
      this.#wakeUp = null
      this.#turn.begin()
    })
  }

  /** Number of newcomers that are read from. */
  get readingCount(): number {
    return this.#reading.size
  }

  /** Adds an accepted Network Connection. It is paused if others wait already. */
  add(newcomer: Newcomer): void {
    if (this.#turn.newcomersWait) this.#pause(newcomer)
    else this.#reading.add(newcomer)
  }

  /** Removes a Network Connection that has sent CONNECT, or is closed. Idempotent. */
  remove(newcomer: Newcomer): void {
    this.#reading.delete(newcomer)
  }

  /**
   * Handles a CONNECT with `goOn` in a later turn, since this turn has handled enough. Pauses others as well.
   */
  defer(newcomer: Newcomer, goOn: () => void): void {
    this.#reading.delete(newcomer)
    this.#turn.admitLater(goOn)
    let count = 0
    for (const other of this.#reading) {
      if (count++ === PAUSED_AT_ONCE) return
      this.#reading.delete(other)
      this.#pause(other)
    }
  }

  #pause(newcomer: Newcomer): void {
    if (!newcomer.pauseReading()) return
    this.#turn.admitLater(() => {
      if (newcomer.resumeReading()) this.#reading.add(newcomer)
    })
  }
}
