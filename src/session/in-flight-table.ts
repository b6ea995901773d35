/**
 * HOT. Messages in flight to one client, found by packet identifier and listed in the order in which they
 * were sent. The lowest bits of the identifier choose the slot. Identifiers are consecutive, so nearly every
 * slot has at most one entry. A Map took 6 % of the time of a fan-out at QoS 1.
 */
import type { Delivery } from '../mqtt/message.ts'
import type { InFlight } from '../store/store.ts'

const SLOTS_MIN = 8
/**
 * An empty table keeps up to this many slots: growing again with each burst of 200 messages took 75 bytes a
 * message.
 */
const SLOTS_KEPT = 256

/** A PUBLISH that is not yet acknowledged; `delivery` is null from PUBREC on. */
export class InFlightEntry implements InFlight {
  readonly packetId: number
  delivery: Delivery | null
  /** Whether its PUBLISH was sent on this Network Connection, and so counts against the quota. */
  charged: boolean
  /** Set by the table: its neighbours in order, and the next entry in the same slot. */
  older: InFlightEntry | null = null
  newer: InFlightEntry | null = null
  sibling: InFlightEntry | null = null

  constructor(packetId: number, delivery: Delivery | null, charged: boolean) {
    this.packetId = packetId
    this.delivery = delivery
    this.charged = charged
  }
}

export class InFlightTable {
  #slots: (InFlightEntry | null)[] = []
  #oldest: InFlightEntry | null = null
  #newest: InFlightEntry | null = null
  #size = 0

  get size(): number {
    return this.#size
  }

  get oldest(): InFlightEntry | null {
    return this.#oldest
  }

  get(packetId: number): InFlightEntry | null {
    if (this.#size === 0) return null
    let found: InFlightEntry | null = this.#slots[packetId & (this.#slots.length - 1)]!
    while (found !== null && found.packetId !== packetId) found = found.sibling
    return found
  }

  /** Adds an entry behind all others; its identifier is not in use. */
  add(entry: InFlightEntry): void {
    if (this.#size === this.#slots.length) this.#resize(Math.max(SLOTS_MIN, this.#size * 2))
    const slot = entry.packetId & (this.#slots.length - 1)
    entry.sibling = this.#slots[slot]!
    this.#slots[slot] = entry
    entry.older = this.#newest
    if (this.#newest === null) this.#oldest = entry
    else this.#newest.newer = entry
    this.#newest = entry
    this.#size++
  }

  /**
   * Takes out an entry that is in the table, and clears its links, so that garbage does not keep young
   * entries.
   */
  delete(entry: InFlightEntry): void {
    this.#leaveSlot(entry)
    const { older, newer } = entry
    if (older === null) this.#oldest = newer
    else older.newer = newer
    if (newer === null) this.#newest = older
    else newer.older = older
    entry.older = null
    entry.newer = null
    this.#size--
    if (this.#size === 0 && this.#slots.length > SLOTS_KEPT) this.#slots = []
  }

  /** All entries in the order in which they were added. The table must not change meanwhile. */
  *[Symbol.iterator](): IterableIterator<InFlightEntry> {
    for (let entry = this.#oldest; entry !== null; entry = entry.newer) yield entry
  }

  #leaveSlot(entry: InFlightEntry): void {
    const slot = entry.packetId & (this.#slots.length - 1)
    let at: InFlightEntry | null = this.#slots[slot]!
    if (at === entry) this.#slots[slot] = entry.sibling
    else {
      while (at!.sibling !== entry) at = at!.sibling
      at!.sibling = entry.sibling
    }
    entry.sibling = null
  }

  #resize(slots: number): void {
    this.#slots = new Array<InFlightEntry | null>(slots).fill(null)
    for (let entry = this.#oldest; entry !== null; entry = entry.newer) {
      const slot = entry.packetId & (slots - 1)
      entry.sibling = this.#slots[slot]!
      this.#slots[slot] = entry
    }
  }
}
