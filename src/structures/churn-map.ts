/**
 * HOT. A Map for keys that come and go, and for very many keys. V8 keeps a deleted entry in its hash chain
 * until it rebuilds the whole table: setting and deleting one key again and again beside 100,000 others
 * costs 40 to 300 us each time. Here a deleted key keeps its slot for a while and uses it again when it
 * comes back.
 *
 * V8 also rebuilds a table when it doubles, all at once: 48 ms for 524,288 entries, 93 for twice as many.
 * So beyond SLOTS_MAX this class begins further Maps; a look-up goes through all of them, 0.2 us each.
 */

/**
 * Most slots without a value. They are all dropped when there are more, or more than there are slots with a
 * value.
 */
const VACANT_MAX = 1024
/** A Map with at most this many slots has short chains in any case. */
const SMALL = 64
/** Slots of one Map: with one more, V8 would double it, which takes 9 ms. */
export const SLOTS_MAX = 131_072

/** A Map whose keys come and go cheaply. */
export class ChurnMap<K, V extends NonNullable<unknown>> {
  readonly #slots = new Map<K, V | null>()
  #vacant: Set<K> | null = null
  /** Maps for keys without a slot here; they have no further ones themselves. */
  #further: ChurnMap<K, V>[] | null = null

  /** Number of keys with a value. */
  get size(): number {
    let size = this.#ownSize
    if (this.#further !== null) for (const part of this.#further) size += part.#ownSize
    return size
  }

  /** Number of slots that `slots` iterates. */
  get slotCount(): number {
    let count = this.#slots.size
    if (this.#further !== null) for (const part of this.#further) count += part.#slots.size
    return count
  }

  get #ownSize(): number {
    return this.#slots.size - (this.#vacant?.size ?? 0)
  }

  get(key: K): V | undefined {
    const value = this.#slots.get(key) ?? undefined
    if (value !== undefined || this.#further === null) return value
    for (const part of this.#further) {
      const found = part.#slots.get(key) ?? undefined
      if (found !== undefined) return found
    }
    return undefined
  }

  has(key: K): boolean {
    return this.get(key) !== undefined
  }

  set(key: K, value: V): void {
    const isHere = this.#further === null && (this.#slots.size < SLOTS_MAX || this.#slots.has(key))
    const part = isHere ? this : this.#partFor(key)
    part.#slots.set(key, value)
    part.#vacant?.delete(key)
  }

  delete(key: K): void {
    const part = this.#holder(key)
    if (part === null) return
    part.#vacate(key)
    if (part === this || part.#ownSize > 0) return
    const others = this.#further!.filter((each) => each !== part)
    this.#further = others.length === 0 ? null : others
  }

  #vacate(key: K): void {
    if (this.#slots.size <= SMALL && this.#vacant === null) {
      this.#slots.delete(key)
      return
    }
    this.#slots.set(key, null)
    this.#vacant ??= new Set()
    this.#vacant.add(key)
    if (this.#vacant.size <= VACANT_MAX && this.#vacant.size <= this.#ownSize) return
    for (const each of this.#vacant) this.#slots.delete(each)
    this.#vacant = null
  }

  /** Finds the part with a value for the key; null when there is none. */
  #holder(key: K): ChurnMap<K, V> | null {
    if ((this.#slots.get(key) ?? null) !== null) return this
    if (this.#further === null) return null
    for (const part of this.#further) if ((part.#slots.get(key) ?? null) !== null) return part
    return null
  }

  /** Finds the part with the key, or else with a slot for it. */
  #partFor(key: K): ChurnMap<K, V> {
    const holder = this.#holder(key)
    if (holder !== null) return holder
    this.#further ??= []
    let room: ChurnMap<K, V> | null = null
    for (const part of [this, ...this.#further]) {
      if (part.#slots.has(key)) return part
      if (room === null && part.#slots.size < SLOTS_MAX) room = part
    }
    if (room !== null) return room
    const added = new ChurnMap<K, V>()
    this.#further.push(added)
    return added
  }

  /** Number of slots in its largest Map. */
  get largestPart(): number {
    let largest = this.#slots.size
    if (this.#further !== null)
      for (const part of this.#further) largest = Math.max(largest, part.#slots.size)
    return largest
  }

  /** Iterates all keys with a value. */
  *keys(): IterableIterator<K> {
    for (const [key, value] of this.slots()) if (value !== null) yield key
  }

  /** Iterates all values. The Map may change meanwhile: a value that stays in it comes exactly once. */
  *values(): IterableIterator<V> {
    for (const [, value] of this.slots()) if (value !== null) yield value
  }

  /**
   * Iterates all slots; null for one without a value. May continue while the Map changes: within the first
   * `slotCount` slots, a key that keeps a value comes once.
   */
  slots(): IterableIterator<[K, V | null]> {
    if (this.#further === null) return this.#slots.entries()
    const parts = [this, ...this.#further]
    return slotsOf(parts.map((part) => ({ slots: part.#slots.entries(), left: part.#slots.size })))
  }
}

/** Iterates as many slots of each Map as it has now: later ones must not use up the count of the next Map. */
function* slotsOf<K, V>(
  parts: { readonly slots: Iterator<[K, V | null]>; left: number }[],
): IterableIterator<[K, V | null]> {
  for (const part of parts) {
    while (part.left-- > 0) {
      const next = part.slots.next()
      if (next.done === true) break
      yield next.value
    }
  }
}
