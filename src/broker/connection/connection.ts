/**
 * HOT. A Network Connection: hands its packets to the parts that handle them, and ends with its socket.
 * State that lives longer belongs to its Session.
 */
import { decode } from '../../mqtt/codec/decode.ts'
import { encodeDisconnect } from '../../mqtt/codec/disconnect.ts'
import { FilterReader } from '../../mqtt/codec/filter-reader.ts'
import type { Framer } from '../../mqtt/codec/framer.ts'
import { decodePublish } from '../../mqtt/codec/publish.ts'
import type { ConnectPacket, DisconnectPacket } from '../../mqtt/packet.ts'
import { PacketType } from '../../mqtt/packet-type.ts'
import { ProtocolError, Reason } from '../../mqtt/reason.ts'
import type { Session } from '../../session/session.ts'
import { connectionBytes } from '../accounts/costs.ts'
import type { Usage } from '../accounts/usage.ts'
import type { Link, LinkHandler, LinkInfo } from '../boundary/link.ts'
import type { ClientView } from '../boundary/policy.ts'
import { disconnectReasonCode } from '../boundary/refusal-codes.ts'
import type { ServerParts } from '../sessions/server-parts.ts'
import type { HoldReason } from '../state/read-gate.ts'
import type { ServerState } from '../state/server-state.ts'
import { UNITS } from '../state/work.ts'
import { keepAliveSeconds } from './connack.ts'
import { type EnhancedAuthentication, noAuthenticationMethod } from './enhanced-authentication.ts'
import { Handshake } from './handshake.ts'
import { Input } from './input.ts'
import type { EndedBy, NetworkConnection } from './network-connection.ts'
import { Output, type OutputOwner } from './output/output.ts'
import { PacketSender } from './packet-sender.ts'
import { PublishReceiver } from './publish-receiver.ts'
import { SubscribeReceiver } from './subscribe-receiver.ts'

/** A client that is cut off loses its output if more than this many bytes of it wait. */
const CUT_BYTES = 64 * 1024

export class Connection implements LinkHandler, NetworkConnection, OutputOwner {
  connectedAt = 0
  keepAliveSeconds = 0
  memoryTrackedIndex = -1
  countedBytes = 0
  view: ClientView
  readonly address: Usage
  readonly #state: ServerState
  readonly parts: ServerParts
  readonly link: Link
  readonly #output: Output
  readonly #input: Input
  readonly #sender: PacketSender
  /** Null once CONNACK was sent, or the connection is closed. */
  #handshake: Handshake | null
  /** For re-authentication; null where CONNECT named no Authentication Method. */
  #authentication: EnhancedAuthentication | null = null
  /** Made with the first packet that needs it; a client that only receives at QoS 0 has none. */
  #publishReceiver: PublishReceiver | null = null
  /** Made with the first packet that needs it; a client that only publishes has none. */
  #subscribeReceiver: SubscribeReceiver | null = null
  /** Whether CONNECT asked for a Session Expiry Interval, so that DISCONNECT may change it. */
  #mayExpireLater = false
  /** Whether the client is a bridge, by the protocol level of its CONNECT; never in 5.0. */
  #isBridge = false
  /** The Session Expiry Interval in force when this connection ends; DISCONNECT may change it. */
  #expirySeconds = 0

  constructor(state: ServerState, parts: ServerParts, link: Link) {
    this.#state = state
    this.parts = parts
    this.link = link
    this.address = state.usage.opened(link.info)
    this.countedBytes = connectionBytes(link.info.transport)
    this.view = { clientId: '', userName: null, protocolVersion: 4, link: link.info }
    this.#output = new Output(state, link, this)
    this.#input = new Input(state, this.#output, this)
    this.#sender = new PacketSender(state, this.#output, this.#input, this)
    this.#handshake = new Handshake(state, this, this.#input, this.#sender)
  }

  get session(): Session | null {
    return this.#sender.session
  }

  /** Includes what is kept for the client's input. */
  get waitingBytes(): number {
    return this.#output.waitingBytes + this.heldBytes
  }

  get heldBytes(): number {
    return this.incompleteBytes + (this.#publishReceiver?.aliasBytes ?? 0)
  }

  get incompleteBytes(): number {
    const connectBytes = this.#handshake === null ? 0 : this.#handshake.heldBytes
    return this.#input.framer.memoryBytes + connectBytes + (this.#subscribeReceiver?.heldBytes ?? 0)
  }

  get addressName(): string {
    return this.address.name
  }

  get isQueuedToLogIn(): boolean {
    return this.#handshake?.isQueued === true
  }

  get isStranger(): boolean {
    const { phase } = this.#input
    return phase === 'new' || phase === 'authenticating'
  }

  // ── packets ────────────────────────────────────────────────────────────────────────────────────────────

  received(chunk: Buffer): void {
    this.#input.received(chunk)
  }

  handle(framer: Framer): void {
    if (this.#input.phase === 'open') this.#handleOpen(framer)
    else this.#handshake!.handle(framer)
  }

  #handleOpen(framer: Framer): void {
    switch (framer.type) {
      case PacketType.Publish:
        this.#receiver.publish(decodePublish(framer, this.#sender.version, this.#state.topics))
        return
      case PacketType.Puback:
      case PacketType.Pubrec:
      case PacketType.Pubrel:
      case PacketType.Pubcomp:
        this.#receiver.acknowledged(framer)
        return
      default:
        this.#handleRare(framer)
    }
  }

  /** Kept apart: the compiler inlines the functions that a PUBLISH goes through only while they are short. */
  #handleRare(framer: Framer): void {
    switch (framer.type) {
      case PacketType.Subscribe:
      case PacketType.Unsubscribe:
        this.#handleFilters(framer)
        return
      case PacketType.Connect:
        throw new ProtocolError(Reason.ProtocolError, 'MQTT-3.1.0-2', 'a second CONNECT')
      default:
        this.#handleOther(framer)
    }
  }

  #handleFilters(framer: Framer): void {
    const reader = new FilterReader(framer, this.#sender.version)
    const isInUse = this.#publishReceiver?.isInUse(reader.packetId) === true
    if (framer.type === PacketType.Subscribe) this.#filters.subscribe(reader, isInUse)
    else this.#filters.unsubscribe(reader, isInUse)
  }

  #handleOther(framer: Framer): void {
    this.#state.work.units += UNITS.request
    const packet = decode(framer, this.#sender.version, this.#state.topics)
    switch (packet.type) {
      case 'pingreq':
        this.#sender.pingresp() // [MQTT-3.12.4-1]
        return
      case 'disconnect':
        this.#onDisconnect(packet)
        return
      case 'auth':
        if (this.#authentication === null) throw noAuthenticationMethod()
        this.#authentication.received(packet)
        return
      default:
        throw new ProtocolError(Reason.ProtocolError, 'section 2.1.2', `a client may not send ${packet.type}`)
    }
  }

  get #receiver(): PublishReceiver {
    this.#publishReceiver ??= new PublishReceiver(
      this.#state,
      this.parts,
      this,
      this.#input,
      this.#sender,
      this.#sender.session!,
    )
    return this.#publishReceiver
  }

  get #filters(): SubscribeReceiver {
    this.#subscribeReceiver ??= new SubscribeReceiver(
      this.#state,
      this.parts,
      this.#input,
      this.#sender,
      this.#sender.session!,
      this.view,
      this.#isBridge,
    )
    return this.#subscribeReceiver
  }

  #onDisconnect(packet: DisconnectPacket): void {
    const { sessionExpirySeconds: asked } = packet
    if (asked !== undefined) {
      if (asked > 0 && !this.#mayExpireLater) {
        throw new ProtocolError(
          Reason.ProtocolError,
          'section 3.14.2.2.2',
          'Session Expiry Interval changed from 0',
        )
      }
      this.#expirySeconds = Math.min(asked, this.#state.limits.sessionExpirySecondsMax)
    }
    this.close('client', packet.reasonCode, packet.reasonString ?? '')
  }

  opened(
    packet: ConnectPacket,
    session: Session,
    expirySeconds: number,
    authentication: EnhancedAuthentication | null,
  ): void {
    const { info } = this.link
    this.#sender.session = session
    this.#expirySeconds = expirySeconds
    this.#mayExpireLater = packet.sessionExpirySeconds > 0
    this.#isBridge = packet.isBridge
    this.#handshake = null
    this.#authentication = authentication
    this.#input.open()
    this.#sender.aliasMaximum = Math.min(packet.topicAliasMaximum, this.#state.limits.topicAliasOutMaximum)
    this.parts.sessions.connect(session, this)
    this.connectedAt = this.#state.now()
    this.keepAliveSeconds = keepAliveSeconds(this.#state, packet, info)
    if (this.#input.end === null) this.#input.keepAlive.start(this.keepAliveSeconds)
  }

  // ── for the Server ─────────────────────────────────────────────────────────────────────────────────────

  pauseReading(): boolean {
    if (!this.#input.hold('crowd')) return false
    this.#handshake?.loginTime.held(this.#state.limits.loginWaitSecondsMax)
    return true
  }

  resumeReading(): boolean {
    if (this.#input.phase === 'closed') return false
    this.#handshake?.loginTime.released()
    this.#input.release('crowd')
    return this.#input.phase === 'new'
  }

  /** Begins to read only after `ms`, since the address exceeds its rate of connections. */
  waitFor(ms: number): void {
    if (!this.#input.hold('rate')) return
    this.#handshake?.loginTime.postpone(ms)
    this.#state.deadlines.at(this.#state.now() + ms, () => this.#input.release('rate'))
  }

  hold(reason: HoldReason): boolean {
    return this.#input.hold(reason)
  }

  release(reason: HoldReason): void {
    this.#input.release(reason)
  }

  resume(): void {
    this.#input.caughtUp()
  }

  finish(): boolean {
    return this.#input.finish()
  }

  get isPaying(): boolean {
    return this.#input.isHeldFor('pays')
  }

  committed(sequence: number): void {
    this.#sender.committed(sequence)
  }

  drained(): void {
    this.#sender.drained()
  }

  credited(count: number): void {
    this.#publishReceiver?.credit(count)
  }

  // ── the end ────────────────────────────────────────────────────────────────────────────────────────────

  takenOver(by: LinkInfo): void {
    if (this.#input.phase === 'closed') return
    // Packets that wait for a commit belong to the Session, which is another connection's now.
    this.#output.discard()
    this.#sender.session = null
    this.#sendLast(Reason.SessionTakenOver, 'another Network Connection uses this Client Identifier')
    this.close('server', Reason.SessionTakenOver, 'taken over', by)
  }

  storeLost(): void {
    const { session } = this.#sender
    const depends = session?.stored === true || !this.#output.idle
    if (!depends) return
    if (this.#input.phase === 'closed') {
      this.#output.discard()
      if (!this.#input.isGone) this.link.end()
    }
    if (this.#input.phase !== 'open') return
    this.#output.discard()
    // A stored Session is read again from the disk; one that is not ends with this connection as usual.
    if (session?.stored === true) this.#sender.session = null
    this.#sendLast(Reason.QuotaExceeded, 'the disk is full: what was not acknowledged was not stored')
    this.close('server', Reason.QuotaExceeded, 'the store failed')
  }

  cut(reason: string, told: string): void {
    this.disconnect(Reason.QuotaExceeded, reason, told)
    // DISCONNECT is behind all other output, which stays in memory if the reader takes nothing.
    if (this.#output.waitingBytes > CUT_BYTES) this.destroy()
  }

  destroy(): void {
    this.#output.discard()
    this.link.destroy()
  }

  disconnect(reasonCode: number, reason: string, told = reason): void {
    const { phase } = this.#input
    if (phase === 'closed') return
    if (phase === 'new') {
      this.close('server', reasonCode, reason) // there is no CONNECT to answer
      return
    }
    if (phase !== 'open') {
      this.#handshake!.refuse(reasonCode as Reason, reason, { told })
      return
    }
    this.#sendDisconnect(reasonCode, told)
    this.close('server', reasonCode, reason)
  }

  /** Sends DISCONNECT after the output was discarded: only where CONNACK has left [MQTT-3.14.0-1]. */
  #sendLast(reasonCode: number, reason: string): void {
    if (this.#sender.hasSentConnack) this.#sendDisconnect(reasonCode, reason)
  }

  #sendDisconnect(reasonCode: number, reason: string): void {
    if (this.#sender.version < 5) return
    const code = disconnectReasonCode(reasonCode)
    this.#sender.sendIfSmall(encodeDisconnect(code, reason, this.#sender.maximumPacketSize))
  }

  violated(error: ProtocolError): void {
    const { phase } = this.#input
    if (phase === 'closed') return
    if (error.limit !== null) this.#state.limited(error.limit, this.view.clientId, error.message)
    if (phase === 'open') this.disconnect(error.reasonCode, `${error.message} (${error.statement})`)
    else this.#handshake!.violated(error)
  }

  close(by: EndedBy, reasonCode: number, reason: string, takenOverBy?: LinkInfo): void {
    if (this.#input.phase === 'closed') return
    this.#state.work.units += UNITS.leave
    const wasOpen = this.#input.phase === 'open'
    const { session } = this.#sender
    this.#input.close()
    this.#sender.close()
    this.#handshake?.end()
    this.#handshake = null
    this.parts.closed(this)
    this.#state.connectQueue.remove(this)
    if (session !== null) {
      const normal = by === 'client' && reasonCode === Reason.Success
      this.parts.sessions.left(session, this.#expirySeconds, normal ? 'normal' : 'lost')
    }
    if (wasOpen) this.#tellClosed(by, reasonCode, reason, takenOverBy)
    if (this.#input.isGone) this.#over()
    else this.#sender.endWhenIdle()
  }

  #tellClosed(by: EndedBy, reasonCode: number, reason: string, takenOverBy?: LinkInfo): void {
    const { events, counters } = this.#state
    counters.clientsConnected--
    if (!events.has('disconnected')) return
    const { clientId } = this.view
    const more = takenOverBy === undefined ? {} : { takenOverBy }
    events.emit('disconnected', { clientId, link: this.link.info, reasonCode, reason, by, ...more })
  }

  /** Notes that the client sends nothing more. Handles its packets first, however long they are held. */
  ended(error: Error | undefined): void {
    this.#input.ended(error?.message ?? 'the Network Connection was closed')
  }

  closed(error: Error | undefined): void {
    this.#input.isGone = true
    this.#sender.gone()
    this.#state.turn.begin()
    if (this.#input.phase === 'closed') {
      this.#over()
      return
    }
    this.ended(error)
    this.#input.continueReading()
  }

  /** Lets go of everything, since the Network Connection is closed and its transport is gone. */
  #over(): void {
    this.#output.discard()
    if (this.memoryTrackedIndex >= 0) this.#state.memoryWatch.untrack(this)
    this.parts.gone(this)
  }
}
