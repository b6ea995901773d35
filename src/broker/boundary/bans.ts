/** PURE. Bans of addresses and networks, Client Identifiers and users. */
import { AddressRanges, isThisMachine, parseAddressRange } from './address-range.ts'

/** The kinds of subjects that may be banned. */
export const BAN_KINDS = ['address', 'client', 'user'] as const

export type BanKind = (typeof BAN_KINDS)[number]

export interface Ban {
  readonly kind: BanKind
  /** An address or network as `parseAddressRange` writes it, a Client Identifier, or a user name. */
  readonly subject: string
  /** The end in ms of broker time, in the file by the wall clock; null for never. */
  readonly until: number | null
  /** The start, as `until`. */
  readonly since: number
  /** For the operator; clients do not get it. */
  readonly reason: string
  /** The operator who imposed it, or `broker`. */
  readonly by: string
  /** Whether the broker imposed it automatically. */
  readonly isAutomatic: boolean
}

/** Automatic bans that are kept; one more replaces the one that ends first. */
const AUTOMATIC_MAX = 10_000

/** The longest reason of a ban. */
export const BAN_REASON_CHARACTERS_MAX = 256

/** The longest Client Identifier or user name, in bytes. */
const SUBJECT_BYTES_MAX = 65_535

/** Returns the subject in the form in which bans keep it; null if it is no subject of this kind. */
export function banSubject(kind: BanKind, subject: string): string | null {
  if (kind === 'address') return parseAddressRange(subject)?.text ?? null
  return subject !== '' && Buffer.byteLength(subject) <= SUBJECT_BYTES_MAX ? subject : null
}

/** The bans in force. Those that have ended are removed when they are found. */
export class Bans {
  readonly #now: () => number
  readonly #all = new Map<string, Ban>()
  readonly #addresses = new AddressRanges<Ban>()
  #automatic = 0

  /** `now` is broker time in ms. */
  constructor(now: () => number) {
    this.#now = now
  }

  /** Whether no address is banned, so that no look-up is needed. */
  get sparesAddresses(): boolean {
    return this.#addresses.isEmpty
  }

  /** Lists the bans in force, the newest last. */
  list(): Ban[] {
    for (const ban of this.#all.values()) this.#isInForce(ban)
    return [...this.#all.values()]
  }

  /**
   * Adds a ban in place of an earlier one of the same subject. Returns false and changes nothing if an
   * automatic ban would replace an operator's, or would ban this machine.
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

  /** Removes a ban. Returns it, or null if there was none. */
  remove(kind: BanKind, subject: string): Ban | null {
    const key = keyOf(kind, subject)
    const ban = this.#all.get(key)
    if (ban === undefined) return null
    this.#all.delete(key)
    if (ban.isAutomatic) this.#automatic--
    if (kind === 'address') this.#addresses.delete(parseAddressRange(subject)!)
    return ban
  }

  /** Finds the ban of the narrowest banned network with this address. */
  ofAddress(address: string): Ban | null {
    for (;;) {
      const ban = this.#addresses.of(address)
      if (ban === undefined) return null
      if (this.#isInForce(ban)) return ban
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
    return ban !== undefined && this.#isInForce(ban) ? ban : undefined
  }

  /** Tells whether a ban is in force, and removes it if not. */
  #isInForce(ban: Ban): boolean {
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
