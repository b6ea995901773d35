import { ChurnMap } from './churn-map.ts'

/** Entries of the Map. With one more, V8 would double it all at once: 5 ms here, more for larger Maps. */
const MAP_MAX = 65_536

/** A Map that usually has one entry: a device's Session has one Subscription, and a Map takes 220 bytes. */
export class SmallMap<K extends NonNullable<unknown>, V extends NonNullable<unknown>> {
  /** The only entry; null when there is none, or a Map. */
  #key: K | null = null
  #value: V | null = null
  #map: Map<K, V> | null = null
  /** Entries for which the Map has no room. */
  #further: ChurnMap<K, V> | null = null

  get size(): number {
    if (this.#map === null) return this.#key === null ? 0 : 1
    return this.#map.size + (this.#further?.size ?? 0)
  }

  /** Number of slots in its largest Map. */
  get largestPart(): number {
    return Math.max(this.#map?.size ?? 0, this.#further?.largestPart ?? 0)
  }

  has(key: K): boolean {
    if (this.#map === null) return this.#key === key
    return this.#map.has(key) || this.#further?.has(key) === true
  }

  get(key: K): V | undefined {
    if (this.#map !== null) return this.#map.get(key) ?? this.#further?.get(key)
    return this.#key === key ? (this.#value as V) : undefined
  }

  set(key: K, value: V): void {
    if (this.#map !== null) {
      this.#setInMap(this.#map, key, value)
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

  #setInMap(map: Map<K, V>, key: K, value: V): void {
    const hasRoom = map.size < MAP_MAX && this.#further?.has(key) !== true
    if (hasRoom || map.has(key)) {
      map.set(key, value)
      return
    }
    this.#further ??= new ChurnMap()
    this.#further.set(key, value)
  }

  delete(key: K): boolean {
    if (this.#map !== null) return this.#map.delete(key) || this.#deleteFurther(key)
    if (this.#key !== key) return false
    this.clear()
    return true
  }

  #deleteFurther(key: K): boolean {
    if (this.#further?.has(key) !== true) return false
    this.#further.delete(key)
    // The ChurnMap stays, even empty, so that running iterators see the rest.
    return true
  }

  clear(): void {
    this.#key = null
    this.#value = null
    // Iterators that are under way end here.
    this.#map?.clear()
    this.#map = null
    this.#further = null
  }

  /**
   * Iterates the keys; may continue while the Map changes. Keys that are added meanwhile may be missed. The
   * first 65,536 come in order of insertion.
   */
  keys(): Iterable<K> {
    if (this.#further !== null) return joined(this.#map!.keys(), this.#further.keys())
    if (this.#map !== null) return this.#map.keys()
    return this.#key === null ? [] : [this.#key]
  }

  /** Iterates the entries as `keys` does the keys. */
  [Symbol.iterator](): Iterator<[K, V]> {
    if (this.#further !== null) return joined(this.#map!.entries(), entriesOf(this.#further))
    if (this.#map !== null) return this.#map.entries()
    const alone: [K, V][] = this.#key === null ? [] : [[this.#key, this.#value as V]]
    return alone.values()
  }
}

function* joined<T>(first: Iterable<T>, second: Iterable<T>): IterableIterator<T> {
  yield* first
  yield* second
}

function* entriesOf<K, V extends NonNullable<unknown>>(map: ChurnMap<K, V>): IterableIterator<[K, V]> {
  for (const [key, value] of map.slots()) if (value !== null) yield [key, value]
}
