/** One snapshot of all queues for whoever exports figures: the largest by name, the rest together. */
import type { QueueCounters, QueueFigures, QueueOperator, QueueWaits } from '../broker/queues/queue-view.ts'

/** Most queues that have figures of their own. */
const NAMED_MAX = 1000

/** The name for all other queues together. No queue can have it: parentheses are not allowed in names. */
export const OTHER_QUEUES = '(other)'

/** The figures of one queue, or of several together. */
export type QueueFigure = Omit<QueueFigures, 'origin' | 'isOrphaned' | 'isPaused' | 'properties'>

/**
 * Returns the figures of the queues with the most messages, largest first, and then of all others together.
 * The age of the oldest message is left out where it would have to be read from the disk.
 */
export function queueFigures(operator: QueueOperator | null, most = NAMED_MAX): QueueFigure[] {
  const all = [...(operator?.figures() ?? [])].filter((entry) => entry !== null).map(figureOf)
  all.sort((one, other) => other.messages - one.messages || other.bytes - one.bytes)
  if (all.length <= most) return all
  const others = all.splice(most).reduce(together)
  return [...all, { ...others, name: OTHER_QUEUES }]
}

function figureOf({ origin, isOrphaned, isPaused, properties, ...figure }: QueueFigures): QueueFigure {
  return figure
}

function together(one: QueueFigure, other: QueueFigure): QueueFigure {
  return {
    name: one.name,
    consumers: one.consumers + other.consumers,
    ready: one.ready + other.ready,
    waiting: one.waiting + other.waiting,
    inFlight: one.inFlight + other.inFlight,
    held: one.held + other.held,
    deferred: one.deferred + other.deferred,
    messages: one.messages + other.messages,
    bytes: one.bytes + other.bytes,
    counters: countersTogether(one.counters, other.counters),
    consumerStates: sums(one.consumerStates, other.consumerStates),
    oldestReadySeconds: later(one.oldestReadySeconds, other.oldestReadySeconds),
    oldestUnacknowledgedSeconds: later(one.oldestUnacknowledgedSeconds, other.oldestUnacknowledgedSeconds),
    waits: waitsTogether(one.waits, other.waits),
  }
}

function countersTogether(one: QueueCounters, other: QueueCounters): QueueCounters {
  return {
    in: one.in + other.in,
    out: one.out + other.out,
    acknowledged: one.acknowledged + other.acknowledged,
    refused: sums(one.refused, other.refused),
    redelivered: sums(one.redelivered, other.redelivered),
    dead: sums(one.dead, other.dead),
    dropped: sums(one.dropped, other.dropped),
    ids: sums(one.ids, other.ids),
    results: sums(one.results, other.results),
  }
}

function sums(
  one: Readonly<Partial<Record<string, number>>>,
  other: Readonly<Partial<Record<string, number>>>,
): Record<string, number> {
  const sum: Record<string, number> = {}
  for (const [name, count = 0] of [...Object.entries(one), ...Object.entries(other)]) {
    sum[name] = (sum[name] ?? 0) + count
  }
  return sum
}

function later(one: number | null, other: number | null): number | null {
  return one === null || other === null ? (one ?? other) : Math.max(one, other)
}

function waitsTogether(one: QueueWaits | null, other: QueueWaits | null): QueueWaits | null {
  if (one === null || other === null) return one ?? other
  return {
    buckets: one.buckets.map(({ seconds, count }, at) => ({
      seconds,
      count: count + other.buckets[at]!.count,
    })),
    sumSeconds: one.sumSeconds + other.sumSeconds,
  }
}
