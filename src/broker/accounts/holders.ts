/** PURE. Lists the clients and users that take most memory, for the operator. */
import type { Usage } from './usage.ts'
import type { UsageBook } from './usage-book.ts'

/** Clients, and users, that are listed. */
const LISTED_MAX = 5

/** A client or a user with its bytes in memory. */
export interface HolderEntry {
  readonly kind: 'client' | 'user'
  /** Client Identifier or user name; `(anonymous)`, with the address if known, for users without a name. */
  readonly name: string
  readonly bytes: number
  /** Bytes by part: queue, queues (made by using them), retained, subscriptions, buffers, sessions, wills. */
  readonly parts: Readonly<Record<string, number>>
}

/** Returns the largest clients and users as of the latest look, the largest first. */
export function largestHolders(book: UsageBook): readonly HolderEntry[] {
  return (['client', 'user'] as const).flatMap((kind) =>
    book
      .largest(kind, LISTED_MAX)
      .map((usage) => ({ kind, name: usage.name, bytes: usage.bytes, parts: parts(usage) })),
  )
}

function parts(usage: Usage): Record<string, number> {
  return {
    queue: usage.queueBytes,
    queues: usage.madeQueueBytes,
    retained: usage.retainedBytes,
    subscriptions: usage.subscriptionBytes,
    buffers: usage.bufferBytes,
    sessions: usage.sessionBytes,
    wills: usage.willBytes,
  }
}
