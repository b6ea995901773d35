/** Makes, resumes, takes over, expires and ends Sessions (section 4.1). */
import { SESSION_NEVER_EXPIRES } from '../../mqtt/packet.ts'
import { Session } from '../../session/session.ts'
import type { Usage } from '../accounts/usage.ts'
import type { BrokerEvents } from '../boundary/events.ts'
import type { LinkInfo } from '../boundary/link.ts'
import { ownerInWords, ownerOf, ownershipOf } from '../boundary/ownership.ts'
import type { Owner } from '../boundary/policy.ts'
import type { RetainedDelivery } from '../messages/retained-delivery.ts'
import type { Wills } from '../messages/wills.ts'
import type { ShareBacklog } from '../relief/share-backlog.ts'
import type { ClientConnection, ServerState } from '../state/server-state.ts'
import type { EndedSessions } from './ended-sessions.ts'

const SESSION_ID_MAX = 0xffffffff

export interface OpenRequest {
  readonly clientId: string
  readonly user: Owner
  readonly cleanStart: boolean
  readonly expirySeconds: number
  /** The Network Connection that asks, and the Usage of its address. */
  readonly link: LinkInfo
  readonly address: Usage
}

export interface OpenedSession {
  readonly session: Session
  readonly present: boolean
}

export class Sessions {
  readonly #state: ServerState
  readonly #endedSessions: EndedSessions
  readonly #wills: Wills
  readonly #retained: RetainedDelivery
  readonly #backlog: ShareBacklog

  constructor(
    state: ServerState,
    endedSessions: EndedSessions,
    wills: Wills,
    retained: RetainedDelivery,
    backlog: ShareBacklog,
  ) {
    this.#state = state
    this.#endedSessions = endedSessions
    this.#wills = wills
    this.#retained = retained
    this.#backlog = backlog
  }

  /**
   * Opens the Session of an accepted CONNECT. Takes the place of an old Network Connection [MQTT-3.1.4-3] and
   * processes Clean Start [MQTT-3.1.4-4]. Synchronous, so that a takeover has no race. The caller attaches
   * its connection.
   */
  open(request: OpenRequest): OpenedSession {
    const { clientId } = request
    const old = this.#state.sessions.get(clientId)
    if (old !== undefined) this.#takeOver(old, request.link)
    this.#endOwnerless(request, old)
    // A Session that ends with its Network Connection has ended by being taken over.
    const existing = this.#state.sessions.get(clientId)
    if (existing !== undefined && !request.cleanStart)
      return { session: this.#resume(existing, request), present: true }
    if (existing !== undefined) this.end(existing, 'clean-start')
    // After a restart a Will may wait although its Session is gone: the client is back, so it is not lost.
    this.#wills.discard(clientId)
    return { session: this.#create(request), present: false }
  }

  /**
   * Ends the Session, queue and Will that an anonymous client, or a user that is gone, left under this Client
   * Identifier: they are not for the user who connects. `old` may have ended with its Network Connection
   * already.
   */
  #endOwnerless({ clientId, user }: OpenRequest, old: Session | undefined): void {
    const { sessions, wills, policy, counters, events } = this.#state
    const owned = old ?? wills.get(clientId)?.record
    if (owned === undefined || ownershipOf(policy, ownerOf(owned), user) !== 'nobody') return
    const existing = sessions.get(clientId)
    let held = ''
    if (existing !== undefined) {
      const messages = existing.queueLength + existing.inFlightCount
      held = `; Subscriptions: ${existing.subscriptions.size}, messages: ${messages}`
    }
    if (existing === undefined) this.#wills.publishNow(clientId)
    else this.end(existing, 'ownerless')
    counters.ownerlessSessionsEnded++
    if (!events.has('security')) return
    const detail = `of ${ownerInWords(ownerOf(owned), user)}${held}`
    const by = user.userName ?? 'anonymous'
    events.emit('security', { kind: 'ownerless-session-ended', subject: clientId, by, detail })
  }

  /**
   * Ends an expired Session or a due Will under this Client Identifier, if that is not done yet, so that the
   * client does not find it.
   */
  endIfDue(clientId: string): void {
    const { sessions, sessionDeadlines, wills, deadlines } = this.#state
    const session = sessions.get(clientId)
    if (session !== undefined) deadlines.runIfPassed(sessionDeadlines.get(session) ?? null)
    deadlines.runIfPassed(wills.get(clientId)?.deadline ?? null)
  }

  #takeOver(old: Session, by: LinkInfo): void {
    const connection = this.#state.connected.get(old)
    if (connection === undefined) return
    connection.takenOver(by)
    // It may have sent DISCONNECT meanwhile.
    if (this.#state.connected.get(old) !== connection) return
    this.left(old, old.expirySeconds, 'lost')
  }

  #resume(session: Session, request: OpenRequest): Session {
    this.#cancelExpiry(session)
    this.#wills.discard(session.clientId) // [MQTT-3.1.3-9]
    session.expirySeconds = request.expirySeconds
    session.disconnectedAt = 0
    if (session.stored) this.#state.store.putSession(session.id, session.record())
    return session
  }

  #create(request: OpenRequest): Session {
    const stored = request.expirySeconds > 0
    const session = new Session(this.#state, {
      id: stored ? this.#freeSessionId() : 0,
      clientId: request.clientId,
      owner: request.user.userName,
      ownerId: request.user.userId,
      stored,
      expirySeconds: request.expirySeconds,
    })
    this.#state.usage.sessionAdded(session, request.address)
    this.#state.sessions.set(request.clientId, session)
    if (stored) {
      this.#state.sessionsById.set(session.id, session)
      this.#state.store.putSession(session.id, session.record())
    }
    if (this.#state.events.has('sessionCreated')) {
      this.#state.events.emit('sessionCreated', { clientId: request.clientId, persistent: stored })
    }
    return session
  }

  #freeSessionId(): number {
    let id = this.#state.nextSessionId
    while (this.#state.sessionsById.has(id)) id = id === SESSION_ID_MAX ? 1 : id + 1
    this.#state.nextSessionId = id === SESSION_ID_MAX ? 1 : id + 1
    return id
  }

  /** Connects a Network Connection to its Session. CONNACK is sent next, and deliveries only after that. */
  connect(session: Session, connection: ClientConnection): void {
    this.#state.connected.set(session, connection)
    this.#state.usage.attached(session, connection)
  }

  /**
   * Handles the end of a Session's Network Connection. `how` decides about the Will: 'normal' discards it
   * [MQTT-3.14.4-3], 'lost' publishes it when it is due.
   */
  left(session: Session, asked: number, how: 'normal' | 'lost'): void {
    const { clientId } = session
    const connection = this.#state.connected.get(session)
    if (connection !== undefined) {
      this.#state.connected.delete(session)
      this.#state.usage.detached(session, connection)
    }
    session.detach()
    // The maximum may have been lowered since CONNECT.
    const expirySeconds = Math.min(asked, this.#state.limits.sessionExpirySecondsMax)
    session.expirySeconds = expirySeconds
    session.disconnectedAt = this.#state.now()
    if (how === 'normal') this.#wills.discard(clientId)
    else this.#wills.connectionLost(clientId, expirySeconds)
    if (expirySeconds === 0) {
      this.end(session, 'disconnected')
      return
    }
    if (session.stored) this.#state.store.putSession(session.id, session.record())
    this.scheduleExpiry(session)
    if (!this.#state.stopping) this.#backlog.left(session)
  }

  /** Sets the deadline at which a Session without Network Connection ends [MQTT-4.1.0-2]. */
  scheduleExpiry(session: Session): void {
    if (session.expirySeconds === SESSION_NEVER_EXPIRES) return
    const deadline = this.#state.deadlines.at(this.endsAt(session, session.expirySeconds), () => {
      this.#state.turn.begin()
      this.#state.counters.clientsExpired++
      this.end(session, 'expired')
    })
    this.#state.sessionDeadlines.set(session, deadline)
  }

  /** Whether a Session would end at once if this were the maximum of its Session Expiry Interval. */
  outlasts(session: Session, expirySecondsMax: number): boolean {
    if (session.expirySeconds <= expirySecondsMax || this.#state.connected.has(session)) return false
    return this.endsAt(session, expirySecondsMax) <= this.#state.now()
  }

  /** Broker time at which a Session without a Network Connection ends, with this Session Expiry Interval. */
  endsAt({ disconnectedAt }: Session, expirySeconds: number): number {
    const { timeInDoubt } = this.#state
    const time = disconnectedAt + expirySeconds * 1000
    return timeInDoubt.isBefore(disconnectedAt) ? timeInDoubt.heldUntil(time) : time
  }

  /**
   * Corrects the clock: `ms` of the time after `since` did not pass. Clients that left before count as having
   * left `ms` later.
   */
  postpone(ms: number, since: number): void {
    const { sessions, connected, store } = this.#state
    for (const session of sessions.values()) {
      const { disconnectedAt } = session
      if (connected.has(session) || disconnectedAt === 0 || disconnectedAt > since) continue
      session.disconnectedAt += ms
      if (session.stored) store.putSession(session.id, session.record())
      this.#cancelExpiry(session)
      this.scheduleExpiry(session)
    }
  }

  /**
   * Applies the maximum that is in force to a Session; for an absent client it counts from when it left. The
   * Session of a connected client does not end before its connection. Returns the effect.
   */
  cap(session: Session): 'kept' | 'shortened' | 'ended' {
    const { sessionExpirySecondsMax: maximum } = this.#state.limits
    if (session.expirySeconds <= maximum) return 'kept'
    const ends = this.outlasts(session, maximum)
    session.expirySeconds = maximum
    if (ends) {
      this.#state.counters.clientsExpired++
      this.end(session, 'expired')
      return 'ended'
    }
    if (session.stored) this.#state.store.putSession(session.id, session.record())
    if (this.#state.connected.has(session)) return 'shortened'
    this.#cancelExpiry(session)
    this.scheduleExpiry(session)
    return 'shortened'
  }

  #cancelExpiry(session: Session): void {
    this.#state.deadlines.cancel(this.#state.sessionDeadlines.get(session) ?? null)
    this.#state.sessionDeadlines.delete(session)
  }

  /**
   * Ends a Session that has no Network Connection. Its Will is due now at the latest; messages of its Shared
   * Subscriptions go to other members.
   */
  end(session: Session, reason: BrokerEvents['sessionEnded']['reason']): void {
    const { sessions, sessionsById, events } = this.#state
    this.#cancelExpiry(session)
    this.#retained.cancel(session)
    this.#backlog.forget(session)
    this.#state.forgetSweep(session)
    this.#state.suspended.delete(session)
    this.#state.usage.sessionRemoved(session)
    this.#state.queues?.ended(session)
    session.ended = true
    sessions.delete(session.clientId)
    sessionsById.delete(session.id)
    if (!this.#state.stopping) this.#wills.sessionEnded(session.clientId, reason)
    this.#endedSessions.add(session)
    if (events.has('sessionEnded')) events.emit('sessionEnded', { clientId: session.clientId, reason })
  }
}
