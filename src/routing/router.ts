/**
 * HOT: `route`. Finds the Subscriptions that match a topic name, and remembers the answer on the Topic.
 *
 * A Route is built only when a topic is routed; it is dated by a count of changes and holds as long as no filter
 * changed that could match its topic (`Changes`). One Subscription alone, the usual case, is its own Route.
 * Topics are not listed here: whoever holds a Topic holds its Route.
 */
import type { Topic } from '../mqtt/message.ts'
import { CHARACTER_BITS, type Meter } from '../mqtt/meter.ts'
import type { SubscriptionOptions } from '../mqtt/packet.ts'
import type { KeyedList } from '../structures/keyed-list.ts'
import { Changes } from './changes.ts'
import { innerFilter } from './filter.ts'
import { FilterSet, type Matching } from './filter-set.ts'
import {
  FilterSubscriptions,
  Group,
  type GroupWatch,
  MergedEntry,
  type RouteEntry,
  type ShareGroup,
  SoleSubscription,
  type Subscription,
} from './subscription.ts'

export {
  type GroupWatch,
  mergeWithout,
  type RouteEntry,
  type ShareGroup,
  type Subscription,
} from './subscription.ts'

/** Who gets a message. The arrays never change. */
export interface Route<S> {
  /** The one entry where there is no other and no group; null otherwise. */
  readonly sole: RouteEntry<S> | null
  /** One per subscriber, in no order. */
  readonly entries: readonly RouteEntry<S>[]
  /** A group that has lost its last member since has no members. */
  readonly groups: readonly ShareGroup<S>[]
}

/** What is found for a filter: one Subscription, one group, or more of them. */
type Leaf<S> = SoleSubscription<S> | Group<S> | FilterSubscriptions<S>

/**
 * Routes made of more Subscriptions and groups than this are held in number: making one again is cheap beside delivering
 * by it. Subscriptions count, not entries: one subscriber may have thousands that match.
 */
const LARGE_FOUND = 64
/** Subscriptions and groups of which all cached large Routes together may be made. */
const LARGE_FOUND_MAX = 524_288
/** Bytes of a topic name that count as one of them: nobody but this Router may hold the Topic any more. */
const NAME_BYTES = 32
/** More further entries than this are found by a Map while a Route is made. */
const SCAN_MAX = 16

/** Places of the tree that may be visited at once: a match that may visit more is `prepare`d in steps. */
const AT_ONCE_MAX = 2048
/** Steps become this many times as long, by doubling, for a topic whose Subscriptions change while it is prepared. */
const LONGER_MAX = 16

/** What it takes to merge one Subscription into a Route that is made in steps. */
const MERGE_UNITS = 4

/** Items of a list that are copied for one unit, as a power of two. */
const COPIED_BITS = 5

/** What a Subscription that is added or removed, and one that is found, take beside the characters of their filters. */
const SUBSCRIPTION_UNITS = 10

const NOTHING: readonly never[] = Object.freeze([])

/** A Route that is being made: by what it began with, and how long its steps are. */
interface Preparation<S> {
  readonly matching: Matching<Leaf<S>>
  readonly merger: Merger<S>
  readonly since: number
  readonly longer: number
}

class CachedRoute<S> implements Route<S> {
  readonly entries: readonly RouteEntry<S>[]
  readonly groups: readonly ShareGroup<S>[]

  constructor(entries: readonly RouteEntry<S>[], groups: readonly ShareGroup<S>[]) {
    this.entries = entries
    this.groups = groups
  }

  get sole(): RouteEntry<S> | null {
    return null
  }
}

const NOBODY: CachedRoute<never> = new CachedRoute(NOTHING, NOTHING)

/** `S` is who subscribes: the router compares subscribers by identity and looks at nothing in them. */
export class Router<S extends object> {
  /** Routes that had to be made because none was cached or the cached one no longer held. */
  misses = 0
  /** Null where nobody needs to know. */
  watch: GroupWatch<S> | null = null
  readonly #meter: Meter
  readonly #filters: FilterSet<Leaf<S>>
  readonly #changes = new Changes()
  readonly #large = new Map<Topic, number>()
  #largeFound = 0
  #subscriptions = 0
  #shared = 0
  // Scratch for matching, empty in between.
  readonly #found: Leaf<S>[] = []
  /** Topics whose Routes are being made in steps. */
  readonly #preparing = new WeakMap<Topic, Preparation<S>>()

  constructor(meter: Meter = { units: 0 }) {
    this.#meter = meter
    this.#filters = new FilterSet(undefined, meter)
  }

  /** All Subscriptions, shared ones included. */
  get subscriptionCount(): number {
    return this.#subscriptions
  }

  /** Shared Subscriptions: the members of all groups. */
  get sharedCount(): number {
    return this.#shared
  }

  /** Entries in maps and trees: 0 when there is no Subscription. */
  get nodeCount(): number {
    return this.#filters.nodeCount
  }

  /**
   * Adds a Subscription and returns it. `filter` is valid. A Subscription of the same subscriber to the same filter is
   * replaced [MQTT-3.8.4-3]; one that is the same in everything stays and is returned.
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
    const previous = find(leaf, subscriber, share)
    if (previous?.same(options, identifier)) return previous
    if (previous === undefined) this.#subscriptions++
    if (share !== null) return this.#addShared(leaf, subscriber, share, inner, options, identifier)
    return this.#add(leaf, subscriber, filter, options, identifier)
  }

  /** Removes and returns a Subscription, its filter compared character by character [MQTT-3.10.4-1]; or null. */
  unsubscribe(subscriber: S, filter: string): Subscription<S> | null {
    this.#meter.units += SUBSCRIPTION_UNITS
    const inner = innerFilter(filter)
    const leaf = this.#filters.get(inner)
    const share = inner === filter ? null : filter
    const subscription = find(leaf, subscriber, share)
    if (subscription === undefined) return null
    if (share !== null) this.#removeShared(leaf!, subscriber, share)
    else this.#remove(leaf!, subscriber)
    this.#subscriptions--
    return subscription
  }

  /** Who gets a message with this topic. Remembered on the topic; valid until the next change of Subscriptions. */
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

  /** Whether the Route of a topic may take long to make: then `prepare` makes it in steps. */
  get mayTakeLong(): boolean {
    return this.#filters.treeSize > AT_ONCE_MAX
  }

  /**
   * Makes the Route of a topic as far as `units` more of the meter go, so that `route` has it at once. False when there is more
   * to do: then it is to be called again, in a later turn. The Route is that of the moment at which this returns true.
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
      preparation = { matching, merger: new Merger(), since: changes.count, longer }
    }
    const { matching, merger, longer } = preparation
    const until = this.#meter.units + units * longer
    if (!this.#filters.goOn(matching, until) || !merger.goOn(matching.found, this.#meter, until)) {
      if (preparation !== known) this.#preparing.set(topic, preparation)
      return false
    }
    if (known !== undefined) this.#preparing.delete(topic)
    this.misses++
    this.#remember(topic, merger.route, merger.count)
    return true
  }

  /** Changes of filters so far: as long as it is the same, every Route is. */
  get changeCount(): number {
    return this.#changes.count
  }

  /** An entry of an earlier Route as its Subscriptions are now; null where none of them is there any more. */
  current(entry: RouteEntry<S>): RouteEntry<S> | null {
    let now: RouteEntry<S> | null = null
    for (const { filter } of entry.subscriptions) {
      const found = find(this.#filters.get(filter), entry.subscriber, null)
      if (found !== undefined) now = now === null ? found : join(now, found)
    }
    return now
  }

  /**
   * Lets go of a topic's cached Route if it no longer holds, so that a topic that nobody publishes to does not keep
   * subscribers in memory that are gone. For whoever comes by all topics now and then.
   */
  release(topic: Topic): void {
    const changes = this.#changes
    if (topic.route === null || topic.routedBy !== changes || topic.routedAt === changes.count) return
    this.#meter.units += 1 + (topic.name.length >>> (CHARACTER_BITS - 1))
    if (changes.touched(topic.name, topic.routedAt)) topic.route = null
    else topic.routedAt = changes.count
  }

  /** The group of a whole Shared Subscription filter; null when it has no members. */
  shareGroup(share: string): ShareGroup<S> | null {
    return findGroup(this.#filters.get(innerFilter(share)), share) ?? null
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
    let group = findGroup(leaf, share)
    if (group === undefined) {
      // A cached Route holds groups, not members: it goes stale only here and where the group ends.
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
    const group = findGroup(leaf, share)!
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

  /** The leaf in the shape that holds any number of Subscriptions; made and put in its place when it is not. */
  #many(leaf: Leaf<S>): FilterSubscriptions<S> {
    if (leaf instanceof FilterSubscriptions) return leaf
    const many = new FilterSubscriptions<S>(leaf.filter)
    if (leaf instanceof Group) many.addGroup(leaf)
    else many.subscriptions.set(leaf)
    this.#filters.set(many)
    return many
  }

  /** Takes a leaf that holds nothing out, and gives one that holds one thing its small shape again. */
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

  /** Counts what large Routes are made of; topics that have had one for longest lose theirs. */
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

/** Makes a Route of very many Subscriptions, a few at a time. */
class Merger<S> {
  /** Subscriptions and groups that were merged. */
  count = 0
  readonly #entries: RouteEntry<S>[] = []
  readonly #groups: ShareGroup<S>[] = []
  /** Where each subscriber's entry is. */
  readonly #places = new Map<S, number>()
  /** One that moved into the tree meanwhile is found twice. */
  readonly #merged = new Set<Leaf<S>>()
  #next = 0

  /** Goes on until the meter has so many units. True when all that was found is merged. */
  goOn(found: readonly Leaf<S>[], meter: Meter, until: number): boolean {
    for (; this.#next < found.length; this.#next++) {
      if (meter.units >= until) return false
      const leaf = found[this.#next]!
      if (this.#merged.has(leaf)) continue
      this.#merged.add(leaf)
      const before = this.count
      if (leaf instanceof Group) this.#addGroup(leaf)
      else if (leaf instanceof SoleSubscription) this.#add(leaf)
      else {
        for (const subscription of leaf.subscriptions.items) this.#add(subscription)
        for (const group of leaf.groups?.items ?? NOTHING) this.#addGroup(group)
      }
      meter.units += MERGE_UNITS * (this.count - before)
    }
    return true
  }

  get route(): Route<S> {
    const [first] = this.#entries
    const isSole = this.#entries.length === 1 && this.#groups.length === 0
    if (isSole && first instanceof SoleSubscription) return first
    return this.count === 0 ? NOBODY : new CachedRoute(this.#entries, this.#groups)
  }

  #addGroup(group: ShareGroup<S>): void {
    this.#groups.push(group)
    this.count++
  }

  #add(subscription: SoleSubscription<S>): void {
    this.count++
    const { subscriber } = subscription
    const at = this.#places.get(subscriber)
    if (at !== undefined) {
      this.#entries[at] = join(this.#entries[at]!, subscription)
      return
    }
    this.#places.set(subscriber, this.#entries.length)
    this.#entries.push(subscription)
  }
}

/** The subscriber's own of what is found for a filter; `share` is the whole filter of a Shared Subscription, else null. */
function find<S>(
  leaf: Leaf<S> | undefined,
  subscriber: S,
  share: string | null,
): SoleSubscription<S> | undefined {
  if (share !== null) return findGroup(leaf, share)?.list.get(subscriber)
  if (leaf instanceof FilterSubscriptions) return leaf.subscriptions.get(subscriber)
  return leaf instanceof SoleSubscription && leaf.subscriber === subscriber ? leaf : undefined
}

function findGroup<S>(leaf: Leaf<S> | undefined, share: string): Group<S> | undefined {
  if (leaf instanceof FilterSubscriptions) return leaf.groups?.get(share)
  return leaf instanceof Group && leaf.share === share ? leaf : undefined
}

/** Subscriptions and groups of all leaves together. */
function countOf<S>(found: readonly Leaf<S>[]): number {
  let count = 0
  for (const leaf of found) {
    count += leaf instanceof FilterSubscriptions ? leaf.subscriptions.length + (leaf.groups?.length ?? 0) : 1
  }
  return count
}

function routeOf<S>(found: readonly Leaf<S>[]): Route<S> {
  if (found.length === 0) return NOBODY
  if (found.length === 1 && found[0] instanceof SoleSubscription) return found[0]
  return new CachedRoute<S>(merge(found), groupsOf(found))
}

/** One entry per subscriber out of all leaves [MQTT-3.3.4-2] [MQTT-3.3.4-4]. */
function merge<S>(found: readonly Leaf<S>[]): readonly RouteEntry<S>[] {
  const largest = largestOf(found)
  if (largest === null || largest instanceof Group) return NOTHING
  const base = largest instanceof FilterSubscriptions ? largest.subscriptions : null
  // A filter has one Subscription per subscriber: where only one filter matches, its list is the answer.
  const list: readonly RouteEntry<S>[] =
    largest instanceof FilterSubscriptions ? largest.subscriptions.items : [largest]
  let entries: RouteEntry<S>[] | null = null
  let others: Map<S, number> | null = null
  for (const leaf of found) {
    if (leaf === largest || leaf instanceof Group) continue
    const subscriptions = leaf instanceof FilterSubscriptions ? leaf.subscriptions.items : [leaf]
    if (subscriptions.length === 0) continue
    entries ??= list.slice()
    for (const subscription of subscriptions) {
      let at = positionIn(base, list, subscription.subscriber)
      if (at === -1) {
        if (others === null && entries.length - list.length > SCAN_MAX)
          others = indexFrom(entries, list.length)
        at =
          others === null
            ? scan(entries, list.length, subscription.subscriber)
            : (others.get(subscription.subscriber) ?? -1)
      }
      if (at === -1) {
        others?.set(subscription.subscriber, entries.length)
        entries.push(subscription)
      } else {
        entries[at] = join(entries[at]!, subscription)
      }
    }
  }
  return entries ?? list
}

function join<S>(entry: RouteEntry<S>, subscription: SoleSubscription<S>): RouteEntry<S> {
  const merged = entry instanceof MergedEntry ? entry : new MergedEntry(entry as SoleSubscription<S>)
  merged.add(subscription)
  return merged
}

/** The leaf with the most Subscriptions, shared ones not counted; null when none has any. */
function largestOf<S>(found: readonly Leaf<S>[]): Leaf<S> | null {
  let largest: Leaf<S> | null = null
  let most = 0
  for (const leaf of found) {
    if (leaf instanceof Group) continue
    const count = leaf instanceof FilterSubscriptions ? leaf.subscriptions.length : 1
    if (count <= most) continue
    largest = leaf
    most = count
  }
  return largest
}

function positionIn<S>(
  base: KeyedList<S, SoleSubscription<S>> | null,
  list: readonly RouteEntry<S>[],
  subscriber: S,
): number {
  if (base !== null) return base.position(subscriber)
  return list[0]!.subscriber === subscriber ? 0 : -1
}

function indexFrom<S>(entries: readonly RouteEntry<S>[], from: number): Map<S, number> {
  const index = new Map<S, number>()
  for (let at = from; at < entries.length; at++) index.set(entries[at]!.subscriber, at)
  return index
}

function scan<S>(entries: readonly RouteEntry<S>[], from: number, subscriber: S): number {
  for (let at = from; at < entries.length; at++) if (entries[at]!.subscriber === subscriber) return at
  return -1
}

function groupsOf<S>(found: readonly Leaf<S>[]): readonly ShareGroup<S>[] {
  let groups: ShareGroup<S>[] | null = null
  for (const leaf of found) {
    if (leaf instanceof Group) {
      if (groups === null) groups = [leaf]
      else groups.push(leaf)
    } else if (leaf instanceof FilterSubscriptions && leaf.groups !== null) {
      groups ??= []
      for (const group of leaf.groups.items) groups.push(group)
    }
  }
  return groups ?? NOTHING
}
