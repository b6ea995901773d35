/** Notices clients that connect again and again. */

/** Connects of one Client Identifier in a minute that are no ordinary bad network. */
export const FLAPPING_MIN = 60

const WINDOW_MS = 60_000

/** Client Identifiers that are watched; the one that connected longest ago is forgotten. */
const CLIENTS_MAX = 4096

export class Flapping {
  readonly #now: () => number
  readonly #clients = new Map<string, { since: number; count: number }>()

  /** `now` is a monotonic clock in ms. */
  constructor(now: () => number) {
    this.#now = now
  }

  /** Counts a connect; how many there were of this client within a minute. */
  connected(clientId: string): number {
    const now = this.#now()
    const before = this.#clients.get(clientId)
    const isRecent = before !== undefined && now - before.since < WINDOW_MS
    const client = isRecent ? before : { since: now, count: 0 }
    client.count++
    this.#clients.delete(clientId)
    this.#clients.set(clientId, client)
    const [oldest] = this.#clients.size > CLIENTS_MAX ? this.#clients.keys() : []
    if (oldest !== undefined) this.#clients.delete(oldest)
    return client.count
  }

  forget(clientId: string): void {
    this.#clients.delete(clientId)
  }
}
