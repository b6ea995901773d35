/**
 * Delivers retained messages to new Subscriptions (section 3.3.1.3), in slices and as fast as the reader
 * takes them.
 *
 * For a subscriber the messages of a topic have one order, whether retained or live. A live message that is
 * not retained does not replace the retained one, so both must come, the retained one first. While retained
 * messages are under way, each live message therefore asks whether the retained one of its topic is still to
 * come. If so, that one is sent right before the live one, and the walk skips it later.
 */
import type { Message } from '../../mqtt/message.ts'
import type { QoS, SubscribeRequest, SubscriptionOptions } from '../../mqtt/packet.ts'
import { hasWildcard } from '../../routing/filter.ts'
import type { RouteEntry } from '../../routing/subscription.ts'
import { effectiveQoS, type Session } from '../../session/session.ts'
import type { ServerState } from '../state/server-state.ts'
import { SLICE_UNITS, UNITS } from '../state/work.ts'
import { LiveMessages } from './live-messages.ts'
import { RetainedCursor } from './retained-cursor.ts'

/** Steps for one Session in a turn, within a slice of work, so that nobody else waits for a `#`. */
const STEPS_MAX = 256

/** Cost of a step, in units, beside the messages it looks at. */
const STEP_UNITS = 2

/**
 * Topic names in each set that is kept while retained messages are under way to a Session: 4 MB at most.
 * Where the number matters, the cursors of a Session share it.
 */
const NAMES_MAX = 65_536

/** Stands for a Subscription for which there was no time yet. */
const NOT_LOOKED: IteratorResult<Message | null> = { done: false, value: null }

/** Everything that is still to come to one Session: one cursor after the other. */
interface Course {
  readonly session: Session
  /** By topic filter, in the order of the Subscriptions. */
  readonly cursors: Map<string, RetainedCursor>
  scheduled: boolean
}

export class RetainedDelivery {
  /** Orders retained messages and live ones of the same topic. */
  readonly live: LiveMessages
  readonly #state: ServerState
  readonly #courses = new Map<Session, Course>()
  /** Whether a delivery goes on only when the disk has space. */
  #waitsForDisk = false

  constructor(state: ServerState) {
    this.#state = state
    this.live = new LiveMessages(state)
  }

  /** Sessions to which retained messages are still under way. */
  get size(): number {
    return this.#courses.size
  }

  /** Whether retained messages are still under way to a Session. */
  waits(session: Session): boolean {
    return this.#courses.size > 0 && this.#courses.has(session)
  }

  // ── beginning and end ───────────────────────────────────────────────────────────────────────────────

  /** Begins the delivery of all retained messages that match these Subscriptions of a Session. */
  start(session: Session, requests: readonly SubscribeRequest[], identifier: number): void {
    const wanted = this.#worthLooking(session, requests)
    if (wanted.length === 0) return
    const course = this.#course(session)
    const added = wanted.map((request) => this.#add(course, request, identifier, this.live.tick()))
    this.#run(course)
    if (session.stored) this.#markLeft(course, added)
  }

  /**
   * Goes on after a restart for a Subscription that began at `since`; messages not known to have come are
   * sent again.
   */
  restart(session: Session, request: SubscribeRequest, identifier: number, since: number): void {
    if (this.#worthLooking(session, [request]).length === 0) return
    const course = this.#course(session)
    const cursor = this.#add(course, request, identifier, since)
    this.#run(course)
    this.#markLeft(course, [cursor])
  }

  /** Records the Subscriptions with messages still to come: SUBACK promises these, also after a crash. */
  #markLeft({ session, cursors }: Course, added: readonly RetainedCursor[]): void {
    for (const cursor of added) {
      if (cursors.get(cursor.filter) === cursor) this.#mark(session, cursor, true)
    }
  }

  /**
   * As `start`, for a slice of a SUBSCRIBE that is not answered yet: nothing is sent before `resume`, unless
   * something is under way already, which section 3.8.4 allows. Filters that match nothing are left out at
   * once, to save memory when there are very many.
   */
  enlist(session: Session, requests: readonly SubscribeRequest[], identifier: number): void {
    const wanted = this.#worthLooking(session, requests)
    if (wanted.length === 0) return
    const course = this.#course(session)
    const { work } = this.#state
    const until = work.units + SLICE_UNITS
    for (const request of wanted) {
      const cursor = this.#add(course, request, identifier, this.live.tick())
      const first = work.units < until ? cursor.messages.next() : NOT_LOOKED
      if (first.done === true) {
        course.cursors.delete(cursor.filter)
        continue
      }
      cursor.found = first.value?.topic.name ?? null
      if (session.stored) this.#mark(session, cursor, true)
    }
    if (course.cursors.size === 0) this.#ended(session)
  }

  /**
   * Handles a client that subscribed again and asked for no retained messages: those that are still to come
   * for its earlier SUBSCRIBE are sent with the new options [MQTT-3.8.4-3].
   */
  replaced(session: Session, filter: string, options: SubscriptionOptions, identifier: number): void {
    const cursor = this.#courses.get(session)?.cursors.get(filter)
    if (cursor === undefined) return
    cursor.replace(options, identifier)
    if (!cursor.pending) return
    // The Subscription's new record does not say that messages are still to come.
    cursor.pending = false
    this.#mark(session, cursor, true)
  }

  /**
   * Leaves out filters that match nothing retained, unless a delivery that is under way may have to be
   * replaced.
   */
  #worthLooking(session: Session, requests: readonly SubscribeRequest[]): readonly SubscribeRequest[] {
    const { retained } = this.#state
    if (requests.length === 0 || retained.count === 0) return []
    if (this.#courses.has(session)) return requests
    return requests.filter(({ filter }) => retained.mayMatch(filter))
  }

  #course(session: Session): Course {
    const course = this.#courses.get(session) ?? {
      session,
      cursors: new Map<string, RetainedCursor>(),
      scheduled: false,
    }
    this.#courses.set(session, course)
    return course
  }

  #add(
    { session, cursors }: Course,
    request: SubscribeRequest,
    identifier: number,
    since: number,
  ): RetainedCursor {
    const { filter } = request
    const messages = this.#state.retained.match(filter)[Symbol.iterator]()
    const cursor = new RetainedCursor(request, identifier, since, messages)
    if (session.stored) this.live.subscribed(since)
    cursors.delete(filter)
    cursors.set(filter, cursor)
    return cursor
  }

  #mark(session: Session, cursor: RetainedCursor, pending: boolean): void {
    const record = session.subscriptions.get(cursor.filter)
    if (record === undefined || cursor.pending === pending) return
    cursor.pending = pending
    const marked = pending
      ? ({ ...record, retainedPending: true, retainedSince: cursor.storedSince } as const)
      : record
    this.#state.store.putSubscription(session.id, cursor.filter, marked)
  }

  /**
   * Stops the delivery to a Session, or for one of its filters: it is unsubscribed, suspended or ended. False
   * when nothing was under way.
   */
  cancel(session: Session, filter?: string): boolean {
    const course = this.#courses.get(session)
    if (course === undefined) return false
    const { size } = course.cursors
    if (filter === undefined) course.cursors.clear()
    else course.cursors.delete(filter)
    if (course.cursors.size === 0) this.#ended(session)
    return course.cursors.size < size
  }

  /** Stops all deliveries, and does not tell the store. */
  clear(): void {
    for (const session of [...this.#courses.keys()]) this.#ended(session)
  }

  #ended(session: Session): void {
    this.#courses.delete(session)
    if (this.#courses.size === 0) this.live.forget()
  }

  // ── live messages meanwhile ─────────────────────────────────────────────────────────────────────────

  /**
   * Sends the retained message of the topic, if it is still to come, before the live message that goes to a
   * Session now. That one goes at QoS `delivered`, or not at all if this is null (No Local). Returns false if
   * the retained one must wait for the disk: a live one at QoS 0 must not bring it onto a disk that is short,
   * nor pass it.
   */
  precede(routed: RouteEntry<Session>, message: Message, delivered: QoS | null): boolean {
    const current = this.live.retained
    const course = this.#courses.get(routed.subscriber)
    if (course === undefined || current === undefined) return true
    const { session, cursors } = course
    const waits = delivered === 0 && this.#waitsForSpace(course, routed, message, current)
    const isTaken = delivered !== null && !waits && session.takes(message, delivered)
    this.#state.work.units += routed.subscriptions.length
    for (const { filter } of routed.subscriptions) {
      const cursor = cursors.get(filter)
      if (cursor === undefined) continue
      if (isTaken && session.stored && current !== message) this.live.record(current)
      if (!cursor.isToCome(message.topic.name, this.live.before)) continue
      if (isTaken) this.#sendFirst(session, cursor, message, current)
      else this.#owe(course, cursor, current)
    }
    return !waits
  }

  /**
   * Whether the retained message is still to come for a Subscription and would be stored, while the disk is
   * short.
   */
  #waitsForSpace(
    { session, cursors }: Course,
    { subscriptions }: RouteEntry<Session>,
    message: Message,
    current: Message,
  ): boolean {
    if (!session.stored || current === message || this.#state.store.refusalFor(current.size) === null)
      return false
    return subscriptions.some(({ filter }) => {
      const cursor = cursors.get(filter)
      if (cursor === undefined || effectiveQoS(current.qos, cursor.qos) === 0) return false
      return cursor.isToCome(message.topic.name, this.live.before) && this.#isFor(session, cursor, current)
    })
  }

  #sendFirst(session: Session, cursor: RetainedCursor, message: Message, current: Message): void {
    const { name } = message.topic
    cursor.owed?.delete(name)
    // A live message that is retained itself has replaced the one that was to come.
    if (current === message || !this.#isFor(session, cursor, current)) return
    if (!this.#isAuthorized(session, current)) return
    const delivery = cursor.deliveryOf(current)
    session.deliverAhead(delivery, delivery.qos > 0 ? session.durableAt : 0)
  }

  /** Remembers that the live message was dropped, so that the walk does not skip the retained one. */
  #owe({ session, cursors }: Course, cursor: RetainedCursor, current: Message): void {
    const { name } = current.topic
    cursor.owed ??= new Set()
    if (cursor.owed.has(name)) return
    if (cursor.owed.size >= NAMES_MAX / cursors.size) {
      this.#state.drop(session.clientId, 'slow-reader', current)
      return
    }
    cursor.owed.add(name)
    if (!cursor.pending) return
    // After a restart it must still come; others that were sent may come again with it.
    cursor.storedSince = this.live.now
    cursor.pending = false
    this.#mark(session, cursor, true)
  }

  // ── the walk ────────────────────────────────────────────────────────────────────────────────────────

  /** Goes on for a Session that has room again, or whose client is back. */
  resume(session: Session): void {
    if (this.#courses.size === 0) return
    const course = this.#courses.get(session)
    if (course !== undefined && session.hasRoomFor(0)) this.#schedule(course)
  }

  /**
   * Goes on for Sessions that wait for space on the disk, if there is some again. To be called now and then.
   */
  resumeStored(): void {
    if (!this.#waitsForDisk || this.#state.store.refusal !== null) return
    this.#waitsForDisk = false
    for (const course of this.#courses.values()) this.#schedule(course)
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
    const { work } = this.#state
    const until = work.units + SLICE_UNITS
    for (let step = 0; step < STEPS_MAX && work.units < until; step++) {
      work.units += STEP_UNITS
      if (cursors.size === 0) {
        if (this.#courses.get(session) === course) this.#ended(session)
        return
      }
      const cursor = this.#firstToStep(cursors)
      if (cursor === null || !this.#step(course, cursor)) return
    }
    this.#schedule(course)
  }

  /**
   * Finds the first cursor that does not wait for the clock; those that do go to the end, so that they are
   * passed once.
   */
  #firstToStep(cursors: Map<string, RetainedCursor>): RetainedCursor | null {
    for (let left = cursors.size; left > 0; left--) {
      const [cursor] = cursors.values() as Iterable<RetainedCursor> as [RetainedCursor]
      if (!cursor.waitsForClock) return cursor
      cursors.delete(cursor.filter)
      cursors.set(cursor.filter, cursor)
      this.#state.work.units++
    }
    return null
  }

  /**
   * Looks for a message, or hands over the one that was found. Returns false if the Session has no room.
   */
  #step({ session, cursors }: Course, cursor: RetainedCursor): boolean {
    if (cursor.found === null) {
      const next = cursor.messages.next()
      if (next.done === true && cursor.doubtful !== null) return this.#stepDoubtful(cursor, cursor.doubtful)
      if (next.done === true) {
        cursors.delete(cursor.filter)
        this.#mark(session, cursor, false)
        return true
      }
      if (next.value === null) return true
      cursor.found = next.value.topic.name
    }
    if (this.#state.isInDoubt) this.#putAside(cursor, cursor.found, NAMES_MAX / cursors.size)
    const message = this.#due(session, cursor, cursor.found)
    const qos = message === null ? 0 : effectiveQoS(message.qos, cursor.qos)
    const isSent = cursor.isSwept && qos === 0 && cursor.owed?.has(cursor.found) !== true
    if (message === null || isSent) {
      cursor.found = null
      return true
    }
    // A stored Session's queue takes space on the disk: it waits until there is some again.
    if (qos > 0 && session.stored && this.#state.store.refusalFor(message.size) !== null) {
      this.#waitsForDisk = true
      return this.#stepAhead(session, cursor)
    }
    // Without room it waits: the Session says so when it has some again.
    if (!session.hasRoomFor(qos)) return qos > 0 && this.#stepAhead(session, cursor)
    cursor.found = null
    this.#deliver(session, cursor, message)
    return true
  }

  #putAside(cursor: RetainedCursor, name: string, namesMax: number): void {
    const message = this.#state.retained.get(name)
    if (message === undefined || !this.#state.isDoubtful(message)) return
    cursor.doubtful ??= new Set()
    if (cursor.doubtful.size < namesMax) cursor.doubtful.add(name)
  }

  /** Goes on, when all else is sent, with the messages that are not in doubt any more. */
  #stepDoubtful(cursor: RetainedCursor, doubtful: Set<string>): boolean {
    for (const name of doubtful) {
      const message = this.#state.retained.get(name)
      if (message !== undefined && this.#state.isDoubtful(message)) continue
      doubtful.delete(name)
      cursor.found = name
      return true
    }
    if (doubtful.size === 0) cursor.doubtful = null
    else cursor.waitsForClock = true
    return true
  }

  /** Goes on after a change of the clock: messages may not be in doubt any more. */
  clockChanged(): void {
    for (const course of this.#courses.values()) {
      for (const cursor of course.cursors.values()) cursor.waitsForClock = false
      this.#schedule(course)
    }
  }

  /**
   * Sends messages at QoS 0 while the one that was found waits for a slot. Returns false if there are no more
   * of them.
   */
  #stepAhead(session: Session, cursor: RetainedCursor): boolean {
    if (cursor.isSwept || !session.hasRoomFor(0)) return false
    cursor.ahead ??= this.#state.retained.match(cursor.filter)[Symbol.iterator]()
    const next = cursor.ahead.next()
    if (next.done === true) {
      cursor.ahead = null
      cursor.isSwept = true
      return false
    }
    const message = next.value === null ? null : this.#due(session, cursor, next.value.topic.name)
    if (message !== null && effectiveQoS(message.qos, cursor.qos) === 0) {
      this.#deliver(session, cursor, message)
    }
    return true
  }

  /** Returns the message that is retained under a name now; null if it was removed, or need not come. */
  #due(session: Session, cursor: RetainedCursor, name: string): Message | null {
    const message = this.#state.retained.get(name)
    if (message === undefined || !this.#isFor(session, cursor, message)) return null
    return cursor.isToCome(name, this.live.latest(name)) ? message : null
  }

  #isFor(session: Session, { noLocal }: RetainedCursor, message: Message): boolean {
    // No Local holds for retained messages, too [MQTT-3.8.3-3]: a bridge that comes back would get its own
    // old value just before it brings the new one, which nobody sends back to it.
    if (noLocal && message.publisher === session.clientId) return false
    return message.expiresAt > this.#state.now()
  }

  #deliver(session: Session, cursor: RetainedCursor, message: Message): void {
    const { name } = message.topic
    this.#state.work.units += UNITS.delivery
    cursor.owed?.delete(name)
    if (!this.#isAuthorized(session, message)) return
    if (hasWildcard(cursor.filter)) {
      cursor.passed ??= new Set()
      if (cursor.passed.size < NAMES_MAX) cursor.passed.add(name)
    }
    const delivery = cursor.deliveryOf(message)
    session.deliver(delivery, delivery.qos > 0 ? session.durableAt : 0)
  }

  /**
   * Holds back a message whose author may not publish it any more. It stays retained: the right may come
   * back.
   */
  #isAuthorized(session: Session, message: Message): boolean {
    if (this.#state.rights.authorMayPublish(message)) return true
    this.#state.drop(session.clientId, 'not-authorized', message)
    return false
  }
}
