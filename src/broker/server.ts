/** The Server: accepts Network Connections, wakes up with what was stored, keeps time, and stops without loss. */
import { Message, type MessageFields } from '../mqtt/message.ts'
import type { SubscriptionOptions } from '../mqtt/packet.ts'
import { Reason } from '../mqtt/reason.ts'
import { StoreError } from '../store/store.ts'
import { REFUSED } from './accounts/rates.ts'
import type { BanKind } from './boundary/bans.ts'
import type { Health, Limit } from './boundary/events.ts'
import type { Limits } from './boundary/limits.ts'
import type { Acceptor, Link, LinkHandler } from './boundary/link.ts'
import type { Policy } from './boundary/policy.ts'
import { BrokerClock } from './clock.ts'
import { Connection } from './connection/connection.ts'
import { Durability } from './durability.ts'
import { healthOf } from './health.ts'
import { Inventory } from './inventory.ts'
import { MEMORY_SAMPLE_MS, MemoryGuard } from './memory-guard.ts'
import { type LocalHandler, localSession } from './messages/local-subscriber.ts'
import { Publisher } from './messages/publisher.ts'
import { RetainedDelivery } from './messages/retained.ts'
import { Wills } from './messages/wills.ts'
import { DiskRelief } from './relief/disk-relief.ts'
import { exceededLimits } from './relief/exceeded-limits.ts'
import { KeptRelief } from './relief/kept-relief.ts'
import { Parking } from './relief/parking.ts'
import { addressExcess } from './relief/quotas.ts'
import { Relief } from './relief/relief.ts'
import { ShareBacklog } from './relief/share-backlog.ts'
import { Estates } from './sessions/estates.ts'
import { type Lost, Reauthorization, type Reauthorized } from './sessions/reauthorization.ts'
import type { ServerParts } from './sessions/server-parts.ts'
import { type Capped, SessionCap } from './sessions/session-cap.ts'
import { Sessions } from './sessions/sessions.ts'
import { Subscribing } from './sessions/subscribe.ts'
import { type ClientConnection, type ServerOptions, ServerState } from './state/server-state.ts'
import { SLICE_UNITS } from './state/work.ts'
import { type IdOf, StoreRecovery } from './store-recovery.ts'

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

/** The ticker calls at least once a second. What took longer, in ms, was the process: stopped, or its machine paused. */
const STANDSTILL_MS = 2000

/** Passes of the event loop in which a client that had come back meanwhile is accepted, read from and let in. */
const STANDSTILL_PASSES = 8

export class Server implements Acceptor {
  readonly state: ServerState
  readonly inventory: Inventory
  readonly relief: Relief
  readonly diskRelief: DiskRelief
  readonly keptRelief: KeptRelief
  readonly #parts: ServerParts
  readonly #estates: Estates
  readonly #clock: BrokerClock
  readonly #reauthorization: Reauthorization
  readonly #cap: SessionCap
  readonly #parking: Parking
  /** Connections whose transport is still there, closing ones included. */
  readonly #links = new Set<ClientConnection>()
  /** Those among them whose certificate does not do. */
  readonly #uncertified = new Set<ClientConnection>()
  readonly #durability: Durability
  readonly #recovery: StoreRecovery
  readonly #memory: MemoryGuard
  /** When `tick` was called last, in broker time. */
  #tickedAt = Number.POSITIVE_INFINITY
  /** True from `tick` until what is due was judged. */
  #judging = false
  /** What is due goes on in the next turn. */
  #runningDue = false
  #closed = false
  #healthBefore: Health['state'] = 'ok'
  #whenEmpty: (() => void) | null = null

  /** `fatal` is called once when the Server cannot go on; the process should end with 1. */
  constructor(options: ServerOptions, fatal: (error: Error) => void) {
    this.state = new ServerState(options)
    this.state.storeFailed = (error) => this.#recovery.failed(error)
    this.state.look = () => this.#memory.lookSoon()
    const retained = new RetainedDelivery(this.state)
    const backlog = new ShareBacklog(this.state)
    this.state.headDropped = (session) => backlog.headDropped(session)
    this.relief = new Relief(this.state, backlog)
    this.diskRelief = new DiskRelief(this.state)
    this.keptRelief = new KeptRelief(this.state)
    const publisher = new Publisher(this.state, retained, backlog, this.diskRelief, this.keptRelief)
    const wills = new Wills(this.state, publisher)
    this.#estates = new Estates(this.state, publisher)
    this.#parts = {
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
    this.#clock = new BrokerClock(this.state, this.#parts)
    this.#reauthorization = new Reauthorization(this.state, this.#parts.subscribing)
    this.#parking = new Parking(this.state)
    this.#cap = new SessionCap(this.state, this.#parts.sessions)
    this.#durability = new Durability(this.state)
    this.#memory = new MemoryGuard(this.state, this.#parts)
    this.#recovery = new StoreRecovery(
      this.state,
      {
        server: this.#parts,
        estates: this.#estates,
        parking: this.#parking,
        clock: this.#clock,
        durability: this.#durability,
        links: this.#links,
      },
      fatal,
    )
    this.inventory = new Inventory(this.state, this.#parts, (durableAt) =>
      this.#durability.durable(durableAt),
    )
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
    return this.#parts.retained.size
  }

  // ── start ─────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Opens the store and takes up everything where it was left; returns what it has to say. `idOf` answers the id of the account
   * of a name, for stores that did not keep it: the name was all there was. Throws StoreError.
   */
  async start(idOf: IdOf = () => null): Promise<string | undefined> {
    const recovered = await this.#recovery.open()
    this.#clock.start(recovered)
    this.#tickedAt = this.state.clock
    const capped = await this.#recovery.start(recovered, idOf)
    const beyond = this.beyondBy(this.state.limits)
    const notices = [recovered.notice, this.#clock.notice, cappedNotice(capped), ...beyond].filter(
      (text) => text !== undefined,
    )
    return notices.length === 0 ? undefined : notices.join(' ')
  }

  /** What is kept for users of these names, whoever they were, is of the accounts with these ids from now on. */
  adopt(ids: ReadonlyMap<string, string>): void {
    this.#recovery.adoptSessions(ids)
    this.#parts.publisher.ownRetained(ids)
  }

  // ── connections ───────────────────────────────────────────────────────────────────────────────────────────

  accept(link: Link): LinkHandler | null {
    const { state } = this
    if (state.stopping) return null
    if (!state.bans.sparesAddresses && this.refusesAddress(link.info.remoteAddress)) return null
    const { certificateRefusal } = link.info
    const uncertified = this.#uncertified.size
    if (certificateRefusal !== undefined && uncertified >= UNCERTIFIED_MAX) {
      state.counters.connectionsRefused++
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
      const reason = `more connections in a second than is allowed: ${link.info.remoteAddress}`
      this.turnedAway(reason, 'connectRatePerAddressMax')
      return null
    }
    state.turn.begin()
    state.counters.connectionsAccepted++
    const connection = new Connection(state, this.#parts, link)
    if (wait > 0) connection.waitFor(wait)
    this.state.connections.add(connection)
    this.#links.add(connection)
    if (certificateRefusal !== undefined) this.#uncertified.add(connection)
    state.connectQueue.add(connection)
    if (state.events.has('opened')) state.events.emit('opened', { link: link.info })
    return connection
  }

  /** Whether an address is banned; a peer that is turned away for it is counted and told. */
  refusesAddress(remoteAddress: string): boolean {
    const ban = this.state.bans.ofAddress(remoteAddress)
    if (ban === null) return false
    this.state.counters.connectionsRefused++
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
    this.state.counters.connectionsRefused++
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
      await this.#durability.durable(this.state.store.openSequence)
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
    return exceededLimits(this.state, limits)
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
    const due = Math.min(state.deadlines.nextTime, nextTime, this.#memory.dueAt)
    return Math.max(0, Math.min(due - state.clock, MEMORY_SAMPLE_MS))
  }

  set onEarlierDeadline(callback: () => void) {
    this.state.deadlines.onEarlierDeadline = callback
    this.state.retainedExpiry.onEarlierDeadline = callback
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
    this.#parts.retained.resumeStored()
    if (this.#judging) return
    const nextTime = Math.min(state.deadlines.nextTime, state.retainedExpiry.nextTime)
    if (nextTime > now && now < this.#memory.dueAt) return
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
    if (state.now() >= this.#memory.dueAt) {
      this.#clock.watch()
      this.#memory.look()
      this.#parking.look()
      this.#memory.sweepTopics()
    }
    state.deadlines.onEarlierDeadline()
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
    else state.deadlines.onEarlierDeadline()
  }

  get health(): Health {
    return healthOf(this.state, this, this.#recovery.isUnderWay)
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
    return this.#memory.bytes()
  }

  // ── publishers and subscribers in this process ────────────────────────────────────────────────────────────

  /** Publishes from this process. Resolves when it is as durable as promised; rejects when it was refused. */
  publish(fields: Omit<MessageFields, 'topic'> & { readonly topic: string }): Promise<void> {
    const { state } = this
    state.turn.begin()
    const message = Message.of({ ...fields, topic: state.topics.intern(fields.topic) })
    const outcome = this.#parts.publisher.publish(message, null)
    if (outcome >= Reason.UnspecifiedError) {
      const limit = `0x${outcome.toString(16)}`
      return Promise.reject(new Error(`the message to ${fields.topic} was refused with Reason Code ${limit}`))
    }
    const { durableAt, underWay } = this.#parts.publisher
    if (underWay === null) return this.#durability.durable(durableAt)
    return new Promise((resolve) => {
      underWay.done = (last) => resolve(this.#durability.durable(last))
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
    this.#parts.publisher.publishOwn(Message.of(fields))
  }

  /** Subscribes a function. Retained messages come first. Returns a function that ends it. */
  subscribe(filter: string, options: SubscriptionOptions, handler: LocalHandler): () => void {
    const { state } = this
    state.turn.begin()
    const request = { filter, ...options }
    const invalid = this.#parts.subscribing.invalid(filter, options.noLocal)
    if (invalid !== null) throw invalid
    const { session, close } = localSession(state, handler)
    this.#parts.subscribing.add(session, filter, options, 0)
    if (options.retainHandling !== 2 && !filter.startsWith('$share/'))
      this.#parts.retained.start(session, [request], 0)
    this.#parts.backlog.resume(session)
    return () => {
      this.#parts.retained.cancel(session)
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
    this.#parts.publisher.finish()
    this.#estates.finish()
    // What a stored Session has not got begins again after the next start.
    this.#parts.retained.clear()
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
