/** PURE. Who is not let in, and until when: addresses and networks, Client Identifiers, users. */
import { AddressRanges, isThisMachine, parseAddressRange } from './address-range.ts'

/** What a ban may be about. */
export const BAN_KINDS = ['address', 'client', 'user'] as const

export type BanKind = (typeof BAN_KINDS)[number]

export interface Ban {
  readonly kind: BanKind
  /** An address or network as `parseAddressRange` writes it, a Client Identifier, or a user name. */
  readonly subject: string
  /** In broker time, ms, and in the file by the wall clock; null for ever. */
  readonly until: number | null
  /** Since when, as `until`. */
  readonly since: number
  /** For the operator; clients are not told. */
  readonly reason: string
  /** Who imposed it: `broker` by itself, or an operator. */
  readonly by: string
  /** The broker imposed it by itself. */
  readonly isAutomatic: boolean
}

/** Of automatic bans so many are kept; the one that ends first gives way. */
const AUTOMATIC_MAX = 10_000

/** Of a ban, in characters. */
export const BAN_REASON_CHARACTERS_MAX = 256

/** The longest Client Identifier or user name, in bytes. */
const SUBJECT_BYTES_MAX = 65_535

/** The subject of a ban as it is kept; null where it is none of that kind. */
export function banSubject(kind: BanKind, subject: string): string | null {
  if (kind === 'address') return parseAddressRange(subject)?.text ?? null
  return subject !== '' && Buffer.byteLength(subject) <= SUBJECT_BYTES_MAX ? subject : null
}

export class Bans {
  readonly #now: () => number
  readonly #all = new Map<string, Ban>()
  readonly #addresses = new AddressRanges<Ban>()
  #automatic = 0

  /** `now` is broker time in ms. */
  constructor(now: () => number) {
    this.#now = now
  }

  /** True where no address is banned: nothing need be looked for. */
  get sparesAddresses(): boolean {
    return this.#addresses.isEmpty
  }

  /** Those that hold, the newest last. */
  list(): Ban[] {
    for (const ban of this.#all.values()) this.#held(ban)
    return [...this.#all.values()]
  }

  /**
   * Adds a ban, in place of an earlier one of the same. False, and nothing is changed, where an automatic one would shorten or replace
   * an operator's, or would be of this machine.
   */
  add(ban: Ban): boolean {
    const before = this.#of(ban.kind, ban.subject)
    if (ban.isAutomatic) {
      if (before !== undefined && !before.isAutomatic) return false
      if (ban.kind === 'address' && isThisMachine(ban.subject.replace(/^::\/64$/, '::1'))) return false
      if (before === undefined && this.#automatic >= AUTOMATIC_MAX) this.#dropOne()
    }
    if (before !== undefined) this.remove(ban.kind, ban.subject)
    this.#all.set(keyOf(ban.kind, ban.subject), ban)
    if (ban.isAutomatic) this.#automatic++
    if (ban.kind === 'address') this.#addresses.set(parseAddressRange(ban.subject)!, ban)
    return true
  }

  /** Lifts a ban; the one that was, or null. */
  remove(kind: BanKind, subject: string): Ban | null {
    const key = keyOf(kind, subject)
    const ban = this.#all.get(key)
    if (ban === undefined) return null
    this.#all.delete(key)
    if (ban.isAutomatic) this.#automatic--
    if (kind === 'address') this.#addresses.delete(parseAddressRange(subject)!)
    return ban
  }

  /** Of an address, by the narrowest network that is banned. */
  ofAddress(address: string): Ban | null {
    for (;;) {
      const ban = this.#addresses.of(address)
      if (ban === undefined) return null
      if (this.#held(ban)) return ban
    }
  }

  ofClient(clientId: string): Ban | null {
    return this.#of('client', clientId) ?? null
  }

  ofUser(userName: string): Ban | null {
    return this.#of('user', userName) ?? null
  }

  #of(kind: BanKind, subject: string): Ban | undefined {
    if (this.#all.size === 0) return undefined
    const ban = this.#all.get(keyOf(kind, subject))
    return ban !== undefined && this.#held(ban) ? ban : undefined
  }

  /** Forgets a ban that has ended. */
  #held(ban: Ban): boolean {
    if (ban.until === null || ban.until > this.#now()) return true
    this.remove(ban.kind, ban.subject)
    return false
  }

  #dropOne(): void {
    let first: Ban | null = null
    for (const ban of this.#all.values()) {
      if (ban.isAutomatic && (first === null || (ban.until ?? 0) < (first.until ?? 0))) first = ban
    }
    if (first !== null) this.remove(first.kind, first.subject)
  }
}

function keyOf(kind: BanKind, subject: string): string {
  return `${kind} ${subject}`
}
