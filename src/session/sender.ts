/**
 * HOT. Sends a Session's messages over one Network Connection, from attach to detach: first again what was in
 * flight before, then the queue, as far as the client's window and the reader allow.
 */
import type { Delivery, Message } from '../mqtt/message.ts'
import { Reason } from '../mqtt/reason.ts'
import type { InnerSession, OfferOutcome, QueueDelivery, SessionContext, SessionSink } from './context.ts'
import { type InFlightMessages, PACKET_ID_MAX } from './in-flight-messages.ts'
import type { InFlightEntry } from './in-flight-table.ts'
import type { DropReason } from './limits.ts'
import type { SessionQueue } from './session-queue.ts'

/** How many evicted messages are read back from the store at a time. */
const RESTORE_SLICE = 256
/** Bytes of these messages, unless one alone has more. No limit counts them until they are sent. */
const RESTORE_BYTES = 1024 * 1024

// Nearly always there is nothing: shared, never added to.
const NOTHING_TO_RESEND: InFlightEntry[] = []

/** A Session as its sender sees it. */
interface SendingSession extends InnerSession {
  /** The messages in flight: shared by many Sessions, and never added to, until there is any. */
  readonly flight: InFlightMessages
  /** The same, to add to. */
  ownFlight(): InFlightMessages
}

export class Sender {
  readonly sink: SessionSink
  readonly #session: SendingSession
  readonly #context: SessionContext
  readonly #queue: SessionQueue
  /** PUBLISH packets above QoS 0 that may be in flight, those of an earlier connection included. */
  readonly #inFlightMax: number
  /** PUBLISH packets above QoS 0 that may still be sent on this connection (section 4.9). */
  #quota: number
  /** How much the quota may still grow, for a client that started with less than it may have. */
  #growth: number
  /** Messages that were in flight when the client came back and must be sent again; the oldest comes last. */
  #resend = NOTHING_TO_RESEND
  /** A listener of an event may end the connection, and the Session with it, from within `sink.publish`. */
  #isStopped = false

  /** The client may have `window` messages in flight, and starts with `start` of them. */
  constructor(
    session: SendingSession,
    queue: SessionQueue,
    sink: SessionSink,
    inFlightMax: number,
    window: number,
    start: number,
  ) {
    this.#session = session
    this.#context = session.context
    this.#queue = queue
    this.sink = sink
    this.#inFlightMax = Math.min(inFlightMax, PACKET_ID_MAX)
    this.#quota = Math.min(window, start)
    this.#growth = window - this.#quota
  }

  /** Whether something that was in flight before is still to be sent again. */
  get isResending(): boolean {
    return this.#resend.length > 0
  }

  /** Whether nothing waits: a message given now, at QoS 0, would leave now. */
  get isIdle(): boolean {
    return this.#queue.length === 0 && this.#resend.length === 0 && !this.sink.congested
  }

  /** The same for a message above QoS 0, which needs a slot in the window. */
  get hasRoom(): boolean {
    return this.#queue.length === 0 && this.#resend.length === 0 && this.#isWindowOpen && !this.sink.congested
  }

  /** Whether a new message above QoS 0 may be sent. Earlier PUBRELs hold identifiers, but no quota. */
  get #isWindowOpen(): boolean {
    const { queueBytesMax, inFlightBytesMax } = this.#context.limits
    const inFlight = this.#session.flight
    if (this.#quota === 0 || inFlight.size >= this.#inFlightMax) return false
    return inFlight.bytes < queueBytesMax && inFlight.bytes < inFlightBytesMax
  }

  /**
   * Sends again what is in flight, with its packet identifiers and in order [MQTT-4.4.0-1], then the queue.
   */
  start(): void {
    if (this.#session.flight.size > 0) this.#sendAgain()
    this.#session.pump()
  }

  #sendAgain(): void {
    let resend: InFlightEntry[] | null = null
    for (const entry of this.#session.flight.entries()) {
      entry.charged = false
      // PUBREL is outside of the quota and may not wait for it [MQTT-3.3.4-10].
      if (entry.delivery === null) this.sink.pubrel(entry.packetId, 0)
      else if (resend === null) resend = [entry]
      else resend.push(entry)
    }
    if (resend !== null) this.#resend = resend.reverse()
  }

  /** Stops sending, even if it is called from within `pump`. */
  stop(): void {
    this.#isStopped = true
    this.#resend = NOTHING_TO_RESEND
  }

  /** Sends a new message above QoS 0, for which there is room. */
  send(delivery: Delivery, durableAt: number): void {
    const session = this.#session
    const { id, stored } = session
    const context = this.#context
    const packetId = session.flight.freePacketId()
    if (!this.sink.publish(delivery, packetId, false, stored ? session.durableAt : durableAt)) {
      context.dropped(session, 'packet-too-large', delivery)
      return
    }
    if (session.ended) return
    this.#quota--
    session.ownFlight().sent(packetId, delivery)
    if (!stored) return
    context.store.enqueue(id, delivery)
    context.store.sent(id, packetId)
  }

  /** Sends a queue's delivery, for which there is room. */
  offer(delivery: QueueDelivery, durableAt: number): OfferOutcome {
    const session = this.#session
    const { message, qos } = delivery
    if (qos === 0) return this.sink.publish(delivery, 0, false, durableAt) ? 'sent' : 'too-large'
    const packetId = session.flight.freePacketId()
    const waitsFor = session.stored ? session.durableAt : durableAt
    if (!this.sink.publish(delivery, packetId, false, waitsFor)) return 'too-large'
    if (session.ended) return 'no-room'
    this.#quota--
    message.evict()
    session.ownFlight().sent(packetId, delivery)
    if (session.stored) this.#context.store.logs.sent(session.id, packetId, delivery)
    return 'sent'
  }

  /** Sends what may be sent: first again what was in flight, then the queue. */
  pump(): void {
    if (this.#resend.length > 0 && !this.#pumpResend()) return
    const { sink } = this
    const context = this.#context
    const queue = this.#queue
    while (!this.#isStopped && queue.length > 0 && !sink.congested && !sink.pumped()) {
      const delivery = queue.peek()!
      if (delivery.message.expiresAt <= context.now()) {
        // All messages behind it wait as well: the order of a topic is the order of the queue.
        if (context.isInDoubt && context.isDoubtful(delivery.message)) return
        queue.dropHead('expired') // [MQTT-3.3.2-5]
        continue
      }
      if (delivery.qos > 0 && !this.#isWindowOpen) return
      if (delivery.message.evicted) {
        this.#restore(queue.evicted(Math.min(RESTORE_SLICE, this.#quota + 1), RESTORE_BYTES))
        return
      }
      // While it waited, the rights may have changed.
      if (context.checksReceiving && !context.mayReceive(this.#session, delivery.message)) {
        queue.dropHead('not-authorized')
        continue
      }
      this.#sendHead(delivery)
    }
  }

  /** False while something is left to be sent again: nothing new may pass it. */
  #pumpResend(): boolean {
    const { sink } = this
    const context = this.#context
    const resend = this.#resend
    while (this.#resend.length > 0) {
      if (this.#quota === 0 || sink.congested || sink.pumped()) return false
      const entry = resend[resend.length - 1]!
      const { delivery, packetId } = entry
      if (delivery !== null && delivery.isEcho !== true && this.#session.flight.get(packetId) === entry) {
        if (delivery.message.evicted) {
          this.#restoreResend()
          return false
        }
        const isAsked = delivery.source === undefined || delivery.share !== null
        if (context.checksReceiving && isAsked && !context.mayReceive(this.#session, delivery.message)) {
          this.#discard(entry, delivery, 'not-authorized')
        } else if (sink.publish(delivery, packetId, true, 0)) {
          this.#quota--
          entry.charged = true
          if (delivery.source !== undefined) delivery.message.evict()
        } else {
          this.#discard(entry, delivery, 'packet-too-large')
        }
        if (this.#isStopped) return false
      }
      resend.pop()
    }
    this.#resend = NOTHING_TO_RESEND
    return true
  }

  #sendHead(delivery: Delivery): void {
    const session = this.#session
    const { id, stored } = session
    const context = this.#context
    if (delivery.qos === 0) {
      if (!this.sink.publish(delivery, 0, false, 0)) context.dropped(session, 'packet-too-large', delivery)
      if (session.ended) return
      this.#queue.remove()
      delivery.message.forgetEncoded() // others may have it in their queues for long
      return
    }
    const packetId = session.flight.freePacketId()
    // The identifier is durable before it is seen, so that a message sent again after a crash says so with
    // DUP.
    if (!this.sink.publish(delivery, packetId, false, session.durableAt)) {
      this.#queue.dropHead('packet-too-large')
      return
    }
    if (session.ended) return
    this.#queue.shift()
    this.#quota--
    session.ownFlight().sent(packetId, delivery)
    if (stored) context.store.sent(id, packetId)
  }

  #discard(entry: InFlightEntry, delivery: Delivery, reason: DropReason): void {
    this.#session.flight.complete(entry)
    const { source } = delivery
    if (source === undefined) this.#context.dropped(this.#session, reason, delivery)
    else {
      const reasonCode = reason === 'packet-too-large' ? Reason.PacketTooLarge : Reason.NotAuthorized
      this.#context.settled(this.#session, { ...delivery, source }, reasonCode, null)
    }
  }

  #restoreResend(): void {
    const evicted: Message[] = []
    const resend = this.#resend
    const last = Math.max(0, resend.length - RESTORE_SLICE)
    let bytes = 0
    for (let index = resend.length - 1; index >= last && bytes < RESTORE_BYTES; index--) {
      const message = resend[index]!.delivery?.message
      if (message?.evicted === true) evicted.push(message)
      bytes += message?.size ?? 0
    }
    this.#restore(evicted)
  }

  #restore(messages: readonly Message[]): void {
    this.#session.isRestoring = true
    this.#context.restore(this.#session, messages)
  }

  /** Gives the slot of a completed delivery back. */
  completed({ charged }: InFlightEntry): void {
    // This connection's quota does not include messages that an earlier one sent [MQTT-3.3.4-9].
    if (!charged) return
    if (this.#quota > 0 || this.#growth === 0) {
      this.#quota++
      return
    }
    // The window was full, so it gets another slot: it doubles with each round trip that the client keeps up
    // with, and stays as it is for a client that gets a message now and then.
    this.#growth--
    this.#quota = 2
  }
}
