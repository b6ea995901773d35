/** Counts the messages of one queue: how many are in each state, and why others left. */
import type { DeathReason } from './properties.ts'

/** Why a message left without being acknowledged or moved. `dead` is one that has nowhere to be moved to. */
export type GoneReason =
  | 'expired'
  | 'overflow'
  | 'purged'
  | 'superseded'
  | 'dead'
  | 'refused-by-client'
  | 'session-ended'
  | 'packet-too-large'

/** The longest wait in ms of each bucket but the last one, which has no bound: 1 ms to 12 days. */
export const WAIT_BUCKETS_MS: readonly number[] = Array.from({ length: 16 }, (_, at) => 4 ** at)

/** Times from a message's coming in to its first hand-out. */
export class Waits {
  /** By bucket of `WAIT_BUCKETS_MS`, and one more. */
  readonly counts = new Array<number>(WAIT_BUCKETS_MS.length + 1).fill(0)
  sumMs = 0

  add(ms: number): void {
    let bucket = 0
    while (bucket < WAIT_BUCKETS_MS.length && ms > WAIT_BUCKETS_MS[bucket]!) bucket++
    this.counts[bucket]!++
    this.sumMs += ms
  }
}

/** Why a result was not published. `no-topic`: neither the message nor the queue names one. */
export type LostResult = 'no-topic' | 'invalid-topic' | 'not-authorized' | 'overflow'

/** Counts since the queue was made or the broker started. */
export class Counts {
  in = 0
  out = 0
  acknowledged = 0
  /** Messages whose `message-id` was known. */
  duplicates = 0
  /** By Reason Code. */
  readonly refused = new Map<number, number>()
  readonly redelivered = { refused: 0, timeout: 0, lost: 0, lease: 0 }
  readonly dead: Record<DeathReason, number> = {
    refused: 0,
    'delivery-limit': 0,
    'too-large': 0,
    'in-doubt': 0,
    expired: 0,
    overflow: 0,
    purged: 0,
  }
  readonly dropped: Record<GoneReason, number> = {
    expired: 0,
    overflow: 0,
    purged: 0,
    superseded: 0,
    dead: 0,
    'refused-by-client': 0,
    'session-ended': 0,
    'packet-too-large': 0,
  }

  /** Made with the first hand-out: most queues of many are idle. */
  waits: Waits | null = null

  waited(ms: number): void {
    this.waits ??= new Waits()
    this.waits.add(Math.max(0, ms))
  }

  /** Results of messages with explicit acknowledgement: published, or lost by reason. */
  readonly results: Record<'published' | LostResult, number> = {
    published: 0,
    'no-topic': 0,
    'invalid-topic': 0,
    'not-authorized': 0,
    overflow: 0,
  }

  refusedBy(code: number): void {
    this.refused.set(code, (this.refused.get(code) ?? 0) + 1)
  }
}

/** Messages by state, now. */
export interface StateCounts {
  readonly ready: number
  readonly waiting: number
  readonly inFlight: number
  readonly held: number
  readonly deferred: number
  readonly moving: number
  /** All of them. */
  readonly messages: number
  readonly bytes: number
}
