/**
 * PURE. Counts wrong passwords. Log-ins of one user name from one address are slowed down. An address alone,
 * or a user name alone, only loses trust, so that nobody can lock out a user, or all who share an address, by
 * guessing. Names that no user has are counted like all others.
 */
import type { Limits } from '../../broker/boundary/limits.ts'
import { beginningOf } from '../../mqtt/utf8.ts'

/** The limits of wrong passwords. */
export type FailureLimits = Pick<
  Limits,
  'failedLoginsMax' | 'failedLoginDelaySecondsMax' | 'failedLoginsBanned'
>

/** Failures are forgotten after this time, in ms. */
const MEMORY_MS = 15 * 60_000
/** An address is banned for the wrong passwords of this time, in ms. */
export const BAN_WINDOW_MS = 10 * 60_000
/** So many pairs, addresses and user names are remembered, of each kind. */
const REMEMBERED_MAX = 16_384
/**
 * To make room, so many entries that changed longest ago are examined, and the one with the fewest failures
 * is forgotten.
 */
const LOOKS_MAX = 16
/** An address with this many failures counts as one that guesses, a user name as one that is guessed at. */
const GUESSED_MIN = 50
/** The longest delay of a user who showed the right password from the same address before. */
const KNOWN_DELAY_MS = 5000
/** An address where this many users showed the right password is shared: a proxy, a NAT. */
const GOOD_USERS_MANY = 3
/** An address with at least one such user is banned only after this many times as many failures. */
const GOOD_USER_FACTOR = 10
/** Longer names are told apart only by this many first characters. */
const NAME_CHARACTERS_MAX = 128

interface Failures {
  count: number
  /** When it last changed. */
  at: number
}

interface Pair extends Failures {
  /** No password is checked until this time. */
  until: number
  /** Whether the right password was shown, too. */
  isKnown: boolean
}

interface Address extends Failures {
  /** When counting began. */
  since: number
  /** The users who showed the right password, at most `GOOD_USERS_MANY`. */
  readonly good: Set<string>
}

/** Counts wrong passwords by address, by user name, and by pairs of both. */
export class FailedLogins {
  readonly #limits: FailureLimits
  readonly #now: () => number
  readonly #max: number
  readonly #pairs = new Map<string, Pair>()
  readonly #addresses = new Map<string, Address>()
  readonly #users = new Map<string, Failures>()

  /** `limits` are read each time, since they may change. `now` is a monotonic clock in ms. */
  constructor(limits: FailureLimits, now: () => number, max = REMEMBERED_MAX) {
    this.#limits = limits
    this.#now = now
    this.#max = max
  }

  /** How many pairs of address and user name are remembered. */
  get size(): number {
    return this.#pairs.size
  }

  /** Returns the seconds until a password of this user from this address is checked again; 0 for at once. */
  secondsToWait(address: string, userName: string): number {
    const pair = this.#found(this.#pairs, keyOf(address, userName))
    return pair === undefined ? 0 : Math.max(0, Math.ceil((pair.until - this.#now()) / 1000))
  }

  /**
   * Whether others are served first: wrong passwords came from this address, and this user has not shown the
   * right one from it.
   */
  isSuspect(address: string, userName: string): boolean {
    const pair = this.#found(this.#pairs, keyOf(address, userName))
    if (pair?.isKnown === true) return false
    return (pair?.count ?? 0) > 0 || this.#isGuessing(address)
  }

  /** Counts a wrong password. */
  failed(address: string, userName: string): void {
    const now = this.#now()
    const key = keyOf(address, userName)
    const pair = this.#found(this.#pairs, key) ?? { count: 0, at: now, until: 0, isKnown: false }
    pair.count++
    this.#keep(this.#pairs, key, pair)
    this.#tried(address)
    const user = this.#found(this.#users, nameOf(userName)) ?? { count: 0, at: now }
    user.count++
    this.#keep(this.#users, nameOf(userName), user)
    const isGuessed = !pair.isKnown && (this.#isGuessing(address) || user.count >= GUESSED_MIN)
    const { failedLoginsMax } = this.#limits
    const free = isGuessed ? Math.min(1, failedLoginsMax) : failedLoginsMax
    if (pair.count < free || failedLoginsMax === Number.POSITIVE_INFINITY) return
    const longestMs = this.#limits.failedLoginDelaySecondsMax * 1000
    const delayMs = Math.min(1000 * 2 ** Math.min(30, pair.count - free), longestMs)
    pair.until = now + (pair.isKnown ? Math.min(delayMs, KNOWN_DELAY_MS) : delayMs)
  }

  /** Counts a password that was not checked because of a delay. Towards a ban it counts as a wrong one. */
  delayed(address: string): void {
    this.#tried(address)
  }

  /** Counts a right password. */
  succeeded(address: string, userName: string): void {
    const now = this.#now()
    const key = keyOf(address, userName)
    this.#keep(this.#pairs, key, { count: 0, at: now, until: 0, isKnown: true })
    const found = this.#found(this.#addresses, address) ?? { count: 0, at: now, since: now, good: new Set() }
    const name = nameOf(userName)
    if (found.good.size < GOOD_USERS_MANY && !found.good.has(name)) {
      found.good.add(name)
      // Once for each user, so that one right password does not excuse a stream of wrong ones.
      found.count = Math.floor(found.count / 2)
    }
    this.#keep(this.#addresses, address, found)
  }

  /**
   * Returns the number of wrong passwords if the address is to be banned for them, and starts counting anew;
   * otherwise 0.
   */
  countForBan(address: string): number {
    const found = this.#found(this.#addresses, address)
    if (found === undefined || found.good.size >= GOOD_USERS_MANY) return 0
    const factor = found.good.size > 0 ? GOOD_USER_FACTOR : 1
    const { count } = found
    if (count < this.#limits.failedLoginsBanned * factor) return 0
    this.#addresses.delete(address)
    return count
  }

  #tried(address: string): void {
    const now = this.#now()
    const found = this.#found(this.#addresses, address) ?? { count: 0, at: now, since: now, good: new Set() }
    if (now - found.since > BAN_WINDOW_MS) {
      found.since = now
      found.count = 0
    }
    found.count++
    this.#keep(this.#addresses, address, found)
  }

  #isGuessing(address: string): boolean {
    const found = this.#found(this.#addresses, address)
    return found !== undefined && found.count >= GUESSED_MIN && found.good.size < GOOD_USERS_MANY
  }

  #found<F extends Failures>(among: Map<string, F>, key: string): F | undefined {
    const found = among.get(key)
    return found === undefined || this.#now() - found.at > MEMORY_MS ? undefined : found
  }

  #keep<F extends Failures>(among: Map<string, F>, key: string, failures: F): void {
    failures.at = this.#now()
    among.delete(key)
    among.set(key, failures)
    if (among.size > this.#max) this.#forgetOne(among)
  }

  #forgetOne<F extends Failures>(among: Map<string, F>): void {
    let least: string | undefined
    let count = Number.POSITIVE_INFINITY
    let looks = 0
    for (const [key, failures] of among) {
      const weight = this.#now() - failures.at > MEMORY_MS ? -1 : failures.count
      if (weight < count) [least, count] = [key, weight]
      if (++looks === LOOKS_MAX) break
    }
    if (least !== undefined) among.delete(least)
  }
}

function nameOf(userName: string): string {
  return beginningOf(userName, NAME_CHARACTERS_MAX)
}

function keyOf(address: string, userName: string): string {
  return `${address} ${nameOf(userName)}`
}
