/**
 * HOT: `route`. Finds the Subscriptions that match a topic name, and caches the Route on the Topic.
 *
 * A Route is made only when a topic is routed. It is dated by the count of changes and stays valid until a
 * filter changes that could match its topic (`Changes`). A single Subscription, the usual case, is its own
 * Route. The router keeps no list of topics: a Route lives as long as its Topic.
 */
import type { Topic } from '../mqtt/message.ts'
import { CHARACTER_BITS, type Meter } from '../mqtt/meter.ts'
import type { SubscriptionOptions } from '../mqtt/packet.ts'
import { Changes } from './changes.ts'
import { innerFilter } from './filter.ts'
import { FilterSet, type Matching } from './filter-set.ts'
import { type Inlet, NO_INLETS } from './inlet.ts'
import { countOf, joined, type Route, RouteBuilder, routeOf } from './route.ts'
import {
  FilterSubscriptions,
  Group,
  type GroupWatch,
  groupIn,
  type Leaf,
  type RouteEntry,
  type ShareGroup,
  SoleSubscription,
  type Subscription,
  subscriptionIn,
} from './subscription.ts'

/**
 * Routes with more Subscriptions and groups than this are cached in limited number: making one again is cheap
 * compared with delivering to all of them. Subscriptions count, not entries, because one subscriber may have
 * thousands that match.
 */
const LARGE_FOUND = 64
/** Subscriptions and groups in all cached large Routes together. */
const LARGE_FOUND_MAX = 524_288
/** Bytes of a topic name that count as one of them: perhaps only this Router still holds the Topic. */
const NAME_BYTES = 32

/** Nodes of the tree that may be visited at once: a match that may visit more is `prepare`d in steps. */
const AT_ONCE_MAX = 2048
/**
 * Steps double up to this many times their length for a topic whose Subscriptions change while it is
 * prepared.
 */
const LONGER_MAX = 16

/** Items of a list that are copied for one unit, as a power of two. */
const COPIED_BITS = 5

/** Units for adding or removing a Subscription, without the characters of its filter. */
const SUBSCRIPTION_UNITS = 10

/** A Route that is being made in steps. */
interface Preparation<S> {
  readonly matching: Matching<Leaf<S>>
  readonly builder: RouteBuilder<S>
  /** The count of changes when it began. */
  readonly since: number
  /** How many times as long as usual its steps are. */
  readonly longer: number
}

/** Routes topics to subscribers. `S` is a subscriber, which the router compares by identity only. */
export class Router<S extends object> {
  /** Routes that were made because none was cached or the cached one was no longer valid. */
  misses = 0
  /** Told of groups that open and close; null when nobody listens. */
  watch: GroupWatch<S> | null = null
  readonly #meter: Meter
  readonly #filters: FilterSet<Leaf<S>>
  readonly #changes = new Changes()
  readonly #large = new Map<Topic, number>()
  #largeFound = 0
  #subscriptions = 0
  #shared = 0
  /** Scratch memory for matching, empty between calls. */
  readonly #found: Leaf<S>[] = []
  /** Topics whose Routes are being made in steps. */
  readonly #preparing = new WeakMap<Topic, Preparation<S>>()

  constructor(meter: Meter = { units: 0 }) {
    this.#meter = meter
    this.#filters = new FilterSet(undefined, meter)
  }

  /** Number of all Subscriptions, including shared ones. */
  get subscriptionCount(): number {
    return this.#subscriptions
  }

  /** Number of Shared Subscriptions: the members of all groups. */
  get sharedCount(): number {
    return this.#shared
  }

  /** Entries in maps and trees: 0 when there is no Subscription. */
  get nodeCount(): number {
    return this.#filters.nodeCount
  }

  /**
   * Adds a Subscription and returns it. `filter` is valid. A Subscription of the same subscriber to the
   * same filter is replaced [MQTT-3.8.4-3]; an identical one stays and is returned.
   */
  subscribe(
    subscriber: S,
    filter: string,
    options: SubscriptionOptions,
    identifier: number,
  ): Subscription<S> {
    this.#meter.units += SUBSCRIPTION_UNITS
    const inner = innerFilter(filter)
    const leaf = this.#filters.get(inner)
    const share = inner === filter ? null : filter
    const previous = subscriptionIn(leaf, subscriber, share)
    if (previous?.same(options, identifier)) return previous
    if (previous === undefined) this.#subscriptions++
    if (share !== null) return this.#addShared(leaf, subscriber, share, inner, options, identifier)
    return this.#add(leaf, subscriber, filter, options, identifier)
  }

  /**
   * Removes and returns a Subscription, its filter compared character by character [MQTT-3.10.4-1]; or
   * null.
   */
  unsubscribe(subscriber: S, filter: string): Subscription<S> | null {
    this.#meter.units += SUBSCRIPTION_UNITS
    const inner = innerFilter(filter)
    const leaf = this.#filters.get(inner)
    const share = inner === filter ? null : filter
    const subscription = subscriptionIn(leaf, subscriber, share)
    if (subscription === undefined) return null
    if (share !== null) this.#removeShared(leaf!, subscriber, share)
    else this.#remove(leaf!, subscriber)
    this.#subscriptions--
    return subscription
  }

  /**
   * Returns the receivers of a message with this topic, cached on it; valid until Subscriptions change
   * again.
   */
  route(topic: Topic): Route<S> {
    const { route } = topic
    const changes = this.#changes
    if (route !== null && topic.routedBy === changes && topic.routedAt === changes.count)
      return route as Route<S>
    return this.#routeAfterChanges(topic)
  }

  #routeAfterChanges(topic: Topic): Route<S> {
    const changes = this.#changes
    if (topic.route !== null && topic.routedBy === changes) {
      this.#meter.units += topic.name.length >>> (CHARACTER_BITS - 1)
      if (!changes.touched(topic.name, topic.routedAt)) {
        topic.routedAt = changes.count
        return topic.route as Route<S>
      }
    }
    return this.#make(topic)
  }

  /** True when making a Route may take long: then `prepare` makes it in steps. */
  get mayTakeLong(): boolean {
    return this.#filters.treeSize > AT_ONCE_MAX
  }

  /**
   * Makes the Route of a topic with up to `units` of the meter, so that `route` finds it cached. False when
   * there is more to do: call it again in a later turn. The Route is that of the moment at which this
   * returns true.
   */
  prepare(topic: Topic, units: number): boolean {
    const changes = this.#changes
    if (topic.route !== null && topic.routedBy === changes) {
      if (topic.routedAt === changes.count) return true
      this.#meter.units += topic.name.length >>> (CHARACTER_BITS - 1)
      if (!changes.touched(topic.name, topic.routedAt)) {
        topic.routedAt = changes.count
        return true
      }
    }
    const known = this.#preparing.get(topic)
    let preparation = known
    if (preparation === undefined || changes.touched(topic.name, preparation.since)) {
      const longer = preparation === undefined ? 1 : Math.min(preparation.longer * 2, LONGER_MAX)
      const matching = this.#filters.begin(topic.name)
      preparation = { matching, builder: new RouteBuilder(), since: changes.count, longer }
    }
    const { matching, builder, longer } = preparation
    const until = this.#meter.units + units * longer
    if (!this.#filters.continue(matching, until) || !builder.continue(matching.found, this.#meter, until)) {
      if (preparation !== known) this.#preparing.set(topic, preparation)
      return false
    }
    if (known !== undefined) this.#preparing.delete(topic)
    this.misses++
    this.#remember(topic, builder.route, builder.count)
    return true
  }

  /** Changes of filters so far. While it stays the same, all Routes stay valid. */
  get changeCount(): number {
    return this.#changes.count
  }

  /** Updates an entry of an earlier Route to its present Subscriptions; null when all of them are gone. */
  current(entry: RouteEntry<S>): RouteEntry<S> | null {
    let now: RouteEntry<S> | null = null
    for (const { filter } of entry.subscriptions) {
      const found = subscriptionIn(this.#filters.get(filter), entry.subscriber, null)
      if (found !== undefined) now = now === null ? found : joined(now, found)
    }
    return now
  }

  /**
   * Drops a topic's cached Route if it is no longer valid, so that a topic without publishers does not keep
   * former subscribers in memory. The broker calls it for all topics now and then.
   */
  release(topic: Topic): void {
    const changes = this.#changes
    if (topic.route === null || topic.routedBy !== changes || topic.routedAt === changes.count) return
    this.#meter.units += 1 + (topic.name.length >>> (CHARACTER_BITS - 1))
    if (changes.touched(topic.name, topic.routedAt)) topic.route = null
    else topic.routedAt = changes.count
  }

  /** Has messages that match `filter`, which is valid and not shared, go into `inlet` as well. */
  addInlet(filter: string, inlet: Inlet): void {
    this.#meter.units += SUBSCRIPTION_UNITS
    this.#changes.record(filter)
    const leaf = this.#filters.get(filter)
    if (leaf !== undefined) {
      const many = this.#many(leaf)
      many.inlets = [...many.inlets, inlet]
      return
    }
    const many = new FilterSubscriptions<S>(filter)
    many.inlets = [inlet]
    this.#filters.set(many)
  }

  /** Undoes `addInlet`. */
  removeInlet(filter: string, inlet: Inlet): void {
    this.#meter.units += SUBSCRIPTION_UNITS
    const leaf = this.#filters.get(filter)
    if (!(leaf instanceof FilterSubscriptions)) return
    this.#changes.record(filter)
    const left = leaf.inlets.filter((other) => other !== inlet)
    leaf.inlets = left.length === 0 ? NO_INLETS : left
    this.#shrink(leaf)
  }

  /** Finds the group of a whole Shared Subscription filter; null when it has no members. */
  shareGroup(share: string): ShareGroup<S> | null {
    return groupIn(this.#filters.get(innerFilter(share)), share) ?? null
  }

  #add(
    leaf: Leaf<S> | undefined,
    subscriber: S,
    filter: string,
    options: SubscriptionOptions,
    identifier: number,
  ): Subscription<S> {
    this.#changes.record(filter)
    // All Subscriptions to a filter hold the same string.
    const subscription = new SoleSubscription(subscriber, leaf?.filter ?? filter, options, identifier)
    if (leaf === undefined || (leaf instanceof SoleSubscription && leaf.subscriber === subscriber)) {
      this.#filters.set(subscription)
    } else {
      const { subscriptions } = this.#many(leaf)
      this.#meter.units += subscriptions.copiedNext >>> COPIED_BITS
      subscriptions.set(subscription)
    }
    return subscription
  }

  #remove(leaf: Leaf<S>, subscriber: S): void {
    this.#changes.record(leaf.filter)
    if (leaf instanceof FilterSubscriptions) {
      this.#meter.units += leaf.subscriptions.copiedNext >>> COPIED_BITS
      leaf.subscriptions.delete(subscriber)
      this.#shrink(leaf)
    } else {
      this.#filters.delete(leaf.filter)
    }
  }

  #addShared(
    leaf: Leaf<S> | undefined,
    subscriber: S,
    share: string,
    inner: string,
    options: SubscriptionOptions,
    identifier: number,
  ): Subscription<S> {
    let group = groupIn(leaf, share)
    if (group === undefined) {
      // A cached Route holds groups, not members: it goes stale only when a group begins or ends.
      this.#changes.record(inner)
      group = new Group(share, leaf?.filter ?? inner)
      if (leaf === undefined) this.#filters.set(group)
      else this.#many(leaf).addGroup(group)
      this.watch?.opened(group, group.filter, subscriber)
    }
    const { list } = group
    const { length } = list
    const previous = list.get(subscriber)
    const subscription = new SoleSubscription(subscriber, group.share, options, identifier)
    this.#meter.units += list.copiedNext >>> COPIED_BITS
    list.set(subscription)
    this.#shared += list.length - length
    if (previous !== undefined && this.watch?.keeps(previous) === true) group.kept--
    if (this.watch?.keeps(subscription) === true) group.kept++
    return subscription
  }

  #removeShared(leaf: Leaf<S>, subscriber: S, share: string): void {
    const group = groupIn(leaf, share)!
    const { list } = group
    if (this.watch?.keeps(list.get(subscriber)!) === true) group.kept--
    this.#meter.units += list.copiedNext >>> COPIED_BITS
    list.delete(subscriber)
    this.#shared--
    if (list.length > 0) return
    this.#changes.record(leaf.filter)
    this.watch?.closed(group, group.filter)
    if (leaf instanceof FilterSubscriptions) {
      leaf.removeGroup(share)
      this.#shrink(leaf)
    } else {
      this.#filters.delete(leaf.filter)
    }
  }

  /** Converts a leaf to the form that holds any number of Subscriptions. */
  #many(leaf: Leaf<S>): FilterSubscriptions<S> {
    if (leaf instanceof FilterSubscriptions) return leaf
    const many = new FilterSubscriptions<S>(leaf.filter)
    if (leaf instanceof Group) many.addGroup(leaf)
    else many.subscriptions.set(leaf)
    this.#filters.set(many)
    return many
  }

  /** Removes an empty leaf; replaces one with a single Subscription or group by that. */
  #shrink(leaf: FilterSubscriptions<S>): void {
    const left = leaf.sole()
    if (left === null) this.#filters.delete(leaf.filter)
    else if (left !== undefined) this.#filters.set(left)
  }

  #make(topic: Topic): Route<S> {
    this.misses++
    const found = this.#found
    this.#filters.match(topic.name, found)
    const route = routeOf(found)
    const count = countOf(found)
    this.#meter.units += found.length + (count > 1 ? count : 0)
    found.length = 0
    this.#remember(topic, route, count)
    return route
  }

  #remember(topic: Topic, route: Route<S>, count: number): void {
    topic.route = route
    topic.routedBy = this.#changes
    topic.routedAt = this.#changes.count
    if (count > LARGE_FOUND || this.#large.size > 0) this.#hold(topic, count)
  }

  /** Counts the Subscriptions in large Routes; drops the oldest Routes beyond the limit. */
  #hold(topic: Topic, count: number): void {
    const before = this.#large.get(topic) ?? 0
    if (count <= LARGE_FOUND) {
      if (before !== 0) this.#large.delete(topic)
      this.#largeFound -= before
      return
    }
    const weight = count + Math.floor(topic.byteLength / NAME_BYTES)
    this.#large.set(topic, weight)
    this.#largeFound += weight - before
    for (const [oldest, held] of this.#large) {
      if (this.#largeFound <= LARGE_FOUND_MAX) return
      this.#large.delete(oldest)
      this.#largeFound -= held
      oldest.route = null
    }
  }
}
