/** Detects Client Identifiers that several connections keep taking from each other. */
import type { LinkInfo } from '../broker/boundary/link.ts'
import { beginningOf } from '../mqtt/utf8.ts'

/** Takeovers in `WINDOW_MS` that a single client with a failing network does not cause. */
const TAKEOVERS_MIN = 4
const WINDOW_MS = 60_000

/** Most Client Identifiers that are watched. One more, and the oldest is forgotten. */
const CLIENTS_MAX = 1000
/** Only the first characters of a Client Identifier are compared. */
const NAME_CHARACTERS_MAX = 256
/** Most addresses that the warning names. */
const ADDRESSES_MAX = 4

interface Takeover {
  readonly at: number
  readonly addresses: readonly [string, string]
}

/** Counts recent takeovers by Client Identifier. */
export class TakeoverDetector {
  readonly #now: () => number
  readonly #clients = new Map<string, Takeover[]>()

  /** `now` is a monotonic clock in ms. */
  constructor(now: () => number) {
    this.#now = now
  }

  /**
   * Counts a takeover. Returns the addresses involved, in order, if there were many recently; otherwise
   * null.
   */
  add(wholeClientId: string, from: LinkInfo, to: LinkInfo): string | null {
    const clientId = beginningOf(wholeClientId, NAME_CHARACTERS_MAX)
    const at = this.#now()
    const before = this.#clients.get(clientId) ?? []
    const recent = before.filter((takeover) => takeover.at > at - WINDOW_MS).slice(1 - TAKEOVERS_MIN)
    recent.push({ at, addresses: [addressOf(from), addressOf(to)] })
    this.#clients.delete(clientId)
    const [oldest] = this.#clients.size >= CLIENTS_MAX ? this.#clients.keys() : []
    if (oldest !== undefined) this.#clients.delete(oldest)
    this.#clients.set(clientId, recent)
    if (recent.length < TAKEOVERS_MIN) return null
    const addresses = [...new Set(recent.flatMap((takeover) => takeover.addresses))]
    const more = addresses.length > ADDRESSES_MAX ? ' and others' : ''
    return `${addresses.slice(0, ADDRESSES_MAX).join(', ')}${more}`
  }
}

/** Names the peer of a connection for a log line. */
export function peerName(link: LinkInfo): string {
  return link.remotePort === 0 ? addressOf(link) : `${addressOf(link)} port ${link.remotePort}`
}

function addressOf({ remoteAddress, listener }: LinkInfo): string {
  return remoteAddress === '' ? `listener ${listener}` : remoteAddress
}
