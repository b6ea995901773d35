/**
 * Lists, shows and deletes what the Server holds, for the operator.
 *
 * Lists are generators that do bounded work in each step: null means "nothing yet, still looking". They may
 * pause between steps for any time: whatever is there all the while comes exactly once.
 */

import type { Message, Will } from '../mqtt/message.ts'
import type { ProtocolVersion, QoS } from '../mqtt/packet.ts'
import { SESSION_NEVER_EXPIRES } from '../mqtt/packet.ts'
import { decodeForwardedProperties, type ForwardedProperties } from '../mqtt/properties/forwarded.ts'
import { Reason } from '../mqtt/reason.ts'
import { isServerTopic } from '../mqtt/server-topics.ts'
import { filtersOverlap, hasWildcard, innerFilter } from '../routing/filter.ts'
import type { Session } from '../session/session.ts'
import type { SubscriptionRecord } from '../store/store.ts'
import { secondsLeft } from './boundary/expiry.ts'
import type { LinkInfo } from './boundary/link.ts'
import type { ServerParts } from './sessions/server-parts.ts'
import type { ClientConnection, ServerState } from './state/server-state.ts'

/** A client that is connected. */
export interface ClientEntry {
  readonly clientId: string
  /** Null for anonymous. */
  readonly userName: string | null
  readonly protocolVersion: ProtocolVersion
  readonly link: LinkInfo
  readonly connectedSeconds: number
  /** The Keep Alive in force; 0 for none. */
  readonly keepAliveSeconds: number
  /** Bytes of output that the client has not read yet. */
  readonly waitingBytes: number
  readonly queuedMessages: number
  readonly inFlightMessages: number
}

/** A Session, with or without a Network Connection. */
export interface SessionEntry {
  readonly clientId: string
  readonly userName: string | null
  /** Whether its user no longer exists: the Session ends when another user takes its Client Identifier. */
  readonly isFormerUsers: boolean
  readonly isConnected: boolean
  /** Time since its Network Connection ended; null while one is open. */
  readonly disconnectedSeconds: number | null
  /** Session Expiry Interval; null for never. */
  readonly expirySeconds: number | null
  readonly subscriptions: number
  readonly queuedMessages: number
  readonly queuedBytes: number
  readonly inFlightMessages: number
  /** QoS 2 messages from the client that are not released yet. */
  readonly receivedPacketIds: number
  readonly hasWill: boolean
}

export interface SubscriptionEntry extends SubscriptionRecord {
  readonly clientId: string
  readonly userName: string | null
  readonly isConnected: boolean
  /** The topic filter of SUBSCRIBE, with `$share/name/`. */
  readonly topicFilter: string
  /** Whether the policy denies it at the moment, so that it gets no messages. */
  readonly isSuspended: boolean
}

/** A retained message, or a Will. */
export interface MessageEntry {
  readonly topicName: string
  readonly qos: QoS
  /** Client Identifier; empty for the Server. */
  readonly publisher: string
  readonly payloadBytes: number
  /** Null without Message Expiry Interval. */
  readonly expiresInSeconds: number | null
}

export interface MessageContent {
  readonly payload: Buffer
  readonly properties: ForwardedProperties
}

export interface WillEntry {
  readonly topicName: string
  readonly qos: QoS
  readonly retain: boolean
  readonly payloadBytes: number
  readonly delaySeconds: number
}

/** Selects entries; an empty query selects all. */
export interface InventoryQuery {
  /** Selects this Client Identifier, without looking at others. */
  readonly clientId?: string
  readonly isClient?: (clientId: string) => boolean
  /** Selects a user; null for anonymous. */
  readonly userName?: string | null
  /** Selects Sessions whose users no longer exist, or all others. */
  readonly isFormerUsers?: boolean
  /** Selects Sessions whose clients have been away for at least this time. */
  readonly awaySeconds?: number
  /**
   * Selects retained messages that the filter matches, or Subscriptions that could get a message that it
   * matches. It is valid and has no `$share/name/`. For a topic name, other Subscriptions are not looked at.
   */
  readonly topicFilter?: string
}

/** A list, or null for a step without an entry. */
export type Steps<T> = Generator<T | null, void, undefined>

/** Everything that the Server holds. */
export class Inventory {
  readonly #state: ServerState
  readonly #parts: ServerParts
  readonly #durable: (durableAt: number) => Promise<void>

  /** `durable` resolves when everything up to a commit sequence is durable. It rejects with StoreError. */
  constructor(state: ServerState, parts: ServerParts, durable: (durableAt: number) => Promise<void>) {
    this.#state = state
    this.#parts = parts
    this.#durable = durable
  }

  // ── lists ────────────────────────────────────────────────────────────────────────────────────────────────

  *clients(query: InventoryQuery): Steps<ClientEntry> {
    for (const session of this.#sessions(query, this.#state.connected.keys())) {
      const connection = session === null ? undefined : this.#state.connected.get(session)
      yield session === null || connection === undefined ? null : this.#client(session, connection)
    }
  }

  *sessions(query: InventoryQuery): Steps<SessionEntry> {
    for (const session of this.#sessions(query, this.#state.sessions.values())) {
      yield session === null ? null : this.#session(session)
    }
  }

  *subscriptions(query: InventoryQuery): Steps<SubscriptionEntry> {
    const { topicFilter } = query
    if (topicFilter !== undefined && !hasWildcard(topicFilter) && query.clientId === undefined) {
      yield* this.#receivers(query, topicFilter)
      return
    }
    for (const session of this.#sessions(query, this.#state.sessions.values())) {
      yield null
      if (session === null) continue
      for (const [filter, record] of session.subscriptions) {
        const fits = topicFilter === undefined || filtersOverlap(innerFilter(filter), topicFilter)
        yield fits ? this.#subscription(session, filter, record) : null
      }
    }
  }

  /** Lists retained messages; without a topic filter, the Server's own are left out. */
  *retained(query: InventoryQuery): Steps<MessageEntry> {
    const { retained } = this.#state
    const { topicFilter, clientId, isClient } = query
    for (const message of topicFilter === undefined ? retained : retained.match(topicFilter)) {
      const fits =
        message !== null &&
        (topicFilter !== undefined || !isServerTopic(message.topic.name)) &&
        (clientId === undefined || message.publisher === clientId) &&
        (isClient === undefined || isClient(message.publisher))
      yield fits ? this.#message(message) : null
    }
  }

  /** Yields the Sessions of `all` that match the query. */
  *#sessions(query: InventoryQuery, all: Iterable<Session>): Steps<Session> {
    const { clientId, isClient, userName, isFormerUsers, awaySeconds } = query
    const fits = (session: Session): boolean =>
      (userName === undefined || session.owner === userName) &&
      (isClient === undefined || isClient(session.clientId)) &&
      (isFormerUsers === undefined || this.#isFormerUsers(session) === isFormerUsers) &&
      (awaySeconds === undefined || this.#isAway(session, awaySeconds))
    if (clientId === undefined) {
      for (const session of all) yield fits(session) ? session : null
      return
    }
    const session = this.#state.sessions.get(clientId)
    if (session !== undefined && fits(session)) yield session
  }

  #isFormerUsers({ owner, ownerId }: Session): boolean {
    return owner !== null && this.#state.policy.isFormerUser?.(owner, ownerId) === true
  }

  #isAway(session: Session, seconds: number): boolean {
    return !this.#state.connected.has(session) && this.#secondsSince(session.disconnectedAt) >= seconds
  }

  /** Yields the Subscriptions that a message with this topic name reaches, by its Route. */
  *#receivers(query: InventoryQuery, topicName: string): Steps<SubscriptionEntry> {
    const { router, topics, sessions } = this.#state
    const { entries, groups } = router.route(topics.intern(topicName))
    const found = function* () {
      for (const entry of entries) yield* entry.subscriptions
      for (const group of groups) yield* group.members
    }
    for (const { subscriber, filter } of found()) {
      const record = subscriber.subscriptions.get(filter)
      // Subscribers in this process are not clients; others may have ended since.
      const isThere = record !== undefined && sessions.get(subscriber.clientId) === subscriber
      const fits =
        isThere &&
        (query.userName === undefined || subscriber.owner === query.userName) &&
        (query.isClient === undefined || query.isClient(subscriber.clientId))
      yield fits ? this.#subscription(subscriber, filter, record) : null
    }
  }

  // ── single entries ───────────────────────────────────────────────────────────────────────────────────────

  client(clientId: string): ClientEntry | null {
    const session = this.#state.sessions.get(clientId)
    const connection = session === undefined ? undefined : this.#state.connected.get(session)
    return connection === undefined ? null : this.#client(session!, connection)
  }

  session(clientId: string): SessionEntry | null {
    const session = this.#state.sessions.get(clientId)
    return session === undefined ? null : this.#session(session)
  }

  will(clientId: string): WillEntry | null {
    const will: Will | undefined = this.#state.wills.get(clientId)?.record.will
    if (will === undefined) return null
    const { topic: topicName, qos, retain, payload, delaySeconds } = will
    return { topicName, qos, retain, payloadBytes: payload.length, delaySeconds }
  }

  subscription(clientId: string, topicFilter: string): SubscriptionEntry | null {
    const session = this.#state.sessions.get(clientId)
    const record = session?.subscriptions.get(topicFilter)
    return record === undefined ? null : this.#subscription(session!, topicFilter, record)
  }

  retainedMessage(topicName: string): (MessageEntry & MessageContent) | null {
    const message = this.#state.retained.get(topicName)
    if (message === undefined) return null
    const { payload, properties } = message
    return { ...this.#message(message), payload, properties: decodeForwardedProperties(properties) }
  }

  // ── deletion ─────────────────────────────────────────────────────────────────────────────────────────────

  /** Why nothing can be deleted at the moment; null if it can. */
  get unavailable(): string | null {
    return this.#state.stopping ? 'the Server is shutting down' : this.#state.unavailable
  }

  /** Ends the Network Connection of a client, but not its Session. Returns false if there is none. */
  disconnect(clientId: string): boolean {
    const session = this.#state.sessions.get(clientId)
    const connection = session === undefined ? undefined : this.#state.connected.get(session)
    if (connection === undefined) return false
    this.#state.turn.begin()
    connection.disconnect(Reason.AdministrativeAction, 'ended by the operator')
    return true
  }

  /**
   * Ends a Session and its Network Connection. Resolves once that is durable, with false if there is none.
   * Rejects with StoreError.
   */
  async deleteSession(clientId: string): Promise<boolean> {
    if (!this.endSession(clientId)) return false
    await this.settled()
    return true
  }

  /** Ends a Session as `deleteSession` does; the end is durable once `settled` resolves. */
  endSession(clientId: string): boolean {
    const { sessions, turn } = this.#state
    const session = sessions.get(clientId)
    if (session === undefined) return false
    turn.begin()
    this.disconnect(clientId)
    if (sessions.get(clientId) === session) this.#parts.sessions.end(session, 'deleted')
    return true
  }

  /** Ends a Subscription without telling its client. Resolves and rejects as `deleteSession` does. */
  async deleteSubscription(clientId: string, topicFilter: string): Promise<boolean> {
    if (!this.endSubscription(clientId, topicFilter)) return false
    await this.settled()
    return true
  }

  /** Does the same as `deleteSubscription`, durable once `settled` resolves. */
  endSubscription(clientId: string, topicFilter: string): boolean {
    const session = this.#state.sessions.get(clientId)
    if (session === undefined) return false
    this.#state.turn.begin()
    return this.#parts.subscribing.remove(session, topicFilter)
  }

  /**
   * Removes a retained message without telling subscribers. Returns false if there is none. Durable once
   * `settled` resolves.
   */
  clearRetained(topicName: string): boolean {
    this.#state.turn.begin()
    return this.#parts.publisher.retained.clear(topicName)
  }

  /** Whether commits are behind. To delete very much, wait for `settled` whenever they are. */
  get isBehind(): boolean {
    return this.#state.store.pendingBytes > this.#state.limits.pendingCommitBytesMax
  }

  /** Resolves when all deletions so far are durable. Rejects with StoreError. */
  settled(): Promise<void> {
    return this.#durable(this.#state.store.openSequence)
  }

  // ── entries ──────────────────────────────────────────────────────────────────────────────────────────────

  #client(session: Session, connection: ClientConnection): ClientEntry {
    const { view, connectedAt, keepAliveSeconds, waitingBytes } = connection
    return {
      clientId: view.clientId,
      userName: view.userName,
      protocolVersion: view.protocolVersion,
      link: view.link,
      connectedSeconds: this.#secondsSince(connectedAt),
      keepAliveSeconds,
      waitingBytes,
      queuedMessages: session.queueLength,
      inFlightMessages: session.inFlightCount,
    }
  }

  #session(session: Session): SessionEntry {
    const isConnected = this.#state.connected.has(session)
    const { expirySeconds } = session
    return {
      clientId: session.clientId,
      userName: session.owner,
      isFormerUsers: this.#isFormerUsers(session),
      isConnected,
      disconnectedSeconds: isConnected ? null : this.#secondsSince(session.disconnectedAt),
      expirySeconds: expirySeconds === SESSION_NEVER_EXPIRES ? null : expirySeconds,
      subscriptions: session.subscriptions.size,
      queuedMessages: session.queueLength,
      queuedBytes: session.queueBytes,
      inFlightMessages: session.inFlightCount,
      receivedPacketIds: session.inboundCount,
      hasWill: this.#state.wills.has(session.clientId),
    }
  }

  #subscription(session: Session, topicFilter: string, record: SubscriptionRecord): SubscriptionEntry {
    const { clientId, owner: userName } = session
    const isConnected = this.#state.connected.has(session)
    const isSuspended = this.#parts.subscribing.isSuspended(session, topicFilter)
    return { clientId, userName, isConnected, topicFilter, isSuspended, ...record }
  }

  #message({ topic, qos, publisher, payload, expiresAt }: Message): MessageEntry {
    return {
      topicName: topic.name,
      qos,
      publisher,
      payloadBytes: payload.length,
      expiresInSeconds:
        expiresAt === Number.POSITIVE_INFINITY ? null : secondsLeft(expiresAt, this.#state.now()),
    }
  }

  /** Returns the time since then. Time in doubt does not count, so that nobody deletes by it. */
  #secondsSince(time: number): number {
    const { span: doubt } = this.#state.timeInDoubt
    const doubtfulMs = doubt !== null && this.#state.timeInDoubt.isBefore(time) ? doubt.ms : 0
    return Math.max(0, Math.floor((this.#state.now() - doubtfulMs - time) / 1000))
  }
}
