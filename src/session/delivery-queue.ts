/**
 * HOT. A queue of deliveries with positions that only grow, so that a checkpoint can name ranges of it.
 *
 * A long queue is mostly parked: the store holds its middle in a few bytes an entry. New entries go to the
 * back, where the oldest are parked once they are on disk only, or memory is short. The front is unparked in
 * slices. A short queue is parked only as a whole, while its client is away and memory is short.
 *
 * Expired messages are counted, but stay until they are at the head, since positions have no gaps.
 */
import type { Delivery } from '../mqtt/message.ts'
import type { Parked, QueueReader, Store } from '../store/store.ts'
import { QueueExpiry } from './queue-expiry.ts'

/**
 * Drained slots at the front before they are given back: seldom enough to be cheap, often enough to stay
 * small.
 */
const COMPACT_SLOTS = 256
/** Entries that are unparked at a time. */
const UNPARK_SLICE = 256
/** Entries that are unparked when only the oldest is asked for. */
const PEEK_SLICE = 8
/** Entries that may be parked for each new one: more than one, so that parking catches up. */
const PARK_SLICE = 2
/** Entries that stay in memory even if it is short, since they may be sent soon. */
const KEPT = 64
/** Fewer in memory are not worth parking: the object they are parked in takes as much. */
const PARKED_MIN = 4

/** Memory of an entry: its slot, and its Delivery unless all who get the message share that. */
const SLOT_BYTES = 16
const DELIVERY_BYTES = 80

/** The part of the store that a queue needs. */
export type Parking = Pick<Store, 'park' | 'unpark' | 'peek' | 'countEntries' | 'isMemoryShort' | 'held'>

/** Parks nothing: for a queue that is not stored. */
export const NO_PARKING: Parking = {
  isMemoryShort: false,
  get held(): never {
    throw new Error('nothing is parked')
  },
  park: () => null,
  unpark: () => [],
  peek: () => {
    throw new Error('nothing is parked')
  },
  countEntries: () => {},
}

/** Parked entries, and the position of the oldest one that is left. */
interface Middle {
  readonly parked: Parked
  from: number
}

// Most queues are empty at any one time, and an empty array takes 32 bytes: shared, never added to.
const NO_ENTRIES: (Delivery | undefined)[] = []
const NO_MIDDLE: Middle[] = []

export class DeliveryQueue {
  readonly #parking: Parking
  /** The oldest entries. Slots before `#frontFirst` are drained. */
  #front = NO_ENTRIES
  #frontFirst = 0
  /** Parked entries, behind the front. Those before `#middleFirst` are drained. */
  #middle = NO_MIDDLE
  #middleFirst = 0
  /** The newest entries. Slots before `#backFirst` are parked. */
  #back = NO_ENTRIES
  #backFirst = 0
  #head: number
  #tail: number
  #bytes = 0
  /** Bytes of the messages that are parked. */
  #parkedBytes = 0
  /** Memory that the entries of front and back take besides their bodies. */
  #entryBytes = 0
  /** Null while nothing in the queue expires. */
  #expiry: QueueExpiry | null = null

  /** `position` is that of the first entry; `entries` are those of a recovered queue. */
  constructor(parking: Parking, position = 0, entries: readonly (Delivery | Parked)[] | null = null) {
    this.#parking = parking
    this.#head = position
    this.#tail = position
    if (entries !== null) this.#recover(entries)
  }

  #recover(entries: readonly (Delivery | Parked)[]): void {
    const parked = entries.findIndex((entry) => !('message' in entry))
    for (const [index, entry] of entries.entries()) {
      if ('message' in entry) {
        if (index < parked) this.#pushFront(entry)
        else this.push(entry)
      } else {
        this.#pushMiddle({ parked: entry, from: this.#tail })
        if (entry.expires) this.#ownExpiry().addParked(entry, this.#tail)
        this.#tail += entry.length
        this.#bytes += entry.bytes
        this.#parkedBytes += entry.bytes
      }
    }
  }

  /** Position of the oldest entry. */
  get head(): number {
    return this.#head
  }

  /** One past the newest entry. */
  get tail(): number {
    return this.#tail
  }

  get length(): number {
    return this.#tail - this.#head
  }

  /** Bytes of the messages that wait, by `message.size`. */
  get bytes(): number {
    return this.#bytes
  }

  /** Memory that entries take besides their bodies, unless they are parked. */
  get entryBytes(): number {
    return this.#entryBytes
  }

  /** Entries that are parked. */
  get parked(): number {
    return this.length - (this.#front.length - this.#frontFirst) - (this.#back.length - this.#backFirst)
  }

  /** Bytes of the messages that are parked. */
  get parkedBytes(): number {
    return this.#parkedBytes
  }

  /** Stops counting its entries; it is not used any more. */
  release(): void {
    this.#count(-this.#entryBytes)
  }

  #count(bytes: number): void {
    this.#entryBytes += bytes
    if (this.#parking !== NO_PARKING) this.#parking.countEntries(bytes)
  }

  #ownFront(): (Delivery | undefined)[] {
    if (this.#front === NO_ENTRIES) this.#front = []
    return this.#front
  }

  #pushMiddle(middle: Middle): void {
    if (this.#middle.length === 0) this.#middle = [middle]
    else this.#middle.push(middle)
  }

  /** Adds an entry to a queue to which nothing parked was added yet. */
  #pushFront(delivery: Delivery): void {
    const { expiresAt, size } = delivery.message
    if (expiresAt !== Number.POSITIVE_INFINITY) this.#ownExpiry().add(this.#tail, expiresAt, size)
    this.#ownFront().push(delivery)
    this.#count(entryBytes(delivery))
    this.#tail++
    this.#bytes += size
  }

  /** Entries that have expired, as far as `sweep` has counted them. */
  get expired(): number {
    return this.#expiry?.expired ?? 0
  }

  get expiredBytes(): number {
    return this.#expiry?.expiredBytes ?? 0
  }

  /** The broker time at which `sweep` finds something next, or an earlier one. */
  get nextExpiry(): number {
    return this.#expiry?.next ?? Number.POSITIVE_INFINITY
  }

  /** Counts expired entries; looks at `chunksMax` chunks of positions at most. */
  sweep(now: number, chunksMax = Number.POSITIVE_INFINITY): void {
    this.#expiry?.sweep(this, now, chunksMax)
  }

  #ownExpiry(): QueueExpiry {
    this.#expiry ??= new QueueExpiry(this.#tail)
    return this.#expiry
  }

  push(delivery: Delivery): void {
    // An array of one has room for one, where `push` into an empty one makes room for seventeen.
    if (this.#back.length === 0) this.#back = [delivery]
    else this.#back.push(delivery)
    const { expiresAt, size } = delivery.message
    if (expiresAt !== Number.POSITIVE_INFINITY) this.#ownExpiry().add(this.#tail, expiresAt, size)
    this.#count(entryBytes(delivery))
    this.#tail++
    this.#bytes += size
    this.#parkSome()
  }

  /** The oldest entry; undefined when empty. */
  peek(): Delivery | undefined {
    if (this.#frontFirst === this.#front.length && this.#tail > this.#head) this.#refill()
    return this.#front[this.#frontFirst]
  }

  /** Takes the oldest entry off; undefined when empty. */
  shift(): Delivery | undefined {
    const delivery = this.peek()
    if (delivery === undefined) return undefined
    const front = this.#front
    front[this.#frontFirst++] = undefined
    this.#count(-entryBytes(delivery))
    const { expiresAt, size } = delivery.message
    if (expiresAt !== Number.POSITIVE_INFINITY) this.#expiry!.remove(this.#head, expiresAt, size)
    this.#head++
    this.#bytes -= size
    if (this.#head === this.#tail) this.#expiry = null
    if (this.#frontFirst === front.length) {
      this.#front = NO_ENTRIES
      this.#frontFirst = 0
    } else if (this.#frontFirst >= COMPACT_SLOTS && this.#frontFirst * 2 >= front.length) {
      this.#front = front.slice(this.#frontFirst)
      this.#frontFirst = 0
    }
    return delivery
  }

  /** The oldest entries, where they are parked; else null. */
  get parkedHead(): Parked | null {
    if (this.#frontFirst < this.#front.length || this.#middleFirst === this.#middle.length) return null
    return this.#middle[this.#middleFirst]!.parked
  }

  /** Takes `parkedHead` off. Expiry is no longer counted: nothing is added to this queue any more. */
  shiftParked(): void {
    const { parked } = this.#middle[this.#middleFirst]!
    this.#head += parked.length
    this.#bytes -= parked.bytes
    this.#parkedBytes -= parked.bytes
    this.#nextMiddle()
  }

  /** Unparks entries until the oldest `count`, or all if there are fewer, are in memory. */
  unpark(count: number): void {
    this.peek()
    while (this.#front.length - this.#frontFirst < count && this.#middleFirst < this.#middle.length) {
      this.#unparkSlice(UNPARK_SLICE)
    }
  }

  /** The entry at a position from `head` up to, not including, `tail`; throws RangeError elsewhere. */
  at(position: number): Delivery {
    if (position >= this.#head && position < this.#tail) {
      const inFront = position - this.#head
      if (inFront < this.#front.length - this.#frontFirst) return this.#front[this.#frontFirst + inFront]!
      const behind = this.#tail - position
      const back = this.#back.length
      if (behind <= back - this.#backFirst) return this.#back[back - behind]!
      const { parked, from } = this.#middle[this.#middleOf(position)]!
      return this.#parking.peek(parked, position - from)
    }
    throw new RangeError(`no queue entry at ${position} (head ${this.#head}, tail ${this.#tail})`)
  }

  /** Passes the entries from a position up to, not including, another one to `reader`. */
  read(from: number, to: number, reader: QueueReader): void {
    if (from < this.#head || to > this.#tail) {
      throw new RangeError(`no queue entries ${from} to ${to} (head ${this.#head}, tail ${this.#tail})`)
    }
    const frontEnd = this.#head + this.#front.length - this.#frontFirst
    const backStart = this.#tail - (this.#back.length - this.#backFirst)
    let position = from
    for (; position < Math.min(to, frontEnd); position++) {
      reader.delivery(this.#front[this.#frontFirst + position - this.#head]!)
    }
    while (position < Math.min(to, backStart)) {
      const middle = this.#middle[this.#middleOf(position)]!
      const end = Math.min(to, middle.from + middle.parked.length)
      reader.parked(middle.parked, position - middle.from, end - middle.from)
      position = end
    }
    for (; position < to; position++) {
      reader.delivery(this.#back[this.#backFirst + position - backStart]!)
    }
  }

  *[Symbol.iterator](): IterableIterator<Delivery> {
    for (let position = this.#head; position < this.#tail; position++) yield this.at(position)
  }

  /** Everything in order, parked entries together. */
  *parts(): IterableIterator<Delivery | Parked> {
    for (let index = this.#frontFirst; index < this.#front.length; index++) yield this.#front[index]!
    for (let index = this.#middleFirst; index < this.#middle.length; index++)
      yield this.#middle[index]!.parked
    for (let index = this.#backFirst; index < this.#back.length; index++) yield this.#back[index]!
  }

  /**
   * Parks the oldest entries of the back if memory is short, or bodies at or behind them are evicted already.
   */
  #parkSome(): void {
    for (let count = 0; count < PARK_SLICE; count++) {
      const back = this.#back
      const oldest = back[this.#backFirst]
      if (oldest === undefined) return
      const isEvicted = oldest.message.evicted || back[(this.#backFirst + back.length) >>> 1]!.message.evicted
      if (!isEvicted && (back.length - this.#backFirst <= KEPT || !this.#parking.isMemoryShort)) return
      if (!this.#parkOldest()) return
    }
  }

  /** Parks the oldest entry of the back; false when there is none, or it cannot be parked. */
  #parkOldest(): boolean {
    const back = this.#back
    const oldest = back[this.#backFirst]
    if (oldest === undefined) return false
    const newest = this.#middle.length > this.#middleFirst ? this.#middle[this.#middle.length - 1]! : null
    const position = this.#tail - (back.length - this.#backFirst)
    const parked = this.#parking.park(oldest, newest === null ? null : newest.parked)
    if (parked === null) return false
    this.#leave(oldest)
    if (newest === null || parked !== newest.parked) this.#pushMiddle({ parked, from: position })
    back[this.#backFirst++] = undefined
    if (this.#backFirst === back.length) {
      this.#back = NO_ENTRIES
      this.#backFirst = 0
    } else if (this.#backFirst >= COMPACT_SLOTS && this.#backFirst * 2 >= back.length) {
      this.#back = back.slice(this.#backFirst)
      this.#backFirst = 0
    }
    return true
  }

  /** Parks about `most` entries, as far as they can be parked, since the client is away. Returns how many. */
  park(most: number): number {
    const resident = this.length - this.parked
    if (resident < PARKED_MIN) return 0
    let count = 0
    while (count < most && this.#parkOldest()) count++
    return count < most ? count + this.#parkFront() : count
  }

  /** Parks all of the front or nothing, since the middle comes behind it. */
  #parkFront(): number {
    const entries = this.#front.slice(this.#frontFirst) as Delivery[]
    if (entries.length === 0) return 0
    const chunks = parkedAll(this.#parking, entries)
    if (chunks === null) return 0
    let from = this.#head
    const middle: Middle[] = []
    for (const parked of chunks) {
      middle.push({ parked, from })
      from += parked.length
    }
    for (const delivery of entries) this.#leave(delivery)
    this.#middle = [...middle, ...this.#middle.slice(this.#middleFirst)]
    this.#middleFirst = 0
    this.#front = NO_ENTRIES
    this.#frontFirst = 0
    return entries.length
  }

  /** Counts an entry as parked. */
  #leave(delivery: Delivery): void {
    this.#count(-entryBytes(delivery))
    this.#parkedBytes += delivery.message.size
    this.#parking.held.letGo(delivery.message)
  }

  /** Refills the empty front with the entries that come next. */
  #refill(): void {
    if (this.#middleFirst < this.#middle.length) {
      this.#unparkSlice(PEEK_SLICE)
      return
    }
    this.#front = this.#back
    this.#frontFirst = this.#backFirst
    this.#back = NO_ENTRIES
    this.#backFirst = 0
  }

  #unparkSlice(most: number): void {
    const middle = this.#middle[this.#middleFirst]!
    const count = Math.min(most, middle.parked.length)
    const front = this.#ownFront()
    for (const delivery of this.#parking.unpark(middle.parked, count)) {
      front.push(delivery)
      this.#count(entryBytes(delivery))
      this.#parkedBytes -= delivery.message.size
      this.#parking.held.hold(delivery.message)
    }
    middle.from += count
    if (middle.parked.length === 0) this.#nextMiddle()
  }

  #nextMiddle(): void {
    this.#middleFirst++
    if (this.#middleFirst === this.#middle.length || this.#middleFirst >= COMPACT_SLOTS) {
      this.#middle = this.#middle.slice(this.#middleFirst)
      this.#middleFirst = 0
    }
  }

  /** Index of the parked entries to which a position belongs. */
  #middleOf(position: number): number {
    let low = this.#middleFirst
    let high = this.#middle.length - 1
    while (low < high) {
      const middle = (low + high + 1) >>> 1
      if (this.#middle[middle]!.from <= position) low = middle
      else high = middle - 1
    }
    return low
  }
}

/** Memory that an entry takes besides its message's body. */
export function entryBytes({ share, subscriptionIdentifiers }: Delivery): number {
  return share === null && subscriptionIdentifiers.length === 0 ? SLOT_BYTES : DELIVERY_BYTES
}

/** Parks all deliveries, or none: null when one of them cannot be parked. */
export function parkedAll(parking: Parking, deliveries: readonly Delivery[]): Parked[] | null {
  const chunks: Parked[] = []
  for (const delivery of deliveries) {
    const onto = chunks.at(-1) ?? null
    const parked = parking.park(delivery, onto)
    if (parked === null) {
      for (const each of chunks) parking.unpark(each, each.length)
      return null
    }
    if (parked !== onto) chunks.push(parked)
  }
  return chunks
}
