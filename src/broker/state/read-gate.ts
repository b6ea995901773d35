/**
 * HOT. The reasons why a Network Connection is not read from. Each of them ends independently of the others.
 * While there is one, packets that have arrived wait in order, and the transport is paused.
 */

/**
 * `packet`: the latest packet waits for an answer, or goes on in a later turn.
 * `commit`: the Server has more to commit than its limit. `answers`: the client does not read the answers to
 * its packets. `slice`: the client has had its share of this turn. `rate`: the client exceeds a rate. `pays`:
 * memory is short, and the client holds much of it. `crowd`: CONNECT has not arrived yet, and many others
 * come first.
 */
export type HoldReason = keyof typeof BITS

const BITS = { packet: 1, commit: 2, answers: 4, slice: 8, rate: 16, pays: 32, crowd: 64 } as const

/** A set of reasons. */
export class ReadGate {
  #reasons = 0
  /** Reasons that may be added. */
  #accepted = ~0

  get isHeld(): boolean {
    return this.#reasons !== 0
  }

  /** Tells whether this is the only reason. */
  isOnly(reason: HoldReason): boolean {
    return this.#reasons === BITS[reason]
  }

  has(reason: HoldReason): boolean {
    return (this.#reasons & BITS[reason]) !== 0
  }

  /** Adds a reason. Returns false if it is there already, or no longer accepted. */
  add(reason: HoldReason): boolean {
    const bit = BITS[reason] & this.#accepted
    if (bit === 0 || (this.#reasons & bit) !== 0) return false
    this.#reasons |= bit
    return true
  }

  /** Removes a reason. Returns whether it was there. */
  remove(reason: HoldReason): boolean {
    if (!this.has(reason)) return false
    this.#reasons &= ~BITS[reason]
    return true
  }

  /** Keeps and accepts only `packet` and `slice` from now on: nothing more will arrive. */
  hurry(): void {
    this.#accepted = BITS.packet | BITS.slice
    this.#reasons &= this.#accepted
  }

  get isHurried(): boolean {
    return this.#accepted !== ~0
  }
}
