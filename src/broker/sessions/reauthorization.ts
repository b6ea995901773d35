/**
 * Applies changed rights to living Sessions. Clients that are no longer admitted lose their connections.
 * Subscriptions that are no longer allowed are suspended, so that they can be given back.
 */
import { Reason } from '../../mqtt/reason.ts'
import type { Session } from '../../session/session.ts'
import type { ClientView } from '../boundary/policy.ts'
import { maySubscribe } from '../state/queue-port.ts'
import type { ServerState } from '../state/server-state.ts'
import { SLICE_UNITS } from '../state/work.ts'
import { ASK_UNITS, type Subscribing } from './subscribe.ts'

/** Clients whose connections end: users by name, or all for which the function returns true. */
export type Lost = ReadonlySet<string> | ((client: ClientView) => boolean)

/** Effects of a change of rights, without Subscriptions about which a policy has not answered yet. */
export interface Reauthorized {
  /** Connections that ended, and how many of these were of clients without credentials. */
  readonly connectionsEnded: number
  readonly anonymousEnded: number
  /** Wills of these connections that were published, and those that were denied. */
  readonly willsPublished: number
  readonly willsDenied: number
  /**
   * Subscriptions that were suspended, the Sessions that have them, and Subscriptions that are allowed again.
   */
  readonly subscriptionsSuspended: number
  readonly sessionsSuspended: number
  readonly subscriptionsResumed: number
}

const NOTHING: Reauthorized = Object.freeze({
  connectionsEnded: 0,
  anonymousEnded: 0,
  willsPublished: 0,
  willsDenied: 0,
  subscriptionsSuspended: 0,
  sessionsSuspended: 0,
  subscriptionsResumed: 0,
})

export class Reauthorization {
  readonly #state: ServerState
  readonly #subscribing: Subscribing
  /** Sessions that are still to be checked; null when there are none. */
  #rest: Iterator<[Session, string]> | null = null
  /** Number of changes so far. */
  #round = 0
  #done: { -readonly [K in keyof Reauthorized]: number } = { ...NOTHING }
  /** The Session that was checked last among those with a suspended Subscription. */
  #lastSuspended: Session | null = null
  readonly #waiters: ((done: Reauthorized) => void)[] = []

  constructor(state: ServerState, subscribing: Subscribing) {
    this.#state = state
    this.#subscribing = subscribing
  }

  /** Whether Sessions are still to be checked after the last change. */
  get underWay(): boolean {
    return this.#rest !== null
  }

  /**
   * Resolves when every Session was checked, with the effects of the last change and of those it overlapped
   * with.
   */
  finished(): Promise<Reauthorized> {
    if (this.#rest === null) return Promise.resolve({ ...this.#done })
    return new Promise((resolve) => {
      this.#waiters.push(resolve)
    })
  }

  /**
   * Applies another policy, or another decision of the same one. The connections of `lost` are closed in this
   * turn. Subscriptions are suspended, and allowed again, in slices. Until then `authorizeReceive` holds back
   * messages for Subscriptions that are not allowed any more.
   */
  start(lost: Lost): void {
    const { policy, sessions, suspended } = this.#state
    // Answers of an earlier policy that are still to come do not count any more.
    this.#subscribing.asked.clear()
    this.#round++
    const isUnderWay = this.#rest !== null
    if (!isUnderWay) this.#done = { ...NOTHING }
    this.#lastSuspended = null
    this.#state.turn.begin()
    this.#disconnect(lost)
    const looked = policy.authorizeSubscribe === undefined ? suspended.keys() : sessions.values()
    this.#rest = subscriptionsOf(looked)
    if (!isUnderWay) this.#run()
  }

  #disconnect(lost: Lost): void {
    const { connected, counters } = this.#state
    const isLost =
      typeof lost === 'function'
        ? lost
        : ({ userName }: ClientView) => userName !== null && lost.has(userName)
    if (typeof lost !== 'function' && lost.size === 0) return
    const { willsPublished, willsDenied } = counters
    for (const connection of [...connected.values()]) {
      const { view } = connection
      if (!isLost(view)) continue
      this.#done.connectionsEnded++
      if (view.userName === null) this.#done.anonymousEnded++
      const reason =
        view.userName === null
          ? 'clients without credentials are no longer accepted'
          : 'the log-in of this user is no longer valid'
      connection.disconnect(Reason.NotAuthorized, reason)
    }
    this.#done.willsPublished += counters.willsPublished - willsPublished
    this.#done.willsDenied += counters.willsDenied - willsDenied
  }

  #run(): void {
    const { work } = this.#state
    const until = work.units + SLICE_UNITS
    while (this.#rest !== null && work.units < until) {
      work.units += ASK_UNITS
      const next = this.#rest.next()
      if (next.done === true) this.#rest = null
      else this.#look(...next.value)
    }
    if (this.#rest !== null && !this.#state.stopping) {
      this.#state.turn.continueLater(() => this.#run())
      return
    }
    this.#rest = null
    for (const resolve of this.#waiters.splice(0)) resolve({ ...this.#done })
  }

  #look(session: Session, filter: string): void {
    const record = session.subscriptions.get(filter)
    if (record === undefined) return
    const decision = maySubscribe(this.#state, this.#state.rights.viewOf(session), filter, record.qos)
    if (!(decision instanceof Promise)) {
      this.#decided(session, filter, decision === true)
      return
    }
    const round = this.#round
    const { asked } = this.#subscribing
    const filters = asked.get(session) ?? new Set()
    asked.set(session, filters.add(filter))
    const answered = (allowed: boolean): void => {
      if (round !== this.#round) return
      // The records cannot be compared: equal Subscriptions share one object.
      const isSame = filters.delete(filter)
      if (filters.size === 0) asked.delete(session)
      if (!isSame || !session.subscriptions.has(filter) || this.#state.stopping) return
      this.#state.turn.begin()
      this.#decided(session, filter, allowed)
    }
    decision.then(
      (answer) => answered(answer === true),
      () => answered(false),
    )
  }

  #decided(session: Session, filter: string, allowed: boolean): void {
    if (!allowed) this.#suspend(session, filter)
    else if (this.#state.suspended.size > 0 && this.#subscribing.resume(session, filter)) {
      this.#done.subscriptionsResumed++
      this.#tell('subscription-resumed', session, filter)
    }
  }

  /**
   * Suspends a Subscription. The Session keeps it, in case the right comes back. No packet can tell a client
   * that messages have stopped, and it would wait for them in vain. So the connection is closed, with 0x87
   * and the filter in 5.0; the client comes back, subscribes again, and SUBACK refuses it.
   */
  #suspend(session: Session, filter: string): void {
    // A client that came back to a suspended Subscription has been told once.
    if (!this.#subscribing.suspend(session, filter)) return
    this.#done.subscriptionsSuspended++
    if (this.#lastSuspended !== session) this.#done.sessionsSuspended++
    this.#lastSuspended = session
    this.#tell('subscription-stopped', session, filter)
    const connection = this.#state.connected.get(session)
    if (connection === undefined) return
    this.#done.connectionsEnded++
    if (connection.view.userName === null) this.#done.anonymousEnded++
    connection.disconnect(Reason.NotAuthorized, `the Subscription to ${filter} is not allowed any more`)
  }

  #tell(kind: 'subscription-stopped' | 'subscription-resumed', session: Session, filter: string): void {
    if (!this.#state.events.has('security')) return
    const { clientId: subject, owner } = session
    const detail = `${filter}, of ${owner === null ? 'an anonymous client' : `user ${owner}`}`
    this.#state.events.emit('security', { kind, subject, by: 'broker', detail })
  }
}

function* subscriptionsOf(sessions: Iterable<Session>): Generator<[Session, string]> {
  for (const session of sessions) {
    // Subscriptions made meanwhile were decided under the new rights.
    let left = session.subscriptions.size
    for (const filter of session.subscriptions.keys()) {
      if (left-- === 0) break
      yield [session, filter]
    }
  }
}
