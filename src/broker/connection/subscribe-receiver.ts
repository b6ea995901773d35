/**
 * Handles SUBSCRIBE and UNSUBSCRIBE of one Network Connection: checks the whole packet, then works in slices.
 */
import type { FilterReader } from '../../mqtt/codec/filter-reader.ts'
import { encodeExplainedSuback, encodeSuback } from '../../mqtt/codec/subscribe.ts'
import { encodeUnsuback } from '../../mqtt/codec/unsubscribe.ts'
import { variableByteIntegerBytes } from '../../mqtt/field.ts'
import { CHARACTER_BITS } from '../../mqtt/meter.ts'
import type { ProtocolVersion, SubscribeRequest } from '../../mqtt/packet.ts'
import { ProtocolError, Reason } from '../../mqtt/reason.ts'
import { innerFilter } from '../../routing/filter.ts'
import type { Session } from '../../session/session.ts'
import type { ClientView } from '../boundary/policy.ts'
import type { ServerParts } from '../sessions/server-parts.ts'
import type { Unavailable } from '../sessions/subscribe.ts'
import type { ServerState } from '../state/server-state.ts'
import { SLICE_UNITS } from '../state/work.ts'
import type { Input } from './input.ts'
import type { PacketSender } from './packet-sender.ts'

/** Bytes of SUBACK and UNSUBACK besides fixed header and Reason Codes: packet identifier, no properties. */
const SUBACK_BYTES = 3

/** The most topic filters of a slice, and their characters. Their work is known only afterwards. */
const SLICE_FILTERS = 256
const SLICE_CHARACTERS = 65_536

/** The work to read and check a topic filter, in units besides those for its characters. */
const CHECK_UNITS = 4

/** One packet that is being handled. */
interface Handled {
  readonly reader: FilterReader
  /** Whether a QoS 2 message of this connection has the packet identifier. */
  readonly isInUse: boolean
  /** Number of topic filters that were checked so far. */
  count: number
  /**
   * The reason to refuse the packet, once all of it was read; a malformed part further on takes precedence.
   */
  invalid: ProtocolError | null
  /** The first topic filter that needs a feature that is not available, and the feature. */
  unavailable: Unavailable | null
  readonly reasonCodes: number[]
  /** Why the first refused Subscription to a queue was refused; null for none. */
  reason: string | null
  /** The commit of the queues that were declared; 0 for none. */
  durableAt: number
}

export class SubscribeReceiver {
  readonly #state: ServerState
  readonly #parts: ServerParts
  readonly #input: Input
  readonly #sender: PacketSender
  readonly #session: Session
  readonly #view: ClientView
  readonly #version: ProtocolVersion
  readonly #isBridge: boolean
  #handled: Handled | null = null

  /** `isBridge`: a bridge before 5.0, which cannot ask for No Local and Retain As Published. */
  constructor(
    state: ServerState,
    parts: ServerParts,
    input: Input,
    sender: PacketSender,
    session: Session,
    view: ClientView,
    isBridge: boolean,
  ) {
    this.#state = state
    this.#parts = parts
    this.#input = input
    this.#sender = sender
    this.#session = session
    this.#view = view
    this.#version = view.protocolVersion
    this.#isBridge = isBridge
  }

  /** Memory of a packet that is handled in slices. */
  get heldBytes(): number {
    return this.#handled?.reader.ownBytes ?? 0
  }

  /**
   * Handles SUBSCRIBE. `isInUse`: a QoS 2 message has its packet identifier, so every topic filter is refused
   * with 0x91. Throws ProtocolError before anything is done, now or in a later turn.
   */
  subscribe(reader: FilterReader, isInUse: boolean): void {
    this.#check(this.#begin(reader, isInUse), true)
  }

  /** Handles UNSUBSCRIBE in the same way. */
  unsubscribe(reader: FilterReader, isInUse: boolean): void {
    this.#check(this.#begin(reader, isInUse), false)
  }

  #begin(reader: FilterReader, isInUse: boolean): Handled {
    this.#handled = {
      reader,
      isInUse,
      count: 0,
      invalid: null,
      unavailable: null,
      reasonCodes: [],
      reason: null,
      durableAt: 0,
    }
    return this.#handled
  }

  /** Goes on in a later turn. Copies the packet, since others are read into its memory by then. */
  #later(handled: Handled, action: () => void): void {
    handled.reader.own()
    this.#input.later(action)
  }

  /**
   * Reads and checks the whole packet, then carries it out. Usually it is small, and all is done in one turn.
   */
  #check(handled: Handled, isSubscribe: boolean): void {
    const { reader } = handled
    const { subscribing } = this.#parts
    const { work } = this.#state
    const until = work.units + SLICE_UNITS
    while (reader.next()) {
      handled.count++
      work.units += CHECK_UNITS + (reader.filter.length >>> (CHARACTER_BITS - 1))
      handled.invalid ??= subscribing.invalid(reader.filter, isSubscribe && reader.noLocal)
      if (isSubscribe) handled.unavailable ??= subscribing.unavailable(reader.filter)
      if (work.units < until) continue
      this.#later(handled, () => this.#check(handled, isSubscribe))
      return
    }
    reader.rewind()
    this.#expectRoomFor(handled.count)
    if (isSubscribe) this.#subscribeChecked(handled)
    else this.#unsubscribeChecked(handled)
  }

  #subscribeChecked(handled: Handled): void {
    const { reader, unavailable } = handled
    if (handled.invalid !== null) throw handled.invalid
    if (this.#isInUse(handled)) {
      this.#answer(handled, encodeSuback, 0)
      return
    }
    if (this.#version === 5) {
      const { subscriptionIdentifier } = reader
      this.#parts.subscribing.expectAvailable(this.#session, subscriptionIdentifier, unavailable)
    }
    if (this.#input.rates?.refuses('subscribe', handled.count) === true) {
      for (let index = 0; index < handled.count; index++) handled.reasonCodes.push(Reason.QuotaExceeded)
      this.#answer(handled, encodeSuback, 0)
      return
    }
    this.#subscribeFrom(handled)
  }

  /** Subscribes to the topic filters that have no Reason Code yet, slice by slice, then answers all. */
  #subscribeFrom(handled: Handled): void {
    const { reader, reasonCodes } = handled
    const from = reasonCodes.length
    const requests: SubscribeRequest[] = []
    for (let left = SLICE_CHARACTERS; left > 0 && requests.length < SLICE_FILTERS && reader.next(); ) {
      left -= reader.filter.length
      requests.push(this.#isBridge ? bridgeRequest(reader.request) : reader.request)
    }
    const decisions = this.#parts.subscribing.authorize(this.#view, requests)
    if (decisions instanceof Promise) reader.own()
    this.#input.whenAnswered(decisions, (decided) => {
      const session = this.#session
      const { subscribing, retainedDelivery, backlog } = this.#parts
      const { subscriptionIdentifier: identifier, userProperties } = reader
      const done = subscribing.subscribe(this.#view, session, requests, identifier, decided, userProperties)
      for (const reasonCode of done.reasonCodes) reasonCodes.push(reasonCode)
      handled.reason ??= done.reason
      handled.durableAt = Math.max(handled.durableAt, done.durableAt)
      const isLast = reasonCodes.length === handled.count
      if (from > 0 || !isLast) retainedDelivery.enlist(session, done.wanting, identifier)
      if (!isLast) {
        this.#later(handled, () => this.#subscribeFrom(handled))
        return
      }
      this.#suback(handled, Math.max(session.durableAt, handled.durableAt))
      if (from === 0) retainedDelivery.start(session, done.wanting, identifier)
      else retainedDelivery.resume(session)
      backlog.resume(session)
    })
  }

  #unsubscribeChecked(handled: Handled): void {
    if (this.#isInUse(handled)) {
      this.#answer(handled, encodeUnsuback, 0)
      return
    }
    if (handled.invalid !== null) throw handled.invalid
    this.#unsubscribeFrom(handled)
  }

  #unsubscribeFrom(handled: Handled): void {
    const { reader, reasonCodes } = handled
    const session = this.#session
    const { work } = this.#state
    const until = work.units + SLICE_UNITS
    while (reader.next()) {
      reasonCodes.push(this.#parts.subscribing.unsubscribe(this.#view, session, reader.filter))
      if (work.units < until) continue
      this.#later(handled, () => this.#unsubscribeFrom(handled))
      return
    }
    this.#answer(handled, encodeUnsuback, session.durableAt)
  }

  /** Whether the packet identifier is in use, which is then the Reason Code for every topic filter. */
  #isInUse({ isInUse, count, reasonCodes }: Handled): boolean {
    if (!isInUse) return false
    for (let index = 0; index < count; index++) reasonCodes.push(Reason.PacketIdentifierInUse)
    return true
  }

  /** Answers SUBSCRIBE, and says why a queue refused a Subscription where the client hears it. */
  #suback(handled: Handled, durableAt: number): void {
    const { reader, reasonCodes, reason } = handled
    if (reason === null || !this.#sender.explains) {
      this.#answer(handled, encodeSuback, durableAt)
      return
    }
    this.#handled = null
    const { maximumPacketSize } = this.#sender
    const bytes = encodeExplainedSuback(reader.packetId, reasonCodes, reason, maximumPacketSize)
    this.#sender.send(bytes, durableAt)
  }

  #answer({ reader, reasonCodes }: Handled, encode: typeof encodeSuback, durableAt: number): void {
    this.#handled = null
    this.#sender.send(encode(this.#version, reader.packetId, reasonCodes), durableAt)
  }

  /**
   * Throws if the answer, a Reason Code for each topic filter, would exceed the client's Maximum Packet Size
   * [MQTT-3.1.2-24].
   */
  #expectRoomFor(reasonCodes: number): void {
    const remaining = SUBACK_BYTES + reasonCodes
    if (1 + variableByteIntegerBytes(remaining) + remaining <= this.#sender.maximumPacketSize) return
    throw new ProtocolError(
      Reason.PacketTooLarge,
      'MQTT-3.1.2-24',
      `no room to answer ${reasonCodes} topic filters within the client's Maximum Packet Size`,
      'clientMaximumPacketSize',
    )
  }
}

/**
 * Adds the options that a bridge means: its own messages do not come back, and retained ones stay retained.
 */
function bridgeRequest(request: SubscribeRequest): SubscribeRequest {
  // A Shared Subscription must not have No Local [MQTT-3.8.3-4].
  const noLocal = innerFilter(request.filter) === request.filter
  return { ...request, noLocal, retainAsPublished: true }
}
