/**
 * HOT. The messages that wait for one client, within the limits of a queue: messages are dropped when it is
 * full, or when they expire. `DeliveryQueue` below it knows positions and parking only.
 */
import type { Delivery, Message } from '../mqtt/message.ts'
import type { Parked, QueueReader, RecoveredSession } from '../store/store.ts'
import type { InnerSession } from './context.ts'
import { DeliveryQueue, NO_PARKING, type Parking } from './delivery-queue.ts'
import type { DropReason } from './limits.ts'

/** Chunks of 256 positions that one step of `sweep` may look at, and messages that it may drop. */
const SWEEP_CHUNKS = 16
const SWEEP_DROPS = 1024
/** Expired messages behind others that are worth rewriting a queue. */
const REWRITE_MIN = 256
/** Longer queues are not rewritten. One of this length takes 15 ms. */
const REWRITE_MAX = 16_384

/** Messages that a new one may push out of a full queue at once. */
const DROPS_MAX = 1024

// Most Sessions never have anything in it: shared, never added to.
const EMPTY_QUEUE = new DeliveryQueue(NO_PARKING)

/** Limits of one queue, below those that hold for all. */
interface QueueCap {
  readonly messages: number
  readonly bytes: number
}

/** A message of a Shared Subscription. */
export type SharedDelivery = Delivery & { readonly share: string }

export class SessionQueue {
  readonly #session: InnerSession
  #queue = EMPTY_QUEUE
  /** As long as the head is before this position, QoS 0 messages wait behind it. */
  #orderedTo = 0
  /**
   * When `sweep` is to be called, in broker time; null for never, since a number with a fraction takes
   * memory.
   */
  #sweepsAt: number | null = null
  /** The queue's own limits while memory or disk is short; null where those of all hold. */
  #cap: QueueCap | null = null

  constructor(session: InnerSession) {
    this.#session = session
  }

  /** Takes over what the store remembers. */
  recover(from: RecoveredSession): void {
    const { context } = this.#session
    if (from.queueHead === 0 && from.queue.length === 0) return
    this.#queue = new DeliveryQueue(context.store, from.queueHead, from.queue)
    this.#sweepLater()
    for (const entry of from.queue) if ('message' in entry) context.store.held.hold(entry.message)
  }

  get #parking(): Parking {
    const { stored, context } = this.#session
    return stored ? context.store : NO_PARKING
  }

  /** Messages that wait, parked ones included. */
  get length(): number {
    return this.#queue.length
  }

  /** Bytes of the messages that wait, by `message.size`. */
  get bytes(): number {
    return this.#queue.bytes
  }

  /** Memory that entries take besides their messages, unless they are parked. */
  get entryBytes(): number {
    return this.#queue.entryBytes
  }

  get parkedCount(): number {
    return this.#queue.parked
  }

  get parkedBytes(): number {
    return this.#queue.parkedBytes
  }

  /** Position of the oldest message. */
  get head(): number {
    return this.#queue.head
  }

  /** One past the position of the newest message. */
  get tail(): number {
    return this.#queue.tail
  }

  /**
   * Whether QoS 0 messages must wait behind those that wait already, some of which are of QoS 0 themselves.
   */
  get isOrdered(): boolean {
    return this.#queue.head < this.#orderedTo
  }

  /** Makes QoS 0 messages wait behind everything that waits now. */
  order(): void {
    this.#orderedTo = this.#queue.tail
  }

  // ── limits ─────────────────────────────────────────────────────────────────────────────────────────────

  /** Whether the limits let a message wait, if need be in the place of older ones. */
  mayTake({ size }: Message): boolean {
    const { queueFull } = this.#session.context.limits
    return queueFull === 'drop-oldest' ? size <= this.#bytesMax : !this.isFullFor(size)
  }

  get #bytesMax(): number {
    const { queueBytesMax } = this.#session.context.limits
    return this.#cap === null ? queueBytesMax : Math.min(queueBytesMax, this.#cap.bytes)
  }

  get #messagesMax(): number {
    const { queueMessagesMax } = this.#session.context.limits
    return this.#cap === null ? queueMessagesMax : Math.min(queueMessagesMax, this.#cap.messages)
  }

  /** Whether the queue takes no more than it held when it was capped, since memory or disk is short. */
  get isCapped(): boolean {
    return this.#cap !== null
  }

  /**
   * Makes the queue full with its present content: from now on `queue_full` decides about the next message.
   */
  cap(): void {
    this.#cap ??= { messages: Math.max(1, this.#queue.length), bytes: this.#queue.bytes }
  }

  /** Lifts the cap: the limits of all queues hold again. */
  uncap(): void {
    this.#cap = null
  }

  /** Whether one more message of this size exceeds the limits. Expired messages do not count. */
  isFullFor(size: number): boolean {
    const { context } = this.#session
    const queue = this.#queue
    const messagesMax = this.#messagesMax
    const bytesMax = this.#bytesMax
    const isFull =
      queue.length - queue.expired >= messagesMax || queue.bytes - queue.expiredBytes + size > bytesMax
    // While time is in doubt, no more is counted as expired: it may not have expired after all.
    if (!isFull || queue.nextExpiry > context.now() || context.isInDoubt) return isFull
    queue.sweep(context.now())
    return queue.length - queue.expired >= messagesMax || queue.bytes - queue.expiredBytes + size > bytesMax
  }

  // ── in ─────────────────────────────────────────────────────────────────────────────────────────────────

  /** Adds a message, or drops it or older ones where the queue is full. */
  push(delivery: Delivery): void {
    const session = this.#session
    const { context } = session
    const { message } = delivery
    const { size, expiresAt } = message
    const isFull = this.isFullFor(size)
    if (isFull) {
      if (context.limits.queueFull !== 'drop-oldest' || size > this.#bytesMax) {
        context.dropped(session, 'queue-full', delivery)
        return
      }
      this.#makeRoom(size)
      // A listener that was told of a dropped message may have ended the Session.
      if (session.ended) return
    }
    message.own()
    if (session.stored) context.store.enqueue(session.id, delivery)
    // Other Sessions may have it stored: as far as the store knows, its body could be dropped from memory.
    else message.holders++
    context.store.held.hold(message)
    session.changed()
    if (this.#queue === EMPTY_QUEUE) this.#queue = new DeliveryQueue(this.#parking)
    this.#queue.push(delivery)
    if (expiresAt < (this.#sweepsAt ?? Number.POSITIVE_INFINITY)) this.#sweepLater()
    if (!isFull) return
    // The dropped messages may have held back others at QoS 0, which need no slot.
    session.pump()
    context.headDropped(session)
  }

  /** Adds a message that QoS 0 messages after it may not pass. */
  pushOrdered(delivery: Delivery): void {
    this.push(delivery)
    this.order()
  }

  /**
   * Drops the oldest messages until one of this size fits. A large message may take the place of a million
   * small ones: then it is queued before the last of them are dropped.
   */
  #makeRoom(size: number): void {
    for (let count = 0; this.isFullFor(size); count++) {
      if (count === DROPS_MAX) {
        this.#dropLater()
        return
      }
      this.dropHead('queue-full')
    }
  }

  #dropLater(): void {
    const session = this.#session
    const { context } = session
    context.later(() => {
      const { queueMessagesMax, queueBytesMax } = context.limits
      if (session.ended) return
      const queue = this.#queue
      const isOver = (): boolean =>
        queue.length - queue.expired > queueMessagesMax || queue.bytes - queue.expiredBytes > queueBytesMax
      for (let count = 0; count < DROPS_MAX && !session.ended && isOver(); count++)
        this.dropHead('queue-full')
      if (session.ended) return
      if (isOver()) this.#dropLater()
      // The dropped messages may have held back others at QoS 0, which need no slot.
      else session.pump()
      context.headDropped(session)
    })
  }

  // ── out ────────────────────────────────────────────────────────────────────────────────────────────────

  /** The oldest message; undefined when nothing waits. */
  peek(): Delivery | undefined {
    return this.#queue.peek()
  }

  /** Takes the oldest message off, and records nothing in the store. */
  shift(): Delivery {
    const session = this.#session
    const delivery = this.#queue.shift()!
    session.changed()
    session.context.store.held.letGo(delivery.message)
    if (!session.stored) delivery.message.holders--
    return delivery
  }

  /** Takes the oldest message off: another Session has it, or it was sent at QoS 0. */
  remove(): void {
    const { message } = this.shift()
    const { id, stored, context } = this.#session
    if (stored) context.store.dropped(id, message)
  }

  /** Drops the oldest message, for `reason` unless it has expired. */
  dropHead(reason: DropReason): void {
    const { id, stored, context } = this.#session
    const delivery = this.shift()
    const actual = this.#hasExpired(delivery.message) ? 'expired' : reason
    if (stored) context.store.dropped(id, delivery.message)
    context.dropped(this.#session, actual, delivery)
  }

  /** Takes the oldest message out of a queue that is not stored; null when there is none. */
  takeUnstored(): Delivery | null {
    return this.#session.stored || this.#queue.length === 0 ? null : this.shift()
  }

  /**
   * The oldest message that waits and was never sent, where it came by a Shared Subscription; else null.
   * It may go to another member (section 4.8.2); what is in flight may not [MQTT-4.8.2-4]. 'expired' where
   * more messages before it have expired than one step may drop: ask again later.
   */
  oldestShared(): SharedDelivery | 'expired' | null {
    const { context } = this.#session
    for (let dropped = 0; ; dropped++) {
      const delivery = this.#queue.peek()
      if (delivery === undefined) return null
      if (delivery.message.expiresAt > context.now()) return isShared(delivery) ? delivery : null
      if (context.isInDoubt && context.isDoubtful(delivery.message)) return null
      if (dropped === DROPS_MAX) return 'expired'
      this.dropHead('expired') // [MQTT-3.3.2-5]
    }
  }

  /**
   * Returns the evicted ones of the oldest `count` messages. Stops once the messages it looked at have
   * `bytesMax` bytes.
   */
  evicted(count: number, bytesMax = Number.POSITIVE_INFINITY): Message[] {
    this.#queue.unpark(count)
    const evicted: Message[] = []
    const last = Math.min(this.#queue.tail, this.#queue.head + count)
    let bytes = 0
    for (let position = this.#queue.head; position < last && bytes < bytesMax; position++) {
      const { message } = this.#queue.at(position)
      if (message.evicted) evicted.push(message)
      bytes += message.size
    }
    return evicted
  }

  /** Adds the newest `count` messages whose bodies are in memory to `messages`. */
  sample(count: number, messages: Message[]): void {
    const from = Math.max(this.#queue.head, this.#queue.tail - count)
    for (let position = this.#queue.tail - 1; position >= from; position--) {
      const { message } = this.#queue.at(position)
      if (!message.evicted) messages.push(message)
    }
  }

  // ── what expires while it waits ────────────────────────────────────────────────────────────────────────

  /** Whether a message has expired for certain. */
  #hasExpired(message: Message): boolean {
    const { context } = this.#session
    if (message.expiresAt > context.now()) return false
    return !context.isInDoubt || !context.isDoubtful(message)
  }

  #sweepLater(): void {
    const { nextExpiry } = this.#queue
    this.#sweepsAt = nextExpiry === Number.POSITIVE_INFINITY ? null : nextExpiry
    if (this.#sweepsAt !== null) this.#session.context.sweepAt(this.#session, nextExpiry)
  }

  /**
   * Drops expired messages in bounded steps: at the head at once, behind it by rewriting the queue when that
   * is worth while. Returns whether there is more to do at once.
   */
  sweep(): boolean {
    const queue = this.#queue
    const { context } = this.#session
    const now = context.now()
    if (context.isInDoubt) {
      this.#sweepLater()
      return false
    }
    queue.sweep(now, SWEEP_CHUNKS)
    for (let count = 0; count < SWEEP_DROPS && queue.expired > 0; count++) {
      if (!this.#hasExpired(queue.peek()!.message)) break
      this.dropHead('expired')
      if (this.#session.ended) return false
    }
    const { expired, length } = queue
    const isHead = expired > 0 && this.#hasExpired(queue.peek()!.message)
    if (!isHead && expired >= REWRITE_MIN && expired * 2 >= length - expired && length <= REWRITE_MAX) {
      this.#rewrite()
    }
    if (isHead || queue.nextExpiry <= now) return true
    this.#sweepLater()
    return false
  }

  /** Takes everything off and puts back what has not expired, in one commit: positions have no gaps. */
  #rewrite(): void {
    const session = this.#session
    const { id, stored, context } = session
    const { store } = context
    const now = context.now()
    const kept: (Delivery | Parked)[] = []
    const gone = (delivery: Delivery): void => context.dropped(session, 'expired', delivery)
    for (const entry of this.#queue.parts()) {
      if (!('message' in entry)) {
        kept.push(...store.requeue(id, entry, now, gone))
        continue
      }
      const isKept = !this.#hasExpired(entry.message)
      if (stored) store.dropped(id, entry.message)
      if (!isKept) {
        store.held.letGo(entry.message)
        if (!stored) entry.message.holders--
        gone(entry)
        continue
      }
      if (stored) store.enqueue(id, entry)
      kept.push(entry)
    }
    this.#queue.release()
    this.#queue = new DeliveryQueue(this.#parking, this.#queue.tail, kept)
    session.changed()
    if (this.#orderedTo > 0) this.order()
  }

  // ── parking, the end, and the store's view ─────────────────────────────────────────────────────────────

  /** Parks about `most` entries. Returns how many were parked; fewer means that nothing is left. */
  park(most: number): number {
    return this.#queue.park(most)
  }

  /** The oldest entries, where they are parked; else null. */
  get parkedHead(): Parked | null {
    return this.#queue.parkedHead
  }

  /** Drops the entries of `parkedHead`. */
  dropParkedHead(parked: Parked): void {
    this.#queue.shiftParked()
    this.#session.context.store.droppedParked(this.#session.id, parked)
  }

  /** Releases all messages of a Session that has ended. */
  forget(): void {
    const { held } = this.#session.context.store
    if (this.#queue.length > 0) {
      for (const entry of this.#queue.parts()) if ('message' in entry) held.letGo(entry.message)
    }
    this.#queue.release()
    this.#queue = EMPTY_QUEUE
  }

  /** Everything in order, parked entries together. */
  *messages(): IterableIterator<Message | Parked> {
    for (const entry of this.#queue.parts()) yield 'message' in entry ? entry.message : entry
  }

  /** The entry at a position from `head` up to, not including, `tail`; throws RangeError elsewhere. */
  at(position: number): Delivery {
    return this.#queue.at(position)
  }

  read(from: number, to: number, reader: QueueReader): void {
    this.#queue.read(from, to, reader)
  }
}

function isShared(delivery: Delivery): delivery is SharedDelivery {
  return delivery.share !== null
}
