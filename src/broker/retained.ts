/** Retained messages for new Subscriptions (section 3.3.1.3): in slices, as fast as the reader takes them. */
import { type Delivery, type Message, NO_IDENTIFIERS } from '../mqtt/message.ts'
import type { SubscribeRequest } from '../mqtt/packet.ts'
import { effectiveQoS, type Session } from '../session/session.ts'
import type { State } from './state.ts'

/** Steps that one Session gets per turn, a message or a look at a few nodes each, so that nobody else waits for a `#`. */
const SLICE = 256

/** The retained messages of one Subscription, as far as they are still to come. */
interface Cursor {
  readonly filter: string
  readonly request: SubscribeRequest
  readonly identifiers: readonly number[]
  readonly messages: Iterator<Message | null>
  /** Found, and waiting for room. */
  found: Message | null
  /** Whether the store knows that it is under way. */
  pending: boolean
}

/** Everything that is under way to one Session: one cursor after the other. */
interface Course {
  readonly session: Session
  /** By topic filter, in the order of the Subscriptions. */
  readonly cursors: Map<string, Cursor>
  scheduled: boolean
}

export class RetainedDelivery {
  readonly #state: State
  readonly #courses = new Map<Session, Course>()

  constructor(state: State) {
    this.#state = state
  }

  /** Sessions to which retained messages are still under way. */
  get size(): number {
    return this.#courses.size
  }

  /** Whether retained messages are still under way to a Session. */
  waits(session: Session): boolean {
    return this.#courses.size > 0 && this.#courses.has(session)
  }

  /** Begins the delivery of all retained messages that match these Subscriptions of a Session. */
  start(session: Session, requests: readonly SubscribeRequest[], identifier: number): void {
    const wanted = this.#worthLooking(session, requests)
    if (wanted.length === 0) return
    const course = this.#course(session)
    for (const request of wanted) this.#add(course, request, identifier)
    this.#run(course)
    if (!session.stored) return
    // SUBACK promises the rest as well: a crash must not swallow it.
    for (const cursor of course.cursors.values()) this.#mark(session, cursor, true)
  }

  /**
   * As `start`, for a slice of a SUBSCRIBE that is not answered yet: nothing is sent before `resume`, unless something is
   * under way already, which section 3.8.4 allows. What matches nothing is left out at once, so that very many filters
   * leave no more behind than they need.
   */
  enlist(session: Session, requests: readonly SubscribeRequest[], identifier: number): void {
    const wanted = this.#worthLooking(session, requests)
    if (wanted.length === 0) return
    const course = this.#course(session)
    for (const request of wanted) {
      const cursor = this.#add(course, request, identifier)
      const first = cursor.messages.next()
      if (first.done === true) {
        course.cursors.delete(cursor.filter)
        continue
      }
      cursor.found = first.value
      if (session.stored) this.#mark(session, cursor, true)
    }
    if (course.cursors.size === 0) this.#courses.delete(session)
  }

  /** Most filters match nothing that is retained, and are done with a look. What is under way may have to be replaced. */
  #worthLooking(session: Session, requests: readonly SubscribeRequest[]): readonly SubscribeRequest[] {
    const { retained } = this.#state
    if (requests.length === 0 || retained.count === 0) return []
    if (this.#courses.has(session)) return requests
    return requests.filter(({ filter }) => retained.mayMatch(filter))
  }

  #course(session: Session): Course {
    const course = this.#courses.get(session) ?? {
      session,
      cursors: new Map<string, Cursor>(),
      scheduled: false,
    }
    this.#courses.set(session, course)
    return course
  }

  #add({ cursors }: Course, request: SubscribeRequest, identifier: number): Cursor {
    const { filter } = request
    const cursor: Cursor = {
      filter,
      request,
      identifiers: identifier === 0 ? NO_IDENTIFIERS : [identifier],
      messages: this.#state.retained.match(filter)[Symbol.iterator](),
      found: null,
      pending: false,
    }
    cursors.delete(filter)
    cursors.set(filter, cursor)
    return cursor
  }

  #mark(session: Session, cursor: Cursor, pending: boolean): void {
    const record = session.subscriptions.get(cursor.filter)
    if (record === undefined || cursor.pending === pending) return
    cursor.pending = pending
    const marked = pending ? ({ ...record, retainedPending: true } as const) : record
    this.#state.store.putSubscription(session.id, cursor.filter, marked)
  }

  /**
   * Stops what is under way for a Session, or for one of its filters: unsubscribed, suspended, or ended. False when nothing
   * was.
   */
  cancel(session: Session, filter?: string): boolean {
    const course = this.#courses.get(session)
    if (course === undefined) return false
    const { size } = course.cursors
    if (filter === undefined) course.cursors.clear()
    else course.cursors.delete(filter)
    if (course.cursors.size === 0) this.#courses.delete(session)
    return course.cursors.size < size
  }

  /** Stops everything that is under way, without a word to the store. */
  clear(): void {
    this.#courses.clear()
  }

  /** The Session has room again, or its client is back: its deliveries go on. */
  resume(session: Session): void {
    if (this.#courses.size === 0) return
    const course = this.#courses.get(session)
    if (course !== undefined && session.hasRoom) this.#schedule(course)
  }

  #schedule(course: Course): void {
    if (course.scheduled) return
    course.scheduled = true
    this.#state.turn.continueLater(() => {
      course.scheduled = false
      if (this.#courses.get(course.session) === course) this.#run(course)
    })
  }

  #run(course: Course): void {
    const { session, cursors } = course
    for (let step = 0; step < SLICE; step++) {
      const first = cursors.values().next()
      if (first.done === true) {
        if (this.#courses.get(session) === course) this.#courses.delete(session)
        return
      }
      if (!this.#step(session, cursors, first.value)) return
    }
    this.#schedule(course)
  }

  /** Looks for a message, or hands over the one that was found; false while the Session has no room for it. */
  #step(session: Session, cursors: Map<string, Cursor>, cursor: Cursor): boolean {
    const waited = cursor.found !== null
    if (!waited) {
      const next = cursor.messages.next()
      if (next.done === true) {
        cursors.delete(cursor.filter)
        this.#mark(session, cursor, false)
      } else cursor.found = next.value
      if (cursor.found === null) return true
    }
    // Without room it waits: the Session says so when it has some again.
    if (!session.hasRoom) return false
    const found = cursor.found!
    cursor.found = null
    // While it waited it may have been replaced or removed; an older one must not come after a newer.
    const message = waited ? this.#state.retained.get(found.topic.name) : found
    if (message !== undefined) this.#deliver(session, cursor, message)
    return true
  }

  #deliver(session: Session, cursor: Cursor, message: Message): void {
    // No Local holds for retained messages, too [MQTT-3.8.3-3]: a bridge that comes back would be given its own old value
    // just before it brings the new one, which nobody sends back to it.
    if (cursor.request.noLocal && message.publisher === session.clientId) return
    if (message.expiresAt <= this.#state.now()) return
    const delivery: Delivery = {
      message,
      qos: effectiveQoS(message.qos, cursor.request.qos),
      retain: true, // section 3.3.1.3: a retained message for a new Subscription
      subscriptionIdentifiers: cursor.identifiers,
      share: null,
    }
    const gate = delivery.qos > 0 && session.stored ? this.#state.store.openSequence : 0
    session.deliver(delivery, gate)
  }
}
