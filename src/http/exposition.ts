/** PURE. Writes metrics in the text format of Prometheus, version 0.0.4. */
import type { QueueWaits } from '../broker/queues/queue-view.ts'
import { bucketMs, Histogram } from '../structures/histogram.ts'

/** The media type of the format. */
export const EXPOSITION_TYPE = 'text/plain; version=0.0.4; charset=utf-8'

/** Every so many buckets of a Histogram are one for Prometheus: from 16 us, each is twice the one before. */
const BUCKETS_TOGETHER = 4

/** A metric with its value: a number, numbers by the value of a label, or a histogram of ms. */
export interface Family {
  readonly name: string
  readonly kind: 'counter' | 'gauge' | 'histogram'
  readonly help: string
  /** The name of the label; null for a metric without one. */
  readonly label: string | null
  /** Null stands for unlimited. */
  readonly value: number | null | Readonly<Record<string, number | QueueWaits>> | Histogram
}

/** Returns the text of these metrics. */
export function exposition(families: Iterable<Family>): string {
  const lines: string[] = []
  for (const family of families) {
    const { name, kind, help } = family
    lines.push(`# HELP ${name} ${escapedHelp(help)}.`, `# TYPE ${name} ${kind}`)
    addSamples(lines, family)
  }
  return `${lines.join('\n')}\n`
}

function addSamples(lines: string[], { name, label, value }: Family): void {
  if (value instanceof Histogram) {
    addHistogram(lines, name, value)
  } else if (typeof value === 'object' && value !== null) {
    for (const [of, count] of Object.entries(value)) {
      const pair = `${label}="${escapedLabel(of)}"`
      if (typeof count === 'number') lines.push(`${name}{${pair}} ${written(count)}`)
      else addWaits(lines, name, pair, count)
    }
  } else {
    lines.push(`${name} ${written(value)}`)
  }
}

/** The last bucket of a Histogram also takes all that is longer, so it belongs to `+Inf`. */
function addHistogram(lines: string[], name: string, { counts, count, sumMs }: Histogram): void {
  let below = 0
  for (let index = 0; index < counts.length - 1; index++) {
    below += counts[index]!
    if (index % BUCKETS_TOGETHER !== 0) continue
    lines.push(`${name}_bucket{le="${bucketMs(index) / 1000}"} ${below}`)
  }
  lines.push(
    `${name}_bucket{le="+Inf"} ${count}`,
    `${name}_sum ${written(sumMs / 1000)}`,
    `${name}_count ${count}`,
  )
}

function addWaits(lines: string[], name: string, pair: string, { buckets, sumSeconds }: QueueWaits): void {
  let below = 0
  for (const { seconds, count } of buckets) {
    below += count
    lines.push(`${name}_bucket{${pair},le="${written(seconds)}"} ${below}`)
  }
  lines.push(`${name}_sum{${pair}} ${written(sumSeconds)}`, `${name}_count{${pair}} ${below}`)
}

function written(value: number | null): string {
  if (value === null || value === Number.POSITIVE_INFINITY) return '+Inf'
  if (value === Number.NEGATIVE_INFINITY) return '-Inf'
  return String(value)
}

function escapedHelp(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')
}

function escapedLabel(text: string): string {
  return escapedHelp(text).replaceAll('"', '\\"')
}
