/**
 * Retained messages for new Subscriptions (section 3.3.1.3): in slices, as fast as the reader takes them.
 *
 * A topic has one order for a subscriber, whatever road its messages take. A live message that is not retained does
 * not replace the retained one, so that both have to come, the retained one first. While retained messages are under
 * way, each live message therefore asks whether the retained one of its topic is still to come. If it is, it goes
 * right before the live one, and the walk passes it by later.
 */
import { type Delivery, type Message, NO_IDENTIFIERS } from '../../mqtt/message.ts'
import type { QoS, SubscribeRequest, SubscriptionOptions } from '../../mqtt/packet.ts'
import { hasWildcard } from '../../routing/filter.ts'
import type { RouteEntry } from '../../routing/subscription.ts'
import { effectiveQoS, type Session } from '../../session/session.ts'
import type { ServerState } from '../state/server-state.ts'
import { SLICE_UNITS, UNITS } from '../state/work.ts'

/** Messages, or looks for one, that one Session gets per turn, and no more than a slice of work: nobody else waits for a `#`. */
const STEPS_MAX = 256

/** What a step takes beside what it looks at, in units. */
const STEP_UNITS = 2

/**
 * Topic names that are kept of one kind while the retained messages of a Session are under way: 4 MB at most. What is kept
 * for many Subscriptions at a time is shared among them.
 */
const NAMES_MAX = 65_536

/** Of a Subscription for which there was no time yet. */
const NOT_LOOKED: IteratorResult<Message | null> = { done: false, value: null }

/** The retained messages of one Subscription, as far as they are still to come. */
interface Cursor {
  readonly filter: string
  qos: QoS
  noLocal: boolean
  identifiers: readonly number[]
  /** What was published later than this counts as live; on the clock of `RetainedDelivery`. */
  readonly since: number
  /** The same for the store: a restart takes no message as sent for what was published before. */
  storedSince: number
  readonly messages: Iterator<Message | null>
  /** The topic name of a message that was found, and waits for room. */
  found: string | null
  /** A second walk while the first one waits for a slot: messages at QoS 0 need none. */
  ahead: Iterator<Message | null> | null
  /** Whether that walk is over, so that the first one passes by what is sent at QoS 0. */
  isSwept: boolean
  /**
   * Topic names whose messages were sent. Beyond NAMES_MAX of them, the message may come a second time before a live
   * one of its topic: rather twice than too late.
   */
  passed: Set<string> | null
  /** Topic names of live messages that were dropped, so that the retained ones are still to come. */
  owed: Set<string> | null
  /** Topic names whose messages have expired only if time passed that is in doubt: they wait for the end of the doubt. */
  doubtful: Set<string> | null
  /** Nothing else is left to be sent. */
  waitsForClock: boolean
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
  readonly #state: ServerState
  readonly #courses = new Map<Session, Course>()
  /** Somebody does not go on before the disk has space. */
  #waitsForDisk = false
  /** When the latest live message of a topic was published, while something is under way; only of topics with a retained message. */
  readonly #live = new Map<string, number>()
  /** Broker time, but later with each live message. */
  #clock = 0
  /** Of the live message that is on its way: its topic's retained message, and when the live one before was published. */
  #retainedNow: Message | undefined
  #liveBefore = 0
  /** When the newest Subscription of a stored Session began whose retained messages are under way; 0 for none. */
  #newestStored = 0
  /** Topic names of which the store knows that a live message was published since then. */
  readonly #recorded = new Set<string>()

  constructor(state: ServerState) {
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

  // ── beginning and end ─────────────────────────────────────────────────────────────────────────────────────

  /** Begins the delivery of all retained messages that match these Subscriptions of a Session. */
  start(session: Session, requests: readonly SubscribeRequest[], identifier: number): void {
    const wanted = this.#worthLooking(session, requests)
    if (wanted.length === 0) return
    const course = this.#course(session)
    const added = wanted.map((request) => this.#add(course, request, identifier, this.#tick()))
    this.#run(course)
    if (session.stored) this.#markLeft(course, added)
  }

  /** Goes on after a restart for a Subscription that began at `since`: what is not known to have come comes again. */
  restart(session: Session, request: SubscribeRequest, identifier: number, since: number): void {
    if (this.#worthLooking(session, [request]).length === 0) return
    const course = this.#course(session)
    const cursor = this.#add(course, request, identifier, since)
    this.#run(course)
    this.#markLeft(course, [cursor])
  }

  /** SUBACK promises the rest as well: a crash must not swallow it. */
  #markLeft({ session, cursors }: Course, added: readonly Cursor[]): void {
    for (const cursor of added) {
      if (cursors.get(cursor.filter) === cursor) this.#mark(session, cursor, true)
    }
  }

  /** Takes up when live messages of topics were published, as the store knows it. */
  recovered(live: Iterable<readonly [topic: string, liveAt: number]>): void {
    for (const [topic, liveAt] of live) {
      this.#live.set(topic, liveAt)
      this.#clock = Math.max(this.#clock, liveAt)
    }
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
    const { work } = this.#state
    const until = work.units + SLICE_UNITS
    for (const request of wanted) {
      const cursor = this.#add(course, request, identifier, this.#tick())
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
   * The client subscribed again and asked for no retained messages: those of its earlier SUBSCRIBE that are still to come
   * are the Subscription's as it is now [MQTT-3.8.4-3].
   */
  replaced(
    session: Session,
    filter: string,
    { qos, noLocal }: SubscriptionOptions,
    identifier: number,
  ): void {
    const cursor = this.#courses.get(session)?.cursors.get(filter)
    if (cursor === undefined) return
    cursor.qos = qos
    cursor.noLocal = noLocal
    cursor.identifiers = identifiersOf(identifier)
    if (!cursor.pending) return
    // What was put for the Subscription does not say any more that something is under way.
    cursor.pending = false
    this.#mark(session, cursor, true)
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

  #add({ session, cursors }: Course, request: SubscribeRequest, identifier: number, since: number): Cursor {
    const { filter, qos, noLocal } = request
    const cursor: Cursor = {
      filter,
      qos,
      noLocal,
      identifiers: identifiersOf(identifier),
      since,
      storedSince: since,
      messages: this.#state.retained.match(filter)[Symbol.iterator](),
      found: null,
      ahead: null,
      isSwept: false,
      passed: null,
      owed: null,
      doubtful: null,
      waitsForClock: false,
      pending: false,
    }
    if (session.stored && since > this.#newestStored) {
      this.#newestStored = since
      this.#recorded.clear()
    }
    cursors.delete(filter)
    cursors.set(filter, cursor)
    return cursor
  }

  #mark(session: Session, cursor: Cursor, pending: boolean): void {
    const record = session.subscriptions.get(cursor.filter)
    if (record === undefined || cursor.pending === pending) return
    cursor.pending = pending
    const marked = pending
      ? ({ ...record, retainedPending: true, retainedSince: cursor.storedSince } as const)
      : record
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
    if (course.cursors.size === 0) this.#ended(session)
    return course.cursors.size < size
  }

  /** Stops everything that is under way, without a word to the store. */
  clear(): void {
    for (const session of [...this.#courses.keys()]) this.#ended(session)
  }

  #ended(session: Session): void {
    this.#courses.delete(session)
    if (this.#courses.size > 0) return
    this.#live.clear()
    this.#recorded.clear()
    this.#newestStored = 0
    this.#retainedNow = undefined
  }

  // ── what is published meanwhile ───────────────────────────────────────────────────────────────────────────

  #tick(): number {
    const now = this.#state.now()
    this.#clock = now > this.#clock ? now : this.#clock + 1 / 1024
    return this.#clock
  }

  /** A live message is about to be given to all who subscribed. To be called only while something is under way. */
  published(message: Message): void {
    const { name } = message.topic
    const retained = this.#state.retained.get(name)
    this.#retainedNow = retained
    this.#liveBefore = this.#live.get(name) ?? 0
    if (retained === undefined) return
    this.#live.set(name, this.#tick())
    // It was just stored anew, without a word about that.
    if (retained === message) this.#recorded.delete(name)
  }

  /** What to remember of a message that is given out in slices, for `publishedBefore`. */
  get liveBefore(): number {
    return this.#liveBefore
  }

  /** Goes on with a message that was begun with in an earlier turn. */
  publishedBefore(message: Message, liveBefore: number): void {
    this.#retainedNow = this.#state.retained.get(message.topic.name)
    this.#liveBefore = liveBefore
  }

  /**
   * That message goes to a Session now, or not at all where `delivered` is null (No Local): sees to it that the retained
   * message of its topic, if it is still to come, comes before it. False when that one has to wait for the disk: a message at
   * QoS 0 must not bring it onto a disk that is short, nor pass it.
   */
  precede(routed: RouteEntry<Session>, message: Message, delivered: QoS | null): boolean {
    const current = this.#retainedNow
    const course = this.#courses.get(routed.subscriber)
    if (course === undefined || current === undefined) return true
    const { session, cursors } = course
    const waits = delivered === 0 && this.#waitsForSpace(course, routed, message, current)
    const isTaken = delivered !== null && !waits && session.takes(message, delivered)
    this.#state.work.units += routed.subscriptions.length
    for (const { filter } of routed.subscriptions) {
      const cursor = cursors.get(filter)
      if (cursor === undefined) continue
      if (isTaken && session.stored && current !== message) this.#record(current)
      if (!this.#isToCome(cursor, message.topic.name)) continue
      if (isTaken) this.#sendFirst(session, cursor, message, current)
      else this.#owe(course, cursor, current)
    }
    return !waits
  }

  /** Whether the retained message is still to come for one of its Subscriptions, and is to be stored, on a disk that is short. */
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
      return this.#isToCome(cursor, message.topic.name) && this.#isFor(session, cursor, current)
    })
  }

  /** Has the store know that what is retained is older than a message that a stored Session got: a restart changes no order. */
  #record(current: Message): void {
    const { name } = current.topic
    // The Server's own values are in memory only.
    if (this.#recorded.has(name) || name.startsWith('$SYS/')) return
    this.#recorded.add(name)
    this.#state.store.putRetained(current, this.#live.get(name)!)
  }

  #isToCome({ owed, passed, since }: Cursor, name: string): boolean {
    if (owed?.has(name) === true) return true
    return this.#liveBefore <= since && passed?.has(name) !== true
  }

  #sendFirst(session: Session, cursor: Cursor, message: Message, current: Message): void {
    const { name } = message.topic
    cursor.owed?.delete(name)
    // One that is retained itself has replaced what was to come.
    if (current === message || !this.#isFor(session, cursor, current)) return
    if (!this.#isAuthorized(session, current)) return
    const delivery = deliveryOf(cursor, current)
    session.deliverAhead(delivery, delivery.qos > 0 ? session.durableAt : 0)
  }

  /** The live message is dropped, and the retained one still to come: the walk must not pass it by. */
  #owe({ session, cursors }: Course, cursor: Cursor, current: Message): void {
    const { name } = current.topic
    cursor.owed ??= new Set()
    if (cursor.owed.has(name)) return
    if (cursor.owed.size >= NAMES_MAX / cursors.size) {
      this.#state.drop(session.clientId, 'slow-reader', current)
      return
    }
    cursor.owed.add(name)
    if (!cursor.pending) return
    // After a restart it must come all the same; others that were sent may come again with it.
    cursor.storedSince = this.#clock
    cursor.pending = false
    this.#mark(session, cursor, true)
  }

  /** Nothing is retained under this topic name any more. */
  cleared(topic: string): void {
    this.#live.delete(topic)
    this.#recorded.delete(topic)
  }

  // ── the walk ──────────────────────────────────────────────────────────────────────────────────────────────

  /** The Session has room again, or its client is back: its deliveries go on. */
  resume(session: Session): void {
    if (this.#courses.size === 0) return
    const course = this.#courses.get(session)
    if (course !== undefined && session.hasRoomFor(0)) this.#schedule(course)
  }

  /** Goes on with those who wait for space on the disk, where there is some again. To be called now and then. */
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

  /** Those that wait for the clock go to the end, so that they are passed once. */
  #firstToStep(cursors: Map<string, Cursor>): Cursor | null {
    for (let left = cursors.size; left > 0; left--) {
      const [cursor] = cursors.values() as Iterable<Cursor> as [Cursor]
      if (!cursor.waitsForClock) return cursor
      cursors.delete(cursor.filter)
      cursors.set(cursor.filter, cursor)
      this.#state.work.units++
    }
    return null
  }

  /** Looks for a message, or hands over the one that was found; false while the Session has no room for it. */
  #step({ session, cursors }: Course, cursor: Cursor): boolean {
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

  #putAside(cursor: Cursor, name: string, namesMax: number): void {
    const message = this.#state.retained.get(name)
    if (message === undefined || !this.#state.isDoubtful(message)) return
    cursor.doubtful ??= new Set()
    if (cursor.doubtful.size < namesMax) cursor.doubtful.add(name)
  }

  /** All else is sent: goes on with the messages that are not in doubt any more. */
  #stepDoubtful(cursor: Cursor, doubtful: Set<string>): boolean {
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

  /** What was in doubt may not be any more. */
  clockChanged(): void {
    for (const course of this.#courses.values()) {
      for (const cursor of course.cursors.values()) cursor.waitsForClock = false
      this.#schedule(course)
    }
  }

  /** When the latest live message of this topic was published, as far as the store has to know it; 0 for never. */
  liveAt(topic: string): number {
    return this.#recorded.has(topic) ? (this.#live.get(topic) ?? 0) : 0
  }

  /** The message that was found needs a slot, and has none. Those at QoS 0 need none; false when there is no more of them. */
  #stepAhead(session: Session, cursor: Cursor): boolean {
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

  /** The message that is retained under a name now, if it is still to come: replaced, removed, or sent it is not. */
  #due(session: Session, cursor: Cursor, name: string): Message | null {
    const { owed, passed, since } = cursor
    const message = this.#state.retained.get(name)
    if (message === undefined || !this.#isFor(session, cursor, message)) return null
    if (owed?.has(name) === true) return message
    if (passed?.has(name) === true || (this.#live.get(name) ?? 0) > since) return null
    return message
  }

  #isFor(session: Session, { noLocal }: Cursor, message: Message): boolean {
    // No Local holds for retained messages, too [MQTT-3.8.3-3]: a bridge that comes back would be given its own old value
    // just before it brings the new one, which nobody sends back to it.
    if (noLocal && message.publisher === session.clientId) return false
    return message.expiresAt > this.#state.now()
  }

  #deliver(session: Session, cursor: Cursor, message: Message): void {
    const { name } = message.topic
    this.#state.work.units += UNITS.delivery
    cursor.owed?.delete(name)
    if (!this.#isAuthorized(session, message)) return
    if (hasWildcard(cursor.filter)) {
      cursor.passed ??= new Set()
      if (cursor.passed.size < NAMES_MAX) cursor.passed.add(name)
    }
    const delivery = deliveryOf(cursor, message)
    session.deliver(delivery, delivery.qos > 0 ? session.durableAt : 0)
  }

  /** What an author may not publish any more is not handed out in its name. It stays: the right may come back. */
  #isAuthorized(session: Session, message: Message): boolean {
    if (this.#state.authorMayPublish(message)) return true
    this.#state.drop(session.clientId, 'not-authorized', message)
    return false
  }
}

function identifiersOf(identifier: number): readonly number[] {
  return identifier === 0 ? NO_IDENTIFIERS : [identifier]
}

/** A retained message for a new Subscription [MQTT-3.3.1-9]. */
function deliveryOf(cursor: Cursor, message: Message): Delivery {
  return {
    message,
    qos: effectiveQoS(message.qos, cursor.qos),
    retain: true, // section 3.3.1.3
    subscriptionIdentifiers: cursor.identifiers,
    share: null,
  }
}
