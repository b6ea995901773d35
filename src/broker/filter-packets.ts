/** SUBSCRIBE and UNSUBSCRIBE of one Network Connection: checked whole, done in slices, answered once. */
import { encodeSuback, encodeUnsuback } from '../mqtt/encode.ts'
import { variableByteIntegerBytes } from '../mqtt/field.ts'
import type { ProtocolVersion, SubscribePacket, SubscribeRequest, UnsubscribePacket } from '../mqtt/packet.ts'
import { ProtocolError, Reason } from '../mqtt/reason.ts'
import { innerFilter } from '../routing/filter.ts'
import type { Session } from '../session/session.ts'
import type { ClientView } from './policy.ts'
import type { Rooms } from './rooms.ts'
import type { State } from './state.ts'
import { FILTERS_SLICE } from './subscribe.ts'

/** SUBACK and UNSUBACK beside their Reason Codes and fixed header: packet identifier, no properties. */
const SUBACK_BYTES = 3

/** The Network Connection as this room needs it: none of its further packets is handled before `then` or `action` ran. */
export interface FilterPacketsSink {
  settle<T>(answer: T | Promise<T>, then: (value: T) => void): void
  /** In a later turn, so that others are served meanwhile. */
  later(action: () => void): void
  send(bytes: Buffer, gate: number): void
  /** Whether a QoS 2 message has the packet identifier; see `Inbound.isInUse`. */
  isInUse(packetId: number): boolean
}

export class FilterPackets {
  readonly #state: State
  readonly #rooms: Rooms
  readonly #sink: FilterPacketsSink
  readonly #session: Session
  readonly #view: ClientView
  readonly #version: ProtocolVersion
  readonly #isBridge: boolean
  readonly #maximumPacketSize: number

  /** `isBridge` is for bridges before 5.0, which cannot say No Local and Retain As Published. `maximumPacketSize` is the client's, in bytes. */
  constructor(
    state: State,
    rooms: Rooms,
    sink: FilterPacketsSink,
    session: Session,
    view: ClientView,
    isBridge: boolean,
    maximumPacketSize: number,
  ) {
    this.#state = state
    this.#rooms = rooms
    this.#sink = sink
    this.#session = session
    this.#view = view
    this.#version = view.protocolVersion
    this.#isBridge = isBridge
    this.#maximumPacketSize = maximumPacketSize
  }

  /** Throws ProtocolError before anything is done. */
  subscribe(packet: SubscribePacket): void {
    const { subscribing } = this.#rooms
    this.#expectRoomFor(packet.requests.length)
    subscribing.validate(packet.requests)
    if (this.#sink.isInUse(packet.packetId)) {
      const reasonCodes = packet.requests.map(() => Reason.PacketIdentifierInUse)
      this.#sink.send(encodeSuback(this.#version, packet.packetId, reasonCodes), 0)
      return
    }
    if (this.#version === 5) subscribing.expectAvailable(this.#session, packet)
    this.#subscribeFrom(packet, [])
  }

  /** Goes on behind the requests that have Reason Codes, slice by slice; then answers all of them. */
  #subscribeFrom(packet: SubscribePacket, reasonCodes: number[]): void {
    const from = reasonCodes.length
    const slice = sliceOf(packet.requests, from)
    const requests = this.#isBridge ? slice.map(bridgeRequest) : slice
    const decisions = this.#rooms.subscribing.authorize(this.#view, requests)
    this.#sink.settle(decisions, (decided) => {
      const session = this.#session
      const { subscribing, retained, backlog } = this.#rooms
      const { subscriptionIdentifier: identifier } = packet
      const done = subscribing.subscribe(this.#view, session, requests, identifier, decided)
      reasonCodes.push(...done.reasonCodes)
      const isLast = reasonCodes.length === packet.requests.length
      if (from > 0 || !isLast) retained.enlist(session, done.wanting, identifier)
      if (!isLast) {
        this.#sink.later(() => this.#subscribeFrom(packet, reasonCodes))
        return
      }
      const gate = session.stored ? this.#state.store.openSequence : 0
      this.#sink.send(encodeSuback(this.#version, packet.packetId, reasonCodes), gate)
      if (from === 0) retained.start(session, done.wanting, identifier)
      else retained.resume(session)
      backlog.resume(session)
    })
  }

  /** Throws ProtocolError before anything is done. */
  unsubscribe(packet: UnsubscribePacket): void {
    this.#expectRoomFor(packet.filters.length)
    if (this.#sink.isInUse(packet.packetId)) {
      const reasonCodes = packet.filters.map(() => Reason.PacketIdentifierInUse)
      this.#sink.send(encodeUnsuback(this.#version, packet.packetId, reasonCodes), 0)
      return
    }
    this.#rooms.subscribing.validateFilters(packet.filters)
    this.#unsubscribeFrom(packet, [])
  }

  #unsubscribeFrom(packet: UnsubscribePacket, reasonCodes: number[]): void {
    const session = this.#session
    const filters = sliceOf(packet.filters, reasonCodes.length)
    reasonCodes.push(...this.#rooms.subscribing.unsubscribe(this.#view, session, filters))
    if (reasonCodes.length < packet.filters.length) {
      this.#sink.later(() => this.#unsubscribeFrom(packet, reasonCodes))
      return
    }
    const gate = session.stored ? this.#state.store.openSequence : 0
    this.#sink.send(encodeUnsuback(this.#version, packet.packetId, reasonCodes), gate)
  }

  /** An answer with a code per filter that exceeds the client's Maximum Packet Size may not be sent [MQTT-3.1.2-24]. */
  #expectRoomFor(reasonCodes: number): void {
    const remaining = SUBACK_BYTES + reasonCodes
    if (1 + variableByteIntegerBytes(remaining) + remaining <= this.#maximumPacketSize) return
    throw new ProtocolError(
      Reason.PacketTooLarge,
      'MQTT-3.1.2-24',
      `no room to answer ${reasonCodes} topic filters within the client's Maximum Packet Size`,
      'clientMaximumPacketSize',
    )
  }
}

/** The next filters of a packet that are handled at once. */
function sliceOf<T>(all: readonly T[], from: number): readonly T[] {
  return all.length <= FILTERS_SLICE ? all : all.slice(from, from + FILTERS_SLICE)
}

/** What a bridge means: what it brought is not sent back to it, and what it passes on stays retained. */
function bridgeRequest(request: SubscribeRequest): SubscribeRequest {
  // A Shared Subscription has no No Local [MQTT-3.8.3-4]: its members are others' receivers, too.
  const noLocal = innerFilter(request.filter) === request.filter
  return { ...request, noLocal, retainAsPublished: true }
}
