/**
 * HOT. Keeps the fields that few parked entries have: Subscription Identifiers, and the Shared Subscription
 * through which a message came. Each combination is kept once. Entries refer to it by a number.
 */
import type { EntryExtension } from '../format/entry.ts'

export class Extensions {
  /** Combinations by number, from 1 on. */
  readonly #known: (EntryExtension | null)[] = [null]
  /** Entries with each combination, by number. */
  readonly #counts: number[] = [0]
  /** Numbers that are not in use. */
  readonly #free: number[] = []
  readonly #numbers = new Map<string, number>()
  /** The number that was taken last; 0 for none. Neighbours in a queue mostly have the same. */
  #latest = 0

  /** Combinations that at least one entry has. */
  get size(): number {
    return this.#numbers.size
  }

  /** Counts one more entry with this extension, and returns its number. */
  take(extension: EntryExtension): number {
    const latest = this.#latest
    if (latest !== 0 && isSame(this.#known[latest]!, extension)) {
      this.#counts[latest]!++
      return latest
    }
    const key = keyOf(extension)
    const number = this.#numbers.get(key) ?? this.#add(key, extension)
    this.#counts[number]!++
    this.#latest = number
    return number
  }

  get(number: number): EntryExtension {
    return this.#known[number]!
  }

  /** Counts one entry fewer with this extension. */
  release(number: number): void {
    if (--this.#counts[number]! > 0) return
    this.#numbers.delete(keyOf(this.#known[number]!))
    this.#known[number] = null
    this.#free.push(number)
    if (this.#latest === number) this.#latest = 0
  }

  #add(key: string, extension: EntryExtension): number {
    const number = this.#free.pop() ?? this.#known.length
    this.#known[number] = extension
    this.#counts[number] = 0
    this.#numbers.set(key, number)
    return number
  }
}

/**
 * A share begins with `$`, a list of identifiers with a digit, and no filter contains the character between
 * them.
 */
function keyOf({ subscriptionIdentifiers, share }: EntryExtension): string {
  if (subscriptionIdentifiers.length === 0) return share!
  return `${subscriptionIdentifiers.join(',')}\0${share ?? ''}`
}

function isSame(one: EntryExtension, other: EntryExtension): boolean {
  const a = one.subscriptionIdentifiers
  const b = other.subscriptionIdentifiers
  if (one.share !== other.share || a.length !== b.length) return false
  for (let index = 0; index < a.length; index++) if (a[index] !== b[index]) return false
  return true
}
