/**
 * Limits the rates of clients, users and addresses by token buckets; the caller gives the time. A client that
 * is ahead of its rate waits, and is refused if it would have to wait too long.
 */
import type { Limits } from '../boundary/limits.ts'
import { networkOf } from '../boundary/network.ts'

/** The kinds of rates: published messages, bytes each way, topic filters, and connections. */
export type RateKind = 'publish' | 'receive' | 'send' | 'subscribe' | 'connect'

type Scope = 'Client' | 'User' | 'Address'

/** The name of the limit for a kind and a scope. */
export type RateLimit = `${RateKind}RatePer${Scope}Max`

const KINDS = ['publish', 'receive', 'send', 'subscribe', 'connect'] as const
const SCOPES = ['Client', 'User', 'Address'] as const
/** The rates that clients are charged for. */
const LIMITS: readonly RateLimit[] = KINDS.flatMap((kind) =>
  SCOPES.map((scope): RateLimit => `${kind}RatePer${scope}Max`),
).filter((limit) => limit !== 'connectRatePerAddressMax')

/** The rate of this many ms may be used at once: devices that wake up have much to send. */
const BURST_MS = 5000

/** A client that would have to wait longer is refused. */
const WAIT_MS_MAX = 5000

/** Bytes that have arrived cannot be refused singly: a client that is this far ahead loses its connection. */
const BYTES_WAIT_MS_MAX = 60_000

/** Buckets that may be kept while no connected client uses them. */
const UNUSED_MAX = 65_536
/** Buckets that one `sweep` looks at. */
const SWEPT = 4096

/** The answer of `charge` if a rate refuses; nothing was taken then. */
export const REFUSED = -1

/** A token bucket. It keeps the time up to which everything that was taken has been paid for. */
export class Bucket {
  /** Number of connections that use it. */
  users = 0
  /** Broker time in ms at which the rate will have paid for everything taken. */
  #paidUntil = Number.NEGATIVE_INFINITY

  /** Returns how long a client that takes `count` has to wait after that, in ms. */
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

/** The part of the Server that the rates need. */
interface Clock {
  readonly limits: Readonly<Limits>
  /** Broker time in ms. */
  now(): number
}

/** The rates of one client, as they were set when it connected. */
export class ClientRates {
  /** The limit that decided the latest answer. */
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

  /**
   * Takes `count` of a kind. Returns how many ms to wait before taking more; or REFUSED, with nothing taken.
   */
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
    // Packets to the client are never refused: they were decided long before.
    if (longest > most && kind !== 'send') return REFUSED
    for (const { bucket, perSecond } of charges) bucket.take(count, perSecond, now)
    return longest
  }

  /** Ends the use of the buckets: the connection is closed. */
  leave(): void {
    for (const { bucket } of this.#all()) bucket.users--
  }
}

/** All buckets, by kind, scope and name. */
export class Rates {
  readonly #clock: Clock
  readonly #buckets = new Map<string, Bucket>()
  #unused: Iterator<[string, Bucket]> | null = null
  /** Updated once a second: a look at all limits for each CONNECT made 300 bytes of garbage. */
  #isAnySet: boolean | null = null

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** Number of buckets. */
  get size(): number {
    return this.#buckets.size
  }

  /** Returns the rates of a client that connects; null if none were set when `sweep` was called last. */
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

  /** Charges an address for a connection. Returns how many ms the connection has to wait; or REFUSED. */
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

  /** Forgets the oldest unused bucket. If it is needed again, it starts with a full burst. */
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

  /** Forgets some of the buckets that are unused and full. To be called once a second. */
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
