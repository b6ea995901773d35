/** Random numbers that a seed repeats (mulberry32): the plan of a run depends on nothing else. */
export class Random {
  #state

  /** @param {number} seed a whole number, of which the low 32 bits count */
  constructor(seed) {
    this.#state = seed >>> 0
  }

  /** Returns a number from 0 up to, but without, 1. */
  next() {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0
    let bits = this.#state
    bits = Math.imul(bits ^ (bits >>> 15), bits | 1)
    bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61)
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32
  }

  /**
   * Returns a whole number from `from` to `to`, both included.
   *
   * @param {number} from
   * @param {number} to
   */
  between(from, to) {
    return from + Math.floor(this.next() * (to - from + 1))
  }

  /** Returns true in this share of the cases. */
  chance(share) {
    return this.next() < share
  }

  /**
   * @template T
   * @param {readonly T[]} list
   * @returns {T}
   */
  pick(list) {
    return list[this.between(0, list.length - 1)]
  }

  /** Returns another sequence, so that the timing of one client does not change what another one does. */
  fork() {
    return new Random(Math.floor(this.next() * 2 ** 32))
  }
}
