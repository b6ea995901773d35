/**
 * HOT. Sends packets to the client: answers, and the deliveries of its Session. They are encoded for the
 * client's version and limits, and share one sequence, the output.
 */
import { encodeRefusal } from '../../mqtt/codec/acknowledge.ts'
import { PINGRESP } from '../../mqtt/codec/ping.ts'
import type { Delivery } from '../../mqtt/message.ts'
import type { AcknowledgeType, ProtocolVersion } from '../../mqtt/packet.ts'
import { Reason } from '../../mqtt/reason.ts'
import type { SessionSink } from '../../session/context.ts'
import type { Session } from '../../session/session.ts'
import type { PacketEvent } from '../boundary/events.ts'
import { STANDARD_PACKET_BYTES_MAX } from '../boundary/session-limits.ts'
import type { ServerState } from '../state/server-state.ts'
import { SLICE_UNITS, UNITS } from '../state/work.ts'
import type { Input } from './input.ts'
import type { NetworkConnection } from './network-connection.ts'
import { DeliveryEncoder } from './output/delivery-encoder.ts'
import type { Output } from './output/output.ts'
import { StalledReader } from './output/stalled-reader.ts'
import { acknowledgement, sentPacket, type TracedPacket } from './output/traced-packet.ts'
import type { RateGate } from './rate-gate.ts'

export class PacketSender implements SessionSink {
  version: ProtocolVersion = 4
  /** The client's Maximum Packet Size, in bytes. */
  maximumPacketSize = STANDARD_PACKET_BYTES_MAX
  /** Whether the client hears Reason Strings: 5.0, and Request Problem Information is not 0. */
  explains = false
  /** How many Topic Aliases the Server may use towards the client. */
  aliasMaximum = 0
  /** The Session whose deliveries are sent; null before CONNACK, and once the connection is closed. */
  session: Session | null = null
  readonly #state: ServerState
  readonly #output: Output
  readonly #input: Input
  readonly #connection: NetworkConnection
  /** Made with the first delivery; a client that only publishes has none. */
  #encoder: DeliveryEncoder | null = null
  /** Made once bytes have to wait in the link. */
  #stalledReader: StalledReader | null = null
  /** The count of written packets at which CONNACK has left. */
  #connackAt = 0
  #isRefillDue = false
  /** Whether the link ends once the output is empty. */
  #isEnding = false

  constructor(state: ServerState, output: Output, input: Input, connection: NetworkConnection) {
    this.#state = state
    this.#output = output
    this.#input = input
    this.#connection = connection
  }

  get immediate(): boolean {
    return false
  }

  // ── packets ────────────────────────────────────────────────────────────────────────────────────────────

  #makeEncoder(): DeliveryEncoder {
    this.#encoder = new DeliveryEncoder(
      this.#state.publishSlab,
      this.#output.turnBuffer,
      this.version,
      this.maximumPacketSize,
      this.aliasMaximum,
    )
    return this.#encoder
  }

  publish(delivery: Delivery, packetId: number, dup: boolean, durableAt: number): boolean {
    const encoder = this.#encoder ?? this.#makeEncoder()
    const encoded = encoder.encode(delivery, packetId, dup, this.#state.now())
    if (encoded === null) {
      this.#output.abandon()
      return false // [MQTT-3.1.2-25]
    }
    if (this.#output.pushPart(encoded.buffer, encoded.start, encoded.end, durableAt, 0))
      this.#state.turn.touch(this)
    const { body } = encoder
    if (body !== null) this.#output.pushBody(body)
    const { message, qos } = delivery
    const { counters, events } = this.#state
    if (events.hearsPackets) {
      const bytes = encoded.end - encoded.start + (body?.length ?? 0)
      this.#trace({ packet: 'PUBLISH', bytes, packetId, qos, dup, retain: delivery.retain })
    }
    counters.publishSent++
    counters.publishBytesSent += message.payloadBytes
    if (events.hearsDelivered)
      events.emit('delivered', { clientId: this.#connection.view.clientId, message, qos })
    return true
  }

  /**
   * Sends PUBACK, PUBREC, PUBREL or PUBCOMP. Once written, it gives `credits` back to the client's Receive
   * Maximum.
   */
  acknowledge(
    type: AcknowledgeType,
    packetId: number,
    reasonCode: number,
    durableAt: number,
    credits: number,
  ): void {
    const { turn, events } = this.#state
    if (this.#output.acknowledge(type, this.version, packetId, reasonCode, durableAt, credits))
      turn.touch(this)
    if (events.hearsPackets) this.#trace(acknowledgement(type, this.version, packetId, reasonCode))
  }

  /**
   * Sends PUBACK or PUBREC that refuses a message. It says why where the client hears it and it fits.
   */
  refuse(type: 'puback' | 'pubrec', packetId: number, reasonCode: number, reason: string): void {
    const bytes = this.explains
      ? encodeRefusal(type, packetId, reasonCode, reason, this.maximumPacketSize)
      : null
    if (bytes === null) this.acknowledge(type, packetId, reasonCode, 0, 1)
    else {
      if (this.#output.push(bytes, 0, 1)) this.#state.turn.touch(this)
      if (this.#state.events.hearsPackets) this.#trace(sentPacket(bytes))
    }
  }

  pubrel(packetId: number, durableAt: number): void {
    this.acknowledge('pubrel', packetId, Reason.Success, durableAt, 0)
  }

  pingresp(): void {
    this.send(PINGRESP, 0)
  }

  /** Sends a packet once the commit `durableAt` is durable; 0 for the end of this turn. */
  send(bytes: Buffer, durableAt: number): void {
    if (this.#output.push(bytes, durableAt, 0)) this.#state.turn.touch(this)
    if (this.#state.events.hearsPackets) this.#trace(sentPacket(bytes))
  }

  /** Sends the last packet of a connection, unless it exceeds the client's Maximum Packet Size. */
  sendIfSmall(bytes: Buffer): void {
    if (bytes.length <= this.maximumPacketSize) this.send(bytes, 0) // [MQTT-3.1.2-24]
  }

  /** Sends CONNACK with Success. It waits for the open block, which has the Session and the Will. */
  connack(bytes: Buffer): void {
    this.send(bytes, this.#state.store.openSequence)
    this.#connackAt = this.#output.pushed
  }

  /** Whether CONNACK has left, so that DISCONNECT may follow [MQTT-3.14.0-1]. */
  get hasSentConnack(): boolean {
    return this.#output.written >= this.#connackAt
  }

  #trace(sent: TracedPacket): void {
    const { clientId, link } = this.#connection.view
    const direction: PacketEvent['direction'] = 'sent'
    this.#state.events.emit('packet', { clientId, link, direction, ...sent })
  }

  // ── writing ────────────────────────────────────────────────────────────────────────────────────────────

  flush(): void {
    if (this.#input.isGone) {
      this.#output.discard()
      return
    }
    if (this.#connection.memoryTrackedIndex < 0) this.#state.memoryWatch.track(this.#connection)
    const { rates } = this.#input
    if (rates === null) this.#output.flush()
    else this.#flushCharged(rates)
    this.#afterWrite()
  }

  #flushCharged(rates: RateGate): void {
    const before = this.#state.counters.bytesSent
    this.#output.flush()
    rates.sent(this.#state.counters.bytesSent - before)
  }

  committed(sequence: number): void {
    if (this.#input.isGone) return
    const before = this.#state.counters.bytesSent
    this.#output.release(sequence)
    this.#input.rates?.sent(this.#state.counters.bytesSent - before)
    this.#afterWrite()
  }

  /** Goes on, since the link has written all that it had. */
  drained(): void {
    if (this.#input.isGone) return
    this.#state.turn.begin()
    this.#output.refresh()
    this.sendAgain()
  }

  /** Goes on with answers and deliveries, since there is room or the rate allows it again. */
  sendAgain(): void {
    if (this.#input.isGone) return
    this.#state.turn.begin()
    this.#input.continueReading()
    this.#refill()
  }

  #afterWrite(): void {
    if (this.#connection.link.bufferedBytes > 0) this.#watchReader()
    if (this.#isEnding) {
      if (this.#output.idle) this.#connection.link.end()
      return
    }
    const { session } = this
    if (this.#output.congested) return
    if (this.#input.isHeld) this.#input.continueReadingLater()
    if (session === null || this.#input.rates?.isSendHeld === true) return
    if (session.hasMore || this.#connection.parts.retainedDelivery.waits(session)) this.#refillLater()
  }

  #watchReader(): void {
    const { stalledReaderSeconds } = this.#state.limits
    this.#stalledReader ??= new StalledReader(this.#state, this.#connection.link, stalledReaderSeconds, () =>
      this.#stalled(),
    )
    this.#stalledReader.written()
  }

  #stalled(): void {
    this.#state.turn.begin()
    this.#output.discard()
    this.#connection.close('server', Reason.UnspecifiedError, 'the reader took nothing in time')
    this.#connection.link.destroy()
  }

  // ── deliveries ─────────────────────────────────────────────────────────────────────────────────────────

  /**
   * True also once the client has ended its input: it still gets answers, but deliveries stay in the Session.
   */
  get congested(): boolean {
    return this.#output.congested || this.#input.end !== null || this.#input.rates?.isSendHeld === true
  }

  /**
   * Counts a delivery from the queue. Returns true once the slice is used up; only `deliverFrom` and
   * `#refill` set one.
   */
  pumped(): boolean {
    const { turn, work } = this.#state
    work.units += UNITS.queued
    return work.units >= turn.pumpUntil
  }

  /** Begins to deliver: what waits in the Session first. The numbers are those of `Session.attach`. */
  deliverFrom(session: Session, receiveMaximum: number, inFlightMax: number, start: number): void {
    if (session.consumers !== null) this.#state.queues?.back(session)
    this.#beginPump()
    session.attach(this, receiveMaximum, inFlightMax, start)
    this.#endPump()
    this.#connection.parts.backlog.resume(session)
    this.#connection.parts.retainedDelivery.resume(session)
  }

  /** Bounds the pump to a slice; `#endPump` leaves the rest to later turns. */
  #beginPump(): void {
    const { turn, work } = this.#state
    turn.pumpUntil = work.units + SLICE_UNITS
  }

  #endPump(): void {
    const { turn, work } = this.#state
    const isOver = work.units >= turn.pumpUntil
    turn.pumpUntil = Number.POSITIVE_INFINITY
    if (isOver) this.#refillLater()
  }

  #refillLater(): void {
    if (this.#isRefillDue) return
    this.#isRefillDue = true
    this.#state.turn.continueLater(() => {
      this.#isRefillDue = false
      this.#refill()
    })
  }

  /** Sends more of the Session, and of the retained messages that wait, as far as the reader has room. */
  #refill(): void {
    const { session } = this
    if (session === null || this.#input.phase !== 'open') return
    this.#beginPump()
    session.pump()
    this.#endPump()
    this.#connection.parts.backlog.resume(session)
    this.#connection.parts.retainedDelivery.resume(session)
  }

  // ── the end ────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Stops deliveries, since the connection is closed. Packets that were sent still leave, and are not
   * charged.
   */
  close(): void {
    this.session = null
    this.#isEnding = true
  }

  /** Ends the link once everything is written. */
  endWhenIdle(): void {
    this.#connection.link.pause()
    if (this.#output.idle) this.#connection.link.end()
  }

  /** Drops the output, since the transport is gone. */
  gone(): void {
    this.#output.discard()
    // The bytes in the transport are gone with it, and must not count as a backlog.
    this.#output.refresh()
    this.#stalledReader?.stop()
  }
}
