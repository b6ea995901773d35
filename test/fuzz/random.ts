/** PURE. A seeded source of randomness: the same seed gives the same inputs on every machine. */

export class Random {
  #a: number
  #b: number
  #c: number
  #counter = 1

  /** `seed` is any integer; `stream` keeps sources of one seed apart. */
  constructor(seed: number, stream = 0) {
    this.#a = seed | 0
    this.#b = Math.floor(seed / 0x1_0000_0000) | 0
    this.#c = stream | 0
    for (let round = 0; round < 15; round++) this.uint32()
  }

  /** 0 to 0xffffffff: the generator sfc32. */
  uint32(): number {
    const sum = (this.#a + this.#b + this.#counter) | 0
    this.#counter = (this.#counter + 1) | 0
    this.#a = this.#b ^ (this.#b >>> 9)
    this.#b = (this.#c + (this.#c << 3)) | 0
    this.#c = ((this.#c << 21) | (this.#c >>> 11)) + sum
    return sum >>> 0
  }

  /** An integer from 0 up to, not including, `limit`. */
  below(limit: number): number {
    return Math.floor((this.uint32() / 0x1_0000_0000) * limit)
  }

  /** An integer from `min` to `max`, both included. */
  between(min: number, max: number): number {
    return min + this.below(max - min + 1)
  }

  /** True with this probability. */
  chance(probability: number): boolean {
    return this.uint32() < probability * 0x1_0000_0000
  }

  /** One of these. */
  of<T>(choices: readonly T[]): T {
    return choices[this.below(choices.length)]!
  }

  /** One of these, each as often as its number says in relation to the others. */
  weighted<T>(choices: readonly (readonly [number, T])[]): T {
    let at = this.below(choices.reduce((sum, [weight]) => sum + weight, 0))
    for (const [weight, choice] of choices) {
      if (at < weight) return choice
      at -= weight
    }
    throw new Error('no choice has a weight')
  }

  bytes(length: number): Buffer {
    const bytes = Buffer.allocUnsafe(length)
    for (let at = 0; at < length; at++) bytes[at] = this.uint32() >>> 24
    return bytes
  }
}
