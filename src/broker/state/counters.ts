/**
 * HOT. Plain counters. They are always on: that is cheaper than asking whether anyone listens. The table
 * `METRICS` has units and help texts.
 */
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
  slicesEnded = 0
  publishReceived = 0
  publishSent = 0
  publishBytesReceived = 0
  publishBytesSent = 0
  clientsConnected = 0
  clientsMaximum = 0
  clientsExpired = 0
  willsPublished = 0
  willsDenied = 0
  ownerlessSessionsEnded = 0
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
    overflow: 0,
    dead: 0,
    superseded: 0,
    purged: 0,
  }

  readonly limits = Object.fromEntries(LIMITS.map((limit) => [limit, 0])) as Record<Limit, number>

  readonly relief = Object.fromEntries(RELIEF_STEPS.map((step) => [step, 0])) as Record<ReliefStep, number>

  readonly forgiven = Object.fromEntries(LENIENCE_NAMES.map((rule) => [rule, 0])) as Record<Lenience, number>

  publishDropped = 0

  drop(reason: DropReason, count: number): void {
    this.drops[reason] += count
    this.publishDropped += count
  }
}
