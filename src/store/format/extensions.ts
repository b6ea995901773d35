/**
 * HOT. What few queue entries have beside their bodies: Subscription Identifiers, and the Shared Subscription that they came
 * by. Each combination is kept once, however many parked entries have it: they know it by a number.
 */
import type { EntryExtension } from './entry.ts'

export class Extensions {
  /** By number; numbers count from 1. */
  readonly #known: (EntryExtension | null)[] = [null]
  /** Entries that have it, by number. */
  readonly #counts: number[] = [0]
  /** Numbers that nobody has any more. */
  readonly #free: number[] = []
  readonly #numbers = new Map<string, number>()
  /** The number of what was taken last; 0 for none. Neighbours in a queue mostly have the same. */
  #latest = 0

  /** Combinations that some entry has. */
  get size(): number {
    return this.#numbers.size
  }

  /** The number of this extension, which one entry more has. */
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

  /** An entry that has it is gone. */
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

/** A share begins with `$`, a list of identifiers with a digit, and no filter has the character between them. */
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
