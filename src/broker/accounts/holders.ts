/** PURE. Who has the Server keep most, and what of, for people who ask. */
import type { Usage } from './usage.ts'
import type { UsageBook } from './usage-book.ts'

/** How many of a kind are told of. */
const TOLD = 5

/** A client or a user, and what is kept for it in memory, in bytes. */
export interface HolderEntry {
  readonly kind: 'client' | 'user'
  /** Client Identifier or user name; `(anonymous)` with the address, where it is known, for users without a name. */
  readonly name: string
  readonly bytes: number
  /** By what it is: queue, retained, subscriptions, buffers, sessions, wills. */
  readonly parts: Readonly<Record<string, number>>
}

/** The clients and the users with most, the largest first, as of the last look. */
export function largestHolders(book: UsageBook): readonly HolderEntry[] {
  return (['client', 'user'] as const).flatMap((kind) =>
    book
      .largest(kind, TOLD)
      .map((usage) => ({ kind, name: usage.name, bytes: usage.bytes, parts: parts(usage) })),
  )
}

function parts(usage: Usage): Record<string, number> {
  return {
    queue: usage.queueBytes,
    retained: usage.retainedBytes,
    subscriptions: usage.subscriptionBytes,
    buffers: usage.bufferBytes,
    sessions: usage.sessionBytes,
    wills: usage.willBytes,
  }
}
