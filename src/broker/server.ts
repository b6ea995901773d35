/** The Server: accepts Network Connections, wakes up with what was stored, keeps time, and stops without loss. */
import { Message, type MessageFields } from '../mqtt/message.ts'
import { SESSION_NEVER_EXPIRES, type SubscriptionOptions } from '../mqtt/packet.ts'
import { Reason } from '../mqtt/reason.ts'
import { Session } from '../session/session.ts'
import { type OutboundState, type Recovered, type RecoveredSession, StoreError } from '../store/store.ts'
import { ChurnMap } from '../structures/churn-map.ts'
import { COSTS, topicsBytes } from './accounts/costs.ts'
import { REFUSED } from './accounts/rates.ts'
import type { BanKind } from './boundary/bans.ts'
import type { Health, Limit } from './boundary/events.ts'
import type { Limits } from './boundary/limits.ts'
import type { Acceptor, Link, LinkHandler } from './boundary/link.ts'
import type { Policy } from './boundary/policy.ts'
import { BrokerClock } from './clock.ts'
import { Connection } from './connection/connection.ts'
import { Inventory } from './inventory.ts'
import { type LocalHandler, localSession } from './messages/local-subscriber.ts'
import { Publisher } from './messages/publisher.ts'
import { RetainedDelivery } from './messages/retained.ts'
import { Wills } from './messages/wills.ts'
import { beyondLimits } from './relief/beyond.ts'
import { DiskRelief } from './relief/disk-relief.ts'
import { KeptRelief } from './relief/kept-relief.ts'
import { Parking } from './relief/parking.ts'
import { addressExcess } from './relief/quotas.ts'
import { Relief } from './relief/relief.ts'
import { ShareBacklog } from './relief/share-backlog.ts'
import { Estates } from './sessions/estates.ts'
import { type Lost, Reauthorization, type Reauthorized } from './sessions/reauthorization.ts'
import type { Rooms } from './sessions/server-parts.ts'
import { type Capped, SessionCap } from './sessions/session-cap.ts'
import { Sessions } from './sessions/sessions.ts'
import { Subscribing } from './sessions/subscribe.ts'
import { type ClientConnection, type CommitWaiter, State, type StateOptions } from './state/state.ts'
import { SLICE_UNITS, UNITS } from './state/work.ts'

const MEMORY_SAMPLE_MS = 1000
/** The share of `memoryBytesMax` that may come in before memory is looked at once more, and the least of it in bytes. */
const LOOK_SHARE = 1 / 32
const LOOK_BYTES_MIN = 1024 * 1024
/** The share of `memoryBytesMax` that topic names may take which are remembered. */
const TOPICS_SHARE = 1 / 16
/** Topics that are looked at with it, for Routes that hold no more: 0.1 ms, and half a minute for a full table. */
const TOPICS_SWEPT = 4096
const TOPICS_AT_ONCE = 16

/**
 * Connections beyond `connectionsMax` that have not been let in yet: each may take an old connection of its own client over,
 * which shows when it is known who it is. Else it is told why it is refused.
 */
const SURPLUS_MAX = 64

/**
 * Connections of clients whose certificate does not do, which are read as far as CONNECT to be told so. They take no places of
 * others, and more of them are cut off at once.
 */
const UNCERTIFIED_MAX = 64

/** When a store is opened again whose disk was too full for it. */
const REOPEN_MS = 1000

/** The ticker calls at least once a second. What took longer, in ms, was the process: stopped, or its machine paused. */
const STANDSTILL_MS = 2000

/** Passes of the event loop in which a client that had come back meanwhile is accepted, read from and let in. */
const STANDSTILL_PASSES = 8

/** Subscriptions of one Session that are taken up between two looks at memory. */
const SUBSCRIPTIONS_LOOKED = 1024

/** What was taken up from the store. */
interface TakenUp {
  readonly capped: Capped
  /** Sessions whose clients were connected when the broker ended. */
  readonly left: readonly Session[]
  readonly count: number
}

/** What a commit releases is written for so long in one turn, about 5 ms. */
const RELEASE_UNITS = 5 * SLICE_UNITS

/** A promise's ends, for a commit that somebody waits for. */
interface Waiter {
  readonly gate: number
  resolve(): void
  reject(error: Error): void
}

export class Server implements Acceptor {
  readonly state: State
  readonly inventory: Inventory
  readonly relief: Relief
  readonly diskRelief: DiskRelief
  readonly keptRelief: KeptRelief
  readonly #rooms: Rooms
  readonly #estates: Estates
  readonly #clock: BrokerClock
  readonly #reauthorization: Reauthorization
  readonly #cap: SessionCap
  readonly #parking: Parking
  /** Connections whose transport is still there, closing ones included. */
  readonly #links = new Set<ClientConnection>()
  /** Those among them whose certificate does not do. */
  readonly #uncertified = new Set<ClientConnection>()
  readonly #waiters: Waiter[] = []
  readonly #releaseWaiters: CommitWaiter = { committed: (sequence) => this.#resolveWaiters(sequence) }
  readonly #fatal: (error: Error) => void
  #memorySampledAt = Number.NEGATIVE_INFINITY
  /** When `tick` was called last, in broker time. */
  #tickedAt = Number.POSITIVE_INFINITY
  /** Those whose output a commit releases, while that takes several turns; and whether another one came meanwhile. */
  #released: Iterator<CommitWaiter> | null = null
  #isReleaseDue = false
  /** True from `tick` until what is due was judged. */
  #judging = false
  /** What is due goes on in the next turn. */
  #runningDue = false
  #closed = false
  #looking = false
  #recovering = false
  #healthBefore: Health['state'] = 'ok'
  #whenEmpty: (() => void) | null = null
  /** The id of the account of a name; null where it has none. */
  #idOf: (userName: string) => string | null = () => null

  /** `fatal` is called once when the Server cannot go on; the process should end with 1. */
  constructor(options: StateOptions, fatal: (error: Error) => void) {
    this.state = new State(options)
    this.#fatal = fatal
    this.state.storeFailed = (error) => this.#storeFailed(error)
    this.state.look = () => this.#lookSoon()
    const retained = new RetainedDelivery(this.state)
    const backlog = new ShareBacklog(this.state)
    this.state.headDropped = (session) => backlog.headDropped(session)
    this.relief = new Relief(this.state, backlog)
    this.diskRelief = new DiskRelief(this.state)
    this.keptRelief = new KeptRelief(this.state)
    const publisher = new Publisher(this.state, retained, backlog, this.diskRelief, this.keptRelief)
    const wills = new Wills(this.state, publisher)
    this.#estates = new Estates(this.state, publisher)
    this.#rooms = {
      publisher,
      wills,
      retained,
      backlog,
      sessions: new Sessions(this.state, this.#estates, wills, retained, backlog),
      relief: this.relief,
      diskRelief: this.diskRelief,
      keptRelief: this.keptRelief,
      subscribing: new Subscribing(this.state, retained, backlog, this.keptRelief),
      connections: this.state.connections,
      gone: (connection) => this.#gone(connection),
    }
    this.#clock = new BrokerClock(this.state, this.#rooms)
    this.#reauthorization = new Reauthorization(this.state, this.#rooms.subscribing)
    this.#parking = new Parking(this.state)
    this.#cap = new SessionCap(this.state, this.#rooms.sessions)
    this.inventory = new Inventory(this.state, this.#rooms, (gate) => this.#durable(gate))
  }

  /** Open Network Connections, also those that have not sent CONNECT yet. */
  get connectionCount(): number {
    return this.state.connections.size
  }

  /** Subscriptions that are kept, and that their users may not have at the moment. */
  get suspendedCount(): number {
    let count = 0
    for (const filters of this.state.suspended.values()) count += filters.size
    return count
  }

  /** Deliveries of retained messages that are under way. */
  get retainedDeliveries(): number {
    return this.#rooms.retained.size
  }

  // ── start ─────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Opens the store and takes up everything where it was left; returns what it has to say. `idOf` answers the id of the account
   * of a name, for stores that did not keep it: the name was all there was. Throws StoreError.
   */
  async start(idOf: (userName: string) => string | null = () => null): Promise<string | undefined> {
    const recovered = await this.#openStore()
    this.#clock.start(recovered)
    this.#tickedAt = this.state.clock
    this.state.turn.begin()
    const { capped, left } = this.#takeUp(recovered)
    this.#idOf = idOf
    if (recovered.withoutOwnerIds === true) this.#ownByName()
    this.#recordLeft(left)
    if (capped.ended + capped.shortened > 0) {
      // What is told to have ended must not be there again after a crash.
      const gate = this.state.store.openSequence
      this.state.turn.end()
      await this.#durable(gate)
    }
    const beyond = this.beyondBy(this.state.limits)
    const notices = [recovered.notice, this.#clock.notice, cappedNotice(capped), ...beyond].filter(
      (text) => text !== undefined,
    )
    return notices.length === 0 ? undefined : notices.join(' ')
  }

  #ownByName(): void {
    const { state } = this
    const names = [...state.sessions.values(), ...[...state.wills.values()].map(({ record }) => record)]
    const ids = new Map<string, string>()
    for (const userName of new Set(names.map(({ owner }) => owner))) {
      const userId = userName === null ? null : this.#idOf(userName)
      if (userName !== null && userId !== null) ids.set(userName, userId)
    }
    // Retained messages of such a store have no authors.
    if (ids.size > 0) this.#adoptSessions(ids)
  }

  /** What is kept for users of these names, whoever they were, is of the accounts with these ids from now on. */
  adopt(ids: ReadonlyMap<string, string>): void {
    this.#adoptSessions(ids)
    this.#rooms.publisher.ownRetained(ids)
  }

  #adoptSessions(ids: ReadonlyMap<string, string>): void {
    const { state } = this
    state.turn.begin()
    for (const session of state.sessions.values()) {
      const userId = session.owner === null ? undefined : ids.get(session.owner)
      if (userId !== undefined && session.ownerId !== userId) state.own(session, userId)
    }
    this.#rooms.wills.own(ids)
  }

  #openStore(): Promise<Recovered> {
    return this.state.store.open({
      now: () => this.state.now(),
      wallNow: () => {
        this.#clock.recorded()
        return this.state.host.wallNow()
      },
      bootTime: () => this.state.host.bootTime(),
      outbound: (sessionId): OutboundState | undefined => this.state.sessionsById.get(sessionId),
      committed: () => this.#committed(),
      failed: (error) => this.#storeFailed(error),
    })
  }

  #takeUp(recovered: Recovered): TakenUp {
    const { state } = this
    for (const message of recovered.retained) {
      this.#rooms.publisher.recoverRetained(message)
    }
    const sessions: Session[] = []
    const left: Session[] = []
    const pending: Session[] = []
    // One by one, so that what recovery knows of each is gone before the next.
    for (const each of recovered.sessions) {
      const session = this.#takeUpSession(each, pending, recovered.checkMemory)
      sessions.push(session)
      if (each.record.disconnectedAt === 0) left.push(session)
    }
    // Whose a message without an author is, its publisher's Session says.
    for (const message of recovered.retained) state.usage.retained(message, null)
    if (pending.length > 0) this.#rooms.retained.recovered(recovered.retainedLive ?? [])
    for (const session of pending) this.#resumeRetained(session)
    // All of them are there before the first one ends: its share of messages may be for the last.
    const capped = { shortened: 0, ended: 0 }
    for (const session of sessions) {
      const outcome = this.#rooms.sessions.cap(session)
      if (outcome === 'kept') this.#endOrWait(session)
      else capped[outcome]++
    }
    // Wills come after the Sessions that ended while the broker was down: the grace holds for them too.
    for (const [clientId, record] of recovered.wills) {
      this.#rooms.wills.recover(clientId, record, state.sessions.get(clientId)?.expirySeconds ?? 0)
    }
    return { capped, left, count: sessions.length }
  }

  /** Adds the Session to `pending` when retained messages were under way to it. */
  #takeUpSession(recovered: RecoveredSession, pending: Session[], checkMemory?: () => void): Session {
    const { state } = this
    const session = Session.recovered(state, recovered)
    state.usage.sessionAdded(session, null)
    state.sessions.set(session.clientId, session)
    state.sessionsById.set(session.id, session)
    state.nextSessionId = Math.max(state.nextSessionId, session.id + 1)
    let isPending = false
    let count = 0
    for (const [filter, record] of session.subscriptions) {
      if (++count % SUBSCRIPTIONS_LOOKED === 0) checkMemory?.()
      state.router.subscribe(session, filter, record, record.identifier)
      state.usage.subscriptionAdded(session, filter)
      isPending ||= record.retainedPending === true
    }
    if (isPending) pending.push(session)
    this.#rooms.backlog.recovered(session)
    // Connected when the broker ended, which may have been long after its last commit: at the latest it was left now.
    if (session.disconnectedAt === 0) session.disconnectedAt = state.now()
    return session
  }

  /** When Sessions were left in a crash does not change with the next one, or they would never expire [MQTT-4.1.0-2]. */
  #recordLeft(left: readonly Session[]): void {
    const { sessionsById, store } = this.state
    for (const session of left) {
      // It may have ended, and what it had may still be passed on.
      const isThere = this.state.sessions.get(session.clientId) === session
      if (isThere && sessionsById.get(session.id) === session) store.putSession(session.id, session.record())
    }
  }

  #endOrWait(session: Session): void {
    const { state } = this
    const ended =
      session.expirySeconds !== SESSION_NEVER_EXPIRES &&
      this.#rooms.sessions.endsAt(session, session.expirySeconds) <= state.now()
    if (ended) this.#rooms.sessions.end(session, 'expired')
    else this.#rooms.sessions.scheduleExpiry(session)
  }

  /** A crash cut off the retained messages of a Subscription: they begin again when the client is back. */
  #resumeRetained(session: Session): void {
    for (const [filter, record] of session.subscriptions) {
      if (record.retainedPending !== true) continue
      const { retainedPending: _, retainedSince = 0, ...plain } = record
      session.subscriptions.set(filter, plain)
      this.#rooms.retained.restart(session, { filter, ...plain }, record.identifier, retainedSince)
    }
  }

  // ── connections ───────────────────────────────────────────────────────────────────────────────────────────

  accept(link: Link): LinkHandler | null {
    const { state } = this
    if (state.stopping) return null
    if (!state.bans.sparesAddresses && this.refusesAddress(link.info.remoteAddress)) return null
    const { certificateRefusal } = link.info
    const uncertified = this.#uncertified.size
    if (certificateRefusal !== undefined && uncertified >= UNCERTIFIED_MAX) {
      state.figures.connectionsRefused++
      const reasonCode = Reason.NotAuthorized
      state.events.emit('refused', { clientId: '', link: link.info, reasonCode, reason: certificateRefusal })
      return null
    }
    const { connectionsMax } = state.limits
    // Who waits at log-in because of others is bounded by the queue, and takes no place from those who do not.
    const besides = SURPLUS_MAX + uncertified + state.loginQueue.length
    const isFull = this.state.connections.size >= connectionsMax + besides
    // Those that are about to be closed hold a socket for a moment: a fleet that comes back at once finds its places free.
    if (isFull || this.#links.size >= 2 * connectionsMax + besides) {
      const open = `${this.state.connections.size} Network Connections, ${this.#links.size} with those that are closing`
      this.turnedAway(`${open}; connections_max is ${connectionsMax}; refused ${link.info.remoteAddress}`)
      return null
    }
    const full = addressExcess(state, link.info, SURPLUS_MAX)
    if (full !== null) {
      this.turnedAway(`${full.detail}; refused ${link.info.remoteAddress}`, full.limit)
      return null
    }
    const wait = state.rates.accepted(link.info.remoteAddress)
    if (wait === REFUSED) {
      const { remoteAddress } = link.info
      state.figures.connectionsRefused++
      state.limited(
        'connectRatePerAddressMax',
        '',
        `more connections in a second than is allowed: ${remoteAddress}`,
      )
      return null
    }
    state.turn.begin()
    state.figures.connectionsAccepted++
    const connection = new Connection(state, this.#rooms, link)
    if (wait > 0) connection.waitFor(wait)
    this.state.connections.add(connection)
    this.#links.add(connection)
    if (certificateRefusal !== undefined) this.#uncertified.add(connection)
    state.doorway.came(connection)
    if (state.events.has('opened')) state.events.emit('opened', { link: link.info })
    return connection
  }

  /** Whether an address is banned; a peer that is turned away for it is counted and told. */
  refusesAddress(remoteAddress: string): boolean {
    const ban = this.state.bans.ofAddress(remoteAddress)
    if (ban === null) return false
    this.state.figures.connectionsRefused++
    this.state.limited('bans', '', `${ban.subject} is banned; refused ${remoteAddress}`)
    return true
  }

  /** Ends the Network Connections of those who are banned, after bans of these kinds were added; how many. */
  enforceBans(kinds: readonly BanKind[]): number {
    const { bans } = this.state
    const [ofClients, ofUsers, ofAddresses] = (['client', 'user', 'address'] as const).map((kind) =>
      kinds.includes(kind),
    )
    this.state.turn.begin()
    let ended = 0
    for (const connection of [...this.state.connections]) {
      const { clientId, userName, link } = connection.view
      const ban =
        (ofClients ? bans.ofClient(clientId) : null) ??
        (ofUsers ? bans.ofUser(userName ?? '') : null) ??
        (ofAddresses ? bans.ofAddress(link.remoteAddress) : null)
      if (ban === null) continue
      const what = ban.kind === 'client' ? 'Client Identifier' : ban.kind
      connection.disconnect(Reason.Banned, `the ${what} is banned`)
      ended++
    }
    return ended
  }

  /** Counts and tells a peer that a transport had to cut off before it was a Link, since there was no room for one more. */
  turnedAway(reason: string, limit: Limit = 'connectionsMax'): void {
    this.state.figures.connectionsRefused++
    this.state.limited(limit, '', reason)
  }

  #gone(connection: ClientConnection): void {
    this.#links.delete(connection)
    this.#uncertified.delete(connection)
    this.state.usage.closed(connection)
    if (this.#links.size === 0) this.#whenEmpty?.()
  }

  /**
   * From now on this policy holds, also for what it would have decided otherwise before: see `Reauthorization`. What
   * let in `lost` does not hold any more: the names of users, or whoever it says yes to.
   */
  usePolicy(policy: Policy, lost: Lost = new Set()): void {
    this.state.policy = policy
    this.#reauthorization.start(lost)
  }

  /** What the latest change of the policy did, once every Session was looked at. */
  reauthorized(): Promise<Reauthorized> {
    return this.#reauthorization.finished()
  }

  /** Whether Subscriptions are still being looked at after a change of the policy. */
  get reauthorizing(): boolean {
    return this.#reauthorization.underWay
  }

  /** Holds the Sessions that are there to `sessionExpirySecondsMax`, after it became less; what came of it. */
  async capSessions(): Promise<Capped> {
    const capped = await this.#cap.run()
    if (capped.ended + capped.shortened === 0) return capped
    try {
      // What is told to have ended must not be there again after a crash.
      await this.#durable(this.state.store.openSequence)
    } catch (error) {
      // The store is read again, and holds its Sessions to the maximum then.
      if (!(error instanceof StoreError && error.kind === 'full')) throw error
    }
    return capped
  }

  /** What `capSessions` would do with this maximum. */
  cappedBy(sessionExpirySecondsMax: number): Capped {
    return this.#cap.preview(sessionExpirySecondsMax)
  }

  /** What is there beyond these limits, as sentences: it stays. */
  beyondBy(limits: Limits): readonly string[] {
    return beyondLimits(this.state, limits)
  }

  /** Ends the Network Connection of a client; false when it has none. */
  disconnect(clientId: string, reasonCode: Reason, reason: string): boolean {
    const session = this.state.sessions.get(clientId)
    const connection = session === undefined ? undefined : this.state.connected.get(session)
    if (connection === undefined) return false
    this.state.turn.begin()
    connection.disconnect(reasonCode, reason)
    return true
  }

  // ── time ──────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Milliseconds until `tick` has something to do, as far as is known now; at most a second. `soon` is called when it may be
   * less than was said.
   */
  get idleMs(): number {
    const { state } = this
    if (this.#judging || this.#runningDue) return MEMORY_SAMPLE_MS
    const { nextTime } = state.retainedExpiry
    const due = Math.min(state.deadlines.nextTime, nextTime, this.#memorySampledAt + MEMORY_SAMPLE_MS)
    return Math.max(0, Math.min(due - state.clock, MEMORY_SAMPLE_MS))
  }

  set onEarlierDeadline(callback: () => void) {
    this.state.deadlines.sooner = callback
    this.state.retainedExpiry.sooner = callback
  }

  /**
   * Sees to what is due, and looks at memory once a second. The host calls it after `idleMs`, or every now and then. What is
   * due is judged after the input that is there was read: a client whose PINGREQ or CONNECT the kernel has is not late, the
   * process is.
   */
  tick(): void {
    const { state } = this
    const now = state.clock
    const stoodStill = now - this.#tickedAt > STANDSTILL_MS
    this.#tickedAt = now
    this.#tellHealth()
    this.#rooms.retained.resumeStored()
    if (this.#judging) return
    const nextTime = Math.min(state.deadlines.nextTime, state.retainedExpiry.nextTime)
    if (nextTime > now && now - this.#memorySampledAt < MEMORY_SAMPLE_MS) return
    this.#judging = true
    this.#judgeAfter(stoodStill ? STANDSTILL_PASSES : 1)
  }

  #judgeAfter(passes: number): void {
    this.state.host.defer(() => {
      if (passes > 1) this.#judgeAfter(passes - 1)
      else this.#judge()
    })
  }

  #judge(): void {
    const { state } = this
    this.#judging = false
    if (this.#closed) return
    state.turn.begin()
    state.deadlines.judgedTo = state.now()
    state.retainedExpiry.judgedTo = state.now()
    if (!this.#runningDue) this.#runDue()
    if (state.now() - this.#memorySampledAt >= MEMORY_SAMPLE_MS) {
      this.#clock.watch()
      this.#sampleMemory()
      this.#parking.look()
      this.#sweepTopics()
    }
    state.deadlines.sooner()
  }

  /** All that was judged to be due, in slices: 500,000 messages may expire in one second. */
  #runDue(): void {
    const { state } = this
    this.#runningDue = false
    if (this.#closed) return
    for (const deadlines of [state.deadlines, state.retainedExpiry]) {
      if (deadlines.advance(deadlines.judgedTo, state.work.units + SLICE_UNITS / 2)) this.#runningDue = true
    }
    if (this.#runningDue) state.turn.continueLater(() => this.#runDue())
    else state.deadlines.sooner()
  }

  /** Else whom a topic was routed to stays in memory until somebody publishes to it again. */
  #sweepTopics(): void {
    const { topics, router, work } = this.state
    const until = work.units + SLICE_UNITS
    for (let places = 0; places < TOPICS_SWEPT && work.units < until; places += TOPICS_AT_ONCE) {
      topics.visit(TOPICS_AT_ONCE, (topic) => router.release(topic))
    }
  }

  get health(): Health {
    const { unavailable, store, memoryRefusal } = this.state
    if (this.#recovering)
      return { state: 'recovering', detail: unavailable ?? 'the store is being read again' }
    const refusal = store.refusal ?? memoryRefusal
    if (refusal !== null) return { state: 'refusing', detail: refusal }
    const { relief, keptRelief, diskRelief } = this
    const all = [relief.pressed, keptRelief.pressed, diskRelief.pressed]
    const pressed = all.filter((text) => text !== null).join('; ')
    return pressed === '' ? { state: 'ok', detail: '' } : { state: 'pressed', detail: pressed }
  }

  #tellHealth(): void {
    const { health } = this
    const before = this.#healthBefore
    if (health.state === before) return
    this.#healthBefore = health.state
    this.state.turn.begin()
    this.state.events.emit('health', { ...health, before })
  }

  /** Bytes that all clients have us keep in memory, as far as they are ours to count. */
  memoryBytes(): number {
    const { state } = this
    const { memoryBytesMax } = state.limits
    // They are nobody's, so that nobody could pay for them; those that are used come again.
    if (topicsBytes(state.topics) > memoryBytesMax * TOPICS_SHARE) state.topics.clear()
    state.usage.look()
    const most = Math.max(LOOK_BYTES_MIN, memoryBytesMax * LOOK_SHARE)
    state.lookAt.bytesReceived = state.figures.bytesReceived + most
    state.lookAt.entriesMade = state.store.held.made + most / COSTS.queueEntry
    return state.usage.bytes
  }

  #lookSoon(): void {
    if (this.#looking) return
    this.#looking = true
    this.state.turn.continueLater(() => {
      this.#looking = false
      this.#sampleMemory()
    })
  }

  #sampleMemory(): void {
    const { state } = this
    this.#memorySampledAt = state.now()
    state.rates.sweep()
    // Retained messages have a limit of their own: counted here they would lock out who comes to clear them.
    this.relief.look(this.memoryBytes() - state.usage.total.retainedBytes)
    this.keptRelief.look()
    this.diskRelief.look()
  }

  // ── commits ───────────────────────────────────────────────────────────────────────────────────────────────

  #committed(): void {
    const { state } = this
    state.turn.begin()
    this.#releaseWaiting()
    if (state.paused.size === 0 || state.store.pendingBytes > state.limits.pendingCommitBytesMax / 2) return
    for (const connection of [...state.paused]) connection.resume()
  }

  /** What waited for a commit leaves, as far as a slice goes, and then in later turns. */
  #releaseWaiting(): void {
    if (this.#released !== null) {
      this.#isReleaseDue = true
      return
    }
    this.#released = [...this.state.waiting][Symbol.iterator]()
    this.#releaseSlice()
  }

  #releaseSlice(): void {
    const { state } = this
    const { turn, work } = state
    const until = work.units + RELEASE_UNITS
    for (;;) {
      // Nothing is released once the store failed: it is read again, and counts its commits anew.
      const next = this.#released?.next()
      if (next === undefined) return
      if (next.done === true) break
      work.units += UNITS.continuation
      next.value.committed(state.store.committedSequence)
      if (work.units < until) continue
      turn.continueLater(() => this.#releaseSlice())
      return
    }
    this.#released = null
    if (!this.#isReleaseDue) return
    this.#isReleaseDue = false
    this.#releaseWaiting()
  }

  #storeFailed(cause: unknown): void {
    const error =
      cause instanceof StoreError ? cause : new StoreError('io', String(cause), 'See the log.', { cause })
    this.state.events.emit('storeFailed', { error })
    this.#rejectWaiters(error)
    // What a full disk refused can be rolled back to what is on disk; after an I/O error nothing is certain.
    if (error.kind !== 'full' || this.#recovering) {
      this.#fatal(error)
      return
    }
    this.#recovering = true
    this.#rebuild().then(
      () => {
        this.#recovering = false
      },
      (reason: unknown) => this.#fatal(reason instanceof Error ? reason : new Error(String(reason))),
    )
  }

  /** Memory is ahead of the disk: everything that is stored is forgotten and read again. */
  async #rebuild(): Promise<void> {
    const { state } = this
    state.turn.begin()
    this.#rooms.publisher.finish()
    state.unavailable = 'the store is being read again after the disk was full'
    this.#parking.stop()
    const live = new Set(state.wills.keys())
    for (const { clientId } of state.sessionsById.values()) live.delete(clientId)
    for (const connection of [...this.#links]) connection.storeLost()
    state.waiting.clear()
    this.#released = null
    this.#isReleaseDue = false
    const suspended = [...state.suspended].map(
      ([{ clientId }, filters]) => [clientId, [...filters.keys()]] as const,
    )
    this.#estates.forgetStored()
    for (const session of [...state.sessionsById.values()]) this.#forget(session)
    state.retainedExpiry.clear()
    state.retainedDeadlines = new ChurnMap()
    state.forgetRetained()
    for (const [clientId, { deadline }] of [...state.wills]) {
      if (live.has(clientId)) continue
      state.deadlines.cancel(deadline)
      this.#rooms.wills.forget(clientId)
    }
    await state.store.close()
    for (const session of state.sessions.values()) {
      for (const message of session.held()) if ('size' in message) state.store.held.lost(message)
    }
    const recovered = await this.#openAgain()
    state.turn.begin()
    const { count } = this.#takeUp({
      ...recovered,
      wills: recovered.wills.filter(([clientId]) => !live.has(clientId)),
    })
    if (recovered.withoutOwnerIds === true) this.#ownByName()
    for (const [clientId, filters] of suspended) this.#suspendAgain(clientId, filters)
    for (const clientId of live) this.#rooms.wills.reassert(clientId)
    state.unavailable = null
    for (const connection of [...state.paused]) connection.resume()
    state.events.emit('storeRecovered', { sessions: count })
  }

  /** A disk that is still full may not even let the store be opened: it is tried again until there is room. */
  async #openAgain(): Promise<Recovered> {
    for (;;) {
      try {
        return await this.#openStore()
      } catch (error) {
        if (!(error instanceof StoreError) || error.kind !== 'full') throw error
      }
      await new Promise<void>((resolve) => {
        this.state.deadlines.at(this.state.now() + REOPEN_MS, resolve)
      })
    }
  }

  /** What the policy denied before the store was read again it denies still. */
  #suspendAgain(clientId: string, filters: readonly string[]): void {
    const session = this.state.sessions.get(clientId)
    if (session === undefined) return
    for (const filter of filters) {
      if (session.subscriptions.has(filter)) this.#rooms.subscribing.suspend(session, filter)
    }
  }

  #forget(session: Session): void {
    const { state } = this
    state.suspended.delete(session)
    state.deadlines.cancel(state.sessionDeadlines.get(session) ?? null)
    state.sessionDeadlines.delete(session)
    this.#rooms.retained.cancel(session)
    this.#rooms.backlog.forget(session)
    state.forgetSweep(session)
    const connection = state.connected.get(session)
    if (connection !== undefined) state.usage.detached(session, connection)
    state.connected.delete(session)
    state.usage.sessionRemoved(session)
    for (const filter of session.subscriptions.keys()) state.router.unsubscribe(session, filter)
    session.detach()
    session.forget()
    if (state.sessions.get(session.clientId) === session) state.sessions.delete(session.clientId)
    state.sessionsById.delete(session.id)
  }

  /** Resolves when everything recorded up to `gate` is durable. */
  #durable(wanted: number): Promise<void> {
    const gate = Math.min(wanted, this.state.store.recordedSequence)
    if (gate <= this.state.store.committedSequence) return Promise.resolve()
    return new Promise((resolve, reject) => {
      this.#waiters.push({ gate, resolve, reject })
      this.state.waiting.add(this.#releaseWaiters)
    })
  }

  #resolveWaiters(sequence: number): void {
    let count = 0
    while (count < this.#waiters.length && this.#waiters[count]!.gate <= sequence) count++
    for (const waiter of this.#waiters.splice(0, count)) waiter.resolve()
    if (this.#waiters.length === 0) this.state.waiting.delete(this.#releaseWaiters)
  }

  #rejectWaiters(error: Error): void {
    for (const waiter of this.#waiters.splice(0)) waiter.reject(error)
  }

  // ── publishers and subscribers in this process ────────────────────────────────────────────────────────────

  /** Publishes from this process. Resolves when it is as durable as promised; rejects when it was refused. */
  publish(fields: Omit<MessageFields, 'topic'> & { readonly topic: string }): Promise<void> {
    const { state } = this
    state.turn.begin()
    const message = Message.of({ ...fields, topic: state.topics.intern(fields.topic) })
    const outcome = this.#rooms.publisher.publish(message, null)
    if (outcome >= Reason.UnspecifiedError) {
      const limit = `0x${outcome.toString(16)}`
      return Promise.reject(new Error(`the message to ${fields.topic} was refused with Reason Code ${limit}`))
    }
    const { gate, underWay } = this.#rooms.publisher
    if (underWay === null) return this.#durable(gate)
    return new Promise((resolve) => {
      underWay.done = (last) => resolve(this.#durable(last))
    })
  }

  /** Publishes one of the Server's own `$SYS` values: retained in memory, never stored. */
  publishOwn(topic: string, payload: Buffer): void {
    const { state } = this
    state.turn.begin()
    const fields = {
      topic: state.topics.intern(topic),
      payload,
      qos: 0,
      retain: true,
      publisher: '',
    } as const
    this.#rooms.publisher.publishOwn(Message.of(fields))
  }

  /** Subscribes a function. Retained messages come first. Returns a function that ends it. */
  subscribe(filter: string, options: SubscriptionOptions, handler: LocalHandler): () => void {
    const { state } = this
    state.turn.begin()
    const request = { filter, ...options }
    const invalid = this.#rooms.subscribing.invalid(filter, options.noLocal)
    if (invalid !== null) throw invalid
    const { session, close } = localSession(state, handler)
    this.#rooms.subscribing.add(session, filter, options, 0)
    if (options.retainHandling !== 2 && !filter.startsWith('$share/'))
      this.#rooms.retained.start(session, [request], 0)
    this.#rooms.backlog.resume(session)
    return () => {
      this.#rooms.retained.cancel(session)
      state.router.unsubscribe(session, filter)
      close()
    }
  }

  // ── stop ──────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Ends every Network Connection (5.0 clients get 0x8B), waits until what was under way is committed and written,
   * at most until `timeout` settles, and closes the store. Wills wait for the next start.
   */
  async stop(timeout: Promise<unknown>): Promise<void> {
    const { state } = this
    state.stopping = true
    state.turn.begin()
    for (const connection of [...this.state.connections]) {
      connection.disconnect(Reason.ServerShuttingDown, 'the Server is shutting down')
    }
    if (this.#links.size > 0) {
      const empty = new Promise<void>((resolve) => {
        this.#whenEmpty = resolve
      })
      await Promise.race([empty, timeout])
    }
    for (const connection of [...this.#links]) connection.destroy()
    this.#rooms.publisher.finish()
    this.#estates.finish()
    // What a stored Session has not got begins again after the next start.
    this.#rooms.retained.clear()
    state.turn.end()
    state.deadlines.clear()
    state.retainedExpiry.clear()
    this.#closed = true
    await state.store.close()
  }
}

function cappedNotice({ shortened, ended }: Capped): string | undefined {
  if (shortened + ended === 0) return undefined
  return `session_expiry_seconds_max: ${ended} Sessions have ended, ${shortened} will sooner than they asked for.`
}
