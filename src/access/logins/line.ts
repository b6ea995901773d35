/** PURE. A line of entries of which any may leave: the first and the last one are found without looking at all. */

/** Who stands in a line. */
export interface Standing {
  /** False once it was served, refused, or left. */
  waits: boolean
}

/** Entries that left and are still in the array, beyond as many as wait. */
const GONE_MAX = 32

export class Line<E extends Standing> {
  #entries: E[] = []
  #head = 0
  #length = 0

  /** Those that wait. */
  get length(): number {
    return this.#length
  }

  push(entry: E): void {
    this.#entries.push(entry)
    this.#length++
  }

  /** To be told of each entry whose `waits` became false. */
  left(): void {
    this.#length--
    if (this.#entries.length - this.#head <= 2 * this.#length + GONE_MAX) return
    this.#entries = this.#entries.filter(({ waits }) => waits)
    this.#head = 0
  }

  get first(): E | undefined {
    while (this.#entries[this.#head]?.waits === false) this.#head++
    return this.#entries[this.#head]
  }

  get last(): E | undefined {
    while (this.#entries.length > this.#head && this.#entries.at(-1)?.waits === false) this.#entries.pop()
    return this.#entries.length > this.#head ? this.#entries.at(-1) : undefined
  }
}
