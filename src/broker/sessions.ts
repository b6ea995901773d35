/** The life of Sessions (section 4.1): made, resumed, taken over, left, expired, ended. */
import { SESSION_NEVER_EXPIRES } from '../mqtt/packet.ts'
import { Session, type Undelivered } from '../session/session.ts'
import type { BrokerEvents } from './events.ts'
import type { LinkInfo } from './link.ts'
import { ownerInWords, ownerOf, ownershipOf } from './ownership.ts'
import type { Owner } from './policy.ts'
import type { Publisher } from './publish.ts'
import type { RetainedDelivery } from './retained.ts'
import type { ShareBacklog } from './share-backlog.ts'
import type { ClientConnection, State } from './state.ts'
import type { Usage } from './usage.ts'
import type { Wills } from './wills.ts'

const SESSION_ID_MAX = 0xffffffff

/** How much is read back at a time to be passed on: messages, and bytes. */
const READ_SLICE = 256
const READ_BYTES = 1024 * 1024

export interface OpenRequest {
  readonly clientId: string
  readonly user: Owner
  readonly cleanStart: boolean
  readonly expirySeconds: number
  /** Of the Network Connection that asks, and the Usage of its address. */
  readonly link: LinkInfo
  readonly address: Usage
}

export interface OpenedSession {
  readonly session: Session
  readonly present: boolean
}

export class Sessions {
  readonly #state: State
  readonly #publisher: Publisher
  readonly #wills: Wills
  readonly #retained: RetainedDelivery
  readonly #backlog: ShareBacklog

  constructor(
    state: State,
    publisher: Publisher,
    wills: Wills,
    retained: RetainedDelivery,
    backlog: ShareBacklog,
  ) {
    this.#state = state
    this.#publisher = publisher
    this.#wills = wills
    this.#retained = retained
    this.#backlog = backlog
  }

  /**
   * Opens the Session of an accepted CONNECT: takes an old Network Connection's place [MQTT-3.1.4-3], processes
   * Clean Start [MQTT-3.1.4-4]. Synchronous, so that takeover has no race. The caller attaches its connection.
   */
  open(request: OpenRequest): OpenedSession {
    const { clientId } = request
    const old = this.#state.sessions.get(clientId)
    if (old !== undefined) this.#takeOver(old, request.link)
    this.#endOwnerless(request, old)
    // Taken over, a Session that ends with its Network Connection has ended.
    const existing = this.#state.sessions.get(clientId)
    if (existing !== undefined && !request.cleanStart)
      return { session: this.#resume(existing, request), present: true }
    if (existing !== undefined) this.end(existing, 'clean-start')
    // A Will that waits although its Session is gone (after a restart): the client is back, it is not lost.
    this.#wills.discard(clientId)
    return { session: this.#create(request), present: false }
  }

  /**
   * What an anonymous client, or a user that is gone, left under this Client Identifier is not for the user who comes:
   * its Session, its queue and its Will end now. `old` may have ended with its Network Connection already.
   */
  #endOwnerless({ clientId, user }: OpenRequest, old: Session | undefined): void {
    const { sessions, wills, policy, figures, events } = this.#state
    const owned = old ?? wills.get(clientId)?.record
    if (owned === undefined || ownershipOf(policy, ownerOf(owned), user) !== 'nobody') return
    const existing = sessions.get(clientId)
    const held =
      existing === undefined
        ? ''
        : `; Subscriptions: ${existing.subscriptions.size}, messages: ${existing.queueLength + existing.inFlightCount}`
    if (existing === undefined) this.#wills.publishNow(clientId)
    else this.end(existing, 'ownerless')
    figures.ownerlessSessionsEnded++
    if (!events.has('security')) return
    const detail = `of ${ownerInWords(ownerOf(owned), user)}${held}`
    const by = user.userName ?? 'anonymous'
    events.emit('security', { kind: 'ownerless-session-ended', subject: clientId, by, detail })
  }

  /** What was left under this Client Identifier and is over ends now, if it is not done yet: whoever comes finds none of it. */
  settle(clientId: string): void {
    const { sessions, sessionDeadlines, wills, deadlines } = this.#state
    const session = sessions.get(clientId)
    if (session !== undefined) deadlines.settle(sessionDeadlines.get(session) ?? null)
    deadlines.settle(wills.get(clientId)?.deadline ?? null)
  }

  #takeOver(old: Session, by: LinkInfo): void {
    const connection = this.#state.connected.get(old)
    if (connection === undefined) return
    connection.takenOver(by)
    // It may have said DISCONNECT meanwhile.
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

  /** Ties a Network Connection to its Session. The CONNACK is already in the connection's output. */
  attach(session: Session, connection: ClientConnection): void {
    this.#state.connected.set(session, connection)
    this.#state.usage.attached(session, connection.address)
  }

  /**
   * The Network Connection of a Session ended. `how` says what becomes of the Will: 'normal' discards it
   * [MQTT-3.14.4-3], 'lost' publishes it in its time.
   */
  left(session: Session, asked: number, how: 'normal' | 'lost'): void {
    const { clientId } = session
    if (this.#state.connected.delete(session)) this.#state.usage.detached(session)
    session.detach()
    // The maximum may have become less since CONNECT.
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
      this.#state.figures.clientsExpired++
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
    const time = disconnectedAt + expirySeconds * 1000
    return this.#state.isBeforeDoubt(disconnectedAt) ? this.#state.heldUntil(time) : time
  }

  /** So many ms after `since` did not pass: clients that were away then left later. */
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
   * Holds a Session to the maximum that is in force: an absent client's counts from when it left. False where it does already.
   * The Session of a client that is connected ends no sooner than its connection.
   */
  cap(session: Session): 'kept' | 'shortened' | 'ended' {
    const { sessionExpirySecondsMax: maximum } = this.#state.limits
    if (session.expirySeconds <= maximum) return 'kept'
    const ends = this.outlasts(session, maximum)
    session.expirySeconds = maximum
    if (ends) {
      this.#state.figures.clientsExpired++
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

  /** Ends a Session that has no Network Connection: its Will is due at the latest now, its shares go to others. */
  end(session: Session, reason: BrokerEvents['sessionEnded']['reason']): void {
    const { store, router, sessions, sessionsById, events } = this.#state
    this.#cancelExpiry(session)
    this.#retained.cancel(session)
    this.#backlog.forget(session)
    this.#state.forgetSweep(session)
    this.#state.suspended.delete(session)
    this.#state.usage.sessionRemoved(session)
    if (session.subscriptions.size > 0) {
      for (const filter of session.subscriptions.keys()) router.unsubscribe(session, filter)
      session.subscriptions.clear()
    }
    sessions.delete(session.clientId)
    if (!this.#state.stopping) this.#wills.sessionEnded(session.clientId, reason)
    sessionsById.delete(session.id)
    const isEmpty = session.queueLength === 0 && session.inFlightCount === 0
    if (!isEmpty && !this.#passOn(session, session.undelivered())) {
      this.#keepEstate(session)
    } else {
      if (session.stored) store.deleteSession(session.id, session.held())
      session.forget()
    }
    if (events.has('sessionEnded')) events.emit('sessionEnded', { clientId: session.clientId, reason })
  }

  /**
   * Messages of Shared Subscriptions that the ended Session did not get go to another member, but for QoS 2 in
   * delivery [MQTT-4.8.2-5]. Everything else is lost with the Session, and counted. False where a body has to be read
   * from the disk for a member that is not stored: what is left goes on when it is there, in the same order.
   */
  #passOn(session: Session, rest: Iterator<Undelivered>): boolean {
    this.#publisher.gate = session.stored ? this.#state.store.openSequence : 0
    const waiting: Undelivered[] = []
    let bytes = 0
    while (bytes < READ_BYTES && waiting.length < READ_SLICE) {
      const step = rest.next()
      if (step.done === true) break
      if (waiting.length === 0 && !this.#needsBody(step.value)) {
        this.#passOne(session, step.value)
        continue
      }
      waiting.push(step.value)
      bytes += step.value.delivery.message.size
    }
    if (waiting.length === 0) return true
    this.#readAndPassOn(session, waiting, rest)
    return false
  }

  #passOne(session: Session, { delivery, mayGoToOthers, count }: Undelivered): void {
    const { message, share } = delivery
    const group = share !== null && mayGoToOthers ? this.#state.router.shareGroup(share) : null
    if (group === null) this.#state.drop(session.clientId, 'session-ended', message, count)
    else if (message.expiresAt <= this.#state.now() && !this.#state.isDoubtful(message))
      this.#state.drop(session.clientId, 'expired', message)
    else if (this.#publisher.deliverShared(group, message)) message.forgetWires()
  }

  /** Whether all who could take it can only take it from memory. */
  #needsBody({ delivery: { message, share }, mayGoToOthers }: Undelivered): boolean {
    if (!message.evicted || share === null || !mayGoToOthers) return false
    const group = this.#state.router.shareGroup(share)
    return (
      group !== null &&
      group.members.length > 0 &&
      group.members.every(({ subscriber }) => !subscriber.stored)
    )
  }

  #readAndPassOn(session: Session, waiting: readonly Undelivered[], rest: Iterator<Undelivered>): void {
    const { store, sessionsById } = this.#state
    const isKept = (): boolean => sessionsById.get(session.id) === session && !this.#state.stopping
    const evicted = waiting.map(({ delivery }) => delivery.message).filter((message) => message.evicted)
    store.restore(evicted).then(
      () => {
        if (!isKept()) return
        this.#state.turn.begin()
        this.#publisher.gate = store.openSequence
        for (const undelivered of waiting) this.#passOne(session, undelivered)
        if (!this.#passOn(session, rest)) return
        sessionsById.delete(session.id)
        store.deleteSession(session.id, session.held())
        session.forget()
      },
      (error: unknown) => {
        if (isKept()) this.#state.storeFailed(error)
      },
    )
  }

  /**
   * An ended Session whose messages are still being passed on stays stored until that is done, under a name that no
   * client can have: after a crash it ends again.
   */
  #keepEstate(session: Session): void {
    this.#state.sessionsById.set(session.id, session)
    const record = { ...session.record(), clientId: `\0ended ${session.id}`, expirySeconds: 0 }
    this.#state.store.putSession(session.id, record)
  }
}
