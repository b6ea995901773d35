/**
 * Recovers the Server's state from the store: at a start, and after a full disk refused a commit. Memory is
 * then ahead of the disk, so everything that is stored is forgotten and read again.
 */
import { SESSION_NEVER_EXPIRES } from '../mqtt/packet.ts'
import { queueFlight, release } from '../session/queue-deliveries.ts'
import { Session } from '../session/session.ts'
import type { GroupState } from '../store/log-store.ts'
import { type OutboundState, type Recovered, type RecoveredSession, StoreError } from '../store/store.ts'
import type { BrokerClock } from './clock.ts'
import type { Durability } from './durability.ts'
import type { QueueRoom } from './queues/queue-room.ts'
import type { Parking } from './relief/parking.ts'
import { restingGroup } from './resting-group.ts'
import type { EndedSessions } from './sessions/ended-sessions.ts'
import type { ServerParts } from './sessions/server-parts.ts'
import type { Capped } from './sessions/session-cap.ts'
import type { ClientConnection, ServerState } from './state/server-state.ts'
import { addSubscription, removeSubscription } from './state/subscriptions.ts'

/** Time between two attempts to open a store whose disk is full. */
const REOPEN_MS = 1000

/** Subscriptions of one Session that are recovered between two looks at memory. */
const SUBSCRIPTIONS_LOOKED = 1024

/** The outcome of a recovery. */
interface TakenUp {
  readonly capped: Capped
  /** Sessions that the store has as connected. None of them is: the broker ended, or closed them all. */
  readonly left: readonly Session[]
  readonly count: number
}

/** Parts of the Server that recovery works with. */
export interface RecoveryParts {
  readonly server: ServerParts
  readonly endedSessions: EndedSessions
  readonly parking: Parking
  readonly clock: BrokerClock
  readonly durability: Durability
  /** Null where queues are not enabled. */
  readonly queues: QueueRoom | null
  /** Connections that are closed, but whose transport is still open. */
  readonly closing: ReadonlySet<ClientConnection>
}

/** Returns the id of a user's account; null if there is none. */
export type IdOf = (userName: string) => string | null

/** Opens the store, and reads it again after its disk was full. */
export class StoreRecovery {
  readonly #state: ServerState
  readonly #server: ServerParts
  readonly #parts: RecoveryParts
  readonly #fatal: (error: Error) => void
  #isUnderWay = false
  /** The failure that was handled last. */
  #latest: StoreError | null = null
  #idOf: IdOf = () => null
  /** Groups of the store where queues are not enabled, as they are written again. */
  readonly #resting = new Map<number, GroupState>()

  /** `fatal` is called if the store cannot be read again. */
  constructor(state: ServerState, parts: RecoveryParts, fatal: (error: Error) => void) {
    this.#state = state
    this.#server = parts.server
    this.#parts = parts
    this.#fatal = fatal
  }

  /** Whether the store is being read again after its disk was full. */
  get isUnderWay(): boolean {
    return this.#isUnderWay
  }

  /** Opens the store. Rejects with StoreError. */
  open(): Promise<Recovered> {
    return this.#state.store.open({
      now: () => this.#state.now(),
      wallNow: () => {
        this.#parts.clock.recorded()
        return this.#state.host.wallNow()
      },
      bootTime: () => this.#state.host.bootTime(),
      outbound: (sessionId): OutboundState | undefined => this.#state.sessionsById.get(sessionId),
      committed: () => this.#parts.durability.committed(),
      failed: (error) => this.failed(error),
      groups: { state: (group) => this.#parts.queues?.groupState(group) ?? this.#resting.get(group) },
    })
  }

  /**
   * Recovers the state that `open` returned. Resolves with the effects of `sessionExpirySecondsMax` on
   * Sessions, once they are durable. `idOf` is called for older stores, which kept only names of accounts.
   */
  async start(recovered: Recovered, idOf: IdOf): Promise<Capped> {
    this.#state.turn.begin()
    const { capped, left } = this.#takeUp(recovered)
    this.#idOf = idOf
    if (recovered.withoutOwnerIds === true) this.#ownByName()
    this.#recordLeft(left)
    if (capped.ended + capped.shortened > 0) {
      // A Session that was reported as ended must not come back after a crash.
      const durableAt = this.#state.store.openSequence
      this.#state.turn.end()
      await this.#parts.durability.durable(durableAt)
    }
    return capped
  }

  #ownByName(): void {
    const state = this.#state
    const names = [...state.sessions.values(), ...[...state.wills.values()].map(({ record }) => record)]
    const ids = new Map<string, string>()
    for (const userName of new Set(names.map(({ owner }) => owner))) {
      const userId = userName === null ? null : this.#idOf(userName)
      if (userName !== null && userId !== null) ids.set(userName, userId)
    }
    // Retained messages of such a store have no authors.
    if (ids.size > 0) this.adoptSessions(ids)
  }

  /** Makes the accounts with these ids, by user name, the owners of Sessions and Wills of those names. */
  adoptSessions(ids: ReadonlyMap<string, string>): void {
    const state = this.#state
    state.turn.begin()
    for (const session of state.sessions.values()) {
      const userId = session.owner === null ? undefined : ids.get(session.owner)
      if (userId !== undefined && session.ownerId !== userId) state.own(session, userId)
    }
    this.#server.wills.own(ids)
  }

  #takeUp(recovered: Recovered): TakenUp {
    const state = this.#state
    this.#resting.clear()
    if (this.#parts.queues !== null) this.#parts.queues.recover(recovered.logs)
    else
      for (const group of recovered.logs?.groups ?? []) this.#resting.set(group.number, restingGroup(group))
    for (const message of recovered.retained) {
      this.#server.publisher.retained.recover(message)
    }
    const sessions: Session[] = []
    const left: Session[] = []
    const pending: Session[] = []
    // One by one, so that the record of each is freed before the next is read.
    for (const each of recovered.sessions) {
      const session = this.#takeUpSession(each, pending, recovered.checkMemory)
      sessions.push(session)
      if (each.record.disconnectedAt === 0) left.push(session)
    }
    // The publisher's Session tells whose a message without an author is.
    for (const message of recovered.retained) state.usage.retained(message, null)
    if (pending.length > 0) this.#server.retainedDelivery.live.recover(recovered.retainedLive ?? [])
    for (const session of pending) this.#resumeRetained(session)
    // Ends Sessions only after all are recovered: another one may get the messages of their Shared
    // Subscriptions.
    const capped = { shortened: 0, ended: 0 }
    for (const session of sessions) {
      const outcome = this.#server.sessions.cap(session)
      if (outcome === 'kept') this.#endOrWait(session)
      else capped[outcome]++
    }
    // Recovers Wills after Sessions have ended that expired while the broker was down: their Wills get the
    // grace, too.
    for (const [clientId, record] of recovered.wills) {
      this.#server.wills.recover(clientId, record, state.sessions.get(clientId)?.expirySeconds ?? 0)
    }
    return { capped, left, count: sessions.length }
  }

  /** Recovers a Session. Adds it to `pending` if retained messages were under way to it. */
  #takeUpSession(recovered: RecoveredSession, pending: Session[], checkMemory?: () => void): Session {
    const state = this.#state
    const session = Session.recovered(state, recovered)
    state.usage.sessionAdded(session, null)
    state.sessions.set(session.clientId, session)
    state.sessionsById.set(session.id, session)
    state.nextSessionId = Math.max(state.nextSessionId, session.id + 1)
    let isPending = false
    let count = 0
    for (const [filter, record] of session.subscriptions) {
      if (++count % SUBSCRIPTIONS_LOOKED === 0) checkMemory?.()
      addSubscription(state, session, filter, record)
      state.usage.subscriptionAdded(session, filter)
      isPending ||= record.retainedPending === true
    }
    if (isPending) pending.push(session)
    this.#recoverFlight(session)
    this.#server.backlog.recovered(session)
    // The client was connected at the last durable commit. How long it stayed after that is unknown, so the
    // Session's time begins now.
    if (session.disconnectedAt === 0) session.disconnectedAt = state.now()
    return session
  }

  /** Tells queues what the Session has of them; without queues, it has nothing. */
  #recoverFlight(session: Session): void {
    const { queues } = this.#state
    if (queues !== null) queues.recovered(session)
    else for (const { packetId } of [...queueFlight(session)]) release(session, packetId)
  }

  /**
   * Records when clients lost their connections, in a crash or to a full disk. Otherwise the next crash would
   * put off the expiry of their Sessions [MQTT-4.1.0-2].
   */
  #recordLeft(left: readonly Session[]): void {
    const { sessionsById, store } = this.#state
    for (const session of left) {
      // The Session may have ended, with its messages still being passed on.
      const isThere = this.#state.sessions.get(session.clientId) === session
      if (isThere && sessionsById.get(session.id) === session) store.putSession(session.id, session.record())
    }
  }

  #endOrWait(session: Session): void {
    const state = this.#state
    const ended =
      session.expirySeconds !== SESSION_NEVER_EXPIRES &&
      this.#server.sessions.endsAt(session, session.expirySeconds) <= state.now()
    if (ended) this.#server.sessions.end(session, 'expired')
    else this.#server.sessions.scheduleExpiry(session)
  }

  /**
   * Starts the retained messages of Subscriptions again that a crash cut off, for when the client is back.
   */
  #resumeRetained(session: Session): void {
    for (const [filter, record] of session.subscriptions) {
      if (record.retainedPending !== true) continue
      const { retainedPending: _, retainedSince = 0, ...plain } = record
      session.subscriptions.set(filter, plain)
      this.#server.retainedDelivery.restart(session, { filter, ...plain }, record.identifier, retainedSince)
    }
  }

  /**
   * Handles a failed read or commit: reads the store again if its disk was full. Any other failure is fatal,
   * and so is any failure while the store is being read again.
   */
  failed(cause: unknown): void {
    const error =
      cause instanceof StoreError ? cause : new StoreError('io', String(cause), 'See the log.', { cause })
    // The store tells it, and so does whoever waited for it.
    if (error === this.#latest) return
    this.#latest = error
    this.#state.events.emit('storeFailed', { error })
    this.#parts.durability.failed(error)
    // After a full disk, the state on disk is known to be good. After an I/O error nothing is certain.
    if (error.kind !== 'full' || this.#isUnderWay) {
      this.#fatal(error)
      return
    }
    this.#isUnderWay = true
    this.#rebuild().then(
      () => {
        this.#isUnderWay = false
      },
      (reason: unknown) => this.#fatal(reason instanceof Error ? reason : new Error(String(reason))),
    )
  }

  /** Forgets everything that is stored and reads it again, since memory is ahead of the disk. */
  async #rebuild(): Promise<void> {
    const state = this.#state
    state.turn.begin()
    this.#server.publisher.finish()
    state.unavailable = 'the store is being read again after the disk was full'
    this.#parts.parking.stop()
    const live = new Set(state.wills.keys())
    for (const { clientId } of state.sessionsById.values()) live.delete(clientId)
    for (const connection of [...state.connections, ...this.#parts.closing]) connection.storeLost()
    this.#parts.queues?.lost()
    this.#parts.durability.forget()
    const suspended = [...state.suspended].map(
      ([{ clientId }, filters]) => [clientId, [...filters.keys()]] as const,
    )
    this.#parts.endedSessions.forgetStored()
    for (const session of [...state.sessionsById.values()]) this.#forget(session)
    state.retainedExpiry.clear()
    state.forgetRetained()
    for (const [clientId, { deadline }] of [...state.wills]) {
      if (live.has(clientId)) continue
      state.deadlines.cancel(deadline)
      this.#server.wills.forget(clientId)
    }
    await state.store.close()
    for (const session of state.sessions.values()) {
      for (const message of session.held()) if ('size' in message) state.store.held.lost(message)
    }
    const recovered = await this.#openAgain()
    state.turn.begin()
    const { left, count } = this.#takeUp({
      ...recovered,
      wills: recovered.wills.filter(([clientId]) => !live.has(clientId)),
    })
    if (recovered.withoutOwnerIds === true) this.#ownByName()
    for (const [clientId, filters] of suspended) this.#suspendAgain(clientId, filters)
    for (const clientId of live) this.#server.wills.reassert(clientId)
    this.#recordLeft(left)
    state.unavailable = null
    this.#parts.queues?.configureAgain()
    for (const connection of [...state.paused]) connection.resume()
    state.events.emit('storeRecovered', { sessions: count })
  }

  /** Opens the store, and tries again until there is room: a full disk may prevent even that. */
  async #openAgain(): Promise<Recovered> {
    for (;;) {
      try {
        return await this.open()
      } catch (error) {
        if (!(error instanceof StoreError) || error.kind !== 'full') throw error
      }
      await new Promise<void>((resolve) => {
        this.#state.deadlines.at(this.#state.now() + REOPEN_MS, resolve)
      })
    }
  }

  /** Suspends Subscriptions again that the policy had denied before. */
  #suspendAgain(clientId: string, filters: readonly string[]): void {
    const session = this.#state.sessions.get(clientId)
    if (session === undefined) return
    for (const filter of filters) {
      if (session.subscriptions.has(filter)) this.#server.subscribing.suspend(session, filter)
    }
  }

  #forget(session: Session): void {
    const state = this.#state
    state.suspended.delete(session)
    state.deadlines.cancel(state.sessionDeadlines.get(session) ?? null)
    state.sessionDeadlines.delete(session)
    this.#server.retainedDelivery.cancel(session)
    this.#server.backlog.forget(session)
    state.forgetSweep(session)
    const connection = state.connected.get(session)
    if (connection !== undefined) state.usage.detached(session, connection)
    state.connected.delete(session)
    state.usage.sessionRemoved(session)
    for (const filter of session.subscriptions.keys()) removeSubscription(state, session, filter)
    session.consumers = null
    session.detach()
    session.forget()
    if (state.sessions.get(session.clientId) === session) state.sessions.delete(session.clientId)
    state.sessionsById.delete(session.id)
  }
}
