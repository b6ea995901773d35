/**
 * PURE. The queue for slow hashes. Addresses take turns, and so do the user names of an address. So a log-in
 * that comes alone waits for at most one entry of each other address, however many entries these have.
 */
import { Shares } from './shares.ts'

/** The client that an entry is for. */
export interface Place {
  /** The address, or the network of an IPv6 address. */
  readonly address: string
  readonly userName: string
  /** The memory it takes while it waits. */
  readonly bytes: number
  /**
   * Whether wrong passwords came from there. Others are served first, except once in `SUSPECT_SHARE` times,
   * and a suspect gives way to them when the queue is full.
   */
  readonly isSuspect: boolean
}

/** The limits of the queue: log-ins and bytes in all, and log-ins of one address and of one user. */
export interface QueueLimits {
  readonly loginQueueMax: number
  readonly loginQueueBytesMax: number
  readonly loginQueuePerAddressMax: number
  readonly loginQueuePerUserMax: number
}

/** The limit that refused an entry. */
export type FullBy = keyof QueueLimits

/** An entry of the queue. */
export interface Entry<T> {
  readonly place: Place
  readonly item: T
  /** False once it was served or refused, or has left. */
  waits: boolean
}

/** While both wait, one in this many that are served is a suspect. */
const SUSPECT_SHARE = 4

/** Queues entries and serves addresses in turn. */
export class FairQueue<T> {
  readonly #limits: QueueLimits
  readonly #trusted = new Lane<T>()
  readonly #suspects = new Lane<T>()
  #bytes = 0
  #trustedInARow = 0

  /** `limits` are read with each entry, since they may change. */
  constructor(limits: QueueLimits) {
    this.#limits = limits
  }

  get length(): number {
    return this.#trusted.length + this.#suspects.length
  }

  get bytes(): number {
    return this.#bytes
  }

  /**
   * Adds an entry. While a limit is exceeded, the newest entry of the address or user with the most entries
   * gives way, suspects first. It may be the new entry itself. `refused` gets its item and the limit.
   */
  push(place: Place, item: T, refused: (item: T, by: FullBy) => void): Entry<T> {
    const entry: Entry<T> = { place, item, waits: true }
    this.#bytes += place.bytes
    this.#laneOf(place).push(entry)
    for (let by = this.#fullBy(place); by !== null && entry.waits; by = this.#fullBy(place)) {
      const other = this.#givesWay(by, place)
      this.#take(other)
      refused(other.item, by)
    }
    return entry
  }

  /** Removes and returns the next item. */
  shift(): T | undefined {
    const isSuspectsTurn = this.#trustedInARow >= SUSPECT_SHARE - 1
    const [first, second] = isSuspectsTurn ? [this.#suspects, this.#trusted] : [this.#trusted, this.#suspects]
    const entry = first.byAddress.next() ?? second.byAddress.next()
    if (entry === undefined) return undefined
    this.#trustedInARow = entry.place.isSuspect || this.#suspects.length === 0 ? 0 : this.#trustedInARow + 1
    this.#take(entry)
    return entry.item
  }

  /** Removes an entry that gave up. Returns false if it no longer waits. */
  leave(entry: Entry<T>): boolean {
    if (!entry.waits) return false
    this.#take(entry)
    return true
  }

  #laneOf({ isSuspect }: Place): Lane<T> {
    return isSuspect ? this.#suspects : this.#trusted
  }

  #take(entry: Entry<T>): void {
    entry.waits = false
    this.#bytes -= entry.place.bytes
    this.#laneOf(entry.place).left(entry.place)
  }

  #fullBy({ address, userName }: Place): FullBy | null {
    const { loginQueueMax, loginQueueBytesMax, loginQueuePerAddressMax, loginQueuePerUserMax } = this.#limits
    const [trusted, suspects] = [this.#trusted, this.#suspects]
    const ofAddress = trusted.byAddress.lengthOf(address) + suspects.byAddress.lengthOf(address)
    if (ofAddress > loginQueuePerAddressMax) return 'loginQueuePerAddressMax'
    const ofUser = trusted.byUser.lengthOf(userName) + suspects.byUser.lengthOf(userName)
    if (ofUser > loginQueuePerUserMax) return 'loginQueuePerUserMax'
    if (this.length > loginQueueMax) return 'loginQueueMax'
    return this.#bytes > loginQueueBytesMax ? 'loginQueueBytesMax' : null
  }

  #givesWay(by: FullBy, { address, userName }: Place): Entry<T> {
    for (const lane of [this.#suspects, this.#trusted]) {
      const found = newestOf(lane, by, address, userName)
      if (found !== undefined) return found
    }
    throw new Error('an empty queue is full')
  }
}

function newestOf<T>(
  { byAddress, byUser }: Lane<T>,
  by: FullBy,
  address: string,
  userName: string,
): Entry<T> | undefined {
  if (by === 'loginQueuePerAddressMax') return byAddress.newestOf(address, userName)
  if (by === 'loginQueuePerUserMax') return byUser.newestOf(userName, address)
  return byUser.largestLength > byAddress.largestLength
    ? byUser.newestOfLargest(userName, address)
    : byAddress.newestOfLargest(address, userName)
}

/** The entries of suspects, or all others. */
class Lane<T> {
  readonly byAddress = new Shares<Entry<T>>()
  readonly byUser = new Shares<Entry<T>>()
  length = 0

  push(entry: Entry<T>): void {
    const { address, userName } = entry.place
    this.byAddress.push(address, userName, entry)
    this.byUser.push(userName, address, entry)
    this.length++
  }

  left({ address, userName }: Place): void {
    this.byAddress.left(address, userName)
    this.byUser.left(userName, address)
    this.length--
  }
}
