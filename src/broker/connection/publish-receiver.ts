/** HOT. PUBLISH from the client, and its acknowledgements of ours (sections 3.3 to 3.7, 4.3, 4.9). */
import { acknowledgedCode, acknowledgedId, decodeAcknowledge } from '../../mqtt/codec/acknowledge.ts'
import type { Framer } from '../../mqtt/codec/framer.ts'
import { messageDigest } from '../../mqtt/digest.ts'
import { Message, NO_TOPIC, Topic } from '../../mqtt/message.ts'
import type { AcknowledgePacket, ProtocolVersion, PublishPacket, QoS } from '../../mqtt/packet.ts'
import { PacketType } from '../../mqtt/packet-type.ts'
import { ProtocolError, Reason } from '../../mqtt/reason.ts'
import type { QueueAddress } from '../../mqtt/server-topics.ts'
import { isServerTopic } from '../../mqtt/server-topics.ts'
import { topicLevels } from '../../mqtt/topics.ts'
import { isUtf8Payload } from '../../mqtt/utf8.ts'
import type { Session } from '../../session/session.ts'
import type { Limit } from '../boundary/events.ts'
import { expiryTime } from '../boundary/expiry.ts'
import type { ClientView } from '../boundary/policy.ts'
import type { FanOut } from '../messages/fan-out.ts'
import type { PublishOutcome } from '../messages/publish-outcome.ts'
import type { ServerParts } from '../sessions/server-parts.ts'
import type { QueueDecision } from '../state/queue-port.ts'
import type { ServerState } from '../state/server-state.ts'
import { SLICE_UNITS } from '../state/work.ts'
import { AcknowledgementReceiver, type PublishAnswers } from './acknowledgement-receiver.ts'
import type { Input } from './input.ts'
import type { NetworkConnection } from './network-connection.ts'
import { IncomingAliases } from './output/topic-aliases.ts'
import type { PacketSender } from './packet-sender.ts'
import type { RateGate } from './rate-gate.ts'

const DOLLAR = 0x24

export class PublishReceiver implements PublishAnswers {
  readonly #state: ServerState
  readonly #parts: ServerParts
  readonly #connection: NetworkConnection
  readonly #input: Input
  readonly #sender: PacketSender
  readonly #session: Session
  readonly #view: ClientView
  readonly #version: ProtocolVersion
  /** Null where no rate is set for this client. */
  readonly #rates: RateGate | null
  readonly #aliases: IncomingAliases
  /** QoS 1 and 2 PUBLISH packets not yet acknowledged to the client (section 4.9). */
  #receiving = 0
  /** QoS 2 identifiers that are part of `#receiving`. */
  #receivingIds: Set<number> | null = null
  /** Null until the client acknowledges a message of a queue by PUBLISH. */
  #explicit: AcknowledgementReceiver | null = null
  /** The digest of the QoS 2 message that is being handled; a connection handles one at a time. */
  #digest = 0

  constructor(
    state: ServerState,
    parts: ServerParts,
    connection: NetworkConnection,
    input: Input,
    sender: PacketSender,
    session: Session,
  ) {
    this.#state = state
    this.#parts = parts
    this.#connection = connection
    this.#input = input
    this.#sender = sender
    this.#session = session
    this.#view = connection.view
    this.#version = connection.view.protocolVersion
    this.#rates = input.rates
    this.#aliases = new IncomingAliases(state.limits.topicAliasMaximum)
  }

  /** Bytes of the topic names that the client has aliases for. */
  get aliasBytes(): number {
    return this.#aliases.bytes
  }

  /**
   * Whether a QoS 2 message of this Network Connection has the identifier, until PUBREL [MQTT-2.2.1-3]. Never
   * true before 5.0, which has no Reason Code for it. An identifier of an earlier connection does not count:
   * many clients lose their state with the power and count from 1 again, and would be refused as long as the
   * Session lasts.
   */
  isInUse(packetId: number): boolean {
    return this.#version === 5 && this.#receivingIds?.has(packetId) === true
  }

  /**
   * Counts acknowledgements that were written: their messages no longer count against Receive Maximum.
   */
  credit(count: number): void {
    this.#receiving -= count
  }

  /** Handles PUBLISH. Throws ProtocolError. */
  publish(packet: PublishPacket): void {
    const topic = packet.topicAlias === 0 ? packet.topic! : this.#aliases.resolve(packet)
    this.#state.counters.publishReceived++
    this.#state.counters.publishBytesReceived += packet.end - packet.payloadStart
    if (packet.qos > 0 && !this.#register(packet, topic)) return
    const refusal = this.#refusalOf(packet, topic)
    if (refusal !== null) {
      this.refuse(packet, topic, refusal)
      return
    }
    if (topic.name.charCodeAt(0) === DOLLAR && this.#isAddressed(packet, topic)) return
    if (this.#state.policy.authorizePublish === undefined) this.#route(packet, topic)
    else this.#authorize(packet, topic)
  }

  /** Handles a message for a queue. Returns false for an ordinary topic. */
  #isAddressed(packet: PublishPacket, topic: Topic): boolean {
    const { queues } = this.#state
    const address = queues?.address(topic.name) ?? null
    if (queues === null || address === null) return false
    if (address.kind === 'invalid') {
      // Before 5.0 PUBACK only says that the packet came: a mistaken tag is no reason to lose the connection.
      if (this.#version < 5 && topic.name.startsWith('$ack/')) this.accept(packet, Reason.Success, 0)
      else this.refuse(packet, topic, address.reasonCode, address.sentence)
      return true
    }
    if (address.kind === 'ack') {
      this.#acknowledgements().handle(packet, topic, address)
      return true
    }
    const decision = queues.authorizePublish(this.#view, address, packet.qos, packet.retain)
    if (typeof decision !== 'object') this.#addressed(packet, topic, address, decision)
    else this.#addressLater(withoutViews(packet), topic, address, decision)
    return true
  }

  #acknowledgements(): AcknowledgementReceiver {
    this.#explicit ??= new AcknowledgementReceiver(
      this.#state,
      this.#parts.publisher,
      this.#input,
      this.#session,
      this.#view,
      this,
    )
    return this.#explicit
  }

  #addressLater(
    kept: PublishPacket,
    topic: Topic,
    address: QueueAddress,
    decision: Promise<QueueDecision>,
  ): void {
    this.#input.whenAnswered(decision, (decided) => this.#addressed(kept, topic, address, decided))
  }

  #addressed(packet: PublishPacket, topic: Topic, address: QueueAddress, decision: QueueDecision): void {
    if (decision !== true && decision !== 'may-declare') {
      this.refuse(packet, topic, Reason.NotAuthorized)
      return
    }
    const { retain, properties } = packet
    const given = { retain, properties, publisher: this.#view.clientId }
    const inlet = this.#state.queues!.inletOf(address, decision === 'may-declare', given)
    if ('reasonCode' in inlet) {
      this.refuse(packet, topic, inlet.reasonCode, inlet.reason)
      return
    }
    const inner = address.topic === null ? NO_TOPIC : new Topic(address.topic)
    const message = this.#message({ ...packet, isShared: false }, inner)
    this.#answer(packet, topic, this.#parts.publisher.publishInto(inlet, message, this.#session))
  }

  #authorize(packet: PublishPacket, topic: Topic): void {
    const allowed = this.#state.policy.authorizePublish!(this.#view, topic.name, packet.qos, packet.retain)
    if (typeof allowed === 'object') this.#authorizeLater(allowed, withoutViews(packet), topic)
    else this.#authorized(packet, topic, allowed)
  }

  // Kept apart: a method that contains a closure allocates a context on every call.

  #authorizeLater(allowed: Promise<boolean>, kept: PublishPacket, topic: Topic): void {
    this.#input.whenAnswered(allowed, (allow) => this.#authorized(kept, topic, allow))
  }

  #authorized(packet: PublishPacket, topic: Topic, allowed: boolean): void {
    if (allowed) this.#route(packet, topic)
    else this.refuse(packet, topic, Reason.NotAuthorized)
  }

  /**
   * Counts the packet against Receive Maximum. Returns false for a QoS 2 message that is known already, which
   * is answered here.
   */
  #register(packet: PublishPacket, topic: Topic): boolean {
    const { packetId, qos } = packet
    const isOfThisConnection = qos === 2 && this.#receivingIds?.has(packetId) === true
    if (!isOfThisConnection) {
      if (this.#version === 5 && this.#receiving >= this.#state.limits.receiveMaximum) {
        this.#limited('receiveMaximum', `${this.#receiving} messages are not yet acknowledged`)
        throw new ProtocolError(
          Reason.ReceiveMaximumExceeded,
          'section 3.3.4',
          'more than Receive Maximum messages',
        )
      }
      this.#receiving++
      if (qos === 2) {
        this.#receivingIds ??= new Set()
        this.#receivingIds.add(packetId)
      }
    }
    if (qos !== 2) return true
    this.#digest = messageDigest(packet, topic)
    if (!this.#session.isInbound(packetId)) return true
    return this.#registerAgain(packetId, isOfThisConnection)
  }

  /**
   * Handles a QoS 2 message whose identifier was not released. If it is the same message again, answers it
   * and returns false. Another message shows that the client forgot the first one, as many do that lose their
   * state with the power: the first one was delivered, so this releases its identifier and returns true. In
   * 5.0, within one connection, another message is refused. Only the digest tells them apart, since clients
   * do not set DUP reliably.
   */
  #registerAgain(packetId: number, isOfThisConnection: boolean): boolean {
    const session = this.#session
    const known = session.inboundDigest(packetId)
    if (known === 0 || known === this.#digest) {
      // [MQTT-4.3.3-10]. CONNACK, or the first PUBREC, waits for the commit that made it known.
      this.#sender.acknowledge('pubrec', packetId, Reason.Success, 0, 0)
      return false
    }
    if (isOfThisConnection && this.#version === 5) {
      this.#sender.acknowledge('pubrec', packetId, Reason.PacketIdentifierInUse, 0, 0)
      return false
    }
    session.releaseInbound(packetId)
    return true
  }

  #refusalOf(packet: PublishPacket, topic: Topic): Reason | null {
    const { limits } = this.#state
    if (packet.qos > limits.maximumQoS) this.#throwQoS(packet.qos)
    if (packet.retain && !limits.retainAvailable) this.#throwRetain()
    // A name has at most one level more than bytes, so only long ones are searched for levels.
    const isLong = topic.byteLength > limits.topicBytesMax || topic.byteLength >= limits.topicLevelsMax
    if (isLong && this.#isTopicTooLong(topic)) return Reason.TopicNameInvalid
    if (packet.payloadIsText && !isUtf8Payload(packet.payload)) {
      // PUBACK or PUBREC says so; at QoS 0 the only answer is DISCONNECT (section 3.3.2.3.2).
      if (packet.qos === 0) throw payloadIsNoText()
      return Reason.PayloadFormatInvalid
    }
    if (packet.qos === 1 && this.isInUse(packet.packetId)) return Reason.PacketIdentifierInUse
    if (isServerTopic(topic.name)) return Reason.NotAuthorized
    return this.#rates?.refuses('publish', 1) === true ? Reason.QuotaExceeded : null
  }

  #throwQoS(qos: QoS): never {
    this.#limited('maximumQoS', `QoS ${qos}`)
    throw new ProtocolError(Reason.QoSNotSupported, 'MQTT-3.2.2-11', `QoS ${qos} is not supported`)
  }

  #throwRetain(): never {
    this.#limited('retainAvailable', 'RETAIN')
    throw new ProtocolError(Reason.RetainNotSupported, 'MQTT-3.2.2-14', 'RETAIN is not supported')
  }

  #isTopicTooLong({ byteLength, name }: Topic): boolean {
    const { topicBytesMax, topicLevelsMax } = this.#state.limits
    if (byteLength > topicBytesMax) this.#limited('topicBytesMax', `topic name of ${byteLength} bytes`)
    else if (topicLevels(name) > topicLevelsMax) this.#limited('topicLevelsMax', 'topic name')
    else return false
    return true
  }

  #limited(limit: Limit, detail: string): void {
    this.#state.limited(limit, this.#view.clientId, detail)
  }

  #route(packet: PublishPacket, topic: Topic): void {
    const { router } = this.#state
    if (router.mayTakeLong && !router.prepare(topic, SLICE_UNITS))
      this.#routeLater(withoutViews(packet), topic)
    else this.#admitInOrder(packet, topic)
  }

  /** Looks for matching Subscriptions in slices, since they may be very many. */
  #routeLater(kept: PublishPacket, topic: Topic): void {
    this.#input.later(() => {
      if (this.#state.router.prepare(topic, SLICE_UNITS)) this.#admitInOrder(kept, topic)
      else this.#routeLater(kept, topic)
    })
  }

  /**
   * Queues a QoS 2 message behind others that are being given out: its identifier is recorded together with
   * its first slice.
   */
  #admitInOrder(packet: PublishPacket, topic: Topic): void {
    if (packet.qos === 2 && this.#parts.publisher.mustQueue(topic)) this.#queue(withoutViews(packet), topic)
    else this.#admit(packet, topic)
  }

  #queue(kept: PublishPacket, topic: Topic): void {
    const { publisher } = this.#parts
    this.#input.hold('packet')
    publisher.queue(topic, () =>
      this.#input.resumeWith(() => publisher.admitting(() => this.#admit(kept, topic))),
    )
  }

  #admit(packet: PublishPacket, topic: Topic): void {
    const { publisher } = this.#parts
    const message = this.#message(packet, topic)
    this.#answer(packet, topic, publisher.publish(message, this.#session))
  }

  /** Acknowledges a message that was published, or refuses it. */
  #answer(packet: PublishPacket, topic: Topic, outcome: PublishOutcome): void {
    const { reasonCode, underWay, durableAt } = outcome
    if (reasonCode >= Reason.UnspecifiedError) {
      if (isShortage(outcome.refusedBy)) this.exhausted(packet, topic, reasonCode)
      else this.refuse(packet, topic, reasonCode, outcome.detail)
      return
    }
    const { packetId, qos } = packet
    // The identifier and the fan-out are one fact, in one commit.
    if (qos === 2) this.#session.addInbound(packetId, this.#digest)
    if (underWay === null) this.#acknowledge(qos, packetId, reasonCode, durableAt)
    else this.#follow(underWay, qos, packetId, reasonCode)
  }

  /** Acknowledges a message once the last of its slices was given out. */
  #follow(fanOut: FanOut, qos: QoS, packetId: number, reasonCode: Reason): void {
    this.#input.hold('packet')
    fanOut.done = (durableAt) =>
      this.#input.resumeWith(() => this.#acknowledge(qos, packetId, reasonCode, durableAt))
  }

  accept({ qos, packetId }: PublishPacket, reasonCode: Reason, durableAt: number): void {
    // The identifier belongs to the same commit.
    if (qos === 2) this.#session.addInbound(packetId, this.#digest)
    this.#acknowledge(qos, packetId, reasonCode, qos === 2 ? this.#state.store.openSequence : durableAt)
  }

  kept(packet: PublishPacket): PublishPacket {
    return withoutViews(packet)
  }

  /** Acknowledges a message that all receivers have; the commit `durableAt` makes that durable. */
  #acknowledge(qos: QoS, packetId: number, reasonCode: Reason, durableAt: number): void {
    if (qos === 1) this.#sender.acknowledge('puback', packetId, reasonCode, durableAt, 1)
    else if (qos === 2) this.#pubrecFor(packetId, reasonCode, durableAt)
    if (this.#state.store.pendingBytes > this.#state.limits.pendingCommitBytesMax) this.#input.fallBehind()
  }

  /** Sends PUBREC. It waits for the packet identifier to be durable as well if the Session is stored. */
  #pubrecFor(packetId: number, reasonCode: Reason, durableAt: number): void {
    const wait = this.#session.stored ? this.#session.durableAt : durableAt
    this.#sender.acknowledge('pubrec', packetId, reasonCode, wait, 0)
  }

  /**
   * Handles a shortage of disk or memory: refuses the message, or disconnects so that the client keeps it.
   */
  exhausted(packet: PublishPacket, topic: Topic, reasonCode: Reason): void {
    if (packet.qos === 0) return
    if (this.#state.limits.whenExhausted === 'refuse') this.refuse(packet, topic, reasonCode)
    else {
      const reason = 'disk or memory is short: what was not acknowledged was not kept'
      this.#connection.disconnect(reasonCode, reason)
    }
  }

  #message(packet: PublishPacket, topic: Topic): Message {
    const { properties, qos, retain } = packet
    const { clientId } = this.#view
    const expiresAt = expiryTime(this.#state.now(), packet.expirySeconds)
    const message = new Message(topic, clientId, packet, properties, qos, retain, expiresAt)
    if (packet.isShared) {
      if (this.#version === 5) message.encoded5 = packet
      else message.encoded3 = packet
    }
    return message
  }

  /**
   * Refuses the message. The acknowledgement of 5.0 says why. Before 5.0 a message that a policy denies is
   * acknowledged as usual [MQTT-3.3.5-2], and one that a limit refuses ends the connection, so that the
   * client keeps it.
   */
  refuse(packet: PublishPacket, topic: Topic, reasonCode: Reason, why: string | null = null): void {
    if (reasonCode === Reason.NotAuthorized) {
      this.#state.drop(this.#view.clientId, 'not-authorized', this.#message(packet, topic))
    }
    const isIgnored = reasonCode === Reason.NotAuthorized && this.#state.policy.deniedBefore5 !== 'disconnect'
    if (this.#version < 5 && !isIgnored) {
      this.#connection.disconnect(reasonCode, why ?? `PUBLISH to ${topic.name} was refused`)
      return
    }
    const answer = this.#version < 5 ? Reason.Success : reasonCode
    if (packet.qos === 1) this.#refused('puback', packet.packetId, answer, why)
    if (packet.qos !== 2) return
    if (this.#version < 5) {
      this.#session.addInbound(packet.packetId, this.#digest)
      this.#sender.acknowledge('pubrec', packet.packetId, answer, this.#session.durableAt, 0)
    } else {
      this.#receivingIds?.delete(packet.packetId)
      this.#refused('pubrec', packet.packetId, answer, why)
    }
  }

  #refused(type: 'puback' | 'pubrec', packetId: number, reasonCode: Reason, why: string | null): void {
    if (why === null) this.#sender.acknowledge(type, packetId, reasonCode, 0, 1)
    else this.#sender.refuse(type, packetId, reasonCode, why)
  }

  /**
   * Handles PUBACK, PUBREC, PUBREL or PUBCOMP. There are as many as messages, so only those that say more
   * than Success become objects. Throws ProtocolError.
   */
  acknowledged(framer: Framer): void {
    const session = this.#session
    const packetId = acknowledgedId(framer)
    const reasonCode = acknowledgedCode(framer, this.#version)
    const packet = reasonCode === Reason.Success ? null : decodeAcknowledge(framer, this.#version)
    switch (framer.type) {
      case PacketType.Puback:
        this.#expectKind(session.puback(packetId, isRefusal(reasonCode), packet), 'PUBACK', packetId)
        break
      case PacketType.Pubrec:
        this.#pubrec(session, packetId, isRefusal(reasonCode), packet)
        break
      case PacketType.Pubcomp:
        this.#expectKind(session.pubcomp(packetId), 'PUBCOMP', packetId)
        break
      case PacketType.Pubrel:
        this.#pubrel(session, packetId)
        break
    }
    this.#parts.backlog.resume(session)
    this.#parts.retainedDelivery.resume(session)
  }

  #pubrec(session: Session, packetId: number, refused: boolean, packet: AcknowledgePacket | null): void {
    const outcome = session.pubrec(packetId, refused, packet)
    this.#expectKind(outcome, 'PUBREC', packetId)
    // A refusal is never answered by PUBREL [MQTT-4.3.3-4], also where the identifier is not known any more.
    if (outcome === 'completed' || refused) return
    // A queue settles a message with PUBREC, whether the Session is stored or not.
    const wait = session.consumers === null ? session.durableAt : this.#state.store.openSequence
    if (outcome === 'received') this.#sender.pubrel(packetId, wait)
    else this.#sender.acknowledge('pubrel', packetId, Reason.PacketIdentifierNotFound, 0, 0)
  }

  #pubrel(session: Session, packetId: number): void {
    const known = session.releaseInbound(packetId)
    const credits = this.#receivingIds?.delete(packetId) === true ? 1 : 0
    const durableAt = known ? session.durableAt : 0
    this.#sender.acknowledge(
      'pubcomp',
      packetId,
      known ? Reason.Success : Reason.PacketIdentifierNotFound,
      durableAt,
      credits,
    )
  }

  #expectKind(outcome: string, name: string, packetId: number): void {
    if (outcome !== 'wrong-kind') return
    throw new ProtocolError(
      Reason.ProtocolError,
      'section 4.3',
      `${name} does not fit packet identifier ${packetId}`,
    )
  }
}

function payloadIsNoText(): ProtocolError {
  return new ProtocolError(Reason.PayloadFormatInvalid, 'section 3.3.2.3.2', 'the payload is not UTF-8')
}

/** Copies a packet that has to wait, so that it does not pin the shared read buffer. */
function withoutViews(packet: PublishPacket): PublishPacket {
  const payload = Buffer.from(packet.payload)
  const properties = Buffer.from(packet.properties)
  const alone = { buffer: payload, start: 0, payloadStart: 0, end: payload.length }
  return { ...packet, ...alone, payload, properties, isShared: false }
}

function isRefusal(reasonCode: number): boolean {
  return reasonCode >= Reason.UnspecifiedError
}

function isShortage(limit: Limit | null): boolean {
  return limit === 'disk' || limit === 'memoryBytesMax'
}
