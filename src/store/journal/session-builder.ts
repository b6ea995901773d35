/**
 * A Session while it is put together from its checkpoint and the journal. There may be very many, most of
 * them small.
 */
import { SmallMap } from '../../structures/small-map.ts'
import type { SessionRecord, SubscriptionRecord } from '../store.ts'
import type { StoredSession } from './checkpoints.ts'
import type { Extensions } from './extensions.ts'
import { ParkedQueue } from './parked-queue.ts'

const NO_PACKETS: ReadonlyMap<number, number> = new Map()
/**
 * Stands in `inFlight` for an entry that is no longer needed: PUBREC arrived, and only PUBREL is to be sent.
 */
export const RELEASED = -1

export class SessionBuilder {
  readonly stored: StoredSession
  readonly record: SessionRecord
  readonly subscriptions = new SmallMap<string, SubscriptionRecord>()
  readonly queue: ParkedQueue
  /**
   * False before a checkpoint was read, and after journal records were lost: then it is not known which
   * messages were sent, and all of them stay queued.
   */
  isCertain = false
  /** Blocks of the journal up to this one are part of the checkpoint. */
  covered = 0
  lastPacketId = 0
  /** The queue positions of the checkpoint. */
  head = 0
  tail = 0
  /** Positions before this one were read from segments. */
  read = 0
  /**
   * Slots of entries by packet identifier, in the order in which they were sent; RELEASED where PUBREC
   * arrived; below that for entries of logs (see `FlightSlots`).
   */
  inFlight = NO_PACKETS
  /** Digests by packet identifier. */
  inbound = NO_PACKETS

  constructor(stored: StoredSession, record: SessionRecord, extensions: Extensions) {
    this.stored = stored
    this.record = record
    this.queue = new ParkedQueue(extensions)
  }

  /** `inFlight` for changes. */
  get ownInFlight(): Map<number, number> {
    if (this.inFlight === NO_PACKETS) this.inFlight = new Map()
    return this.inFlight as Map<number, number>
  }

  /** `inbound` for changes. */
  get ownInbound(): Map<number, number> {
    if (this.inbound === NO_PACKETS) this.inbound = new Map()
    return this.inbound as Map<number, number>
  }

  /** Notes that the entries before this position which were not read from segments are missing. */
  reach(position: number): void {
    if (position <= this.read) return
    if (this.isCertain) this.queue.skip(position - this.read)
    this.read = position
  }
}
