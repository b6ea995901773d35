/** Limits of one Session, and the reasons why a message does not reach its subscriber. */

/**
 * Decides what happens when a queue is full. With 'refuse', a PUBLISH of QoS 1 or 2 is refused, and any other
 * message is dropped.
 */
export type FullQueuePolicy = 'drop-oldest' | 'drop-newest' | 'refuse'

/** The limits of a Session; see `docs/limits.md`. */
export interface SessionLimits {
  /** Messages that may wait in one Session's queue. */
  readonly queueMessagesMax: number
  /** Bytes of messages that may wait in one Session's queue. */
  readonly queueBytesMax: number
  /** The treatment of a message that finds the queue full. */
  readonly queueFull: FullQueuePolicy
  /** Whether QoS 0 messages are queued for an offline Session. */
  readonly queueQos0: boolean
  /**
   * QoS 1 and 2 messages sent to one client and not yet acknowledged; the client's Receive Maximum may be
   * lower. A client before 5.0 starts with fewer.
   */
  readonly inFlightMax: number
  /** Bytes of these messages. Once they are reached, the next message waits in the queue. */
  readonly inFlightBytesMax: number
}

/** Why a message did not reach a subscriber. Every drop is counted by one of these. */
export type DropReason =
  /** The Session's queue was full; the oldest or the newest gave way. */
  | 'queue-full'
  /** QoS 0 for a reader that does not keep up. */
  | 'slow-reader'
  /** QoS 0 for a Session without a Network Connection. */
  | 'offline'
  /** Message Expiry Interval has passed. */
  | 'expired'
  /** Larger than the client's Maximum Packet Size [MQTT-3.1.2-25]. */
  | 'packet-too-large'
  /** A member of a Shared Subscription refused it [MQTT-4.8.2-6]. */
  | 'refused-by-client'
  /** Its body was on disk only, and no subscriber was left for whom it could be read back. */
  | 'not-in-memory'
  /** A policy refused the publication, or that this subscriber receives it. */
  | 'not-authorized'
  /** Memory was short, and the client held most of it. */
  | 'memory-short'
  /** The Session ended with the message undelivered. */
  | 'session-ended'
  /** A queue was full, or could not take the message at QoS 0. */
  | 'overflow'
  /** A message of a queue failed, and there was no dead letter queue to take it. */
  | 'dead'
  /** A newer message of the same key took its place in a queue. */
  | 'superseded'
  /** The operator emptied the queue. */
  | 'purged'
