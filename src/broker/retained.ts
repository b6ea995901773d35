/** Retained messages for new Subscriptions (section 3.3.1.3): in slices, as fast as the reader takes them. */
import { type Delivery, type Message, NO_IDENTIFIERS } from '../mqtt/message.ts'
import type { SubscribeRequest } from '../mqtt/packet.ts'
import { effectiveQoS, type Session } from '../session/session.ts'
import type { State } from './state.ts'

/** Retained messages handed to one Session per turn, so that nobody else waits for a `#`. */
const SLICE = 256

interface Cursor {
  readonly session: Session
  readonly filter: string
  readonly request: SubscribeRequest
  readonly identifiers: readonly number[]
  readonly messages: Iterator<Message | null>
  scheduled: boolean
  /** Whether the store knows that it is under way. */
  pending: boolean
}

export class RetainedDelivery {
  readonly #state: State
  readonly #cursors = new Map<Session, Cursor[]>()

  constructor(state: State) {
    this.#state = state
  }

  /** Subscriptions whose retained messages are still under way. */
  get size(): number {
    return this.#cursors.size
  }

  /** Whether retained messages are still under way to a Session. */
  waits(session: Session): boolean {
    return this.#cursors.size > 0 && this.#cursors.has(session)
  }

  /** Begins the delivery of all retained messages that match a Subscription. */
  start(session: Session, request: SubscribeRequest, identifier: number): void {
    this.cancel(session, request.filter)
    const cursor: Cursor = {
      session,
      filter: request.filter,
      request,
      identifiers: identifier === 0 ? NO_IDENTIFIERS : [identifier],
      messages: this.#state.retained.match(request.filter)[Symbol.iterator](),
      scheduled: false,
      pending: false,
    }
    const cursors = this.#cursors.get(session)
    if (cursors === undefined) this.#cursors.set(session, [cursor])
    else cursors.push(cursor)
    this.#run(cursor)
    // SUBACK promises the rest as well: a crash must not swallow it.
    if (this.#isActive(cursor) && session.stored) this.#mark(cursor, true)
  }

  #isActive(cursor: Cursor): boolean {
    return this.#cursors.get(cursor.session)?.includes(cursor) === true
  }

  #mark(cursor: Cursor, pending: boolean): void {
    const { session, filter } = cursor
    const record = session.subscriptions.get(filter)
    if (record === undefined || cursor.pending === pending) return
    cursor.pending = pending
    this.#state.store.putSubscription(
      session.id,
      filter,
      pending ? { ...record, retainedPending: true } : record,
    )
  }

  /** Stops what is under way for a Session, or for one of its filters: unsubscribed, replaced, or ended. */
  cancel(session: Session, filter?: string): void {
    const cursors = this.#cursors.get(session)
    if (cursors === undefined) return
    const left = filter === undefined ? [] : cursors.filter((cursor) => cursor.filter !== filter)
    if (left.length === 0) this.#cursors.delete(session)
    else this.#cursors.set(session, left)
  }

  /** The Session has room again, or its client is back: its deliveries go on. */
  resume(session: Session): void {
    const cursors = this.#cursors.get(session)
    if (cursors === undefined) return
    for (const cursor of [...cursors]) this.#schedule(cursor)
  }

  #schedule(cursor: Cursor): void {
    if (cursor.scheduled) return
    cursor.scheduled = true
    this.#state.turn.continueLater(() => {
      cursor.scheduled = false
      if (this.#isActive(cursor)) this.#run(cursor)
    })
  }

  #run(cursor: Cursor): void {
    const { session } = cursor
    for (let step = 0; step < SLICE; step++) {
      // Without room it waits: the Session says so when it has some again.
      if (!session.hasRoom) return
      const message = this.#next(cursor)
      if (message === undefined) {
        this.cancel(session, cursor.filter)
        this.#mark(cursor, false)
        return
      }
      if (message !== null) this.#deliver(cursor, message)
    }
    this.#schedule(cursor)
  }

  /** Undefined at the end; null where the search goes on. */
  #next(cursor: Cursor): Message | null | undefined {
    const step = cursor.messages.next()
    return step.done === true ? undefined : step.value
  }

  #deliver(cursor: Cursor, message: Message): void {
    if (message.expiresAt <= this.#state.now()) return
    const delivery: Delivery = {
      message,
      qos: effectiveQoS(message.qos, cursor.request.qos),
      retain: true, // section 3.3.1.3: a retained message for a new Subscription
      subscriptionIdentifiers: cursor.identifiers,
      share: null,
    }
    const gate = delivery.qos > 0 && cursor.session.stored ? this.#state.store.openSequence : 0
    cursor.session.deliver(delivery, gate)
  }
}
