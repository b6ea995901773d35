/** HOT. An Application Message finds its receivers (sections 3.3.4, 4.5, 4.6, 4.8.2). */
import { type Delivery, type Message, NO_IDENTIFIERS, type Topic } from '../../mqtt/message.ts'
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
import { CROWD_MIN, FanOut, FanOutQueue } from './fan-out.ts'
import { PublishOutcome } from './publish-outcome.ts'
import type { RetainedDelivery } from './retained-delivery.ts'
import { RetainedMessages } from './retained-messages.ts'
import { hasStored, isMatched } from './route-receivers.ts'
import { chooseMember } from './share-member.ts'

/** A publication that another one interrupts. */
interface Publication {
  readonly message: Message
  readonly outcome: PublishOutcome
  readonly plain: (Delivery | null)[]
  readonly made: number
  /** `LiveMessages.before` */
  readonly before: number
}

/** Gives messages to the Sessions that subscribed to their topics, and retains them. */
export class Publisher {
  readonly retained: RetainedMessages
  readonly #state: ServerState
  readonly #retainedDelivery: RetainedDelivery
  readonly #backlog: ShareBacklog
  readonly #disk: DiskRelief
  readonly #kept: KeptRelief
  readonly #fanOuts: FanOutQueue
  /** The outcome for the latest message: one object for all. */
  #outcome = new PublishOutcome()
  /** The message that is being published; null while none is. */
  #current: Message | null = null
  /**
   * Deliveries without identifiers are the same for all subscribers of one QoS and RETAIN flag: made once.
   */
  #plain: (Delivery | null)[] = [null, null, null, null, null, null]
  /** A bit for each of these that was made. */
  #plainMade = 0

  constructor(
    state: ServerState,
    retainedDelivery: RetainedDelivery,
    backlog: ShareBacklog,
    disk: DiskRelief,
    kept: KeptRelief,
  ) {
    this.#state = state
    this.#disk = disk
    this.#kept = kept
    this.retained = new RetainedMessages(state, retainedDelivery.live)
    this.#retainedDelivery = retainedDelivery
    this.#backlog = backlog
    this.#fanOuts = new FanOutQueue(state, (fanOut, until) => this.#goOn(fanOut, until))
  }

  /**
   * Whether a message to this topic must wait with `queue`, if something else is committed together with it:
   * it would begin in a later turn, or the store would commit nothing in between.
   */
  mustQueue(topic: Topic): boolean {
    return !this.#fanOuts.isFree && this.#isCrowd(topic, this.#state.router.route(topic))
  }

  /**
   * Calls `admit` when it is the turn of a message to this topic. `admit` publishes it within `admitting`, or
   * not at all.
   */
  queue(topic: Topic, admit: () => void): void {
    this.#fanOuts.queue(topic, admit)
  }

  admitting(action: () => void): void {
    this.#fanOuts.admitting(action)
  }

  /** Gives out at once all that is under way. */
  finish(): void {
    this.#fanOuts.finish()
  }

  /**
   * Retains the message if asked to, and gives it to every matching Session. `publisher` is null for the
   * Server.
   */
  publish(message: Message, publisher: Session | null): PublishOutcome {
    const outer = this.#begin(message)
    try {
      this.#publish(message, publisher)
      return this.#outcome
    } finally {
      this.#end(outer)
    }
  }

  #publish(message: Message, publisher: Session | null): void {
    const { router, unavailable } = this.#state
    this.#outcome.reset()
    if (unavailable !== null && (message.qos > 0 || message.retain)) {
      // While stored Sessions are being read again, the receivers are not known.
      this.#refuse('disk', message, unavailable)
      return
    }
    const route = router.route(message.topic)
    const stores = message.qos > 0 && hasStored(route)
    const mayBeFull = message.qos > 0 && this.#state.limits.queueFull === 'refuse'
    if (stores || message.retain || mayBeFull) {
      if (this.#isRefused(message, publisher, route, stores)) return
    }
    // At QoS 2 it is durable as a whole: after a crash in the middle, the publisher would send it again to
    // some who have it.
    this.#admit(message, route, publisher, stores, message.retain, message.qos === 2)
  }

  /**
   * Begins a publication. Returns the one under way, to be given to `#end`: a listener of an event may
   * publish, or end a connection with a Will. Each publication has an outcome and deliveries of its own.
   */
  #begin(message: Message): Publication | null {
    const current = this.#current
    this.#current = message
    if (current === null) return null
    const { before } = this.#retainedDelivery.live
    const outer = {
      message: current,
      outcome: this.#outcome,
      plain: this.#plain,
      made: this.#plainMade,
      before,
    }
    this.#outcome = new PublishOutcome()
    this.#plain = [null, null, null, null, null, null]
    this.#plainMade = 0
    return outer
  }

  #end(outer: Publication | null): void {
    if (outer === null) {
      this.#current = null
      return
    }
    this.#current = outer.message
    this.#outcome = outer.outcome
    this.#plain = outer.plain
    this.#plainMade = outer.made
    if (this.#retainedDelivery.size > 0) this.#retainedDelivery.live.resumed(outer.message, outer.before)
  }

  /**
   * Publishes a Will, which CONNACK admitted long ago. Short memory or disk does not refuse it any more, but
   * it is retained only if the limits of retained messages allow it. `publisher` is its client's Session, if
   * any.
   */
  publishAdmitted(message: Message, publisher: Session | null): void {
    const outer = this.#begin(message)
    try {
      this.#publishAdmitted(message, publisher)
    } finally {
      this.#end(outer)
    }
  }

  #publishAdmitted(message: Message, publisher: Session | null): void {
    this.#outcome.reset()
    const route = this.#state.router.route(message.topic)
    const stores = message.qos > 0 && hasStored(route)
    const retains = message.retain && !this.#isRetainingRefused(message, publisher)
    this.#admit(message, route, publisher, stores, retains, true)
  }

  /** `isWhole`: nothing of the message may be durable before all of it is. */
  #admit(
    message: Message,
    route: Route<Session>,
    publisher: Session | null,
    stores: boolean,
    retains: boolean,
    isWhole: boolean,
  ): void {
    const outcome = this.#outcome
    outcome.durableAt = stores || retains ? this.#state.store.openSequence : 0
    if ((route.sole === null || this.#fanOuts.size > 0) && this.#isCrowd(message.topic, route)) {
      this.#giveOutInSlices(message, publisher, retains, isWhole && (stores || retains))
    } else {
      if (retains) this.retained.put(message, publisher)
      this.#fanOut(message, route, publisher)
      this.#fannedOut(message)
    }
    // A subscriber that matches but gets nothing (No Local, a share that nobody can take now) counts all the
    // same.
    outcome.reasonCode = isMatched(route) ? Reason.Success : Reason.NoMatchingSubscribers
  }

  #fannedOut(message: Message): void {
    // Its bytes are a view of the read buffer, which must not stay in memory beyond the turn.
    if (message.qos > 0 && this.#outcome.receivers > 0) message.own()
    if (this.#state.events.hearsPublished) this.#tellPublished(message)
  }

  #tellPublished(message: Message): void {
    this.#state.events.emit('published', { message, receivers: this.#outcome.receivers })
  }

  // ── to a crowd ──────────────────────────────────────────────────────────────────────────────────────

  #isCrowd(topic: Topic, route: Route<Session>): boolean {
    // A route with a sole entry makes `entries` only when asked: do not ask.
    if (route.sole === null) {
      const { entries, groups } = route
      let size = entries.length + groups.length
      // Each group may have to be searched for a member with room.
      for (let at = 0; at < groups.length; at++) size += groups[at]!.members.length >>> MEMBER_BITS
      if (size >= CROWD_MIN) return true
    }
    return this.#fanOuts.size > 0 && this.#fanOuts.has(topic)
  }

  #giveOutInSlices(message: Message, publisher: Session | null, retains: boolean, isWhole: boolean): void {
    message.own()
    const fanOut = new FanOut(message, publisher, retains, isWhole)
    this.#fanOuts.add(fanOut)
    this.#outcome.receivers = fanOut.receivers
    this.#outcome.underWay = fanOut.isOver ? null : fanOut
  }

  /** Runs `#advance` as a publication of its own, unless the message was published just now. */
  #goOn(fanOut: FanOut, until: number): boolean {
    if (this.#current === fanOut.message) return this.#advance(fanOut, until)
    const outer = this.#begin(fanOut.message)
    try {
      return this.#advance(fanOut, until)
    } finally {
      this.#end(outer)
    }
  }

  /** Gives a message to more receivers until work reaches `until` units. Returns true when all have it. */
  #advance(fanOut: FanOut, until: number): boolean {
    const { router, store, work } = this.#state
    const outcome = this.#outcome
    const { message } = fanOut
    const route = fanOut.route ?? this.#beginSlices(fanOut)
    const { entries, groups } = route
    outcome.durableAt = fanOut.stores ? store.openSequence : 0
    outcome.receivers = fanOut.receivers
    if (this.#retainedDelivery.size > 0) this.#retainedDelivery.live.resumed(message, fanOut.liveBefore)
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
      // A group that has lost its last member since is gone.
      if (group.members.length > 0) this.deliverShared(group, message, outcome.durableAt)
    }
    if (this.#plainMade !== 0) this.#forgetPlain()
    message.forgetEncoded()
    fanOut.receivers = outcome.receivers
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
    if (retains) this.retained.put(message, publisher)
    if (this.#retainedDelivery.size === 0) return route
    this.#retainedDelivery.live.published(message)
    fanOut.liveBefore = this.#retainedDelivery.live.before
    return route
  }

  /** Publishes one of the Server's own values (`$SYS`): QoS 0, retained in memory only. */
  publishOwn(message: Message): void {
    const outer = this.#begin(message)
    try {
      this.#publishOwn(message)
    } finally {
      this.#end(outer)
    }
  }

  #publishOwn(message: Message): void {
    this.#outcome.reset()
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
    if (this.#retainedDelivery.size > 0) this.#retainedDelivery.live.published(message)
    if (sole !== null) this.#deliver(message, sole, publisher)
    else this.#deliverToAll(message, route, publisher)
    if (this.#plainMade !== 0) this.#forgetPlain()
    message.forgetEncoded()
  }

  #deliverToAll(message: Message, { entries, groups }: Route<Session>, publisher: Session | null): void {
    const { durableAt } = this.#outcome
    const each = durableAt === 0 ? UNITS.delivery : UNITS.storedDelivery
    this.#state.work.units += (entries.length + groups.length) * each
    for (let index = 0; index < entries.length; index++) this.#deliver(message, entries[index]!, publisher)
    for (let index = 0; index < groups.length; index++) this.deliverShared(groups[index]!, message, durableAt)
  }

  /**
   * Clears the slots that are in use, mostly one: `fill` for all six took 7 % of the time of a message at QoS
   * 0.
   */
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
        if (this.#retainedDelivery.size > 0) this.#retainedDelivery.precede(routed, message, null)
        return
      }
      entry = merged
    }
    const qos = effectiveQoS(message.qos, entry.qos)
    if (this.#retainedDelivery.size > 0 && !this.#retainedDelivery.precede(routed, message, qos)) {
      this.#state.drop(routed.subscriber.clientId, 'queue-full', message)
      return
    }
    // [MQTT-3.3.1-12] [MQTT-3.3.1-13]
    const retain = message.retain && entry.retainAsPublished
    const delivery =
      entry.identifiers.length === 0
        ? this.#plainDelivery(message, qos, retain)
        : { message, qos, retain, subscriptionIdentifiers: entry.identifiers, share: null }
    const outcome = this.#outcome
    outcome.receivers++
    entry.subscriber.deliver(delivery, outcome.durableAt)
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

  /** Gives the message to one member of the group. Drops it and returns false if none can take it. */
  deliverShared(group: ShareGroup<Session>, message: Message, durableAt: number): boolean {
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
    this.#outcome.receivers++
    subscriber.deliver(delivery, durableAt)
    return true
  }

  /** Refuses a message for which there is no room. Returns whether it did. */
  #isRefused(message: Message, publisher: Session | null, route: Route<Session>, stores: boolean): boolean {
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
    if (retains && this.#isRetainingRefused(message, publisher)) return true
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
    return false
  }

  /**
   * Whether the message clears a retained one that takes at least as much room: its subscribers may store it.
   */
  #clears({ retain, payloadBytes, topic, size }: Message): boolean {
    if (!retain || payloadBytes > 0) return false
    const previous = this.#state.retained.get(topic.name)
    return previous !== undefined && size <= previous.size
  }

  /** Whether retaining the message takes no more room than now. */
  #replaces({ topic, size, payloadBytes }: Message): boolean {
    return payloadBytes === 0 || size <= (this.#state.retained.get(topic.name)?.size ?? 0)
  }

  /**
   * Refuses to retain beyond the limits. Returns whether it did. The Server's own values and expired messages
   * do not count.
   */
  #isRetainingRefused(message: Message, publisher: Session | null): boolean {
    const { counters, retainedExpiry, work } = this.#state
    if (this.#kept.pressed !== null && !this.#replaces(message)) {
      const user = retainerOf(this.#state, message, publisher)
      const refusal = user === null ? null : this.#kept.refusal(user)
      if (refusal !== null) {
        counters.relief['publish-refused']++
        return this.#refuse('memoryBytesMax', message, refusal)
      }
    }
    if (message.payloadBytes === 0 || hasRoomToRetain(this.#state, message, publisher)) return false
    const now = this.#state.now()
    if (retainedExpiry.nextTime <= now) retainedExpiry.advance(now, work.units + SLICE_UNITS / 10)
    const excess = retainedExcess(this.#state, message, publisher)
    return excess !== null && this.#refuse(excess.limit, message, excess.detail)
  }

  #refuse(limit: Limit, message: Message, detail: string): true {
    this.#outcome.refusedBy = limit
    this.#outcome.reasonCode = Reason.QuotaExceeded
    this.#state.counters.publishRefused++
    this.#state.limited(limit, message.publisher, detail)
    return true
  }
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
