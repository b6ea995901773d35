/**
 * The state of the Server: everything that lives as long as the Server does. Behaviour is in the files named
 * after the packets.
 */
import type { Message } from '../../mqtt/message.ts'
import type { AcknowledgePacket } from '../../mqtt/packet.ts'
import { PacketSlab } from '../../mqtt/slab.ts'
import { TopicInterner } from '../../mqtt/topic-interner.ts'
import type { QueueOptions } from '../../queue/queue-options.ts'
import { RetainedTree } from '../../routing/retained.ts'
import { Router } from '../../routing/router.ts'
import type { QueueDelivery, SessionContext } from '../../session/context.ts'
import type { DropReason } from '../../session/limits.ts'
import type { Session } from '../../session/session.ts'
import type { Store, WillRecord } from '../../store/store.ts'
import { ChurnMap } from '../../structures/churn-map.ts'
import { Incomplete, type Sender } from '../accounts/incomplete.ts'
import { MemoryWatch } from '../accounts/memory-watch.ts'
import { Rates } from '../accounts/rates.ts'
import type { Usage } from '../accounts/usage.ts'
import { UsageBook } from '../accounts/usage-book.ts'
import { Bans } from '../boundary/bans.ts'
import { Events, type Limit } from '../boundary/events.ts'
import type { Host } from '../boundary/host.ts'
import type { Limits } from '../boundary/limits.ts'
import type { LinkInfo } from '../boundary/link.ts'
import type { ClientView, Policy } from '../boundary/policy.ts'
import { Rights } from '../boundary/rights.ts'
import { ConnectQueue } from './connect-queue.ts'
import { ConnectedSessions } from './connected-sessions.ts'
import { Counters } from './counters.ts'
import { type Deadline, Deadlines } from './deadlines.ts'
import { type Queues, restoreBodies } from './queue-port.ts'
import type { HoldReason } from './read-gate.ts'
import { RetainedExpiry } from './retained-expiry.ts'
import { ShareGroups } from './share-groups.ts'
import { SharedCopies } from './shared-copies.ts'
import { TimeInDoubt } from './time-in-doubt.ts'
import { Turn } from './turn.ts'
import { UNITS, Work } from './work.ts'

/** Topics that stay interned with their Routes: enough for all active topics of a fleet of 100,000. */
const TOPICS_MAX = 131_072

/** Shortest time in ms between two sweeps of a queue for expired messages. */
const SWEEP_MS = 1000

/** Units that a sweep takes, and each message that it drops. */
const SWEEP_UNITS = 30

/** Stands for the deadline of a queue while its sweep is under way. */
const NO_DEADLINE: Deadline = { time: Number.NEGATIVE_INFINITY, action: null }

/** A client's Network Connection as the rest of the Server sees it. */
export interface ClientConnection extends Sender {
  readonly view: ClientView
  /** Its Session; null before CONNACK, and once it is closed. */
  readonly session: Session | null
  /** Memory counted for its remote address. */
  readonly address: Usage
  /** Broker time in ms at which CONNECT was accepted; 0 before. */
  readonly connectedAt: number
  /** Keep Alive in force; 0 for none. */
  readonly keepAliveSeconds: number
  /**
   * Handles the packets that the client sent before it connected anew. Returns false while some of them have
   * to wait for later turns.
   */
  finish(): boolean
  /** Ends the Network Connection with 0x8E, as another one took the Session; sends nothing else. */
  takenOver(by: LinkInfo): void
  /** Ends the Network Connection; a client of 5.0 gets DISCONNECT with this Reason Code. */
  disconnect(reasonCode: number, reason: string): void
  /** Sends the output that waited for this commit, which is durable now. */
  committed(sequence: number): void
  /** Stops reading for this reason. Returns false if it did so already, or the connection ends. */
  hold(reason: HoldReason): boolean
  /** Removes this reason not to read. */
  release(reason: HoldReason): void
  /** Reads on: the broker has caught up with its commits. */
  resume(): void
  /** Closes the connection if it depends on the store, which failed; the client tries again. */
  storeLost(): void
  /** Cuts off the transport. */
  destroy(): void
  /** Output that the client has not read yet, here and in the transport. */
  readonly waitingBytes: number
  /** Its index in `memoryTracked`; -1 if it is not there. */
  memoryTrackedIndex: number
  /** Bytes counted for it by the latest look of `UsageBook`. */
  countedBytes: number
  /** Bytes of packets that are incomplete or not yet handled, and of its Topic Aliases. */
  readonly heldBytes: number
  /** Whether reading is paused because the client takes too much memory. */
  readonly isPaying: boolean
  /** Ends the Network Connection with 0x97 and drops its output; `told` is for the client. */
  cut(reason: string, told: string): void
}

/** Something whose output may wait for a commit. */
export interface CommitWaiter {
  committed(sequence: number): void
}

export interface PendingWill {
  readonly record: WillRecord
  /** Publishes a delayed Will; null while the client is connected. */
  readonly deadline: Deadline | null
  readonly view: ClientView
  /** Memory counted for its client. */
  readonly usage: Usage
  /** Start of the grace, in broker time; only for a Will that was stored when the broker ended. */
  readonly graceFrom?: number
}

export interface ServerOptions {
  readonly host: Host
  readonly store: Store
  readonly limits: Readonly<Limits>
  readonly policy: Policy
  /** The defaults without it. */
  readonly queues?: QueueOptions
}

export class ServerState implements SessionContext {
  readonly host: Host
  readonly store: Store
  readonly limits: Readonly<Limits>
  readonly events: Events
  readonly counters = new Counters()
  readonly work = new Work()
  readonly deadlines = new Deadlines(this.work)
  readonly retainedExpiry = new RetainedExpiry(this.work)
  readonly topics = new TopicInterner(TOPICS_MAX)
  readonly turn: Turn
  readonly connectQueue: ConnectQueue
  readonly router = new Router<Session>(this.work)
  retained = new RetainedTree(this.work)
  /** The part of the retained messages that are the Server's own `$SYS` values. */
  ownRetained = { count: 0, bytes: 0 }
  /** All Sessions by Client Identifier. */
  readonly sessions = new ChurnMap<string, Session>()
  /** Stored Sessions by their number in the store. */
  readonly sessionsById = new ChurnMap<number, Session>()
  readonly sessionDeadlines = new Map<Session, Deadline>()
  /** The next sweep of each queue for expired messages. */
  readonly sweeps = new Map<Session, Deadline>()
  /** Called when the oldest message of a queue was dropped. Set by the Server. */
  headDropped: (session: Session) => void = () => {}
  /**
   * Suspended Subscriptions by topic filter: the policy denies them at the moment. The Session keeps them,
   * but they get no messages. The value tells whether retained messages were under way.
   */
  readonly suspended = new Map<Session, Map<string, boolean>>()
  /** Wills by Client Identifier. */
  readonly wills = new Map<string, PendingWill>()
  readonly memoryWatch = new MemoryWatch<ClientConnection>()
  /** Memory counted for each client, user and address. */
  readonly usage = new UsageBook(this)
  readonly rates = new Rates(this)
  readonly shareGroups = new ShareGroups(this.router, this.usage, this.work)
  /** Memory for PUBLISH packets that are the same for all receivers. */
  readonly publishSlab = new PacketSlab()
  readonly sharedCopies = new SharedCopies()
  /** Every open Network Connection, also before CONNECT. */
  readonly connections = new Set<ClientConnection>()
  readonly connected = new ConnectedSessions(this.connections)
  /** Counts the bytes of incomplete packets on these connections. */
  readonly incomplete = new Incomplete(this.connections, (limit, clientId, detail) =>
    this.limited(limit, clientId, detail),
  )
  /** Connections whose output waits for a commit, and other waiters. */
  readonly waiting = new Set<CommitWaiter>()
  /** Connections that are paused because the broker is behind. */
  readonly paused = new Set<ClientConnection>()
  /** Clients that wait for their passwords to be checked, and the broker time at which one last did. */
  readonly loginQueue = { length: 0, busyAt: Number.NEGATIVE_INFINITY }
  /** Counts the sockets of clients that are not let in yet, including those in a TLS handshake. */
  newcomerCount: () => number = () => 0
  readonly bans = new Bans(() => this.now())
  nextSessionId = 1
  /** The queues; null where they are not enabled. Set by the Server. */
  queues: Queues | null = null
  /** Clients that wait for the open block but not for those just before it. See `CommitPace`. */
  company = 0
  /**
   * Why new work of all clients is refused: memory is short and no client holds much of it. Null otherwise.
   * See `Relief`.
   */
  memoryRefusal: string | null = null
  /** Why no client is let in at the moment; null if clients are. */
  unavailable: string | null = null
  /** True once the Server is stopping: Wills wait for the next start, new connections are refused. */
  stopping = false
  /** Broker time minus the host's monotonic time, in ms. */
  timeOffset = 0
  readonly timeInDoubt: TimeInDoubt
  readonly rights: Rights

  constructor(options: ServerOptions) {
    this.host = options.host
    // An error in a listener becomes an uncaught exception of the program; the Server's work goes on.
    this.events = new Events((error) => this.thrownOutside(error))
    this.store = options.store
    this.limits = options.limits
    this.rights = new Rights(this, options.policy)
    this.timeInDoubt = new TimeInDoubt(options.store, () => this.now())
    this.turn = new Turn(
      () => this.clock,
      (callback) => this.host.defer(callback),
      () => {
        const { counters, store, usage } = this
        this.memoryWatch.lookIfDue(counters.bytesReceived, store.held.made, usage.total.keptBytes)
      },
      () => this.#commit(),
      this.work,
    )
    this.connectQueue = new ConnectQueue(this.turn, this.deadlines, () => this.clock)
  }

  #commit(): void {
    this.store.commit(this.company)
    this.company = 0
  }

  /** Broker time of this moment in ms; `now` is the time of the turn. */
  get clock(): number {
    return this.host.now() + this.timeOffset
  }

  /** Broker time in ms: monotonic, and never going back across restarts. */
  now(): number {
    return this.turn.time
  }

  get isInDoubt(): boolean {
    return this.timeInDoubt.span !== null
  }

  isDoubtful(message: Message): boolean {
    return this.timeInDoubt.isDoubtful(message)
  }

  get policy(): Policy {
    return this.rights.policy
  }

  set policy(policy: Policy) {
    this.rights.policy = policy
  }

  get checksReceiving(): boolean {
    return this.rights.checksReceiving
  }

  mayReceive(session: Session, message: Message): boolean {
    return this.rights.mayReceive(session, message)
  }

  /** Makes the account with this id, which has the same name, the Session's owner. */
  own(session: Session, userId: string): void {
    session.ownerId = userId
    this.rights.forget(session)
    if (session.stored) this.store.putSession(session.id, session.record())
  }

  dropped(session: Session, reason: DropReason, delivery: { readonly message: Message }): void {
    this.drop(session.clientId, reason, delivery.message)
  }

  /** Throws an error of the embedding program later, outside of the Server's work. */
  thrownOutside(error: unknown): void {
    this.host.defer(() => {
      throw error
    })
  }

  /** Counts a refusal by a limit and emits `limited`. `clientId` is empty if it is not known. */
  limited(limit: Limit, clientId: string, detail: string): void {
    this.counters.limits[limit]++
    this.work.units += UNITS.refused
    if (this.events.has('limited')) this.events.emit('limited', { limit, clientId, detail })
  }

  /** Counts lost deliveries of a message, and emits `dropped`. */
  drop(clientId: string, reason: DropReason, message: Message, count = 1): void {
    this.counters.drop(reason, count)
    this.work.units += UNITS.queued
    if (!this.events.has('dropped')) return
    this.events.emit('dropped', { clientId, reason, message, ...(count > 1 && { count }) })
  }

  sweepAt(session: Session, time: number): void {
    // Nothing is dropped as expired while time is in doubt.
    const at = Math.max(time, this.now() + SWEEP_MS, this.timeInDoubt.span?.until ?? 0)
    const known = this.sweeps.get(session)
    if (known !== undefined && known.time <= at) return
    if (known !== undefined) this.deadlines.cancel(known)
    const deadline = this.deadlines.at(at, () => {
      this.turn.begin()
      this.#sweep(session)
    })
    this.sweeps.set(session, deadline)
  }

  #sweep(session: Session): void {
    // The Session may have ended since.
    if (!this.sweeps.delete(session)) return
    const { queueLength } = session
    const isMore = session.queue.sweep()
    // Besides each dropped message, one that stays may have been looked at or written anew.
    this.work.units += SWEEP_UNITS * (1 + queueLength - session.queueLength)
    this.headDropped(session)
    if (!isMore) return
    this.sweeps.set(session, NO_DEADLINE)
    this.turn.continueLater(() => this.#sweep(session))
  }

  later(action: () => void): void {
    this.turn.continueLater(action)
  }

  /** Cancels the sweep of a Session that has ended. */
  forgetSweep(session: Session): void {
    this.deadlines.cancel(this.sweeps.get(session) ?? null)
    this.sweeps.delete(session)
  }

  mark(session: Session): void {
    this.usage.mark(session)
  }

  settled(
    session: Session,
    delivery: QueueDelivery,
    reasonCode: number,
    packet: AcknowledgePacket | null,
  ): void {
    this.queues?.settled(session, delivery, reasonCode, packet)
  }

  loosened(session: Session): void {
    this.queues?.loosened(session)
  }

  room(session: Session): void {
    this.queues?.room(session)
  }

  restore(session: Session, messages: readonly Message[]): void {
    restoreBodies(this, messages).then(
      () => {
        this.turn.begin()
        session.restored()
      },
      (error: unknown) => {
        // The store failed meanwhile, and the Session was forgotten with it.
        if (session.stored && this.sessionsById.get(session.id) !== session) return
        this.storeFailed(error)
      },
    )
  }

  /** Forgets all retained messages, before they are read from the store again. */
  forgetRetained(): void {
    for (const message of this.retained) this.usage.retainedRemoved(message)
    this.retained = new RetainedTree(this.work)
    this.ownRetained = { count: 0, bytes: 0 }
  }

  /** Handles a failed read or commit, after which memory cannot be trusted. Set by the Server. */
  storeFailed: (error: unknown) => void = (error) => {
    throw error
  }
}
