/** HOT. An Application Message finds its receivers (sections 3.3.4, 4.5, 4.6, 4.8.2). */
import { type Author, type Delivery, Message, NO_IDENTIFIERS, type Topic } from '../../mqtt/message.ts'
import type { QoS } from '../../mqtt/packet.ts'
import { Reason } from '../../mqtt/reason.ts'
import type { Route } from '../../routing/route.ts'
import { mergeWithout, type RouteEntry, type ShareGroup } from '../../routing/subscription.ts'
import { effectiveQoS, type Session } from '../../session/session.ts'
import { usageOf } from '../accounts/usage.ts'
import type { Limit } from '../boundary/events.ts'
import type { DiskRelief } from '../relief/disk-relief.ts'
import type { KeptRelief } from '../relief/kept-relief.ts'
import { hasRoomToRetain, retainedExcess, retainerOf } from '../relief/quotas.ts'
import { MEMBER_BITS, type ShareBacklog, sharedDelivery } from '../relief/share-backlog.ts'
import type { ServerState } from '../state/server-state.ts'
import { SLICE_UNITS, UNITS } from '../state/work.ts'
import { CROWD_MIN, Crowds, FanOut } from './crowd.ts'
import type { RetainedDelivery } from './retained.ts'

/** What it takes to clear a retained message, in units. */
const CLEAR_UNITS = 20

/** What it takes to ask whether a member may receive a message, in units. */
const ASK_MEMBER_UNITS = 4

/** Larger groups are not looked through for members that have not ended: Sessions that ended are taken out soon. */
const ENDED_MAX = 64

/** Fan-out of messages to Sessions. After `publish`, `receivers` and `durableAt` tell of that message. */
export class Publisher {
  readonly #state: ServerState
  readonly #retained: RetainedDelivery
  readonly #backlog: ShareBacklog
  readonly #disk: DiskRelief
  readonly #kept: KeptRelief
  readonly #crowds: Crowds
  #latestAuthor: Author | null = null
  #latestPublisher = ''
  /** Sessions that took the latest message. */
  receivers = 0
  /** Commit sequence that makes the latest message durable; 0 when nothing of it is stored. */
  durableAt = 0
  /** The latest message where it is given out in slices: not everybody has it, and `durableAt` does not hold yet; else null. */
  underWay: FanOut | null = null
  /** The limit that refused the latest message; null when none did. */
  refusedBy: Limit | null = null
  /** Deliveries without identifiers are the same for all subscribers of one QoS and RETAIN flag: made once. */
  readonly #plain: (Delivery | null)[] = [null, null, null, null, null, null]
  /** A bit for each of these that was made. */
  #plainMade = 0

  constructor(
    state: ServerState,
    retained: RetainedDelivery,
    backlog: ShareBacklog,
    disk: DiskRelief,
    kept: KeptRelief,
  ) {
    this.#state = state
    this.#disk = disk
    this.#kept = kept
    this.#retained = retained
    this.#backlog = backlog
    this.#crowds = new Crowds(state, (fanOut, until) => this.#advance(fanOut, until))
  }

  /**
   * Whether a message to this topic that is one fact with something else has to wait for its turn, with `queue`: it would
   * begin in a later turn, or the store would commit nothing in between.
   */
  mustQueue(topic: Topic): boolean {
    return !this.#crowds.isFree && this.#isCrowd(topic, this.#state.router.route(topic))
  }

  /** Has `admit` called when it is the turn of a message to this topic; it publishes that within `admitting`, or does not. */
  queue(topic: Topic, admit: () => void): void {
    this.#crowds.queue(topic, admit)
  }

  admitting(action: () => void): void {
    this.#crowds.admitting(action)
  }

  /** Gives out at once whatever is under way. */
  finish(): void {
    this.#crowds.finish()
  }

  /**
   * Retains the message if asked to, and gives it to every matching Session. Returns Success,
   * NoMatchingSubscribers, or the Reason Code that refuses the message as a whole; then nothing has happened.
   */
  publish(message: Message, publisher: Session | null): Reason {
    const { router, unavailable } = this.#state
    this.receivers = 0
    this.durableAt = 0
    this.refusedBy = null
    this.underWay = null
    if (unavailable !== null && (message.qos > 0 || message.retain)) {
      // While stored Sessions are being read again, nobody knows whom the message is for.
      return this.#refuse('disk', message, unavailable)
    }
    const route = router.route(message.topic)
    const stores = message.qos > 0 && hasStored(route)
    const mayBeFull = message.qos > 0 && this.#state.limits.queueFull === 'refuse'
    if (stores || message.retain || mayBeFull) {
      const refusal = this.#refusal(message, publisher, route, stores)
      if (refusal !== Reason.Success) return refusal
    }
    // At QoS 1 the publisher sends it again when it was not acknowledged before a crash; at QoS 2 some would get it twice.
    return this.#admit(message, route, publisher, stores, message.retain, message.qos === 2)
  }

  /**
   * Publishes what was admitted long ago: a Will, with CONNACK. What is short by now does not refuse it any more, but
   * it is retained only as far as the limits of retained messages allow. `publisher` is its client's Session, if any.
   */
  publishAdmitted(message: Message, publisher: Session | null): void {
    const route = this.#state.router.route(message.topic)
    const stores = message.qos > 0 && hasStored(route)
    const retains = message.retain && this.#retainedRefusal(message, publisher) === Reason.Success
    this.#admit(message, route, publisher, stores, retains, true)
  }

  #admit(
    message: Message,
    route: Route<Session>,
    publisher: Session | null,
    stores: boolean,
    retains: boolean,
    isWhole: boolean,
  ): Reason {
    this.receivers = 0
    this.durableAt = stores || retains ? this.#state.store.openSequence : 0
    if ((route.sole === null || this.#crowds.size > 0) && this.#isCrowd(message.topic, route)) {
      this.#giveOutInSlices(message, publisher, retains, isWhole && (stores || retains))
    } else {
      if (retains) this.#retain(message, publisher)
      this.#fanOut(message, route, publisher)
      this.#fannedOut(message)
    }
    // Who matches and yet gets nothing (No Local, a share that nobody can take now) is a subscriber all the same.
    return isMatched(route) ? Reason.Success : Reason.NoMatchingSubscribers
  }

  #fannedOut(message: Message): void {
    // Its bytes are a view of the read buffer; what outlives the turn must not pin that.
    if (message.qos > 0 && this.receivers > 0) message.own()
    if (this.#state.events.hearsPublished) this.#tellPublished(message)
  }

  #tellPublished(message: Message): void {
    this.#state.events.emit('published', { message, receivers: this.receivers })
  }

  // ── to a crowd ────────────────────────────────────────────────────────────────────────────────────────────

  #isCrowd(topic: Topic, route: Route<Session>): boolean {
    // A sole one makes its `entries` for whoever asks.
    if (route.sole === null) {
      const { entries, groups } = route
      let size = entries.length + groups.length
      // Each group may have to be looked through for somebody with room.
      for (let at = 0; at < groups.length; at++) size += groups[at]!.members.length >>> MEMBER_BITS
      if (size >= CROWD_MIN) return true
    }
    return this.#crowds.size > 0 && this.#crowds.has(topic)
  }

  #giveOutInSlices(message: Message, publisher: Session | null, retains: boolean, isWhole: boolean): void {
    message.own()
    const fanOut = new FanOut(message, publisher, retains, isWhole)
    this.#crowds.add(fanOut)
    this.receivers = fanOut.receivers
    this.underWay = fanOut.isOver ? null : fanOut
  }

  /** Goes on until so much work was done. True when everybody has the message who is to have it. */
  #advance(fanOut: FanOut, until: number): boolean {
    const { router, store, work } = this.#state
    const { message } = fanOut
    const route = fanOut.route ?? this.#beginSlices(fanOut)
    const { entries, groups } = route
    this.durableAt = fanOut.stores ? store.openSequence : 0
    this.receivers = fanOut.receivers
    if (this.#retained.size > 0) this.#retained.publishedBefore(message, fanOut.liveBefore)
    const isChanged = router.changeCount !== fanOut.changes
    while (fanOut.at < entries.length && work.units < until) {
      const entry = entries[fanOut.at++]!
      const current = isChanged ? router.current(entry) : entry
      work.units += UNITS.crowdDelivery
      if (current !== null) this.#deliver(message, current, fanOut.publisher)
    }
    const end = entries.length + groups.length
    while (fanOut.at >= entries.length && fanOut.at < end && work.units < until) {
      const group = groups[fanOut.at++ - entries.length]!
      work.units += UNITS.crowdDelivery
      // One that has lost its last member since is none any more.
      if (group.members.length > 0) this.deliverShared(group, message)
    }
    if (this.#plainMade !== 0) this.#forgetPlain()
    message.forgetEncoded()
    fanOut.receivers = this.receivers
    if (fanOut.at < end) return false
    this.#fannedOut(message)
    return true
  }

  #beginSlices(fanOut: FanOut): Route<Session> {
    const { router } = this.#state
    const { message, publisher, retains } = fanOut
    const route = router.route(message.topic)
    fanOut.route = route
    fanOut.changes = router.changeCount
    fanOut.stores = retains || (message.qos > 0 && hasStored(route))
    if (retains) this.#retain(message, publisher)
    if (this.#retained.size === 0) return route
    this.#retained.published(message)
    fanOut.liveBefore = this.#retained.liveBefore
    return route
  }

  /** One of the Server's own values (`$SYS`): retained in memory only, QoS 0. */
  publishOwn(message: Message): void {
    this.receivers = 0
    this.durableAt = 0
    const { retained, ownRetained } = this.#state
    const previous = retained.set(message)
    if (previous === null) ownRetained.count++
    ownRetained.bytes += message.size - (previous?.size ?? 0)
    const route = this.#state.router.route(message.topic)
    if (this.#isCrowd(message.topic, route)) this.#giveOutInSlices(message, null, false, false)
    else this.#fanOut(message, route, null)
  }

  #fanOut(message: Message, route: Route<Session>, publisher: Session | null): void {
    const { sole } = route
    if (this.#retained.size > 0) this.#retained.published(message)
    if (sole !== null) this.#deliver(message, sole, publisher)
    else this.#deliverToAll(message, route, publisher)
    if (this.#plainMade !== 0) this.#forgetPlain()
    message.forgetEncoded()
  }

  #deliverToAll(message: Message, { entries, groups }: Route<Session>, publisher: Session | null): void {
    const each = this.durableAt === 0 ? UNITS.delivery : UNITS.storedDelivery
    this.#state.work.units += (entries.length + groups.length) * each
    for (let index = 0; index < entries.length; index++) this.#deliver(message, entries[index]!, publisher)
    for (let index = 0; index < groups.length; index++) this.deliverShared(groups[index]!, message)
  }

  /** Mostly one was made, and `fill` for all six took 7 % of the time of a message at QoS 0. */
  #forgetPlain(): void {
    for (let slot = 0, made = this.#plainMade; made !== 0; slot++, made >>= 1) {
      if ((made & 1) !== 0) this.#plain[slot] = null
    }
    this.#plainMade = 0
  }

  #deliver(message: Message, routed: RouteEntry<Session>, publisher: Session | null): void {
    let entry = routed
    if (routed.subscriber.ended) return
    if (routed.noLocal && routed.subscriber === publisher) {
      const merged = mergeWithout(routed) // [MQTT-3.8.3-3]
      if (merged === null) {
        if (this.#retained.size > 0) this.#retained.precede(routed, message, null)
        return
      }
      entry = merged
    }
    const qos = effectiveQoS(message.qos, entry.qos)
    if (this.#retained.size > 0 && !this.#retained.precede(routed, message, qos)) {
      this.#state.drop(routed.subscriber.clientId, 'queue-full', message)
      return
    }
    // [MQTT-3.3.1-12] [MQTT-3.3.1-13]
    const retain = message.retain && entry.retainAsPublished
    const delivery =
      entry.identifiers.length === 0
        ? this.#plainDelivery(message, qos, retain)
        : { message, qos, retain, subscriptionIdentifiers: entry.identifiers, share: null }
    this.receivers++
    entry.subscriber.deliver(delivery, this.durableAt)
  }

  #plainDelivery(message: Message, qos: QoS, retain: boolean): Delivery {
    const slot = retain ? qos + 3 : qos
    const made = this.#plain[slot]!
    if (made !== null) return made
    const delivery: Delivery = { message, qos, retain, subscriptionIdentifiers: NO_IDENTIFIERS, share: null }
    this.#plain[slot] = delivery
    this.#plainMade |= 1 << slot
    return delivery
  }

  /**
   * Gives the message to one member of the group: to the next one that has room, else to the one for which others wait
   * already, else to the online one with the shortest queue, else to the offline one with the shortest. Returns whether
   * somebody took it.
   */
  deliverShared(group: ShareGroup<Session>, message: Message): boolean {
    const index = chooseMember(this.#state, this.#backlog, group, message)
    if (index === -1) {
      this.#state.drop(group.share, message.evicted ? 'not-in-memory' : 'offline', message)
      return false
    }
    const { members } = group
    const member = members[index]!
    group.cursor = (index + 1) % members.length
    const { subscriber, options, identifier } = member
    const delivery = sharedDelivery(message, group.share, options, identifier)
    if (!subscriber.hasRoom) this.#backlog.add(group.share, subscriber)
    this.receivers++
    subscriber.deliver(delivery, this.durableAt)
    return true
  }

  #refusal(message: Message, publisher: Session | null, route: Route<Session>, stores: boolean): Reason {
    const { limits, store, memoryRefusal } = this.#state
    const retains = message.retain && message.payloadBytes > 0
    const short = stores || retains ? store.refusalFor(message.size) : null
    if (short !== null && !this.#clears(message)) return this.#refuse('disk', message, short)
    if (this.#disk.pressed !== null && (stores || retains) && publisher !== null && !this.#clears(message)) {
      const refusal = this.#disk.refusal(usageOf(publisher))
      if (refusal !== null) {
        this.#state.counters.relief['publish-refused']++
        return this.#refuse('disk', message, refusal)
      }
    }
    if (memoryRefusal !== null && (stores || retains) && !this.#clears(message)) {
      return this.#refuse('memoryBytesMax', message, memoryRefusal)
    }
    const retainedRefusal = retains ? this.#retainedRefusal(message, publisher) : Reason.Success
    if (retainedRefusal !== Reason.Success) return retainedRefusal
    if (
      message.qos > 0 &&
      limits.queueFull === 'refuse' &&
      anyQueueFull(this.#state, this.#backlog, route, message)
    ) {
      return this.#refuse(
        'queueMessagesMax',
        message,
        `the queue of a subscriber of ${message.topic.name} is full`,
      )
    }
    return Reason.Success
  }

  /** Whether it removes a retained message that takes as much room as itself, which subscribers may have to keep. */
  #clears({ retain, payloadBytes, topic, size }: Message): boolean {
    if (!retain || payloadBytes > 0) return false
    const previous = this.#state.retained.get(topic.name)
    return previous !== undefined && size <= previous.size
  }

  /** Whether no more is retained with it than before. */
  #replaces({ topic, size, payloadBytes }: Message): boolean {
    return payloadBytes === 0 || size <= (this.#state.retained.get(topic.name)?.size ?? 0)
  }

  /** Refuses a retained message beyond the limits; the Server's own values do not count, nor does what has expired. */
  #retainedRefusal(message: Message, publisher: Session | null): Reason {
    const { counters, retainedExpiry, work } = this.#state
    if (this.#kept.pressed !== null && !this.#replaces(message)) {
      const user = retainerOf(this.#state, message, publisher)
      const refusal = user === null ? null : this.#kept.refusal(user)
      if (refusal !== null) {
        counters.relief['publish-refused']++
        return this.#refuse('memoryBytesMax', message, refusal)
      }
    }
    if (message.payloadBytes === 0 || hasRoomToRetain(this.#state, message, publisher)) return Reason.Success
    const now = this.#state.now()
    if (retainedExpiry.nextTime <= now) retainedExpiry.advance(now, work.units + SLICE_UNITS / 10)
    const excess = retainedExcess(this.#state, message, publisher)
    return excess === null ? Reason.Success : this.#refuse(excess.limit, message, excess.detail)
  }

  #refuse(limit: Limit, message: Message, detail: string): Reason {
    this.refusedBy = limit
    this.#state.counters.publishRefused++
    this.#state.limited(limit, message.publisher, detail)
    return Reason.QuotaExceeded
  }

  #retain(message: Message, publisher: Session | null): void {
    const { retained, store, events, work } = this.#state
    const { name } = message.topic
    work.units += UNITS.retained
    // That of a Will is known.
    if (publisher !== null) message.author ??= this.#authorOf(publisher)
    if (message.payloadBytes === 0) {
      // [MQTT-3.3.1-6] [MQTT-3.3.1-7]
      this.clearRetained(name)
      return
    }
    message.own(true)
    this.#cancelExpiry(name)
    this.#state.usage.retained(message, retained.set(message))
    store.putRetained(message, 0)
    if (message.expiresAt !== Number.POSITIVE_INFINITY) this.#expireRetained(message, message.expiresAt)
    if (events.has('retainedSet')) events.emit('retainedSet', { topic: name, bytes: message.size })
  }

  /** The same object for all messages of a publisher in a row. */
  #authorOf(publisher: Session): Author {
    const { owner: userName, ownerId: userId } = publisher
    const latest = this.#latestAuthor
    if (
      latest?.userName === userName &&
      latest.userId === userId &&
      this.#latestPublisher === publisher.clientId
    ) {
      return latest
    }
    this.#latestPublisher = publisher.clientId
    this.#latestAuthor = { userName, userId }
    return this.#latestAuthor
  }

  /** Removes the retained message of a topic name, if there is one. */
  clearRetained(topic: string): boolean {
    const { retained, store, events, work } = this.#state
    work.units += CLEAR_UNITS
    this.#cancelExpiry(topic)
    const cleared = retained.delete(topic)
    if (cleared === null) return false
    this.#state.usage.retainedRemoved(cleared)
    this.#retained.cleared(topic)
    store.deleteRetained(topic)
    if (events.has('retainedCleared')) events.emit('retainedCleared', { topic })
    return true
  }

  /** Takes up a retained message of before the start. */
  recoverRetained(message: Message): void {
    const previous = this.#state.retained.set(message)
    if (previous !== null) this.#state.usage.retained(message, previous)
    if (message.expiresAt === Number.POSITIVE_INFINITY) return
    this.#state.oldRetained(message)
    this.#expireRetained(message, this.#state.heldUntil(message.expiresAt))
  }

  /** So many ms did not pass before the start: retained messages of before expire later. */
  postponeRetained(ms: number): void {
    const { retained, retainedDeadlines, store } = this.#state
    for (const topic of [...retainedDeadlines.keys()]) {
      const message = retained.get(topic)
      if (message === undefined || !this.#state.isOld(message)) continue
      const { payload, properties, qos, retain, publisher } = message
      const expiresAt = message.expiresAt + ms
      const fields = { topic: message.topic, payload, properties, qos, retain, publisher, expiresAt }
      const postponed = Message.of(fields)
      postponed.author = message.author
      this.#cancelExpiry(topic)
      store.putRetained(postponed, this.#retained.liveAt(topic))
      this.recoverRetained(postponed)
    }
  }

  /** Retained messages of users of these names, whoever they were, are of the accounts with these ids from now on. */
  ownRetained(ids: ReadonlyMap<string, string>): void {
    const { retained, store } = this.#state
    const authors = new Map<string, Author>()
    for (const message of retained) {
      const { author, publisher, topic } = message
      const userName = author?.userName ?? null
      const userId = userName === null ? undefined : ids.get(userName)
      if (userId === undefined || author?.userId === userId) continue
      const known = authors.get(publisher)
      const own = known?.userId === userId ? known : { userName, userId }
      authors.set(publisher, own)
      message.author = own
      store.putRetained(message, this.#retained.liveAt(topic.name))
    }
  }

  /** Sets the deadline at which a retained message with an expiry goes. */
  #expireRetained(message: Message, time: number): void {
    const { name } = message.topic
    const deadline = this.#state.retainedExpiry.at(time, () => {
      this.#state.turn.begin()
      this.clearRetained(name)
    })
    this.#state.retainedDeadlines.set(name, deadline)
    this.#state.expiredRetained.add(deadline, message.size)
  }

  #cancelExpiry(topic: string): void {
    const deadline = this.#state.retainedDeadlines.get(topic)
    if (deadline === undefined) return
    this.#state.retainedExpiry.cancel(deadline)
    this.#state.retainedDeadlines.delete(topic)
    this.#state.expiredRetained.remove(deadline, this.#state.retained.get(topic)?.size ?? 0)
  }
}

/** Whether anybody subscribed to the topic. Sessions that have ended may still be named. */
function isMatched(route: Route<Session>): boolean {
  return route.sole === null ? isMatchedByAny(route) : !route.sole.subscriber.ended
}

function isMatchedByAny({ entries, groups }: Route<Session>): boolean {
  for (let index = 0; index < entries.length; index++) if (!entries[index]!.subscriber.ended) return true
  for (let index = 0; index < groups.length; index++) {
    const { members } = groups[index]!
    if (members.length > ENDED_MAX) return true
    for (const { subscriber } of members) if (!subscriber.ended) return true
  }
  return false
}

function hasStored(route: Route<Session>): boolean {
  const { sole } = route
  return sole === null ? hasStoredAmong(route) : sole.qos > 0 && isKept(sole.subscriber)
}

function hasStoredAmong({ entries, groups }: Route<Session>): boolean {
  for (let index = 0; index < entries.length; index++) {
    const entry = entries[index]!
    if (entry.qos > 0 && isKept(entry.subscriber)) return true
  }
  for (let index = 0; index < groups.length; index++) {
    if (groups[index]!.kept > 0) return true
  }
  return false
}

function isKept({ stored, ended }: Session): boolean {
  return stored && !ended
}

function anyQueueFull(
  state: ServerState,
  backlog: ShareBacklog,
  route: Route<Session>,
  message: Message,
): boolean {
  for (const entry of route.entries) {
    if (entry.qos > 0 && !entry.subscriber.ended && entry.subscriber.queueFullFor(message)) return true
  }
  for (const group of route.groups) {
    const member = group.members[chooseMember(state, backlog, group, message)]
    if (member !== undefined && member.options.qos > 0 && member.subscriber.queueFullFor(message)) return true
  }
  return false
}

/**
 * Index of the member that takes the next message, looked for from the group's cursor on; -1 for none. Where nobody has room it
 * is the one for which others wait already, so that whoever has room next finds all of them in one queue, in order.
 */
// biome-ignore lint/complexity/noExcessiveCognitiveComplexity: one loop over the members, for each message.
function chooseMember(
  state: ServerState,
  backlog: ShareBacklog,
  group: ShareGroup<Session>,
  message: Message,
): number {
  const { members } = group
  const { evicted } = message
  const holder = backlog.holder(group.share)
  // What waits for it, behind messages that have expired, goes before this one.
  const isHeldUp = holder !== null && backlog.isDropping(holder)
  let holding = -1
  let waiting = -1
  let offline = -1
  for (let step = 0; step < members.length; step++) {
    const index = (group.cursor + step) % members.length
    const { subscriber, options } = members[index]!
    // A body that is on disk only stays there for a stored Session alone.
    if (subscriber.ended || (evicted && !subscriber.stored)) continue
    // What one member may not receive is for the others.
    if (state.checksReceiving && !evicted) {
      state.work.units += ASK_MEMBER_UNITS
      if (!state.mayTake(subscriber, message)) continue
    }
    if (subscriber.hasRoom && !isHeldUp) {
      state.work.units += step >>> MEMBER_BITS
      return index
    }
    const mayWait = subscriber.online || subscriber.waitsWhileAway(effectiveQoS(message.qos, options.qos))
    if (subscriber === holder && mayWait && !subscriber.queueFullFor(message)) holding = index
    if (subscriber.online) {
      if (waiting === -1 || subscriber.queueLength < members[waiting]!.subscriber.queueLength) waiting = index
    } else if (mayWait) {
      if (offline === -1 || subscriber.queueLength < members[offline]!.subscriber.queueLength) offline = index
    }
  }
  state.work.units += members.length >>> MEMBER_BITS
  if (holding !== -1) return holding
  return waiting === -1 ? offline : waiting
}
