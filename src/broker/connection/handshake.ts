/**
 * The handshake of a client (sections 3.1, 3.2 and 4.12), which is everything up to CONNACK: CONNECT,
 * authentication, waiting for a policy, for the log-in queue and for a rate, the time-out, and refusals. A
 * later re-authentication ends here, too.
 */
import { encodeAuth } from '../../mqtt/codec/auth.ts'
import { acceptedBefore5, encodeConnack, setSessionPresent } from '../../mqtt/codec/connack.ts'
import { ConnectError, decodeConnect } from '../../mqtt/codec/connect.ts'
import { decode } from '../../mqtt/codec/decode.ts'
import type { Framer } from '../../mqtt/codec/framer.ts'
import type { Will } from '../../mqtt/message.ts'
import type { ConnackProperties, ConnectPacket } from '../../mqtt/packet.ts'
import { PacketType } from '../../mqtt/packet-type.ts'
import { ProtocolError, Reason } from '../../mqtt/reason.ts'
import { isBridgeState } from '../../mqtt/server-topics.ts'
import type { Session } from '../../session/session.ts'
import { REFUSED } from '../accounts/rates.ts'
import type { Limit } from '../boundary/events.ts'
import type { AuthenticationResult, ConnackExtras, Owner, Rejection } from '../boundary/policy.ts'
import { connackReasonCode } from '../boundary/refusal-codes.ts'
import { STANDARD_PACKET_BYTES_MAX } from '../boundary/session-limits.ts'
import { connectionExcess } from '../relief/quotas.ts'
import { mayPublish } from '../state/queue-port.ts'
import type { ServerState } from '../state/server-state.ts'
import { UNITS } from '../state/work.ts'
import { acceptedConnack5, type Connack5, connackFor, type Login, sessionExpirySeconds } from './connack.ts'
import {
  authenticateAnonymous,
  boundClientId,
  cleanIfNameless,
  connectBytes,
  connectRefusal,
  credentialsOf,
  mayOpenAfterEnd,
  NO_ROOM,
  type Refusal,
  sessionRefusal,
} from './connect.ts'
import { ConnectionLeniences } from './connection-leniences.ts'
import {
  type AuthenticationSink,
  EnhancedAuthentication,
  noAuthenticationMethod,
  userOf,
} from './enhanced-authentication.ts'
import type { Input } from './input.ts'
import { type LateBy, type LateClient, LoginTime } from './login-time.ts'
import type { NetworkConnection } from './network-connection.ts'
import type { PacketSender } from './packet-sender.ts'
import { RateGate } from './rate-gate.ts'

/**
 * Messages in flight to a client before 5.0 at first. It has no Receive Maximum, and a small device that
 * comes back must not get everything that waits at once. The same as Mosquitto's default, which such clients
 * are used to.
 */
const IN_FLIGHT_START = 20

/** Details of a refusal; `told` is for the client where the reason is only for the log. */
interface RefusalDetails extends Pick<Rejection, 'serverReference' | 'isGuess'> {
  readonly told?: string
}

export class Handshake implements AuthenticationSink, LateClient {
  readonly loginTime: LoginTime
  readonly #state: ServerState
  readonly #connection: NetworkConnection
  readonly #input: Input
  readonly #sender: PacketSender
  /** Null, as usual, where the listener forgives nothing. */
  readonly #leniences: ConnectionLeniences | null
  /** CONNECT, with the password; dropped when the client is let in. */
  #packet: ConnectPacket | null = null
  /** The memory that CONNECT takes. */
  #packetBytes = 0
  /** Null where CONNECT names no Authentication Method. */
  #authentication: EnhancedAuthentication | null = null

  constructor(state: ServerState, connection: NetworkConnection, input: Input, sender: PacketSender) {
    this.#state = state
    this.#connection = connection
    this.#input = input
    this.#sender = sender
    const { lenient, handshakeMs = 0 } = connection.link.info
    this.#leniences =
      lenient === undefined || lenient.length === 0 ? null : new ConnectionLeniences(state, lenient)
    input.framer.leniences = this.#leniences?.leniences ?? null
    const timeoutMs = state.limits.connectTimeoutSeconds * 1000
    this.loginTime = new LoginTime(state, timeoutMs, handshakeMs, this)
  }

  /** The memory of a CONNECT that is not answered yet. */
  get heldBytes(): number {
    return this.#packet === null ? 0 : this.#packetBytes
  }

  /** Whether the client waits in the log-in queue. */
  get isQueued(): boolean {
    return this.loginTime.isQueued
  }

  /** Ends the client's time: it was let in, or its Network Connection is closed. Idempotent. */
  end(): void {
    this.loginTime.end()
  }

  /** Handles a packet before CONNACK. */
  handle(framer: Framer): void {
    if (this.#input.phase === 'new') {
      if (framer.type !== PacketType.Connect) {
        throw new ProtocolError(Reason.ProtocolError, 'MQTT-3.1.0-1', 'the first packet is not CONNECT')
      }
      this.#onConnect(decodeConnect(framer))
      return
    }
    // Authenticating: only AUTH and DISCONNECT are allowed [MQTT-3.1.2-30].
    if (framer.type !== PacketType.Auth && framer.type !== PacketType.Disconnect) {
      throw new ProtocolError(
        Reason.ProtocolError,
        'MQTT-3.1.2-30',
        `packet type ${framer.type} before CONNACK`,
      )
    }
    const packet = decode(framer, this.#sender.version, this.#state.topics)
    if (packet.type === 'disconnect') {
      this.#connection.close('client', packet.reasonCode, 'disconnected while authenticating')
      return
    }
    if (this.#authentication === null) throw noAuthenticationMethod()
    if (packet.type === 'auth') this.#authentication.received(packet)
  }

  // ── CONNECT, AUTH ──────────────────────────────────────────────────────────────────────────────────────

  #onConnect(given: ConnectPacket): void {
    const packet = cleanIfNameless(given)
    const { framer } = this.#input
    const { info } = this.#connection.link
    const { protocolVersion } = packet
    this.#state.work.units += UNITS.connect
    this.#state.turn.newcomer()
    this.#state.connectQueue.remove(this.#connection)
    this.#input.phase = 'authenticating'
    this.#packet = packet
    this.#packetBytes = connectBytes(packet, framer.packetBytes)
    this.#sender.version = protocolVersion
    framer.version = protocolVersion
    // Leniences are for old devices, so never for 5.0.
    if (protocolVersion === 5) framer.leniences = null
    this.#sender.maximumPacketSize = Math.min(packet.maximumPacketSize, STANDARD_PACKET_BYTES_MAX)
    this.#sender.explains = protocolVersion === 5 && packet.requestProblemInformation
    const clientId = packet.clientId === '' ? this.#assignClientId() : packet.clientId
    this.#connection.view = { clientId, userName: null, protocolVersion, link: info }
    this.#leniences?.identified(this.#connection.view)
    // As it was sent: `cleanIfNameless` hides that an empty Client Identifier came without Clean Session.
    const refusal = connectRefusal(this.#state, given, info, framer.leniences)
    if (refusal !== null) {
      this.#refuseFor(refusal)
      return
    }
    this.#authenticate(packet, clientId)
  }

  #authenticate(packet: ConnectPacket, clientId: string): void {
    const { policy } = this.#state
    const { info } = this.#connection.link
    const { authenticationMethod: method, authenticationData } = packet
    if (method === undefined && policy.authenticate === undefined) {
      this.#answered(authenticateAnonymous(info))
      return
    }
    const credentials = credentialsOf(packet, clientId, info, this.loginTime)
    if (method === undefined) {
      this.#askPolicy(policy.authenticate!(credentials))
      return
    }
    this.#authentication = new EnhancedAuthentication(policy, this, method, credentials)
    this.#authentication.begin(authenticationData)
  }

  #answered(result: AuthenticationResult): void {
    if (result.allow) this.authenticated(userOf(result), undefined, result)
    else this.failed(result)
  }

  #assignClientId(): string {
    let clientId = `auto-${this.#state.host.randomId()}`
    while (this.#state.sessions.has(clientId)) clientId = `auto-${this.#state.host.randomId()}`
    return clientId
  }

  whenAnswered<T>(answer: T | Promise<T>, then: (value: T) => void): void {
    this.#input.whenAnswered(answer, then)
  }

  auth(reasonCode: Reason, method: string, data: Buffer | undefined): void {
    const bytes = encodeAuth(reasonCode, method, data)
    if (bytes.length <= this.#sender.maximumPacketSize) {
      this.#sender.send(bytes, 0)
      return
    }
    this.#limited('clientMaximumPacketSize', `AUTH has ${bytes.length} bytes`)
    this.#connection.disconnect(Reason.PacketTooLarge, 'AUTH exceeds Maximum Packet Size') // [MQTT-3.1.2-24]
  }

  reauthenticated({ userName, userId }: Owner): boolean {
    const { userName: before, userId: idBefore = null } = this.#connection.view
    if (userName === before && userId === idBefore) return true
    this.#connection.disconnect(Reason.NotAuthorized, 're-authenticated as another user')
    return false
  }

  failed({ reasonCode, reason, ...details }: Rejection): void {
    if (this.#input.phase === 'open') this.#connection.disconnect(reasonCode, reason)
    else this.refuse(reasonCode, reason, details)
  }

  authenticated(user: Owner, data: Buffer | undefined, extras: ConnackExtras): void {
    const packet = this.#packet!
    const { info } = this.#connection.link
    const clientId = boundClientId(info, packet, this.#connection.view.clientId, user)
    if (typeof clientId !== 'string') {
      this.#limited('clientIdRule', clientId.reason)
      this.refuse(clientId.reasonCode, clientId.reason)
      return
    }
    this.#connection.parts.sessions.endIfDue(clientId)
    const refusal = this.#sessionRefusal(packet, clientId, user)
    if (refusal !== null) {
      this.#refuseFor(refusal)
      return
    }
    if (user.userName !== null) {
      this.#connection.view = { clientId, ...user, protocolVersion: packet.protocolVersion, link: info }
    }
    const wait = this.#connectWait()
    const login = { packet, user, data, extras }
    if (wait === REFUSED) this.refuse(Reason.ConnectionRateExceeded, 'too many connections: try again later')
    else if (wait > 0) this.#authorizeWillAfter(wait, login)
    else if (packet.will === undefined) this.#enter(login)
    else this.#authorizeWill(login)
  }

  /**
   * Charges the rates of the client and its user. Returns how many ms CONNACK has to wait, or REFUSED. Done
   * only now that the password is right, so that nobody uses up another user's rate.
   */
  #connectWait(): number {
    const { clientId, userName, link } = this.#connection.view
    const rates = this.#state.rates.of(clientId, userName, link.remoteAddress)
    if (rates === null) return 0
    const gate = new RateGate(this.#state, rates, this.#connection, () => this.#sender.sendAgain())
    this.#input.rates = gate
    return gate.connect()
  }

  // ── the Will ───────────────────────────────────────────────────────────────────────────────────────────

  #authorizeWill(login: Login): void {
    const { will } = login.packet
    if (will === undefined || this.#state.policy.authorizePublish === undefined) this.#open(login)
    else this.#askAboutWill(login, will)
  }

  /**
   * Refuses CONNECT, so that nobody relies on a Will that is never published. Only a bridge is let in without
   * the Will that tells its state: it works without that, as without the PUBLISH to the same topic, which is
   * denied as well.
   */
  #willDenied(login: Login, will: Will): void {
    const { packet } = login
    const isEnd = packet.protocolVersion < 5 && this.#state.policy.deniedBefore5 === 'disconnect'
    if (isEnd || !isBridgeState(will.topic)) {
      this.refuse(Reason.NotAuthorized, `the Will Topic ${will.topic} is not allowed`)
      return
    }
    this.#connection.parts.wills.deny(this.#connection.view, will)
    this.#open({ ...login, packet: { ...packet, will: undefined } })
  }

  // ── CONNACK ────────────────────────────────────────────────────────────────────────────────────────────

  /** Checks again, since others have had their turn: another user may have made a Session. */
  #open(login: Login): void {
    const { clientId } = this.#connection.view
    this.#connection.parts.sessions.endIfDue(clientId)
    const refusal = this.#sessionRefusal(login.packet, clientId, login.user)
    if (refusal === null) this.#enter(login)
    else this.#refuseFor(refusal)
  }

  /** Lets in a client that has just passed all checks but that of room. */
  #enter(login: Login): void {
    const { clientId } = this.#connection.view
    if (!this.#findsRoom(clientId, login.user)) return
    const { end } = this.#input
    if (end !== null && !mayOpenAfterEnd(this.#state, clientId, end.at)) {
      this.#connection.close('network', Reason.UnspecifiedError, end.reason)
      return
    }
    if (!this.#finishPrevious(clientId)) {
      this.#openLater(login)
      return
    }
    // Encoded before anything is done; whether a Session is present changes a bit, not the size.
    const { maximumPacketSize } = this.#sender
    const { view } = this.#connection
    const connack5 = connackFor(this.#state, login, view, maximumPacketSize)
    if (connack5 !== null && connack5.bytes.length > maximumPacketSize) {
      this.#limited('clientMaximumPacketSize', `CONNACK has ${connack5.bytes.length} bytes`)
      // [MQTT-3.1.2-24]
      this.#connection.close('server', Reason.PacketTooLarge, 'CONNACK exceeds Maximum Packet Size')
      return
    }
    this.#letIn(login, connack5)
  }

  /** Lets the client in: its Session, its Will and CONNACK, in one step and one block. */
  #letIn(login: Login, encoded5: Connack5 | null): void {
    const { packet, user } = login
    const { view, parts } = this.#connection
    const expirySeconds = sessionExpirySeconds(this.#state, packet)
    const { session, present } = parts.sessions.open({
      clientId: view.clientId,
      user,
      cleanStart: packet.cleanStart,
      expirySeconds,
      link: this.#connection.link.info,
      address: this.#connection.address,
    })
    parts.wills.set(view, packet.will, packet.clientId === '' && expirySeconds === 0)
    this.#packet = null
    this.end()
    this.#connection.opened(packet, session, expirySeconds, this.#authentication)
    this.#tellOpened(packet, present)
    if (present) parts.subscribing.reconsider(view, session)
    // CONNACK promises the creation, resumption or deletion of a Session, and the Will.
    const hasReply = encoded5?.replyTopic == null || this.#state.queues!.openReply(view)
    const connack5 = hasReply
      ? encoded5
      : acceptedConnack5(this.#state, login, view, this.#sender.maximumPacketSize, null)
    if (present && connack5 !== null) setSessionPresent(connack5.bytes)
    this.#sender.connack(connack5?.bytes ?? acceptedBefore5(packet.protocolVersion, present))
    this.#deliverFrom(session, packet)
  }

  #deliverFrom(session: Session, packet: ConnectPacket): void {
    const { inFlightMax = this.#state.limits.inFlightMax } = this.#connection.link.info
    const start = packet.protocolVersion === 5 ? inFlightMax : IN_FLIGHT_START
    this.#sender.deliverFrom(session, packet.receiveMaximum, inFlightMax, start)
  }

  #sessionRefusal(packet: ConnectPacket, clientId: string, user: Owner): Refusal | null {
    const refusal = sessionRefusal(this.#state, packet, clientId, user, this.#connection.link.info)
    if (refusal !== null || this.#state.sessions.has(clientId)) return refusal
    const { relief, diskRelief, keptRelief } = this.#connection.parts
    const { remoteAddress } = this.#connection.link.info
    const stores = sessionExpirySeconds(this.#state, packet) > 0
    const usage = this.#state.usage.user(user.userName, remoteAddress)
    const reason =
      relief.sessionRefusal(user.userName, remoteAddress) ??
      (stores ? diskRelief.refusal(usage) : null) ??
      // A client that comes to clear retained messages gets in.
      (stores || packet.will !== undefined ? keptRelief.refusal(usage) : null)
    if (reason === null) return null
    this.#state.counters.relief['session-refused']++
    return { reasonCode: Reason.QuotaExceeded, reason, told: NO_ROOM }
  }

  /**
   * Whether there is a place for one more connection, or the client takes over its own old one. Refuses the
   * client if not. Checked only now that the client is authenticated.
   */
  #findsRoom(clientId: string, { userName }: Owner): boolean {
    const { connected, sessions, usage } = this.#state
    const session = sessions.get(clientId)
    if (session !== undefined && connected.has(session)) return true
    const { info } = this.#connection.link
    const excess = connectionExcess(this.#state, usage.user(userName, info.remoteAddress), info)
    if (excess === null) return true
    this.#refuseFor({ ...excess, reason: `${excess.detail}; refused ${info.remoteAddress}` })
    return false
  }

  // Kept apart: a method that contains a closure allocates a context on every call.

  #askPolicy(answer: AuthenticationResult | Promise<AuthenticationResult>): void {
    this.#input.whenAnswered(answer, (result) => this.#answered(result))
  }

  #authorizeWillAfter(ms: number, login: Login): void {
    this.loginTime.postpone(ms)
    this.#input.after(ms, () => this.#authorizeWill(login))
  }

  #openLater(login: Login): void {
    this.#input.later(() => this.#open(login))
  }

  #askAboutWill(login: Login, will: Will): void {
    const { view } = this.#connection
    const allowed = mayPublish(this.#state, view, will)
    this.#input.whenAnswered(allowed, (allow) => {
      if (allow) this.#open(login)
      else this.#willDenied(login, will)
    })
  }

  /** Handles what this client sent on its previous connection. Returns false while that needs later turns. */
  #finishPrevious(clientId: string): boolean {
    const session = this.#state.sessions.get(clientId)
    if (session === undefined) return true
    return this.#state.connected.get(session)?.finish() !== false
  }

  #tellOpened({ cleanStart }: ConnectPacket, sessionPresent: boolean): void {
    const { counters, events } = this.#state
    counters.clientsConnected++
    if (counters.clientsConnected > counters.clientsMaximum)
      counters.clientsMaximum = counters.clientsConnected
    if (!events.has('connected')) return
    const { view: client, keepAliveSeconds } = this.#connection
    events.emit('connected', { client, sessionPresent, cleanStart, keepAliveSeconds })
  }

  // ── refusals ───────────────────────────────────────────────────────────────────────────────────────────

  #refuseFor({ reasonCode, reason, told, limit }: Refusal): void {
    if (limit !== undefined) this.#limited(limit, reason)
    this.refuse(reasonCode, reason, told === undefined ? {} : { told })
  }

  /** Refuses CONNECT, with CONNACK where its version has a code for the reason. */
  refuse(given: Reason, reason: string, details: RefusalDetails = {}): void {
    const { version, maximumPacketSize } = this.#sender
    const { serverReference, told = reason, isGuess } = details
    const reasonCode = connackReasonCode(given)
    // Wills from before the start wait longer for clients that the Server was too busy to let in.
    const isBusy = given === Reason.ServerBusy || given === Reason.ServerUnavailable
    if (isBusy && isGuess !== true) this.#connection.parts.wills.keptWaiting()
    this.#tellRefused(reasonCode, reason, details)
    const properties: ConnackProperties = version === 5 ? { reasonString: told } : {}
    if (serverReference !== undefined) properties.serverReference = serverReference
    const bytes = encodeConnack({ sessionPresent: false, reasonCode, properties }, version, maximumPacketSize)
    // 3.1.1: without a fitting code there is no CONNACK [MQTT-3.2.2-6].
    if (bytes !== null) this.#sender.sendIfSmall(bytes)
    this.#connection.close('server', reasonCode, reason)
  }

  /** Answers a packet that breaks the protocol before CONNACK. */
  violated(error: ProtocolError): void {
    const version = error instanceof ConnectError ? error.version : null
    if (version !== null) this.#sender.version = version
    const isUnsupported = version !== null && error.reasonCode === Reason.UnsupportedProtocolVersion
    // 3.1.1: silence for a malformed CONNECT [MQTT-3.1.4-1], 0x01 for an unknown level [MQTT-3.1.2-2].
    if (this.#sender.version === 5 || isUnsupported) {
      this.refuse(error.reasonCode, `${error.message} (${error.statement})`)
      return
    }
    this.#tellRefused(error.reasonCode, error.message)
    this.#connection.close('server', error.reasonCode, error.message)
  }

  #tellRefused(reasonCode: number, reason: string, { isGuess }: RefusalDetails = {}): void {
    const { counters, events } = this.#state
    counters.connectionsRefused++
    if (!events.has('refused')) return
    const { clientId, link } = this.#connection.view
    const userName = this.#packet?.userName
    events.emit('refused', {
      clientId,
      link,
      reasonCode,
      reason,
      ...(userName !== undefined && { userName }),
      ...(isGuess === true && { isGuess }),
    })
  }

  timedOut(by: LateBy): void {
    this.#state.turn.begin()
    const { connectTimeoutSeconds, loginWaitSecondsMax } = this.#state.limits
    if (by === 'queue') {
      const reason = `too many log-ins wait: this one has for ${loginWaitSecondsMax} s; try again later`
      this.#limited('loginWaitSecondsMax', reason)
      this.refuse(Reason.ServerBusy, reason)
      return
    }
    this.#limited('connectTimeoutSeconds', `no complete CONNECT within ${connectTimeoutSeconds} s`)
    this.#connection.close('server', Reason.UnspecifiedError, 'no CONNECT in time')
  }

  #limited(limit: Limit, detail: string): void {
    this.#state.limited(limit, this.#connection.view.clientId, detail)
  }
}
