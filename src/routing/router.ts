/**
 * HOT: `route`. Finds the Subscriptions that match a topic name, and remembers the answer on the Topic.
 *
 * Filters without a wildcard are a Map, the others a tree of levels. A Route is built only when a topic is routed;
 * it is dated by a count of changes and holds as long as no filter changed that could match its topic (`Changes`).
 * Topics are not listed here: whoever holds a Topic holds its Route.
 */
import type { Topic } from '../mqtt/message.ts'
import type { SubscriptionOptions } from '../mqtt/packet.ts'
import { Changes } from './changes.ts'
import { ChurnMap } from './churn-map.ts'
import { filterMatches, hasWildcard, innerFilter, isDollarTopic } from './filter.ts'
import { KeyedList } from './keyed-list.ts'
import { Branch, type Child, LevelTree } from './level-tree.ts'
import {
  FilterSubscriptions,
  Group,
  MergedEntry,
  type RouteEntry,
  type ShareGroup,
  SoleSubscription,
  type Subscription,
  shareOf,
} from './subscription.ts'

export { mergeWithout, type RouteEntry, type ShareGroup, type Subscription } from './subscription.ts'

/** Who gets a message. The arrays never change. */
export interface Route<S> {
  /** One per subscriber, in no order. */
  readonly entries: readonly RouteEntry<S>[]
  /** A group that has lost its last member since has no members. */
  readonly groups: readonly ShareGroup<S>[]
}

/** What is found for a filter: one Subscription, or more, or Shared Subscriptions. */
type Leaf<S> = SoleSubscription<S> | FilterSubscriptions<S>

/** Routes with more entries than this are held in number: making one again is cheap beside delivering by it. */
const LARGE_ENTRIES = 64
/** Entries that all cached large Routes together may have. */
const LARGE_ENTRIES_MAX = 524_288
/** More further entries than this are found by a Map while a Route is made. */
const SCAN_MAX = 16

const NOTHING: readonly never[] = Object.freeze([])

class CachedRoute<S> implements Route<S> {
  readonly entries: readonly RouteEntry<S>[]
  readonly groups: readonly ShareGroup<S>[]
  readonly changes: Changes
  /** The count of changes up to which the Route is known to hold. */
  checkedAt: number

  constructor(entries: readonly RouteEntry<S>[], groups: readonly ShareGroup<S>[], changes: Changes) {
    this.entries = entries
    this.groups = groups
    this.changes = changes
    this.checkedAt = changes.count
  }
}

/** `S` is who subscribes: the router compares subscribers by identity and looks at nothing in them. */
export class Router<S extends object> {
  /** Routes that had to be made because none was cached or the cached one no longer held. */
  misses = 0
  readonly #exact = new ChurnMap<string, Leaf<S>>()
  readonly #wildcards = new LevelTree<Leaf<S>>(filterOf)
  readonly #groups = new ChurnMap<string, Group<S>>()
  readonly #changes = new Changes()
  readonly #large = new Map<Topic, number>()
  #largeEntries = 0
  #subscriptions = 0
  #shared = 0
  // Scratch for matching, empty in between.
  readonly #found: Leaf<S>[] = []
  readonly #open: Child<Leaf<S>>[] = []
  readonly #depths: number[] = []

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
    return this.#exact.size + this.#wildcards.nodeCount + this.#groups.size
  }

  /**
   * Adds a Subscription. `filter` is valid. A Subscription of the same subscriber to the same filter is replaced
   * [MQTT-3.8.4-3] and returned; one that is the same in everything stays and is returned.
   */
  subscribe(
    subscriber: S,
    filter: string,
    options: SubscriptionOptions,
    identifier: number,
  ): Subscription<S> | null {
    const inner = innerFilter(filter)
    const previous = this.#find(subscriber, filter, inner)
    if (previous?.same(options, identifier)) return previous
    if (inner !== filter) this.#addShared(subscriber, filter, inner, options, identifier)
    else this.#add(subscriber, filter, options, identifier)
    if (previous === undefined) this.#subscriptions++
    return previous ?? null
  }

  /** Removes and returns a Subscription, its filter compared character by character [MQTT-3.10.4-1]; or null. */
  unsubscribe(subscriber: S, filter: string): Subscription<S> | null {
    const inner = innerFilter(filter)
    const subscription = this.#find(subscriber, filter, inner)
    if (subscription === undefined) return null
    if (inner !== filter) this.#removeShared(subscriber, filter, inner)
    else this.#remove(subscriber, filter)
    this.#subscriptions--
    return subscription
  }

  /** Who gets a message with this topic. Remembered on the topic; valid until the next change of Subscriptions. */
  route(topic: Topic): Route<S> {
    const cached = topic.route as CachedRoute<S> | null
    const changes = this.#changes
    if (cached !== null && cached.changes === changes) {
      if (cached.checkedAt === changes.count) return cached
      if (!changes.touched(topic.name, cached.checkedAt)) {
        cached.checkedAt = changes.count
        return cached
      }
    }
    return this.#make(topic)
  }

  /**
   * Lets go of a topic's cached Route if it no longer holds, so that a topic that nobody publishes to does not keep
   * subscribers in memory that are gone.
   */
  release(topic: Topic): void {
    const cached = topic.route as CachedRoute<S> | null
    if (cached === null || cached.changes !== this.#changes) return
    if (cached.checkedAt === this.#changes.count) return
    if (this.#changes.touched(topic.name, cached.checkedAt)) topic.route = null
    else cached.checkedAt = this.#changes.count
  }

  /** The group of a whole Shared Subscription filter; null when it has no members. */
  shareGroup(share: string): ShareGroup<S> | null {
    return this.#groups.get(share) ?? null
  }

  #find(subscriber: S, filter: string, inner: string): SoleSubscription<S> | undefined {
    if (inner !== filter) return this.#groups.get(filter)?.list.get(subscriber)
    const leaf = this.#leaf(filter)
    if (leaf instanceof FilterSubscriptions) return leaf.subscriptions.get(subscriber)
    return leaf?.subscriber === subscriber ? leaf : undefined
  }

  #add(subscriber: S, filter: string, options: SubscriptionOptions, identifier: number): void {
    this.#changes.record(filter)
    const leaf = this.#leaf(filter)
    // All Subscriptions to a filter hold the same string.
    const subscription = new SoleSubscription(subscriber, leaf?.filter ?? filter, options, identifier)
    if (leaf === undefined || (leaf instanceof SoleSubscription && leaf.subscriber === subscriber)) {
      this.#put(subscription)
    } else {
      this.#many(filter, leaf).subscriptions.set(subscription)
    }
  }

  #remove(subscriber: S, filter: string): void {
    this.#changes.record(filter)
    const leaf = this.#leaf(filter)!
    if (leaf instanceof FilterSubscriptions) {
      leaf.subscriptions.delete(subscriber)
      this.#shrink(leaf)
    } else {
      this.#take(filter)
    }
  }

  #addShared(
    subscriber: S,
    share: string,
    inner: string,
    options: SubscriptionOptions,
    identifier: number,
  ): void {
    let group = this.#groups.get(share)
    if (group === undefined) {
      // A cached Route holds groups, not members: it goes stale only here and where the group ends.
      this.#changes.record(inner)
      group = new Group(share)
      this.#groups.set(share, group)
      const leaf = this.#many(inner, this.#leaf(inner))
      leaf.groups ??= new KeyedList(shareOf)
      leaf.groups.set(group)
    }
    const { length } = group.list
    group.list.set(new SoleSubscription(subscriber, group.share, options, identifier))
    this.#shared += group.list.length - length
  }

  #removeShared(subscriber: S, share: string, inner: string): void {
    const group = this.#groups.get(share)!
    group.list.delete(subscriber)
    this.#shared--
    if (group.list.length > 0) return
    this.#changes.record(inner)
    this.#groups.delete(share)
    const leaf = this.#leaf(inner) as FilterSubscriptions<S>
    leaf.groups!.delete(share)
    if (leaf.groups!.length === 0) leaf.groups = null
    this.#shrink(leaf)
  }

  #leaf(filter: string): Leaf<S> | undefined {
    return hasWildcard(filter) ? this.#wildcards.get(filter) : this.#exact.get(filter)
  }

  #put(leaf: Leaf<S>): void {
    if (hasWildcard(leaf.filter)) this.#wildcards.set(leaf)
    else this.#exact.set(leaf.filter, leaf)
  }

  #take(filter: string): void {
    if (hasWildcard(filter)) this.#wildcards.delete(filter)
    else this.#exact.delete(filter)
  }

  /** The leaf in the shape that holds any number of Subscriptions; made and put in its place when it is not. */
  #many(filter: string, leaf: Leaf<S> | undefined): FilterSubscriptions<S> {
    if (leaf instanceof FilterSubscriptions) return leaf
    const many = new FilterSubscriptions<S>(leaf?.filter ?? filter)
    if (leaf !== undefined) many.subscriptions.set(leaf)
    this.#put(many)
    return many
  }

  /** Takes a leaf that holds nothing out, and gives one that holds one Subscription its small shape again. */
  #shrink(leaf: FilterSubscriptions<S>): void {
    if (leaf.groups !== null || leaf.subscriptions.length > 1) return
    if (leaf.subscriptions.length === 0) this.#take(leaf.filter)
    else this.#put(leaf.subscriptions.items[0]!)
  }

  #make(topic: Topic): Route<S> {
    this.misses++
    const found = this.#found
    const exact = this.#exact.get(topic.name)
    if (exact !== undefined) found.push(exact)
    if (this.#wildcards.nodeCount > 0) this.#match(topic.name)
    const route = new CachedRoute<S>(merge(found), groupsOf(found), this.#changes)
    found.length = 0
    topic.route = route
    this.#hold(topic, route.entries.length)
    return route
  }

  /** Counts the entries of large Routes; topics that have had one for longest lose theirs. */
  #hold(topic: Topic, entries: number): void {
    const before = this.#large.get(topic) ?? 0
    if (entries <= LARGE_ENTRIES) {
      if (before !== 0) this.#large.delete(topic)
      this.#largeEntries -= before
      return
    }
    this.#large.set(topic, entries)
    this.#largeEntries += entries - before
    for (const [oldest, held] of this.#large) {
      if (this.#largeEntries <= LARGE_ENTRIES_MAX) return
      this.#large.delete(oldest)
      this.#largeEntries -= held
      oldest.route = null
    }
  }

  /** Adds the leaves of all wildcard filters that match the topic name to what was found. */
  #match(topic: string): void {
    const levels = topic.split('/')
    const found = this.#found
    const open = this.#open
    const depths = this.#depths
    const noLeadingWildcard = isDollarTopic(topic) // [MQTT-4.7.2-1]
    let node: Child<Leaf<S>> | undefined = this.#wildcards.root
    let depth: number | undefined = 0
    // No recursion: a filter may have as many levels as it has bytes.
    while (node !== undefined) {
      if (!(node instanceof Branch)) {
        if (filterMatches(node.filter, topic)) found.push(node)
      } else {
        const leading = depth === 0
        if (node.hash !== null && !(leading && noLeadingWildcard)) found.push(node.hash)
        if (depth === levels.length) {
          if (node.end !== null) found.push(node.end)
        } else {
          const literal: Child<Leaf<S>> | null = node.literal(levels[depth!]!)
          if (literal !== null) {
            open.push(literal)
            depths.push(depth! + 1)
          }
          if (node.plus !== null && !(leading && noLeadingWildcard)) {
            open.push(node.plus)
            depths.push(depth! + 1)
          }
        }
      }
      node = open.pop()
      depth = depths.pop()
    }
  }
}

function filterOf<S>(leaf: Leaf<S>): string {
  return leaf.filter
}

/** One entry per subscriber out of all leaves [MQTT-3.3.4-2] [MQTT-3.3.4-4]. */
function merge<S>(found: readonly Leaf<S>[]): readonly RouteEntry<S>[] {
  const largest = largestOf(found)
  if (largest === null) return NOTHING
  const base = largest instanceof FilterSubscriptions ? largest.subscriptions : null
  // A filter has one Subscription per subscriber: where only one filter matches, its list is the answer.
  const list: readonly RouteEntry<S>[] =
    largest instanceof FilterSubscriptions ? largest.subscriptions.items : [largest]
  let entries: RouteEntry<S>[] | null = null
  let others: Map<S, number> | null = null
  for (const leaf of found) {
    if (leaf === largest) continue
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
    if (!(leaf instanceof FilterSubscriptions) || leaf.groups === null) continue
    groups ??= []
    for (const group of leaf.groups.items) groups.push(group)
  }
  return groups ?? NOTHING
}
