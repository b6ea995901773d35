/**
 * HOT. A heap of entries by a number: a sequence or a time. Each entry knows its place, so that it can be
 * taken out from the middle. An entry is in one heap at most.
 */

/** A thing that can be in a heap. */
export interface Heaped {
  readonly sequence: number
  /** Its place; -1 while it is in no heap. */
  heapIndex: number
}

export class EntryHeap<E extends Heaped> {
  readonly #entries: E[] = []
  readonly #order: (entry: E) => number

  /**
   * `order` must not change for an entry while it is in the heap. Of equal ones, the lower sequence is
   * first.
   */
  constructor(order: (entry: E) => number) {
    this.#order = order
  }

  get size(): number {
    return this.#entries.length
  }

  /** The first one; undefined if it is empty. */
  get top(): E | undefined {
    return this.#entries[0]
  }

  /** All of them, in no order. Do not change the heap meanwhile. */
  values(): readonly E[] {
    return this.#entries
  }

  push(entry: E): void {
    this.#entries.push(entry)
    this.#up(this.#entries.length - 1, entry)
  }

  pop(): E | undefined {
    const top = this.#entries[0]
    if (top !== undefined) this.remove(top)
    return top
  }

  /** Takes out an entry that is in this heap. */
  remove(entry: E): void {
    const index = entry.heapIndex
    entry.heapIndex = -1
    const last = this.#entries.pop()!
    if (last === entry) return
    if (this.#isBefore(last, entry)) this.#up(index, last)
    else this.#down(index, last)
  }

  #isBefore(one: E, other: E): boolean {
    const [left, right] = [this.#order(one), this.#order(other)]
    return left < right || (left === right && one.sequence < other.sequence)
  }

  #up(start: number, entry: E): void {
    const entries = this.#entries
    let index = start
    while (index > 0) {
      const parent = (index - 1) >> 1
      const above = entries[parent]!
      if (!this.#isBefore(entry, above)) break
      entries[index] = above
      above.heapIndex = index
      index = parent
    }
    entries[index] = entry
    entry.heapIndex = index
  }

  #down(start: number, entry: E): void {
    const entries = this.#entries
    let index = start
    for (;;) {
      let child = 2 * index + 1
      if (child >= entries.length) break
      if (child + 1 < entries.length && this.#isBefore(entries[child + 1]!, entries[child]!)) child++
      const below = entries[child]!
      if (!this.#isBefore(below, entry)) break
      entries[index] = below
      below.heapIndex = index
      index = child
    }
    entries[index] = entry
    entry.heapIndex = index
  }
}
