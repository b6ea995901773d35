/**
 * Relief while too much memory is taken by what the Server has promised to keep: Sessions, Subscriptions,
 * retained messages, Wills, message queues, and the entries of queued messages that are on the disk. None of
 * it can be dropped, so the users with most of it get no more, long before everybody is refused.
 */
import type { Session } from '../../session/session.ts'
import { parkedBytes } from '../accounts/costs.ts'
import { type Usage, usageOf } from '../accounts/usage.ts'
import type { ServerState } from '../state/server-state.ts'
import { AS_LARGE_SHARE, largeUsers, listed, sizeText, userOf } from './large-users.ts'
import { QueueCaps } from './queue-caps.ts'

/**
 * Share of `memory_bytes_max` that Sessions, Subscriptions and Wills may take before large users are refused;
 * the rest is for queues and connections, whose relief must be able to end.
 */
const LASTING_SHARE = 0.6
/** Above this share everybody is refused. */
const LASTING_SHARE_MAX = 0.8
/** Relief ends below this share of what was too much. */
const ENOUGH = 0.95
/** A user with less than this share of `memory_bytes_max` is not large. */
const LARGE_SHARE = 1 / 32
/** Clients with less still get Subscriptions: a device without a Session subscribes anew each time. */
const SMALL_BYTES = 2048
/** Queues whose entries take less are not capped. */
const QUEUE_BYTES_MIN = 512

export class KeptRelief {
  readonly #state: ServerState
  #users: ReadonlySet<Usage> = new Set()
  /** Whether so much is kept that everybody is refused. */
  #isFull = false
  #pressed: string | null = null
  readonly #caps: QueueCaps

  constructor(state: ServerState) {
    this.#state = state
    // Queues of Sessions that cannot be parked are the concern of `Relief`.
    const bytesOf = (session: Session): number => (state.store.canPark ? parkedBytes(session) : 0)
    this.#caps = new QueueCaps(state, 'memory', QUEUE_BYTES_MIN, bytesOf)
  }

  /** How much is kept and who gets no more; null if it is not too much, or no user is large. */
  get pressed(): string | null {
    return this.#pressed
  }

  /** Compares what is kept with `memory_bytes_max`, and finds the large users. */
  look(): void {
    const { limits, usage } = this.#state
    const { memoryBytesMax: maxBytes, memoryReservedPercent } = limits
    const lasting = lastingBytes(usage.total)
    const kept = this.#keptBytes(usage.total) + (this.#state.queues?.keptBytes ?? 0)
    const bound = this.#pressed === null ? maxBytes : maxBytes * ENOUGH
    const isMuch = lasting > bound * LASTING_SHARE || kept > bound * (1 - memoryReservedPercent / 100)
    const isVeryMuch =
      lasting > (maxBytes * (LASTING_SHARE + LASTING_SHARE_MAX)) / 2 ||
      kept > maxBytes * (1 - memoryReservedPercent / 200)
    this.#isFull = lasting > maxBytes * LASTING_SHARE_MAX || kept > maxBytes
    const users = isMuch ? this.#largeUsers(isVeryMuch) : []
    this.#users = new Set(users)
    this.#pressed = this.#isFull || users.length > 0 ? this.#described(kept, users) : null
    if (this.#pressed === null) this.#caps.end()
    else this.#caps.cap(this.#isFull ? new Set(usage.users()) : this.#users, this.#pressed)
  }

  /** Returns why nothing more is kept for this client, or user; null if it is. */
  refusal(client: Usage | null): string | null {
    if (this.#pressed === null) return null
    if (this.#isFull) return this.#pressed
    const user = userOf(client)
    return user !== null && this.#users.has(user) ? `of a user for whom much is kept: ${this.#pressed}` : null
  }

  /**
   * Returns why a Session gets no more Subscriptions; null for subscribers in this process, which have no
   * limits.
   */
  refusalOf(session: Session): string | null {
    const client = this.#pressed === null ? null : usageOf(session)
    if (client === null || (!this.#isFull && client.keptBytes < SMALL_BYTES)) return null
    return this.refusal(client)
  }

  #keptBytes(usage: Usage): number {
    return usage.keptBytes + usage.madeQueueBytes + (this.#state.store.canPark ? usage.parkedBytes : 0)
  }

  /** Finds the large users: half-way to the point at which everybody is refused, all who have much. */
  #largeUsers(isVeryMuch: boolean): Usage[] {
    const { limits, usage } = this.#state
    return largeUsers(
      usage.users(),
      (user) => this.#keptBytes(user),
      limits.memoryBytesMax * LARGE_SHARE,
      isVeryMuch ? 0 : AS_LARGE_SHARE,
    )
  }

  #described(kept: number, users: readonly Usage[]): string {
    const names = listed(
      users,
      ({ name }) => name,
      (user) => this.#keptBytes(user),
    )
    const who = this.#isFull ? 'nobody gets more' : 'those who have most get no more'
    const most = sizeText(this.#state.limits.memoryBytesMax)
    return (
      `${sizeText(kept)} are in memory for Sessions, Subscriptions, retained messages, Wills, message ` +
      `queues and what waits on the disk, and limits.memory_bytes_max is ${most}; ` +
      who +
      (names === '' ? '' : `: ${names}`)
    )
  }
}

/**
 * Bytes that stay until the client or the operator ends them; retained messages and queues are not among
 * them.
 */
function lastingBytes({ sessionBytes, subscriptionBytes, willBytes }: Usage): number {
  return sessionBytes + subscriptionBytes + willBytes
}
