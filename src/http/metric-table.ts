/** PURE. All metrics that Prometheus is shown: the broker's own, and those of the process and of HTTP. */
import { configKey } from '../broker/boundary/limit-row.ts'
import type { QueueFigures } from '../broker/queues/queue-view.ts'
import { METRIC_ROWS, type MetricName } from '../observe/metrics.ts'
import type { Snapshot } from '../observe/snapshot.ts'
import type { Family } from './exposition.ts'
import type { HttpFigures } from './http-figures.ts'
import { METRIC_NAMES } from './metric-names.ts'
import type { ProcessFigures } from './process-watch.ts'
import { QUEUE_ROWS } from './queue-rows.ts'
import type { Readiness } from './readiness.ts'

const DAY_SECONDS = 86_400

/** Everything that the page is made of. */
export interface PageFacts {
  readonly snapshot: Snapshot
  /** Those that have series of their own. */
  readonly queues: readonly QueueFigures[]
  readonly process: ProcessFigures
  readonly http: HttpFigures
  readonly readiness: Readiness
  readonly version: string
}

/** A row of the page: a metric and how its value is read. */
export interface PageRow extends Omit<Family, 'value'> {
  readonly read: (facts: PageFacts) => Family['value']
}

const SHARED_ROWS: readonly PageRow[] = METRIC_ROWS.map(([name, metric]) => ({
  name: METRIC_NAMES[name],
  kind: metric.kind,
  help: metric.help,
  label: 'label' in metric ? metric.label : null,
  read: ({ snapshot }) => shown(name, snapshot),
}))

const OWN_ROWS: readonly PageRow[] = [
  {
    name: 'godwit_build_info',
    kind: 'gauge',
    help: 'Always 1; the label has the version of the broker',
    label: 'version',
    read: ({ version }) => ({ [version]: 1 }),
  },
  {
    name: 'godwit_ready',
    kind: 'gauge',
    help: '1 if /readyz says ready, otherwise 0',
    label: null,
    read: ({ readiness }) => Number(readiness.isReady),
  },
  {
    name: 'godwit_process_cpu_seconds_total',
    kind: 'counter',
    help: 'Processor time of the process by mode: user or system',
    label: 'mode',
    read: ({ process }) => process.cpuSeconds,
  },
  {
    name: 'godwit_process_heap_used_bytes',
    kind: 'gauge',
    help: "Used memory of JavaScript's heap",
    label: null,
    read: ({ process }) => process.heapUsedBytes,
  },
  {
    name: 'godwit_process_heap_bytes',
    kind: 'gauge',
    help: "Memory of JavaScript's heap",
    label: null,
    read: ({ process }) => process.heapBytes,
  },
  {
    name: 'godwit_process_external_memory_bytes',
    kind: 'gauge',
    help: "Memory of buffers and the like, outside of JavaScript's heap",
    label: null,
    read: ({ process }) => process.externalBytes,
  },
  {
    name: 'godwit_event_loop_active_seconds_total',
    kind: 'counter',
    help: 'Time that the event loop was not idle',
    label: null,
    read: ({ process }) => process.loopActiveSeconds,
  },
  {
    name: 'godwit_event_loop_delay_seconds',
    kind: 'histogram',
    help: 'Delay of a timer that runs ten times a second, since the first scrape',
    label: null,
    read: ({ process }) => process.loopDelay,
  },
  {
    name: 'godwit_garbage_collection_duration_seconds',
    kind: 'histogram',
    help: 'Duration of garbage collections, since the first scrape',
    label: null,
    read: ({ process }) => process.collections,
  },
  {
    name: 'godwit_http_requests_total',
    kind: 'counter',
    help: 'Requests to the HTTP listener',
    label: null,
    read: ({ http }) => http.requests,
  },
  {
    name: 'godwit_http_refusals_total',
    kind: 'counter',
    help: 'Refusals of the HTTP listener by reason',
    label: 'reason',
    read: ({ http }) => http.refusals,
  },
]

/** The rows of the page, in its order. */
export const PAGE_ROWS: readonly PageRow[] = [
  ...SHARED_ROWS,
  ...QUEUE_ROWS.map((row) => ({ ...row, read: ({ queues }: PageFacts) => row.read(queues) })),
  ...OWN_ROWS,
]

/** Prometheus counts in seconds, and limits have the names of their keys in the configuration. */
function shown(name: MetricName, snapshot: Snapshot): Family['value'] {
  if (name === 'certificateDays') {
    return changed(snapshot.certificateDays, (listener, days) => [listener, days * DAY_SECONDS])
  }
  if (name === 'limits') return changed(snapshot.limits, (limit, count) => [configKey(limit), count])
  return snapshot[name]
}

function changed(
  values: Readonly<Record<string, number>>,
  change: (label: string, value: number) => readonly [string, number],
): Readonly<Record<string, number>> {
  return Object.fromEntries(Object.entries(values).map(([label, value]) => change(label, value)))
}
