/**
 * HOT. A Network Connection: takes bytes, keeps the order of its packets and of its output, and dies with its
 * socket. What lives longer belongs to its Session.
 */
import { ConnectError, decode, decodeAcknowledge, decodeConnect, decodePublish } from '../mqtt/decode.ts'
import {
  encodeAcknowledge,
  encodeAuth,
  encodeConnack,
  encodeDisconnect,
  encodePublish,
  encodeSuback,
  encodeUnsuback,
  PINGRESP,
} from '../mqtt/encode.ts'
import { Framer, PacketType } from '../mqtt/framing.ts'
import { type Delivery, Message, NO_IDENTIFIERS, type Topic } from '../mqtt/message.ts'
import type {
  AcknowledgePacket,
  AcknowledgeType,
  AuthPacket,
  ConnackProperties,
  ConnectPacket,
  DisconnectPacket,
  ProtocolVersion,
  PublishPacket,
  SubscribePacket,
  UnsubscribePacket,
} from '../mqtt/packet.ts'
import { ProtocolError, Reason } from '../mqtt/reason.ts'
import { topicLevels } from '../mqtt/topics.ts'
import type { Session, SessionSink } from '../session/session.ts'
import {
  authenticateAnonymous,
  connackProperties,
  connectRefusal,
  credentialsOf,
  isServerTopic,
  keepAliveSeconds,
  sessionExpirySeconds,
  sessionRefusal,
} from './connect.ts'
import type { Deadline } from './deadlines.ts'
import type { BrokerEvents } from './events.ts'
import type { Link, LinkHandler } from './link.ts'
import { Output } from './output.ts'
import type {
  AuthenticationExchange,
  AuthenticationResult,
  AuthenticationStep,
  ClientView,
} from './policy.ts'
import type { Rooms } from './rooms.ts'
import type { ClientConnection, State } from './state.ts'

/** 'new' waits for CONNECT, 'authenticating' for a policy or AUTH, 'open' was accepted, 'closed' reads nothing. */
type Phase = 'new' | 'authenticating' | 'open' | 'closed'

export class Connection implements LinkHandler, SessionSink, ClientConnection {
  readonly immediate = false
  readonly #state: State
  readonly #rooms: Rooms
  readonly #link: Link
  readonly #framer: Framer
  readonly #output: Output
  #phase: Phase = 'new'
  #version: ProtocolVersion = 4
  #view: ClientView
  #session: Session | null = null
  #connect: ConnectPacket | null = null
  /** The Session Expiry Interval that holds when this connection ends; DISCONNECT may change it. */
  #expirySeconds = 0
  #maximumPacketSize = Number.POSITIVE_INFINITY
  /** Enhanced authentication that is under way, also a re-authentication. */
  #exchange: AuthenticationExchange | null = null
  #exchangeWaits = false
  /** True while an answer from a policy is awaited: packets keep their order. */
  #awaiting = false
  /** True while the broker is behind and nothing is read. */
  #behind = false
  #running = false
  /** When the latest packet arrived, in broker time. */
  #activeAt: number
  #keepAliveMs = 0
  #keepAlive: Deadline | null = null
  #connectTimeout: Deadline | null
  #stall: Deadline | null = null
  #stallFlushed = 0
  /** Closing: the link is ended when the output is empty. */
  #ending = false
  #gone = false
  readonly #aliasesIn: Topic[] = []
  readonly #aliasesOut = new Map<string, number>()
  #aliasOutMaximum = 0
  /** QoS 1 and 2 PUBLISH packets not yet acknowledged to the client (section 4.9). */
  #receiving = 0
  /** QoS 2 identifiers that are part of `#receiving`. */
  readonly #receivingIds = new Set<number>()

  constructor(state: State, rooms: Rooms, link: Link) {
    this.#state = state
    this.#rooms = rooms
    this.#link = link
    this.#framer = new Framer(state.limits.packetBytesMax)
    this.#output = new Output(state, link, this, (count) => {
      this.#receiving -= count
    })
    this.#view = { clientId: '', userName: null, protocolVersion: 4, link: link.info }
    this.#activeAt = state.now()
    const timeoutMs = state.limits.connectTimeoutSeconds * 1000
    this.#connectTimeout =
      timeoutMs === Number.POSITIVE_INFINITY
        ? null
        : state.deadlines.at(state.now() + timeoutMs, () => this.#timedOut())
  }

  get view(): ClientView {
    return this.#view
  }

  /** Bytes that wait for this reader, here and in the transport. */
  get waitingBytes(): number {
    return this.#output.waitingBytes
  }

  // ── input ─────────────────────────────────────────────────────────────────────────────────────────────────

  received(chunk: Buffer): void {
    if (this.#phase === 'closed') return
    this.#state.turn.begin()
    this.#state.figures.bytesReceived += chunk.length
    this.#framer.push(chunk)
    this.#run()
  }

  #run(): void {
    if (this.#running) return
    this.#running = true
    try {
      while (this.#reading() && this.#framer.next()) {
        this.#state.figures.packetsReceived++
        this.#activeAt = this.#state.now()
        this.#handle()
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error
      this.#violated(error)
    } finally {
      this.#running = false
    }
  }

  #reading(): boolean {
    return this.#phase !== 'closed' && !this.#awaiting && !this.#behind
  }

  #handle(): void {
    const framer = this.#framer
    if (this.#phase === 'open') {
      this.#handleOpen(framer)
      return
    }
    if (this.#phase === 'new') {
      if (framer.type !== PacketType.Connect) {
        throw new ProtocolError(Reason.ProtocolError, 'MQTT-3.1.0-1', 'the first packet is not CONNECT')
      }
      this.#onConnect(decodeConnect(framer))
      return
    }
    // Authenticating: nothing but AUTH and DISCONNECT [MQTT-3.1.2-30].
    const packet = decode(framer, this.#version, this.#state.topics)
    if (packet.type === 'auth') this.#onAuth(packet)
    else if (packet.type === 'disconnect')
      this.#close('client', packet.reasonCode, 'disconnected while authenticating')
    else throw new ProtocolError(Reason.ProtocolError, 'MQTT-3.1.2-30', `${packet.type} before CONNACK`)
  }

  #handleOpen(framer: Framer): void {
    switch (framer.type) {
      case PacketType.Publish:
        this.#onPublish(decodePublish(framer, this.#version, this.#state.topics))
        return
      case PacketType.Puback:
      case PacketType.Pubrec:
      case PacketType.Pubrel:
      case PacketType.Pubcomp:
        this.#onAcknowledge(decodeAcknowledge(framer, this.#version))
        return
      case PacketType.Connect:
        throw new ProtocolError(Reason.ProtocolError, 'MQTT-3.1.0-2', 'a second CONNECT')
      default:
        this.#handleOther(framer)
    }
  }

  #handleOther(framer: Framer): void {
    const packet = decode(framer, this.#version, this.#state.topics)
    switch (packet.type) {
      case 'subscribe':
        this.#onSubscribe(packet)
        return
      case 'unsubscribe':
        this.#onUnsubscribe(packet)
        return
      case 'pingreq':
        this.#send(PINGRESP, 0) // [MQTT-3.12.4-1]
        return
      case 'disconnect':
        this.#onDisconnect(packet)
        return
      case 'auth':
        this.#onAuth(packet)
        return
      default:
        throw new ProtocolError(Reason.ProtocolError, 'section 2.1.2', `a client may not send ${packet.type}`)
    }
  }

  /** Waits for a policy's promise without handling the packets behind; `then` runs in a turn of its own. */
  #await<T>(promise: Promise<T>, then: (value: T) => void): void {
    this.#awaiting = true
    this.#link.pause()
    const settled = (action: () => void): void => {
      this.#awaiting = false
      if (this.#phase === 'closed') return
      this.#state.turn.begin()
      this.#activeAt = this.#state.now()
      try {
        action()
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error
        this.#violated(error)
      }
      this.#run()
      if (this.#reading()) this.#link.resume()
    }
    promise.then(
      (value) => settled(() => then(value)),
      (error: unknown) => settled(() => this.#policyFailed(error)),
    )
  }

  #policyFailed(error: unknown): void {
    this.disconnect(
      Reason.ImplementationSpecificError,
      `a policy failed: ${error instanceof Error ? error.message : String(error)}`,
    )
  }

  // ── CONNECT, AUTH ─────────────────────────────────────────────────────────────────────────────────────────

  #onConnect(packet: ConnectPacket): void {
    this.#phase = 'authenticating'
    this.#connect = packet
    this.#version = packet.protocolVersion
    this.#framer.version = packet.protocolVersion
    this.#maximumPacketSize = packet.maximumPacketSize
    const clientId = packet.clientId === '' ? this.#assignClientId() : packet.clientId
    this.#view = { clientId, userName: null, protocolVersion: packet.protocolVersion, link: this.#link.info }
    const refusal = connectRefusal(this.#state, packet)
    if (refusal !== null) {
      this.#refuse(refusal.reasonCode, refusal.reason)
      return
    }
    if (packet.authenticationMethod === undefined) this.#authenticate(packet, clientId)
    else this.#startExchange(packet.authenticationMethod, packet, clientId)
  }

  #assignClientId(): string {
    let clientId = `auto-${this.#state.host.randomId()}`
    while (this.#state.sessions.has(clientId)) clientId = `auto-${this.#state.host.randomId()}`
    return clientId
  }

  #authenticate(packet: ConnectPacket, clientId: string): void {
    const { policy } = this.#state
    const decide = (result: AuthenticationResult): void => {
      if (result.allow) this.#accept(packet, result.userName, undefined)
      else this.#refuse(result.reasonCode, result.reason)
    }
    if (policy.authenticate === undefined) {
      decide(authenticateAnonymous(this.#link.info))
      return
    }
    const answer = policy.authenticate(credentialsOf(packet, clientId, this.#link.info))
    if (answer instanceof Promise) this.#await(answer, decide)
    else decide(answer)
  }

  #startExchange(method: string, packet: ConnectPacket, clientId: string): void {
    const { policy } = this.#state
    const exchange =
      policy.authenticationExchange?.(method, credentialsOf(packet, clientId, this.#link.info)) ?? null
    if (exchange === null) {
      this.#refuse(Reason.BadAuthenticationMethod, `unknown authentication method ${method}`) // [MQTT-4.12.0-1]
      return
    }
    this.#exchange = exchange
    this.#step(packet.authenticationData)
  }

  #step(data: Buffer | undefined): void {
    this.#exchangeWaits = false
    const step = this.#exchange!.next(data)
    if (step instanceof Promise) this.#await(step, (value) => this.#stepped(value))
    else this.#stepped(step)
  }

  #stepped(step: AuthenticationStep): void {
    const packet = this.#connect!
    const method = packet.authenticationMethod!
    if (step.type === 'continue') {
      this.#exchangeWaits = true
      this.#send(encodeAuth(Reason.ContinueAuthentication, method, step.data), 0) // [MQTT-4.12.0-2]
      return
    }
    this.#exchange = null
    if (step.type === 'failure') {
      if (this.#phase === 'open') this.disconnect(step.reasonCode, step.reason)
      else this.#refuse(step.reasonCode, step.reason)
      return
    }
    if (this.#phase === 'open') {
      if (step.userName !== this.#view.userName) {
        this.disconnect(Reason.NotAuthorized, 're-authenticated as another user')
        return
      }
      this.#send(encodeAuth(Reason.Success, method, step.data), 0)
    } else {
      this.#accept(packet, step.userName, step.data)
    }
  }

  #onAuth(packet: AuthPacket): void {
    const method = this.#connect?.authenticationMethod
    if (method === undefined) {
      throw new ProtocolError(
        Reason.ProtocolError,
        'MQTT-4.12.0-7',
        'AUTH without an Authentication Method in CONNECT',
      )
    }
    if (packet.authenticationMethod !== method) {
      throw new ProtocolError(
        Reason.ProtocolError,
        'MQTT-4.12.1-1',
        'AUTH with another Authentication Method',
      )
    }
    if (packet.reasonCode === Reason.ContinueAuthentication && this.#exchangeWaits) {
      this.#step(packet.authenticationData)
      return
    }
    if (packet.reasonCode !== Reason.ReAuthenticate || this.#phase !== 'open' || this.#exchange !== null) {
      throw new ProtocolError(Reason.ProtocolError, 'MQTT-4.12.0-3', 'AUTH out of turn')
    }
    this.#startExchange(
      method,
      { ...this.#connect!, authenticationData: packet.authenticationData },
      this.#view.clientId,
    )
  }

  #refuse(reasonCode: Reason, reason: string): void {
    this.#state.figures.connectionsRefused++
    if (this.#state.events.has('refused')) {
      this.#state.events.emit('refused', {
        clientId: this.#view.clientId,
        link: this.#link.info,
        reasonCode,
        reason,
      })
    }
    const properties: ConnackProperties = this.#version === 5 ? { reasonString: reason } : {}
    const bytes = encodeConnack(
      { sessionPresent: false, reasonCode, properties },
      this.#version,
      this.#maximumPacketSize,
    )
    if (bytes !== null) this.#send(bytes, 0) // [MQTT-3.2.2-6] of 3.1.1: no fitting code, no CONNACK
    this.#close('server', reasonCode, reason)
  }

  #accept(packet: ConnectPacket, userName: string | null, data: Buffer | undefined): void {
    const { clientId } = this.#view
    const refusal = sessionRefusal(this.#state, packet, clientId, userName)
    if (refusal !== null) {
      this.#refuse(refusal.reasonCode, refusal.reason)
      return
    }
    this.#view = { clientId, userName, protocolVersion: packet.protocolVersion, link: this.#link.info }
    const view = this.#view
    const allowed =
      packet.will === undefined || this.#state.policy.authorizePublish === undefined
        ? true
        : this.#state.policy.authorizePublish(view, packet.will.topic, packet.will.qos, packet.will.retain)
    const decide = (allow: boolean): void => {
      if (allow) this.#open(packet, data)
      else this.#refuse(Reason.NotAuthorized, `the Will Topic ${packet.will?.topic ?? ''} is not allowed`)
    }
    if (typeof allowed === 'boolean') decide(allowed)
    else this.#await(allowed, decide)
  }

  #open(packet: ConnectPacket, data: Buffer | undefined): void {
    const state = this.#state
    const { clientId, userName } = this.#view
    // Asked again: another user may have made a Session while a policy was thinking.
    const refusal = sessionRefusal(state, packet, clientId, userName)
    if (refusal !== null) {
      this.#refuse(refusal.reasonCode, refusal.reason)
      return
    }
    const expirySeconds = sessionExpirySeconds(state, packet)
    const { session, present } = this.#rooms.sessions.open({
      clientId,
      owner: userName,
      cleanStart: packet.cleanStart,
      expirySeconds,
    })
    this.#rooms.wills.set(this.#view, packet.will)
    this.#session = session
    this.#expirySeconds = expirySeconds
    this.#phase = 'open'
    this.#aliasOutMaximum = Math.min(packet.topicAliasMaximum, state.limits.topicAliasOutMaximum)
    this.#rooms.sessions.attach(session, this)
    const properties = packet.protocolVersion === 5 ? connackProperties(state, packet, clientId) : {}
    if (packet.authenticationMethod !== undefined) {
      properties.authenticationMethod = packet.authenticationMethod // [MQTT-4.12.0-5]
      if (data !== undefined) properties.authenticationData = data
    }
    const connack = {
      sessionPresent: present && packet.protocolVersion > 3,
      reasonCode: Reason.Success,
      properties,
    }
    // CONNACK promises the creation, resumption or deletion of a Session, and the Will.
    this.#send(
      encodeConnack(connack, packet.protocolVersion, this.#maximumPacketSize)!,
      state.store.openSequence,
    )
    this.#startKeepAlive(packet)
    this.#opened(packet, present)
    session.attach(this, packet.receiveMaximum)
    this.#rooms.retained.resume(session)
  }

  #opened(packet: ConnectPacket, sessionPresent: boolean): void {
    const { figures, deadlines, events } = this.#state
    deadlines.cancel(this.#connectTimeout)
    this.#connectTimeout = null
    figures.clientsConnected++
    if (figures.clientsConnected > figures.clientsMaximum) figures.clientsMaximum = figures.clientsConnected
    if (!events.has('connected')) return
    const { cleanStart } = packet
    events.emit('connected', {
      client: this.#view,
      sessionPresent,
      cleanStart,
      keepAliveSeconds: this.#keepAliveMs / 1500,
    })
  }

  // ── Keep Alive, and other times ───────────────────────────────────────────────────────────────────────────

  #startKeepAlive(packet: ConnectPacket): void {
    this.#keepAliveMs = keepAliveSeconds(this.#state, packet) * 1500
    if (this.#keepAliveMs === 0) return
    this.#keepAlive = this.#state.deadlines.at(this.#state.now() + this.#keepAliveMs, () =>
      this.#checkKeepAlive(),
    )
  }

  /** Looked at only when it might have run out: a packet that arrives costs nothing. */
  #checkKeepAlive(): void {
    this.#state.turn.begin()
    // While we do not read, the client's packets cannot arrive: its time stands still.
    const since = this.#reading() ? this.#activeAt : this.#state.now()
    const due = since + this.#keepAliveMs
    if (due > this.#state.now()) {
      this.#keepAlive = this.#state.deadlines.at(due, () => this.#checkKeepAlive())
      return
    }
    this.disconnect(Reason.KeepAliveTimeout, 'no packet within one and a half Keep Alive') // [MQTT-3.1.2-22]
  }

  #timedOut(): void {
    this.#connectTimeout = null
    this.#state.turn.begin()
    const seconds = this.#state.limits.connectTimeoutSeconds
    this.#limited('connectTimeoutSeconds', `no complete CONNECT within ${seconds} s`)
    this.#close('server', Reason.UnspecifiedError, 'no CONNECT in time')
  }

  /** Watches a reader with bytes waiting: one that takes nothing for too long is cut off. */
  #watchReader(): void {
    if (this.#stall !== null || this.#gone || this.#link.bufferedBytes === 0) return
    const stallMs = this.#state.limits.stalledReaderSeconds * 1000
    if (stallMs === Number.POSITIVE_INFINITY) return
    this.#stallFlushed = this.#link.flushedBytes
    this.#stall = this.#state.deadlines.at(this.#state.now() + stallMs, () => {
      this.#stall = null
      if (this.#gone || this.#link.bufferedBytes === 0) return
      if (this.#link.flushedBytes > this.#stallFlushed) {
        this.#watchReader()
        return
      }
      this.#state.turn.begin()
      this.#output.discard()
      this.#close('server', Reason.UnspecifiedError, 'the reader took nothing in time')
      this.#link.destroy()
    })
  }

  // ── PUBLISH and its acknowledgements, from the client ─────────────────────────────────────────────────────

  #onPublish(packet: PublishPacket): void {
    const topic = packet.topicAlias === 0 ? packet.topic! : this.#resolveAlias(packet)
    this.#state.figures.publishReceived++
    this.#state.figures.publishBytesReceived += packet.payload.length
    if (packet.qos > 0 && !this.#receive(packet)) return
    const refusal = this.#publishRefusal(packet, topic)
    if (refusal !== null) {
      this.#refusePublish(packet, topic, refusal)
      return
    }
    const { authorizePublish } = this.#state.policy
    if (authorizePublish === undefined) {
      this.#publish(packet, topic)
      return
    }
    const { qos, retain } = packet
    const allowed = authorizePublish.call(this.#state.policy, this.#view, topic.name, qos, retain)
    if (typeof allowed === 'boolean') this.#authorized(packet, topic, allowed)
    else this.#await(allowed, (allow) => this.#authorized(packet, topic, allow))
  }

  #authorized(packet: PublishPacket, topic: Topic, allowed: boolean): void {
    if (allowed) this.#publish(packet, topic)
    else this.#refusePublish(packet, topic, Reason.NotAuthorized)
  }

  #resolveAlias(packet: PublishPacket): Topic {
    const alias = packet.topicAlias
    if (alias > this.#state.limits.topicAliasMaximum) {
      this.#limited('topicAliasMaximum', `alias ${alias}`)
      throw new ProtocolError(
        Reason.TopicAliasInvalid,
        'MQTT-3.3.2-9',
        `topic alias ${alias} is above the maximum`,
      )
    }
    if (packet.topic !== null) {
      this.#aliasesIn[alias] = packet.topic
      return packet.topic
    }
    const topic = this.#aliasesIn[alias]
    if (topic === undefined) {
      throw new ProtocolError(Reason.ProtocolError, 'section 3.3.2.3.4', `topic alias ${alias} is not known`)
    }
    return topic
  }

  /** Counts the packet against Receive Maximum; false when it was a repeated QoS 2 PUBLISH, which is answered. */
  #receive(packet: PublishPacket): boolean {
    const { packetId, qos } = packet
    const known = qos === 2 && this.#session!.isInbound(packetId)
    if (!(qos === 2 && this.#receivingIds.has(packetId))) {
      if (this.#version === 5 && this.#receiving >= this.#state.limits.receiveMaximum) {
        this.#limited('receiveMaximum', `${this.#receiving} messages are not yet acknowledged`)
        throw new ProtocolError(
          Reason.ReceiveMaximumExceeded,
          'section 3.3.4',
          'more than Receive Maximum messages',
        )
      }
      this.#receiving++
      if (qos === 2) this.#receivingIds.add(packetId)
    }
    if (!known) return true
    // [MQTT-4.3.3-10], whatever DUP says.
    this.#acknowledge('pubrec', packetId, Reason.Success, 0, 0)
    return false
  }

  #publishRefusal(packet: PublishPacket, topic: Topic): Reason | null {
    const { limits } = this.#state
    if (packet.qos > limits.maximumQoS) {
      this.#limited('maximumQoS', `QoS ${packet.qos}`)
      throw new ProtocolError(Reason.QoSNotSupported, 'MQTT-3.2.2-11', `QoS ${packet.qos} is not supported`)
    }
    if (packet.retain && !limits.retainAvailable) {
      this.#limited('retainAvailable', 'RETAIN')
      throw new ProtocolError(Reason.RetainNotSupported, 'MQTT-3.2.2-14', 'RETAIN is not supported')
    }
    if (topic.bytes.length > limits.topicBytesMax) {
      this.#limited('topicBytesMax', `topic name of ${topic.bytes.length} bytes`)
      return Reason.TopicNameInvalid
    }
    if (
      limits.topicLevelsMax !== Number.POSITIVE_INFINITY &&
      topicLevels(topic.name) > limits.topicLevelsMax
    ) {
      this.#limited('topicLevelsMax', 'topic name')
      return Reason.TopicNameInvalid
    }
    return isServerTopic(topic.name) ? Reason.NotAuthorized : null
  }

  #publish(packet: PublishPacket, topic: Topic): void {
    const { publisher } = this.#rooms
    const message = this.#message(packet, topic)
    const outcome = publisher.publish(message, this.#session)
    if (outcome >= Reason.UnspecifiedError) {
      this.#refusePublish(packet, topic, outcome)
      return
    }
    if (packet.qos === 1) {
      this.#acknowledge('puback', packet.packetId, outcome, publisher.gate, 1)
    } else if (packet.qos === 2) {
      // The identifier and the fan-out are one fact, in one commit.
      const session = this.#session!
      session.addInbound(packet.packetId)
      const gate = session.stored ? this.#state.store.openSequence : publisher.gate
      this.#acknowledge('pubrec', packet.packetId, outcome, gate, 0)
    }
    if (this.#state.store.pendingBytes > this.#state.limits.pendingCommitBytesMax) this.#fallBehind()
  }

  #message(packet: PublishPacket, topic: Topic): Message {
    const { expirySeconds } = packet
    return new Message({
      topic,
      payload: packet.payload,
      qos: packet.qos,
      retain: packet.retain,
      properties: packet.properties,
      expiresAt:
        expirySeconds === undefined ? Number.POSITIVE_INFINITY : this.#state.now() + expirySeconds * 1000,
      publisher: this.#view.clientId,
    })
  }

  /**
   * 5.0: the acknowledgement says why. 3.1.1 has no such word: what a policy refuses is acknowledged as usual
   * [MQTT-3.3.5-2]; what a limit refuses closes the connection, so that the client keeps its message.
   */
  #refusePublish(packet: PublishPacket, topic: Topic, reasonCode: Reason): void {
    if (reasonCode === Reason.NotAuthorized) {
      this.#state.drop(this.#view.clientId, 'not-authorized', this.#message(packet, topic))
    }
    if (this.#version < 5 && reasonCode !== Reason.NotAuthorized) {
      this.disconnect(reasonCode, `PUBLISH to ${topic.name} was refused`)
      return
    }
    const answer = this.#version < 5 ? Reason.Success : reasonCode
    if (packet.qos === 1) this.#acknowledge('puback', packet.packetId, answer, 0, 1)
    if (packet.qos !== 2) return
    if (this.#version < 5) {
      this.#session!.addInbound(packet.packetId)
      const gate = this.#session!.stored ? this.#state.store.openSequence : 0
      this.#acknowledge('pubrec', packet.packetId, answer, gate, 0)
    } else {
      this.#receivingIds.delete(packet.packetId)
      this.#acknowledge('pubrec', packet.packetId, answer, 0, 1)
    }
  }

  #acknowledge(
    type: AcknowledgeType,
    packetId: number,
    reasonCode: number,
    gate: number,
    credits: number,
  ): void {
    if (this.#output.push(encodeAcknowledge(type, this.#version, packetId, reasonCode), gate, credits)) {
      this.#state.turn.touch(this)
    }
  }

  #onAcknowledge(packet: AcknowledgePacket): void {
    const session = this.#session!
    const { packetId } = packet
    const refused = packet.reasonCode >= Reason.UnspecifiedError
    switch (packet.type) {
      case 'puback':
        this.#expectKind(session.puback(packetId, refused), 'PUBACK', packetId)
        break
      case 'pubrec':
        this.#onPubrec(session, packetId, refused)
        break
      case 'pubcomp':
        this.#expectKind(session.pubcomp(packetId), 'PUBCOMP', packetId)
        break
      case 'pubrel':
        this.#onPubrel(session, packetId)
        break
    }
    this.#rooms.retained.resume(session)
  }

  #onPubrec(session: Session, packetId: number, refused: boolean): void {
    const outcome = session.pubrec(packetId, refused)
    this.#expectKind(outcome, 'PUBREC', packetId)
    if (outcome === 'completed') return
    if (outcome === 'received') this.pubrel(packetId, session.stored ? this.#state.store.openSequence : 0)
    else this.#acknowledge('pubrel', packetId, Reason.PacketIdentifierNotFound, 0, 0)
  }

  #onPubrel(session: Session, packetId: number): void {
    const known = session.releaseInbound(packetId)
    const credits = this.#receivingIds.delete(packetId) ? 1 : 0
    const gate = known && session.stored ? this.#state.store.openSequence : 0
    this.#acknowledge(
      'pubcomp',
      packetId,
      known ? Reason.Success : Reason.PacketIdentifierNotFound,
      gate,
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

  // ── SUBSCRIBE, UNSUBSCRIBE, DISCONNECT ────────────────────────────────────────────────────────────────────

  #onSubscribe(packet: SubscribePacket): void {
    const { subscribing } = this.#rooms
    subscribing.validate(packet.requests)
    const decisions = subscribing.authorize(this.#view, packet.requests)
    if (decisions instanceof Promise) this.#await(decisions, (value) => this.#subscribe(packet, value))
    else this.#subscribe(packet, decisions)
  }

  #subscribe(packet: SubscribePacket, decisions: readonly (boolean | Reason)[]): void {
    const session = this.#session!
    const { reasonCodes, startRetained } = this.#rooms.subscribing.subscribe(
      this.#view,
      session,
      packet,
      decisions,
    )
    const gate = session.stored ? this.#state.store.openSequence : 0
    this.#send(encodeSuback(this.#version, packet.packetId, reasonCodes), gate)
    startRetained()
  }

  #onUnsubscribe(packet: UnsubscribePacket): void {
    const session = this.#session!
    const reasonCodes = this.#rooms.subscribing.unsubscribe(this.#view, session, packet.filters)
    const gate = session.stored ? this.#state.store.openSequence : 0
    this.#send(encodeUnsuback(this.#version, packet.packetId, reasonCodes), gate)
  }

  #onDisconnect(packet: DisconnectPacket): void {
    const { sessionExpirySeconds: asked } = packet
    if (asked !== undefined) {
      if (asked > 0 && this.#connect!.sessionExpirySeconds === 0) {
        throw new ProtocolError(
          Reason.ProtocolError,
          'section 3.14.2.2.2',
          'Session Expiry Interval changed from 0',
        )
      }
      this.#expirySeconds = Math.min(asked, this.#state.limits.sessionExpirySecondsMax)
    }
    this.#close('client', packet.reasonCode, packet.reasonString ?? '')
  }

  // ── output ────────────────────────────────────────────────────────────────────────────────────────────────

  get congested(): boolean {
    return this.#output.congested
  }

  publish(delivery: Delivery, packetId: number, dup: boolean, gate: number): boolean {
    const { message, qos } = delivery
    const flags = (dup ? 8 : 0) | (qos << 1) | (delivery.retain ? 1 : 0)
    const bytes =
      this.#version === 5
        ? this.#encode5(delivery, flags, packetId)
        : encodePublish(message, this.#version, flags, packetId, NO_IDENTIFIERS, -1, 0, false)
    if (bytes.length > this.#maximumPacketSize) return false // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
    this.#send(bytes, gate)
    const { figures, events } = this.#state
    figures.publishSent++
    figures.publishBytesSent += message.payload.length
    if (events.has('delivered')) events.emit('delivered', { clientId: this.#view.clientId, message, qos })
    return true
  }

  #encode5(delivery: Delivery, flags: number, packetId: number): Buffer {
    const { message, subscriptionIdentifiers } = delivery
    const expirySeconds = this.#remainingSeconds(message)
    if (this.#aliasOutMaximum === 0) {
      return encodePublish(message, 5, flags, packetId, subscriptionIdentifiers, expirySeconds, 0, false)
    }
    const aliases = this.#aliasesOut
    const { name } = message.topic
    const known = aliases.get(name)
    if (known !== undefined)
      return encodePublish(message, 5, flags, packetId, subscriptionIdentifiers, expirySeconds, known, true)
    if (aliases.size >= this.#aliasOutMaximum) {
      return encodePublish(message, 5, flags, packetId, subscriptionIdentifiers, expirySeconds, 0, false)
    }
    const alias = aliases.size + 1
    const bytes = encodePublish(
      message,
      5,
      flags,
      packetId,
      subscriptionIdentifiers,
      expirySeconds,
      alias,
      false,
    )
    // An alias is known only once a packet that sets it leaves; one that is too large does not.
    if (bytes.length <= this.#maximumPacketSize) aliases.set(name, alias)
    return bytes
  }

  /** Message Expiry Interval to send: what was received less the time it waited here [MQTT-3.3.2-6]; -1 for none. */
  #remainingSeconds(message: Message): number {
    if (message.expiresAt === Number.POSITIVE_INFINITY) return -1
    return Math.max(0, Math.ceil((message.expiresAt - this.#state.now()) / 1000))
  }

  pubrel(packetId: number, gate: number): void {
    this.#acknowledge('pubrel', packetId, Reason.Success, gate, 0)
  }

  #send(bytes: Buffer, gate: number): void {
    if (this.#output.push(bytes, gate, 0)) this.#state.turn.touch(this)
  }

  flush(): void {
    if (this.#gone) return
    this.#output.flush()
    this.#afterWrite()
  }

  release(committedSequence: number): void {
    if (this.#gone) return
    this.#output.release(committedSequence)
    this.#afterWrite()
  }

  drained(): void {
    if (this.#gone) return
    this.#state.turn.begin()
    this.#output.refresh()
    this.#refill()
  }

  #afterWrite(): void {
    this.#watchReader()
    if (this.#ending) {
      if (this.#output.idle) this.#link.end()
      return
    }
    if (this.#session !== null && !this.#output.congested && this.#session.queueLength > 0) {
      this.#state.turn.continueLater(() => this.#refill())
    }
  }

  /** The reader has room: the Session goes on, and retained messages that wait. */
  #refill(): void {
    if (this.#session === null || this.#phase !== 'open') return
    this.#session.pump()
    this.#rooms.retained.resume(this.#session)
  }

  // ── when the broker is behind ─────────────────────────────────────────────────────────────────────────────

  #fallBehind(): void {
    this.#behind = true
    this.#link.pause()
    this.#state.paused.add(this)
    if (this.#state.events.has('paused')) {
      this.#state.events.emit('paused', { clientId: this.#view.clientId, reason: 'commit' })
    }
  }

  resume(): void {
    if (!this.#behind) return
    this.#behind = false
    this.#state.paused.delete(this)
    if (this.#phase === 'closed') return
    this.#state.turn.begin()
    this.#activeAt = this.#state.now()
    if (this.#state.events.has('resumed'))
      this.#state.events.emit('resumed', { clientId: this.#view.clientId })
    this.#run()
    if (this.#reading()) this.#link.resume()
  }

  // ── the end ───────────────────────────────────────────────────────────────────────────────────────────────

  takenOver(): void {
    // What waits for a commit belongs to the Session, which is somebody else's now.
    this.#output.discard()
    this.#session = null
    this.#sendDisconnect(Reason.SessionTakenOver, 'another Network Connection uses this Client Identifier')
    this.#close('server', Reason.SessionTakenOver, 'taken over')
  }

  storeLost(): void {
    const depends = this.#session?.stored === true || !this.#output.idle
    if (!depends || this.#phase !== 'open') return
    this.#output.discard()
    const session = this.#session
    // A stored Session is read again from the disk; one that is not ends with this connection as usual.
    if (session?.stored === true) this.#session = null
    this.#sendDisconnect(Reason.QuotaExceeded, 'the disk is full: what was not acknowledged was not stored')
    this.#close('server', Reason.QuotaExceeded, 'the store failed')
  }

  destroy(): void {
    this.#output.discard()
    this.#link.destroy()
  }

  disconnect(reasonCode: number, reason: string): void {
    if (this.#phase === 'closed') return
    if (this.#phase !== 'open') {
      // 0x8B is a word of DISCONNECT only.
      this.#refuse(
        reasonCode === Reason.ServerShuttingDown ? Reason.ServerUnavailable : (reasonCode as Reason),
        reason,
      )
      return
    }
    this.#sendDisconnect(reasonCode, reason)
    this.#close('server', reasonCode, reason)
  }

  #sendDisconnect(reasonCode: number, reason: string): void {
    if (this.#version < 5) return
    this.#send(encodeDisconnect(reasonCode, reason, this.#maximumPacketSize), 0)
  }

  #violated(error: ProtocolError): void {
    if (this.#phase === 'closed') return
    if (error.reasonCode === Reason.PacketTooLarge) this.#limited('packetBytesMax', error.message)
    if (this.#phase === 'open') {
      this.disconnect(error.reasonCode, `${error.message} (${error.statement})`)
      return
    }
    if (error instanceof ConnectError && error.version !== null) this.#version = error.version
    const speaks5 = this.#version === 5
    const unsupported =
      error.reasonCode === Reason.UnsupportedProtocolVersion &&
      error instanceof ConnectError &&
      error.version !== null
    // 3.1.1 answers a malformed CONNECT with silence [MQTT-3.1.4-1], an unknown level with 0x01 [MQTT-3.1.2-2].
    if (speaks5 || unsupported) {
      this.#refuse(error.reasonCode, `${error.message} (${error.statement})`)
      return
    }
    this.#state.figures.connectionsRefused++
    if (this.#state.events.has('refused')) {
      const { reasonCode, message: reason } = error
      this.#state.events.emit('refused', {
        clientId: this.#view.clientId,
        link: this.#link.info,
        reasonCode,
        reason,
      })
    }
    this.#close('server', error.reasonCode, error.message)
  }

  /** Ends this Network Connection once; what is in the output still leaves. */
  #close(by: BrokerEvents['disconnected']['by'], reasonCode: number, reason: string): void {
    if (this.#phase === 'closed') return
    const wasOpen = this.#phase === 'open'
    this.#phase = 'closed'
    const { deadlines, events, figures, paused } = this.#state
    deadlines.cancel(this.#connectTimeout)
    deadlines.cancel(this.#keepAlive)
    this.#connectTimeout = null
    this.#keepAlive = null
    paused.delete(this)
    this.#rooms.connections.delete(this)
    const session = this.#session
    this.#session = null
    if (session !== null) {
      const normal = by === 'client' && reasonCode === Reason.Success
      this.#rooms.sessions.left(session, this.#expirySeconds, normal ? 'normal' : 'lost')
    }
    if (wasOpen) {
      figures.clientsConnected--
      if (events.has('disconnected')) {
        const { clientId } = this.#view
        events.emit('disconnected', { clientId, link: this.#link.info, reasonCode, reason, by })
      }
    }
    this.#ending = true
    if (!this.#gone) this.#endWhenIdle()
  }

  #endWhenIdle(): void {
    this.#link.pause()
    if (this.#output.idle) this.#link.end()
  }

  closed(error: Error | undefined): void {
    this.#gone = true
    this.#output.discard()
    this.#state.deadlines.cancel(this.#stall)
    this.#stall = null
    this.#state.turn.begin()
    this.#close('network', Reason.UnspecifiedError, error?.message ?? 'the Network Connection was closed')
    this.#rooms.gone(this)
  }

  #limited(limit: BrokerEvents['limited']['limit'], detail: string): void {
    this.#state.events.emit('limited', { limit, clientId: this.#view.clientId, detail })
  }
}
