/** The queues as the rest of the Server sees them. `broker/queues/` has them. */
import type { Message, Will } from '../../mqtt/message.ts'
import type {
  AcknowledgePacket,
  PublishPacket,
  QoS,
  SubscribeRequest,
  UserProperties,
} from '../../mqtt/packet.ts'
import type { Reason } from '../../mqtt/reason.ts'
import type {
  AckAddress,
  AckVerb,
  Address,
  InvalidAddress,
  QueueAddress,
  QueueSubscription,
} from '../../mqtt/server-topics.ts'
import type { Inlet } from '../../routing/inlet.ts'
import type { QueueDelivery } from '../../session/context.ts'
import type { Session } from '../../session/session.ts'
import type { ConsumerRecord, Store, SubscriptionRecord } from '../../store/store.ts'
import type { Usage } from '../accounts/usage.ts'
import type { Limit } from '../boundary/events.ts'
import type { ClientView, Policy } from '../boundary/policy.ts'

/**
 * A policy's answer about a queue. `may-declare`: it does not exist yet, and the client may declare it by
 * use.
 */
export type QueueDecision = boolean | Reason | 'may-declare'

/** Why something about a queue is refused. */
export interface QueueRefusal {
  readonly reasonCode: Reason
  /** A sentence without a full stop, for the client and the log. */
  readonly reason: string
  /** The limit that was hit. It has been counted and reported. */
  readonly limit?: Limit
}

/** A SUBSCRIBE to a queue. */
export interface ConsumeRequest {
  readonly view: ClientView
  readonly session: Session
  readonly request: SubscribeRequest
  readonly asked: QueueSubscription
  readonly userProperties: UserProperties
  readonly mayDeclare: boolean
}

/** The part of a message by which any queue may refuse it when it is published straight into it. */
export interface Straight {
  readonly retain: boolean
  /** As they are forwarded. */
  readonly properties: Buffer
}

/** A message that is published straight into a queue. */
export interface Addressed extends Straight {
  /** The Client Identifier of its publisher. */
  readonly publisher: string
}

/** A SUBSCRIBE to a queue that is granted. */
export interface Admission {
  /** To be stored with the Subscription; null where its filter says everything. */
  readonly consumer: ConsumerRecord | null
}

/** The result of a message, and where it goes. */
export interface Result {
  /** For a queue, its topic is the one behind the queue's name. */
  readonly message: Message
  /** Null for an ordinary topic. */
  readonly address: QueueAddress | null
}

/** An acknowledgement by PUBLISH, with a tag that a queue gave out. */
export interface Acknowledgement {
  readonly verb: AckVerb
  /** Whether there is anything left to be done. */
  readonly isThere: boolean
  /** Whether the message is on its way to the dead letters. */
  readonly isMoving: boolean
  /** Returns the message that is acknowledged; null if it is gone. */
  request(): Message | null | Promise<Message | null>
  /** Makes the result of this message from the PUBLISH; null if none is to be published. */
  result(request: Message, packet: PublishPacket, publisher: string): Result | null
  /** Counts a result that was published. */
  published(): void
  /** Counts a result that cannot be published. */
  lost(reason: 'not-authorized' | 'overflow' | 'invalid-topic', result: Result): void
  /** Carries it out. Returns false if it changed nothing. */
  carryOut(): boolean
}

export interface Queues {
  // ── Subscriptions ───────────────────────────────────────────────────────────────────────────────────────

  /**
   * Returns what a filter means to queues; null for a filter of the Router, which a Shared Subscription is.
   */
  subscription(filter: string): QueueSubscription | InvalidAddress | null
  /** Asks the policy whether the client may consume the queue, and declare it where it is not there. */
  authorizeSubscribe(
    view: ClientView,
    asked: QueueSubscription,
    qos: QoS,
  ): QueueDecision | Promise<QueueDecision>
  /** Returns the topic of the client's reply queue, for Response Information; null if it can have none. */
  replyTopic(view: ClientView): string | null
  /** Makes the client's reply queue if it is not there. Its Session is. False if a limit refuses that. */
  openReply(view: ClientView): boolean
  /** Grants or refuses a valid SUBSCRIBE. Declares the queue by use. */
  admit(request: ConsumeRequest): QueueRefusal | Admission
  /** Refuses a Shared Subscription that would make one consumer too many; null for any other filter. */
  shareRefusal(session: Session, filter: string): QueueRefusal | null
  /** Whether messages for this filter come from a queue, and not from the Router. */
  isConsumer(filter: string): boolean
  /** Makes the Session a consumer, or changes the options of the consumer that it is. */
  join(session: Session, filter: string, record: SubscriptionRecord): void
  /** Ends a consumer; `isDeprived`: its messages go back uncharged. */
  leave(session: Session, filter: string, isDeprived: boolean): void

  // ── PUBLISH ─────────────────────────────────────────────────────────────────────────────────────────────

  /** Returns what a topic name means to queues; null for an ordinary one. */
  address(topic: string): Address | null
  /** Asks the policy whether the client may put a message into a queue that is there. */
  mayPut(view: ClientView, address: QueueAddress, qos: QoS, retain: boolean): boolean | Promise<boolean>
  /** The same, and whether it may declare the queue where it is not there. */
  authorizePublish(
    view: ClientView,
    address: QueueAddress,
    qos: QoS,
    retain: boolean,
  ): QueueDecision | Promise<QueueDecision>
  /** Refuses a message for any queue; null for nothing that stands against it. */
  straightRefusal(message: Straight): QueueRefusal | null
  /** Finds, or declares by use, the queue that a PUBLISH goes to; or says why it cannot go there. */
  inletOf(address: QueueAddress, mayDeclare: boolean, given: Addressed): Inlet | QueueRefusal

  /**
   * Asks the policy whether the client may consume the queue, and so acknowledge its messages. A reply queue
   * knows that by itself.
   */
  mayConsume(view: ClientView, name: string, qos: QoS): boolean | Reason | Promise<boolean | Reason>
  /** Reads a PUBLISH to `$ack`, or says why it acknowledges nothing. */
  acknowledgement(address: AckAddress, payload: Buffer): Acknowledgement | QueueRefusal

  // ── Sessions ────────────────────────────────────────────────────────────────────────────────────────────

  settled(
    session: Session,
    delivery: QueueDelivery,
    reasonCode: number,
    packet: AcknowledgePacket | null,
  ): void
  loosened(session: Session): void
  room(session: Session): void
  /** The client is back: to be called before it is attached. */
  back(session: Session): void
  /** The Session has ended: its messages go to others. */
  ended(session: Session): void
  /** Takes over what a Session of the store has in flight. To be called once it is a consumer. */
  recovered(session: Session): void
  /** Whether this message's body is in a log. */
  hasBody(message: Message): boolean
  /** Reads bodies back from logs. */
  restore(messages: readonly Message[]): Promise<void>

  /**
   * Counts what queues take for their owners. Returns the memory of all of them in bytes, without consumers.
   */
  look(): number
  /** Bytes in memory at the latest look, without segments that were read: nobody can free them. */
  readonly keptBytes: number
  /** Every queue, to be capped while its owner has much of what is short. */
  readonly owned: Iterable<OwnedQueue>
}

/** A queue that counts for a user. */
export interface OwnedQueue {
  readonly name: string
  /** Null for the operator's. */
  readonly owner: Usage | null
  /** Its bytes in memory and on the disk at the latest look. */
  readonly countedBytes: number
  readonly countedStoredBytes: number
  readonly isCapped: boolean
  /** From now on it does not grow. */
  cap(): void
  uncap(): void
}

/** Asks the policy whether a client may publish its Will, perhaps into a queue. */
export function mayPublish(
  { policy, queues }: { readonly policy: Policy; readonly queues: Queues | null },
  view: ClientView,
  { topic, qos, retain }: Pick<Will, 'topic' | 'qos' | 'retain'>,
): boolean | Promise<boolean> {
  const address = queues?.address(topic) ?? null
  if (queues !== null && address?.kind === 'queue') return queues.mayPut(view, address, qos, retain)
  return policy.authorizePublish?.(view, topic, qos, retain) ?? true
}

/** Asks whether a client may have a Subscription that it has, which may be to a queue. */
export function maySubscribe(
  { policy, queues }: { readonly policy: Policy; readonly queues: Queues | null },
  view: ClientView,
  filter: string,
  qos: QoS,
): boolean | Reason | Promise<boolean | Reason> {
  const asked = queues?.subscription(filter) ?? null
  if (queues !== null && asked?.kind === 'queue') return queues.mayConsume(view, asked.name, qos)
  return policy.authorizeSubscribe?.(view, filter, qos) ?? true
}

/** Reads evicted bodies back, those of queues from their logs. */
export function restoreBodies(
  { store, queues }: { readonly store: Store; readonly queues: Queues | null },
  messages: readonly Message[],
): Promise<unknown> {
  if (queues === null) return store.restore(messages)
  const queued = messages.filter((message) => queues.hasBody(message))
  if (queued.length === 0) return store.restore(messages)
  const others = messages.filter((message) => !queues.hasBody(message))
  return Promise.all([queues.restore(queued), store.restore(others)])
}
