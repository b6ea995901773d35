/**
 * How much clients do in a second, for each client, user and address: token buckets, with time from outside. Whoever is ahead of
 * its rate waits; who would have to wait too long is refused.
 */
import type { Limits } from '../boundary/limits.ts'
import { networkOf } from '../boundary/network.ts'

/** What a rate counts: messages, bytes each way, topic filters, and connections. */
export type RateKind = 'publish' | 'receive' | 'send' | 'subscribe' | 'connect'

type Scope = 'Client' | 'User' | 'Address'

/** The limit of a kind and a scope. */
export type RateLimit = `${RateKind}RatePer${Scope}Max`

const KINDS = ['publish', 'receive', 'send', 'subscribe', 'connect'] as const
const SCOPES = ['Client', 'User', 'Address'] as const
/** Those that are charged by clients. */
const LIMITS: readonly RateLimit[] = KINDS.flatMap((kind) =>
  SCOPES.map((scope): RateLimit => `${kind}RatePer${scope}Max`),
).filter((limit) => limit !== 'connectRatePerAddressMax')

/** So much of a rate may be used at once, in ms: devices that wake up have something to say. */
const BURST_MS = 5000

/** Who would have to wait longer than this, in ms, is refused. */
const WAIT_MS_MAX = 5000

/** Bytes that have arrived are not refused one by one: who is so far ahead, in ms, loses the connection. */
const BYTES_WAIT_MS_MAX = 60_000

/** Buckets that are kept at most while nobody is connected who uses them. */
const UNUSED_MAX = 65_536
/** Of these, how many are looked at in one `sweep`. */
const SWEPT = 4096

/** What `charge` answers where a rate refuses: nothing was taken then. */
export const REFUSED = -1

/** What was taken, as the time for which it lasts. */
export class Bucket {
  /** How many connections use it. */
  users = 0
  /** Until when, in broker time, what was taken lasts at the rate. */
  #paidUntil = Number.NEGATIVE_INFINITY

  /** How long whoever takes so many has to wait then, in ms. */
  wait(count: number, perSecond: number, now: number): number {
    const until = Math.max(this.#paidUntil, now) + (count * 1000) / perSecond
    return Math.max(0, until - now - BURST_MS)
  }

  take(count: number, perSecond: number, now: number): void {
    this.#paidUntil = Math.max(this.#paidUntil, now) + (count * 1000) / perSecond
  }

  isFull(now: number): boolean {
    return this.#paidUntil <= now
  }
}

interface Charge {
  readonly bucket: Bucket
  readonly limit: RateLimit
  readonly perSecond: number
}

/** What the rates need of the Server. */
interface Clock {
  readonly limits: Readonly<Limits>
  /** Broker time in ms. */
  now(): number
}

/** The rates that hold for one client: those that were set when it connected. */
export class ClientRates {
  /** The limit that made the latest answer what it is. */
  limit: RateLimit = 'publishRatePerClientMax'
  readonly #clock: Clock
  readonly #charges: Readonly<Record<RateKind, readonly Charge[]>>

  constructor(clock: Clock, charges: Readonly<Record<RateKind, readonly Charge[]>>) {
    this.#clock = clock
    this.#charges = charges
    for (const { bucket } of this.#all()) bucket.users++
  }

  *#all(): Iterable<Charge> {
    for (const charges of Object.values(this.#charges)) yield* charges
  }

  /** Takes so many of a kind. Returns how long to wait before more of that, in ms; or REFUSED, with nothing taken. */
  charge(kind: RateKind, count: number): number {
    const charges = this.#charges[kind]
    if (charges.length === 0) return 0
    const now = this.#clock.now()
    let longest = 0
    for (const { bucket, limit, perSecond } of charges) {
      const wait = bucket.wait(count, perSecond, now)
      if (wait <= longest) continue
      longest = wait
      this.limit = limit
    }
    const most = kind === 'receive' ? BYTES_WAIT_MS_MAX : WAIT_MS_MAX
    // What is sent was decided long before: it is never refused.
    if (longest > most && kind !== 'send') return REFUSED
    for (const { bucket, perSecond } of charges) bucket.take(count, perSecond, now)
    return longest
  }

  /** The connection is closed. */
  leave(): void {
    for (const { bucket } of this.#all()) bucket.users--
  }
}

/** Buckets by what they are for. */
export class Rates {
  readonly #clock: Clock
  readonly #buckets = new Map<string, Bucket>()
  #unused: Iterator<[string, Bucket]> | null = null
  /** Looked at once a second: each look at each limit for each CONNECT made 300 bytes of garbage. */
  #isAnySet: boolean | null = null

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** Buckets that are kept. */
  get size(): number {
    return this.#buckets.size
  }

  /** The rates of a client that connects; null where none is set, or was when `sweep` was called last. */
  of(clientId: string, userName: string | null, remoteAddress: string): ClientRates | null {
    this.#isAnySet ??= this.#looksSet()
    if (!this.#isAnySet) return null
    const network = networkOf(remoteAddress)
    // Clients without a name are users of their own by address.
    const user = userName === null ? ` ${network}` : `=${userName}`
    const names: Record<Scope, string> = { Client: clientId, User: user, Address: network }
    const charges: Record<RateKind, Charge[]> = {
      publish: this.#charges('publish', names),
      receive: this.#charges('receive', names),
      send: this.#charges('send', names),
      subscribe: this.#charges('subscribe', names),
      // The address has paid when the connection was accepted.
      connect: this.#charges('connect', names).filter(({ limit }) => limit !== 'connectRatePerAddressMax'),
    }
    return new ClientRates(this.#clock, charges)
  }

  #looksSet(): boolean {
    const { limits } = this.#clock
    for (let at = 0; at < LIMITS.length; at++) {
      if (limits[LIMITS[at]!] !== Number.POSITIVE_INFINITY) return true
    }
    return false
  }

  /** A connection is accepted from an address. Returns how long it has to wait, in ms; or REFUSED. */
  accepted(remoteAddress: string): number {
    const perSecond = this.#clock.limits.connectRatePerAddressMax
    if (perSecond === Number.POSITIVE_INFINITY) return 0
    const bucket = this.#bucket('connect', 'Address', networkOf(remoteAddress))
    const now = this.#clock.now()
    const wait = bucket.wait(1, perSecond, now)
    if (wait > WAIT_MS_MAX) return REFUSED
    bucket.take(1, perSecond, now)
    return wait
  }

  #charges(kind: RateKind, names: Record<Scope, string>): Charge[] {
    const charges: Charge[] = []
    for (const scope of SCOPES) {
      const limit: RateLimit = `${kind}RatePer${scope}Max`
      const perSecond = this.#clock.limits[limit]
      if (perSecond === Number.POSITIVE_INFINITY) continue
      charges.push({ bucket: this.#bucket(kind, scope, names[scope]), limit, perSecond })
    }
    return charges
  }

  #bucket(kind: RateKind, scope: Scope, name: string): Bucket {
    const key = `${kind} ${scope} ${name}`
    const known = this.#buckets.get(key)
    if (known !== undefined) return known
    const bucket = new Bucket()
    this.#buckets.set(key, bucket)
    if (this.#buckets.size > UNUSED_MAX) this.#forgetOldest()
    return bucket
  }

  /** Of those that nobody uses: it begins anew with what its rate allows at once. */
  #forgetOldest(): void {
    let looked = 0
    for (const [key, bucket] of this.#buckets) {
      if (bucket.users === 0) {
        this.#buckets.delete(key)
        return
      }
      if (++looked === SWEPT) return
    }
  }

  /** Forgets some that nobody uses and that are full, if there are any. To be called once a second. */
  sweep(): void {
    this.#isAnySet = this.#looksSet()
    const now = this.#clock.now()
    this.#unused ??= this.#buckets.entries()
    for (let count = 0; count < SWEPT; count++) {
      const next = this.#unused.next()
      if (next.done === true) {
        this.#unused = null
        return
      }
      const [key, bucket] = next.value
      if (bucket.users === 0 && bucket.isFull(now)) this.#buckets.delete(key)
    }
  }
}
