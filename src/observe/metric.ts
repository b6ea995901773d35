/** PURE. Describes a metric: a number that the broker knows about itself, and the places that show it. */
import type { Census } from '../broker/census.ts'
import type { Server } from '../broker/server.ts'
import type { Histogram } from '../structures/histogram.ts'

/** Everything that metrics are read from. */
export interface MetricSources {
  readonly server: Server
  readonly census: Census
  readonly process: ProcessMeasures
  readonly sockets: SocketMeasures
  /** Days until the certificate of each TLS listener expires. */
  readonly certificateDays: Readonly<Record<string, number>>
}

/** Measures of the process, which the Server does not know. */
export interface ProcessMeasures {
  readonly uptimeSeconds: number
  readonly residentBytes: number
  readonly residentBytesPeak: number
}

/** Sockets of all listeners. */
export interface SocketMeasures {
  readonly open: number
  /** Network Connections that the limit of open files allows; Infinity if it is unknown. */
  readonly connectionsMax: number
  /** The limit of open files; Infinity if it is unknown. */
  readonly openFilesMax: number
}

/** A counter only grows until the broker ends. A gauge goes up and down. */
export type MetricKind = 'counter' | 'gauge'

/** A single number; null stands for unlimited. */
export interface NumberMetric {
  readonly kind: MetricKind
  readonly unit: string
  readonly help: string
  /** Reads the value. Rows without it have the name of a field of `Counters`, which is the value. */
  readonly read?: (sources: MetricSources) => number | null
  /** Topics below `$SYS/broker/`. */
  readonly sys?: readonly string[]
  /** Topic below `$SYS/broker/load/` for the rate per minute. */
  readonly load?: string
  /** Keys in the answer to `status`: `key`, or `group.key`. */
  readonly status?: readonly string[]
}

/** Numbers by the values of a label. Those of counters are shown once they are above 0. */
export interface LabelledMetric {
  readonly kind: MetricKind
  readonly unit: string
  readonly help: string
  readonly label: string
  /** Absent for fields of `Counters`. */
  readonly read?: (sources: MetricSources) => Readonly<Record<string, number>>
  /** Returns the topic below `$SYS/broker/` for a value of the label. */
  readonly sys?: (value: string) => string
  readonly status?: readonly string[]
}

/** A distribution of durations. `status` shows its median, 99th percentile and maximum. */
export interface HistogramMetric {
  readonly kind: 'histogram'
  readonly unit: 'ms'
  readonly help: string
  readonly read: (sources: MetricSources) => Histogram
  readonly status?: readonly string[]
}

/** A row of the table of metrics. */
export type Metric = NumberMetric | LabelledMetric | HistogramMetric

/** The value of a metric, by what its row says. */
export type ValueOf<M> = M extends { readonly kind: 'histogram' }
  ? Histogram
  : M extends { readonly label: string }
    ? Readonly<Record<string, number>>
    : M extends { readonly read: (sources: never) => infer V }
      ? V
      : number

/** The value of a metric in the answer to `status`. */
export type StatusValueOf<M> = M extends { readonly kind: 'histogram' } ? Percentiles : ValueOf<M>

/** The median, 99th percentile and maximum of a histogram. */
export interface Percentiles {
  readonly p50: number
  readonly p99: number
  readonly maximum: number
}
