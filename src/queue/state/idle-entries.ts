/**
 * HOT. The entries of one lane that nobody holds, the oldest first. One that is held again stays here until
 * it is found or there are too many of them, so that handing out costs nothing here.
 */
import { type Entry, isIdle } from './consumer.ts'

/** More than twice the entries of the lane, and so many, are too many. */
const SPARE = 64

export class IdleEntries {
  /** A heap by sequence. */
  #entries: Entry[] = []

  /** Adds an entry that nobody holds any more. `count` is how many the lane has. */
  add(entry: Entry, count: number): void {
    if (entry.isListedIdle) return
    entry.isListedIdle = true
    if (this.#entries.length >= 2 * count + SPARE) this.#tidy()
    const entries = this.#entries
    let at = entries.length
    entries.push(entry)
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (entries[parent]!.sequence <= entry.sequence) break
      entries[at] = entries[parent]!
      at = parent
    }
    entries[at] = entry
  }

  /** The oldest one; null if there is none. */
  get first(): Entry | null {
    for (let top = this.#entries[0]; top !== undefined; top = this.#entries[0]) {
      if (isIdle(top)) return top
      this.#takeTop(top)
    }
    return null
  }

  #takeTop(top: Entry): void {
    top.isListedIdle = false
    const entries = this.#entries
    const last = entries.pop()!
    if (entries.length === 0) return
    let at = 0
    for (let child = 1; child < entries.length; child = 2 * at + 1) {
      if (child + 1 < entries.length && entries[child + 1]!.sequence < entries[child]!.sequence) child++
      if (entries[child]!.sequence >= last.sequence) break
      entries[at] = entries[child]!
      at = child
    }
    entries[at] = last
  }

  #tidy(): void {
    for (const entry of this.#entries) entry.isListedIdle = isIdle(entry)
    this.#entries = this.#entries.filter(isIdle).sort((one, other) => one.sequence - other.sequence)
  }
}
