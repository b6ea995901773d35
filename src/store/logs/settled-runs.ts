/** PURE. Which entries of a log are settled: all below a floor, and runs beyond it. */
import type { LaneState, Run } from '../log-store.ts'

export class SettledRuns implements LaneState {
  floor: number
  /** In order, with gaps between them, all above `floor`. */
  readonly #firsts: number[] = []
  readonly #nexts: number[] = []

  constructor(floor = 1) {
    this.floor = floor
  }

  /** Takes over a state. */
  static of({ floor, runs }: LaneState): SettledRuns {
    const settled = new SettledRuns(floor)
    for (const { first, next } of runs) settled.add(first, next)
    return settled
  }

  get runs(): Run[] {
    return this.#firsts.map((first, index) => ({ first, next: this.#nexts[index]! }))
  }

  /** One past the highest settled sequence. */
  get end(): number {
    return this.#nexts[this.#nexts.length - 1] ?? this.floor
  }

  has(sequence: number): boolean {
    if (sequence < this.floor) return true
    const index = this.#indexOf(sequence)
    return index < this.#firsts.length && this.#firsts[index]! <= sequence
  }

  /** How many sequences from `first` up to, not including, `next` are settled. */
  countIn(first: number, next: number): number {
    let count = Math.max(0, Math.min(next, this.floor) - first)
    for (let index = this.#indexOf(first); index < this.#firsts.length; index++) {
      const from = Math.max(first, this.#firsts[index]!)
      if (from >= next) break
      count += Math.min(next, this.#nexts[index]!) - from
    }
    return count
  }

  /** The first sequence at or after this one that is not settled. */
  firstUnsettled(sequence: number): number {
    if (sequence < this.floor) return this.floor
    const index = this.#indexOf(sequence)
    return index < this.#firsts.length && this.#firsts[index]! <= sequence ? this.#nexts[index]! : sequence
  }

  /** Settles the sequences from `first` up to, not including, `next`; some may be settled already. */
  add(first: number, next: number): void {
    if (next <= this.floor || next <= first) return
    if (first <= this.floor) {
      this.floor = next
      this.#absorb()
      return
    }
    // Runs that touch the new one are joined with it.
    let from = this.#indexOf(first - 1)
    let low = first
    let high = next
    const start = from
    while (from < this.#firsts.length && this.#firsts[from]! <= next) {
      low = Math.min(low, this.#firsts[from]!)
      high = Math.max(high, this.#nexts[from]!)
      from++
    }
    this.#firsts.splice(start, from - start, low)
    this.#nexts.splice(start, from - start, high)
  }

  /** Everything below `floor` is settled, and nothing else. */
  reset(floor: number): void {
    this.floor = floor
    this.#firsts.length = 0
    this.#nexts.length = 0
  }

  #absorb(): void {
    let count = 0
    while (count < this.#firsts.length && this.#firsts[count]! <= this.floor) {
      this.floor = Math.max(this.floor, this.#nexts[count]!)
      count++
    }
    this.#firsts.splice(0, count)
    this.#nexts.splice(0, count)
  }

  /** The index of the first run that ends after this sequence. */
  #indexOf(sequence: number): number {
    let low = 0
    let high = this.#firsts.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.#nexts[middle]! > sequence) high = middle
      else low = middle + 1
    }
    return low
  }
}
