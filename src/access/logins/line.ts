/**
 * PURE. A line whose entries may leave from any place. Its first and last entries are found without a search.
 */

/** An entry of a line. */
export interface Standing {
  /** False once it was served or refused, or has left. */
  waits: boolean
}

/** The array is cleaned when this many more of its entries have left than wait. */
const GONE_MAX = 32

/** The entries in the order in which they came. */
export class Line<E extends Standing> {
  #entries: E[] = []
  #head = 0
  #length = 0

  /** How many entries wait. */
  get length(): number {
    return this.#length
  }

  push(entry: E): void {
    this.#entries.push(entry)
    this.#length++
  }

  /** Call it for each entry whose `waits` became false. */
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
