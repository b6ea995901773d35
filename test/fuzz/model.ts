/**
 * A naive Server: each sentence of the standard in terms of plain maps and arrays. It is told what clients
 * did, and says what each of them has to be sent, in order. Where the standard leaves a choice (which member
 * of a Shared Subscription gets a message, when retained messages come), it is told what the real Server
 * chose, and checks that it was one of those allowed.
 */
import { isUtf8 } from 'node:buffer'
import { connackText, publishText, saysText } from './answers.ts'
import {
  frame,
  type Plain,
  type PlainAcknowledge,
  type PlainConnect,
  type PlainPublish,
  type PlainSubscribe,
  type PlainWill,
  Refusal,
  read,
  readConnect,
  type Version,
} from './plain.ts'
import { matches, unshared } from './topics.ts'

export interface ModelLimits {
  readonly receiveMaximum: number
  readonly inFlightMax: number
  readonly maximumQoS: 0 | 1 | 2
  readonly retainAvailable: boolean
  readonly topicAliasMaximum: number
  readonly topicAliasOutMaximum: number
  readonly packetBytesMax: number
  readonly sessionExpirySecondsMax: number
  readonly queueMessagesMax: number
  readonly keepAliveSecondsMax: number
  readonly willGraceSeconds: number
  readonly connectTimeoutSeconds: number
}

interface ModelMessage {
  /** Which of all messages. */
  readonly number: number
  readonly topic: string
  readonly payload: string
  readonly qos: number
  readonly retain: boolean
  readonly properties: string
  /** Broker time in ms; null for never. */
  readonly expiresAt: number | null
  readonly publisher: string
}

interface ModelDelivery {
  readonly message: ModelMessage
  readonly qos: number
  readonly retain: boolean
  readonly identifiers: readonly number[]
  readonly share: string | null
  /** In a queue: QoS 0 messages wait behind it. */
  readonly ordered?: true
}

interface Outgoing {
  readonly packetId: number
  delivery: ModelDelivery | null
  charged: boolean
}

interface ModelSubscription {
  readonly qos: number
  readonly noLocal: boolean
  readonly retainAsPublished: boolean
  readonly identifier: number
}

/** So many bytes of a packet that is not whole keep a connection alive. */
const LIFE_BYTES_MIN = 64

/** Retained messages that are on their way for one Subscription. */
interface Cursor {
  readonly filter: string
  readonly qos: number
  readonly noLocal: boolean
  readonly identifier: number
  /** Messages that have to come, unless they are replaced or removed before. */
  readonly due: number[]
  readonly came: number[]
  /** Topics with a live message meanwhile: their retained messages need not come again after a crash. */
  readonly lived: Set<string>
}

interface ModelSession {
  readonly clientId: string
  /** Whether it outlives its Network Connection. */
  readonly stored: boolean
  expiry: number
  disconnectedAt: number
  readonly subscriptions: Map<string, ModelSubscription>
  /** What was received under each QoS 2 identifier that is not released. */
  readonly inbound: Map<number, string>
  inFlight: Outgoing[]
  readonly queue: ModelDelivery[]
  lastPacketId: number
  readonly cursors: Map<string, Cursor>
}

interface PendingWill {
  readonly will: PlainWill
  /** 0 while its client is connected. */
  dueAt: number
  /** Of one that was stored when the Server ended: until then its client may be back. */
  graceEnd?: number
  /** Its client was given its Client Identifier, and a Session that ends with it: it cannot come back. */
  readonly assigned: boolean
}

/** What may not be seen by anybody before what it promises is durable. */
export interface Expected {
  readonly text: string
  /** Whether it says that something is durable. */
  readonly promise: boolean
  /** Messages that the client may send again once it has seen this. */
  readonly credits: number
}

/** A Session was given a message. */
interface Delivered {
  readonly did: 'deliver'
  readonly clientId: string
  readonly message: object
  readonly share: string | null
  readonly qos: number
  readonly identifiers: readonly number[]
}

/** What the real Server did, in order. */
export type Deed =
  | Delivered
  | { readonly did: 'publish'; readonly message: object; readonly publisher: string }
  | { readonly did: 'end'; readonly clientId: string }
  | { readonly did: 'disconnect'; readonly clientId: string }

/** A Network Connection as the model sees it. */
export class ModelConnection {
  readonly openedAt: number
  phase: 'new' | 'open' | 'closed' = 'new'
  version: Version = 4
  clientId = ''
  session: ModelSession | null = null
  expected: Expected[] = []
  connackSeen = false
  receiving = 0
  quota = 0
  resend: Outgoing[] = []
  bytes: Buffer = Buffer.alloc(0)
  readonly receivingIds = new Set<number>()
  readonly aliases = new Map<number, string>()
  readonly outAliases = new Map<string, number>()
  /** Topics that came once. */
  readonly seen = new Set<string>()
  /** By as much the quota of a client before 5.0 may still grow. */
  growth = 0
  aliasMaximum = 0
  packetMaximum = Number.POSITIVE_INFINITY
  expiry = 0
  connectExpiry = 0
  /** Its CONNECT had the bridge bit: every Subscription has No Local and Retain As Published. */
  bridge = false
  keepAliveMs = 0
  activeAt = 0
  /** Bytes that came since then: enough of them are life without a whole packet. */
  bytesSince = 0

  constructor(now: number) {
    this.openedAt = now
  }

  /** A topic that comes a second time is given an alias, where that is shorter. */
  freeAlias(topic: string): number {
    if (this.outAliases.size >= this.aliasMaximum || Buffer.byteLength(topic) < 8) return 0
    if (this.seen.has(topic)) return this.outAliases.size + 1
    if (this.seen.size >= 4 * this.aliasMaximum) this.seen.clear()
    this.seen.add(topic)
    return 0
  }
}

/** What a crash leaves. */
interface Snapshot {
  readonly sessions: readonly ModelSession[]
  readonly retained: readonly ModelMessage[]
  readonly wills: readonly (readonly [string, PendingWill])[]
}

export class Model {
  readonly limits: ModelLimits
  /** Broker time in ms. */
  now: number
  readonly sessions = new Map<string, ModelSession>()
  readonly retained = new Map<string, ModelMessage>()
  readonly wills = new Map<string, PendingWill>()
  /** Everything that is left open, also before CONNECT. */
  readonly connections = new Set<ModelConnection>()
  #deeds: Deed[] = []
  readonly #messages = new Map<object, ModelMessage>()
  readonly #original: (message: object) => object
  #count = 0
  /** The Client Identifier that the Server assigns next. */
  assigned = ''

  readonly #queued: (clientId: string) => number
  readonly #isUnderWay: (clientId: string) => boolean

  /**
   * `original`: the message that a recovered one was before a crash. `queued`: how many messages the Server
   * has in a Session's queue, since it may drop expired ones sooner or later. `isUnderWay`: whether retained
   * messages are under way for a Session, by the store.
   */
  constructor(
    limits: ModelLimits,
    now: number,
    original: (message: object) => object,
    queued: (clientId: string) => number,
    isUnderWay: (clientId: string) => boolean,
  ) {
    this.limits = limits
    this.now = now
    this.#original = original
    this.#queued = queued
    this.#isUnderWay = isUnderWay
  }

  // ── what happens ────────────────────────────────────────────────────────────────────────────────────────

  open(): ModelConnection {
    const connection = new ModelConnection(this.now)
    this.connections.add(connection)
    return connection
  }

  /** These bytes arrived, and the Server did these deeds. */
  received(connection: ModelConnection, bytes: Buffer, deeds: readonly Deed[]): void {
    this.#deeds = [...deeds]
    if (connection.phase !== 'closed') this.#packets(connection, bytes)
    this.#settled()
  }

  /** The network failed. */
  lost(connection: ModelConnection, deeds: readonly Deed[]): void {
    this.#deeds = [...deeds]
    connection.expected = []
    this.#close(connection, 'lost')
    this.#settled()
  }

  /** A commit is durable: what the Server does of its own accord. */
  committed(deeds: readonly Deed[]): void {
    this.#deeds = [...deeds]
    this.#settled()
  }

  /** Time has passed; everything that is due happens, in the order in which the Server did it. */
  passed(now: number, deeds: readonly Deed[]): void {
    this.now = now
    this.#deeds = [...deeds]
    for (let who = this.#whoIsNext(); who !== null; who = this.#whoIsNext()) this.#due(who)
    for (const connection of [...this.connections]) {
      if (
        connection.phase === 'new' &&
        connection.openedAt + this.limits.connectTimeoutSeconds * 1000 <= now
      ) {
        this.#close(connection, 'lost')
      } else if (this.#isSilent(connection)) this.#refuse(connection, 0x8d)
    }
    this.#settled()
    for (const [topic, { expiresAt }] of this.retained) {
      if (expiresAt !== null && expiresAt <= now) this.retained.delete(topic)
    }
    for (const [clientId, { dueAt }] of this.wills) {
      if (dueAt > 0 && dueAt <= now) throw new Error(`the Will of ${clientId} was not published`)
    }
    for (const session of this.sessions.values()) {
      if (this.#isExpired(session)) throw new Error(`the Session of ${session.clientId} has not expired`)
    }
  }

  #isSilent({ phase, keepAliveMs, activeAt }: ModelConnection): boolean {
    return phase === 'open' && keepAliveMs > 0 && activeAt + keepAliveMs <= this.now
  }

  #isExpired(session: ModelSession): boolean {
    const { expiry, disconnectedAt } = session
    if (this.#connectionOf(session) !== null || expiry === 0xffff_ffff) return false
    return disconnectedAt + expiry * 1000 <= this.now
  }

  /** The client that the Server's next deed is about. */
  #whoIsNext(): string | null {
    for (const [at, deed] of this.#deeds.entries()) {
      if (deed.did === 'publish') return deed.publisher
      if (deed.did !== 'deliver') return deed.clientId
      // A message that was known before comes from a Session that ends, or precedes a live one of its topic.
      if (this.#known(deed.message) !== null && deed.share === null && !this.#isAhead(at)) return null
    }
    return null
  }

  /** Whether the delivery at this place is part of the next publication. */
  #isAhead(at: number): boolean {
    for (const deed of this.#deeds.slice(at + 1)) {
      if (deed.did !== 'deliver') return deed.did === 'publish'
      if (this.#known(deed.message) === null) return true
    }
    return false
  }

  #due(clientId: string): void {
    const session = this.sessions.get(clientId)
    const connection = session === undefined ? null : this.#connectionOf(session)
    const will = this.wills.get(clientId)
    if (connection !== null && this.#isSilent(connection)) this.#refuse(connection, 0x8d)
    else if (session !== undefined && this.#isExpired(session) && this.#endsFirst(clientId))
      this.#end(session)
    else if (will !== undefined && will.dueAt > 0 && will.dueAt <= this.now) this.#publishWill(clientId)
    else if (session !== undefined && this.#isExpired(session)) this.#end(session)
    else {
      // Of one that was not connected nothing is known but that it waited too long.
      const first = this.#deeds[0]!
      if (first.did !== 'end' && first.did !== 'disconnect') throw new Error(`nothing of ${clientId} was due`)
      this.#deeds.shift()
    }
  }

  /** Where a Will and the end of its Session are due at once, either may be first: which of them it was. */
  #endsFirst(clientId: string): boolean {
    const at = this.#deeds.findIndex(({ did }) => did === 'publish')
    if (this.#deeds.slice(0, at).some((deed) => deed.did === 'deliver' && deed.clientId === clientId))
      return false
    const next = this.#deeds.slice(at + 1).find(({ did }) => did !== 'deliver')
    return next?.did === 'end' && next.clientId === clientId
  }

  /** Checks what the Server did of its own accord: retained messages that had been waiting. */
  #settled(): void {
    for (const session of this.sessions.values()) this.#dropExpired(session)
    for (let deed = this.#deeds.shift(); deed !== undefined; deed = this.#deeds.shift()) {
      if (deed.did === 'end' || deed.did === 'disconnect') continue
      if (deed.did === 'publish') throw new Error(`${deed.publisher} published nothing`)
      const session = this.sessions.get(deed.clientId)
      const message = this.#known(deed.message)
      if (session === undefined || message === null) throw new Error(`${deed.clientId} asked for nothing`)
      if (deed.share !== null) {
        this.#deeds.unshift(deed)
        if (!this.#takeMoved())
          throw new Error(`${deed.clientId} got ${message.topic}, which waited for nobody`)
        continue
      }
      this.#retainedCame(session, message, deed)
    }
    for (const session of this.sessions.values()) this.#expectRetained(session)
    this.#expectSharedWork()
  }

  #dropExpired({ clientId, queue }: ModelSession): void {
    for (let over = queue.length - this.#queued(clientId); over > 0; over--) {
      const { expiresAt } = queue[0]!.message
      if (expiresAt === null || expiresAt > this.now) return
      queue.shift()
    }
  }

  /** Where nothing holds them up, all retained messages of a Subscription have come. */
  #expectRetained(session: ModelSession): void {
    const connection = this.#connectionOf(session)
    if (connection === null || !this.#hasRoom(session)) return
    for (const [filter, cursor] of session.cursors) {
      const missing = cursor.due.filter((number) => {
        const still = this.#retainedFor(session, filter).includes(number)
        return still && !cursor.came.includes(number)
      })
      if (missing.length > 0) throw new Error(`${missing.length} retained messages of ${filter} did not come`)
    }
    session.cursors.clear()
  }

  #known(message: object): ModelMessage | null {
    return this.#messages.get(this.#original(message)) ?? null
  }

  // ── packets ─────────────────────────────────────────────────────────────────────────────────────────────

  #packets(connection: ModelConnection, bytes: Buffer): void {
    connection.bytes = Buffer.concat([connection.bytes, bytes])
    connection.bytesSince += bytes.length
    if (connection.bytesSince >= LIFE_BYTES_MIN) this.#becameActive(connection)
    const { packetBytesMax } = this.limits
    try {
      while (connection.bytes.length > 0) {
        const { phase } = connection as { phase: string }
        if (phase === 'closed') return
        if (phase === 'new' && connection.bytes[0]! >> 4 !== 1) throw new Refusal(0x82, 'no CONNECT')
        const version = phase === 'new' ? 0 : connection.version
        const found = frame(connection.bytes, version, packetBytesMax, 1_048_576)
        if (found === null) return
        connection.bytes = connection.bytes.subarray(
          found.body.byteOffset - connection.bytes.byteOffset + found.body.length,
        )
        this.#becameActive(connection)
        this.#packet(connection, found.first, found.body)
      }
    } catch (error) {
      if (!(error instanceof Refusal)) throw error
      this.#violated(connection, error.code)
    }
  }

  #becameActive(connection: ModelConnection): void {
    connection.activeAt = this.now
    connection.bytesSince = 0
  }

  #packet(connection: ModelConnection, first: number, body: Buffer): void {
    if (connection.phase === 'new') {
      const speaks = spoken(body)
      try {
        this.#connect(connection, readConnect(body) as PlainConnect)
      } catch (error) {
        if (!(error instanceof Refusal)) throw error
        connection.version = speaks ?? 4
        const unsupported = error.code === 0x84 && speaks !== null
        if (connection.version === 5 || unsupported) this.#refuseConnect(connection, error.code)
        else this.#close(connection, 'lost')
      }
      return
    }
    if (first >> 4 === 1) throw new Refusal(0x82, 'a second CONNECT')
    this.#handle(connection, read(first, body, connection.version))
  }

  #violated(connection: ModelConnection, code: number): void {
    if (connection.phase === 'open') this.#refuse(connection, code)
    else this.#close(connection, 'lost')
  }

  #handle(connection: ModelConnection, packet: Plain): void {
    const session = connection.session!
    switch (packet.type) {
      case 'publish':
        this.#publish(connection, session, packet)
        return
      case 'puback':
      case 'pubrec':
      case 'pubrel':
      case 'pubcomp':
        this.#acknowledge(connection, session, packet)
        return
      case 'subscribe':
        this.#subscribe(connection, session, packet)
        return
      case 'unsubscribe': {
        this.#expectRoomFor(connection, packet.filters.length)
        if (this.#isInUse(connection, packet.packetId)) {
          this.#send(connection, `UNSUBACK ${packet.packetId} ${packet.filters.map(() => 0x91).join(',')}`)
          return
        }
        if (!packet.filters.every(isFilter)) throw new Refusal(0x8f, 'filter')
        const codes = packet.filters.map((filter) => {
          session.cursors.delete(filter)
          return session.subscriptions.delete(filter) ? 0 : 0x11
        })
        const said = connection.version === 5 ? codes.join(',') : ''
        this.#send(connection, `UNSUBACK ${packet.packetId} ${said}`, session.stored && codes.includes(0))
        return
      }
      case 'pingreq':
        this.#send(connection, 'PINGRESP')
        return
      case 'disconnect': {
        const { expiry } = packet
        if (expiry !== undefined) {
          if (expiry > 0 && connection.connectExpiry === 0) throw new Refusal(0x82, 'expiry changed from 0')
          connection.expiry = Math.min(expiry, this.limits.sessionExpirySecondsMax)
        }
        this.#close(connection, packet.reasonCode === 0 ? 'normal' : 'lost')
        return
      }
      default:
        throw new Refusal(0x82, 'AUTH without an Authentication Method in CONNECT')
    }
  }

  // ── CONNECT ─────────────────────────────────────────────────────────────────────────────────────────────

  #connect(connection: ModelConnection, packet: PlainConnect): void {
    connection.version = packet.version
    connection.packetMaximum = packet.packetMaximum ?? Number.POSITIVE_INFINITY
    const clientId = packet.clientId === '' ? this.assigned : packet.clientId
    const refusal = this.#connectRefusal(packet)
    if (refusal !== 0) {
      this.#refuseConnect(connection, refusal)
      return
    }
    const { sessionExpirySecondsMax, topicAliasOutMaximum, inFlightMax } = this.limits
    const expiry = Math.min(packet.expiry, sessionExpirySecondsMax)
    const least = this.#connackProperties(packet, clientId)
    const whole = [...least, ...responseInformation(packet, clientId)]
    // What may be left out is left out before the packet grows too large.
    const said = connackBytes(whole) > connection.packetMaximum ? least : whole
    if (packet.version === 5 && connackBytes(said) > connection.packetMaximum) {
      this.#close(connection, 'lost')
      return
    }
    const present = this.#openSession(clientId, packet.clean, expiry)
    const session = this.sessions.get(clientId)!
    this.wills.delete(clientId)
    const assigned = packet.clientId === '' && expiry === 0
    if (packet.will !== null) this.wills.set(clientId, { will: packet.will, dueAt: 0, assigned })
    connection.phase = 'open'
    connection.clientId = clientId
    connection.session = session
    connection.expiry = expiry
    connection.bridge = packet.bridge
    connection.connectExpiry = packet.expiry
    connection.keepAliveMs = this.#keepAlive(packet) * 1500
    connection.aliasMaximum = Math.min(packet.aliasMaximum, topicAliasOutMaximum)
    const window = Math.min(packet.receiveMaximum, inFlightMax)
    connection.quota = packet.version === 5 ? window : Math.min(window, 20)
    connection.growth = window - connection.quota
    const flag = present && packet.version > 3 ? 1 : 0
    this.#send(
      connection,
      connackText(flag, 0, packet.version === 5 ? said : []),
      session.stored || packet.will !== null,
    )
    for (const outgoing of session.inFlight) {
      outgoing.charged = false
      if (outgoing.delivery === null) this.#send(connection, `PUBREL ${outgoing.packetId} 0`)
      else connection.resend.push(outgoing)
    }
    this.#pump(session)
    this.#takeMoved()
  }

  #connectRefusal(packet: PlainConnect): number {
    const { will, version, clean } = packet
    if (packet.clientId === '' && (version === 3 || (version === 4 && !clean))) return 0x85
    if (version === 3 && [...packet.clientId].length > 23) return 0x85
    if (will !== null) {
      if (will.qos > this.limits.maximumQoS) return 0x9b
      if (will.retain && !this.limits.retainAvailable) return 0x9a
      if (!isAsSaid(will)) return 0x99
      if (isServersOwn(will.topic)) return 0x87
      if (isNoAddress(will.topic)) return 0x90
    }
    return packet.method === undefined ? 0 : 0x8c
  }

  #connackProperties(packet: PlainConnect, clientId: string): [number, number | string][] {
    const { limits } = this
    const said: [number, number | string][] = []
    const expiry = Math.min(packet.expiry, limits.sessionExpirySecondsMax)
    const keepAlive = this.#keepAlive(packet)
    if (expiry !== packet.expiry) said.push([17, expiry])
    if (limits.receiveMaximum < 65_535) said.push([33, limits.receiveMaximum])
    if (limits.maximumQoS < 2) said.push([36, limits.maximumQoS])
    if (!limits.retainAvailable) said.push([37, 0])
    if (limits.packetBytesMax < 268_435_460) said.push([39, limits.packetBytesMax])
    if (packet.clientId === '') said.push([18, Buffer.from(clientId).toString('hex')])
    if (limits.topicAliasMaximum > 0) said.push([34, limits.topicAliasMaximum])
    if (keepAlive !== packet.keepAlive) said.push([19, keepAlive])
    return said
  }

  #keepAlive({ version, keepAlive }: PlainConnect): number {
    const { keepAliveSecondsMax } = this.limits
    if (version < 5 || keepAliveSecondsMax === Number.POSITIVE_INFINITY) return keepAlive
    return keepAlive === 0 ? keepAliveSecondsMax : Math.min(keepAlive, keepAliveSecondsMax)
  }

  /** Takes over, resumes or makes the Session; whether it was present. */
  #openSession(clientId: string, clean: boolean, expiry: number): boolean {
    const old = this.sessions.get(clientId)
    const connected = old === undefined ? null : this.#connectionOf(old)
    if (connected !== null) {
      // [MQTT-3.1.4-3]: and nothing of what was not yet sent.
      connected.expected = []
      if (connected.connackSeen) this.#sendDisconnect(connected, 0x8e)
      connected.expiry = old!.expiry
      this.#close(connected, 'lost')
    }
    const existing = this.sessions.get(clientId)
    if (existing !== undefined && !clean) {
      existing.expiry = expiry
      existing.disconnectedAt = 0
      return true
    }
    if (existing !== undefined) this.#end(existing)
    this.sessions.set(clientId, {
      clientId,
      stored: expiry > 0,
      expiry,
      disconnectedAt: 0,
      subscriptions: new Map(),
      inbound: new Map(),
      inFlight: [],
      queue: [],
      lastPacketId: 0,
      cursors: new Map(),
    })
    return false
  }

  #refuseConnect(connection: ModelConnection, code: number): void {
    if (connection.version === 5) this.#sendSmall(connection, connackText(0, code, []), 5)
    else {
      const returnCode = RETURN_CODES[code]
      if (returnCode !== undefined) this.#send(connection, connackText(0, returnCode, []))
    }
    this.#close(connection, 'lost')
  }

  // ── PUBLISH ─────────────────────────────────────────────────────────────────────────────────────────────

  #publish(connection: ModelConnection, session: ModelSession, packet: PlainPublish): void {
    const topic = this.#topicOf(connection, packet)
    const { qos, packetId } = packet
    const v5 = connection.version === 5
    const content = contentOf(packet, topic)
    if (qos > 0 && !this.#counted(connection, session, packet, content)) return
    if (qos > this.limits.maximumQoS) throw new Refusal(0x9b, 'QoS')
    if (packet.retain && !this.limits.retainAvailable) throw new Refusal(0x9a, 'RETAIN')
    const isText = isAsSaid(packet)
    if (!isText && qos === 0) throw new Refusal(0x99, 'Payload Format')
    const isTaken = qos === 1 && this.#isInUse(connection, packetId)
    const refusal = refusalOf(topic, isText, isTaken)
    if (refusal === 0x90 && !v5) throw new Refusal(0x90, 'an address')
    if (refusal !== 0) {
      // 3.1.1 has no way to refuse it, so it is acknowledged [MQTT-3.3.5-2].
      const code = v5 ? refusal : 0
      if (qos === 1) this.#send(connection, `PUBACK ${packetId} ${code}`, false, 1)
      if (qos === 2 && v5) connection.receivingIds.delete(packetId)
      if (qos === 2 && !v5) session.inbound.set(packetId, content)
      if (qos === 2) this.#send(connection, `PUBREC ${packetId} ${code}`, !v5 && session.stored, v5 ? 1 : 0)
      return
    }
    const expiresAt = packet.expiry === undefined ? null : Math.floor(this.now) + packet.expiry * 1000
    const message = { ...packet, number: ++this.#count, topic, expiresAt, publisher: connection.clientId }
    const { matched, stored } = this.#fanOut(message, session)
    const code = v5 && !matched ? 0x10 : 0
    if (qos === 1) this.#send(connection, `PUBACK ${packetId} ${code}`, stored, 1)
    if (qos !== 2) return
    session.inbound.set(packetId, content)
    this.#send(connection, `PUBREC ${packetId} ${code}`, stored || session.stored)
  }

  #topicOf(connection: ModelConnection, { topic, alias }: PlainPublish): string {
    if (alias === 0) return topic
    if (alias > this.limits.topicAliasMaximum) throw new Refusal(0x94, 'alias')
    if (topic !== '') connection.aliases.set(alias, topic)
    const meant = connection.aliases.get(alias)
    if (meant === undefined) throw new Refusal(0x82, 'an unknown alias')
    return meant
  }

  /** Receive Maximum; false for a QoS 2 message that is known: it gets PUBREC again. */
  #counted(
    connection: ModelConnection,
    session: ModelSession,
    { qos, packetId }: PlainPublish,
    content: string,
  ): boolean {
    const counts = !(qos === 2 && connection.receivingIds.has(packetId))
    if (counts) {
      if (connection.version === 5 && connection.receiving >= this.limits.receiveMaximum) {
        throw new Refusal(0x93, 'Receive Maximum')
      }
      connection.receiving++
      if (qos === 2) connection.receivingIds.add(packetId)
    }
    if (qos < 2 || !session.inbound.has(packetId)) return true
    const isTheSame = session.inbound.get(packetId) === content
    if (!isTheSame && (counts || connection.version < 5)) {
      // The client forgot the one before.
      session.inbound.delete(packetId)
      return true
    }
    this.#send(connection, `PUBREC ${packetId} ${isTheSame ? 0 : 0x91}`)
    return false
  }

  /** Gives a message to everybody who subscribed; `publisher` null for the Will of a Session that is over. */
  #fanOut(message: ModelMessage, publisher: ModelSession | null): { matched: boolean; stored: boolean } {
    let stored = false
    if (message.retain) {
      stored = message.payload !== '' || this.retained.has(message.topic)
      if (message.payload === '') this.retained.delete(message.topic)
      else this.retained.set(message.topic, message)
    }
    const { chosen, ahead } = this.#takeFanOut(message)
    const planned = new Map<string, () => void>()
    let matched = false
    const groups = new Map<string, ModelSession[]>()
    for (const session of this.sessions.values()) {
      const found = [...session.subscriptions].filter(([filter]) => matches(unshared(filter), message.topic))
      if (found.length > 0) matched = true
      for (const [filter] of found) {
        if (filter.startsWith('$share/')) groups.set(filter, [...(groups.get(filter) ?? []), session])
      }
      const plain = found.filter(
        ([filter, { noLocal }]) => !filter.startsWith('$share/') && !(noLocal && session === publisher),
      )
      const count = chosen.filter(
        ({ clientId, share }) => clientId === session.clientId && share === null,
      ).length
      if (count !== (plain.length > 0 ? 1 : 0)) {
        throw new Error(
          `${session.clientId} got ${message.topic} ${count} times for ${plain.length} Subscriptions`,
        )
      }
      if (plain.length === 0) continue
      const qos = Math.min(message.qos, Math.max(...plain.map(([, each]) => each.qos)))
      if (qos > 0 && session.stored) stored = true
      const delivery: ModelDelivery = {
        message,
        qos,
        retain: message.retain && plain.some(([, each]) => each.retainAsPublished),
        identifiers: plain.map(([, { identifier }]) => identifier).filter((identifier) => identifier > 0),
        share: null,
      }
      planned.set(`${session.clientId} null`, () => this.#deliver(session, delivery))
    }
    for (const [share, members] of groups) {
      const taker = this.#memberThatTook(message, share, members, chosen)
      if (
        members.some((member) => member.stored && member.subscriptions.get(share)!.qos > 0) &&
        message.qos > 0
      )
        stored = true
      if (taker === null) continue
      planned.set(`${taker.clientId} ${share}`, () => {
        this.#judgePreference(taker, share, members)
        this.#deliverShared(taker, message, share)
      })
    }
    const unknown = chosen.filter(({ share }) => share !== null && !groups.has(share))
    if (unknown.length > 0)
      throw new Error(`${message.topic} was given to ${unknown[0]!.clientId}, who did not ask`)
    // In which order they come is the Server's to choose.
    for (const { clientId, share } of chosen) {
      for (const deed of ahead.filter((each) => each.clientId === clientId && share === null)) {
        this.#retainedAhead(this.sessions.get(clientId), message, deed)
      }
      planned.get(`${clientId} ${share}`)!()
    }
    for (const { cursors } of this.sessions.values()) {
      for (const cursor of cursors.values())
        if (matches(cursor.filter, message.topic)) cursor.lived.add(message.topic)
    }
    return { matched, stored }
  }

  /** A retained message that was still to come goes right before a live one of its topic. */
  #retainedAhead(session: ModelSession | undefined, live: ModelMessage, deed: Delivered): void {
    const message = this.#known(deed.message)
    const cursor = session === undefined || message === null ? undefined : wanted(session, message, deed)
    if (session === undefined || message === null || cursor === undefined) {
      throw new Error(`${deed.clientId} got a retained message before ${live.topic} unasked`)
    }
    if (message === live || message !== this.retained.get(live.topic)) {
      throw new Error(`what came before ${live.topic} is not what is retained`)
    }
    cursor.came.push(message.number)
    const delivery = retainedDelivery(message, cursor)
    if (this.#hasRoomFor(session, delivery.qos)) this.#deliver(session, delivery)
    else this.#queue(session, { ...delivery, ordered: true })
  }

  #deliverShared(taker: ModelSession, message: ModelMessage, share: string): void {
    const subscription = taker.subscriptions.get(share)!
    this.#deliver(taker, {
      message,
      qos: Math.min(message.qos, subscription.qos),
      retain: message.retain && subscription.retainAsPublished,
      identifiers: subscription.identifier === 0 ? [] : [subscription.identifier],
      share,
    })
  }

  /** Exactly one member gets it, if any can take it. */
  #memberThatTook(
    message: ModelMessage,
    share: string,
    members: readonly ModelSession[],
    chosen: readonly Delivered[],
  ): ModelSession | null {
    const takers = chosen.filter((deed) => deed.share === share)
    const able = members.filter(
      (member) =>
        this.#connectionOf(member) !== null ||
        Math.min(message.qos, member.subscriptions.get(share)!.qos) > 0,
    )
    if (takers.length !== (able.length > 0 ? 1 : 0))
      throw new Error(`${takers.length} members of ${share} got a message`)
    if (takers.length === 0) return null
    const taker = able.find(({ clientId }) => clientId === takers[0]!.clientId)
    if (taker === undefined) throw new Error(`${takers[0]!.clientId} of ${share} cannot take the message`)
    return taker
  }

  /**
   * An offline member is chosen only where none is online, or where messages of the group wait for it. Judged
   * when it gets the message: what the same publication gave it before may have pushed out its oldest one.
   */
  #judgePreference(taker: ModelSession, share: string, members: readonly ModelSession[]): void {
    const online = members.filter((member) => this.#connectionOf(member) !== null)
    // Where messages of the group wait for one already, others wait behind them.
    const holds = taker.queue.find((waiting) => !this.#isOver(waiting.message))?.share === share
    if (
      online.length > 0 &&
      !online.includes(taker) &&
      !(holds && !online.some((each) => this.#hasRoom(each)))
    )
      throw new Error(`an offline member of ${share} was preferred`)
  }

  /** The Server's deeds up to the publication of this message, which they are all about. */
  #takeFanOut(message: ModelMessage): { chosen: Delivered[]; ahead: Delivered[] } {
    const all: Delivered[] = []
    for (let deed = this.#deeds.shift(); deed !== undefined; deed = this.#deeds.shift()) {
      if (deed.did === 'deliver') all.push(deed)
      if (deed.did !== 'publish') continue
      if (deed.publisher !== message.publisher)
        throw new Error(`a message of ${deed.publisher} was published instead`)
      this.#messages.set(deed.message, message)
      const chosen = all.filter((each) => each.message === deed.message)
      const ahead = all.filter((each) => each.message !== deed.message)
      if (
        ahead.some(
          ({ share, clientId }) => share !== null || !chosen.some((each) => each.clientId === clientId),
        )
      )
        throw new Error('a delivery of another message')
      return { chosen, ahead }
    }
    throw new Error(`${message.topic} was not published`)
  }

  // ── a Session's way to its client ───────────────────────────────────────────────────────────────────────

  #deliver(session: ModelSession, delivery: ModelDelivery): void {
    const connection = this.#connectionOf(session)
    if (delivery.qos === 0) {
      if (connection === null) return
      this.#dropExpired(session) // what the Server has given up is waited for no more
      if (session.queue.some(({ ordered }) => ordered === true))
        this.#queue(session, { ...delivery, ordered: true })
      else this.#sendPublish(connection, delivery, 0, false)
      return
    }
    if (connection !== null && this.#hasRoom(session)) {
      this.#sendNew(connection, session, delivery)
      return
    }
    this.#queue(session, delivery)
  }

  #queue(session: ModelSession, delivery: ModelDelivery): void {
    // What has expired takes no room.
    const waiting = (): number => session.queue.filter(({ message }) => !this.#isOver(message)).length
    const isFull = waiting() >= this.limits.queueMessagesMax
    while (waiting() >= this.limits.queueMessagesMax) session.queue.shift()
    session.queue.push(delivery)
    if (isFull) this.#pump(session)
  }

  #sendNew(connection: ModelConnection, session: ModelSession, delivery: ModelDelivery): void {
    let packetId = session.lastPacketId
    do packetId = packetId === 65_535 ? 1 : packetId + 1
    while (session.inFlight.some((other) => other.packetId === packetId))
    if (!this.#sendPublish(connection, delivery, packetId, false)) return
    connection.quota--
    if (connection.quota < 0) throw new Error('the quota is negative')
    session.lastPacketId = packetId
    session.inFlight.push({ packetId, delivery, charged: true })
  }

  #hasRoom(session: ModelSession): boolean {
    const connection = this.#connectionOf(session)
    return (
      connection !== null &&
      session.queue.length === 0 &&
      connection.resend.length === 0 &&
      this.#windowOpen(connection)
    )
  }

  /** At QoS 0 a message needs no slot, but passes nothing that waits. */
  #hasRoomFor(session: ModelSession, qos: number): boolean {
    if (qos > 0) return this.#hasRoom(session)
    const connection = this.#connectionOf(session)
    return connection !== null && session.queue.length === 0 && connection.resend.length === 0
  }

  #windowOpen({ quota, session }: ModelConnection): boolean {
    return quota > 0 && session!.inFlight.length < this.limits.inFlightMax
  }

  #pump(session: ModelSession): void {
    const connection = this.#connectionOf(session)
    if (connection === null) return
    while (connection.resend.length > 0) {
      if (connection.quota === 0) return
      const outgoing = connection.resend.shift()!
      if (outgoing.delivery === null || !session.inFlight.includes(outgoing)) continue
      if (this.#sendPublish(connection, outgoing.delivery, outgoing.packetId, true)) {
        connection.quota--
        outgoing.charged = true
      } else session.inFlight = session.inFlight.filter((other) => other !== outgoing)
    }
    while (session.queue.length > 0) {
      const delivery = session.queue[0]!
      const { expiresAt } = delivery.message
      if (expiresAt === null || expiresAt > this.now) {
        if (delivery.qos === 0) this.#sendPublish(connection, delivery, 0, false)
        else if (!this.#windowOpen(connection)) return
        else this.#sendNew(connection, session, delivery)
      }
      session.queue.shift() // sent, or [MQTT-3.3.2-5]
    }
  }

  /** False when it is larger than the client takes [MQTT-3.1.2-25]. */
  #sendPublish(
    connection: ModelConnection,
    delivery: ModelDelivery,
    packetId: number,
    dup: boolean,
  ): boolean {
    const { message, qos } = delivery
    const v5 = connection.version === 5
    const { expiresAt, topic } = message
    const expiry = !v5 || expiresAt === null ? -1 : wholeSeconds(expiresAt, this.now)
    const known = connection.outAliases.get(topic) ?? 0
    const free = known === 0 ? connection.freeAlias(topic) : 0
    const fields = {
      topic: known > 0 ? '' : topic,
      qos,
      retain: delivery.retain,
      dup,
      packetId,
      payload: message.payload,
      alias: v5 ? known + free : 0,
      expiry,
      identifiers: v5 ? delivery.identifiers : [],
      properties: v5 ? message.properties : '',
    }
    if (publishBytes(fields, v5) > connection.packetMaximum) return false
    if (free > 0) connection.outAliases.set(topic, free)
    if (free > 0) connection.seen.delete(topic)
    // What is sent again comes behind a CONNACK that waited for it.
    this.#send(connection, publishText(fields), qos > 0 && !dup && this.#isStored(connection))
    return true
  }

  #isStored({ session }: ModelConnection): boolean {
    return session?.stored === true
  }

  // ── acknowledgements ────────────────────────────────────────────────────────────────────────────────────

  #acknowledge(connection: ModelConnection, session: ModelSession, packet: PlainAcknowledge): void {
    const { type, packetId } = packet
    const v5 = connection.version === 5
    if (type === 'pubrel') {
      const known = session.inbound.delete(packetId)
      const credits = connection.receivingIds.delete(packetId) ? 1 : 0
      this.#send(
        connection,
        `PUBCOMP ${packetId} ${known || !v5 ? 0 : 0x92}`,
        known && session.stored,
        credits,
      )
      this.#takeMoved()
      return
    }
    const outgoing = session.inFlight.find((other) => other.packetId === packetId)
    if (outgoing === undefined) {
      if (type === 'pubrec' && packet.reasonCode < 0x80) {
        this.#send(connection, `PUBREL ${packetId} ${v5 ? 0x92 : 0}`)
      }
      return
    }
    const qos = outgoing.delivery?.qos
    if (type === 'pubrec') {
      if (qos === 1) throw new Refusal(0x82, 'PUBREC of QoS 1')
      if (qos === 2 && packet.reasonCode >= 0x80) this.#complete(session, outgoing)
      else {
        if (qos === 2) {
          outgoing.delivery = null
          session.inFlight = [...session.inFlight.filter((other) => other !== outgoing), outgoing]
        }
        if (packet.reasonCode >= 0x80) return // [MQTT-4.3.3-4]
        this.#send(connection, `PUBREL ${packetId} 0`, qos === 2 && session.stored)
      }
      return
    }
    if (type === 'puback' ? qos !== 1 : qos !== undefined) throw new Refusal(0x82, `${type} does not fit`)
    this.#complete(session, outgoing)
  }

  #complete(session: ModelSession, outgoing: Outgoing): void {
    session.inFlight = session.inFlight.filter((other) => other !== outgoing)
    if (outgoing.charged) {
      const connection = this.#connectionOf(session)!
      const grows = connection.quota === 0 && connection.growth > 0
      connection.quota += grows ? 2 : 1
      if (grows) connection.growth--
    }
    this.#pump(session)
    this.#takeMoved()
  }

  // ── SUBSCRIBE ───────────────────────────────────────────────────────────────────────────────────────────

  #subscribe(connection: ModelConnection, session: ModelSession, packet: PlainSubscribe): void {
    this.#expectRoomFor(connection, packet.requests.length)
    for (const { filter, noLocal } of packet.requests) {
      if (!isFilter(filter)) throw new Refusal(0x8f, 'filter')
      if (noLocal && filter.startsWith('$share/'))
        throw new Refusal(0x82, 'No Local on a Shared Subscription')
    }
    if (this.#isInUse(connection, packet.packetId)) {
      this.#send(connection, `SUBACK ${packet.packetId} ${packet.requests.map(() => 0x91).join(',')}`)
      return
    }
    const { identifier } = packet
    const starts: Cursor[] = []
    const codes = packet.requests.map(
      ({ filter, noLocal: saysNoLocal, retainAsPublished: saysRetain, retainHandling, qos: asked }) => {
        const noLocal = saysNoLocal || (connection.bridge && !filter.startsWith('$share/'))
        const retainAsPublished = saysRetain || connection.bridge
        const qos = Math.min(asked, this.limits.maximumQoS)
        const existed = session.subscriptions.has(filter)
        session.subscriptions.set(filter, { qos, noLocal, retainAsPublished, identifier })
        const wanted = retainHandling === 0 || (retainHandling === 1 && !existed)
        if (wanted && !filter.startsWith('$share/') && this.limits.retainAvailable) {
          const due = this.#retainedFor(session, filter)
          starts.push({ filter, qos, noLocal, identifier, due, came: [], lived: new Set() })
        }
        // What is still to come for an earlier SUBSCRIBE comes as the Subscription is now.
        const cursor = wanted ? undefined : session.cursors.get(filter)
        if (cursor !== undefined) session.cursors.set(filter, { ...cursor, qos, noLocal, identifier })
        return qos
      },
    )
    this.#send(connection, `SUBACK ${packet.packetId} ${codes.join(',')}`, session.stored)
    for (const cursor of starts) {
      session.cursors.delete(cursor.filter) // it begins anew, behind the others
      session.cursors.set(cursor.filter, cursor)
    }
    // What is still to come for earlier ones comes with them, or later.
    if (starts.length > 0) this.#takeRetained(session)
    this.#takeMoved()
    if (!this.#hasRoom(session)) return
    // Those that have sent everything are over, and stand for nothing that is published later.
    for (const { filter, due, came } of starts) {
      if (due.every((number) => came.includes(number))) session.cursors.delete(filter)
    }
  }

  #takeRetained(session: ModelSession): void {
    // Those for which there is room come at once.
    for (let deed = this.#deeds[0]; deed?.did === 'deliver'; deed = this.#deeds[0]) {
      if (deed.share !== null || !this.#hasRoomFor(session, deed.qos)) return
      const message = this.#known(deed.message)
      if (message === null || deed.clientId !== session.clientId) return
      const cursor = wanted(session, message, deed)
      if (cursor === undefined || this.#isBehind(session, cursor)) return
      this.#deeds.shift()
      this.#retainedCame(session, message, deed)
    }
  }

  /**
   * Moves messages that wait for a member of a Shared Subscription, and were never sent, to one with room.
   * False when the Server did no such thing next.
   */
  #takeMoved(): boolean {
    let count = 0
    for (let deed = this.#deeds[0]; deed?.did === 'deliver' && deed.share !== null; deed = this.#deeds[0]) {
      const { clientId, share } = deed
      const message = this.#known(deed.message)
      const taker = this.sessions.get(clientId)
      const holder = [...this.sessions.values()].find((session) => {
        const [first] = session.queue.filter(({ message: each }) => !this.#isOver(each))
        return session !== taker && first?.message === message && first.share === share
      })
      if (message === null || taker === undefined || holder === undefined || !taker.subscriptions.has(share))
        break
      // One that has no room yet may have some by a packet that comes later.
      if (!this.#hasRoom(taker)) break
      const at = holder.queue.findIndex(({ message: each }) => each === message)
      holder.queue.splice(0, at + 1)
      this.#deeds.shift()
      this.#deliverShared(taker, message, share)
      count++
    }
    return count > 0
  }

  #isOver({ expiresAt }: ModelMessage): boolean {
    return expiresAt !== null && expiresAt <= this.now
  }

  /** Nobody idles while others have work of the same Shared Subscription that they were never sent. */
  #expectSharedWork(): void {
    for (const { clientId, queue } of this.sessions.values()) {
      const [first] = queue.filter(({ message }) => !this.#isOver(message))
      if (first === undefined || first.share === null) continue
      for (const other of this.sessions.values()) {
        if (other.clientId === clientId || !other.subscriptions.has(first.share) || !this.#hasRoom(other))
          continue
        throw new Error(`${other.clientId} idles while ${first.share} waits for ${clientId}`)
      }
    }
  }

  /** The numbers of the retained messages that a Subscription brings: they match, and have not expired. */
  #retainedFor(
    { clientId, subscriptions }: ModelSession,
    filter: string,
    without: ReadonlySet<string> = new Set(),
  ): number[] {
    const isWithoutOwn = subscriptions.get(filter)?.noLocal === true
    const found = [...this.retained.values()].filter(({ topic, expiresAt, publisher }) => {
      if ((isWithoutOwn && publisher === clientId) || without.has(topic)) return false
      return matches(filter, topic) && (expiresAt === null || expiresAt > this.now)
    })
    return found.map(({ number }) => number)
  }

  /** Whether retained messages of an earlier Subscription are still to come: they come first. */
  #isBehind(session: ModelSession, cursor: Cursor): boolean {
    for (const earlier of session.cursors.values()) {
      if (earlier === cursor) return false
      const { filter, due, came, lived } = earlier
      const left = this.#retainedFor(session, filter, lived)
      if (left.some((number) => due.includes(number) && !came.includes(number))) return true
    }
    return false
  }

  /** The Server chose to send a retained message for a new Subscription now. */
  #retainedCame(session: ModelSession, message: ModelMessage, deed: Delivered): void {
    const cursor = wanted(session, message, deed)
    if (cursor === undefined) throw new Error(`${session.clientId} got ${message.topic} unasked`)
    if (this.retained.get(message.topic) !== message) throw new Error('what came is not retained')
    if (!this.#hasRoomFor(session, deed.qos))
      throw new Error('a retained message came where there is no room')
    cursor.came.push(message.number)
    this.#deliver(session, retainedDelivery(message, cursor))
  }

  /** Whether a QoS 2 message that came on this connection has the identifier [MQTT-2.2.1-3]. */
  #isInUse({ version, receivingIds }: ModelConnection, packetId: number): boolean {
    return version === 5 && receivingIds.has(packetId)
  }

  #expectRoomFor(connection: ModelConnection, codes: number): void {
    if (1 + variableBytes(codes + 3) + codes + 3 > connection.packetMaximum)
      throw new Refusal(0x95, 'no room for the answer')
  }

  // ── the end ─────────────────────────────────────────────────────────────────────────────────────────────

  #refuse(connection: ModelConnection, code: number): void {
    this.#sendDisconnect(connection, code)
    this.#close(connection, 'lost')
  }

  #close(connection: ModelConnection, how: 'normal' | 'lost'): void {
    if (connection.phase === 'closed') return
    connection.phase = 'closed'
    this.connections.delete(connection)
    const { session, clientId, expiry } = connection
    connection.session = null
    if (session === null) return
    session.expiry = expiry
    session.disconnectedAt = this.now
    if (how === 'normal') this.wills.delete(clientId)
    else this.#willOfLost(clientId, expiry)
    if (expiry === 0) this.#end(session)
    else this.#takeMoved()
  }

  #willOfLost(clientId: string, expiry: number): void {
    const pending = this.wills.get(clientId)
    if (pending === undefined) return
    const seconds = expiry === 0xffff_ffff ? pending.will.delay : Math.min(pending.will.delay, expiry)
    if (seconds === 0) this.#publishWill(clientId)
    else pending.dueAt = this.now + seconds * 1000
  }

  #publishWill(clientId: string): void {
    const pending = this.wills.get(clientId)
    if (pending === undefined) return
    this.wills.delete(clientId)
    const { will } = pending
    const expiresAt = will.expiry === undefined ? null : Math.floor(this.now) + will.expiry * 1000
    const retain = will.retain && this.limits.retainAvailable
    const message = { ...will, retain, number: ++this.#count, expiresAt, publisher: clientId }
    this.#fanOut(message, this.sessions.get(clientId) ?? null)
  }

  #end(session: ModelSession): void {
    session.subscriptions.clear()
    this.sessions.delete(session.clientId)
    const will = this.wills.get(session.clientId)
    if (will?.graceEnd !== undefined && will.graceEnd > this.now) will.dueAt = will.graceEnd
    else this.#publishWill(session.clientId) // [MQTT-3.1.2-8]
    const left = [
      ...session.inFlight.flatMap(({ delivery }) =>
        delivery !== null && delivery.qos < 2 ? [delivery] : [],
      ),
      ...session.queue,
    ]
    for (const { message, share } of left) {
      if (share === null || (message.expiresAt !== null && message.expiresAt <= this.now)) continue
      const members = [...this.sessions.values()].filter(({ subscriptions }) => subscriptions.has(share))
      const deed = this.#deeds.find(({ did }) => did === 'deliver') as Delivered | undefined
      const isThis = deed !== undefined && this.#known(deed.message) === message && deed.share === share
      if (members.length === 0) continue
      const taker = this.#memberThatTook(message, share, members, isThis ? [deed] : [])
      if (isThis) this.#deeds.splice(this.#deeds.indexOf(deed), 1)
      if (taker !== null) this.#deliverShared(taker, message, share)
    }
  }

  #sendDisconnect(connection: ModelConnection, code: number): void {
    if (connection.version === 5) this.#sendSmall(connection, `DISCONNECT ${code}`, 4)
  }

  /** `bytes`: the least that it takes. */
  #sendSmall(connection: ModelConnection, text: string, bytes: number): void {
    if (bytes <= connection.packetMaximum) this.#send(connection, text)
  }

  #send(connection: ModelConnection, text: string, promise = false, credits = 0): void {
    connection.expected.push({ text, promise, credits })
  }

  #connectionOf(session: ModelSession): ModelConnection | null {
    for (const connection of this.connections) if (connection.session === session) return connection
    return null
  }

  // ── a crash ─────────────────────────────────────────────────────────────────────────────────────────────

  /** What would be left if everything so far were durable. */
  snapshot(): Snapshot {
    const sessions = [...this.sessions.values()].filter(({ stored }) => stored)
    return structuredClone({ sessions, retained: [...this.retained.values()], wills: [...this.wills] })
  }

  /** The Server starts again with what was durable. */
  recovered(snapshot: Snapshot, deeds: readonly Deed[]): void {
    this.#deeds = [...deeds]
    for (const map of [this.sessions, this.retained, this.wills]) map.clear()
    this.connections.clear()
    const messages = new Map([...this.#messages.values()].map((message) => [message.number, message]))
    const same = (message: ModelMessage): ModelMessage => messages.get(message.number)!
    const again = (delivery: ModelDelivery): ModelDelivery => ({
      ...delivery,
      message: same(delivery.message),
    })
    for (const message of snapshot.retained) this.retained.set(message.topic, same(message))
    for (const kept of structuredClone(snapshot.sessions)) {
      const session: ModelSession = {
        ...kept,
        inFlight: kept.inFlight.map(({ packetId, delivery }) => ({
          packetId,
          delivery: delivery === null ? null : again(delivery),
          charged: false,
        })),
        queue: kept.queue.map(again),
        disconnectedAt: kept.disconnectedAt === 0 ? this.now : kept.disconnectedAt,
        cursors: new Map(),
      }
      for (const { filter, qos, noLocal, identifier, due: before, came, lived } of kept.cursors.values()) {
        // What was not complete begins again.
        const now = this.#retainedFor(session, filter, lived)
        const due = before.some((number) => now.includes(number) && !came.includes(number)) ? now : []
        session.cursors.set(filter, { filter, qos, noLocal, identifier, due, came: [], lived })
      }
      if (this.#isUnderWay(session.clientId) && session.queue.length > 0) {
        session.queue.push({ ...session.queue.pop()!, ordered: true })
      }
      this.sessions.set(session.clientId, session)
    }
    const ended = this.#deeds.flatMap((deed) => (deed.did === 'end' ? [deed.clientId] : []))
    for (const clientId of ended) {
      const session = this.sessions.get(clientId)
      if (session === undefined || !this.#isExpired(session))
        throw new Error(`the Session of ${clientId} was not over`)
      this.#end(session)
    }
    for (const session of this.sessions.values()) {
      if (this.#isExpired(session)) throw new Error(`the Session of ${session.clientId} is over`)
    }
    for (const [clientId, { will, dueAt, assigned }] of structuredClone(snapshot.wills)) {
      const expiry = this.sessions.get(clientId)?.expiry ?? 0
      const delay = Math.min(will.delay, expiry === 0xffff_ffff ? Number.POSITIVE_INFINITY : expiry)
      const own = dueAt === 0 ? this.now + delay * 1000 : dueAt
      const graceEnd = this.now + this.limits.willGraceSeconds * 1000
      this.wills.set(clientId, { will, dueAt: Math.max(own, graceEnd), graceEnd, assigned })
      if (assigned) this.#publishWill(clientId)
    }
    this.#settled()
  }
}

function retainedDelivery(message: ModelMessage, { qos, identifier }: Cursor): ModelDelivery {
  const identifiers = identifier === 0 ? [] : [identifier]
  return { message, qos: Math.min(message.qos, qos), retain: true, identifiers, share: null }
}

/** The Subscription for which this retained message is still to come. */
function wanted(session: ModelSession, message: ModelMessage, deed: Delivered): Cursor | undefined {
  const { cursors, clientId } = session
  const fitting = [...cursors.values()].filter(({ filter, came, qos, noLocal, identifier }) => {
    if (noLocal && message.publisher === clientId) return false
    if (came.includes(message.number) || !matches(filter, message.topic)) return false
    return deed.qos === Math.min(message.qos, qos) && (deed.identifiers[0] ?? 0) === identifier
  })
  return fitting.find(({ due }) => due.includes(message.number)) ?? fitting[0]
}

/** Table 3-1 of 3.1.1: only these Reason Codes have a return code. */
const RETURN_CODES: Readonly<Record<number, number>> = { 132: 1, 133: 2, 151: 3, 134: 4, 135: 5 }

/** What a client that sent a bad CONNECT understands; null when nothing tells. */
function spoken(body: Buffer): Version | null {
  if (body.length < 2 || body.length < 2 + body.readUInt16BE()) return null
  const end = 2 + body.readUInt16BE()
  if (!isUtf8(body.subarray(2, end)) || body.subarray(2, end).includes(0)) return null
  const name = body.toString('utf8', 2, end)
  const level = body[end]
  if (level === undefined) return name === 'MQTT' ? 4 : name === 'MQIsdp' ? 3 : null
  if (name === 'MQTT') return (level & 127) >= 5 ? 5 : 4
  if (name === 'MQIsdp') return 3
  return null
}

/** Whether the payload is the text that its Payload Format Indicator says (section 3.3.2.3.2). */
function isAsSaid({
  payload,
  properties,
}: {
  readonly payload: string
  readonly properties: string
}): boolean {
  if (!saysText(Buffer.from(properties, 'hex'))) return true
  return isUtf8(Buffer.from(payload, 'hex'))
}

function isServersOwn(topic: string): boolean {
  const [first, second, third, name, last, ...more] = topic.split('/')
  const isBridges =
    second === 'broker' && third === 'connection' && name !== '' && last === 'state' && more.length === 0
  return first === '$SYS' && !isBridges
}

/** The Reason Code of a PUBLISH that is refused; 0 for none. */
function refusalOf(topic: string, isText: boolean, isTaken: boolean): number {
  if (!isText) return 0x99
  if (isTaken) return 0x91
  if (isServersOwn(topic)) return 0x87
  return isNoAddress(topic) ? 0x90 : 0
}

/** Whether nothing can be published to this name of a Shared Subscription. */
function isNoAddress(topic: string): boolean {
  return topic.startsWith('$share/')
}

function isFilter(filter: string): boolean {
  if (filter === '') return false
  const [first, share, ...inner] = filter.split('/')
  if (first === '$share' && share !== undefined) {
    if (share === '' || /[+#]/.test(share) || inner.join('/') === '') return false
    return wildcardsFit(inner)
  }
  return wildcardsFit(filter.split('/'))
}

function wildcardsFit(levels: readonly string[]): boolean {
  return levels.every((level, at) => {
    if (level === '#') return at === levels.length - 1
    return level === '+' || !/[+#]/.test(level)
  })
}

/** What makes a message: not what may differ when it is sent again. */
function contentOf({ retain, payload, properties }: PlainPublish, topic: string): string {
  return JSON.stringify([topic, retain, payload, properties])
}

/** What was received less the whole seconds that it waited. */
function wholeSeconds(expiresAt: number, now: number): number {
  return expiresAt <= now ? 0 : Math.ceil((expiresAt - Math.floor(now)) / 1000)
}

function variableBytes(value: number): number {
  return value < 128 ? 1 : value < 16_384 ? 2 : value < 2_097_152 ? 3 : 4
}

function publishBytes(
  fields: {
    topic: string
    qos: number
    payload: string
    alias: number
    expiry: number
    identifiers: readonly number[]
    properties: string
  },
  v5: boolean,
): number {
  let properties = fields.properties.length / 2 + (fields.expiry >= 0 ? 5 : 0) + (fields.alias > 0 ? 3 : 0)
  for (const identifier of fields.identifiers) properties += 1 + variableBytes(identifier)
  let length = 2 + Buffer.byteLength(fields.topic) + (fields.qos > 0 ? 2 : 0) + fields.payload.length / 2
  if (v5) length += variableBytes(properties) + properties
  return 1 + variableBytes(length) + length
}

/** The topic of the client's reply queue, if it asks and its Client Identifier can be part of a name. */
function responseInformation(packet: PlainConnect, clientId: string): [number, string][] {
  const isName = /^[A-Za-z0-9_.-]{1,58}$/.test(clientId) && !clientId.endsWith('.dead')
  return packet.responseInformation && isName
    ? [[26, Buffer.from(`$queue/reply.${clientId}`).toString('hex')]]
    : []
}

function connackBytes(said: readonly (readonly [number, number | string])[]): number {
  const sizes: Readonly<Record<number, number>> = { 17: 5, 33: 3, 36: 2, 37: 2, 39: 5, 34: 3, 19: 3 }
  let bytes = 0
  for (const [id, value] of said) bytes += typeof value === 'string' ? 3 + value.length / 2 : sizes[id]!
  return 5 + bytes
}
