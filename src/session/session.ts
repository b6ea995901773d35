/**
 * HOT. One Session (section 4.1), pure: its Subscriptions, the QoS 2 identifiers it received, the
 * messages in flight to its client and the queue behind them. The only road of a message to a subscriber,
 * online or offline.
 *
 * What must outlive the process is recorded in the store; what must reach the client goes to the sink of
 * the Network Connection that is attached, if any.
 */
import { type Delivery, Message, NO_TOPIC } from '../mqtt/message.ts'
import type { QoS } from '../mqtt/packet.ts'
import type {
  InboundPacket,
  InFlight,
  OutboundState,
  Parked,
  ParkedFlight,
  QueueReader,
  RecoveredSession,
  SessionRecord,
  Store,
  SubscriptionRecord,
} from '../store/store.ts'
import { SmallMap } from '../structures/small-map.ts'
import { InFlightEntry, InFlightTable } from './in-flight.ts'
import type { DropReason, SessionLimits } from './limits.ts'
import { DeliveryQueue, entryBytes, NO_PARKING, type Parking, parkedAll } from './queue.ts'

/** How many evicted messages are asked back from the store at a time. */
const RESTORE_SLICE = 256
/**
 * ... and of how many bytes, unless one alone has more: what is read back is beyond every budget until it
 * is sent.
 */
const RESTORE_BYTES = 1024 * 1024

const PACKET_ID_MAX = 65_535

/** What an InFlightEntry takes in memory. */
const ENTRY_BYTES = 80
/** Fewer messages in flight are not worth parking: what they are parked in takes as much. */
const FLIGHT_MIN = 4

/** What one step of `Session.sweep` may look at, in chunks of 256 positions, and drop. */
const SWEEP_CHUNKS = 16
const SWEEP_DROPS = 1024
/**
 * Expired messages behind others that are worth writing the queue anew, and the longest queue that is: 15
 * ms.
 */
const REWRITE_MIN = 256
const REWRITE_MAX = 16_384

/** What one message that finds the queue full may push out at once. */
const DROPS_MAX = 1024

/** The Network Connection as its Session sees it. `durableAt` is the commit to wait for; 0 for none. */
export interface SessionSink {
  /** True while so many bytes wait for the reader that nothing more should be added. */
  readonly congested: boolean
  /** Counts a message that waited and is sent now; true when the next ones have to wait for a later turn. */
  pumped(): boolean
  /** True for a subscriber in this process: it takes every message at once and acknowledges nothing. */
  readonly immediate: boolean
  /** False when the packet exceeds the client's Maximum Packet Size and was not sent. */
  publish(delivery: Delivery, packetId: number, dup: boolean, durableAt: number): boolean
  pubrel(packetId: number, durableAt: number): void
}

/** What a Session needs of the Server around it. */
export interface SessionContext {
  readonly limits: SessionLimits
  readonly store: Store
  /** Broker time in ms. */
  now(): number
  dropped(session: Session, reason: DropReason, delivery: Delivery): void
  /** Whether `mayReceive` is to be asked. */
  readonly checksReceiving: boolean
  /** Whether the Session's user may receive this message now. */
  mayReceive(session: Session, message: Message): boolean
  /** Whether `isDoubtful` is to be asked. */
  readonly isInDoubt: boolean
  /** Whether a message has expired only if time passed that is in doubt: it is neither sent nor dropped. */
  isDoubtful(message: Message): boolean
  /** Calls `session.sweep()` at this time or a little later, in broker time: messages in its queue expire. */
  sweepAt(session: Session, time: number): void
  /** Runs `action` in a later turn. */
  later(action: () => void): void
  /** Told that the oldest message that waited was dropped, so that another one is next. */
  headDropped(session: Session): void
  /**
   * Something of its queue, its flight or its inbound identifiers changed, for the first time since
   * `isMarked` was false.
   */
  mark(session: Session): void
  /** Reads evicted bodies back, then calls `session.pump()`. */
  restore(session: Session, messages: readonly Message[]): void
}

export interface SessionFields {
  readonly id: number
  readonly clientId: string
  /** The user that made it; null for anonymous. */
  readonly owner: string | null
  /** The id of the account that owns it; null where the owner has none. */
  readonly ownerId: string | null
  /** Whether it outlives its Network Connection, and so the process. */
  readonly stored: boolean
  readonly expirySeconds: number
}

/** Limits of one queue, below those that hold for all. */
interface QueueCap {
  readonly messages: number
  readonly bytes: number
}

/**
 * Messages that a Session which ended did not deliver: `count` of the kind, more than one only without a
 * Shared Subscription.
 */
export interface Leftover {
  readonly delivery: Delivery
  readonly mayGoToOthers: boolean
  readonly count: number
}

/** What the client's acknowledgement meant. */
export type AcknowledgeOutcome = 'completed' | 'received' | 'unknown' | 'wrong-kind'

// Most Sessions have none of either at any one time, and an empty Map takes two hundred bytes: shared, never added to.
const NO_INBOUND: Map<number, number> = new Map()
const NOTHING_IN_FLIGHT = new InFlightTable()
const NOTHING_TO_RESEND: readonly InFlightEntry[] = Object.freeze([])

/** In the place of a message in flight whose body nobody needs any more. */
const FORGOTTEN = Message.of({ topic: NO_TOPIC, qos: 0, retain: false, publisher: '' }, 0)

export class Session implements OutboundState {
  readonly id: number
  readonly clientId: string
  readonly owner: string | null
  /** Changes only where an account takes over what is kept under its name. */
  ownerId: string | null
  readonly stored: boolean
  /** Session Expiry Interval of the latest CONNECT or DISCONNECT, in seconds. */
  expirySeconds: number
  /** By topic filter as sent, share prefix included. */
  readonly subscriptions: SmallMap<string, SubscriptionRecord>
  /** Broker time in ms at which the Network Connection ended; 0 while one is open. */
  disconnectedAt = 0
  /**
   * Whether the context was told that what it holds has changed; the context sets it to false when it has
   * looked.
   */
  isMarked = false
  /** Where all that it has is counted. Belongs to the broker. */
  usage: object | null = null
  /** It is over: no message reaches it, although Routes may still name it. */
  ended = false

  readonly #context: SessionContext
  /** Digests by packet identifier; 0 where it is not known. */
  #inbound: Map<number, number> = NO_INBOUND
  #inFlight: InFlightTable = NOTHING_IN_FLIGHT
  /** What is in flight where the client is away and that is parked; `#inFlight` is empty then. */
  #parkedFlight: ParkedFlight | null = null
  /** Bytes of the messages in flight, by `message.size`. */
  #inFlightBytes = 0
  #queue: DeliveryQueue
  #lastPacketId = 0
  /** As long as the queue's head is before this position, QoS 0 messages wait behind it. */
  #orderedTo = 0
  #sink: SessionSink | null = null
  /** PUBLISH packets above QoS 0 that may still be sent on this connection (section 4.9). */
  #quota = 0
  /** By as much the quota may still grow, for a client that was given less than it may have. */
  #growth = 0
  /**
   * PUBLISH packets above QoS 0 that may be in flight on this connection; those of an earlier one count,
   * too.
   */
  #inFlightMax = 0
  /** What was in flight when the client came back and is still to be sent again, in order. */
  #resend: readonly InFlightEntry[] = NOTHING_TO_RESEND
  #resent = 0
  #restoring = false
  /** When `sweep` is to be called, in broker time. */
  #sweepsAt = Number.POSITIVE_INFINITY
  /** The queue's own limits while memory or disk is short; null where those of all hold. */
  #cap: QueueCap | null = null

  constructor(
    context: SessionContext,
    fields: SessionFields,
    subscriptions = new SmallMap<string, SubscriptionRecord>(),
  ) {
    this.#context = context
    this.subscriptions = subscriptions
    this.id = fields.id
    this.clientId = fields.clientId
    this.owner = fields.owner
    this.ownerId = fields.ownerId
    this.stored = fields.stored
    this.expirySeconds = fields.expirySeconds
    this.#queue = new DeliveryQueue(this.#parking)
  }

  /** A Session as the store remembers it. */
  static recovered(context: SessionContext, from: RecoveredSession): Session {
    const { id, record, subscriptions, inFlight } = from
    const { clientId, owner, ownerId, expirySeconds } = record
    const fields = { id, clientId, owner, ownerId, stored: true, expirySeconds }
    const isKept = subscriptions instanceof SmallMap
    const session = isKept ? new Session(context, fields, subscriptions) : new Session(context, fields)
    session.disconnectedAt = record.disconnectedAt
    session.#lastPacketId = from.lastPacketId
    session.#queue = new DeliveryQueue(context.store, from.queueHead, from.queue)
    session.#sweepLater()
    for (const entry of from.queue) if ('message' in entry) context.store.held.hold(entry.message)
    if ('packetIds' in inFlight) {
      session.#parkedFlight = inFlight
      for (const { bytes } of inFlight.parked) session.#inFlightBytes += bytes
    } else for (const { packetId, delivery } of inFlight) session.#fly(packetId, delivery, false)
    for (const [packetId, digest] of from.inbound) session.#ownInbound().set(packetId, digest)
    for (const [filter, record] of subscriptions) {
      if (!isKept) session.subscriptions.set(filter, record)
      // What waits may be a retained message, and the live one of its topic behind it, at QoS 0.
      if (record.retainedPending === true) session.#orderedTo = session.#queue.tail
    }
    return session
  }

  /** What the store keeps about it beside its queue. */
  record(): SessionRecord {
    return {
      clientId: this.clientId,
      owner: this.owner,
      ownerId: this.ownerId,
      expirySeconds: this.expirySeconds,
      disconnectedAt: this.disconnectedAt,
    }
  }

  #ownInbound(): Map<number, number> {
    if (this.#inbound === NO_INBOUND) this.#inbound = new Map()
    return this.#inbound
  }

  #ownInFlight(): InFlightTable {
    if (this.#inFlight === NOTHING_IN_FLIGHT) this.#inFlight = new InFlightTable()
    return this.#inFlight
  }

  /** What the store can park of it: nothing where it does not store it. */
  get #parking(): Parking {
    return this.stored ? this.#context.store : NO_PARKING
  }

  /** It is in flight from now on. */
  #fly(packetId: number, delivery: Delivery | null, charged: boolean): void {
    this.#ownInFlight().add(new InFlightEntry(packetId, delivery, charged))
    if (delivery === null) return
    this.#inFlightBytes += delivery.message.size
    const { store } = this.#context
    if (this.stored) store.countEntries(flightBytes(delivery))
    store.held.hold(delivery.message)
    if (!this.isMarked) this.#mark()
  }

  /** Its delivery is not in flight any more, whatever becomes of its packet identifier. */
  #landed(delivery: Delivery | null): void {
    if (!this.isMarked) this.#mark()
    if (delivery === null) return
    this.#inFlightBytes -= delivery.message.size
    const { store } = this.#context
    if (this.stored) store.countEntries(-flightBytes(delivery))
    store.held.letGo(delivery.message)
  }

  #mark(): void {
    this.isMarked = true
    this.#context.mark(this)
  }

  /** The commit that makes durable what is recorded for this Session now; 0 where it is not stored. */
  get durableAt(): number {
    return this.stored ? this.#context.store.openSequence : 0
  }

  get online(): boolean {
    return this.#sink !== null
  }

  /** Messages that wait, not counting those in flight. */
  get queueLength(): number {
    return this.#queue.length
  }

  get queueBytes(): number {
    return this.#queue.bytes
  }

  /** Whether anything waits to be sent, again or for the first time. */
  get hasMore(): boolean {
    return this.#queue.length > 0 || this.#resend.length > 0
  }

  get inFlightCount(): number {
    return this.#inFlight.size + (this.#parkedFlight?.packetIds.length ?? 0)
  }

  /** What entries that wait take in memory beside their messages, unless they are parked. */
  get queueEntryBytes(): number {
    return this.#queue.entryBytes
  }

  /** Bytes of the messages of queue and flight that are parked. */
  get parkedBytes(): number {
    const flight = this.#parkedFlight?.parked.reduce((sum, { bytes }) => sum + bytes, 0) ?? 0
    return this.#queue.parkedBytes + flight
  }

  /** Messages of queue and flight that are parked, and take a few bytes each. */
  get parkedCount(): number {
    return this.#queue.parked + (this.#parkedFlight?.packetIds.length ?? 0)
  }

  /** Bytes of the messages that were sent and may have to be sent again. */
  get inFlightBytes(): number {
    return this.#inFlightBytes
  }

  /** Online, with nothing waiting: a message given now would leave now. */
  get hasRoom(): boolean {
    return (
      this.#sink !== null &&
      this.#queue.length === 0 &&
      this.#resend.length === 0 &&
      this.#windowOpen &&
      !this.#sink.congested
    )
  }

  /**
   * The same for a message of this QoS: at QoS 0 it needs no slot in the window, but it passes nothing
   * that waits.
   */
  hasRoomFor(qos: QoS): boolean {
    if (qos > 0) return this.hasRoom
    const sink = this.#sink
    return sink !== null && this.#queue.length === 0 && this.#resend.length === 0 && !sink.congested
  }

  /** Whether a message of this QoS waits in the queue while the client is away. */
  waitsWhileAway(qos: QoS): boolean {
    return qos > 0 || this.#queuesQos0
  }

  /** Whether a message that is delivered now, at this QoS, would be sent or queued, and not dropped. */
  takes(message: Message, qos: QoS): boolean {
    const sink = this.#sink
    if (sink?.immediate === true) return true
    if (this.#context.checksReceiving && !this.#context.mayReceive(this, message)) return false
    if (qos > 0) return this.hasRoom || this.#mayQueue(message)
    if (sink === null ? this.#queuesQos0 : this.#waitsInOrder) return this.#mayQueue(message)
    return sink !== null && !sink.congested
  }

  /** Whether the queue's limits let it wait, if need be in the place of older ones. */
  #mayQueue({ size }: Message): boolean {
    const { queueFull } = this.#context.limits
    return queueFull === 'drop-oldest' ? size <= this.#queueBytesMax : !this.#isFullFor(size)
  }

  get #queueBytesMax(): number {
    const { queueBytesMax } = this.#context.limits
    return this.#cap === null ? queueBytesMax : Math.min(queueBytesMax, this.#cap.bytes)
  }

  get #queueMessagesMax(): number {
    const { queueMessagesMax } = this.#context.limits
    return this.#cap === null ? queueMessagesMax : Math.min(queueMessagesMax, this.#cap.messages)
  }

  /** Whether the queue takes no more than it held at some time, since memory or disk is short. */
  get isCapped(): boolean {
    return this.#cap !== null
  }

  /** From now on the queue is full with what it holds: `queue_full` says what becomes of the next message. */
  capQueue(): void {
    this.#cap ??= { messages: Math.max(1, this.#queue.length), bytes: this.#queue.bytes }
  }

  uncapQueue(): void {
    this.#cap = null
  }

  /** Whether QoS 0 messages may wait as the others do. */
  get #queuesQos0(): boolean {
    return this.#context.limits.queueQos0 && this.stored
  }

  /**
   * Whether a QoS 0 message must not pass those that wait, some of which are of QoS 0 themselves
   * [MQTT-4.6.0-6].
   */
  get #waitsInOrder(): boolean {
    return this.#queue.length > 0 && (this.#queuesQos0 || this.#queue.head < this.#orderedTo)
  }

  /**
   * Whether a new message above QoS 0 may be sent. PUBRELs of an earlier connection hold identifiers, but
   * no quota.
   */
  get #windowOpen(): boolean {
    const { queueBytesMax, inFlightBytesMax } = this.#context.limits
    const inFlightMax = this.#inFlightMax
    const count = this.#inFlight.size
    if (this.#quota === 0 || count >= inFlightMax || count >= PACKET_ID_MAX) return false
    return this.#inFlightBytes < queueBytesMax && this.#inFlightBytes < inFlightBytesMax
  }

  /** Whether a message that has to wait would push others out, or be refused. */
  queueFullFor(message: Message): boolean {
    return !this.hasRoom && this.#isFullFor(message.size)
  }

  /** Whether so many bytes more are beyond the queue's limits, for which what has expired does not count. */
  #isFullFor(size: number): boolean {
    const queueMessagesMax = this.#queueMessagesMax
    const queueBytesMax = this.#queueBytesMax
    const queue = this.#queue
    const isFull =
      queue.length - queue.expired >= queueMessagesMax ||
      queue.bytes - queue.expiredBytes + size > queueBytesMax
    // While time is in doubt nothing is counted: what did not expire after all would be missing.
    if (!isFull || queue.nextExpiry > this.#context.now() || this.#context.isInDoubt) return isFull
    queue.sweep(this.#context.now())
    return (
      queue.length - queue.expired >= queueMessagesMax ||
      queue.bytes - queue.expiredBytes + size > queueBytesMax
    )
  }

  // ── the Network Connection ─────────────────────────────────────────────────────────────────────────────

  /**
   * The client is here: what was in flight is sent again with its identifiers, in order [MQTT-4.4.0-1],
   * then the queue. `receiveMaximum` is the client's, `inFlightMax` the listener's. The client starts
   * with `start` in flight, and gets more, up to these, for each acknowledgement that ends a full window.
   */
  attach(
    sink: SessionSink,
    receiveMaximum: number,
    inFlightMax = this.#context.limits.inFlightMax,
    start = inFlightMax,
  ): void {
    this.#sink = sink
    this.#inFlightMax = inFlightMax
    const window = Math.min(receiveMaximum, inFlightMax)
    this.#quota = Math.min(window, start)
    this.#growth = window - this.#quota
    this.#resent = 0
    this.#resend = NOTHING_TO_RESEND
    this.disconnectedAt = 0
    if (this.#parkedFlight !== null) this.#unparkFlight(this.#parkedFlight)
    if (this.#inFlight.size > 0) this.#sendAgain(sink)
    this.pump()
  }

  #sendAgain(sink: SessionSink): void {
    let resend: InFlightEntry[] | null = null
    for (const entry of this.#inFlight) {
      entry.charged = false
      // PUBREL is outside of the quota and may not wait for it [MQTT-3.3.4-10].
      if (entry.delivery === null) sink.pubrel(entry.packetId, 0)
      else if (resend === null) resend = [entry]
      else resend.push(entry)
    }
    this.#resend = resend ?? NOTHING_TO_RESEND
  }

  /** The Network Connection is gone; what is in flight stays so. */
  detach(): void {
    this.#sink = null
    this.#quota = 0
    this.#resend = NOTHING_TO_RESEND
    this.#resent = 0
    if (this.stored && this.#context.store.isShort) this.#parkFlight()
  }

  /**
   * Memory is short: parks what waits and what is in flight, about `most` entries, if the client is away.
   * Returns how many that were; less than `most` means that nothing is left.
   */
  park(most: number): number {
    if (!this.stored || this.#sink !== null) return 0
    const count = this.#queue.park(most)
    if (!this.isMarked) this.#mark()
    return count < most ? count + this.#parkFlight() : count
  }

  /** All of it or nothing: what cannot be parked yet is tried again later. */
  #parkFlight(): number {
    const { size } = this.#inFlight
    if (size < FLIGHT_MIN) return 0
    const packetIds = new Int32Array(size)
    const deliveries: Delivery[] = []
    let index = 0
    for (const { packetId, delivery } of this.#inFlight) {
      packetIds[index++] = delivery === null ? -packetId : packetId
      if (delivery !== null) deliveries.push(delivery)
    }
    const parked = parkedAll(this.#context.store, deliveries)
    if (parked === null) return 0
    for (const delivery of deliveries) {
      this.#parking.countEntries(-flightBytes(delivery))
      this.#context.store.held.letGo(delivery.message)
    }
    if (!this.isMarked) this.#mark()
    this.#parkedFlight = { packetIds, parked }
    this.#inFlight = NOTHING_IN_FLIGHT
    return size
  }

  #unparkFlight({ packetIds, parked }: ParkedFlight): void {
    const { store } = this.#context
    const deliveries = parked.flatMap((entries) => store.unpark(entries, entries.length))
    this.#parkedFlight = null
    this.#inFlightBytes = 0
    let next = 0
    for (const packetId of packetIds) {
      if (packetId < 0) this.#fly(-packetId, null, false)
      else this.#fly(packetId, deliveries[next++]!, false)
    }
  }

  // ── outbound ───────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Takes a message for the client. `durableAt` is the commit that must be durable before a message above QoS
   * 0 may be seen, 0 if the message itself is not stored.
   */
  deliver(delivery: Delivery, durableAt: number): void {
    const sink = this.#sink
    if (sink?.immediate === true) {
      sink.publish(delivery, 0, false, durableAt)
      return
    }
    if (delivery.message.evicted) {
      this.#enqueue(delivery) // from a Session that ended: read back when its turn comes
      this.pump()
      return
    }
    if (this.#context.isInDoubt && this.#context.isDoubtful(delivery.message)) {
      this.#enqueue(delivery)
      return
    }
    if (this.#context.checksReceiving && !this.#context.mayReceive(this, delivery.message)) {
      this.#context.dropped(this, 'not-authorized', delivery)
      return
    }
    if (delivery.qos === 0) {
      this.#deliverAtMostOnce(delivery)
      return
    }
    if (sink !== null && this.hasRoom) {
      this.#sendNew(sink, delivery, durableAt)
      return
    }
    this.#enqueue(delivery)
  }

  #deliverAtMostOnce(delivery: Delivery): void {
    const sink = this.#sink
    if (sink === null) {
      if (this.#queuesQos0) this.#enqueue(delivery)
      else this.#context.dropped(this, 'offline', delivery)
      return
    }
    if (this.#waitsInOrder) {
      this.#enqueueInOrder(delivery)
      return
    }
    if (sink.congested) this.#context.dropped(this, 'slow-reader', delivery)
    else if (!sink.publish(delivery, 0, false, 0)) this.#context.dropped(this, 'packet-too-large', delivery)
  }

  #enqueueInOrder(delivery: Delivery): void {
    this.#enqueue(delivery)
    this.#orderedTo = this.#queue.tail
  }

  /**
   * Takes a message that must come before the one that is delivered next, whatever their QoS: a retained
   * message, before a live one of its topic. Where it cannot be sent at once it waits in the queue, at
   * QoS 0, too.
   */
  deliverAhead(delivery: Delivery, durableAt: number): void {
    if (this.#sink?.immediate === true || this.hasRoomFor(delivery.qos)) this.deliver(delivery, durableAt)
    else if (this.#context.checksReceiving && !this.#context.mayReceive(this, delivery.message)) {
      this.#context.dropped(this, 'not-authorized', delivery)
    } else this.#enqueueInOrder(delivery)
  }

  #sendNew(sink: SessionSink, delivery: Delivery, durableAt: number): void {
    const packetId = this.#freePacketId()
    const wait = this.stored ? this.durableAt : durableAt
    if (!sink.publish(delivery, packetId, false, wait)) {
      this.#context.dropped(this, 'packet-too-large', delivery)
      return
    }
    this.#quota--
    this.#lastPacketId = packetId
    this.#fly(packetId, delivery, true)
    if (!this.stored) return
    this.#context.store.enqueue(this.id, delivery)
    this.#context.store.sent(this.id, packetId)
  }

  #enqueue(delivery: Delivery): void {
    const { queueFull } = this.#context.limits
    const { size, expiresAt } = delivery.message
    const isFull = this.#isFullFor(size)
    if (isFull) {
      if (queueFull !== 'drop-oldest' || size > this.#queueBytesMax) {
        this.#context.dropped(this, 'queue-full', delivery)
        return
      }
      this.#makeRoom(size)
    }
    delivery.message.own()
    if (this.stored) this.#context.store.enqueue(this.id, delivery)
    // Other Sessions may have it stored: as far as the store knows, its body could be dropped from memory.
    else delivery.message.holders++
    this.#context.store.held.hold(delivery.message)
    if (!this.isMarked) this.#mark()
    this.#queue.push(delivery)
    if (expiresAt < this.#sweepsAt) this.#sweepLater()
    // What was dropped may have held back messages at QoS 0, which need no slot.
    if (!isFull) return
    if (this.#sink !== null) this.pump()
    this.#context.headDropped(this)
  }

  /**
   * Drops the oldest for so many bytes more. A large message may take the place of a million small ones:
   * then it is here before the last of them have gone.
   */
  #makeRoom(size: number): void {
    for (let count = 0; this.#isFullFor(size); count++) {
      if (count === DROPS_MAX) {
        this.#dropLater()
        return
      }
      this.#dropHead('queue-full')
    }
  }

  #dropLater(): void {
    this.#context.later(() => {
      const { queueMessagesMax, queueBytesMax } = this.#context.limits
      if (this.ended) return
      const queue = this.#queue
      const isOver = (): boolean =>
        queue.length - queue.expired > queueMessagesMax || queue.bytes - queue.expiredBytes > queueBytesMax
      for (let count = 0; count < DROPS_MAX && isOver(); count++) this.#dropHead('queue-full')
      if (isOver()) this.#dropLater()
      // What was dropped may have held back messages at QoS 0, which need no slot.
      else if (this.#sink !== null) this.pump()
      this.#context.headDropped(this)
    })
  }

  /**
   * It has ended, and what it had is passed on: a cached Route may still name it, and must not keep its
   * messages in memory.
   */
  forget(): void {
    const { held } = this.#context.store
    if (this.#queue.length > 0) {
      for (const entry of this.#queue.parts()) if ('message' in entry) held.letGo(entry.message)
    }
    // Where nothing was ever in it, it is as good as a new one.
    if (this.#queue.tail > 0) {
      this.#queue.release()
      this.#queue = new DeliveryQueue(this.#parking)
    }
    if (this.#inFlight.size > 0) for (const { delivery } of this.#inFlight) this.#landed(delivery)
    this.#inFlight = NOTHING_IN_FLIGHT
    this.#parkedFlight = null
    this.#inFlightBytes = 0
    this.#inbound = NO_INBOUND
  }

  /**
   * Lets go of what was sent to a client whose Session ends with its Network Connection: it is never sent
   * again. Those of Shared Subscriptions stay, since another member gets them at that end. Returns the
   * bytes.
   */
  forgetSent(): number {
    if (this.stored) return 0
    const before = this.#inFlightBytes
    for (const entry of this.#inFlight) {
      const { delivery } = entry
      if (delivery === null || delivery.share !== null || delivery.message === FORGOTTEN) continue
      this.#landed(delivery)
      this.#context.store.held.hold(FORGOTTEN)
      entry.delivery = { ...delivery, message: FORGOTTEN }
    }
    if (!this.isMarked) this.#mark()
    return before - this.#inFlightBytes
  }

  /**
   * Messages whose bodies it has in memory: so many of those in flight, and the newest that wait, at
   * most. None where it is stored: its bodies are the store's.
   */
  sample(count: number): Message[] {
    const messages: Message[] = []
    if (this.stored) return messages
    for (const { delivery } of this.#inFlight) {
      if (messages.length === count) break
      if (delivery !== null && !delivery.message.evicted) messages.push(delivery.message)
    }
    const from = Math.max(this.#queue.head, this.#queue.tail - count)
    for (let position = this.#queue.tail - 1; position >= from; position--) {
      const { message } = this.#queue.at(position)
      if (!message.evicted) messages.push(message)
    }
    return messages
  }

  /** Takes the oldest message that waits out of a queue that is not stored; null when there is none. */
  takeWaiting(): Delivery | null {
    return this.stored || this.#queue.length === 0 ? null : this.#shift()
  }

  #shift(): Delivery {
    const delivery = this.#queue.shift()!
    if (!this.isMarked) this.#mark()
    this.#context.store.held.letGo(delivery.message)
    if (!this.stored) delivery.message.holders--
    return delivery
  }

  /** Drops the head of the queue; `reason` is why, unless it has expired. */
  #dropHead(wanted: DropReason): void {
    const delivery = this.#shift()
    const reason = this.#hasExpired(delivery.message) ? 'expired' : wanted
    if (this.stored) this.#context.store.dropped(this.id, delivery.message)
    this.#context.dropped(this, reason, delivery)
  }

  /**
   * The oldest message that waits and was never sent, where it came by a Shared Subscription; else null.
   * It may go to another member (section 4.8.2); what is in flight may not [MQTT-4.8.2-4]. 'expired'
   * where more than one step may drop has expired before it: it is to be asked again later.
   */
  waitingShared(): (Delivery & { readonly share: string }) | 'expired' | null {
    for (let dropped = 0; ; dropped++) {
      const delivery = this.#queue.peek()
      if (delivery === undefined) return null
      if (delivery.message.expiresAt > this.#context.now()) return isShared(delivery) ? delivery : null
      if (this.#context.isInDoubt && this.#context.isDoubtful(delivery.message)) return null
      if (dropped === DROPS_MAX) return 'expired'
      this.#dropHead('expired') // [MQTT-3.3.2-5]
    }
  }

  /** Takes that message out: another Session has it. */
  giveUp(): void {
    const { message } = this.#shift()
    if (this.stored) this.#context.store.dropped(this.id, message)
  }

  /** The evicted ones of the oldest `count` messages that wait. */
  waitingBodies(count: number): Message[] {
    this.#queue.unpark(count)
    const evicted: Message[] = []
    const last = Math.min(this.#queue.tail, this.#queue.head + count)
    for (let position = this.#queue.head; position < last; position++) {
      const { message } = this.#queue.at(position)
      if (message.evicted) evicted.push(message)
    }
    return evicted
  }

  // ── what expires while it waits ────────────────────────────────────────────────────────────────────────

  /** Whether a message has expired for certain. */
  #hasExpired(message: Message): boolean {
    if (message.expiresAt > this.#context.now()) return false
    return !this.#context.isInDoubt || !this.#context.isDoubtful(message)
  }

  #sweepLater(): void {
    this.#sweepsAt = this.#queue.nextExpiry
    if (this.#sweepsAt !== Number.POSITIVE_INFINITY) this.#context.sweepAt(this, this.#sweepsAt)
  }

  /**
   * Gives back what has expired, in bounded steps: at the head of the queue it is dropped; behind it,
   * once that is worth while, the queue is written anew without it. Returns whether there is more to do
   * at once.
   */
  sweep(): boolean {
    const queue = this.#queue
    const now = this.#context.now()
    if (this.#context.isInDoubt) {
      this.#sweepLater()
      return false
    }
    queue.sweep(now, SWEEP_CHUNKS)
    for (let count = 0; count < SWEEP_DROPS && queue.expired > 0; count++) {
      if (!this.#hasExpired(queue.peek()!.message)) break
      this.#dropHead('expired')
    }
    const { expired, length } = queue
    const isHead = expired > 0 && this.#hasExpired(queue.peek()!.message)
    if (!isHead && expired >= REWRITE_MIN && expired * 2 >= length - expired && length <= REWRITE_MAX) {
      this.#rewriteQueue()
    }
    if (isHead || queue.nextExpiry <= now) return true
    this.#sweepLater()
    return false
  }

  /**
   * Takes everything off the queue and puts back what has not expired, in one commit: positions have no
   * gaps.
   */
  #rewriteQueue(): void {
    const { store } = this.#context
    const now = this.#context.now()
    const kept: (Delivery | Parked)[] = []
    const gone = (delivery: Delivery): void => this.#context.dropped(this, 'expired', delivery)
    for (const entry of this.#queue.parts()) {
      if (!('message' in entry)) {
        kept.push(...store.requeue(this.id, entry, now, gone))
        continue
      }
      const isKept = !this.#hasExpired(entry.message)
      if (this.stored) store.dropped(this.id, entry.message)
      if (!isKept) {
        store.held.letGo(entry.message)
        if (!this.stored) entry.message.holders--
        gone(entry)
        continue
      }
      if (this.stored) store.enqueue(this.id, entry)
      kept.push(entry)
    }
    this.#queue.release()
    this.#queue = new DeliveryQueue(this.#parking, this.#queue.tail, kept)
    if (!this.isMarked) this.#mark()
    if (this.#orderedTo > 0) this.#orderedTo = this.#queue.tail
  }

  /**
   * Sends what may be sent: first again what was in flight, then the queue, as far as window and reader
   * allow.
   */
  pump(): void {
    const sink = this.#sink
    if (sink === null || this.#restoring) return
    if (!this.#pumpResend(sink)) return
    while (this.#queue.length > 0 && !sink.congested && !sink.pumped()) {
      const delivery = this.#queue.peek()!
      if (delivery.message.expiresAt <= this.#context.now()) {
        // What is behind it waits as well: the order of a topic is the order of the queue.
        if (this.#context.isInDoubt && this.#context.isDoubtful(delivery.message)) return
        this.#dropHead('expired') // [MQTT-3.3.2-5]
        continue
      }
      if (delivery.qos > 0 && !this.#windowOpen) return
      if (delivery.message.evicted) {
        this.#restoreQueued()
        return
      }
      // While it waited, the rights may have changed.
      if (this.#context.checksReceiving && !this.#context.mayReceive(this, delivery.message)) {
        this.#dropHead('not-authorized')
        continue
      }
      this.#sendHead(sink, delivery)
    }
  }

  /** False while something is left to be sent again: nothing new may pass it. */
  #pumpResend(sink: SessionSink): boolean {
    while (this.#resent < this.#resend.length) {
      if (this.#quota === 0 || sink.congested || sink.pumped()) return false
      const entry = this.#resend[this.#resent]!
      const { delivery, packetId } = entry
      if (delivery !== null && this.#inFlight.get(packetId) === entry) {
        if (delivery.message.evicted) {
          this.#restoreResend()
          return false
        }
        if (this.#context.checksReceiving && !this.#context.mayReceive(this, delivery.message)) {
          this.#discardInFlight(entry, delivery, 'not-authorized')
          this.#resent++
          continue
        }
        if (sink.publish(delivery, packetId, true, 0)) {
          this.#quota--
          entry.charged = true
        } else {
          this.#discardInFlight(entry, delivery, 'packet-too-large')
        }
      }
      this.#resent++
    }
    this.#resend = NOTHING_TO_RESEND
    return true
  }

  #sendHead(sink: SessionSink, delivery: Delivery): void {
    const { store } = this.#context
    if (delivery.qos === 0) {
      if (!sink.publish(delivery, 0, false, 0)) this.#context.dropped(this, 'packet-too-large', delivery)
      this.#shift()
      delivery.message.forgetEncoded() // others may have it in their queues for long
      if (this.stored) store.dropped(this.id, delivery.message)
      return
    }
    const packetId = this.#freePacketId()
    // The identifier is durable before it is seen, so that a message sent again after a crash says so with DUP.
    const sent = sink.publish(delivery, packetId, false, this.durableAt)
    if (!sent) {
      this.#dropHead('packet-too-large')
      return
    }
    this.#shift()
    this.#quota--
    this.#lastPacketId = packetId
    this.#fly(packetId, delivery, true)
    if (this.stored) store.sent(this.id, packetId)
  }

  #discardInFlight(entry: InFlightEntry, delivery: Delivery, reason: DropReason): void {
    this.#inFlight.delete(entry)
    this.#landed(delivery)
    if (this.stored) this.#context.store.completed(this.id, entry.packetId, delivery.message)
    this.#context.dropped(this, reason, delivery)
  }

  #restoreQueued(): void {
    const wanted: Message[] = []
    this.#queue.unpark(Math.min(RESTORE_SLICE, this.#quota + 1))
    const last = Math.min(this.#queue.tail, this.#queue.head + Math.min(RESTORE_SLICE, this.#quota + 1))
    let bytes = 0
    for (let position = this.#queue.head; position < last && bytes < RESTORE_BYTES; position++) {
      const { message } = this.#queue.at(position)
      if (message.evicted) wanted.push(message)
      bytes += message.size
    }
    this.#restore(wanted)
  }

  #restoreResend(): void {
    const wanted: Message[] = []
    const last = Math.min(this.#resend.length, this.#resent + RESTORE_SLICE)
    let bytes = 0
    for (let index = this.#resent; index < last && bytes < RESTORE_BYTES; index++) {
      const message = this.#resend[index]!.delivery?.message
      if (message?.evicted === true) wanted.push(message)
      bytes += message?.size ?? 0
    }
    this.#restore(wanted)
  }

  #restore(messages: readonly Message[]): void {
    this.#restoring = true
    this.#context.restore(this, messages)
  }

  /** The bodies that `restore` asked for are back. */
  restored(): void {
    this.#restoring = false
    this.pump()
  }

  /** The next packet identifier, from 1 upward, that is not in flight [MQTT-2.2.1-4]. */
  #freePacketId(): number {
    let packetId = this.#lastPacketId
    do packetId = packetId === PACKET_ID_MAX ? 1 : packetId + 1
    while (this.#inFlight.get(packetId) !== null)
    return packetId
  }

  // ── the client's acknowledgements ──────────────────────────────────────────────────────────────────────

  /** PUBACK. A Reason Code of 0x80 or more ends the delivery too [MQTT-4.4.0-2]. */
  puback(packetId: number, refused: boolean): AcknowledgeOutcome {
    const entry = this.#inFlight.get(packetId)
    if (entry === null) return 'unknown'
    if (entry.delivery === null || entry.delivery.qos !== 1) return 'wrong-kind'
    if (refused) this.#context.dropped(this, 'refused-by-client', entry.delivery)
    this.#complete(entry)
    return 'completed'
  }

  /**
   * PUBREC. On 'received' the caller sends PUBREL, after the commit when this is the first PUBREC. A
   * refusal ends the delivery [MQTT-4.4.0-2].
   */
  pubrec(packetId: number, refused: boolean): AcknowledgeOutcome {
    const entry = this.#inFlight.get(packetId)
    if (entry === null) return 'unknown'
    if (entry.delivery === null) return 'received'
    if (entry.delivery.qos !== 2) return 'wrong-kind'
    if (refused) {
      this.#context.dropped(this, 'refused-by-client', entry.delivery)
      this.#complete(entry)
      return 'completed'
    }
    const { message } = entry.delivery
    this.#landed(entry.delivery)
    entry.delivery = null
    // PUBRELs go in the order of the PUBRECs [MQTT-4.6.0-4], also when they are sent again.
    this.#inFlight.delete(entry)
    this.#inFlight.add(entry)
    if (this.stored) this.#context.store.received(this.id, packetId, message)
    return 'received'
  }

  /** PUBCOMP. */
  pubcomp(packetId: number): AcknowledgeOutcome {
    const entry = this.#inFlight.get(packetId)
    if (entry === null) return 'unknown'
    if (entry.delivery !== null) return 'wrong-kind'
    this.#complete(entry)
    return 'completed'
  }

  #complete(entry: InFlightEntry): void {
    this.#inFlight.delete(entry)
    this.#landed(entry.delivery)
    // What an earlier connection sent was not taken from this one's quota [MQTT-3.3.4-9].
    if (entry.charged) this.#credit()
    if (this.stored) {
      this.#context.store.completed(this.id, entry.packetId, entry.delivery?.message ?? null)
    }
    this.pump()
  }

  /**
   * Gives a slot back, and another one where the window was full: it doubles with each round trip that
   * the client keeps up with, and stays as it is for one that gets a message now and then.
   */
  #credit(): void {
    if (this.#quota === 0 && this.#growth > 0) {
      this.#growth--
      this.#quota = 2
    } else this.#quota++
  }

  // ── inbound QoS 2 ──────────────────────────────────────────────────────────────────────────────────────

  /** Whether this QoS 2 identifier was received and not yet released. */
  isInbound(packetId: number): boolean {
    return this.#inbound.has(packetId)
  }

  /** The digest of the message that was received under this QoS 2 identifier; 0 where it is not known. */
  inboundDigest(packetId: number): number {
    return this.#inbound.get(packetId) ?? 0
  }

  get inboundCount(): number {
    return this.#inbound.size
  }

  /** `digest` tells a repetition of the message from another one; 0 for unknown. */
  addInbound(packetId: number, digest: number): void {
    this.#ownInbound().set(packetId, digest)
    if (!this.isMarked) this.#mark()
    if (this.stored) this.#context.store.inboundAdded(this.id, packetId, digest)
  }

  /** PUBREL: false when the identifier is not known. */
  releaseInbound(packetId: number): boolean {
    if (!this.#inbound.delete(packetId)) return false
    if (!this.isMarked) this.#mark()
    if (this.stored) this.#context.store.inboundRemoved(this.id, packetId)
    return true
  }

  // ── the end, and the store's view ──────────────────────────────────────────────────────────────────────

  /**
   * Of an ended Session: the oldest message that was not delivered, those in flight first, or all that
   * are parked with it and came by no Shared Subscription; null when there is none left. Of QoS 2 in
   * flight nothing may go to anybody else [MQTT-4.8.2-5]. The body may be evicted.
   */
  leftover(): Leftover | null {
    if (this.#parkedFlight !== null) this.#unparkFlight(this.#parkedFlight)
    for (let oldest = this.#inFlight.oldest; oldest !== null; oldest = this.#inFlight.oldest) {
      const { delivery } = oldest
      if (delivery !== null) return { delivery, mayGoToOthers: delivery.qos < 2, count: 1 }
      this.#dropInFlight(oldest)
    }
    const parked = this.#queue.parkedHead
    if (parked !== null && !parked.shared) {
      const delivery = this.#context.store.peek(parked, 0)
      return { delivery, mayGoToOthers: false, count: parked.length }
    }
    const delivery = this.#queue.peek()
    return delivery === undefined ? null : { delivery, mayGoToOthers: true, count: 1 }
  }

  /** Takes out what `leftover` is. */
  dropLeftover(): void {
    const { oldest } = this.#inFlight
    const parked = this.#queue.parkedHead
    if (oldest !== null) this.#dropInFlight(oldest)
    else if (parked !== null && !parked.shared) {
      this.#queue.shiftParked()
      this.#context.store.droppedParked(this.id, parked)
    } else this.giveUp()
  }

  #dropInFlight(entry: InFlightEntry): void {
    const { delivery, packetId } = entry
    this.#inFlight.delete(entry)
    this.#landed(delivery)
    if (this.stored) this.#context.store.completed(this.id, packetId, delivery?.message ?? null)
  }

  /** All messages of queue and flight, for the store. */
  *held(): IterableIterator<Message | Parked> {
    for (const { delivery } of this.#inFlight) if (delivery !== null) yield delivery.message
    if (this.#parkedFlight !== null) yield* this.#parkedFlight.parked
    for (const entry of this.#queue.parts()) yield 'message' in entry ? entry.message : entry
  }

  /** Of what is parked, each is good until the next commit. */
  inFlight(): Iterable<InFlight> {
    return this.#parkedFlight === null ? this.#inFlight : this.#parkedInFlight(this.#parkedFlight)
  }

  *#parkedInFlight({ packetIds, parked }: ParkedFlight): Generator<InFlight, void, undefined> {
    let chunk = 0
    let index = 0
    for (const packetId of packetIds) {
      if (packetId < 0) {
        yield { packetId: -packetId, delivery: null }
        continue
      }
      if (index === parked[chunk]!.length) {
        chunk++
        index = 0
      }
      yield { packetId, delivery: this.#context.store.peek(parked[chunk]!, index++) }
    }
  }

  inbound(): Iterable<InboundPacket> {
    return this.#inbound
  }

  get queueHead(): number {
    return this.#queue.head
  }

  get queueTail(): number {
    return this.#queue.tail
  }

  /**
   * An entry from `queueHead` up to, not including, `queueTail`; throws RangeError elsewhere. It may be
   * evicted.
   */
  queueAt(position: number): Delivery {
    return this.#queue.at(position)
  }

  readQueue(from: number, to: number, reader: QueueReader): void {
    this.#queue.read(from, to, reader)
  }

  get lastPacketId(): number {
    return this.#lastPacketId
  }
}

/** The QoS at which a Subscription gets a message [MQTT-3.8.4-8]. */
export function effectiveQoS(published: QoS, granted: QoS): QoS {
  return Math.min(published, granted) as QoS
}

/** What a message in flight takes in memory beside its body. */
function flightBytes(delivery: Delivery): number {
  return ENTRY_BYTES + entryBytes(delivery)
}

function isShared(delivery: Delivery): delivery is Delivery & { readonly share: string } {
  return delivery.share !== null
}
