/**
 * HOT. A Network Connection: takes bytes, keeps the order of its packets and of its output, and dies with its
 * socket. What lives longer belongs to its Session.
 */
import { decodeAcknowledge } from '../../mqtt/codec/acknowledge.ts'
import { encodeAuth } from '../../mqtt/codec/auth.ts'
import { encodeConnack, setSessionPresent } from '../../mqtt/codec/connack.ts'
import { ConnectError, decodeConnect } from '../../mqtt/codec/connect.ts'
import { decode } from '../../mqtt/codec/decode.ts'
import { encodeDisconnect } from '../../mqtt/codec/disconnect.ts'
import { FilterReader } from '../../mqtt/codec/filter-reader.ts'
import { Framer } from '../../mqtt/codec/framer.ts'
import { PINGRESP } from '../../mqtt/codec/ping.ts'
import { decodePublish } from '../../mqtt/codec/publish.ts'
import type { Delivery, Topic, Will } from '../../mqtt/message.ts'
import type {
  AcknowledgeType,
  ConnackProperties,
  ConnectPacket,
  DisconnectPacket,
  ProtocolVersion,
} from '../../mqtt/packet.ts'
import { PacketType } from '../../mqtt/packet-type.ts'
import { ProtocolError, Reason } from '../../mqtt/reason.ts'
import type { Session, SessionSink } from '../../session/session.ts'
import { connectionBytes } from '../accounts/costs.ts'
import { REFUSED } from '../accounts/rates.ts'
import type { Usage } from '../accounts/usage.ts'
import type { BrokerEvents, PacketEvent } from '../boundary/events.ts'
import type { Link, LinkHandler, LinkInfo } from '../boundary/link.ts'
import type { ClientView, Owner, Rejection, Welcome } from '../boundary/policy.ts'
import { connackReasonCode, disconnectReasonCode } from '../boundary/refusal-codes.ts'
import type { FanOut } from '../messages/crowd.ts'
import { connectionExcess } from '../relief/quotas.ts'
import type { Rooms } from '../sessions/server-parts.ts'
import type { Deadline } from '../state/deadlines.ts'
import type { Newcomer } from '../state/doorway.ts'
import { type HoldReason, ReadGate } from '../state/read-gate.ts'
import type { ClientConnection, State } from '../state/state.ts'
import type { Turn } from '../state/turn.ts'
import { SLICE_UNITS, UNITS } from '../state/work.ts'
import { Authentication, type AuthenticationSink, noAuthenticationMethod } from './authentication.ts'
import {
  boundClientId,
  cleanIfNameless,
  connackProperties,
  connectBytes,
  connectRefusal,
  isBridgeState,
  keepAliveSeconds,
  NO_ROOM,
  type Refusal,
  sessionExpirySeconds,
  sessionRefusal,
} from './connect.ts'
import { ConnectionLeniences } from './connection-leniences.ts'
import { DeliveryEncoder } from './delivery.ts'
import { type LateBy, LoginTime, type LoginTimeSink } from './login-time.ts'
import { Output, type OutputOwner } from './output.ts'
import { KeepAlive, type KeepAliveSink, ReaderWatch } from './patience.ts'
import { Inbound, type InboundSink } from './publish-receiver.ts'
import { type RatedConnection, RateGate } from './rate-gate.ts'
import { FilterPackets, type FilterPacketsSink } from './subscribe-receiver.ts'
import { acknowledgement, receivedPacket, sentPacket, type TracedPacket } from './traced-packet.ts'

/** How long a policy may take for the packets of a client that is gone, in ms. */
const LAST_PACKETS_MS = 60_000

/**
 * Messages in flight to a client before 5.0 at first: it cannot say Receive Maximum, and a small device that comes back must not
 * get all that waits at once. As many as Mosquitto's default is, which such clients are used to.
 */
const IN_FLIGHT_START = 20

/** Bytes that are one unit of work, as a power of two. */
const BYTES_SHIFT = Math.log2(UNITS.bytesEach)

/** From so many ms on, a client that logs in was kept waiting by us. */
const KEPT_WAITING_MS = 1000

/** Of a client that is cut off, more than this that waits for it is thrown away. */
const CUT_BYTES = 64 * 1024

/** Of those who are read from all the time: shared, never added to. */
const NEVER_HELD = new ReadGate()

/** What else there is to a refusal. */
interface RefusalMore extends Pick<Rejection, 'serverReference' | 'isGuess'> {
  readonly told?: string
}

/** The client sends nothing more: why, since when in broker time, and how long its last packets may wait for a policy. */
interface InputEnd {
  readonly reason: string
  readonly at: number
  timeout: Deadline | null
}

/** 'new' waits for CONNECT, 'authenticating' for a policy or AUTH, 'open' was accepted, 'closed' reads nothing. */
type Phase = 'new' | 'authenticating' | 'open' | 'closed'

export class Connection
  implements
    LinkHandler,
    SessionSink,
    ClientConnection,
    AuthenticationSink,
    InboundSink,
    FilterPacketsSink,
    OutputOwner,
    KeepAliveSink,
    LoginTimeSink,
    RatedConnection,
    Newcomer
{
  readonly immediate = false
  connectedAt = 0
  keepAliveSeconds = 0
  restlessAt = -1
  countedBytes = 0
  readonly address: Usage
  readonly #state: State
  readonly #rooms: Rooms
  readonly #link: Link
  readonly #framer: Framer
  readonly #output: Output
  #phase: Phase = 'new'
  #version: ProtocolVersion = 4
  #view: ClientView
  #session: Session | null = null
  /** Until it is accepted; then its password, and what else it said, may go. */
  #connect: ConnectPacket | null = null
  /** Memory that it takes. */
  #connectBytes = 0
  /** What `state.incomplete` knows of this connection. */
  #countedBytes = 0
  /** Whether CONNECT asked for a Session Expiry Interval, so that DISCONNECT may change it. */
  #mayExpireLater = false
  /** Its CONNECT said that it is a bridge before 5.0. */
  #isBridge = false
  /** The Session Expiry Interval that holds when this connection ends; DISCONNECT may change it. */
  #expirySeconds = 0
  /** The client's Maximum Packet Size. */
  #maximumPacketSize = Number.POSITIVE_INFINITY
  #authentication: Authentication | null = null
  /** One of its own from when it is held first. */
  #gate = NEVER_HELD
  /** Whether the transport is paused; 'shortly' where what is left of the input is in memory that others read into. */
  #paused: 'no' | 'shortly' | 'yes' = 'no'
  /** The turn in which it handled packets last, and the units that these took. */
  #turn = 0
  #spent = 0
  /** The turn in which it had its share last. */
  #servedIn = -1
  /** When a policy was asked last, in broker time. */
  #askedAt = 0
  #running = false
  readonly #keepAlive: KeepAlive
  /** Until it is let in. */
  #loginTime: LoginTime | null
  /** Made for the first write that has to wait. */
  #readerWatch: ReaderWatch | null = null
  /** How many packets the output has written when CONNACK is among them. */
  #connackAt = 0
  #takenOverBy: LinkInfo | null = null
  /** Closing: the link is ended when the output is empty. */
  #ending = false
  /** Null while the client may send more. What it sent before is handled first. */
  #inputEnd: InputEnd | null = null
  #gone = false
  #isRefillDue = false
  /** Null where no rate is set for it. */
  #rates: RateGate | null = null
  #inbound: Inbound | null = null
  #filterPackets: FilterPackets | null = null
  /** Null, as it should be, where the listener forgives nothing. */
  readonly #leniences: ConnectionLeniences | null
  /** Made with the first delivery: who only publishes has none. */
  #encoder: DeliveryEncoder | null = null
  /** Topic Aliases that we may use towards the client. */
  #aliasMaximum = 0

  constructor(state: State, rooms: Rooms, link: Link) {
    this.#state = state
    this.#rooms = rooms
    this.#link = link
    this.address = state.usage.opened(link.info)
    this.countedBytes = connectionBytes(link.info.transport)
    this.#framer = new Framer(state.limits.packetBytesMax)
    this.#framer.controlBytesMax = state.limits.controlPacketBytesMax
    this.#framer.propertyBytesMax = state.limits.propertyBytesMax
    const { lenient } = link.info
    this.#leniences =
      lenient === undefined || lenient.length === 0 ? null : new ConnectionLeniences(state, lenient)
    this.#framer.leniences = this.#leniences?.leniences ?? null
    this.#output = new Output(state, link, this)
    this.#view = { clientId: '', userName: null, protocolVersion: 4, link: link.info }
    this.#keepAlive = new KeepAlive(state, link, this)
    const timeoutMs = state.limits.connectTimeoutSeconds * 1000
    this.#loginTime = new LoginTime(state, timeoutMs, link.info.handshakeMs ?? 0, this)
  }

  get view(): ClientView {
    return this.#view
  }

  /** Bytes that wait for this reader, here and in the transport, and those it has us keep. */
  get waitingBytes(): number {
    return this.#output.waitingBytes + this.heldBytes
  }

  get heldBytes(): number {
    return this.incompleteBytes + (this.#inbound?.aliasBytes ?? 0)
  }

  /** Sender. */
  get incompleteBytes(): number {
    const connectBytes = this.#connect === null ? 0 : this.#connectBytes
    return this.#framer.memoryBytes + connectBytes + (this.#filterPackets?.heldBytes ?? 0)
  }

  /** Sender. */
  get addressName(): string {
    return this.address.name
  }

  /** Sender. */
  get isStranger(): boolean {
    return this.#phase === 'new' || this.#phase === 'authenticating'
  }

  // ── input ─────────────────────────────────────────────────────────────────────────────────────────────────

  received(chunk: Buffer): void {
    if (this.#phase === 'closed') return
    this.#state.turn.begin()
    if (this.restlessAt < 0) this.#state.stir(this)
    this.#state.figures.bytesReceived += chunk.length
    this.#state.work.units += UNITS.read + (chunk.length >>> BYTES_SHIFT)
    this.#keepAlive.arrived(chunk.length)
    this.#rates?.received(chunk.length)
    if (this.#gate.isHeld) {
      if (this.#gate.isOnly('slice') && this.#state.turn.isShort) {
        this.#pauseShortly(chunk)
        return
      }
      this.#pause()
      // TLS goes on with what it has decrypted after `pause`: who stands still does not pin that either.
      this.#framer.push(Buffer.from(chunk))
      this.#count()
      return
    }
    this.#framer.push(chunk)
    this.#run()
    // Nearly always all was whole, and all is handled.
    if (this.#phase !== 'open' || this.#gate.isHeld || this.#framer.bufferedBytes + this.#countedBytes > 0)
      this.#count()
  }

  /** Tells how much is buffered; where that is too much, somebody is cut off. */
  #count(): void {
    const bytes = this.#phase === 'closed' ? 0 : this.incompleteBytes
    const more = bytes - this.#countedBytes
    if (more === 0) return
    this.#countedBytes = bytes
    const { incomplete, limits } = this.#state
    incomplete.changed(this.isStranger, more)
    if (more > 0) incomplete.bound(limits)
  }

  #run(isContinued = false): void {
    if (this.#running) return
    this.#running = true
    const { figures, turn, work } = this.#state
    const from = work.units
    const published = figures.publishReceived
    if (this.#turn !== turn.number) {
      this.#turn = turn.number
      this.#spent = 0
    }
    const mayRun = isContinued || this.#mayRun(turn)
    let until = mayRun ? from + SLICE_UNITS - this.#spent : from
    try {
      this.#handleUntil(until)
      // Hardly any sends so much that it matters whether others are there.
      if (mayRun && work.units >= until) {
        until = from + turn.sliceFor(this) - this.#spent
        this.#handleUntil(until)
      }
      this.#spent += work.units - from
      if (figures.publishReceived !== published) turn.active(this)
      if (work.units >= until && this.#framer.bufferedBytes > 0 && this.#reading()) this.#yield()
      // Whatever the packets were: what they asked to be stored has a bound, and what they want to be told.
      if (this.#phase === 'open' && this.#isBehind()) this.fallBehind()
      if (this.#phase === 'open' && this.#output.choked) this.#choke()
      if (this.#inputEnd !== null && !this.#gate.isHeld)
        this.#close('network', Reason.UnspecifiedError, this.#inputEnd.reason)
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error
      this.#violated(error)
    } finally {
      this.#running = false
    }
  }

  #handleUntil(units: number): void {
    const { events, figures, work } = this.#state
    while (work.units < units && this.#reading() && this.#framer.next()) {
      figures.packetsReceived++
      work.units += UNITS.packet
      this.#keepAlive.active()
      if (events.hearsPackets) this.#traceReceived()
      this.#handle()
    }
  }

  /** One that had its share waits until what others have to do was done; and all do where the turn has taken enough. */
  #mayRun(turn: Turn): boolean {
    if (this.#phase === 'new' && turn.isCrowded) return false
    return !turn.isFull && (turn.number - this.#servedIn > 1 || !turn.isSharedWith(this))
  }

  /** It goes on in the next turn, after what others have to do. */
  #yield(): void {
    if (!this.#ownGate().add('slice')) return
    this.#state.figures.slicesEnded++
    this.#servedIn = this.#turn
    this.#keepAlive.stand(true)
    const goOn = (): void => this.#continue()
    if (this.#phase === 'new') this.#state.doorway.early(this, goOn)
    else this.#state.turn.continueLater(goOn)
  }

  /** Newcomer. */
  wait(): boolean {
    if (!this.hold('crowd')) return false
    this.#loginTime?.held(this.#state.limits.loginWaitSecondsMax)
    return true
  }

  /** Newcomer. */
  hear(): boolean {
    if (this.#phase === 'closed') return false
    this.#loginTime?.released()
    this.release('crowd')
    return this.#phase === 'new'
  }

  #continue(): void {
    if (this.#gate.remove('slice') && this.#phase !== 'closed') this.#goOn(true)
  }

  #isBehind(): boolean {
    return this.#state.store.pendingBytes > this.#state.limits.pendingCommitBytesMax
  }

  #reading(): boolean {
    return this.#phase !== 'closed' && !this.#gate.isHeld && (!this.#output.choked || this.#gate.isHurried)
  }

  /** The client asks and does not read the answers: nothing more is read from it until it does. */
  #choke(): void {
    if (!this.hold('answers') || !this.#gone) return
    // Nobody reads these answers any more.
    this.#output.discard()
    this.#state.turn.continueLater(() => this.#unchoke())
  }

  /** Reads nothing more for this reason, also of what has arrived; false where it held already, or may not any more. */
  hold(reason: HoldReason): boolean {
    if (this.#phase === 'closed' || !this.#ownGate().add(reason)) return false
    this.#keepAlive.stand(true)
    this.#pause()
    return true
  }

  #ownGate(): ReadGate {
    if (this.#gate === NEVER_HELD) this.#gate = new ReadGate()
    return this.#gate
  }

  /** Does not pin the memory that others read into. */
  #pause(): void {
    const before = this.#paused
    if (before === 'yes') return
    this.#paused = 'yes'
    this.#framer.detach()
    if (before === 'no') this.#link.pause()
  }

  /** It is its turn again soon: nothing is copied for so long. */
  #pauseShortly(chunk: Buffer): void {
    const before = this.#paused
    this.#paused = 'shortly'
    this.#framer.push(chunk)
    if (before === 'no') this.#link.pause()
  }

  /** This reason not to read is gone: goes on with what is there, unless another one holds. */
  release(reason: HoldReason): void {
    if (this.#gate.remove(reason) && this.#phase !== 'closed') this.#goOn()
  }

  /** `isContinued` says that it is its turn. */
  #goOn(isContinued = false): void {
    this.#state.turn.begin()
    this.#keepAlive.stand(this.#gate.isHeld)
    this.#run(isContinued)
    this.#count()
    if (this.#paused === 'no' || !this.#reading()) return
    this.#paused = 'no'
    this.#link.resume()
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
    // Authenticating: nothing but AUTH and DISCONNECT [MQTT-3.1.2-30]; what another packet holds is of no interest.
    if (framer.type !== PacketType.Auth && framer.type !== PacketType.Disconnect) {
      throw new ProtocolError(
        Reason.ProtocolError,
        'MQTT-3.1.2-30',
        `packet type ${framer.type} before CONNACK`,
      )
    }
    const packet = decode(framer, this.#version, this.#state.topics)
    if (packet.type === 'auth') this.#authentication!.received(packet)
    else if (packet.type === 'disconnect')
      this.#close('client', packet.reasonCode, 'disconnected while authenticating')
  }

  #handleOpen(framer: Framer): void {
    switch (framer.type) {
      case PacketType.Publish:
        this.#receiver.publish(decodePublish(framer, this.#version, this.#state.topics))
        return
      case PacketType.Puback:
      case PacketType.Pubrec:
      case PacketType.Pubrel:
      case PacketType.Pubcomp:
        this.#receiver.acknowledged(decodeAcknowledge(framer, this.#version))
        return
      default:
        this.#handleRare(framer)
    }
  }

  /** Apart, since the processor's code for PUBLISH is made of few and short functions. */
  #handleRare(framer: Framer): void {
    switch (framer.type) {
      case PacketType.Subscribe:
        this.#filters.subscribe(new FilterReader(framer, this.#version))
        return
      case PacketType.Unsubscribe:
        this.#filters.unsubscribe(new FilterReader(framer, this.#version))
        return
      case PacketType.Connect:
        throw new ProtocolError(Reason.ProtocolError, 'MQTT-3.1.0-2', 'a second CONNECT')
      default:
        this.#handleOther(framer)
    }
  }

  #handleOther(framer: Framer): void {
    this.#state.work.units += UNITS.request
    const packet = decode(framer, this.#version, this.#state.topics)
    switch (packet.type) {
      case 'pingreq':
        this.send(PINGRESP, 0) // [MQTT-3.12.4-1]
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

  /** Waits for a policy's promise without handling the packets behind; `then` runs in a turn of its own. */
  #await<T>(promise: Promise<T>, then: (value: T) => void): void {
    this.#askedAt = this.#state.now()
    this.hold('policy')
    promise.then(
      (value) => this.#settled(() => then(value)),
      (error: unknown) => this.#settled(() => this.#policyFailed(error)),
    )
  }

  /** FilterPacketsSink: goes on in a later turn, so that others are served meanwhile; the packets behind wait. */
  later(action: () => void): void {
    this.#askedAt = this.#state.now()
    this.hold('policy')
    this.#state.turn.continueLater(() => this.#settled(action))
  }

  /** InboundSink. */
  follow(fanOut: FanOut, then: (gate: number) => void): void {
    this.hold('policy')
    fanOut.done = (gate) => this.#settled(() => then(gate))
  }

  /** InboundSink. */
  queue(topic: Topic, action: () => void): void {
    const { publisher } = this.#rooms
    this.hold('policy')
    publisher.queue(topic, () => this.#settled(() => publisher.admitting(action)))
  }

  #settled(action: () => void): void {
    this.#gate.remove('policy')
    if (this.#phase === 'closed') return
    this.#state.turn.begin()
    if (this.#phase === 'authenticating' && this.#state.now() - this.#askedAt >= KEPT_WAITING_MS) {
      this.#rooms.wills.keptWaiting()
    }
    try {
      action()
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error
      this.#violated(error)
    }
    this.#goOn()
  }

  #policyFailed(error: unknown): void {
    const reason = `a policy failed: ${error instanceof Error ? error.message : String(error)}`
    // What it stumbled over is for the log: it may name hosts, files or secrets.
    this.disconnect(
      Reason.ImplementationSpecificError,
      reason,
      'the Server could not decide: try again later',
    )
  }

  // ── CONNECT, AUTH ─────────────────────────────────────────────────────────────────────────────────────────

  #onConnect(given: ConnectPacket): void {
    const packet = cleanIfNameless(given)
    this.#state.work.units += UNITS.connect
    this.#state.turn.newcomer()
    this.#state.doorway.left(this)
    this.#phase = 'authenticating'
    this.#connect = packet
    this.#connectBytes = connectBytes(packet, this.#framer.packetBytes)
    this.#version = packet.protocolVersion
    this.#framer.version = packet.protocolVersion
    // Devices of the time before 5.0 are forgiven, nobody who speaks 5.0.
    if (packet.protocolVersion === 5) this.#framer.leniences = null
    this.#maximumPacketSize = packet.maximumPacketSize
    const clientId = packet.clientId === '' ? this.#assignClientId() : packet.clientId
    this.#view = { clientId, userName: null, protocolVersion: packet.protocolVersion, link: this.#link.info }
    this.#leniences?.identified(this.#view)
    const refusal = connectRefusal(this.#state, given, this.#link.info, this.#framer.leniences)
    if (refusal !== null) {
      this.#refuseFor(refusal)
      return
    }
    const { policy } = this.#state
    this.#authentication = new Authentication(
      policy,
      this,
      this.#link.info,
      packet,
      clientId,
      this.#loginTime!,
    )
    this.#authentication.start()
  }

  #assignClientId(): string {
    let clientId = `auto-${this.#state.host.randomId()}`
    while (this.#state.sessions.has(clientId)) clientId = `auto-${this.#state.host.randomId()}`
    return clientId
  }

  /** AuthenticationSink, InboundSink, FilterPacketsSink. */
  settle<T>(answer: T | Promise<T>, then: (value: T) => void): void {
    if (isPromise(answer)) this.#await(answer, then)
    else then(answer)
  }

  /** AuthenticationSink. */
  auth(reasonCode: Reason, method: string, data: Buffer | undefined): void {
    const bytes = encodeAuth(reasonCode, method, data)
    if (bytes.length <= this.#maximumPacketSize) {
      this.send(bytes, 0)
      return
    }
    this.limited('clientMaximumPacketSize', `AUTH has ${bytes.length} bytes`)
    this.disconnect(Reason.PacketTooLarge, 'AUTH exceeds Maximum Packet Size') // [MQTT-3.1.2-24]
  }

  /** AuthenticationSink. */
  reauthenticated({ userName, userId }: Owner): boolean {
    const { userName: before, userId: idBefore = null } = this.#view
    if (userName === before && userId === idBefore) return true
    this.disconnect(Reason.NotAuthorized, 're-authenticated as another user')
    return false
  }

  /** AuthenticationSink. */
  failed({ reasonCode, reason, ...more }: Rejection): void {
    if (this.#phase === 'open') this.disconnect(reasonCode, reason)
    else this.#refuse(reasonCode, reason, more)
  }

  #refuseFor({ reasonCode, reason, told, limit }: Refusal): void {
    if (limit !== undefined) this.limited(limit, reason)
    this.#refuse(reasonCode, reason, told === undefined ? {} : { told })
  }

  /** `told` is for the client where the reason is for the log alone. */
  #refuse(given: Reason, reason: string, more: RefusalMore = {}): void {
    const { serverReference, told = reason, isGuess } = more
    const reasonCode = connackReasonCode(given)
    const isBusy = given === Reason.ServerBusy || given === Reason.ServerUnavailable
    if (isBusy && isGuess !== true) this.#rooms.wills.keptWaiting()
    this.#tellRefused(reasonCode, reason, more)
    const properties: ConnackProperties = this.#version === 5 ? { reasonString: told } : {}
    if (serverReference !== undefined) properties.serverReference = serverReference
    const bytes = encodeConnack(
      { sessionPresent: false, reasonCode, properties },
      this.#version,
      this.#maximumPacketSize,
    )
    // 3.1.1: without a fitting code there is no CONNACK [MQTT-3.2.2-6].
    if (bytes !== null) this.#sendIfSmall(bytes)
    this.#close('server', reasonCode, reason)
  }

  #tellRefused(reasonCode: number, reason: string, { isGuess }: RefusalMore = {}): void {
    const { figures, events } = this.#state
    figures.connectionsRefused++
    if (!events.has('refused')) return
    const { clientId, link } = this.#view
    const userName = this.#connect?.userName
    events.emit('refused', {
      clientId,
      link,
      reasonCode,
      reason,
      ...(userName !== undefined && { userName }),
      ...(isGuess === true && { isGuess }),
    })
  }

  /** AuthenticationSink. */
  authenticated(user: Owner, data: Buffer | undefined, welcome: Welcome): void {
    const packet = this.#connect!
    const clientId = boundClientId(this.#link.info, packet, this.#view.clientId, user)
    if (typeof clientId !== 'string') {
      this.limited('clientIdRule', clientId.reason)
      this.#refuse(clientId.reasonCode, clientId.reason)
      return
    }
    this.#rooms.sessions.settle(clientId)
    const refusal = this.#sessionRefusal(packet, clientId, user)
    if (refusal !== null) {
      this.#refuseFor(refusal)
      return
    }
    if (user.userName !== null) {
      this.#view = { clientId, ...user, protocolVersion: packet.protocolVersion, link: this.#link.info }
    }
    const wait = this.#connectWait()
    if (wait === REFUSED) this.#refuse(Reason.ConnectionRateExceeded, 'too many connections: try again later')
    else if (wait === 0) this.#authorizeWill(packet, user, data, welcome)
    else this.#authorizeWillAfter(wait, packet, user, data, welcome)
  }

  #authorizeWillAfter(
    ms: number,
    packet: ConnectPacket,
    user: Owner,
    data: Buffer | undefined,
    welcome: Welcome,
  ): void {
    this.#after(ms, () => this.#authorizeWill(packet, user, data, welcome))
  }

  /** Log-ins that are right are charged: nobody uses up the rate of another one. */
  #connectWait(): number {
    const { clientId, userName, link } = this.#view
    const rates = this.#state.rates.of(clientId, userName, link.remoteAddress)
    if (rates === null) return 0
    this.#rates = new RateGate(this.#state, rates, this)
    return this.#rates.connect()
  }

  /** Goes on so many ms later; what the client sends meanwhile waits. */
  #after(ms: number, action: () => void): void {
    this.#askedAt = this.#state.now()
    this.hold('policy')
    this.#state.deadlines.at(this.#askedAt + ms, () => this.#settled(action))
  }

  /** It was accepted, and is read from so many ms later: others of its address were before it. */
  waitFor(ms: number): void {
    if (this.hold('rate')) this.#state.deadlines.at(this.#state.now() + ms, () => this.release('rate'))
  }

  #authorizeWill(packet: ConnectPacket, user: Owner, data: Buffer | undefined, welcome: Welcome): void {
    const { will } = packet
    if (will === undefined || this.#state.policy.authorizePublish === undefined)
      this.#open(packet, user, data, welcome)
    else this.#askAboutWill(packet, will, user, data, welcome)
  }

  /** Apart, since what a closure names makes memory of every call, also of one without a Will. */
  #askAboutWill(
    packet: ConnectPacket,
    will: Will,
    user: Owner,
    data: Buffer | undefined,
    welcome: Welcome,
  ): void {
    const allowed = this.#state.policy.authorizePublish!(this.#view, will.topic, will.qos, will.retain)
    this.settle(allowed, (allow) => {
      if (allow) this.#open(packet, user, data, welcome)
      else this.#willDenied(packet, will, user, data, welcome)
    })
  }

  /**
   * CONNECT is refused, so that nobody relies on a Will that is never published. Only a bridge is let in without the one
   * that tells its state: its PUBLISH to the same topic is denied as well, and it works without both.
   */
  #willDenied(
    packet: ConnectPacket,
    will: Will,
    user: Owner,
    data: Buffer | undefined,
    welcome: Welcome,
  ): void {
    const isEnd = packet.protocolVersion < 5 && this.#state.policy.deniedBefore5 === 'disconnect'
    if (isEnd || !isBridgeState(will.topic)) {
      this.#refuse(Reason.NotAuthorized, `the Will Topic ${will.topic} is not allowed`)
      return
    }
    this.#rooms.wills.deny(this.#view, will)
    this.#open({ ...packet, will: undefined }, user, data, welcome)
  }

  #open(packet: ConnectPacket, user: Owner, data: Buffer | undefined, welcome: Welcome): void {
    const state = this.#state
    const { clientId } = this.#view
    // Asked again: another user may have made a Session while a policy was thinking.
    this.#rooms.sessions.settle(clientId)
    const refusal = this.#sessionRefusal(packet, clientId, user)
    if (refusal !== null) {
      this.#refuseFor(refusal)
      return
    }
    if (!this.#findsRoom(clientId, user)) return
    if (this.#inputEnd !== null && !this.#mayOpenAfterEnd(clientId, this.#inputEnd.at)) {
      this.#close('network', Reason.UnspecifiedError, this.#inputEnd.reason)
      return
    }
    if (!this.#followsItself(clientId)) {
      this.#openLater(packet, user, data, welcome)
      return
    }
    // Asked before anything is done; whether a Session is present changes a bit, not the size.
    const connack = this.#connack(packet, data, welcome)
    if (connack.length > this.#maximumPacketSize) {
      this.limited('clientMaximumPacketSize', `CONNACK has ${connack.length} bytes`)
      this.#close('server', Reason.PacketTooLarge, 'CONNACK exceeds Maximum Packet Size') // [MQTT-3.1.2-24]
      return
    }
    const expirySeconds = sessionExpirySeconds(state, packet)
    const { session, present } = this.#rooms.sessions.open({
      clientId,
      user,
      cleanStart: packet.cleanStart,
      expirySeconds,
      link: this.#link.info,
      address: this.address,
    })
    this.#rooms.wills.set(this.#view, packet.will, packet.clientId === '' && expirySeconds === 0)
    this.#session = session
    this.#expirySeconds = expirySeconds
    this.#mayExpireLater = packet.sessionExpirySeconds > 0
    this.#isBridge = packet.isBridge
    state.incomplete.letIn(this.#countedBytes)
    this.#connect = null
    if (packet.authenticationMethod === undefined) this.#authentication = null
    this.#phase = 'open'
    this.#aliasMaximum = Math.min(packet.topicAliasMaximum, state.limits.topicAliasOutMaximum)
    this.#rooms.sessions.attach(session, this)
    this.connectedAt = state.now()
    this.keepAliveSeconds = keepAliveSeconds(state, packet, this.#link.info)
    if (this.#inputEnd === null) this.#keepAlive.start(this.keepAliveSeconds)
    this.#opened(packet, present)
    if (present) this.#rooms.subscribing.reconsider(this.#view, session)
    // CONNACK promises the creation, resumption or deletion of a Session, and the Will.
    if (present && packet.protocolVersion > 3) setSessionPresent(connack)
    this.send(connack, state.store.openSequence)
    this.#connackAt = this.#output.pushed
    const { inFlightMax = state.limits.inFlightMax } = this.#link.info
    const start = packet.protocolVersion === 5 ? inFlightMax : IN_FLIGHT_START
    this.#beginPump()
    session.attach(this, packet.receiveMaximum, inFlightMax, start)
    this.#endPump()
    this.#rooms.backlog.resume(session)
    this.#rooms.retained.resume(session)
  }

  #sessionRefusal(packet: ConnectPacket, clientId: string, user: Owner): Refusal | null {
    const refusal = sessionRefusal(this.#state, packet, clientId, user, this.#link.info)
    if (refusal !== null || this.#state.sessions.has(clientId)) return refusal
    const { relief, diskRelief, keptRelief } = this.#rooms
    const { remoteAddress } = this.#link.info
    const stores = sessionExpirySeconds(this.#state, packet) > 0
    const usage = this.#state.usage.user(user.userName, remoteAddress)
    const reason =
      relief.sessionRefusal(user.userName, remoteAddress) ??
      (stores ? diskRelief.refusal(usage) : null) ??
      // Who comes to clear retained messages gets in.
      (stores || packet.will !== undefined ? keptRelief.refusal(usage) : null)
    if (reason === null) return null
    this.#state.figures.relief['session-refused']++
    return { reasonCode: Reason.QuotaExceeded, reason, told: NO_ROOM }
  }

  /**
   * Whether there is a place for one more connection, or it takes its own old one over: known only now that it is who it says.
   * Refused with CONNACK otherwise.
   */
  #findsRoom(clientId: string, { userName }: Owner): boolean {
    const { connected, sessions, usage } = this.#state
    const session = sessions.get(clientId)
    if (session !== undefined && connected.has(session)) return true
    const { info } = this.#link
    const excess = connectionExcess(this.#state, usage.user(userName, info.remoteAddress), info)
    if (excess === null) return true
    this.#refuseFor({ ...excess, reason: `${excess.detail}; refused ${info.remoteAddress}` })
    return false
  }

  /** Whether a client that has left is let in for what it sent behind its CONNECT: not in the place of a newer connection. */
  #mayOpenAfterEnd(clientId: string, endedAt: number): boolean {
    const session = this.#state.sessions.get(clientId)
    if (session === undefined) return true
    const other = this.#state.connected.get(session)
    // Who has been there since, and left, is newer as well.
    return (other?.connectedAt ?? session.disconnectedAt) <= endedAt
  }

  #openLater(packet: ConnectPacket, user: Owner, data: Buffer | undefined, welcome: Welcome): void {
    this.later(() => this.#open(packet, user, data, welcome))
  }

  /** Whether all that this client sent on its connection before, and left, was handled. */
  #followsItself(clientId: string): boolean {
    const session = this.#state.sessions.get(clientId)
    if (session === undefined) return true
    return this.#state.connected.get(session)?.finish() !== false
  }

  #connack(packet: ConnectPacket, data: Buffer | undefined, welcome: Welcome): Buffer {
    const { protocolVersion: version, authenticationMethod } = packet
    const { clientId, link } = this.#view
    const properties = version === 5 ? connackProperties(this.#state, packet, link, clientId) : {}
    if (authenticationMethod !== undefined) {
      properties.authenticationMethod = authenticationMethod // [MQTT-4.12.0-5]
      if (data !== undefined) properties.authenticationData = data
    }
    const { responseInformation, userProperties } = welcome
    if (responseInformation !== undefined && packet.requestResponseInformation) {
      properties.responseInformation = responseInformation // [MQTT-3.1.2-28]
    }
    if (userProperties !== undefined) properties.userProperties = userProperties
    const connack = { sessionPresent: false, reasonCode: Reason.Success, properties }
    return encodeConnack(connack, version, this.#maximumPacketSize)!
  }

  #opened(packet: ConnectPacket, sessionPresent: boolean): void {
    const { figures, events } = this.#state
    this.#loginTime?.end()
    this.#loginTime = null
    figures.clientsConnected++
    if (figures.clientsConnected > figures.clientsMaximum) figures.clientsMaximum = figures.clientsConnected
    if (!events.has('connected')) return
    const { cleanStart } = packet
    events.emit('connected', {
      client: this.#view,
      sessionPresent,
      cleanStart,
      keepAliveSeconds: this.keepAliveSeconds,
    })
  }

  // ── what took too long ────────────────────────────────────────────────────────────────────────────────────

  /** LoginTimeSink. */
  connectTimedOut(by: LateBy): void {
    this.#state.turn.begin()
    const { connectTimeoutSeconds, loginWaitSecondsMax } = this.#state.limits
    if (by === 'queue') {
      const reason = `too many log-ins wait: this one has for ${loginWaitSecondsMax} s; try again later`
      this.limited('loginWaitSecondsMax', reason)
      this.#refuse(Reason.ServerBusy, reason)
      return
    }
    this.limited('connectTimeoutSeconds', `no complete CONNECT within ${connectTimeoutSeconds} s`)
    this.#close('server', Reason.UnspecifiedError, 'no CONNECT in time')
  }

  /** KeepAliveSink. */
  keepAliveTimedOut(): void {
    this.#state.turn.begin()
    this.disconnect(Reason.KeepAliveTimeout, 'no packet within one and a half Keep Alive')
  }

  #readerStalled(): void {
    this.#state.turn.begin()
    this.#output.discard()
    this.#close('server', Reason.UnspecifiedError, 'the reader took nothing in time')
    this.#link.destroy()
  }

  // ── SUBSCRIBE, UNSUBSCRIBE, DISCONNECT ────────────────────────────────────────────────────────────────────

  /** Made with the first packet that needs it: who only listens at QoS 0 has none. */
  get #receiver(): Inbound {
    this.#inbound ??= new Inbound(this.#state, this.#rooms, this, this.#session!, this.#view)
    return this.#inbound
  }

  /** Made with the first packet that needs it: who only publishes has none. */
  get #filters(): FilterPackets {
    this.#filterPackets ??= new FilterPackets(
      this.#state,
      this.#rooms,
      this,
      this.#session!,
      this.#view,
      this.#isBridge,
      this.#maximumPacketSize,
    )
    return this.#filterPackets
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
    this.#close('client', packet.reasonCode, packet.reasonString ?? '')
  }

  // ── output ────────────────────────────────────────────────────────────────────────────────────────────────

  /** Who sends nothing more is hardly there to read: answers are sent, deliveries wait in the Session. */
  get congested(): boolean {
    return this.#output.congested || this.#inputEnd !== null || this.#rates?.isSendHeld === true
  }

  /** SessionSink: outside of `#beginPump` and `#endPump` it is one message for one acknowledgement. */
  pumped(): boolean {
    const { turn, work } = this.#state
    work.units += UNITS.queued
    return work.units >= turn.pumpUntil
  }

  #makeEncoder(): DeliveryEncoder {
    this.#encoder = new DeliveryEncoder(
      this.#state.publishSlab,
      this.#output.place,
      this.#version,
      this.#maximumPacketSize,
      this.#aliasMaximum,
    )
    return this.#encoder
  }

  publish(delivery: Delivery, packetId: number, dup: boolean, gate: number): boolean {
    const encoder = this.#encoder ?? this.#makeEncoder()
    const encoded = encoder.encode(delivery, packetId, dup, this.#state.now())
    if (encoded === null) {
      this.#output.abandon()
      return false // [MQTT-3.1.2-25]
    }
    if (this.#output.pushPart(encoded.buffer, encoded.start, encoded.end, gate, 0))
      this.#state.turn.touch(this)
    const { body } = encoder
    if (body !== null) this.#output.pushBody(body)
    const { message, qos } = delivery
    const { figures, events } = this.#state
    if (events.hearsPackets) {
      const bytes = encoded.end - encoded.start + (body?.length ?? 0)
      this.#trace('sent', { packet: 'PUBLISH', bytes, packetId, qos, dup, retain: delivery.retain })
    }
    figures.publishSent++
    figures.publishBytesSent += message.payloadBytes
    if (events.hearsDelivered) events.emit('delivered', { clientId: this.#view.clientId, message, qos })
    return true
  }

  /** Adds PUBACK, PUBREC, PUBREL or PUBCOMP to the output; `credits` go back to the client's quota with it. */
  acknowledge(
    type: AcknowledgeType,
    packetId: number,
    reasonCode: number,
    gate: number,
    credits: number,
  ): void {
    const { turn, events } = this.#state
    if (this.#output.acknowledge(type, this.#version, packetId, reasonCode, gate, credits)) turn.touch(this)
    if (events.hearsPackets) this.#traceAcknowledgement(type, packetId, reasonCode)
  }

  pubrel(packetId: number, gate: number): void {
    this.acknowledge('pubrel', packetId, Reason.Success, gate, 0)
  }

  /** FilterPacketsSink. */
  send(bytes: Buffer, gate: number): void {
    if (this.#output.push(bytes, gate, 0)) this.#state.turn.touch(this)
    if (this.#state.events.hearsPackets) this.#trace('sent', sentPacket(bytes))
  }

  #traceReceived(): void {
    this.#trace('received', receivedPacket(this.#framer))
  }

  #traceAcknowledgement(type: AcknowledgeType, packetId: number, reasonCode: number): void {
    this.#trace('sent', acknowledgement(type, this.#version, packetId, reasonCode))
  }

  #trace(direction: PacketEvent['direction'], said: TracedPacket): void {
    const { clientId, link } = this.#view
    this.#state.events.emit('packet', { clientId, link, direction, ...said })
  }

  /** For the last packet of a connection: one that exceeds the client's Maximum Packet Size is left out. */
  #sendIfSmall(bytes: Buffer): void {
    if (bytes.length <= this.#maximumPacketSize) this.send(bytes, 0) // [MQTT-3.1.2-24]
  }

  flush(): void {
    if (this.#gone) {
      this.#output.discard()
      return
    }
    if (this.restlessAt < 0) this.#state.stir(this)
    if (this.#rates === null) this.#output.flush()
    else this.#flushCharged(this.#rates)
    this.#afterWrite()
  }

  #flushCharged(rates: RateGate): void {
    const before = this.#state.figures.bytesSent
    this.#output.flush()
    rates.sent(this.#state.figures.bytesSent - before)
  }

  committed(sequence: number): void {
    if (this.#gone) return
    const before = this.#state.figures.bytesSent
    this.#output.release(sequence)
    this.#rates?.sent(this.#state.figures.bytesSent - before)
    this.#afterWrite()
  }

  drained(): void {
    if (this.#gone) return
    this.#state.turn.begin()
    this.#output.refresh()
    this.#unchoke()
    this.#refill()
  }

  /** RatedConnection. */
  sendsAgain(): void {
    if (this.#gone) return
    this.#state.turn.begin()
    this.#unchoke()
    this.#refill()
  }

  /** OutputOwner. */
  credited(count: number): void {
    this.#inbound?.credit(count)
  }

  #afterWrite(): void {
    if (this.#link.bufferedBytes > 0) this.#watchReader()
    if (this.#ending) {
      if (this.#output.idle) this.#link.end()
      return
    }
    const session = this.#session
    if (this.#output.congested) return
    if (this.#gate.isHeld) this.#unchokeLater()
    if (session === null || this.#rates?.isSendHeld === true) return
    if (session.hasMore || this.#rooms.retained.waits(session)) this.#refillLater()
  }

  #watchReader(): void {
    const { stalledReaderSeconds } = this.#state.limits
    this.#readerWatch ??= new ReaderWatch(this.#state, this.#link, stalledReaderSeconds, () =>
      this.#readerStalled(),
    )
    this.#readerWatch.written()
  }

  #unchokeLater(): void {
    if (this.#gate.has('answers')) this.#state.turn.continueLater(() => this.#unchoke())
  }

  #unchoke(): void {
    if (!this.#output.congested) this.release('answers')
  }

  #refillLater(): void {
    if (this.#isRefillDue) return
    this.#isRefillDue = true
    this.#state.turn.continueLater(() => {
      this.#isRefillDue = false
      this.#refill()
    })
  }

  /** What waits for this client is given to it as far as a slice goes, and then in later turns. */
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

  /** The reader has room: the Session goes on, and retained messages that wait. */
  #refill(): void {
    if (this.#session === null || this.#phase !== 'open') return
    this.#beginPump()
    this.#session.pump()
    this.#endPump()
    this.#rooms.backlog.resume(this.#session)
    this.#rooms.retained.resume(this.#session)
  }

  // ── when the broker is behind ─────────────────────────────────────────────────────────────────────────────

  /** InboundSink. */
  fallBehind(): void {
    if (!this.hold('commit')) return
    this.#state.paused.add(this)
    if (this.#state.events.has('paused')) {
      this.#state.events.emit('paused', { clientId: this.#view.clientId, reason: 'commit' })
    }
  }

  resume(): void {
    if (!this.#gate.has('commit')) return
    this.#state.paused.delete(this)
    if (this.#phase !== 'closed' && this.#state.events.has('resumed'))
      this.#state.events.emit('resumed', { clientId: this.#view.clientId })
    this.release('commit')
  }

  // ── when memory is short ──────────────────────────────────────────────────────────────────────────────────

  get isPaying(): boolean {
    return this.#gate.has('pays')
  }

  cut(reason: string, told: string): void {
    this.disconnect(Reason.QuotaExceeded, reason, told)
    // What waits for a reader that takes nothing stays in memory until it is gone, and DISCONNECT is behind it.
    if (this.#output.waitingBytes > CUT_BYTES) this.destroy()
  }

  // ── the end ───────────────────────────────────────────────────────────────────────────────────────────────

  takenOver(by: LinkInfo): void {
    if (this.#phase === 'closed') return
    // What waits for a commit belongs to the Session, which is somebody else's now.
    this.#output.discard()
    this.#session = null
    this.#sendLast(Reason.SessionTakenOver, 'another Network Connection uses this Client Identifier')
    this.#takenOverBy = by
    this.#close('server', Reason.SessionTakenOver, 'taken over')
  }

  storeLost(): void {
    const depends = this.#session?.stored === true || !this.#output.idle
    if (!depends) return
    if (this.#phase === 'closed') {
      this.#output.discard()
      if (!this.#gone) this.#link.end()
    }
    if (this.#phase !== 'open') return
    this.#output.discard()
    const session = this.#session
    // A stored Session is read again from the disk; one that is not ends with this connection as usual.
    if (session?.stored === true) this.#session = null
    this.#sendLast(Reason.QuotaExceeded, 'the disk is full: what was not acknowledged was not stored')
    this.#close('server', Reason.QuotaExceeded, 'the store failed')
  }

  destroy(): void {
    this.#output.discard()
    this.#link.destroy()
  }

  /** `told` is for the client where the reason is for the log alone. */
  disconnect(reasonCode: number, reason: string, told = reason): void {
    if (this.#phase === 'closed') return
    if (this.#phase === 'new') {
      this.#close('server', reasonCode, reason) // there is no CONNECT to answer
      return
    }
    if (this.#phase !== 'open') {
      this.#refuse(reasonCode as Reason, reason, { told })
      return
    }
    this.#sendDisconnect(reasonCode, told)
    this.#close('server', reasonCode, reason)
  }

  /** DISCONNECT after the output was discarded: only where a CONNACK has left [MQTT-3.14.0-1]. */
  #sendLast(reasonCode: number, reason: string): void {
    if (this.#output.written >= this.#connackAt) this.#sendDisconnect(reasonCode, reason)
  }

  #sendDisconnect(reasonCode: number, reason: string): void {
    if (this.#version < 5) return
    const code = disconnectReasonCode(reasonCode)
    this.#sendIfSmall(encodeDisconnect(code, reason, this.#maximumPacketSize))
  }

  #violated(error: ProtocolError): void {
    if (this.#phase === 'closed') return
    if (error.limit !== null) this.limited(error.limit, error.message)
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
    this.#tellRefused(error.reasonCode, error.message)
    this.#close('server', error.reasonCode, error.message)
  }

  /** Ends this Network Connection once; what is in the output still leaves. */
  #close(by: BrokerEvents['disconnected']['by'], reasonCode: number, reason: string): void {
    if (this.#phase === 'closed') return
    const wasOpen = this.#phase === 'open'
    if (this.#countedBytes !== 0) this.#state.incomplete.changed(this.isStranger, -this.#countedBytes)
    this.#countedBytes = 0
    this.#phase = 'closed'
    this.#framer.discard()
    const { deadlines, events, figures, paused } = this.#state
    this.#loginTime?.end()
    if (this.#inputEnd !== null) deadlines.cancel(this.#inputEnd.timeout)
    this.#rates?.stop()
    // What still leaves is not charged: nobody would end what holds it back.
    this.#rates = null
    this.#keepAlive.stop()
    this.#loginTime = null
    paused.delete(this)
    this.#rooms.connections.delete(this)
    this.#state.doorway.left(this)
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
        const takenOverBy = this.#takenOverBy
        const more = takenOverBy === null ? {} : { takenOverBy }
        events.emit('disconnected', { clientId, link: this.#link.info, reasonCode, reason, by, ...more })
      }
    }
    this.#ending = true
    if (this.#gone) this.#over()
    else this.#endWhenIdle()
  }

  #endWhenIdle(): void {
    this.#link.pause()
    if (this.#output.idle) this.#link.end()
  }

  /** What came before is handled first, however long the connection is held: the end has its place in the order. */
  ended(error: Error | undefined): void {
    if (this.#phase === 'closed' || this.#inputEnd !== null) return
    this.#state.turn.begin()
    const reason = error?.message ?? 'the Network Connection was closed'
    const end: InputEnd = { reason, at: this.#state.now(), timeout: null }
    this.#inputEnd = end
    this.#keepAlive.stop()
    // Who left while it was asked who it is, and sent nothing else, wants nothing.
    const wantsNothing = this.#phase !== 'open' && this.#framer.bufferedBytes === 0
    if (wantsNothing) this.#close('network', Reason.UnspecifiedError, reason)
    else this.#run()
    if (this.#phase === 'authenticating' || this.#phase === 'open') this.#watchLastPackets(end)
  }

  closed(error: Error | undefined): void {
    this.#gone = true
    this.#output.discard()
    // What waited in the transport is gone with it, and holds nothing back any more.
    this.#output.refresh()
    this.#readerWatch?.stop()
    this.#state.turn.begin()
    if (this.#phase === 'closed') {
      this.#over()
      return
    }
    this.ended(error)
    this.#unchoke()
  }

  /** The Network Connection is closed, and the transport is gone. */
  #over(): void {
    this.#output.discard()
    if (this.restlessAt >= 0) this.#state.rest(this)
    this.#rooms.gone(this)
  }

  /** A commit ends, and a reader is cut off; a policy may never answer. Before CONNACK the connect time-out holds. */
  #watchLastPackets(end: InputEnd): void {
    const { deadlines } = this.#state
    end.timeout = deadlines.at(this.#state.now() + LAST_PACKETS_MS, () => {
      this.#state.turn.begin()
      if (this.#gate.has('policy') && this.#loginTime?.isQueued !== true)
        this.#close('network', Reason.UnspecifiedError, `${end.reason}; its last packets waited too long`)
      else this.#watchLastPackets(end)
    })
  }

  /**
   * The same client is back: what it had sent before it left is handled now, whatever holds it back but a policy. It is
   * bounded, since nothing more comes; false while it needs later turns.
   */
  finish(): boolean {
    if (this.#phase === 'closed' || this.#inputEnd === null || this.#gate.has('policy')) return true
    this.#ownGate().hurry()
    this.#state.paused.delete(this)
    if (!this.#gate.has('slice')) this.#run()
    return !this.#gate.has('slice')
  }

  /** FilterPacketsSink. */
  isInUse(packetId: number): boolean {
    return this.#inbound?.isInUse(packetId) === true
  }

  /** InboundSink. */
  get isRated(): boolean {
    return this.#rates !== null
  }

  /** InboundSink, FilterPacketsSink. */
  refuses(kind: 'publish' | 'subscribe', count: number): boolean {
    return this.#rates?.refuses(kind, count) === true
  }

  /** InboundSink. */
  limited(limit: BrokerEvents['limited']['limit'], detail: string): void {
    this.#state.limited(limit, this.#view.clientId, detail)
  }
}

/** Also for promises that are not this realm's. */
function isPromise<T>(answer: T | Promise<T>): answer is Promise<T> {
  return typeof answer === 'object' && answer !== null && 'then' in answer
}
