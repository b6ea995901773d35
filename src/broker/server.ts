/** The Server: accepts Network Connections, starts with what was stored, keeps time, stops without loss. */
import type { SubscriptionOptions } from '../mqtt/packet.ts'
import { Reason } from '../mqtt/reason.ts'
import { DEFAULT_QUEUE_OPTIONS, type QueueOptions } from '../queue/queue-options.ts'
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
import { LocalClients, type LocalMessage, type ResultOutcome } from './local-clients.ts'
import { MEMORY_SAMPLE_MS, MemoryGuard } from './memory-guard.ts'
import type { LocalHandler } from './messages/local-subscriber.ts'
import { Publisher } from './messages/publisher.ts'
import { RetainedDelivery } from './messages/retained-delivery.ts'
import { Wills } from './messages/wills.ts'
import { Operator } from './queues/operator.ts'
import { QueueRoom } from './queues/queue-room.ts'
import type { QueueOperator } from './queues/queue-view.ts'
import { DiskRelief } from './relief/disk-relief.ts'
import { exceededLimits } from './relief/exceeded-limits.ts'
import { KeptRelief } from './relief/kept-relief.ts'
import { Parking } from './relief/parking.ts'
import { addressExcess } from './relief/quotas.ts'
import { Relief } from './relief/relief.ts'
import { ShareBacklog } from './relief/share-backlog.ts'
import { EndedSessions } from './sessions/ended-sessions.ts'
import { type Lost, Reauthorization, type Reauthorized } from './sessions/reauthorization.ts'
import type { ServerParts } from './sessions/server-parts.ts'
import { type Capped, SessionCap } from './sessions/session-cap.ts'
import { Sessions } from './sessions/sessions.ts'
import { Subscribing } from './sessions/subscribe.ts'
import { type ClientConnection, type ServerOptions, ServerState } from './state/server-state.ts'
import { SLICE_UNITS } from './state/work.ts'
import { type IdOf, StoreRecovery } from './store-recovery.ts'

/**
 * Connections beyond `connectionsMax` that may be open before their log-in. Each may take over an older
 * connection of its own client; otherwise it is refused with the reason.
 */
const SURPLUS_MAX = 64

/**
 * Connections with a missing or invalid certificate that are open, so that CONNECT can be answered with the
 * reason. They take no places of others. Further ones are closed at once.
 */
const UNCERTIFIED_MAX = 64

/** The ticker calls at least once a second. After a longer time, the process or its machine was stopped. */
const STANDSTILL_MS = 2000

/** Passes of the event loop that a client needs to connect after a standstill. */
const STANDSTILL_PASSES = 8

export class Server implements Acceptor {
  readonly state: ServerState
  readonly inventory: Inventory
  readonly relief: Relief
  readonly diskRelief: DiskRelief
  readonly keptRelief: KeptRelief
  /** Null where queues are not enabled. */
  readonly queues: QueueRoom | null
  /** Null without queues. */
  readonly queueOperator: QueueOperator | null
  readonly #queueOptions: QueueOptions
  readonly #parts: ServerParts
  readonly #endedSessions: EndedSessions
  readonly #clock: BrokerClock
  readonly #reauthorization: Reauthorization
  readonly #cap: SessionCap
  readonly #parking: Parking
  /** Connections that are closed, but whose transport is still open. */
  readonly #closing = new Set<ClientConnection>()
  /** Connections with a missing or invalid certificate whose transport is still open. */
  readonly #uncertified = new Set<ClientConnection>()
  readonly #durability: Durability
  readonly #local: LocalClients
  readonly #recovery: StoreRecovery
  readonly #memory: MemoryGuard
  /** Broker time of the latest `tick`. */
  #tickedAt = Number.POSITIVE_INFINITY
  /** True from `tick` until deadlines were judged. */
  #judging = false
  /** True while due deadlines go on in later turns. */
  #runningDue = false
  #closed = false
  #healthBefore: Health['state'] = 'ok'
  #whenEmpty: (() => void) | null = null

  /** `fatal` is called once if the Server cannot go on; the process should then exit with 1. */
  constructor(options: ServerOptions, fatal: (error: Error) => void) {
    this.state = new ServerState(options)
    this.state.storeFailed = (error) => this.#recovery.failed(error)
    this.state.memoryWatch.look = () => this.#memory.lookSoon()
    this.#queueOptions = options.queues ?? DEFAULT_QUEUE_OPTIONS
    this.queues = this.#queueOptions.enabled ? new QueueRoom(this.state, this.#queueOptions) : null
    this.state.queues = this.queues
    const retainedDelivery = new RetainedDelivery(this.state)
    const backlog = new ShareBacklog(this.state)
    this.state.headDropped = (session) => backlog.headDropped(session)
    this.relief = new Relief(this.state, backlog)
    this.diskRelief = new DiskRelief(this.state)
    this.keptRelief = new KeptRelief(this.state)
    const publisher = new Publisher(this.state, retainedDelivery, backlog, this.diskRelief, this.keptRelief)
    const wills = new Wills(this.state, publisher)
    this.#endedSessions = new EndedSessions(this.state, publisher)
    if (this.queues !== null) {
      this.queues.consuming.whenOver = (session) => this.#endedSessions.resume(session)
    }
    this.#parts = {
      publisher,
      wills,
      retainedDelivery,
      backlog,
      sessions: new Sessions(this.state, this.#endedSessions, wills, retainedDelivery, backlog),
      relief: this.relief,
      diskRelief: this.diskRelief,
      keptRelief: this.keptRelief,
      subscribing: new Subscribing(this.state, retainedDelivery, backlog, this.keptRelief),
      closed: (connection) => {
        this.state.connections.delete(connection)
        this.#closing.add(connection)
      },
      gone: (connection) => this.#gone(connection),
    }
    this.#clock = new BrokerClock(this.state, this.#parts)
    this.#reauthorization = new Reauthorization(this.state, this.#parts.subscribing)
    this.#parking = new Parking(this.state)
    this.#cap = new SessionCap(this.state, this.#parts.sessions)
    this.#durability = new Durability(this.state)
    this.#local = new LocalClients(this.state, this.#parts, this.#durability)
    this.#memory = new MemoryGuard(this.state, this.#parts)
    this.#recovery = new StoreRecovery(
      this.state,
      {
        server: this.#parts,
        endedSessions: this.#endedSessions,
        parking: this.#parking,
        clock: this.#clock,
        durability: this.#durability,
        queues: this.queues,
        closing: this.#closing,
      },
      fatal,
    )
    const durable = (durableAt: number): Promise<void> => this.#durability.durable(durableAt)
    this.inventory = new Inventory(this.state, this.#parts, durable)
    this.queueOperator = this.queues && new Operator(this.state, this.queues.definitions, durable)
  }

  /** Number of open Network Connections, including those before CONNECT. */
  get connectionCount(): number {
    return this.state.connections.size
  }

  /** Number of Subscriptions that the policy denies at the moment. */
  get suspendedCount(): number {
    let count = 0
    for (const filters of this.state.suspended.values()) count += filters.size
    return count
  }

  /** Number of deliveries of retained messages that are under way. */
  get retainedDeliveries(): number {
    return this.#parts.retainedDelivery.size
  }

  // ── start ────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Opens the store and goes on from there. Returns notices for the operator. `idOf` returns the id of the
   * account with a name, for older stores that kept names only. Throws StoreError.
   */
  async start(idOf: IdOf = () => null): Promise<string | undefined> {
    const recovered = await this.#recovery.open()
    this.#clock.start(recovered)
    this.#tickedAt = this.state.clock
    const capped = await this.#recovery.start(recovered, idOf)
    const queues = this.queues?.configure(this.#queueOptions) ?? []
    const beyond = this.beyondBy(this.state.limits)
    const notices = [recovered.notice, this.#clock.notice, cappedNotice(capped), ...queues, ...beyond].filter(
      (text) => text !== undefined,
    )
    return notices.length === 0 ? undefined : notices.join(' ')
  }

  /** Gives everything that is kept under these user names to the accounts with these ids. */
  adopt(ids: ReadonlyMap<string, string>): void {
    this.#recovery.adoptSessions(ids)
    this.#parts.publisher.retained.own(ids)
  }

  // ── connections ──────────────────────────────────────────────────────────────────────────────────────────

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
    // The log-in queue has its own limit, and clients in it take no places of others.
    const besides = SURPLUS_MAX + uncertified + state.loginQueue.length
    const isFull = state.connections.size >= connectionsMax + besides
    const links = state.usage.total.connections
    // Closing connections hold a socket for a moment. They must not keep out a fleet that comes back at once.
    if (isFull || links >= 2 * connectionsMax + besides) {
      const open = `${state.connections.size} Network Connections, ${links} with closing ones`
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
    if (certificateRefusal !== undefined) this.#uncertified.add(connection)
    state.connectQueue.add(connection)
    if (state.events.has('opened')) state.events.emit('opened', { link: link.info })
    return connection
  }

  /** Tells whether an address is banned, and if so counts the refusal. */
  refusesAddress(remoteAddress: string): boolean {
    const ban = this.state.bans.ofAddress(remoteAddress)
    if (ban === null) return false
    this.state.counters.connectionsRefused++
    this.state.limited('bans', '', `${ban.subject} is banned; refused ${remoteAddress}`)
    return true
  }

  /** Ends Network Connections that are banned now, by bans of these kinds. Returns their number. */
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

  /** Counts a peer that a transport closed before it became a Link, since there was no room for it. */
  turnedAway(reason: string, limit: Limit = 'connectionsMax'): void {
    this.state.counters.connectionsRefused++
    this.state.limited(limit, '', reason)
  }

  #gone(connection: ClientConnection): void {
    this.#closing.delete(connection)
    this.#uncertified.delete(connection)
    this.state.usage.closed(connection)
    if (this.state.usage.total.connections === 0) this.#whenEmpty?.()
  }

  /**
   * Puts a policy in force, and has it decide again about what earlier ones allowed: see `Reauthorization`.
   * `lost` are users whose log-in is no longer valid: their names, or a function that tells.
   */
  usePolicy(policy: Policy, lost: Lost = new Set()): void {
    this.state.policy = policy
    this.#reauthorization.start(lost)
  }

  /** Resolves with the effects of the latest change of the policy, once every Session was checked. */
  reauthorized(): Promise<Reauthorized> {
    return this.#reauthorization.finished()
  }

  /** Whether Sessions are still being checked after a change of the policy. */
  get reauthorizing(): boolean {
    return this.#reauthorization.underWay
  }

  /** Applies a lower `sessionExpirySecondsMax` to all Sessions. Returns how many were shortened or ended. */
  async capSessions(): Promise<Capped> {
    const capped = await this.#cap.run()
    if (capped.ended + capped.shortened === 0) return capped
    try {
      // A Session that was reported as ended must not come back after a crash.
      await this.#durability.durable(this.state.store.openSequence)
    } catch (error) {
      // The store will be read again, and then applies the maximum to its Sessions.
      if (!(error instanceof StoreError && error.kind === 'full')) throw error
    }
    return capped
  }

  /** Returns what `capSessions` would do with this maximum. */
  cappedBy(sessionExpirySecondsMax: number): Capped {
    return this.#cap.preview(sessionExpirySecondsMax)
  }

  /** Describes in sentences which of these limits are exceeded already. */
  beyondBy(limits: Limits): readonly string[] {
    return exceededLimits(this.state, limits)
  }

  /** Ends the Network Connection of a client. Returns false if it has none. */
  disconnect(clientId: string, reasonCode: Reason, reason: string): boolean {
    const session = this.state.sessions.get(clientId)
    const connection = session === undefined ? undefined : this.state.connected.get(session)
    if (connection === undefined) return false
    this.state.turn.begin()
    connection.disconnect(reasonCode, reason)
    return true
  }

  // ── time ─────────────────────────────────────────────────────────────────────────────────────────────────

  /** Time until `tick` is due, at most a second. `onEarlierDeadline` is called if it becomes shorter. */
  get idleMs(): number {
    const { state } = this
    if (this.#judging || this.#runningDue) return MEMORY_SAMPLE_MS
    const { nextTime } = state.retainedExpiry.deadlines
    const due = Math.min(state.deadlines.nextTime, nextTime, this.#memory.dueAt)
    return Math.max(0, Math.min(due - state.clock, MEMORY_SAMPLE_MS))
  }

  set onEarlierDeadline(callback: () => void) {
    this.state.deadlines.onEarlierDeadline = callback
    this.state.retainedExpiry.deadlines.onEarlierDeadline = callback
  }

  /**
   * Runs deadlines that are due, and looks at memory once a second. The host calls it after `idleMs`.
   * Deadlines are judged after pending input was read: a client is not late if the kernel has its PINGREQ or
   * CONNECT.
   */
  tick(): void {
    const { state } = this
    const now = state.clock
    const stoodStill = now - this.#tickedAt > STANDSTILL_MS
    this.#tickedAt = now
    this.#tellHealth()
    this.#parts.retainedDelivery.resumeStored()
    if (this.#judging) return
    const nextTime = Math.min(state.deadlines.nextTime, state.retainedExpiry.deadlines.nextTime)
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
    state.retainedExpiry.deadlines.judgedTo = state.now()
    if (!this.#runningDue) this.#runDue()
    if (state.now() >= this.#memory.dueAt) {
      this.#clock.watch()
      this.#memory.look()
      this.#parking.look()
      this.#memory.sweepTopics()
    }
    state.deadlines.onEarlierDeadline()
  }

  /** Runs all deadlines that were judged to be due, in slices: 500,000 messages may expire in one second. */
  #runDue(): void {
    const { state } = this
    this.#runningDue = false
    if (this.#closed) return
    for (const deadlines of [state.deadlines, state.retainedExpiry.deadlines]) {
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

  /** Counts the bytes in memory for all clients. */
  memoryBytes(): number {
    return this.#memory.bytes()
  }

  // ── publishers and subscribers in this process ───────────────────────────────────────────────────────────

  /** Publishes from this process. Resolves when the message is as durable as promised; rejects a refusal. */
  publish(fields: LocalMessage): Promise<void> {
    return this.#local.publish(fields)
  }

  /** Publishes a result, and calls `settle` in the same turn. */
  publishResult(fields: LocalMessage, isDue: () => boolean, settle: (outcome: ResultOutcome) => void): void {
    this.#local.publishResult(fields, isDue, settle)
  }

  /** Publishes a `$SYS` value: retained in memory, never stored. */
  publishOwn(topic: string, payload: Buffer): void {
    this.#local.publishOwn(topic, payload)
  }

  /** Subscribes a function; retained messages come first. Returns a function that ends the Subscription. */
  subscribe(filter: string, options: SubscriptionOptions, handler: LocalHandler): () => void {
    return this.#local.subscribe(filter, options, handler)
  }

  // ── stop ─────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Ends every Network Connection (clients of 5.0 get 0x8B), waits until all output is committed and written,
   * but not longer than until `timeout` settles, and closes the store. Wills wait for the next start.
   */
  async stop(timeout: Promise<unknown>): Promise<void> {
    const { state } = this
    state.stopping = true
    state.turn.begin()
    this.queues?.stop()
    for (const connection of [...this.state.connections]) {
      connection.disconnect(Reason.ServerShuttingDown, 'the Server is shutting down')
    }
    if (state.usage.total.connections > 0) {
      const empty = new Promise<void>((resolve) => {
        this.#whenEmpty = resolve
      })
      await Promise.race([empty, timeout])
    }
    for (const connection of [...state.connections, ...this.#closing]) connection.destroy()
    this.#parts.publisher.finish()
    this.#endedSessions.finish()
    // Retained messages that a stored Session still needs are sent again after the next start.
    this.#parts.retainedDelivery.clear()
    state.turn.end()
    state.deadlines.clear()
    state.retainedExpiry.clear()
    this.#closed = true
    await state.store.close()
  }
}

function cappedNotice({ shortened, ended }: Capped): string | undefined {
  if (shortened + ended === 0) return undefined
  return `session_expiry_seconds_max: ${ended} Sessions have ended, ${shortened} expire earlier now.`
}
