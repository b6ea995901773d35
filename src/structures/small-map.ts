/** A Map that usually has one entry: a device's Session has one Subscription, and a Map takes 220 bytes. */
export class SmallMap<K extends NonNullable<unknown>, V> {
  /** The only entry; null when there is none, or a Map. */
  #key: K | null = null
  #value: V | null = null
  #map: Map<K, V> | null = null

  get size(): number {
    return this.#map?.size ?? (this.#key === null ? 0 : 1)
  }

  has(key: K): boolean {
    return this.#map?.has(key) ?? this.#key === key
  }

  get(key: K): V | undefined {
    if (this.#map !== null) return this.#map.get(key)
    return this.#key === key ? (this.#value as V) : undefined
  }

  set(key: K, value: V): void {
    if (this.#map !== null) {
      this.#map.set(key, value)
    } else if (this.#key === null || this.#key === key) {
      this.#key ??= key
      this.#value = value
    } else {
      this.#map = new Map([[this.#key, this.#value as V]])
      this.#map.set(key, value)
      this.#key = null
      this.#value = null
    }
  }

  delete(key: K): boolean {
    if (this.#map !== null) return this.#map.delete(key)
    if (this.#key !== key) return false
    this.clear()
    return true
  }

  clear(): void {
    this.#key = null
    this.#value = null
    // For iterators that are under way.
    this.#map?.clear()
    this.#map = null
  }

  /**
   * Iterates the keys in order of insertion; may continue while the Map changes. Keys added after a single
   * one may be missed.
   */
  keys(): Iterable<K> {
    if (this.#map !== null) return this.#map.keys()
    return this.#key === null ? [] : [this.#key]
  }

  /** Iterates the entries as `keys` does the keys. */
  [Symbol.iterator](): Iterator<[K, V]> {
    if (this.#map !== null) return this.#map.entries()
    const alone: [K, V][] = this.#key === null ? [] : [[this.#key, this.#value as V]]
    return alone.values()
  }
}
