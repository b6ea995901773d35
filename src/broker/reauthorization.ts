/** Rights that change while Sessions live: who is not let in any more goes, and Subscriptions that are not allowed end. */
import { Reason } from '../mqtt/reason.ts'
import type { Session } from '../session/session.ts'
import type { State } from './state.ts'
import type { Subscribing } from './subscribe.ts'

/** Subscriptions that are looked at in one turn, so that nobody waits for very many of them. */
const SLICE = 512

export class Reauthorization {
  readonly #state: State
  readonly #subscribing: Subscribing
  /** What is still to be looked at; null when nothing is. */
  #rest: Iterator<[Session, string]> | null = null
  /** Changes so far. */
  #round = 0

  constructor(state: State, subscribing: Subscribing) {
    this.#state = state
    this.#subscribing = subscribing
  }

  /** False when every Session was looked at since the last change. */
  get underWay(): boolean {
    return this.#rest !== null
  }

  /**
   * The policy is another one, or decides otherwise. Connections of the users in `lost` are closed in this turn. Subscriptions
   * that are not allowed any more end in slices; what they find meanwhile is for `authorizeReceive` to hold back.
   */
  start(lost: ReadonlySet<string>): void {
    const { connected, policy } = this.#state
    // What an earlier policy is still to answer does not hold any more.
    this.#subscribing.asked.clear()
    this.#round++
    this.#state.turn.begin()
    if (lost.size > 0) {
      for (const connection of [...connected.values()]) {
        const { userName } = connection.view
        if (userName === null || !lost.has(userName)) continue
        connection.disconnect(Reason.NotAuthorized, 'what let this user in does not hold any more')
      }
    }
    if (policy.authorizeSubscribe === undefined) {
      this.#rest = null
      return
    }
    const isUnderWay = this.#rest !== null
    this.#rest = subscriptionsOf(this.#state.sessions.values())
    if (!isUnderWay) this.#run()
  }

  #run(): void {
    for (let step = 0; step < SLICE && this.#rest !== null; step++) {
      const next = this.#rest.next()
      if (next.done === true) this.#rest = null
      else this.#look(...next.value)
    }
    if (this.#rest !== null && !this.#state.stopping) this.#state.turn.continueLater(() => this.#run())
    else this.#rest = null
  }

  #look(session: Session, filter: string): void {
    const record = session.subscriptions.get(filter)
    if (record === undefined) return
    const decision = this.#state.policy.authorizeSubscribe?.(this.#state.viewOf(session), filter, record.qos)
    if (decision === undefined || decision === true) return
    if (!(decision instanceof Promise)) {
      this.#end(session, filter)
      return
    }
    const round = this.#round
    const { asked } = this.#subscribing
    const filters = asked.get(session) ?? new Set()
    asked.set(session, filters.add(filter))
    const decided = (allowed: boolean): void => {
      if (round !== this.#round) return
      // Records tell nothing: those of Subscriptions that are alike are one object.
      const isSame = filters.delete(filter)
      if (filters.size === 0) asked.delete(session)
      if (allowed || !isSame || !session.subscriptions.has(filter) || this.#state.stopping) return
      this.#state.turn.begin()
      this.#end(session, filter)
    }
    decision.then(
      (answer) => decided(answer === true),
      () => decided(false),
    )
  }

  /**
   * No packet says that a Subscription has ended: the connection is closed, with 0x87 and the filter in 5.0, so that the
   * client asks again and SUBACK refuses it. A silent end would leave it waiting for messages that never come.
   */
  #end(session: Session, filter: string): void {
    const client = this.#state.viewOf(session)
    this.#subscribing.remove(session, filter)
    if (this.#state.events.has('unsubscribed')) {
      this.#state.events.emit('unsubscribed', { client, filter, reasonCode: Reason.NotAuthorized })
    }
    if (this.#state.events.has('security')) {
      const { clientId: subject } = session
      const detail = `${filter}, of ${client.userName === null ? 'an anonymous client' : `user ${client.userName}`}`
      this.#state.events.emit('security', { kind: 'subscription-stopped', subject, by: 'broker', detail })
    }
    const reason = `the Subscription to ${filter} is not allowed any more`
    this.#state.connected.get(session)?.disconnect(Reason.NotAuthorized, reason)
  }
}

function* subscriptionsOf(sessions: Iterable<Session>): Generator<[Session, string]> {
  for (const session of sessions) {
    for (const filter of [...session.subscriptions.keys()]) yield [session, filter]
  }
}
