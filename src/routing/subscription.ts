/** HOT. Subscriptions as the router holds them; merges overlapping ones of one subscriber. */
import { NO_IDENTIFIERS } from '../mqtt/message.ts'
import type { QoS, SubscriptionOptions } from '../mqtt/packet.ts'
import { KeyedList } from '../structures/keyed-list.ts'
import { type Inlet, NO_INLETS } from './inlet.ts'

/** A Subscription. Immutable: its replacement is a new object. */
export interface Subscription<S> {
  readonly subscriber: S
  /** The whole filter as sent, with `$share/name/`. */
  readonly filter: string
  readonly options: SubscriptionOptions
  /** 0 when absent. */
  readonly identifier: number
}

/** All matching Subscriptions of one subscriber that are not shared (section 3.3.4). Immutable. */
export interface RouteEntry<S> {
  readonly subscriber: S
  /** The highest of the matching Subscriptions [MQTT-3.3.4-2]. */
  readonly qos: QoS
  /** True when any of them has it. */
  readonly retainAsPublished: boolean
  /** Identifiers of all of them, without 0 [MQTT-3.3.4-4]; NO_IDENTIFIERS when there are none. */
  readonly identifiers: readonly number[]
  /** True when any of them has No Local: see `mergeWithout`. */
  readonly noLocal: boolean
  readonly subscriptions: readonly Subscription<S>[]
}

/** The Subscriptions of one `$share/name/filter`. Lives as long as it has members. */
export interface ShareGroup<S> {
  readonly share: string
  /** The present members: read it again for each message. The array itself never changes. */
  readonly members: readonly Subscription<S>[]
  /** Number of members for which `GroupWatch.keeps` is true. */
  readonly kept: number
  /** Position for the choice of the next member. Belongs to the broker. */
  cursor: number
  /** The account of its first member, whose limits it counts for; null for none. Belongs to the broker. */
  opener: object | null
}

/** Is told of groups that open and close, and says which members have messages stored. */
export interface GroupWatch<S> {
  /** `filter` is the part after `$share/name/`. */
  opened(group: ShareGroup<S>, filter: string, by: S): void
  closed(group: ShareGroup<S>, filter: string): void
  /** Tells whether messages are stored for this member; always the same for one Subscription. */
  keeps(member: Subscription<S>): boolean
}

const NO_GROUPS: readonly never[] = Object.freeze([])

/** A Subscription that is its own entry and Route: a single match, the usual case, takes no memory. */
export class SoleSubscription<S> implements Subscription<S>, RouteEntry<S> {
  readonly subscriber: S
  readonly filter: string
  readonly options: SubscriptionOptions
  readonly identifiers: readonly number[]

  constructor(subscriber: S, filter: string, options: SubscriptionOptions, identifier: number) {
    this.subscriber = subscriber
    this.filter = filter
    this.options = shared(options)
    this.identifiers = identifier === 0 ? NO_IDENTIFIERS : [identifier]
  }

  get identifier(): number {
    return this.identifiers.length === 0 ? 0 : this.identifiers[0]!
  }

  get qos(): QoS {
    return this.options.qos
  }

  get retainAsPublished(): boolean {
    return this.options.retainAsPublished
  }

  get noLocal(): boolean {
    return this.options.noLocal
  }

  get subscriptions(): readonly Subscription<S>[] {
    return [this]
  }

  get sole(): RouteEntry<S> {
    return this
  }

  get entries(): readonly RouteEntry<S>[] {
    return [this]
  }

  get groups(): readonly ShareGroup<S>[] {
    return NO_GROUPS
  }

  get inlets(): readonly Inlet[] {
    return NO_INLETS
  }

  /** Tells whether subscribing to the same filter with these would change nothing. */
  same(options: SubscriptionOptions, identifier: number): boolean {
    return this.options === shared(options) && this.identifier === identifier
  }
}

/** Several Subscriptions of one subscriber as one entry. Only the making of a Route calls `add`. */
export class MergedEntry<S> implements RouteEntry<S> {
  readonly subscriber: S
  qos: QoS
  retainAsPublished: boolean
  noLocal: boolean
  identifiers: readonly number[] = NO_IDENTIFIERS
  readonly subscriptions: Subscription<S>[] = []
  #identifiers: number[] | null = null

  constructor(first: Subscription<S>) {
    this.subscriber = first.subscriber
    this.qos = first.options.qos
    this.retainAsPublished = first.options.retainAsPublished
    this.noLocal = first.options.noLocal
    this.add(first)
  }

  add(subscription: Subscription<S>): void {
    const { qos, retainAsPublished, noLocal } = subscription.options
    if (qos > this.qos) this.qos = qos
    this.retainAsPublished ||= retainAsPublished
    this.noLocal ||= noLocal
    this.subscriptions.push(subscription)
    if (subscription.identifier === 0) return
    this.#identifiers ??= []
    this.#identifiers.push(subscription.identifier)
    this.identifiers = this.#identifiers
  }
}

/**
 * Makes the entry for a message that the subscriber itself published, from the Subscriptions without No Local
 * [MQTT-3.8.3-3]. Null when all of them have it: nothing is delivered.
 */
export function mergeWithout<S>(entry: RouteEntry<S>): RouteEntry<S> | null {
  if (!entry.noLocal) return entry
  let merged: MergedEntry<S> | null = null
  for (const subscription of entry.subscriptions) {
    if (subscription.options.noLocal) continue
    if (merged === null) merged = new MergedEntry(subscription)
    else merged.add(subscription)
  }
  return merged
}

/** The Subscriptions and groups of one filter, when there is more than one. */
export class FilterSubscriptions<S> {
  /** The filter to match topics with, without `$share/name/`. */
  readonly filter: string
  readonly subscriptions = new KeyedList<S, SoleSubscription<S>>(subscriberOf)
  groups: KeyedList<string, Group<S>> | null = null
  /** Replaced as a whole: Routes keep it. */
  inlets = NO_INLETS

  constructor(filter: string) {
    this.filter = filter
  }

  addGroup(group: Group<S>): void {
    this.groups ??= new KeyedList(shareOf)
    this.groups.set(group)
  }

  removeGroup(share: string): void {
    this.groups!.delete(share)
    if (this.groups!.length === 0) this.groups = null
  }

  /**
   * Returns the only Subscription or group; null when it is empty; undefined when there are several, or
   * inlets.
   */
  sole(): SoleSubscription<S> | Group<S> | null | undefined {
    if (this.inlets.length > 0) return undefined
    const groups = this.groups?.length ?? 0
    if (groups + this.subscriptions.length > 1) return undefined
    return this.subscriptions.items[0] ?? this.groups?.items[0] ?? null
  }
}

/** A ShareGroup that the router changes. */
export class Group<S> implements ShareGroup<S> {
  readonly share: string
  /** The part after `$share/name/`. */
  readonly filter: string
  readonly list = new KeyedList<S, SoleSubscription<S>>(subscriberOf)
  kept = 0
  cursor = 0
  opener: object | null = null

  constructor(share: string, filter: string) {
    this.share = share
    this.filter = filter
  }

  get members(): readonly Subscription<S>[] {
    return this.list.items
  }
}

/** Everything under one filter: one Subscription, one group, or more of them. */
export type Leaf<S> = SoleSubscription<S> | Group<S> | FilterSubscriptions<S>

/**
 * Finds the Subscription of a subscriber in a leaf; `share` is the whole filter of a Shared Subscription,
 * else null.
 */
export function subscriptionIn<S>(
  leaf: Leaf<S> | undefined,
  subscriber: S,
  share: string | null,
): SoleSubscription<S> | undefined {
  if (share !== null) return groupIn(leaf, share)?.list.get(subscriber)
  if (leaf instanceof FilterSubscriptions) return leaf.subscriptions.get(subscriber)
  return leaf instanceof SoleSubscription && leaf.subscriber === subscriber ? leaf : undefined
}

/** Finds the group of a whole Shared Subscription filter in a leaf. */
export function groupIn<S>(leaf: Leaf<S> | undefined, share: string): Group<S> | undefined {
  if (leaf instanceof FilterSubscriptions) return leaf.groups?.get(share)
  return leaf instanceof Group && leaf.share === share ? leaf : undefined
}

/** Returns the key of a group in a KeyedList. */
function shareOf<S>(group: Group<S>): string {
  return group.share
}

function subscriberOf<S>(subscription: SoleSubscription<S>): S {
  return subscription.subscriber
}

/**
 * Subscription Options that all Subscriptions share. The index consists of QoS (2 bits), No Local, Retain
 * As Published and Retain Handling (2 bits).
 */
const OPTIONS: readonly SubscriptionOptions[] = Array.from({ length: 48 }, (_, index) =>
  Object.freeze({
    qos: (index & 3) as QoS,
    noLocal: (index & 4) !== 0,
    retainAsPublished: (index & 8) !== 0,
    retainHandling: (index >> 4) as 0 | 1 | 2,
  }),
)

/** Returns the shared object for these options. */
function shared(options: SubscriptionOptions): SubscriptionOptions {
  const flags = (options.noLocal ? 4 : 0) | (options.retainAsPublished ? 8 : 0)
  return OPTIONS[options.qos | flags | (options.retainHandling << 4)]!
}
