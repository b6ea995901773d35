/** HOT. An Application Message finds its receivers (sections 3.3.4, 4.5, 4.6, 4.8.2). */
import { type Delivery, Message, NO_IDENTIFIERS, NO_TOPIC, Topic } from '../../mqtt/message.ts'
import type { QoS } from '../../mqtt/packet.ts'
import { Reason } from '../../mqtt/reason.ts'
import { type Inlet, NO_INLETS } from '../../routing/inlet.ts'
import type { Route } from '../../routing/route.ts'
import { mergeWithout, type RouteEntry, type ShareGroup } from '../../routing/subscription.ts'
import { effectiveQoS, type Session } from '../../session/session.ts'
import type { DiskRelief } from '../relief/disk-relief.ts'
import type { KeptRelief } from '../relief/kept-relief.ts'
import { MEMBER_BITS, type ShareBacklog, sharedDelivery } from '../relief/share-backlog.ts'
import type { ServerState } from '../state/server-state.ts'
import { UNITS } from '../state/work.ts'
import { CROWD_MIN, FanOut, FanOutQueue } from './fan-out.ts'
import { PublishOutcome } from './publish-outcome.ts'
import { PublishRefusals } from './publish-refusals.ts'
import type { RetainedDelivery } from './retained-delivery.ts'
import { RetainedMessages } from './retained-messages.ts'
import { hasStored, isMatched } from './route-receivers.ts'
import { chooseMember } from './share-member.ts'

const DOLLAR = 0x24

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
  readonly #refusals: PublishRefusals
  readonly #fanOuts: FanOutQueue
  /** The outcome for the latest message: one object for all. */
  #outcome = new PublishOutcome()
  /** The message that is being published; null while none is. */
  #current: Message | null = null
  /**
   * Deliveries without identifiers are the same for all subscribers of one QoS and RETAIN flag: made once.
   */
  #plain: (Delivery | null)[] = [null, null, null, null, null, null]
  /** A bit for each of these Deliveries that was made for the current message. */
  #plainMade = 0

  constructor(
    state: ServerState,
    retainedDelivery: RetainedDelivery,
    backlog: ShareBacklog,
    disk: DiskRelief,
    kept: KeptRelief,
  ) {
    this.#state = state
    this.#refusals = new PublishRefusals(state, backlog, disk, kept)
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
    return this.#published(message, publisher, message.qos === 2)
  }

  /**
   * The same, and nothing of the message is durable before all of it is: what the caller records in this turn
   * is in the same commit. If `mustQueue` says so, the message has to wait for its turn.
   */
  publishWhole(message: Message, publisher: Session | null): PublishOutcome {
    return this.#published(message, publisher, true)
  }

  #published(message: Message, publisher: Session | null, isWhole: boolean): PublishOutcome {
    if (message.topic.name.charCodeAt(0) === DOLLAR) {
      const outcome = this.#publishAddressed(message, publisher, false)
      if (outcome !== null) return outcome
    }
    const outer = this.#begin(message)
    try {
      this.#publish(message, publisher, isWhole)
      return this.#outcome
    } finally {
      this.#end(outer)
    }
  }

  #publish(message: Message, publisher: Session | null, isWhole: boolean): void {
    const { router, unavailable } = this.#state
    this.#outcome.reset()
    if (unavailable !== null && (message.qos > 0 || message.retain)) {
      // While stored Sessions are being read again, the receivers are not known.
      this.#refusals.refuse(this.#outcome, 'disk', message, unavailable)
      return
    }
    const route = router.route(message.topic)
    const stores = message.qos > 0 && hasStored(route)
    const mayBeFull = message.qos > 0 && this.#state.limits.queueFull === 'refuse'
    if (stores || message.retain || mayBeFull) {
      if (this.#refusals.isRefused(this.#outcome, message, publisher, route, stores)) return
    }
    // At QoS 2 it is durable as a whole: after a crash in the middle, the publisher would send it again to
    // some who have it.
    this.#admit(message, route, publisher, stores, message.retain, isWhole)
  }

  /**
   * Puts a message of this process, or a Will, into the queue that its topic names. Null for an ordinary
   * topic. PUBLISH packets are checked before they come here.
   */
  #publishAddressed(message: Message, publisher: Session | null, isAdmitted: boolean): PublishOutcome | null {
    const { queues } = this.#state
    const address = queues?.address(message.topic.name) ?? null
    if (queues === null || address === null) return null
    const inlet =
      address.kind === 'queue'
        ? queues.inletOf(address, this.#mayDeclare(publisher, isAdmitted), message)
        : { reasonCode: Reason.TopicNameInvalid, reason: `nothing can be published to ${message.topic.name}` }
    if ('reasonCode' in inlet) {
      this.#outcome.reset()
      this.#outcome.reasonCode = inlet.reasonCode
      this.#outcome.detail = inlet.reason
      return this.#outcome
    }
    const topic = address.kind === 'queue' && address.topic !== null ? new Topic(address.topic) : NO_TOPIC
    const { payload, qos, retain, properties, expiresAt, publisher: clientId } = message
    const inner = Message.of({ topic, payload, qos, retain, properties, expiresAt, publisher: clientId })
    return this.publishInto(inlet, inner, publisher, isAdmitted)
  }

  /** This process may declare a queue by using it; a Will may where nobody has to be asked. */
  #mayDeclare(publisher: Session | null, isAdmitted: boolean): boolean {
    if (publisher === null && !isAdmitted) return true
    return this.#state.policy.authorizeDeclare === undefined
  }

  /**
   * Puts a message straight into one queue. No Subscription to its topic sees it, and it is not retained.
   * `publisher` is null for the Server. With `isAdmitted` nothing refuses it any more, as with Wills.
   */
  publishInto(inlet: Inlet, message: Message, publisher: Session | null, isAdmitted = false): PublishOutcome {
    const outer = this.#begin(message)
    try {
      const outcome = this.#outcome
      outcome.reset()
      const { unavailable, store } = this.#state
      const stores = message.qos > 0
      if (unavailable !== null && stores) this.#refusals.refuse(this.#outcome, 'disk', message, unavailable)
      else if (
        isAdmitted ||
        !stores ||
        !this.#refusals.isRefused(this.#outcome, message, publisher, toInlet(inlet), true)
      ) {
        outcome.durableAt = stores ? store.openSequence : 0
        inlet.append(message)
        this.#fannedOut(message)
      }
      return outcome
    } finally {
      this.#end(outer)
    }
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
    if (message.topic.name.charCodeAt(0) === DOLLAR) {
      if (this.#publishAddressed(message, publisher, true) !== null) return
    }
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
    const retains = message.retain && !this.#refusals.isRetainingRefused(this.#outcome, message, publisher)
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
      if (route.inlets !== NO_INLETS) appendTo(route.inlets, message)
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
    if (route.inlets !== NO_INLETS) appendTo(route.inlets, message)
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
}

function appendTo(inlets: readonly Inlet[], message: Message): void {
  for (let at = 0; at < inlets.length; at++) inlets[at]!.append(message)
}

/** The Route of a message that goes into one queue alone. */
function toInlet(inlet: Inlet): Route<Session> {
  return { sole: null, entries: [], groups: [], inlets: [inlet] }
}
