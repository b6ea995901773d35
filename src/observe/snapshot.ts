/** Takes a snapshot of all metrics, and arranges it for `status`. */
import { takeCensus } from '../broker/census.ts'
import type { Counters } from '../broker/state/counters.ts'
import { Histogram } from '../structures/histogram.ts'
import type { MetricSources, ProcessMeasures, StatusValueOf, ValueOf } from './metric.ts'
import { METRIC_ROWS, type METRICS, type MetricName } from './metrics.ts'

const KIB = 1024

/** The value of every metric. Labelled ones and histograms go on counting. */
export type Snapshot = { readonly [N in MetricName]: ValueOf<(typeof METRICS)[N]> }

type PathOf<N extends MetricName> = (typeof METRICS)[N] extends {
  readonly status: readonly (infer P extends string)[]
}
  ? P
  : never
type AnyPath = { readonly [N in MetricName]: PathOf<N> }[MetricName]
type GroupOf<P> = P extends `${infer G}.${string}` ? G : never
type KeyIn<P, G extends string> = P extends `${G}.${infer K}` ? K : never
type KeyOutside<P> = P extends `${string}.${string}` ? never : P & string

type Group<G extends string> = {
  readonly [N in MetricName as KeyIn<PathOf<N>, G>]: StatusValueOf<(typeof METRICS)[N]>
}

/** The metrics in the answer to `status`, by the keys and groups of the table. */
export type StatusValues = {
  readonly [N in MetricName as KeyOutside<PathOf<N>>]: StatusValueOf<(typeof METRICS)[N]>
} & { readonly [G in GroupOf<AnyPath>]: Group<G> }

/** The parts of a broker from which a snapshot is taken. */
export interface SnapshotSources extends Pick<MetricSources, 'server' | 'sockets' | 'certificateDays'> {
  /** The time of the start by `performance.now`. */
  readonly startedAtMs: number
}

/** Reads all metrics. The cost grows with the number of Sessions. */
export function takeSnapshot({ startedAtMs, ...parts }: SnapshotSources): Snapshot {
  const { server } = parts
  const sources = { ...parts, census: takeCensus(server), process: processMeasures(startedAtMs) }
  const { counters } = server.state
  return Object.fromEntries(
    METRIC_ROWS.map(([name, { read }]) => [
      name,
      read === undefined ? counters[name as keyof Counters] : read(sources),
    ]),
  ) as Snapshot
}

function processMeasures(startedAtMs: number): ProcessMeasures {
  return {
    uptimeSeconds: Math.floor((performance.now() - startedAtMs) / 1000),
    residentBytes: process.memoryUsage.rss(),
    residentBytesPeak: process.resourceUsage().maxRSS * KIB,
  }
}

/** Arranges a snapshot for `status`. Labelled counters leave out zeros. */
export function statusValues(snapshot: Snapshot): StatusValues {
  const values: Record<string, unknown> = {}
  for (const [name, { status = [] }] of METRIC_ROWS) {
    for (const path of status) {
      const [group, key] = path.split('.') as [string, string?]
      const value = statusValue(snapshot[name])
      if (key === undefined) values[group] = value
      else values[group] = { ...(values[group] as object), [key]: value }
    }
  }
  return values as StatusValues
}

function statusValue(value: Snapshot[MetricName]): unknown {
  if (value instanceof Histogram) {
    return { p50: value.quantileMs(0.5), p99: value.quantileMs(0.99), maximum: value.maxMs }
  }
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).filter(([, count]) => count > 0))
}
