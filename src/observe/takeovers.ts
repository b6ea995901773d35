/** Notices Client Identifiers that several connections take from each other, again and again. */
import type { LinkInfo } from '../broker/boundary/link.ts'
import { beginningOf } from '../mqtt/utf8.ts'

/** So many takeovers of one Client Identifier in `WINDOW_MS` are no client that comes back after its network failed. */
const TAKEOVERS_MIN = 4
const WINDOW_MS = 60_000

/** Client Identifiers that are watched; those of longest ago are forgotten. */
const CLIENTS_MAX = 1000
/** Longer Client Identifiers are told apart by their beginnings only. */
const NAME_CHARACTERS_MAX = 256
/** Addresses that are named. */
const ADDRESSES_MAX = 4

interface Takeover {
  readonly at: number
  readonly addresses: readonly [string, string]
}

export class Takeovers {
  readonly #now: () => number
  readonly #clients = new Map<string, Takeover[]>()

  /** `now` in ms. */
  constructor(now: () => number) {
    this.#now = now
  }

  /** Counts a takeover. Where it is one of many, the addresses that take part, in the order in which they came; else null. */
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

/** Where a connection comes from, as a log line names it. */
export function placeOf(link: LinkInfo): string {
  return link.remotePort === 0 ? addressOf(link) : `${addressOf(link)} port ${link.remotePort}`
}

function addressOf({ remoteAddress, listener }: LinkInfo): string {
  return remoteAddress === '' ? `listener ${listener}` : remoteAddress
}
