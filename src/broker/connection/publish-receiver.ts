/** HOT. PUBLISH from the client, and its acknowledgements of ours (sections 3.3 to 3.7, 4.3, 4.9). */
import { messageDigest } from '../../mqtt/digest.ts'
import { Message, type Topic } from '../../mqtt/message.ts'
import type { AcknowledgePacket, ProtocolVersion, PublishPacket, QoS } from '../../mqtt/packet.ts'
import { ProtocolError, Reason } from '../../mqtt/reason.ts'
import { topicLevels } from '../../mqtt/topics.ts'
import { isUtf8Payload } from '../../mqtt/utf8.ts'
import type { Session } from '../../session/session.ts'
import type { Limit } from '../boundary/events.ts'
import { expiryTime } from '../boundary/expiry.ts'
import type { ClientView } from '../boundary/policy.ts'
import type { FanOut } from '../messages/crowd.ts'
import type { ServerParts } from '../sessions/server-parts.ts'
import type { ServerState } from '../state/server-state.ts'
import { SLICE_UNITS } from '../state/work.ts'
import type { Input } from './input.ts'
import type { NetworkConnection } from './network-connection.ts'
import { IncomingAliases } from './output/topic-aliases.ts'
import type { PacketSender } from './packet-sender.ts'
import type { RateGate } from './rate-gate.ts'
import { isServerTopic } from './server-topics.ts'

export class PublishReceiver {
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
  /** Of the QoS 2 message that is being received: a connection waits for one at a time. */
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
   * Whether a QoS 2 message that came on this Network Connection has the identifier, until PUBREL
   * [MQTT-2.2.1-3]; before 5.0 there is no word for it. One that is left from an earlier connection is no
   * hindrance: its client begins anew, since many lose their state with the power and count from 1 again,
   * and would be refused for as long as the Session lasts.
   */
  isInUse(packetId: number): boolean {
    return this.#version === 5 && this.#receivingIds?.has(packetId) === true
  }

  /** Acknowledgements were written: the client may send as many messages again. */
  credit(count: number): void {
    this.#receiving -= count
  }

  publish(packet: PublishPacket): void {
    const topic = packet.topicAlias === 0 ? packet.topic! : this.#aliases.resolve(packet)
    this.#state.counters.publishReceived++
    this.#state.counters.publishBytesReceived += packet.end - packet.payloadStart
    if (packet.qos > 0 && !this.#receive(packet, topic)) return
    const refusal = this.#publishRefusal(packet, topic)
    if (refusal !== null) {
      this.#refusePublish(packet, topic, refusal)
      return
    }
    if (this.#state.policy.authorizePublish === undefined) this.#accept(packet, topic)
    else this.#authorize(packet, topic)
  }

  // Apart: a method that contains a closure allocates its context on every call.

  #authorize(packet: PublishPacket, topic: Topic): void {
    const { policy } = this.#state
    const { qos, retain } = packet
    const allowed = policy.authorizePublish!(this.#view, topic.name, qos, retain)
    const kept = typeof allowed === 'object' ? withoutViews(packet) : packet
    this.#input.settle(allowed, (allow) => this.#authorized(kept, topic, allow))
  }

  #authorized(packet: PublishPacket, topic: Topic, allowed: boolean): void {
    if (allowed) this.#accept(packet, topic)
    else this.#refusePublish(packet, topic, Reason.NotAuthorized)
  }

  /**
   * Counts the packet against Receive Maximum; false when its QoS 2 identifier is known, and it was
   * answered.
   */
  #receive(packet: PublishPacket, topic: Topic): boolean {
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
    return this.#isAnother(packetId, isOfThisConnection)
  }

  /**
   * Whether a message under an identifier that was not released is another one than the one that was
   * received. Its client forgot that one, as many do that lose their state with the power: it was
   * delivered then, and is over now. Only the message tells: a client that forgot may as well set DUP,
   * and one that did not may leave it out.
   */
  #isAnother(packetId: number, isOfThisConnection: boolean): boolean {
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

  #publishRefusal(packet: PublishPacket, topic: Topic): Reason | null {
    const { limits } = this.#state
    if (packet.qos > limits.maximumQoS) this.#refuseQoS(packet.qos)
    if (packet.retain && !limits.retainAvailable) this.#refuseRetain()
    // Of so many bytes a name has one level more at most: hardly any has to be looked through.
    const isLong = topic.byteLength > limits.topicBytesMax || topic.byteLength >= limits.topicLevelsMax
    if (isLong && this.#isTopicTooLong(topic)) return Reason.TopicNameInvalid
    if (packet.payloadIsText && !isUtf8Payload(packet.payload)) {
      // PUBACK and PUBREC say so; QoS 0 has no answer but DISCONNECT (section 3.3.2.3.2).
      if (packet.qos === 0) throw payloadIsNoText()
      return Reason.PayloadFormatInvalid
    }
    if (packet.qos === 1 && this.isInUse(packet.packetId)) return Reason.PacketIdentifierInUse
    if (isServerTopic(topic.name)) return Reason.NotAuthorized
    return this.#rates?.refuses('publish', 1) === true ? Reason.QuotaExceeded : null
  }

  #refuseQoS(qos: QoS): never {
    this.#limited('maximumQoS', `QoS ${qos}`)
    throw new ProtocolError(Reason.QoSNotSupported, 'MQTT-3.2.2-11', `QoS ${qos} is not supported`)
  }

  #refuseRetain(): never {
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

  #accept(packet: PublishPacket, topic: Topic): void {
    const { router } = this.#state
    if (router.mayTakeLong && !router.prepare(topic, SLICE_UNITS))
      this.#routeLater(withoutViews(packet), topic)
    else this.#admitInTurn(packet, topic)
  }

  /** Very many Subscriptions may match the topic: they are looked for in slices. */
  #routeLater(kept: PublishPacket, topic: Topic): void {
    this.#input.later(() => {
      if (this.#state.router.prepare(topic, SLICE_UNITS)) this.#admitInTurn(kept, topic)
      else this.#routeLater(kept, topic)
    })
  }

  /** At QoS 2 its identifier is recorded with it, and must not be before it begins. */
  #admitInTurn(packet: PublishPacket, topic: Topic): void {
    if (packet.qos === 2 && this.#parts.publisher.mustQueue(topic)) this.#queue(withoutViews(packet), topic)
    else this.#admit(packet, topic)
  }

  #queue(kept: PublishPacket, topic: Topic): void {
    const { publisher } = this.#parts
    this.#input.hold('policy')
    publisher.queue(topic, () =>
      this.#input.settled(() => publisher.admitting(() => this.#admit(kept, topic))),
    )
  }

  #admit(packet: PublishPacket, topic: Topic): void {
    const { publisher } = this.#parts
    const message = this.#message(packet, topic)
    const outcome = publisher.publish(message, this.#session)
    if (outcome >= Reason.UnspecifiedError) {
      this.#refused(packet, topic, outcome)
      return
    }
    const { packetId, qos } = packet
    // The identifier and the fan-out are one fact, in one commit.
    if (qos === 2) this.#session.addInbound(packetId, this.#digest)
    const { underWay } = publisher
    if (underWay === null) this.#accepted(qos, packetId, outcome, publisher.durableAt)
    else this.#follow(underWay, qos, packetId, outcome)
  }

  #refused(packet: PublishPacket, topic: Topic, outcome: Reason): void {
    if (isShortage(this.#parts.publisher.refusedBy)) this.#exhausted(packet, topic, outcome)
    else this.#refusePublish(packet, topic, outcome)
  }

  #follow(fanOut: FanOut, qos: QoS, packetId: number, outcome: Reason): void {
    this.#input.hold('policy')
    fanOut.done = (durableAt) => this.#input.settled(() => this.#accepted(qos, packetId, outcome, durableAt))
  }

  /** Everybody has the message; the commit `durableAt` makes that durable. */
  #accepted(qos: QoS, packetId: number, outcome: Reason, durableAt: number): void {
    if (qos === 1) this.#sender.acknowledge('puback', packetId, outcome, durableAt, 1)
    else if (qos === 2) this.#received(packetId, outcome, durableAt)
    if (this.#state.store.pendingBytes > this.#state.limits.pendingCommitBytesMax) this.#input.fallBehind()
  }

  #received(packetId: number, outcome: Reason, durableAt: number): void {
    const wait = this.#session.stored ? this.#session.durableAt : durableAt
    this.#sender.acknowledge('pubrec', packetId, outcome, wait, 0)
  }

  /**
   * Disk or memory is short: the publisher keeps its message and comes back, or is told that it is
   * refused.
   */
  #exhausted(packet: PublishPacket, topic: Topic, outcome: Reason): void {
    if (packet.qos === 0) return
    if (this.#state.limits.whenExhausted === 'refuse') this.#refusePublish(packet, topic, outcome)
    else
      this.#connection.disconnect(outcome, 'disk or memory is short: what was not acknowledged was not kept')
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
   * 5.0: the acknowledgement says why. 3.1.1 has no such word: what a policy refuses is acknowledged as usual
   * [MQTT-3.3.5-2]; what a limit refuses closes the connection, so that the client keeps its message.
   */
  #refusePublish(packet: PublishPacket, topic: Topic, reasonCode: Reason): void {
    if (reasonCode === Reason.NotAuthorized) {
      this.#state.drop(this.#view.clientId, 'not-authorized', this.#message(packet, topic))
    }
    const isIgnored = reasonCode === Reason.NotAuthorized && this.#state.policy.deniedBefore5 !== 'disconnect'
    if (this.#version < 5 && !isIgnored) {
      this.#connection.disconnect(reasonCode, `PUBLISH to ${topic.name} was refused`)
      return
    }
    const answer = this.#version < 5 ? Reason.Success : reasonCode
    if (packet.qos === 1) this.#sender.acknowledge('puback', packet.packetId, answer, 0, 1)
    if (packet.qos !== 2) return
    if (this.#version < 5) {
      this.#session.addInbound(packet.packetId, this.#digest)
      this.#sender.acknowledge('pubrec', packet.packetId, answer, this.#session.durableAt, 0)
    } else {
      this.#receivingIds?.delete(packet.packetId)
      this.#sender.acknowledge('pubrec', packet.packetId, answer, 0, 1)
    }
  }

  acknowledged(packet: AcknowledgePacket): void {
    const session = this.#session
    const { packetId } = packet
    const refused = packet.reasonCode >= Reason.UnspecifiedError
    switch (packet.type) {
      case 'puback':
        this.#expectKind(session.puback(packetId, refused), 'PUBACK', packetId)
        break
      case 'pubrec':
        this.#pubrec(session, packetId, refused)
        break
      case 'pubcomp':
        this.#expectKind(session.pubcomp(packetId), 'PUBCOMP', packetId)
        break
      case 'pubrel':
        this.#pubrel(session, packetId)
        break
    }
    this.#parts.backlog.resume(session)
    this.#parts.retained.resume(session)
  }

  #pubrec(session: Session, packetId: number, refused: boolean): void {
    const outcome = session.pubrec(packetId, refused)
    this.#expectKind(outcome, 'PUBREC', packetId)
    // A refusal is never answered by PUBREL [MQTT-4.3.3-4], also where the identifier is not known any more.
    if (outcome === 'completed' || refused) return
    if (outcome === 'received') this.#sender.pubrel(packetId, session.durableAt)
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

/** A packet that waits for a policy, for as long as that takes, does not pin memory that others read into. */
function withoutViews(packet: PublishPacket): PublishPacket {
  const payload = Buffer.from(packet.payload)
  const properties = Buffer.from(packet.properties)
  const alone = { buffer: payload, start: 0, payloadStart: 0, end: payload.length }
  return { ...packet, ...alone, payload, properties, isShared: false }
}

function isShortage(limit: Limit | null): boolean {
  return limit === 'disk' || limit === 'memoryBytesMax'
}
