/**
 * HOT. A list with one item per key, in no order. It returns its array without a copy, and copies it before
 * the next change: readers keep an array that does not change, and a list of 100,000 is copied at most once
 * per reading.
 */
import { ChurnMap } from './churn-map.ts'

/** Longer lists find their items in a Map, shorter ones by a scan. */
const SCAN_MAX = 16

/** A list with one item per key. */
export class KeyedList<K, V> {
  readonly #keyOf: (item: V) => K
  #items: V[] = []
  #positions: ChurnMap<K, number> | null = null
  #handedOut = false

  constructor(keyOf: (item: V) => K) {
    this.#keyOf = keyOf
  }

  get length(): number {
    return this.#items.length
  }

  /** Number of items that the next change copies. */
  get copiedNext(): number {
    return this.#handedOut ? this.#items.length : 0
  }

  /** All items; the array never changes. */
  get items(): readonly V[] {
    this.#handedOut = true
    return this.#items
  }

  /** Finds the item's index in `items`; -1 when there is none. */
  position(key: K): number {
    if (this.#positions !== null) return this.#positions.get(key) ?? -1
    for (let at = 0; at < this.#items.length; at++) {
      if (this.#keyOf(this.#items[at]!) === key) return at
    }
    return -1
  }

  get(key: K): V | undefined {
    const at = this.position(key)
    return at === -1 ? undefined : this.#items[at]
  }

  /** Adds the item, or replaces the one with its key. */
  set(item: V): void {
    this.#own()
    const key = this.#keyOf(item)
    const at = this.position(key)
    if (at !== -1) {
      this.#items[at] = item
      return
    }
    // Most lists have one item. An array that is made with it has room for one; `push` makes room for 17.
    if (this.#items.length === 0) this.#items = [item]
    else this.#items.push(item)
    if (this.#positions !== null) this.#positions.set(key, this.#items.length - 1)
    else if (this.#items.length > SCAN_MAX) {
      this.#positions = new ChurnMap()
      for (const [index, each] of this.#items.entries()) this.#positions.set(this.#keyOf(each), index)
    }
  }

  /** Removes the item with this key, if there is one; the last one takes its position. */
  delete(key: K): void {
    const at = this.position(key)
    if (at === -1) return
    this.#own()
    const last = this.#items.pop()!
    if (at < this.#items.length) {
      this.#items[at] = last
      this.#positions?.set(this.#keyOf(last), at)
    }
    this.#positions?.delete(key)
    if (this.#items.length <= SCAN_MAX / 2) this.#positions = null
  }

  #own(): void {
    if (!this.#handedOut) return
    this.#items = this.#items.slice()
    this.#handedOut = false
  }
}
