/** Notices clients that connect again and again. Whoever connects now and then costs no memory. */

/** Connects of one Client Identifier in a minute that are no ordinary bad network. */
export const FLAPPING_MIN = 60

const WINDOW_MS = 60_000

/** Counts of Client Identifiers by a hash of theirs, a byte each. */
const SLOTS = 65_536

/** From so many connects of a slot on, its Client Identifiers are counted one by one. */
const ORDINARY_MAX = 3

/** Client Identifiers that are counted one by one; the one that connected longest ago is forgotten. */
const CLIENTS_MAX = 4096

/** Of a Client Identifier, its end tells it from others: so many characters are hashed. */
const HASHED_MAX = 64

export class Flapping {
  readonly #now: () => number
  readonly #slots = new Uint8Array(SLOTS)
  readonly #counts = new Map<string, number>()
  #since: number

  /** `now` is a monotonic clock in ms. */
  constructor(now: () => number) {
    this.#now = now
    this.#since = now()
  }

  /** Counts a connect; how many there were of this client within the minute, or a few more where others share its hash. */
  connected(clientId: string): number {
    const now = this.#now()
    if (now - this.#since >= WINDOW_MS) {
      this.#since = now
      this.#slots.fill(0)
      this.#counts.clear()
    }
    const slot = slotOf(clientId)
    const ordinary = this.#slots[slot]! + 1
    if (ordinary <= ORDINARY_MAX) {
      this.#slots[slot] = ordinary
      return ordinary
    }
    const count = (this.#counts.get(clientId) ?? ORDINARY_MAX) + 1
    this.#counts.delete(clientId)
    this.#counts.set(clientId, count)
    const [oldest] = this.#counts.size > CLIENTS_MAX ? this.#counts.keys() : []
    if (oldest !== undefined) this.#counts.delete(oldest)
    return count
  }

  forget(clientId: string): void {
    this.#counts.delete(clientId)
  }
}

function slotOf(clientId: string): number {
  let hash = 0x811c9dc5
  for (let at = Math.max(0, clientId.length - HASHED_MAX); at < clientId.length; at++) {
    hash = Math.imul(hash ^ clientId.charCodeAt(at), 0x01000193)
  }
  return (hash ^ (hash >>> 16)) & (SLOTS - 1)
}
