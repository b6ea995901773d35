/**
 * Records pauses in a broker's process, which loads it by `node --require`: how long the event loop was held
 * up, how much of that was the garbage collector, and where the time of the longest pauses went. On SIGUSR2
 * it writes what it recorded since the last SIGUSR2 into the file BENCH_PAUSES_FILE, as JSON with times in
 * milliseconds: `held` by cause, and `worst`, the longest pauses.
 *
 * With BENCH_PAUSES_PROFILE, V8's profiler runs all the time, and each of the longest pauses names the
 * functions that took most of it. The profiler makes pauses itself: it shows their causes, not their length.
 */
const { openSync, readSync, renameSync, writeFileSync } = require('node:fs')
const { Session } = require('node:inspector')
const {
  constants,
  createHistogram,
  monitorEventLoopDelay,
  performance,
  PerformanceObserver,
} = require('node:perf_hooks')

/** The period of the timer that measures the delay: each of its times is period and delay together. */
const PERIOD_MS = 10

const WORST_MAX = 8

const KINDS = new Map([
  [constants.NODE_PERFORMANCE_GC_MINOR, 'scavenge'],
  [constants.NODE_PERFORMANCE_GC_MAJOR, 'mark and sweep'],
  [constants.NODE_PERFORMANCE_GC_INCREMENTAL, 'incremental marking'],
  [constants.NODE_PERFORMANCE_GC_WEAKCB, 'weak callbacks'],
])

const NS_PER_MS = 1e6
const US_PER_MS = 1e3

const PROFILE_MS = 5000
const FUNCTIONS_MAX = 4

const file = process.env.BENCH_PAUSES_FILE
const delay = monitorEventLoopDelay({ resolution: PERIOD_MS })
const own = createHistogram()
let collections = new Map()
let collected = []
let worst = []

new PerformanceObserver((list) => {
  for (const { startTime, duration, detail } of list.getEntries()) {
    const kind = KINDS.get(detail.kind) ?? `kind ${detail.kind}`
    if (!collections.has(kind)) collections.set(kind, { histogram: createHistogram(), sumMs: 0 })
    const entry = collections.get(kind)
    entry.histogram.record(Math.max(1, Math.round(duration * NS_PER_MS)))
    entry.sumMs += duration
    collected.push({ kind, from: startTime, to: startTime + duration })
  }
}).observe({ entryTypes: ['gc'] })
delay.enable()

/** How long the main thread was on a CPU since its start, and how long it waited for one. */
const schedule = openSync('/proc/self/schedstat')
const scheduleText = Buffer.alloc(100)
function scheduled() {
  const length = readSync(schedule, scheduleText, 0, scheduleText.length, 0)
  const [runNs, waitNs] = scheduleText.toString('latin1', 0, length).split(' ', 2).map(Number)
  return { runMs: runNs / NS_PER_MS, waitMs: waitNs / NS_PER_MS }
}

const present = () => ({ at: performance.now(), ...scheduled() })
let before = present()
setInterval(() => {
  const now = present()
  const heldMs = now.at - before.at - PERIOD_MS
  const waitedForCpuMs = now.waitMs - before.waitMs
  // Waits during sleep are taken off, too. The rest is due to the broker, or to the kernel on its behalf.
  const ownMs = Math.max(0, heldMs - waitedForCpuMs)
  own.record(Math.max(1, Math.round(ownMs * NS_PER_MS)))
  if (ownMs > (worst.length < WORST_MAX ? 0 : worst.at(-1).ownMs)) {
    const ranMs = now.runMs - before.runMs
    worst.push({ from: before.at, to: now.at, heldMs, ownMs, ranMs, waitedForCpuMs })
    worst.sort((one, other) => other.ownMs - one.ownMs)
    worst.length = Math.min(worst.length, WORST_MAX)
  }
  before = now
}, PERIOD_MS).unref()

process.on('SIGUSR2', () => {
  const held = {
    'event loop': figures(delay, PERIOD_MS),
    'event loop, without waiting for a CPU': figures(own, 0),
  }
  for (const [kind, { histogram, sumMs }] of collections) held[kind] = { ...figures(histogram, 0), sumMs }
  if (profiler !== null) takeProfile()
  writeFileSync(`${file}.part`, JSON.stringify({ held, worst: worst.map(explained) }))
  renameSync(`${file}.part`, file)
  delay.reset()
  own.reset()
  collections = new Map()
  collected = []
  worst = []
})

/** Adds the time of the garbage collector during a pause, by kind. */
function explained({ from, to, ...pause }) {
  const collectedMs = {}
  for (const collection of collected) {
    const ms = Math.min(to, collection.to) - Math.max(from, collection.from)
    if (ms > 0) collectedMs[collection.kind] = (collectedMs[collection.kind] ?? 0) + ms
  }
  return { ...pause, collectedMs }
}

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

const profiler = process.env.BENCH_PAUSES_PROFILE === undefined ? null : new Session()
if (profiler !== null) {
  profiler.connect()
  profiler.post('Profiler.enable')
  profiler.post('Profiler.setSamplingInterval', { interval: 500 })
  profiler.post('Profiler.start')
  setInterval(takeProfile, PROFILE_MS).unref()
}

/** Ends the profile and begins another. Keeps the functions of the longest pauses that it covers. */
function takeProfile() {
  profiler.post('Profiler.stop', (error, result) => {
    if (error !== null) throw new Error(error.message)
    // The profile's clock is the one of hrtime.
    const offset = Number(process.hrtime.bigint()) / NS_PER_MS - performance.now()
    for (const pause of worst) pause.functions ??= functionsOf(result.profile, pause, offset)
  })
  profiler.post('Profiler.start')
  // This took a tenth of a second, which is not due to the broker.
  before = present()
}

/**
 * Returns milliseconds by function, as "called from … > … > itself", the largest first; undefined when the
 * profile does not cover the pause.
 */
function functionsOf({ nodes, samples, timeDeltas, startTime, endTime }, { from, to }, offset) {
  if ((from + offset) * US_PER_MS < startTime || (to + offset) * US_PER_MS > endTime) return undefined
  const byId = new Map(nodes.map((node) => [node.id, node]))
  for (const node of nodes) for (const id of node.children ?? []) byId.get(id).parent = node
  const took = new Map()
  let at = startTime
  for (let i = 0; i < samples.length; i++) {
    at += timeDeltas[i]
    const ms = at / US_PER_MS - offset
    if (ms < from || ms > to) continue
    const path = pathOf(byId.get(samples[i]))
    took.set(path, (took.get(path) ?? 0) + (timeDeltas[i + 1] ?? 0) / US_PER_MS)
  }
  return [...took].sort((a, b) => b[1] - a[1]).slice(0, FUNCTIONS_MAX)
}

function pathOf(node) {
  const names = []
  for (let at = node; at?.parent !== undefined && names.length < 4; at = at.parent) {
    const { functionName, url, lineNumber } = at.callFrame
    names.unshift(`${functionName || 'anonymous'} ${url.split('/').at(-1)}:${lineNumber + 1}`)
  }
  return names.join(' > ')
}
