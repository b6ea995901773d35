/**
 * What the Server does while Sessions, Subscriptions, retained messages, Wills and what waits for stored Sessions take too much
 * memory. None of them can be freed without breaking a promise, so the users who have most of them get no more, long before everybody
 * is refused. Of what waits on the disk an entry stays in memory: millions of them fill it as well.
 */
import type { Session } from '../../session/session.ts'
import { parkedBytes } from '../accounts/costs.ts'
import { type Usage, usageOf } from '../accounts/usage.ts'
import type { ServerState } from '../state/server-state.ts'
import { QueueCaps } from './queue-caps.ts'

/**
 * Of `memory_bytes_max` what Sessions, Subscriptions and Wills of large users may take: the rest is for queues and connections. They
 * pay as long as memory is short, which must be able to end.
 */
const LASTING_SHARE = 0.6
/** Beyond this nobody is spared. */
const LASTING_SHARE_MAX = 0.8
/** Below this part of what is too much it is over. */
const ENOUGH = 0.95
/** Nobody is large who has less than this part of `memory_bytes_max`. */
const LARGE_SHARE = 1 / 32
/** Whoever has so much of what the largest has is as large; half-way to the end, everybody is who has much. */
const AS_LARGE_SHARE = 1 / 2
/** A client that has less gets Subscriptions: a device without a Session subscribes anew each time. */
const SMALL_BYTES = 2048
/** A queue whose entries take less is nobody's trouble. */
const QUEUE_BYTES_MIN = 512
/** Users that the operator is told by name. */
const NAMES_TOLD = 3

const MIB = 1024 * 1024

export class KeptRelief {
  readonly #state: ServerState
  #users: ReadonlySet<Usage> = new Set()
  /** So much is kept that nobody gets more. */
  #isFull = false
  #pressed: string | null = null
  readonly #caps: QueueCaps

  constructor(state: ServerState) {
    this.#state = state
    this.#caps = new QueueCaps(state, 'memory', QUEUE_BYTES_MIN, parkedBytes)
  }

  /** How much is kept and who gets no more; null when all is well, or nobody is large. */
  get pressed(): string | null {
    return this.#pressed
  }

  /** Looks at how much is kept, and at who has most of it. */
  look(): void {
    const { limits, usage } = this.#state
    const { memoryBytesMax: maxBytes, memoryReservedPercent } = limits
    const lasting = lastingBytes(usage.total)
    const kept = this.#keptBytes(usage.total)
    const fewer = this.#pressed === null ? 1 : ENOUGH
    const bound = maxBytes * fewer
    const isMuch = lasting > bound * LASTING_SHARE || kept > bound * (1 - memoryReservedPercent / 100)
    const isVeryMuch =
      lasting > (maxBytes * (LASTING_SHARE + LASTING_SHARE_MAX)) / 2 ||
      kept > maxBytes * (1 - memoryReservedPercent / 200)
    this.#isFull = lasting > maxBytes * LASTING_SHARE_MAX || kept > maxBytes
    this.#users = isMuch ? this.#largest(maxBytes * LARGE_SHARE, isVeryMuch ? 0 : AS_LARGE_SHARE) : new Set()
    this.#pressed = this.#isFull || this.#users.size > 0 ? this.#described(kept) : null
    // Queues that cannot be parked are looked after by `Relief`.
    if (this.#pressed === null || !this.#state.store.parks) this.#caps.end()
    else this.#caps.cap(this.#isFull ? new Set(usage.users()) : this.#users, this.#pressed)
  }

  /** Why nothing more is kept for this client, or user; null where it is. */
  refusal(client: Usage | null): string | null {
    if (this.#pressed === null) return null
    if (this.#isFull) return this.#pressed
    const user = client?.kind === 'client' ? client.user : client
    return user != null && this.#users.has(user) ? `of a user for whom much is kept: ${this.#pressed}` : null
  }

  /** Why the client of a Session gets no further Subscription; those in this process have no limits. */
  refusalOf(session: Session): string | null {
    const client = this.#pressed === null ? null : usageOf(session)
    if (client === null || (!this.#isFull && keptBytes(client) < SMALL_BYTES)) return null
    return this.refusal(client)
  }

  #keptBytes(usage: Usage): number {
    return keptBytes(usage) + (this.#state.store.parks ? usage.parkedBytes : 0)
  }

  /** The largest users, those who have the most first. */
  #largest(least: number, asLargeShare: number): Set<Usage> {
    const users: Usage[] = []
    let most = 0
    for (const user of this.#state.usage.users()) {
      const bytes = this.#keptBytes(user)
      if (bytes < least) continue
      users.push(user)
      most = Math.max(most, bytes)
    }
    const large = users.filter((user) => this.#keptBytes(user) >= most * asLargeShare)
    return new Set(large.sort((one, other) => this.#keptBytes(other) - this.#keptBytes(one)))
  }

  #described(kept: number): string {
    const names = [...this.#users]
      .slice(0, NAMES_TOLD)
      .map((user) => `${user.name} with ${mebibytes(this.#keptBytes(user))}`)
    const more = this.#users.size - names.length
    const others = more > 0 ? ` and ${more} more` : ''
    const who = this.#isFull ? 'nobody gets more' : 'those who have most get no more'
    const list = names.length === 0 ? '' : `: ${names.join(', ')}${others}`
    const { memoryBytesMax } = this.#state.limits
    return (
      `${mebibytes(kept)} are in memory for Sessions, Subscriptions, retained messages, Wills and what waits on the disk, and ` +
      `limits.memory_bytes_max is ${mebibytes(memoryBytesMax)}; ${who}${list}`
    )
  }
}

/** What stays until its client or the operator ends it; of retained messages and queues only `keptBytes` knows. */
function lastingBytes({ sessionBytes, subscriptionBytes, willBytes }: Usage): number {
  return sessionBytes + subscriptionBytes + willBytes
}

function keptBytes(usage: Usage): number {
  return lastingBytes(usage) + usage.retainedBytes
}

function mebibytes(bytes: number): string {
  return `${Math.round(bytes / MIB)} MiB`
}
