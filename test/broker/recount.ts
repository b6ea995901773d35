/** Counts from scratch everything that `UsageBook` counts as it changes. */
import { expect } from 'vitest'
import {
  bodiesBytes,
  entriesBytes,
  parkedBytes,
  retainedBytes,
  sessionBytes,
  storedBytes,
  subscriptionBytes,
  willBytes,
} from '../../src/broker/accounts/costs.ts'
import { type Usage, usageOf } from '../../src/broker/accounts/usage.ts'
import type { ServerState } from '../../src/broker/state/server-state.ts'
import type { Message } from '../../src/mqtt/message.ts'
import type { ShareGroup } from '../../src/routing/subscription.ts'
import type { Session } from '../../src/session/session.ts'
import { MESSAGE_BYTES } from '../../src/store/held-bytes.ts'

const COUNTS = [
  'connections',
  'sessions',
  'sessionBytes',
  'subscriptions',
  'sharedSubscriptions',
  'subscriptionBytes',
  'retainedMessages',
  'retainedBytes',
  'wills',
  'willBytes',
  'queueBytes',
  'entryBytes',
  'parkedBytes',
  'storedBytes',
] as const

/** `shareGroups` are open groups that a user opened, which only others may be using by now. */
type Counts = Record<(typeof COUNTS)[number] | 'shareGroups', number>

function nothing(): Counts {
  return { ...(Object.fromEntries(COUNTS.map((name) => [name, 0])) as Counts), shareGroups: 0 }
}

/** Counts by kind and name. */
export type Recount = Map<string, Counts>

function counted(usage: Usage, { shareGroups }: ServerState): Counts {
  const counts = Object.fromEntries(COUNTS.map((name) => [name, usage[name]])) as Counts
  return { ...counts, shareGroups: shareGroups.countOf(usage) }
}

/** Counts everything one by one. `addresses` are those of all open transports. */
export function recount(state: ServerState, addresses: readonly string[]): Recount {
  const counts: Recount = new Map()
  const of = (kind: string, name: string): Counts => {
    const key = `${kind} ${name}`
    const found = counts.get(key) ?? nothing()
    counts.set(key, found)
    return found
  }
  const holders = (usage: Usage): Counts[] => [
    of('client', usage.name),
    of('total', ''),
    of('user', usage.user!.name),
    ...(usage.address === null ? [] : [of('address', usage.address.name)]),
  ]
  of('total', '').connections = addresses.length
  for (const address of addresses) of('address', address).connections++
  for (const session of state.sessions.values()) {
    const usage = usageOf(session)!
    if (state.connected.has(session)) {
      of('client', usage.name).connections++
      of('user', usage.user!.name).connections++
    }
    for (const each of holders(usage)) {
      each.sessions++
      each.sessionBytes += sessionBytes(session.clientId)
      each.queueBytes += entriesBytes(session) + bodiesBytes(session)
      each.entryBytes += entriesBytes(session)
      each.parkedBytes += parkedBytes(session)
      each.storedBytes += storedBytes(session)
      for (const filter of session.subscriptions.keys()) {
        const isShared = filter.startsWith('$share/')
        each.subscriptions++
        if (isShared) each.sharedSubscriptions++
        each.subscriptionBytes += subscriptionBytes(filter, isShared)
      }
    }
  }
  for (const { usage, record } of state.wills.values()) {
    for (const each of holders(usage)) {
      each.wills++
      each.willBytes += willBytes(record.will)
    }
  }
  for (const message of state.retained) {
    if (message.topic.name.startsWith('$SYS')) continue
    for (const each of [of('user', (message.charged as Usage).name), of('total', '')]) {
      each.retainedMessages++
      each.retainedBytes += retainedBytes(message.size)
    }
  }
  // For all clients together, each message counts once.
  const messages = new Set<Message>()
  const groups = new Set<ShareGroup<Session>>()
  for (const session of state.sessions.values()) {
    for (const message of session.held()) if ('size' in message) messages.add(message)
    for (const filter of session.subscriptions.keys()) {
      if (filter.startsWith('$share/')) groups.add(state.router.shareGroup(filter)!)
    }
  }
  // A user stays known as long as a group is open that it opened, even if nothing else is left of it.
  for (const { opener } of groups) of('user', (opener as Usage).name).shareGroups++
  const total = of('total', '')
  total.queueBytes = total.entryBytes
  for (const { size } of messages) total.queueBytes += size + MESSAGE_BYTES
  return counts
}

/** Returns the counts of the book in the same shape. */
export function booked(state: ServerState): Recount {
  const { usage } = state
  usage.look()
  const counts: Recount = new Map([['total ', counted(usage.total, state)]])
  for (const each of [...usage.clients(), ...usage.users(), ...usage.addresses()]) {
    counts.set(`${each.kind} ${each.name}`, counted(each, state))
  }
  return counts
}

/** Expects the book and a recount to have the same counts. */
export function expectCounted(state: ServerState, addresses: readonly string[]): void {
  const sorted = (counts: Recount) => Object.fromEntries([...counts].toSorted(([a], [b]) => (a < b ? -1 : 1)))
  expect(sorted(booked(state))).toEqual(sorted(recount(state, addresses)))
}
