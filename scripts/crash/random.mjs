/** Random numbers that a seed repeats (mulberry32): the plan of a run hangs on nothing else. */
export class Random {
  #state

  /** `seed` is a whole number; its low 32 bits count. */
  constructor(seed) {
    this.#state = seed >>> 0
  }

  /** From 0 up to but without 1. */
  next() {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0
    let bits = this.#state
    bits = Math.imul(bits ^ (bits >>> 15), bits | 1)
    bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61)
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32
  }

  /** A whole number from `from` to `to`, both included. */
  between(from, to) {
    return from + Math.floor(this.next() * (to - from + 1))
  }

  /** True in this share of the cases. */
  chance(share) {
    return this.next() < share
  }

  pick(list) {
    return list[this.between(0, list.length - 1)]
  }

  /** Another sequence, so that one actor's timing does not change what another one does. */
  fork() {
    return new Random(Math.floor(this.next() * 2 ** 32))
  }
}
