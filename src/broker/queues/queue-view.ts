/** The queues as the operator sees them: what the control socket lists, shows and changes. */
import type { ErrorCode } from '../../errors.ts'
import type { QoS } from '../../mqtt/message.ts'
import type { ForwardedProperties } from '../../mqtt/properties/forwarded.ts'
import type { GivenProperties, QueueProperties } from '../../queue/properties.ts'
import type { QueueOptions } from '../../queue/queue-options.ts'
import type { MemberState } from '../../queue/state/consumer.ts'

/** A list, or null for a step without an entry. */
export type QueueSteps<T> = Generator<T | null, void, undefined>

/** The origin of a queue: the configuration, an operator, a client that used it, or the Server itself. */
export type QueueOrigin = 'file' | 'operator' | 'use' | 'server'

/** The state of a message in a queue. */
export type QueuedState = 'ready' | 'waiting' | 'in-flight' | 'held' | 'deferred' | 'moving'

/** A queue. */
export interface QueueEntry {
  readonly name: string
  readonly origin: QueueOrigin
  /** Whether the configuration declared it once and no longer does. */
  readonly isOrphaned: boolean
  readonly isPaused: boolean
  readonly properties: QueueProperties
  readonly consumers: number
  readonly ready: number
  /** Messages whose key is under way. */
  readonly waiting: number
  readonly inFlight: number
  readonly held: number
  /** Refused messages that are handed out again later. */
  readonly deferred: number
  /** All messages, and their bytes. */
  readonly messages: number
  readonly bytes: number
  readonly counters: QueueCounters
}

/** Counters since the start of the broker. Those by reason have only reasons that occurred. */
export interface QueueCounters {
  readonly in: number
  readonly out: number
  readonly acknowledged: number
  /** By Reason Code, such as `0x80`. */
  readonly refused: Readonly<Record<string, number>>
  readonly redelivered: Readonly<Record<string, number>>
  readonly dead: Readonly<Record<string, number>>
  readonly dropped: Readonly<Record<string, number>>
  /**
   * Messages whose `message-id` was known (`duplicate`), ids that were forgotten early (`forgotten`), and
   * those that were not heard (`ignored`).
   */
  readonly ids: Readonly<Record<string, number>>
  /** Results that came with explicit acknowledgements: `published`, or lost by reason. */
  readonly results: Readonly<Record<string, number>>
}

/** Times of a queue. */
export interface QueueTimes {
  /** Since the oldest message that waits for a consumer was put in; null if none waits. */
  readonly oldestReadySeconds: number | null
  /** Since the oldest unacknowledged message was handed out; null if there is none. */
  readonly oldestUnacknowledgedSeconds: number | null
  /** From coming in to the first hand-out, since the start; null if there was none. */
  readonly waits: QueueWaits | null
}

/** A histogram of times. */
export interface QueueWaits {
  /** Messages that waited for at most so long, and longer than the bucket before allows; null for ever. */
  readonly buckets: readonly { readonly seconds: number | null; readonly count: number }[]
  readonly sumSeconds: number
}

/** Everything that is counted of a queue. Of its times, those that need no reading. */
export interface QueueFigures extends QueueEntry, QueueTimes {
  /** By state. */
  readonly consumerStates: Readonly<Partial<Record<MemberState, number>>>
}

/** A consumer: one Session with one filter. */
export interface ConsumerEntry {
  readonly clientId: string
  readonly userName: string | null
  readonly topicFilter: string
  readonly qos: QoS
  readonly state: string
  /** Messages that it may hold at the moment. */
  readonly window: number
  readonly inFlight: number
  /** Messages that it acknowledged by PUBACK and not by $ack, with explicit acknowledgement. */
  readonly held: number
  readonly ack: 'packet' | 'explicit'
  /** With explicit acknowledgement, how long it holds a message; null without. */
  readonly leaseSeconds: number | null
  /** Packet identifiers in use by messages that were taken from it. */
  readonly echoes: number
}

/** A message in a queue. */
export interface QueuedMessage {
  readonly sequence: number
  readonly state: QueuedState
  /** Null if it was published to the queue itself. */
  readonly topicName: string | null
  readonly publisher: string
  readonly qos: QoS
  readonly failures: number
  readonly attempts: number
  /** Wall time in ms. */
  readonly enqueuedAt: number
  readonly expiresInSeconds: number | null
  /** With explicit acknowledgement, who holds it, and for how many seconds yet; null if nobody does. */
  readonly lease: { readonly clientId: string; readonly seconds: number } | null
  readonly payload: Buffer
  readonly properties: ForwardedProperties
}

/** The messages that `move` takes. */
export interface MoveSelection {
  /** Only messages whose topics match; null for all. */
  readonly topicFilter: string | null
  readonly limit: number
}

/** Writes `1 message` and `2 messages`. */
export function counted(count: number, what: 'message' | 'consumer' | 'byte'): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`
}

/** The operator asks for what cannot be; the message is a sentence without a full stop. */
export class QueueRefusal extends Error {
  override readonly name = 'QueueRefusal'
  readonly code: ErrorCode = 'GODWIT_QUEUE_REFUSED'
  readonly advice: string

  constructor(message: string, advice: string) {
    super(message)
    this.advice = advice
  }
}

/**
 * Lists, shows and changes queues. Promises resolve once the change is durable, and reject with QueueRefusal.
 */
export interface QueueOperator {
  list(): QueueSteps<QueueEntry>
  figures(): QueueSteps<QueueFigures>
  /** Throws QueueRefusal if there is none, as all that follow do. */
  show(name: string): QueueEntry
  /** Reads where the oldest message is, if need be. */
  times(name: string): Promise<QueueTimes>
  /** Returns sentences that say why nothing moves; none if nothing waits. */
  explain(name: string): readonly string[]
  consumers(name: string): QueueSteps<ConsumerEntry>
  /** Lists in sentences the queues of the configuration that a new one does not declare: they stay. */
  orphanedBy(options: Pick<QueueOptions, 'declared'>): readonly string[]
  /** Resolves with false if the queue is there and has these properties already. */
  declare(name: string, given: GivenProperties, by: string): Promise<boolean>
  /** Changes these properties only. With `force`, consumers whose filters no longer fit are disconnected. */
  change(name: string, given: GivenProperties, force: boolean, by: string): Promise<void>
  /** Resolves with the number of messages that went with it. Without `force` it must be empty and unused. */
  delete(name: string, force: boolean, by: string): Promise<number>
  /** Deletes what no consumer holds; resolves with the number of messages. */
  purge(name: string, by: string): Promise<number>
  pause(name: string): Promise<void>
  resume(name: string): Promise<void>
  /** Reads messages in order, the highest priority first, without changing anything. */
  peek(name: string, limit: number, state: QueuedState | null): Promise<readonly QueuedMessage[]>
  /**
   * Moves messages that no consumer holds to another queue, in order and the highest priority first; resolves
   * with their number.
   */
  move(from: string, to: string, which: MoveSelection): Promise<number>
  /** Moves dead letters back to the queues that they came from, or to `to`. */
  replay(from: string, to: string | null, which: MoveSelection): Promise<number>
}
