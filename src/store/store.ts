/**
 * The port of the store, which keeps everything that must outlive the process. Its executable contract is
 * `test/store/contract.ts`.
 *
 * Recording is synchronous and only fills the open block; `commit` makes blocks durable, in order. A packet
 * that promises something just recorded waits until `committedSequence` reaches the `openSequence` that was
 * read after recording. Records of one Session are applied in the order in which they were recorded.
 */
import type { ErrorCode } from '../errors.ts'
import type { Delivery, Message, Will } from '../mqtt/message.ts'
import type { SubscriptionOptions } from '../mqtt/packet.ts'
import type { Histogram } from '../structures/histogram.ts'
import type { HeldBytes } from './held-bytes.ts'
import type { GroupSource, LogStore, RecoveredLogs } from './log-store.ts'

export interface SessionRecord {
  readonly clientId: string
  /** The user that made the Session; null for anonymous. */
  readonly owner: string | null
  /**
   * The id of the account that owns the Session; null if the owner has no account, and in stores of format 1.
   */
  readonly ownerId: string | null
  /** SESSION_NEVER_EXPIRES for never. */
  readonly expirySeconds: number
  /** Broker time in ms at which the Network Connection ended; 0 while it is open. */
  readonly disconnectedAt: number
}

export interface SubscriptionRecord extends SubscriptionOptions {
  /** 0 when absent. */
  readonly identifier: number
  /** Present while retained messages are still being sent: after a crash they are sent from the beginning. */
  readonly retainedPending?: true
  /** When sending them began, in broker time. Anything published later was live. */
  readonly retainedSince?: number
  /** Present if a consumer of a queue asked for more than its filter says, by properties of SUBSCRIBE. */
  readonly consumer?: ConsumerRecord
}

/** The wishes of a consumer, those of its filter included. */
export interface ConsumerRecord {
  /** Messages that it may hold; null for the queue's own value. */
  readonly prefetch: 'auto' | number | null
  /** Whether it is told the number, time and key of messages. */
  readonly meta: boolean
  /** Present if it acknowledges explicitly. */
  readonly ack?: 'explicit'
  /** How long it holds a message then, in seconds; absent for the default. */
  readonly leaseSeconds?: number
}

export interface WillRecord {
  readonly will: Will
  /** The user that owns the Session; null for anonymous. */
  readonly owner: string | null
  /**
   * Tells that user's account from a later one of the same name; null or absent if only the name is known.
   */
  readonly ownerId?: string | null
  /** Broker time in ms at which it is to be published; 0 while the Network Connection is open. */
  readonly dueAt: number
  /**
   * True if the Server made up the Client Identifier and the Session ends with the Network Connection. The
   * client comes back under another identifier, so it can never take its Will back.
   */
  readonly assigned?: boolean
}

/** An outbound message that was sent and is not yet completed. */
export interface InFlight {
  readonly packetId: number
  /** Null once a QoS 2 message was received (PUBREC): only PUBREL is still to be sent. */
  readonly delivery: Delivery | null
}

/**
 * A QoS 2 message received and not yet released: its identifier, and the digest by which a repetition is
 * recognized; 0 for unknown.
 */
export type InboundPacket = readonly [packetId: number, digest: number]

/** A moment by the machine's own time since it was started, whatever its wall clock says. */
export interface BootTime {
  /** Identifies this start of the machine: 16 bytes in hexadecimal. */
  readonly bootId: string
  /** Milliseconds since that start, including time asleep. */
  readonly sinceBoot: number
}

/** Time that passed according to the wall clock alone, and perhaps did not pass at all. */
export interface TimeDoubt {
  /** Length of that time. */
  readonly ms: number
  /** Broker time in ms before it. Anything that ended by then has certainly ended. */
  readonly since: number
  /** Broker time in ms from which the doubtful time counts. */
  readonly until: number
}

/**
 * Consecutive entries of one queue, kept by the store in a few bytes each: their bodies are on disk, and
 * there is no object for any of them. Only the store that made them can read them. Entries leave at the
 * front, by `unpark`.
 */
export interface Parked {
  readonly length: number
  /** Sum of their messages' `Message.size`. */
  readonly bytes: number
  /** Whether any entry came by a Shared Subscription. */
  readonly shared: boolean
  /** Whether any entry's message may expire. */
  readonly expires: boolean
  /**
   * When the message of an entry expires, in broker time; `Infinity` for never. Index 0 is the oldest entry.
   */
  expiresAt(index: number): number
  /** The `Message.size` of an entry. */
  sizeAt(index: number): number
}

/** The in-flight messages of a Session whose client is away, in a few bytes each. */
export interface ParkedFlight {
  /** In the order in which they were sent. Negative if PUBREC arrived, so that only PUBREL is to be sent. */
  readonly packetIds: Int32Array
  /** The deliveries with the positive packet identifiers, in the same order. */
  readonly parked: readonly Parked[]
}

/** Takes the entries of a range of a queue, in order. */
export interface QueueReader {
  delivery(delivery: Delivery): void
  /** The entries of `parked` from the first index up to, not including, the second. */
  parked(parked: Parked, from: number, to: number): void
}

/**
 * A Session's outbound state, read by the store when it writes a checkpoint. Queue entries have positions
 * that only grow: `head` is the oldest entry, `tail` is one past the newest.
 */
export interface OutboundState {
  /** In the order in which they were sent. */
  inFlight(): Iterable<InFlight>
  readonly queueHead: number
  readonly queueTail: number
  /** Passes the entries from one position up to, not including, another one to `reader`. */
  readQueue(from: number, to: number, reader: QueueReader): void
  /** The packet identifier after which the search for a free one begins. */
  readonly lastPacketId: number
  /** QoS 2 messages received from the client and not yet released. */
  inbound(): Iterable<InboundPacket>
}

/** The Server as the store sees it. */
export interface StateSource {
  /** Broker time in ms: monotonic, goes on across restarts. */
  now(): number
  /** Wall clock in ms since 1970. */
  wallNow(): number
  /** Null if the machine does not provide it. */
  bootTime(): BootTime | null
  /** Returns undefined if there is no such Session (any more). */
  outbound(sessionId: number): OutboundState | undefined
  /** Absent if it never has any. */
  readonly groups?: GroupSource
  /** A block was made durable: packets that waited for it may leave. */
  committed(sequence: number): void
  /** A commit failed: memory is ahead of the disk. Called once; the store is closed afterwards. */
  failed(error: StoreError): void
}

export interface RecoveredSession {
  readonly id: number
  readonly record: SessionRecord
  /** If it is a SmallMap, the receiver may keep it. */
  readonly subscriptions: Iterable<readonly [filter: string, record: SubscriptionRecord]>
  /** Objects where anything is in flight from a group. Its messages are evicted, and have size 0. */
  readonly inFlight: readonly InFlight[] | ParkedFlight
  /** Oldest first. Bodies may be evicted. */
  readonly queue: readonly (Delivery | Parked)[]
  readonly queueHead: number
  readonly lastPacketId: number
  readonly inbound: readonly InboundPacket[]
}

export interface Recovered {
  /** Broker time and wall time of the last commit, in ms; both 0 for an empty store. */
  readonly brokerTime: number
  readonly wallTime: number
  /** The machine's own time of the last commit; null if unknown. */
  readonly bootTime: BootTime | null
  /** The time that was in doubt then; null for none. */
  readonly doubt: TimeDoubt | null
  /** Iterate once, before anything is recorded: each Session is put together when its turn comes. */
  readonly sessions: Iterable<RecoveredSession>
  readonly retained: readonly Message[]
  /** The `liveAt` of the retained messages that have one, by topic name. */
  readonly retainedLive?: readonly (readonly [topic: string, liveAt: number])[]
  readonly wills: readonly (readonly [clientId: string, record: WillRecord])[]
  /** Absent without any definition. */
  readonly logs?: RecoveredLogs
  /**
   * Call this now and then while taking over many Subscriptions. Throws StoreError `memory`; then the process
   * can only end.
   */
  readonly checkMemory?: () => void
  /** The store was of format 1, where no Session says which account owns it. */
  readonly withoutOwnerIds?: true
  /** A sentence that tells the operator about anything special in this start, such as an import. */
  readonly notice?: string
}

/** The causes of errors, as far as the advice to the operator differs. */
export type StoreErrorKind =
  /** Another process has the directory open. */
  | 'locked'
  /** The directory cannot be created, read or written. */
  | 'access'
  /** Written by a version of Godwit (or another program) that this one cannot read. */
  | 'format'
  /** Stored bytes differ from what was written. */
  | 'corrupt'
  /** No space left. */
  | 'full'
  /** The stored data takes more memory than this process may have. */
  | 'memory'
  /** Any other error of the disk. */
  | 'io'

const STORE_ERROR_CODES = {
  locked: 'GODWIT_STORE_LOCKED',
  access: 'GODWIT_STORE_ACCESS',
  format: 'GODWIT_STORE_FORMAT',
  corrupt: 'GODWIT_STORE_CORRUPT',
  full: 'GODWIT_STORE_FULL',
  memory: 'GODWIT_STORE_MEMORY',
  io: 'GODWIT_STORE_IO',
} as const satisfies Readonly<Record<StoreErrorKind, ErrorCode>>

/** An error of the store that the operator can do something about. */
export class StoreError extends Error {
  override readonly name = 'StoreError'
  readonly kind: StoreErrorKind
  readonly code: ErrorCode
  /** Sentences that tell the operator what to do about it. */
  readonly advice: string

  constructor(kind: StoreErrorKind, message: string, advice: string, options?: ErrorOptions) {
    super(message, options)
    this.kind = kind
    this.code = STORE_ERROR_CODES[kind]
    this.advice = advice
  }
}

/** Counts and sizes of one opening of the store. */
export interface StoreFigures {
  /** Commits since the store was opened. */
  commits: number
  /** Memory of stored messages whose bodies are in memory, including JavaScript's overhead. */
  residentBytes: number
  /** Bytes of message bodies that are stored and still needed. */
  storedBytes: number
  /** Memory of entries, queued or in flight, besides the bodies, as reported to `countEntries`. */
  entryBytes: number
}

/** Everything that the Server asks of a store. */
export interface Store {
  /** Sequence of the block being filled: the next record becomes durable with it. */
  readonly openSequence: number
  /**
   * Sequence of the newest block that holds a record: `openSequence`, or one less while the open block is
   * empty.
   */
  readonly recordedSequence: number
  /** Sequence of the newest block that is as durable as the configuration promises. */
  readonly committedSequence: number
  /** Bytes recorded and not yet durable. Publishers pause above a limit. */
  readonly pendingBytes: number
  /** The reason why new work (messages, Sessions) is refused, such as a nearly full disk; null for none. */
  readonly refusal: string | null
  /**
   * Bytes that may still be written before new work is refused, as far as known; Infinity without a limit.
   */
  readonly roomBytes: number
  /** Room is short below this many bytes: clients that hold most must write no more. 0 without a limit. */
  readonly shortRoomBytes: number
  /** As `refusal`, for a message of this size: there may be room for smaller ones only. */
  refusalFor(bytes: number): string | null
  readonly figures: Readonly<StoreFigures>
  /** The logs of queues and streams. */
  readonly logs: LogStore
  /** Counts messages that Sessions hold and the store does not have, also while the store is closed. */
  readonly held: HeldBytes
  /** Durations of the commits since the store was opened, from sealing a block until it was durable. */
  readonly commitLatency: Histogram

  /**
   * Opens, verifies and recovers the store. Rejects with StoreError. May be called again after `failed` or
   * `close`.
   */
  open(source: StateSource): Promise<Recovered>

  /** Records a new Session, or replaces its record. */
  putSession(sessionId: number, record: SessionRecord): void
  /**
   * Forgets a Session with its Subscriptions, in-flight and inbound state. `held` is everything queued and in
   * flight.
   */
  deleteSession(sessionId: number, held: Iterable<Message | Parked>): void
  putSubscription(sessionId: number, filter: string, record: SubscriptionRecord): void
  deleteSubscription(sessionId: number, filter: string): void

  /** Appends to the Session's queue. The first delivery of a message stores its body. */
  enqueue(sessionId: number, delivery: Delivery): void
  /** The head of the queue is now in flight under this packet identifier. */
  sent(sessionId: number, packetId: number): void
  /** The head of the queue is gone: expired, dropped, or sent at QoS 0. */
  dropped(sessionId: number, message: Message): void
  /** The next entries of the queue are those of `parked`, and all of them are gone. */
  droppedParked(sessionId: number, parked: Parked): void
  /**
   * PUBREC arrived: the body is no longer needed, the identifier still is. It moves to the end of the
   * in-flight messages, because PUBRELs are sent in the order of their PUBRECs. `message` is null if it is
   * in a log.
   */
  received(sessionId: number, packetId: number, message: Message | null): void
  /**
   * The packet is no longer in flight: PUBACK, PUBCOMP or a refusing PUBREC arrived, or the message was
   * discarded. `message` is null after `received`, and if it is in a log.
   */
  completed(sessionId: number, packetId: number, message: Message | null): void

  /** Adds to the memory that entries of stored Sessions take; `bytes` may be negative. */
  countEntries(bytes: number): void
  /** Whether this store can drop bodies from memory and read them back. */
  readonly canPark: boolean
  /** Whether bodies and entries take more memory than they may, so that entries should be parked. */
  readonly isMemoryShort: boolean

  /**
   * Parks a delivery, queued or in flight, behind the entries of `onto`, null for none. Returns the entries
   * that it joined: `onto`, or new ones when that is full. Returns null if it cannot be parked (yet) because
   * it is not on disk. Nothing is recorded.
   */
  park(delivery: Delivery, onto: Parked | null): Parked | null
  /** Takes the oldest `count` entries out again. Bodies may be evicted. */
  unpark(parked: Parked, count: number): Delivery[]
  /** Returns one entry, which stays parked. Use it, or pass it to `restore`, before the next commit. */
  peek(parked: Parked, index: number): Delivery

  /**
   * Moves the entries of `parked`, which are the next ones of the Session's queue, to the end of the queue.
   * Returns them, parked again. Those that have expired by `now` leave the queue instead, and are passed to
   * `gone`.
   */
  requeue(sessionId: number, parked: Parked, now: number, gone: (delivery: Delivery) => void): Parked[]

  /**
   * A QoS 2 message was received under this identifier. Replaces an earlier digest. `digest` is below 2^48; 0
   * for unknown.
   */
  inboundAdded(sessionId: number, packetId: number, digest: number): void
  /** The QoS 2 message under this identifier was released. */
  inboundRemoved(sessionId: number, packetId: number): void

  /**
   * Replaces the retained message of its topic. `liveAt` is when the latest message of the topic was
   * published while retained messages were being sent to a stored Session, in broker time; 0 for never.
   */
  putRetained(message: Message, liveAt: number): void
  deleteRetained(topic: string): void
  putWill(clientId: string, record: WillRecord): void
  deleteWill(clientId: string): void

  /** Makes the next commit happen even if nothing else is recorded: for the times that go with it. */
  recordTime(): void
  /** Records the time that is in doubt; null for none any more. */
  putDoubt(doubt: TimeDoubt | null): void
  /** Whether the message was stored before the time in doubt; before this run if none is in doubt. */
  isOld(message: Message): boolean
  /**
   * `ms` of the time after `since` did not pass: messages that were stored before the doubt and expire after
   * `since` expire later. `held` is everything queued and in flight. The caller records retained messages,
   * Sessions and Wills again.
   */
  postpone(ms: number, since: number, held: Iterable<Message | Parked>): void

  /** Begins an atomic section: until `endAtomic`, only `close` seals a block. Sections may overlap. */
  beginAtomic(): void
  endAtomic(): void
  /** How long a commit waits for others at most, in ms; 0 for not at all. */
  readonly paceMs: number
  /**
   * Seals the open block and starts its commit as soon as none is in flight. Does nothing without records.
   * The commit may wait a moment for more records. `company`, 0 by default, counts clients that asked for
   * something in it, and waited neither for the commits just before nor for any within `paceMs`.
   */
  commit(company?: number): void
  /**
   * Evicts bodies that can be read back, because memory is short, until `bytes` are freed or its bounded
   * search ends. Returns the bytes that were freed, including JavaScript's overhead.
   */
  evict(bytes: number): number
  /** Reads evicted bodies back, also of messages that are completed meanwhile. Rejects with StoreError. */
  restore(messages: readonly Message[]): Promise<void>
  /** Commits all records, writes the mark of a clean end, and closes. */
  close(): Promise<void>
}
