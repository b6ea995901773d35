/**
 * Network Connections that have not sent CONNECT yet. Each read takes time from those who are connected, also where what it brings
 * has to wait. While a crowd comes in, newcomers are therefore read from in turn, a few in each turn.
 */
import type { Turn } from './turn.ts'

/** A Network Connection before its CONNECT. */
export interface Newcomer {
  /** Nothing is read from it until `hear`; false where it is closed. */
  wait(): boolean
  /** It is its turn; false where it is closed. */
  hear(): boolean
}

/**
 * So many are told to wait for each one that came in too early. What arrived from these together is skipped by libuv at almost no
 * cost, and to tell them takes 0.5 ms at most.
 */
const WAIT_AT_ONCE = 128

export class Doorway {
  readonly #turn: Turn
  /** Those that are read from, the oldest first. */
  readonly #read = new Set<Newcomer>()

  constructor(turn: Turn) {
    this.#turn = turn
  }

  /** Newcomers that are read from. */
  get reading(): number {
    return this.#read.size
  }

  /** A Network Connection was accepted: it waits where others do. */
  came(newcomer: Newcomer): void {
    if (this.#turn.newcomersWait) this.#wait(newcomer)
    else this.#read.add(newcomer)
  }

  /** It sent CONNECT, or is closed. Idempotent. */
  left(newcomer: Newcomer): void {
    this.#read.delete(newcomer)
  }

  /** This one sent CONNECT when the turn had heard enough of them: `goOn` handles it later, and the next ones wait as well. */
  early(newcomer: Newcomer, goOn: () => void): void {
    this.#read.delete(newcomer)
    this.#turn.admitLater(goOn)
    let count = 0
    for (const other of this.#read) {
      if (count++ === WAIT_AT_ONCE) return
      this.#read.delete(other)
      this.#wait(other)
    }
  }

  #wait(newcomer: Newcomer): void {
    if (!newcomer.wait()) return
    this.#turn.admitLater(() => {
      if (newcomer.hear()) this.#read.add(newcomer)
    })
  }
}
