/** PURE. The metrics of single queues: only those that the operator declared, so that labels are bounded. */
import type { QueueFigures, QueueOperator } from '../broker/queues/queue-view.ts'
import type { Family } from './exposition.ts'

/** Queues that have series of their own: those with the most messages. */
export const NAMED_QUEUES_MAX = 100

/** Clients choose the names of the queues that they make by using them. */
const NAMED_ORIGINS: ReadonlySet<string> = new Set(['file', 'operator'])

/**
 * Returns the queues that have series of their own, by name. All queues together are other metrics: sums of
 * counters would fall when a queue is deleted.
 */
export function namedQueues(operator: QueueOperator | null): readonly QueueFigures[] {
  const named = [...(operator?.figures() ?? [])].filter(
    (one) => one !== null && NAMED_ORIGINS.has(one.origin),
  )
  const queues = named as QueueFigures[]
  queues.sort((one, other) => other.messages - one.messages || (one.name < other.name ? -1 : 1))
  return queues.slice(0, NAMED_QUEUES_MAX)
}

interface QueueRow extends Omit<Family, 'label' | 'value'> {
  readonly read: (queue: QueueFigures) => number | QueueFigures['waits']
}

const ROWS: readonly QueueRow[] = [
  gauge('ready_messages', 'Messages of a queue that wait for a consumer', ({ ready }) => ready),
  gauge('waiting_messages', 'Messages of a queue whose key is under way', ({ waiting }) => waiting),
  gauge('in_flight_messages', 'Messages of a queue that were handed out', ({ inFlight }) => inFlight),
  gauge('held_messages', 'Messages of a queue that consumers hold explicitly', ({ held }) => held),
  gauge(
    'deferred_messages',
    'Messages of a queue that are handed out again later',
    ({ deferred }) => deferred,
  ),
  gauge('bytes', 'Bytes of the messages of a queue', ({ bytes }) => bytes),
  gauge('consumers', 'Consumers of a queue', ({ consumers }) => consumers),
  gauge(
    'oldest_ready_seconds',
    'Age of the oldest message that waits for a consumer, if it is known without reading',
    ({ oldestReadySeconds }) => oldestReadySeconds,
  ),
  gauge(
    'oldest_unacknowledged_seconds',
    'Time since the oldest unacknowledged message was handed out',
    ({ oldestUnacknowledgedSeconds }) => oldestUnacknowledgedSeconds,
  ),
  counter('messages_in', 'Messages that came into a queue', ({ counters }) => counters.in),
  counter('messages_out', 'Hand-outs of messages of a queue', ({ counters }) => counters.out),
  counter('acknowledged', 'Acknowledged messages of a queue', ({ counters }) => counters.acknowledged),
  counter('refused', 'Messages of a queue that consumers refused', ({ counters }) => sum(counters.refused)),
  counter('redelivered', 'Messages of a queue that were handed out again', ({ counters }) =>
    sum(counters.redelivered),
  ),
  counter('dead_letters', 'Messages of a queue that became dead letters', ({ counters }) =>
    sum(counters.dead),
  ),
  counter('dropped', 'Messages of a queue that were lost', ({ counters }) => sum(counters.dropped)),
  {
    name: 'godwit_queue_wait_seconds',
    kind: 'histogram',
    help: 'Time of messages in a queue until they were first handed out',
    read: ({ waits }) => waits,
  },
]

/** The rows of the page. Queues without a value have no series. */
export const QUEUE_ROWS = ROWS.map(({ read, ...row }) => ({
  ...row,
  label: 'queue',
  read: (queues: readonly QueueFigures[]): Family['value'] =>
    Object.fromEntries(
      queues.flatMap((queue) => {
        const value = read(queue)
        return value === null ? [] : [[queue.name, value]]
      }),
    ),
}))

function gauge(name: string, help: string, read: QueueRow['read']): QueueRow {
  return { name: `godwit_queue_${name}`, kind: 'gauge', help, read }
}

function counter(name: string, help: string, read: QueueRow['read']): QueueRow {
  return { name: `godwit_queue_${name}_total`, kind: 'counter', help, read }
}

function sum(counts: Readonly<Record<string, number>>): number {
  return Object.values(counts).reduce((all, count) => all + count, 0)
}
