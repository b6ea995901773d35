/** HOT: `routeOf`. Makes a Route of the Subscriptions that match a topic name, at once or in steps. */
import type { Meter } from '../mqtt/meter.ts'
import type { KeyedList } from '../structures/keyed-list.ts'
import { type Inlet, NO_INLETS } from './inlet.ts'
import {
  FilterSubscriptions,
  Group,
  type Leaf,
  MergedEntry,
  type RouteEntry,
  type ShareGroup,
  SoleSubscription,
} from './subscription.ts'

/** The receivers of a message. The arrays never change. */
export interface Route<S> {
  /** The only entry when there is no group; null otherwise. */
  readonly sole: RouteEntry<S> | null
  /** One per subscriber, in no order. */
  readonly entries: readonly RouteEntry<S>[]
  /** A group may have lost its last member since: then `members` is empty. */
  readonly groups: readonly ShareGroup<S>[]
  /** Queues and streams that take the message, each once; `NO_INLETS` itself where there are none. */
  readonly inlets: readonly Inlet[]
}

/** Beyond this many further entries, a Map finds them while a Route is made. */
const SCAN_MAX = 16

/** Cost of merging one Subscription into a Route that is made in steps. */
const MERGE_UNITS = 4

const NOTHING: readonly never[] = Object.freeze([])

class CachedRoute<S> implements Route<S> {
  readonly entries: readonly RouteEntry<S>[]
  readonly groups: readonly ShareGroup<S>[]
  readonly inlets: readonly Inlet[]

  constructor(entries: readonly RouteEntry<S>[], groups: readonly ShareGroup<S>[], inlets: readonly Inlet[]) {
    this.entries = entries
    this.groups = groups
    this.inlets = inlets
  }

  get sole(): RouteEntry<S> | null {
    return null
  }
}

const NO_RECEIVERS: CachedRoute<never> = new CachedRoute(NOTHING, NOTHING, NO_INLETS)

/** Makes a Route of everything that was found. */
export function routeOf<S>(found: readonly Leaf<S>[]): Route<S> {
  if (found.length === 0) return NO_RECEIVERS
  if (found.length === 1 && found[0] instanceof SoleSubscription) return found[0]
  return new CachedRoute<S>(merge(found), groupsOf(found), inletsOf(found))
}

/** Counts the Subscriptions and groups of all leaves. */
export function countOf<S>(found: readonly Leaf<S>[]): number {
  let count = 0
  for (const leaf of found) {
    count += leaf instanceof FilterSubscriptions ? leafCount(leaf) : 1
  }
  return count
}

function leafCount<S>({ subscriptions, groups, inlets }: FilterSubscriptions<S>): number {
  return subscriptions.length + (groups?.length ?? 0) + inlets.length
}

/** Adds inlets that are not there yet. Returns `known` itself where there is nothing to add. */
function withInlets(known: readonly Inlet[], more: readonly Inlet[]): readonly Inlet[] {
  if (known.length === 0) return more
  const added = more.filter((inlet) => !known.includes(inlet))
  return added.length === 0 ? known : [...known, ...added]
}

function inletsOf<S>(found: readonly Leaf<S>[]): readonly Inlet[] {
  let inlets = NO_INLETS
  for (const leaf of found) {
    if (leaf instanceof FilterSubscriptions && leaf.inlets.length > 0)
      inlets = withInlets(inlets, leaf.inlets)
  }
  return inlets
}

/** Makes a Route of very many Subscriptions in steps. */
export class RouteBuilder<S> {
  /** Subscriptions and groups that were merged. */
  count = 0
  readonly #entries: RouteEntry<S>[] = []
  readonly #groups: ShareGroup<S>[] = []
  #inlets = NO_INLETS
  /** Positions of entries by subscriber. */
  readonly #positions = new Map<S, number>()
  /** A leaf that moved into the tree meanwhile is found twice. */
  readonly #merged = new Set<Leaf<S>>()
  #next = 0

  /** Continues until the meter reaches `until`. True when everything found is merged. */
  continue(found: readonly Leaf<S>[], meter: Meter, until: number): boolean {
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
        this.#inlets = withInlets(this.#inlets, leaf.inlets)
        this.count += leaf.inlets.length
      }
      meter.units += MERGE_UNITS * (this.count - before)
    }
    return true
  }

  /** The Route of all that was merged. */
  get route(): Route<S> {
    const [first] = this.#entries
    const isSole = this.#entries.length === 1 && this.#groups.length + this.#inlets.length === 0
    if (isSole && first instanceof SoleSubscription) return first
    if (this.count === 0) return NO_RECEIVERS
    return new CachedRoute(this.#entries, this.#groups, this.#inlets)
  }

  #addGroup(group: ShareGroup<S>): void {
    this.#groups.push(group)
    this.count++
  }

  #add(subscription: SoleSubscription<S>): void {
    this.count++
    const { subscriber } = subscription
    const at = this.#positions.get(subscriber)
    if (at !== undefined) {
      this.#entries[at] = joined(this.#entries[at]!, subscription)
      return
    }
    this.#positions.set(subscriber, this.#entries.length)
    this.#entries.push(subscription)
  }
}

/** Makes one entry per subscriber out of all leaves [MQTT-3.3.4-2] [MQTT-3.3.4-4]. */
// biome-ignore lint/complexity/noExcessiveCognitiveComplexity: one loop over all Subscriptions that match.
function merge<S>(found: readonly Leaf<S>[]): readonly RouteEntry<S>[] {
  const largest = largestOf(found)
  if (largest === null || largest instanceof Group) return NOTHING
  const base = largest instanceof FilterSubscriptions ? largest.subscriptions : null
  // A filter has one Subscription per subscriber: if only one filter matches, its list is the answer.
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
        entries[at] = joined(entries[at]!, subscription)
      }
    }
  }
  return entries ?? list
}

/** Adds a Subscription to the entry of its subscriber. */
export function joined<S>(entry: RouteEntry<S>, subscription: SoleSubscription<S>): RouteEntry<S> {
  const merged = entry instanceof MergedEntry ? entry : new MergedEntry(entry as SoleSubscription<S>)
  merged.add(subscription)
  return merged
}

/** Finds the leaf with the most Subscriptions, shared ones not counted; null when none has any. */
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
