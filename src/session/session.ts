/**
 * HOT. One Session (section 4.1), pure: its Subscriptions, its queue, the messages in flight to its client,
 * and the QoS 2 identifiers it received. It is the only road of a message to a subscriber, online or offline.
 *
 * Everything that must outlive the process is recorded in the store. Everything that must reach the client
 * goes through a `Sender` to the Network Connection that is attached, if any.
 */
import type { Delivery, Message } from '../mqtt/message.ts'
import type { AcknowledgePacket, QoS } from '../mqtt/packet.ts'
import type {
  InboundPacket,
  InFlight,
  OutboundState,
  Parked,
  QueueReader,
  RecoveredSession,
  SessionRecord,
  SubscriptionRecord,
} from '../store/store.ts'
import { SmallMap } from '../structures/small-map.ts'
import type { Consumption, InnerSession, SessionContext, SessionFields, SessionSink } from './context.ts'
import { InFlightMessages, NOTHING_IN_FLIGHT } from './in-flight-messages.ts'
import type { InFlightEntry } from './in-flight-table.ts'
import { dropLeftover, type Leftover, leftoverOf } from './leftover.ts'
import { type AcknowledgeOutcome, answered, isOfQueue, tellRoom } from './queue-deliveries.ts'
import { Sender } from './sender.ts'
import { SessionQueue } from './session-queue.ts'

// Most Sessions have none at any one time, and an empty Map takes two hundred bytes: shared, never added to.
const NO_INBOUND: Map<number, number> = new Map()

export class Session implements OutboundState, InnerSession {
  readonly id: number
  readonly clientId: string
  readonly owner: string | null
  /** Changes only when an account takes over Sessions that were kept under its name. */
  ownerId: string | null
  readonly stored: boolean
  /** Session Expiry Interval of the latest CONNECT or DISCONNECT, in seconds. */
  expirySeconds: number
  /** By topic filter as sent, share prefix included. */
  readonly subscriptions: SmallMap<string, SubscriptionRecord>
  /** Broker time in ms at which the Network Connection ended; 0 while one is open. */
  disconnectedAt = 0
  /** Whether the context was told of a change; the context sets it to false when it has looked. */
  isMarked = false
  isRestoring = false
  /** The `Usage` that counts everything it holds. Belongs to the broker. */
  usage: object | null = null
  /** The consumers of queues that it is. Belongs to the broker; null for none. */
  consumers: Consumption | null = null
  /** Whether a queue's message found no room, since the reader was congested: `room` is to be told. */
  isRoomWanted = false
  /** The Network Connection that it is attached to, as the broker sees it. Belongs to the broker. */
  connection: object | null = null
  /** Once true, no message reaches it, although Routes may still name it. */
  ended = false
  readonly context: SessionContext
  readonly queue: SessionQueue
  flight = NOTHING_IN_FLIGHT

  /** Null while the client is away. */
  sender: Sender | null = null
  /** Digests by packet identifier; 0 where it is not known. */
  #inbound: Map<number, number> = NO_INBOUND

  constructor(
    context: SessionContext,
    fields: SessionFields,
    subscriptions = new SmallMap<string, SubscriptionRecord>(),
  ) {
    this.context = context
    this.subscriptions = subscriptions
    this.id = fields.id
    this.clientId = fields.clientId
    this.owner = fields.owner
    this.ownerId = fields.ownerId
    this.stored = fields.stored
    this.expirySeconds = fields.expirySeconds
    this.queue = new SessionQueue(this)
  }

  /** Makes a Session from the store's records. */
  static recovered(context: SessionContext, from: RecoveredSession): Session {
    const { id, record, subscriptions } = from
    const { clientId, owner, ownerId, expirySeconds } = record
    const fields = { id, clientId, owner, ownerId, stored: true, expirySeconds }
    const isKept = subscriptions instanceof SmallMap
    const session = isKept ? new Session(context, fields, subscriptions) : new Session(context, fields)
    session.disconnectedAt = record.disconnectedAt
    session.queue.recover(from)
    session.flight = InFlightMessages.recovered(session, from)
    for (const [packetId, digest] of from.inbound) session.#ownInbound().set(packetId, digest)
    for (const [filter, record] of subscriptions) {
      if (!isKept) session.subscriptions.set(filter, record)
      // A retained message may wait, and behind it the live one of its topic, at QoS 0.
      if (record.retainedPending === true) session.queue.order()
    }
    return session
  }

  /** The store's record of it, without its queue. */
  record(): SessionRecord {
    return {
      clientId: this.clientId,
      owner: this.owner,
      ownerId: this.ownerId,
      expirySeconds: this.expirySeconds,
      disconnectedAt: this.disconnectedAt,
    }
  }

  changed(): void {
    if (this.isMarked) return
    this.isMarked = true
    this.context.mark(this)
  }

  // ── its state ───────────────────────────────────────────────────────────────────────────────────────

  /** The commit that makes durable what is recorded for this Session now; 0 where it is not stored. */
  get durableAt(): number {
    return this.stored ? this.context.store.openSequence : 0
  }

  get online(): boolean {
    return this.sender !== null
  }

  /** Messages that wait, not counting those in flight. */
  get queueLength(): number {
    return this.queue.length
  }

  get queueBytes(): number {
    return this.queue.bytes
  }

  /** Whether anything waits to be sent, again or for the first time. */
  get hasMore(): boolean {
    return this.queue.length > 0 || this.sender?.isResending === true || this.isRoomWanted
  }

  get inFlightCount(): number {
    return this.flight.count
  }

  /** Bytes of the messages that were sent and may have to be sent again. */
  get inFlightBytes(): number {
    return this.flight.bytes
  }

  /** Bytes of the parked messages, queued and in flight. */
  get parkedBytes(): number {
    return this.queue.parkedBytes + this.flight.parkedBytes
  }

  /** Parked messages, queued and in flight, which take a few bytes each. */
  get parkedCount(): number {
    return this.queue.parkedCount + this.flight.parkedCount
  }

  /** Whether it is online with nothing waiting: a message given now would leave now. */
  get hasRoom(): boolean {
    return this.sender?.hasRoom === true
  }

  /**
   * The same for a message of this QoS: at QoS 0 it needs no slot in the window, but passes nothing that
   * waits.
   */
  hasRoomFor(qos: QoS): boolean {
    return this.sender !== null && (qos > 0 ? this.sender.hasRoom : this.sender.isIdle)
  }

  /** Whether a message of this QoS waits in the queue while the client is away. */
  waitsWhileAway(qos: QoS): boolean {
    return qos > 0 || this.#queuesQos0
  }

  /** Whether a message that is delivered now, at this QoS, would be sent or queued, and not dropped. */
  takes(message: Message, qos: QoS): boolean {
    const sender = this.sender
    if (sender?.sink.immediate === true) return true
    if (this.context.checksReceiving && !this.context.mayReceive(this, message)) return false
    if (qos > 0) return this.hasRoom || this.queue.mayTake(message)
    if (sender === null ? this.#queuesQos0 : this.#waitsInOrder) return this.queue.mayTake(message)
    return sender !== null && !sender.sink.congested
  }

  /** Whether a message that has to wait would push others out, or be refused. */
  queueFullFor(message: Message): boolean {
    return !this.hasRoom && this.queue.isFullFor(message.size)
  }

  /** Whether QoS 0 messages may wait as the others do. */
  get #queuesQos0(): boolean {
    return this.context.limits.queueQos0 && this.stored
  }

  /**
   * Whether a QoS 0 message must not pass those that wait, some of which are of QoS 0 themselves
   * [MQTT-4.6.0-6].
   */
  get #waitsInOrder(): boolean {
    return this.queue.length > 0 && (this.#queuesQos0 || this.queue.isOrdered)
  }

  // ── the Network Connection ──────────────────────────────────────────────────────────────────────────

  /**
   * Attaches a Network Connection: sends again what was in flight, then the queue. `receiveMaximum` is the
   * client's, `inFlightMax` the listener's. The client starts with `start` in flight, and gets more, up to
   * these, for each acknowledgement that ends a full window.
   */
  attach(
    sink: SessionSink,
    receiveMaximum: number,
    inFlightMax = this.context.limits.inFlightMax,
    start = inFlightMax,
  ): void {
    const window = Math.min(receiveMaximum, inFlightMax)
    const sender = new Sender(this, this.queue, sink, inFlightMax, window, start)
    this.sender = sender
    this.disconnectedAt = 0
    this.flight.unpark()
    sender.start()
  }

  /** Detaches the Network Connection. Messages in flight stay in flight. */
  detach(): void {
    this.sender?.stop()
    this.sender = null
    if (this.consumers !== null) {
      this.isRoomWanted = false
      this.flight.forgetEchoes()
      this.context.loosened(this)
    }
    if (this.stored && this.context.store.isMemoryShort) this.flight.park()
  }

  /**
   * Parks about `most` entries, queued and in flight, if the client is away, because memory is short. Returns
   * how many were parked; fewer than `most` means that nothing is left.
   */
  park(most: number): number {
    if (!this.stored || this.sender !== null) return 0
    const count = this.queue.park(most)
    this.changed()
    return count < most ? count + this.flight.park() : count
  }

  /** Sends what may be sent: first again what was in flight, then the queue. */
  pump(): void {
    if (this.sender === null || this.isRestoring) return
    this.sender.pump()
    if (this.consumers !== null) tellRoom(this)
  }

  /** Continues to send once the bodies that the context was asked to restore are back. */
  restored(): void {
    this.isRestoring = false
    this.pump()
  }

  // ── outbound ────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Takes a message for the client. `durableAt` is the commit that must be durable before a message above QoS
   * 0 may be seen, 0 if the message itself is not stored.
   */
  deliver(delivery: Delivery, durableAt: number): void {
    const { context } = this
    const sender = this.sender
    if (sender?.sink.immediate === true) {
      sender.sink.publish(delivery, 0, false, durableAt)
      return
    }
    if (delivery.message.evicted) {
      this.queue.push(delivery) // from a Session that ended: read back when its turn comes
      this.pump()
      return
    }
    if (context.isInDoubt && context.isDoubtful(delivery.message)) {
      this.queue.push(delivery)
      return
    }
    if (context.checksReceiving && !context.mayReceive(this, delivery.message)) {
      context.dropped(this, 'not-authorized', delivery)
      return
    }
    if (delivery.qos === 0) {
      this.#deliverAtMostOnce(delivery)
      return
    }
    if (sender?.hasRoom === true) {
      sender.send(delivery, durableAt)
      return
    }
    this.queue.push(delivery)
  }

  #deliverAtMostOnce(delivery: Delivery): void {
    const sender = this.sender
    if (sender === null) {
      if (this.#queuesQos0) this.queue.push(delivery)
      else this.context.dropped(this, 'offline', delivery)
      return
    }
    if (this.#waitsInOrder) {
      this.queue.pushOrdered(delivery)
      return
    }
    const { sink } = sender
    if (sink.congested) this.context.dropped(this, 'slow-reader', delivery)
    else if (!sink.publish(delivery, 0, false, 0)) this.context.dropped(this, 'packet-too-large', delivery)
  }

  /**
   * Takes a message that must come before the one that is delivered next, whatever their QoS: a retained
   * message, before a live one of its topic. Where it cannot be sent at once it waits in the queue, at QoS 0,
   * too.
   */
  deliverAhead(delivery: Delivery, durableAt: number): void {
    if (this.sender?.sink.immediate === true || this.hasRoomFor(delivery.qos)) {
      this.deliver(delivery, durableAt)
    } else if (this.context.checksReceiving && !this.context.mayReceive(this, delivery.message)) {
      this.context.dropped(this, 'not-authorized', delivery)
    } else this.queue.pushOrdered(delivery)
  }

  // ── the client's acknowledgements ───────────────────────────────────────────────────────────────────

  /**
   * Handles PUBACK. A Reason Code of 0x80 or more (`refused`) ends the delivery, too [MQTT-4.4.0-2]. `packet`
   * is for deliveries of queues.
   */
  puback(packetId: number, refused: boolean, packet: AcknowledgePacket | null = null): AcknowledgeOutcome {
    const entry = this.flight.get(packetId)
    if (entry === null) return 'unknown'
    if (entry.delivery === null || entry.delivery.qos !== 1) return 'wrong-kind'
    if (isOfQueue(entry.delivery)) return answered(this, entry, entry.delivery, packet)
    if (refused) this.context.dropped(this, 'refused-by-client', entry.delivery)
    // A listener may have ended the Session.
    if (!this.ended) this.#complete(entry)
    return 'completed'
  }

  /**
   * Handles PUBREC. On 'received' the caller sends PUBREL, after the commit when this is the first PUBREC. A
   * refusal ends the delivery [MQTT-4.4.0-2].
   */
  pubrec(packetId: number, refused: boolean, packet: AcknowledgePacket | null = null): AcknowledgeOutcome {
    const entry = this.flight.get(packetId)
    if (entry === null) return 'unknown'
    if (entry.delivery === null) return 'received'
    if (entry.delivery.qos !== 2) return 'wrong-kind'
    if (isOfQueue(entry.delivery)) return answered(this, entry, entry.delivery, packet)
    if (refused) {
      this.context.dropped(this, 'refused-by-client', entry.delivery)
      if (!this.ended) this.#complete(entry)
      return 'completed'
    }
    this.flight.received(entry, entry.delivery)
    return 'received'
  }

  /** Handles PUBCOMP. */
  pubcomp(packetId: number): AcknowledgeOutcome {
    const entry = this.flight.get(packetId)
    if (entry === null) return 'unknown'
    if (entry.delivery !== null) return 'wrong-kind'
    this.#complete(entry)
    return 'completed'
  }

  ownFlight(): InFlightMessages {
    if (this.flight === NOTHING_IN_FLIGHT) this.flight = new InFlightMessages(this)
    return this.flight
  }

  #complete(entry: InFlightEntry): void {
    this.flight.complete(entry)
    this.sender?.completed(entry)
    this.pump()
  }

  // ── inbound QoS 2 ───────────────────────────────────────────────────────────────────────────────────

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

  /** Adds a QoS 2 identifier. `digest` tells a repetition of the message from another one; 0 for unknown. */
  addInbound(packetId: number, digest: number): void {
    this.#ownInbound().set(packetId, digest)
    this.changed()
    if (this.stored) this.context.store.inboundAdded(this.id, packetId, digest)
  }

  /** Handles PUBREL; false when the identifier is not known. */
  releaseInbound(packetId: number): boolean {
    if (!this.#inbound.delete(packetId)) return false
    this.changed()
    if (this.stored) this.context.store.inboundRemoved(this.id, packetId)
    return true
  }

  #ownInbound(): Map<number, number> {
    if (this.#inbound === NO_INBOUND) this.#inbound = new Map()
    return this.#inbound
  }

  // ── the end, and the store's view ───────────────────────────────────────────────────────────────────

  /**
   * Releases all messages. Cached Routes may still reference an ended Session and must not keep them alive.
   */
  forget(): void {
    this.queue.forget()
    this.flight.forget()
    this.#inbound = NO_INBOUND
  }

  /**
   * Releases the bodies of what was sent to a client whose Session ends with its Network Connection: they are
   * never sent again. Those of Shared Subscriptions stay, since another member gets them at that end. Returns
   * the bytes.
   */
  forgetSent(): number {
    return this.stored ? 0 : this.flight.forgetBodies()
  }

  /**
   * Messages whose bodies it has in memory: up to `count` of those in flight, and of the newest that wait.
   * None where it is stored: its bodies are the store's.
   */
  sample(count: number): Message[] {
    const messages: Message[] = []
    if (this.stored) return messages
    this.flight.sample(count, messages)
    this.queue.sample(count, messages)
    return messages
  }

  /** Finds the oldest message that an ended Session did not deliver; null when there is none left. */
  leftover(): Leftover | null {
    return leftoverOf(this.flight, this.queue)
  }

  /** Removes what `leftover` returned. */
  dropLeftover(): void {
    dropLeftover(this.flight, this.queue)
  }

  /** All messages that are queued or in flight, for the store. */
  *held(): IterableIterator<Message | Parked> {
    yield* this.flight.messages()
    yield* this.queue.messages()
  }

  inFlight(): Iterable<InFlight> {
    return this.flight.records()
  }

  inbound(): Iterable<InboundPacket> {
    return this.#inbound
  }

  get queueHead(): number {
    return this.queue.head
  }

  get queueTail(): number {
    return this.queue.tail
  }

  readQueue(from: number, to: number, reader: QueueReader): void {
    this.queue.read(from, to, reader)
  }

  get lastPacketId(): number {
    return this.flight.lastPacketId
  }
}

/** The QoS at which a Subscription gets a message [MQTT-3.8.4-8]. */
export function effectiveQoS(published: QoS, granted: QoS): QoS {
  return Math.min(published, granted) as QoS
}
