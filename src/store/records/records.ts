/**
 * The content of a store as a sequence of records, which export, import and repair pass on. A message comes
 * once, before the first record that refers to it. A Session comes before its deliveries.
 *
 * All times are wall times in ms since 1970, and null where the store has none.
 */
import type { QoS } from '../../mqtt/packet.ts'
import type {
  DefinitionKind,
  DefinitionOrigin,
  DefinitionOwner,
  GroupRecord,
  HeldEntry,
  LaneState,
  RememberedId,
  ReturnedEntry,
} from '../log-store.ts'
import type { InboundPacket, SubscriptionRecord, TimeDoubt } from '../store.ts'

export interface StartRecord {
  readonly type: 'start'
  /** The time of the last commit. Deadlines count from it. */
  readonly time: number
  /** The time that was in doubt then; null for none. */
  readonly doubt: TimeDoubt | null
  /** Whether records about queues or streams follow. */
  readonly hasQueues: boolean
}

/** The name of a queue or stream. */
export interface DefinitionName {
  readonly kind: DefinitionKind
  readonly name: string
}

/** A queue or stream. Its entries and groups follow. */
export interface DefinitionLine extends DefinitionName {
  readonly type: 'definition'
  readonly origin: DefinitionOrigin
  readonly paused: boolean
  readonly properties: string
  readonly lanes: number
  readonly owner: DefinitionOwner | null
}

/** An entry of a log that is not settled, in order of the sequences of its lane. */
export interface EntryRecord extends MessageBody {
  readonly type: 'entry'
  readonly of: DefinitionName
  readonly lane: number
  readonly sequence: number
  readonly appendedAt: number
}

/** A group with its state. Times are wall times. A queue has one. */
export interface GroupLine {
  readonly type: 'group'
  readonly of: DefinitionName
  readonly kind: GroupRecord['kind']
  readonly name: string
  readonly filter: string
  readonly lanes: readonly LaneState[]
  readonly returned: readonly ReturnedEntry[]
  readonly held: readonly HeldEntry[]
  readonly remembered: readonly RememberedId[]
  readonly counters: readonly number[]
}

export interface SessionRecordLine {
  readonly type: 'session'
  readonly clientId: string
  /** The user that created the Session; null for anonymous. */
  readonly owner: string | null
  /** The id of the account that owns the Session; null for none. */
  readonly ownerId: string | null
  /** Seconds; SESSION_NEVER_EXPIRES for never. */
  readonly sessionExpirySeconds: number
  /** Null if the Network Connection was open. */
  readonly disconnectedAt: number | null
  /** The packet identifier after which the search for a free one begins; 0 at first. */
  readonly lastPacketId: number
  /** QoS 2 messages received from the client and not yet released. */
  readonly inbound: readonly InboundPacket[]
  readonly subscriptions: readonly (readonly [filter: string, record: SubscriptionRecord])[]
}

export interface MessageBody {
  readonly topic: string
  readonly payload: Buffer
  /** Raw properties to forward; see `Message.properties`. */
  readonly properties: Buffer
  readonly qos: QoS
  readonly retain: boolean
  readonly expiresAt: number | null
  /** Client Identifier of the publisher. */
  readonly publisher: string
}

export interface MessageRecord extends MessageBody {
  readonly type: 'message'
  /** The number by which deliveries refer to it, counted from 1. */
  readonly number: number
}

/** A delivery of a message to a Session. */
export interface DeliveryFields {
  readonly message: number
  readonly qos: QoS
  readonly retain: boolean
  readonly subscriptionIdentifiers: readonly number[]
  /** The whole filter of the Shared Subscription through which it came; null otherwise. */
  readonly share: string | null
}

/** An entry of a log that is in flight. */
export interface LogFlightFields {
  readonly of: DefinitionName
  /** The name of the group; empty for that of a queue. */
  readonly group: string
  readonly lane: number
  readonly sequence: number
  readonly attempt: number
  readonly filter: string
  readonly qos: QoS
  readonly retain: boolean
  readonly subscriptionIdentifiers: readonly number[]
}

/** A packet in flight. They come in the order in which they were sent. */
export interface InFlightRecord {
  readonly type: 'inFlight'
  readonly clientId: string
  readonly packetId: number
  /** Null after PUBREC arrived: PUBREL is still to be sent. */
  readonly delivery: DeliveryFields | LogFlightFields | null
}

/** A queued delivery. The oldest comes first. */
export interface QueuedRecord {
  readonly type: 'queued'
  readonly clientId: string
  readonly delivery: DeliveryFields
}

export interface RetainedRecord extends MessageBody {
  readonly type: 'retained'
}

export interface WillLine {
  readonly type: 'will'
  readonly clientId: string
  readonly owner: string | null
  /** The id of the owner's account; null if only the name is known. */
  readonly ownerId: string | null
  /** When it is to be published; null if the Network Connection was open. */
  readonly dueAt: number | null
  readonly topic: string
  readonly payload: Buffer
  readonly properties: Buffer
  readonly qos: QoS
  readonly retain: boolean
  readonly expirySeconds: number | undefined
  readonly delaySeconds: number
  /** Whether the Server assigned the Client Identifier, so that the client never comes back with it. */
  readonly assigned: boolean
}

/** Any record. */
export type StoreRecord =
  | StartRecord
  | DefinitionLine
  | EntryRecord
  | GroupLine
  | SessionRecordLine
  | MessageRecord
  | InFlightRecord
  | QueuedRecord
  | RetainedRecord
  | WillLine
