/** The Server's state: what lives as long as the Server. Behaviour is in the files named after the packets. */

import type { Author, Message } from '../../mqtt/message.ts'
import { PacketSlab } from '../../mqtt/slab.ts'
import { TopicInterner } from '../../mqtt/topic-interner.ts'
import { RetainedTree } from '../../routing/retained.ts'
import { Router } from '../../routing/router.ts'
import type { DropReason } from '../../session/limits.ts'
import type { Session, SessionContext } from '../../session/session.ts'
import type { BootTime, Store, TimeDoubt, WillRecord } from '../../store/store.ts'
import { ChurnMap } from '../../structures/churn-map.ts'
import { Incomplete, type Sender } from '../accounts/incomplete.ts'
import { Rates } from '../accounts/rates.ts'
import type { Usage } from '../accounts/usage.ts'
import { UsageBook } from '../accounts/usage-book.ts'
import { Bans } from '../boundary/bans.ts'
import { Events, type Limit } from '../boundary/events.ts'
import type { Limits } from '../boundary/limits.ts'
import type { LinkInfo } from '../boundary/link.ts'
import { ownerOf } from '../boundary/ownership.ts'
import { absentAuthor, absentClient, type ClientView, guarded, type Policy } from '../boundary/policy.ts'
import { Counters } from './counters.ts'
import { type Deadline, Deadlines } from './deadlines.ts'
import { Doorway } from './doorway.ts'
import { ExpiredRetained } from './expired-retained.ts'
import type { HoldReason } from './read-gate.ts'
import { ShareGroups } from './share-groups.ts'
import { SharedCopies } from './shared-copies.ts'
import { Turn } from './turn.ts'
import { UNITS, Work } from './work.ts'

/** Topics kept interned with their routes: enough for every topic of a fleet of 100,000 that is active. */
const TOPICS_MAX = 131_072

/** Queues are looked through for what has expired as often at most, in ms. */
const SWEEP_MS = 1000

/** What it takes to look through a queue, and to drop one message, in units. */
const SWEEP_UNITS = 30

/** Of a queue that is being looked through. */
const NO_DEADLINE: Deadline = { time: Number.NEGATIVE_INFINITY, action: null }

/** What the world gives the core: time, a later moment, randomness. */
export interface Host {
  /** Monotonic, in ms. */
  now(): number
  /** Wall clock, in ms since 1970. */
  wallNow(): number
  /** How long the machine has been up; null where it does not tell. */
  bootTime(): BootTime | null
  /** Runs the callback once the input that is already there was read (`setImmediate`). */
  defer(callback: () => void): void
  /** A fresh, unguessable identifier of printable characters. */
  randomId(): string
}

/** A client's Network Connection as the rest of the Server sees it. */
export interface ClientConnection extends Sender {
  readonly view: ClientView
  /** Of the address that it came from. */
  readonly address: Usage
  /** Broker time in ms at which CONNECT was accepted; 0 before. */
  readonly connectedAt: number
  /** Keep Alive in force; 0 for none. */
  readonly keepAliveSeconds: number
  /** Handles what the client sent before it left, since it is back; false while that needs later turns. */
  finish(): boolean
  /** Another Network Connection took the Session: 0x8E, and nothing else leaves any more. */
  takenOver(by: LinkInfo): void
  /** Ends the Network Connection for a reason, with DISCONNECT in 5.0. */
  disconnect(reasonCode: number, reason: string): void
  /** A commit was made durable: what waited for it leaves. */
  committed(sequence: number): void
  /** Reads nothing more from it for this reason; false where it held already, or the connection ends. */
  hold(reason: HoldReason): boolean
  /** This reason not to read is gone. */
  release(reason: HoldReason): void
  /** The broker is no longer behind. */
  resume(): void
  /** The store failed: closes what depends on it, so that the client tries again. */
  storeLost(): void
  /** Cuts the transport off. */
  destroy(): void
  /** Bytes that wait for this reader, here and in the transport. */
  readonly waitingBytes: number
  /** Its place among the restless; -1 where it is not. */
  restlessAt: number
  /** What was counted for it when `UsageBook` looked last. */
  countedBytes: number
  /** Bytes that it has us keep: of packets that are not whole or not looked at yet, and of its Topic Aliases. */
  readonly heldBytes: number
  /** It is not read from, since it has the Server keep too much. */
  readonly isPaying: boolean
  /** Ends the Network Connection with 0x97, and throws away what waits for a reader that does not read; `told` is for the client. */
  cut(reason: string, told: string): void
}

/** Something whose output may wait for a commit. */
export interface CommitWaiter {
  committed(sequence: number): void
}

export interface PendingWill {
  readonly record: WillRecord
  /** Runs when a delayed Will is due; null while the client is connected. */
  readonly deadline: Deadline | null
  readonly view: ClientView
  /** Its client's. */
  readonly usage: Usage
  /** When the grace began, in broker time, for a Will that was stored when the broker ended. */
  readonly graceFrom?: number
}

export interface StateOptions {
  readonly host: Host
  readonly store: Store
  readonly limits: Readonly<Limits>
  readonly policy: Policy
}

export class State implements SessionContext {
  readonly host: Host
  readonly store: Store
  readonly limits: Readonly<Limits>
  readonly events: Events
  readonly counters = new Counters()
  readonly work = new Work()
  readonly deadlines = new Deadlines(this.work)
  /** When retained messages expire: what is due of that is done as soon as there is no room for another one. */
  readonly retainedExpiry = new Deadlines(this.work)
  readonly expiredRetained = new ExpiredRetained(this.retainedExpiry)
  readonly topics = new TopicInterner(TOPICS_MAX)
  readonly turn: Turn
  readonly doorway: Doorway
  readonly router = new Router<Session>(this.work)
  retained = new RetainedTree(this.work)
  /** The Server's own values among the retained messages. */
  ownRetained = { count: 0, bytes: 0 }
  /** By topic name, for retained messages that expire. */
  retainedDeadlines = new ChurnMap<string, Deadline>()
  /** By Client Identifier: they come and go with their clients. */
  readonly sessions = new ChurnMap<string, Session>()
  /** Stored Sessions, by their number in the store. */
  readonly sessionsById = new ChurnMap<number, Session>()
  readonly sessionDeadlines = new Map<Session, Deadline>()
  /** When what has expired in queues is given back. */
  readonly sweeps = new Map<Session, Deadline>()
  headDropped: (session: Session) => void = () => {}
  /**
   * Subscriptions that their users may not have at the moment, by topic filter: the Session keeps them, and no message finds
   * them. True where retained messages were under way.
   */
  readonly suspended = new Map<Session, Map<string, boolean>>()
  /** The Network Connection of each Session that has one. */
  readonly connected = new Map<Session, ClientConnection>()
  /** By Client Identifier. */
  readonly wills = new Map<string, PendingWill>()
  /** Who has us keep how much. */
  readonly usage = new UsageBook(this)
  readonly rates = new Rates(this)
  readonly shareGroups = new ShareGroups(this.router, this.usage, this.work)
  #policy: Policy = {}
  checksReceiving = false
  /** What a policy sees of Sessions without a Network Connection. */
  readonly #absent = new WeakMap<Session, ClientView>()
  /** What a policy sees of authors of retained messages. */
  readonly #authors = new WeakMap<Author, ClientView>()
  /** Memory for PUBLISH packets that all receivers share. */
  readonly publishSlab = new PacketSlab()
  readonly sharedCopies = new SharedCopies()
  /** Every open Network Connection, also before CONNECT. */
  readonly connections = new Set<ClientConnection>()
  /** What they have sent of packets that are not whole. */
  readonly incomplete = new Incomplete(this.connections, (limit, clientId, detail) =>
    this.limited(limit, clientId, detail),
  )
  /** Connections whose output waits for a commit. */
  readonly waiting = new Set<CommitWaiter>()
  /** Connections that are paused because the broker is behind. */
  readonly paused = new Set<ClientConnection>()
  /** Connections that something was read from or written to since memory was last looked at, and those that hold some. */
  readonly restless: ClientConnection[] = []
  /** How many clients wait in a queue of a policy to be let in, and when the last one did, in broker time. */
  readonly loginQueue = { length: 0, busyAt: Number.NEGATIVE_INFINITY }
  /** How many sockets there are of clients that are not let in yet, those in a TLS handshake included. */
  newcomers: () => number = () => 0
  /** How much may come in before memory is looked at again, beside once a second. Set by each look. */
  readonly lookAt = { bytesReceived: Number.POSITIVE_INFINITY, entriesMade: Number.POSITIVE_INFINITY }
  /** Looks at memory at the end of this turn. Set by the Server. */
  look: () => void = () => {}
  readonly bans = new Bans(() => this.now())
  nextSessionId = 1
  /** Why everybody's new work is refused for want of memory, since nobody is large; null when all is well. See `Relief`. */
  memoryRefusal: string | null = null
  /** Why nobody is let in at the moment; null when all is well. */
  unavailable: string | null = null
  /** True once the Server is stopping: Wills wait for the next start, new connections are refused. */
  stopping = false
  /** Broker time minus the host's monotonic time, in ms. */
  timeOffset = 0
  /** Time before the start that may not have passed; null when all is certain. See `BrokerClock`. */
  doubt: TimeDoubt | null = null
  /** Retained messages of before the start, while there is doubt. */
  readonly #oldRetained = new WeakSet<Message>()

  constructor(options: StateOptions) {
    this.host = options.host
    // What a listener throws is its program's to deal with, as an uncaught exception; it does not stop the Server's work.
    this.events = new Events((error) => this.thrownOutside(error))
    this.store = options.store
    this.limits = options.limits
    this.policy = options.policy
    this.turn = new Turn(
      () => this.clock,
      (callback) => this.host.defer(callback),
      () => this.#lookIfDue(),
      () => this.store.commit(),
      this.work,
    )
    this.doorway = new Doorway(this.turn)
  }

  /** Broker time of this very moment, in ms; `now` is that of the turn. */
  get clock(): number {
    return this.host.now() + this.timeOffset
  }

  /** Broker time in ms: monotonic, and across restarts wall time that never goes back. */
  now(): number {
    return this.turn.time
  }

  get isInDoubt(): boolean {
    return this.doubt !== null
  }

  /** Whether a message has expired only if the time passed that is in doubt: it is neither sent nor deleted. */
  isDoubtful(message: Message): boolean {
    const { doubt } = this
    if (doubt === null || message.expiresAt > this.now()) return false
    return message.expiresAt + doubt.ms > this.now() && this.isOld(message)
  }

  /** Whether a message was there before the start; of retained ones it is known only while there is doubt. */
  isOld(message: Message): boolean {
    return this.#oldRetained.has(message) || this.store.isOld(message)
  }

  /** Says that a retained message was there before the start. */
  oldRetained(message: Message): void {
    if (this.doubt !== null) this.#oldRetained.add(message)
  }

  /** Whether something happened before the time that is in doubt. */
  isBeforeDoubt(time: number): boolean {
    return this.doubt !== null && time <= this.doubt.since
  }

  /**
   * When something of before the start ends that is to end at `time`: not by time that is in doubt, unless the doubt is
   * over or all of that is not needed.
   */
  heldUntil(time: number): number {
    const { doubt } = this
    return doubt === null ? time : Math.min(time + doubt.ms, Math.max(time, doubt.until))
  }

  /** Something was read from or is written to it. */
  stir(connection: ClientConnection): void {
    connection.restlessAt = this.restless.length
    this.restless.push(connection)
  }

  /** Nothing is held by it, or it is gone: those that come and go within a second would pile up. */
  rest(connection: ClientConnection): void {
    const { restlessAt } = connection
    const last = this.restless.pop()
    if (last === undefined || last === connection) {
      connection.restlessAt = -1
      return
    }
    this.restless[restlessAt] = last
    last.restlessAt = restlessAt
    connection.restlessAt = -1
  }

  /** Looks at memory where so much came in since the last look that it cannot wait for a second to pass. */
  #lookIfDue(): void {
    const { counters, store, lookAt } = this
    if (counters.bytesReceived > lookAt.bytesReceived || store.held.made > lookAt.entriesMade) this.look()
  }

  get policy(): Policy {
    return this.#policy
  }

  /** What was decided by the one before is not asked again by this: `Reauthorization` does that. */
  set policy(policy: Policy) {
    this.#policy = guarded(policy)
    this.checksReceiving = policy.authorizeReceive !== undefined
  }

  mayReceive(session: Session, message: Message): boolean {
    const { authorizeReceive } = this.#policy
    if (authorizeReceive === undefined) return true
    try {
      return authorizeReceive(this.viewOf(session), message.topic.name)
    } catch (error) {
      this.thrownOutside(error)
      return false
    }
  }

  /** Whether the author of a retained message may still publish it, as far as that is known and the policy wants to be asked. */
  authorMayPublish(message: Message): boolean {
    const { author, publisher, topic, qos } = message
    const { checksRetainedAuthor, authorizePublish } = this.#policy
    if (author === null || checksRetainedAuthor !== true || authorizePublish === undefined) return true
    let view = this.#authors.get(author)
    if (view === undefined || view.clientId !== publisher) {
      view = absentAuthor(publisher, author)
      this.#authors.set(author, view)
    }
    const answer = authorizePublish(view, topic.name, qos, true)
    if (typeof answer === 'boolean') return answer
    answer.catch(() => {}) // a policy that cannot answer at once is not waited for
    return true
  }

  /** The same for a member of a Shared Subscription. Subscribers in this process have all rights. */
  mayTake(subscriber: Session, message: Message): boolean {
    const isClient = this.sessions.get(subscriber.clientId) === subscriber
    return !isClient || this.mayReceive(subscriber, message)
  }

  /** The client of a Session, whether or not it is connected. */
  viewOf(session: Session): ClientView {
    const connection = this.connected.get(session)
    if (connection !== undefined) return connection.view
    const known = this.#absent.get(session)
    if (known !== undefined) return known
    const view = absentClient(session.clientId, ownerOf(session))
    this.#absent.set(session, view)
    return view
  }

  /** The Session is of the account with this id now, which has the same name. */
  own(session: Session, userId: string): void {
    session.ownerId = userId
    this.#absent.delete(session)
    if (session.stored) this.store.putSession(session.id, session.record())
  }

  dropped(session: Session, reason: DropReason, delivery: { readonly message: Message }): void {
    this.drop(session.clientId, reason, delivery.message)
  }

  /** Throws what a function of the embedding program threw, where no work of the Server is under way. */
  thrownOutside(error: unknown): void {
    this.host.defer(() => {
      throw error
    })
  }

  /** Counts and tells that a limit refused something. `clientId` is empty where it is not known. */
  limited(limit: Limit, clientId: string, detail: string): void {
    this.counters.limits[limit]++
    this.work.units += UNITS.refused
    if (this.events.has('limited')) this.events.emit('limited', { limit, clientId, detail })
  }

  /** Counts and tells lost deliveries: this one, and others like it. */
  drop(clientId: string, reason: DropReason, message: Message, count = 1): void {
    this.counters.drop(reason, count)
    this.work.units += UNITS.queued
    if (!this.events.has('dropped')) return
    this.events.emit('dropped', { clientId, reason, message, ...(count > 1 && { count }) })
  }

  sweepAt(session: Session, time: number): void {
    // Nothing is given back while time is in doubt.
    const at = Math.max(time, this.now() + SWEEP_MS, this.doubt?.until ?? 0)
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
    // It may have ended since.
    if (!this.sweeps.delete(session)) return
    const { queueLength } = session
    const isMore = session.sweep()
    // As many again may have been looked at, or written anew.
    this.work.units += SWEEP_UNITS * (1 + queueLength - session.queueLength)
    this.headDropped(session)
    if (!isMore) return
    this.sweeps.set(session, NO_DEADLINE)
    this.turn.continueLater(() => this.#sweep(session))
  }

  later(action: () => void): void {
    this.turn.continueLater(action)
  }

  /** The Session is over: nothing of it expires any more. */
  forgetSweep(session: Session): void {
    this.deadlines.cancel(this.sweeps.get(session) ?? null)
    this.sweeps.delete(session)
  }

  mark(session: Session): void {
    this.usage.mark(session)
  }

  restore(session: Session, messages: readonly Message[]): void {
    this.store.restore(messages).then(
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

  /** After the store was lost: what is retained is read again. */
  forgetRetained(): void {
    for (const message of this.retained) this.usage.retainedRemoved(message)
    this.retained = new RetainedTree(this.work)
    this.expiredRetained.clear()
    this.ownRetained = { count: 0, bytes: 0 }
  }

  /** Set by the Server: a read or a commit failed and memory can no longer be trusted. */
  storeFailed: (error: unknown) => void = (error) => {
    throw error
  }
}
