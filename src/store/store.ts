/**
 * The store's port: what must outlive the process. The executable contract is `test/store/contract.ts`.
 *
 * Everything recorded is synchronous and only fills the open block; `commit` makes blocks durable, in order. What
 * promises something that was just recorded waits until `committedSequence` reaches the `openSequence` that was
 * read after recording. Records of one Session are applied in the order in which they were recorded.
 */
import type { ErrorCode } from '../errors.ts'
import type { Delivery, Message, Will } from '../mqtt/message.ts'
import type { SubscriptionOptions } from '../mqtt/packet.ts'
import type { Histogram } from '../structures/histogram.ts'
import type { HeldBytes } from './held-bytes.ts'

export interface SessionRecord {
  readonly clientId: string
  /** The user that made the Session; null for anonymous. */
  readonly owner: string | null
  /** The id of the account that owns the Session; null where the owner has none, and in stores of format 1. */
  readonly ownerId: string | null
  /** SESSION_NEVER_EXPIRES for never. */
  readonly expirySeconds: number
  /** Broker time in ms at which the Network Connection ended; 0 while it is open. */
  readonly disconnectedAt: number
}

export interface SubscriptionRecord extends SubscriptionOptions {
  /** 0 when absent. */
  readonly identifier: number
  /** Present while retained messages are still under way: after a crash they begin again. */
  readonly retainedPending?: true
  /** With it: when they began, in broker time. What was published later than this was live. */
  readonly retainedSince?: number
}

export interface WillRecord {
  readonly will: Will
  /** The user that owns the Session; null for anonymous. */
  readonly owner: string | null
  /** Tells that user's account from a later one of the same name; null or absent where the name is all there is. */
  readonly ownerId?: string | null
  /** Broker time in ms at which it is to be published; 0 while the Network Connection is open. */
  readonly dueAt: number
  /**
   * True where the Server made up the Client Identifier and the Session ends with the Network Connection: the client comes back
   * under another one, and can never take its Will back.
   */
  readonly assigned?: boolean
}

/** An outbound message that was sent and is not yet completed. */
export interface InFlight {
  readonly packetId: number
  /** Null once a QoS 2 message was received (PUBREC): only PUBREL is still to be sent. */
  readonly delivery: Delivery | null
}

/** A QoS 2 message received and not yet released: its identifier, and the digest that tells a repetition; 0 unknown. */
export type InboundPacket = readonly [packetId: number, digest: number]

/** A moment as the machine counts it since it was started, whatever its wall clock says. */
export interface BootTime {
  /** Of this start of the machine: 16 bytes in hexadecimal. */
  readonly bootId: string
  /** Since then, in ms; time asleep counts. */
  readonly sinceBoot: number
}

/** Time that passed by the wall clock alone, and perhaps not at all. */
export interface TimeDoubt {
  /** How much of it. */
  readonly ms: number
  /** Broker time in ms before it: whatever ended by then has ended for sure. */
  readonly since: number
  /** Broker time in ms from which on it counts. */
  readonly until: number
}

/**
 * Consecutive entries of one queue, kept by the store in a few bytes each: their bodies are on disk, and no object
 * stands for them. Only the store that made them can read them; entries leave at the front, by `unpark`.
 */
export interface Parked {
  readonly length: number
  /** Of their messages, by `Message.size`. */
  readonly bytes: number
  /** Whether an entry came by a Shared Subscription. */
  readonly shared: boolean
  /** Whether an entry's message may expire. */
  readonly expires: boolean
  /** When the message of an entry expires, in broker time; `Infinity` for never. 0 is the oldest entry. */
  expiresAt(index: number): number
  /** The `Message.size` of an entry. */
  sizeAt(index: number): number
}

/** What is in flight of a Session whose client is away, in a few bytes each. */
export interface ParkedFlight {
  /** In the order in which they were sent; negative where PUBREC came, and only PUBREL is to be sent. */
  readonly packetIds: Int32Array
  /** The deliveries of the others, in the same order. */
  readonly parked: readonly Parked[]
}

/** What a range of a queue consists of, in order. */
export interface QueueReader {
  delivery(delivery: Delivery): void
  /** The entries of `parked` from the first index up to, not including, the second. */
  parked(parked: Parked, from: number, to: number): void
}

/**
 * A Session's outbound state, read by the store when it writes a checkpoint. Queue entries have positions that
 * only grow: `head` is the oldest entry, `tail` is one past the newest.
 */
export interface OutboundState {
  /** In the order in which they were sent. */
  inFlight(): Iterable<InFlight>
  readonly queueHead: number
  readonly queueTail: number
  /** Tells `reader` the entries from a position up to, not including, another one. */
  readQueue(from: number, to: number, reader: QueueReader): void
  /** The packet identifier after which the search for a free one begins. */
  readonly lastPacketId: number
  /** QoS 2 messages received from the client and not yet released. */
  inbound(): Iterable<InboundPacket>
}

/** What the store asks of the Server. Set once, before `open`. */
export interface StateSource {
  /** Broker time in ms: monotonic, goes on across restarts. */
  now(): number
  /** Wall clock in ms since 1970. */
  wallNow(): number
  /** Null where the machine does not tell. */
  bootTime(): BootTime | null
  /** Undefined when there is no such Session (any more). */
  outbound(sessionId: number): OutboundState | undefined
  /** A block was made durable: everything that waited for it may leave. */
  committed(sequence: number): void
  /** A commit failed: memory is ahead of the disk. Called once; the store is closed afterwards. */
  failed(error: StoreError): void
}

export interface RecoveredSession {
  readonly id: number
  readonly record: SessionRecord
  /** A SmallMap is for whoever takes it up to keep. */
  readonly subscriptions: Iterable<readonly [filter: string, record: SubscriptionRecord]>
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
  /** The machine's own time of the last commit; null where it is not known. */
  readonly bootTime: BootTime | null
  /** What was in doubt then; null for nothing. */
  readonly doubt: TimeDoubt | null
  /** To be gone through once, before anything is recorded: each is put together when its turn comes. */
  readonly sessions: Iterable<RecoveredSession>
  readonly retained: readonly Message[]
  /** The `liveAt` of those that have one, by topic name. */
  readonly retainedLive?: readonly (readonly [topic: string, liveAt: number])[]
  readonly wills: readonly (readonly [clientId: string, record: WillRecord])[]
  /** To be called now and then while much is taken up. Throws StoreError `memory`; the process can only end then. */
  readonly checkMemory?: () => void
  /** The store was of format 1: no Session says which account owns it. */
  readonly withoutOwnerIds?: true
  /** What the operator should know about this start, as a sentence; such as an import. */
  readonly notice?: string
}

export type StoreErrorKind =
  /** Another process has the directory open. */
  | 'locked'
  /** The directory cannot be created, read or written. */
  | 'access'
  /** Written by a version of Godwit (or another program) that this one cannot read. */
  | 'format'
  /** Stored bytes are not what was written. */
  | 'corrupt'
  /** No space left. */
  | 'full'
  /** What is stored takes more memory than this process may have. */
  | 'memory'
  /** Anything else the disk answered. */
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

export class StoreError extends Error {
  override readonly name = 'StoreError'
  readonly kind: StoreErrorKind
  readonly code: ErrorCode
  /** What the operator can do about it, as a sentence. */
  readonly advice: string

  constructor(kind: StoreErrorKind, message: string, advice: string, options?: ErrorOptions) {
    super(message, options)
    this.kind = kind
    this.code = STORE_ERROR_CODES[kind]
    this.advice = advice
  }
}

export interface StoreFigures {
  /** Commits since the store was opened. */
  commits: number
  /** Bytes that stored messages with their bodies in memory take, with what JavaScript adds. */
  residentBytes: number
  /** Bytes of message bodies that are stored and referenced. */
  storedBytes: number
  /** Bytes that entries of queues and in flight take in memory beside the bodies, as `countEntries` was told. */
  entryBytes: number
}

export interface Store {
  /** Sequence of the block being filled: what is recorded next is durable with it. */
  readonly openSequence: number
  /** Sequence of the newest block that holds a record: `openSequence`, or one less while the open block is empty. */
  readonly recordedSequence: number
  readonly committedSequence: number
  /** Recorded and not yet durable. Publishers pause above a limit. */
  readonly pendingBytes: number
  /** Why new work (messages, Sessions) must be refused, such as a nearly full disk; null when all is well. */
  readonly refusal: string | null
  /** Bytes that may still be written until new work is refused, as far as that is known; Infinity where nothing limits it. */
  readonly roomBytes: number
  /** Less room than this is short: those who hold most are to write no more. 0 where nothing limits it. */
  readonly shortRoomBytes: number
  /** The same for a message of so many bytes, which there may be no room for while there is for smaller ones. */
  refusalFor(bytes: number): string | null
  readonly figures: Readonly<StoreFigures>
  /** Of messages that Sessions hold and the store does not have. Counts on while the store is closed. */
  readonly held: HeldBytes
  /** How long commits took, from sealing the block to its being durable, since the store was opened. */
  readonly commitLatency: Histogram

  /** Opens, verifies and recovers. Throws StoreError. May be called again after `failed` or `close`. */
  open(source: StateSource): Promise<Recovered>

  putSession(sessionId: number, record: SessionRecord): void
  /** Also forgets its Subscriptions, in-flight and inbound state; `held` is all that is queued and in flight. */
  deleteSession(sessionId: number, held: Iterable<Message | Parked>): void
  putSubscription(sessionId: number, filter: string, record: SubscriptionRecord): void
  deleteSubscription(sessionId: number, filter: string): void

  /** Appends to the Session's queue; the body is stored with its first delivery. */
  enqueue(sessionId: number, delivery: Delivery): void
  /** The head of the queue is now in flight under this packet identifier. */
  sent(sessionId: number, packetId: number): void
  /** The head of the queue is gone: expired, dropped, or sent at QoS 0. */
  dropped(sessionId: number, message: Message): void
  /** The next entries of the queue are these, all of them, and gone. */
  droppedParked(sessionId: number, parked: Parked): void
  /**
   * PUBREC arrived: the body is no longer needed, the identifier still is. It moves to the end of what is in flight,
   * since PUBRELs go in the order of their PUBRECs.
   */
  received(sessionId: number, packetId: number, message: Message): void
  /** PUBACK or PUBCOMP (or a refusing PUBREC, or a discarded message) ended it; `message` is null after `received`. */
  completed(sessionId: number, packetId: number, message: Message | null): void

  /** Entries of stored Sessions take so many bytes more in memory, or less. */
  countEntries(bytes: number): void
  /** Whether it can drop bodies from memory and read them back. */
  readonly parks: boolean
  /** Whether bodies and entries take more memory than they may: what can be parked should be. */
  readonly isShort: boolean

  /**
   * Parks a delivery that waits or is in flight behind the entries of `onto`, null for none. Returns where it is: `onto`, or a new one
   * when that is full. Null when it cannot be parked (yet), since it is not on disk. Nothing is recorded.
   */
  park(delivery: Delivery, onto: Parked | null): Parked | null
  /** Takes the oldest `count` entries out again. Bodies may be evicted. */
  unpark(parked: Parked, count: number): Delivery[]
  /** One entry, which stays parked: to be used, or given to `restore`, before the next commit. */
  peek(parked: Parked, index: number): Delivery

  /** Also replaces what is known of this identifier. `digest` is below 2^48; 0 for unknown. */
  /**
   * The next entries of the Session's queue are these, all of them: takes them off, and appends those to the queue again that
   * have not expired by `now`. Returns where these are, and tells `gone` the others.
   */
  requeue(sessionId: number, parked: Parked, now: number, gone: (delivery: Delivery) => void): Parked[]

  inboundAdded(sessionId: number, packetId: number, digest: number): void
  inboundRemoved(sessionId: number, packetId: number): void

  /**
   * Retained messages, by `message.topic`. `liveAt` is when the latest message of the topic was published while retained
   * messages were under way to a stored Session, in broker time; 0 for never.
   */
  putRetained(message: Message, liveAt: number): void
  deleteRetained(topic: string): void
  putWill(clientId: string, record: WillRecord): void
  deleteWill(clientId: string): void

  /** The next commit happens though nothing else was recorded: for the times that go with it. */
  recordTime(): void
  putDoubt(doubt: TimeDoubt | null): void
  /** Whether the message was stored before the time that is in doubt, or before this run where none is. */
  isOld(message: Message): boolean
  /**
   * So many ms after `since` did not pass: what was stored before the doubt and expires after `since` expires later. `held` is
   * all that is queued and in flight; retained messages, Sessions and Wills are for the caller to put anew.
   */
  postpone(ms: number, since: number, held: Iterable<Message | Parked>): void

  /** What is recorded until `endWhole` is one fact: no block is sealed in between, but by `close`. They may overlap. */
  beginWhole(): void
  endWhole(): void
  /** Seals the open block and starts its commit, unless one is under way or nothing was recorded. */
  commit(): void
  /**
   * Drops bodies from memory that can be read back, so many bytes if there are as many; memory is short. Returns how many bytes
   * they had, with what JavaScript adds.
   */
  evict(bytes: number): number
  /** Reads evicted bodies back, also of messages that are completed meanwhile. Rejects with StoreError. */
  restore(messages: readonly Message[]): Promise<void>
  /** Commits what is recorded, writes a clean mark, closes. */
  close(): Promise<void>
}
