/**
 * HOT. Why a Network Connection is not read from: a set of reasons, each of which ends by itself. While there is one, packets
 * that have arrived wait in order, and the transport is paused.
 */

/**
 * `policy`: the latest packet waits for an answer, or goes on in a later turn. `commit`: the Server has more to commit than it
 * may. `answers`: the client asks and does not read the answers. `slice`: it has done its share of this turn. `rate`: it sends
 * more than a rate allows. `pays`: memory is short, and it is among those that hold most. `crowd`: it has not sent CONNECT yet, and
 * so many others come that it is not its turn.
 */
export type HoldReason = keyof typeof BITS

const BITS = { policy: 1, commit: 2, answers: 4, slice: 8, rate: 16, pays: 32, crowd: 64 } as const

export class ReadGate {
  #reasons = 0
  /** Which reasons may hold it. */
  #accepted = ~0

  get isHeld(): boolean {
    return this.#reasons !== 0
  }

  /** Whether this is the only reason. */
  isOnly(reason: HoldReason): boolean {
    return this.#reasons === BITS[reason]
  }

  has(reason: HoldReason): boolean {
    return (this.#reasons & BITS[reason]) !== 0
  }

  /** True where the reason is new; false where it held already, or is not accepted any more. */
  add(reason: HoldReason): boolean {
    const bit = BITS[reason] & this.#accepted
    if (bit === 0 || (this.#reasons & bit) !== 0) return false
    this.#reasons |= bit
    return true
  }

  /** True where the reason held until now. */
  remove(reason: HoldReason): boolean {
    if (!this.has(reason)) return false
    this.#reasons &= ~BITS[reason]
    return true
  }

  /** From now on it waits for a policy and for its turn, and for nothing else: what has arrived is all that there will be. */
  hurry(): void {
    this.#accepted = BITS.policy | BITS.slice
    this.#reasons &= this.#accepted
  }

  get isHurried(): boolean {
    return this.#accepted !== ~0
  }
}
