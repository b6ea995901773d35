/**
 * Rights that change while Sessions live. Whoever is not let in any more loses its connections. A Subscription that is not
 * allowed any more is suspended: nothing is taken away that could not be given back.
 */
import { Reason } from '../../mqtt/reason.ts'
import type { Session } from '../../session/session.ts'
import type { ClientView } from '../boundary/policy.ts'
import type { ServerState } from '../state/server-state.ts'
import { SLICE_UNITS } from '../state/work.ts'
import { ASK_UNITS, type Subscribing } from './subscribe.ts'

/** Whose connections end: users by name, or all for whom the function answers true. */
export type Lost = ReadonlySet<string> | ((client: ClientView) => boolean)

/** What a change of rights did. Subscriptions about which a policy takes its time are not in it. */
export interface Reauthorized {
  /** Connections that ended, and of these those of clients without credentials. */
  readonly connectionsEnded: number
  readonly anonymousEnded: number
  /** Wills that these connections left, and that were published, or denied. */
  readonly willsPublished: number
  readonly willsDenied: number
  /** Subscriptions that are not allowed any more, the Sessions that have them, and Subscriptions that are allowed again. */
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
  /** What is still to be looked at; null when nothing is. */
  #rest: Iterator<[Session, string]> | null = null
  /** Changes so far. */
  #round = 0
  #done: { -readonly [K in keyof Reauthorized]: number } = { ...NOTHING }
  /** The Session that was looked at last among those with a suspended Subscription. */
  #lastSuspended: Session | null = null
  readonly #waiters: ((done: Reauthorized) => void)[] = []

  constructor(state: ServerState, subscribing: Subscribing) {
    this.#state = state
    this.#subscribing = subscribing
  }

  /** False when every Session was looked at since the last change. */
  get underWay(): boolean {
    return this.#rest !== null
  }

  /** Resolves with what was done once every Session was looked at: since the last change, or those that overlapped with it. */
  finished(): Promise<Reauthorized> {
    if (this.#rest === null) return Promise.resolve({ ...this.#done })
    return new Promise((resolve) => {
      this.#waiters.push(resolve)
    })
  }

  /**
   * The policy is another one, or decides otherwise. The connections of `lost` are closed in this turn. Subscriptions that are
   * not allowed any more are suspended in slices, and those that are allowed again go on; what the former find meanwhile is
   * for `authorizeReceive` to hold back.
   */
  start(lost: Lost): void {
    const { policy, sessions, suspended } = this.#state
    // What an earlier policy is still to answer does not hold any more.
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
      const who = view.userName === null ? 'clients without credentials' : 'this user'
      connection.disconnect(Reason.NotAuthorized, `what let ${who} in does not hold any more`)
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
    const { policy } = this.#state
    const decision = policy.authorizeSubscribe?.(this.#state.viewOf(session), filter, record.qos) ?? true
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
      // Records tell nothing: those of Subscriptions that are alike are one object.
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
   * The Session keeps the Subscription, so that it is there when the right is. No packet says that messages have stopped:
   * the connection is closed, with 0x87 and the filter in 5.0, so that the client asks again and SUBACK refuses it. Silence
   * would leave it waiting for messages that do not come.
   */
  #suspend(session: Session, filter: string): void {
    // A client that came back to a suspended Subscription was told once.
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
    // What is subscribed to meanwhile was asked about then.
    let left = session.subscriptions.size
    for (const filter of session.subscriptions.keys()) {
      if (left-- === 0) break
      yield [session, filter]
    }
  }
}
