/** Detects clients that reconnect again and again. Ordinary clients take no memory. */

/** More connects of one Client Identifier in a minute than a bad network explains. */
export const FLAPPING_MIN = 60

const WINDOW_MS = 60_000

/** One-byte counters, which Client Identifiers share by hash. */
const SLOTS = 65_536

/** Connects of a slot after which its Client Identifiers are counted individually. */
const ORDINARY_MAX = 3

/** Client Identifiers that are counted individually; one more replaces the one that connected longest ago. */
const CLIENTS_MAX = 4096

/** Only the last characters are hashed, because Client Identifiers mostly differ at the end. */
const HASHED_MAX = 64

/** Counts connects by Client Identifier in windows of a minute. */
export class FlappingDetector {
  readonly #now: () => number
  readonly #slots = new Uint8Array(SLOTS)
  readonly #counts = new Map<string, number>()
  #since: number

  /** `now` is a monotonic clock in ms. */
  constructor(now: () => number) {
    this.#now = now
    this.#since = now()
  }

  /**
   * Counts a connect and returns the connects of this client in the minute, or a few more if hashes
   * collide.
   */
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
