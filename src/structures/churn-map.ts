/**
 * A Map for keys that come and go. V8 keeps a deleted entry in its hash chain until the whole table is built anew:
 * a key that is set and deleted again and again in a Map of 100,000 others costs 40 to 300 us each time. Here a
 * deleted key keeps its slot for a while, and finds it again when it comes back.
 */

/** Slots without a value, beyond which (or beyond as many as have one) all of them are given up at once. */
const VACANT_MAX = 1024
/** A Map of no more slots than this has short chains whatever happens. */
const SMALL = 64

export class ChurnMap<K, V extends NonNullable<unknown>> {
  readonly #slots = new Map<K, V | null>()
  #vacant: Set<K> | null = null

  /** Keys that have a value. */
  get size(): number {
    return this.#slots.size - (this.#vacant?.size ?? 0)
  }

  /** What `slots` goes through. */
  get slotCount(): number {
    return this.#slots.size
  }

  get(key: K): V | undefined {
    return this.#slots.get(key) ?? undefined
  }

  has(key: K): boolean {
    return this.get(key) !== undefined
  }

  set(key: K, value: V): void {
    this.#slots.set(key, value)
    this.#vacant?.delete(key)
  }

  delete(key: K): void {
    if (this.get(key) === undefined) return
    if (this.#slots.size <= SMALL && this.#vacant === null) {
      this.#slots.delete(key)
      return
    }
    this.#slots.set(key, null)
    this.#vacant ??= new Set()
    this.#vacant.add(key)
    if (this.#vacant.size <= VACANT_MAX && this.#vacant.size <= this.size) return
    for (const each of this.#vacant) this.#slots.delete(each)
    this.#vacant = null
  }

  /** All values. May go on while the Map changes: those that were there all the while come once. */
  *values(): IterableIterator<V> {
    for (const value of this.#slots.values()) if (value !== null) yield value
  }

  /**
   * All keys, with null where there is no value. May go on while the Map changes: of `slotCount` slots from the
   * start, those that had a value all the while come once.
   */
  slots(): IterableIterator<[K, V | null]> {
    return this.#slots.entries()
  }
}
