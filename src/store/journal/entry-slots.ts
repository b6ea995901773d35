/** HOT. Keeps entries that come and go in any order while a store is read, without an object each. */
import type { EntryFields } from '../format/entry.ts'
import type { LogFlight } from '../format/log-fields.ts'
import type { Extensions } from './extensions.ts'

/** Numbers of a slot: page; offset and flags; size; expiry; number of the extension or 0. */
const NUMBERS = 5
const FIRST_CAPACITY = 64
const OFFSETS = 0x10000

export class EntrySlots {
  readonly #extensions: Extensions
  #numbers = new Float64Array(FIRST_CAPACITY * NUMBERS)
  #end = 0
  readonly #free: number[] = []

  constructor(extensions: Extensions) {
    this.#extensions = extensions
  }

  /** Keeps a copy of the entry; returns its slot, from 0 on. */
  put(entry: EntryFields): number {
    const slot = this.#free.pop() ?? this.#end++
    const at = slot * NUMBERS
    if (at === this.#numbers.length) {
      const numbers = new Float64Array(this.#numbers.length * 2)
      numbers.set(this.#numbers)
      this.#numbers = numbers
    }
    const { page, offset, flags, size, expiresAt, extension } = entry
    this.#numbers[at] = page
    this.#numbers[at + 1] = flags * OFFSETS + offset
    this.#numbers[at + 2] = size
    this.#numbers[at + 3] = expiresAt
    this.#numbers[at + 4] = extension === null ? 0 : this.#extensions.take(extension)
    return slot
  }

  /** Copies the entry into `into`. */
  read(slot: number, into: EntryFields): void {
    const at = slot * NUMBERS
    const place = this.#numbers[at + 1]!
    const extension = this.#numbers[at + 4]!
    into.page = this.#numbers[at]!
    into.offset = place % OFFSETS
    into.flags = Math.floor(place / OFFSETS)
    into.size = this.#numbers[at + 2]!
    into.expiresAt = this.#numbers[at + 3]!
    into.extension = extension === 0 ? null : this.#extensions.get(extension)
  }

  free(slot: number): void {
    const extension = this.#numbers[slot * NUMBERS + 4]!
    if (extension !== 0) this.#extensions.release(extension)
    this.#free.push(slot)
  }
}

/** The first slot of a flight: slots of entries are not negative, and -1 has a meaning of its own. */
const FIRST_FLIGHT = -2

/** Keeps what Sessions have in flight from groups. */
export class FlightSlots {
  readonly #flights: (LogFlight | null)[] = []
  readonly #free: number[] = []

  /** Keeps the flight; returns its slot, from -2 downward. */
  put(flight: LogFlight): number {
    const index = this.#free.pop() ?? this.#flights.length
    this.#flights[index] = flight
    return FIRST_FLIGHT - index
  }

  get(slot: number): LogFlight {
    return this.#flights[FIRST_FLIGHT - slot]!
  }

  free(slot: number): void {
    this.#flights[FIRST_FLIGHT - slot] = null
    this.#free.push(FIRST_FLIGHT - slot)
  }
}
