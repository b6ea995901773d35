/**
 * Finds limits that are exceeded already, mostly because they were lowered. Nothing is removed; the operator
 * is told.
 */
import type { Usage } from '../accounts/usage.ts'
import { configKey } from '../boundary/limit-row.ts'
import type { LimitName, Limits } from '../boundary/limits.ts'
import type { ServerState } from '../state/server-state.ts'

/** A limit, the amount that it bounds, and the noun for a sentence. */
type Measure = readonly [limit: LimitName, amount: (usage: Usage) => number, what: string]

const IN_ALL: readonly Measure[] = [
  ['sessionsMax', ({ sessions }) => sessions, 'Sessions'],
  ['willsMax', ({ wills }) => wills, 'Wills'],
  ['willsBytesMax', ({ willBytes }) => willBytes, 'bytes of Wills'],
]

const PER_USER: readonly Measure[] = [
  ['connectionsPerUserMax', ({ connections }) => connections, 'connected clients'],
  ['sessionsPerUserMax', ({ sessions }) => sessions, 'Sessions'],
  ['subscriptionsPerUserMax', ({ subscriptions }) => subscriptions, 'Subscriptions'],
  ['retainedMessagesPerUserMax', ({ retainedMessages }) => retainedMessages, 'retained messages'],
  ['retainedBytesPerUserMax', ({ retainedBytes }) => retainedBytes, 'bytes of retained messages'],
  ['willsPerUserMax', ({ wills }) => wills, 'Wills'],
  ['willsBytesPerUserMax', ({ willBytes }) => willBytes, 'bytes of Wills'],
]

const PER_CLIENT: readonly Measure[] = [
  ['subscriptionsPerClientMax', ({ subscriptions }) => subscriptions, 'Subscriptions'],
  [
    'sharedSubscriptionsPerClientMax',
    ({ sharedSubscriptions }) => sharedSubscriptions,
    'Shared Subscriptions',
  ],
]

/** Returns a sentence for each exceeded limit. */
export function exceededLimits(state: ServerState, limits: Limits): string[] {
  const { usage, retained, ownRetained, shareGroups } = state
  const messages = retained.count - ownRetained.count
  const bytes = retained.bytes - ownRetained.bytes
  return [
    ...IN_ALL.flatMap(([limit, amount, what]) => exceededInAll(limits, limit, amount(usage.total), what)),
    ...exceededInAll(limits, 'retainedMessagesMax', messages, 'retained messages'),
    ...exceededInAll(limits, 'retainedBytesMax', bytes, 'bytes of retained messages'),
    ...exceededByEach(limits, PER_USER, usage.users(), 'user'),
    ...exceededByEach(
      limits,
      [['shareGroupsPerUserMax', (user) => shareGroups.countOf(user), 'groups']],
      usage.users(),
      'user',
    ),
    ...exceededByEach(limits, PER_CLIENT, usage.clients(), 'client'),
  ]
}

function exceededInAll(limits: Limits, limit: LimitName, amount: number, what: string): string[] {
  if (amount <= (limits[limit] as number)) return []
  return [
    `There are ${amount} ${what}, more than ${allowed(limits, limit)}; they stay, and new ones are refused.`,
  ]
}

/** Counts the users or clients that exceed each limit; `kind` is the noun for one of them. */
function exceededByEach(
  limits: Limits,
  measures: readonly Measure[],
  usages: Iterable<Usage>,
  kind: string,
): string[] {
  const found = measures.map(() => ({ count: 0, most: 0 }))
  const bounded = measures.map(([limit]) => limits[limit] as number)
  if (bounded.every((max) => max === Number.POSITIVE_INFINITY)) return []
  for (const one of usages) {
    for (const [index, [, amount]] of measures.entries()) {
      const has = amount(one)
      if (has <= bounded[index]!) continue
      const exceeded = found[index]!
      exceeded.count++
      exceeded.most = Math.max(exceeded.most, has)
    }
  }
  return found.flatMap(({ count, most }, index) => {
    if (count === 0) return []
    const [limit, , what] = measures[index]!
    const who = count === 1 ? `1 ${kind} has` : `${count} ${kind}s have`
    const largest = `at most ${most}`
    return [
      `${who} more ${what} than ${allowed(limits, limit)} (${largest}); they stay, and new ones are refused.`,
    ]
  })
}

function allowed(limits: Limits, limit: LimitName): string {
  return `limits.${configKey(limit)} allows, ${limits[limit]}`
}
