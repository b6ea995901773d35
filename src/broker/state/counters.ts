/** Plain counters, always on: cheaper than asking whether somebody listens. Read by `$SYS` and tests. */
import { LENIENCE_NAMES, type Lenience } from '../../mqtt/lenience.ts'
import type { DropReason } from '../../session/limits.ts'
import { LIMITS, type Limit, RELIEF_STEPS, type ReliefStep } from '../boundary/events.ts'

export class Counters {
  connectionsAccepted = 0
  connectionsRefused = 0
  bytesReceived = 0
  bytesSent = 0
  packetsReceived = 0
  packetsSent = 0
  /** Times that the packets of a connection had to wait for a later turn, after it had its share of one. */
  slicesEnded = 0
  publishReceived = 0
  publishSent = 0
  publishBytesReceived = 0
  publishBytesSent = 0
  clientsConnected = 0
  clientsMaximum = 0
  clientsExpired = 0
  willsPublished = 0
  /** Wills that their clients may not publish any more. */
  willsDenied = 0
  /** Sessions that nobody owned, ended by a user who took their Client Identifier. */
  ownerlessSessionsEnded = 0
  /** Messages refused as a whole: a limit, the disk, a full queue. */
  publishRefused = 0
  readonly drops: Record<DropReason, number> = {
    'queue-full': 0,
    'slow-reader': 0,
    offline: 0,
    expired: 0,
    'packet-too-large': 0,
    'refused-by-client': 0,
    'not-in-memory': 0,
    'not-authorized': 0,
    'memory-short': 0,
    'session-ended': 0,
  }

  /** Refusals, by the limit that refused. */
  readonly limits = Object.fromEntries(LIMITS.map((limit) => [limit, 0])) as Record<Limit, number>

  /** What those met who hold most of the memory or of the disk. */
  readonly relief = Object.fromEntries(RELIEF_STEPS.map((step) => [step, 0])) as Record<ReliefStep, number>

  /** Packets that broke a rule which their listener forgives, by the rule. */
  readonly forgiven = Object.fromEntries(LENIENCE_NAMES.map((rule) => [rule, 0])) as Record<Lenience, number>

  /** Deliveries lost for any reason. */
  publishDropped = 0

  drop(reason: DropReason, count: number): void {
    this.drops[reason] += count
    this.publishDropped += count
  }
}
