/**
 * HOT. The entries of one lane in order of sequence: a list, and blocks of it to search in. Finding an entry,
 * or the place of a new one, takes a number of steps that grows with the logarithm of how many there are.
 */
import type { Entry } from './consumer.ts'

/** Entries of a block: so few that one can be moved within it at once. */
const BLOCK_MAX = 128

export class EntryList {
  /** The oldest entry, and the newest. */
  first: Entry | null = null
  last: Entry | null = null
  count = 0
  /** In order of sequence. None is empty. */
  readonly #blocks: Entry[][] = []

  /** Returns the entry with this sequence; null if there is none. */
  find(sequence: number): Entry | null {
    const entry = this.#atOrBefore(sequence)
    return entry !== null && entry.sequence === sequence ? entry : null
  }

  /** Adds an entry whose sequence is not there yet. */
  add(entry: Entry): void {
    const before = this.last === null || this.last.sequence < entry.sequence ? this.last : this.#place(entry)
    entry.previous = before
    entry.next = before === null ? this.first : before.next
    if (entry.next === null) {
      this.last = entry
      this.#append(entry)
    } else entry.next.previous = entry
    if (before === null) this.first = entry
    else before.next = entry
    this.count++
  }

  remove(entry: Entry): void {
    const { previous, next } = entry
    const at = this.#blockOf(entry.sequence)
    const block = this.#blocks[at]!
    if (block.length === 1) this.#blocks.splice(at, 1)
    else if (previous === null) block.shift()
    else if (next === null) block.pop()
    else block.splice(placeIn(block, entry.sequence), 1)
    if (previous === null) this.first = next
    else previous.next = next
    if (next === null) this.last = previous
    else next.previous = previous
    entry.previous = null
    entry.next = null
    this.count--
  }

  #append(entry: Entry): void {
    const block = this.#blocks.at(-1)
    if (block === undefined || block.length >= BLOCK_MAX) this.#blocks.push([entry])
    else block.push(entry)
  }

  /** Puts an entry that is not the newest into its block. Returns the one before it; null for none. */
  #place(entry: Entry): Entry | null {
    const { sequence } = entry
    const before = this.#atOrBefore(sequence)
    const at = Math.max(0, this.#blockOf(sequence))
    const block = this.#blocks[at]!
    block.splice(placeIn(block, sequence) + 1, 0, entry)
    if (block.length > BLOCK_MAX) this.#blocks.splice(at + 1, 0, block.splice(BLOCK_MAX / 2))
    return before
  }

  #atOrBefore(sequence: number): Entry | null {
    const at = this.#blockOf(sequence)
    if (at === -1) return null
    const block = this.#blocks[at]!
    return block[placeIn(block, sequence)]!
  }

  /** Returns the index of the last block that begins at or before this sequence; -1 for none. */
  #blockOf(sequence: number): number {
    const blocks = this.#blocks
    let low = 0
    let high = blocks.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (blocks[middle]![0]!.sequence <= sequence) low = middle + 1
      else high = middle
    }
    return low - 1
  }
}

/** Returns the index of the last entry at or before this sequence; -1 for none. */
function placeIn(block: readonly Entry[], sequence: number): number {
  let low = 0
  let high = block.length
  while (low < high) {
    const middle = (low + high) >> 1
    if (block[middle]!.sequence <= sequence) low = middle + 1
    else high = middle
  }
  return low - 1
}
