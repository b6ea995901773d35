/**
 * Loaded into a broker's process by `node --require`: how long its event loop was held up, and what the garbage collector
 * took of that. On SIGUSR2 it writes what was since the last SIGUSR2 into the file that BENCH_PAUSES_FILE names, as JSON,
 * times in milliseconds.
 */
const { renameSync, writeFileSync } = require('node:fs')
const { constants, createHistogram, monitorEventLoopDelay, PerformanceObserver } = require('node:perf_hooks')

/** A timer of this period tells the delay: each of its times is the period and the delay together. */
const PERIOD_MS = 10

const KINDS = new Map([
  [constants.NODE_PERFORMANCE_GC_MINOR, 'scavenge'],
  [constants.NODE_PERFORMANCE_GC_MAJOR, 'mark and sweep'],
  [constants.NODE_PERFORMANCE_GC_INCREMENTAL, 'incremental marking'],
  [constants.NODE_PERFORMANCE_GC_WEAKCB, 'weak callbacks'],
])

const NS_PER_MS = 1e6

const file = process.env.BENCH_PAUSES_FILE
const delay = monitorEventLoopDelay({ resolution: PERIOD_MS })
let collections = new Map()

new PerformanceObserver((list) => {
  for (const { duration, detail } of list.getEntries()) {
    const kind = KINDS.get(detail.kind) ?? `kind ${detail.kind}`
    if (!collections.has(kind)) collections.set(kind, { histogram: createHistogram(), sumMs: 0 })
    const entry = collections.get(kind)
    entry.histogram.record(Math.max(1, Math.round(duration * NS_PER_MS)))
    entry.sumMs += duration
  }
}).observe({ entryTypes: ['gc'] })
delay.enable()

process.on('SIGUSR2', () => {
  const pauses = { 'event loop': figures(delay, PERIOD_MS) }
  for (const [kind, { histogram, sumMs }] of collections) pauses[kind] = { ...figures(histogram, 0), sumMs }
  writeFileSync(`${file}.part`, JSON.stringify(pauses))
  renameSync(`${file}.part`, file)
  delay.reset()
  collections = new Map()
})

function figures(histogram, lessMs) {
  const at = (percent) => Math.max(0, histogram.percentile(percent) / NS_PER_MS - lessMs)
  return {
    count: histogram.count,
    p50Ms: at(50),
    p90Ms: at(90),
    p99Ms: at(99),
    p999Ms: at(99.9),
    maxMs: Math.max(0, histogram.max / NS_PER_MS - lessMs),
  }
}
