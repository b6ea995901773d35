/** HOT. Counts the parked queue entries that refer to each body of one journal page, in 4 bytes a body. */

/**
 * The upper half of a word is the body's offset, the lower half its count. If the lower half has this value,
 * `#many` has the count.
 */
const MANY = 0xffff
const FIRST_CAPACITY = 8

export class ReferenceCounts {
  /** Sorted by offset. The first `#length` are in use. */
  #words = new Uint32Array(FIRST_CAPACITY)
  #length = 0
  /** Counts that do not fit into a word, by offset. */
  #many: Map<number, number> | null = null

  /** Number of bodies that parked entries refer to. */
  get size(): number {
    return this.#length
  }

  /** Returns the offset of the body at this place in the order of offsets. */
  offsetAt(index: number): number {
    return this.#words[index]! >>> 16
  }

  /** Returns how many parked entries refer to the body at this offset. */
  count(offset: number): number {
    const index = this.#find(offset)
    return index < this.#length && this.#words[index]! >>> 16 === offset ? this.#countAt(index) : 0
  }

  /** Adds to the count of a body. */
  add(offset: number, count: number): void {
    const index = this.#find(offset)
    if (index < this.#length && this.#words[index]! >>> 16 === offset) {
      this.#set(index, offset, this.#countAt(index) + count)
      return
    }
    if (this.#length === this.#words.length) this.#grow()
    this.#words.copyWithin(index + 1, index, this.#length)
    this.#length++
    this.#set(index, offset, count)
  }

  /** Takes from the count of a body, and returns the rest. Throws RangeError if the count is smaller. */
  take(offset: number, count: number): number {
    const index = this.#find(offset)
    const known = index < this.#length && this.#words[index]! >>> 16 === offset ? this.#countAt(index) : 0
    if (known < count) throw new RangeError(`${known} parked entries refer to the body at ${offset}`)
    if (known > count) {
      this.#set(index, offset, known - count)
      return known - count
    }
    this.#many?.delete(offset)
    this.#words.copyWithin(index, index + 1, this.#length)
    this.#length--
    return 0
  }

  /** Returns the index of the first word whose offset is not below this one. */
  #find(offset: number): number {
    const words = this.#words
    let low = 0
    let high = this.#length
    // Most bodies are parked in the order of their offsets.
    if (high > 0 && words[high - 1]! >>> 16 < offset) return high
    while (low < high) {
      const middle = (low + high) >>> 1
      if (words[middle]! >>> 16 < offset) low = middle + 1
      else high = middle
    }
    return low
  }

  #countAt(index: number): number {
    const word = this.#words[index]!
    const count = word & MANY
    return count === MANY ? this.#many!.get(word >>> 16)! : count
  }

  #set(index: number, offset: number, count: number): void {
    this.#words[index] = ((offset << 16) | Math.min(count, MANY)) >>> 0
    if (count >= MANY) {
      this.#many ??= new Map()
      this.#many.set(offset, count)
    } else {
      this.#many?.delete(offset)
    }
  }

  #grow(): void {
    const length = this.#words.length
    const words = new Uint32Array(length < 64 ? length * 2 : length + 32)
    words.set(this.#words)
    this.#words = words
  }
}
