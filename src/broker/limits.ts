/** Every limit of the Server, with its unit in its name. `Infinity` is written `unlimited` in the configuration. */
import type { Reason } from '../mqtt/reason.ts'
import type { SessionLimits } from '../session/limits.ts'

/** What a publisher meets while the disk or the memory is short. */
export type ExhaustedPolicy = 'disconnect' | 'refuse'

export interface Limits extends SessionLimits {
  /** Clients that are connected, all listeners together. Up to 64 more connections may be about to say who they are. */
  readonly connectionsMax: number
  /** Seconds from accept to a complete CONNECT. */
  readonly connectTimeoutSeconds: number
  /** Largest control packet in bytes, fixed header included; announced as Maximum Packet Size. */
  readonly packetBytesMax: number
  /** Largest packet in bytes of any type but PUBLISH: decoding thousands of filters must not hold up everybody. */
  readonly controlPacketBytesMax: number
  readonly topicBytesMax: number
  readonly topicLevelsMax: number
  readonly subscriptionsPerClientMax: number
  /** QoS 1 and 2 messages one client may have under way to us; announced as Receive Maximum. */
  readonly receiveMaximum: number
  /** Topic aliases a client may use towards us; announced as Topic Alias Maximum. */
  readonly topicAliasMaximum: number
  /** Topic aliases we use towards a client that allows them. */
  readonly topicAliasOutMaximum: number
  readonly maximumQoS: 0 | 1 | 2
  readonly retainAvailable: boolean
  readonly retainedMessagesMax: number
  readonly retainedBytesMax: number
  /** Longest Keep Alive in seconds; a longer one (or 0) is answered with Server Keep Alive. Infinity allows 0. */
  readonly keepAliveSecondsMax: number
  /** Longest Session Expiry Interval in seconds; also what 3.1.1 Sessions without Clean Session get. */
  readonly sessionExpirySecondsMax: number
  /** Bytes waiting for one slow reader, beyond which QoS 0 is dropped and QoS 1 and 2 stay in the Session. */
  readonly outgoingBytesMax: number
  /** Seconds without any byte taken by a reader that has bytes waiting, after which it is closed. */
  readonly stalledReaderSeconds: number
  /** Bytes recorded and not yet committed, above which publishers are paused. */
  readonly pendingCommitBytesMax: number
  /** Bytes the Server may hold in memory for messages and buffers, above which new work is refused. */
  readonly memoryBytesMax: number
  /**
   * While disk or memory is short, a message above QoS 0 is not acknowledged and its publisher disconnected with 0x97,
   * so that it keeps the message and tries again; or, with `refuse`, it is told 0x97 in the acknowledgement (3.1.1 has no
   * such word and is disconnected all the same).
   */
  readonly whenExhausted: ExhaustedPolicy
  /** Seconds after a start before Wills that were pending or whose client was connected are published. */
  readonly willGraceSeconds: number
  /**
   * Seconds after a start for which time that only the wall clock saw is in doubt: what would expire by it alone is neither
   * deleted nor sent. 0 trusts the wall clock.
   */
  readonly clockGraceSeconds: number
  /** Whether an empty Client Identifier is given one by the Server. */
  readonly emptyClientIdentifierAllowed: boolean
  /** Whether topic filters may have wildcards. */
  readonly wildcardSubscriptionAvailable: boolean
  readonly sharedSubscriptionAvailable: boolean
  readonly subscriptionIdentifierAvailable: boolean
  /** Topic filters that nobody gets a Subscription to, plain or shared. */
  readonly refusedSubscriptions: readonly RefusedSubscription[]
}

/** A topic filter, compared character by character, and the Reason Code for SUBACK. */
export interface RefusedSubscription {
  readonly filter: string
  readonly reasonCode: Reason
}

const MIB = 1024 * 1024

export const DEFAULT_LIMITS: Readonly<Limits> = Object.freeze({
  connectionsMax: Number.POSITIVE_INFINITY,
  connectTimeoutSeconds: 10,
  packetBytesMax: 268_435_460, // what the standard allows: 256 MiB and the header
  controlPacketBytesMax: MIB, // some 100,000 topic filters in one SUBSCRIBE
  topicBytesMax: 65_535,
  topicLevelsMax: Number.POSITIVE_INFINITY,
  subscriptionsPerClientMax: Number.POSITIVE_INFINITY,
  queueMessagesMax: Number.POSITIVE_INFINITY,
  queueBytesMax: 256 * MIB, // over a million messages of 200 bytes
  queueFull: 'drop-oldest',
  queueQos0: false,
  inFlightMax: 1000,
  receiveMaximum: 65_535, // clients miscount their window when it is lower; commits bound what is under way
  topicAliasMaximum: 64,
  topicAliasOutMaximum: 16,
  maximumQoS: 2,
  retainAvailable: true,
  retainedMessagesMax: Number.POSITIVE_INFINITY,
  retainedBytesMax: 1024 * MIB,
  keepAliveSecondsMax: Number.POSITIVE_INFINITY,
  sessionExpirySecondsMax: Number.POSITIVE_INFINITY,
  outgoingBytesMax: 4 * MIB,
  stalledReaderSeconds: 60,
  pendingCommitBytesMax: 16 * MIB,
  memoryBytesMax: 1024 * MIB,
  whenExhausted: 'disconnect',
  willGraceSeconds: 30,
  clockGraceSeconds: 60,
  emptyClientIdentifierAllowed: true,
  wildcardSubscriptionAvailable: true,
  sharedSubscriptionAvailable: true,
  subscriptionIdentifierAvailable: true,
  refusedSubscriptions: Object.freeze([]),
})
