/** PURE. Runs of consecutive sequences, in order, with gaps between them. */

/** Consecutive sequences from `first` up to, not including, `next`. */
export interface Run {
  readonly first: number
  readonly next: number
}

/** A set of sequences as runs: it takes as much memory as there are runs. */
export class Runs {
  readonly #firsts: number[] = []
  readonly #nexts: number[] = []

  get count(): number {
    return this.#firsts.length
  }

  /** Adds `[first, next)`, of which none is in it. */
  add(first: number, next: number): void {
    const at = this.#after(first)
    const joinsBefore = at > 0 && this.#nexts[at - 1] === first
    const joinsAfter = this.#firsts[at] === next
    if (joinsBefore && joinsAfter) {
      this.#nexts[at - 1] = this.#nexts[at]!
      this.#firsts.splice(at, 1)
      this.#nexts.splice(at, 1)
    } else if (joinsBefore) this.#nexts[at - 1] = next
    else if (joinsAfter) this.#firsts[at] = first
    else {
      this.#firsts.splice(at, 0, first)
      this.#nexts.splice(at, 0, next)
    }
  }

  has(sequence: number): boolean {
    const at = this.#after(sequence)
    return at > 0 && sequence < this.#nexts[at - 1]!
  }

  /** Returns the first sequence at or after this one that is not in it. */
  skip(sequence: number): number {
    const at = this.#after(sequence)
    return at > 0 && sequence < this.#nexts[at - 1]! ? this.#nexts[at - 1]! : sequence
  }

  /** Forgets everything below `sequence`. */
  dropBelow(sequence: number): void {
    let count = 0
    while (count < this.#nexts.length && this.#nexts[count]! <= sequence) count++
    this.#firsts.splice(0, count)
    this.#nexts.splice(0, count)
    if (this.#firsts.length > 0 && this.#firsts[0]! < sequence) this.#firsts[0] = sequence
  }

  /** Iterates them in order. */
  *[Symbol.iterator](): IterableIterator<Run> {
    for (let at = 0; at < this.#firsts.length; at++) {
      yield { first: this.#firsts[at]!, next: this.#nexts[at]! }
    }
  }

  /** The index of the first run that begins after `sequence`. */
  #after(sequence: number): number {
    const firsts = this.#firsts
    let low = 0
    let high = firsts.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (firsts[middle]! <= sequence) low = middle + 1
      else high = middle
    }
    return low
  }
}
