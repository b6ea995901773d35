/**
 * Measures pauses under a mixed load at moderate rates: how long the event loop was held up, how much of that
 * was the garbage collector, and the latencies of clients.
 *
 *   npm run bench:mixed -- [--secs 60] [--brokers godwit,aedes] [--json FILE] [--profile]
 *                          [--node-flags "FLAG FLAG"]
 *
 * A thorough run takes 600 seconds. The brokers run one after the other. `--profile` names the functions that
 * ran during the longest pauses; V8's profiler makes all pauses longer.
 */
import { appendFileSync, existsSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { BROKER_NAMES, startBroker } from './brokers.mjs'
import { buildMqload, runMqload } from './load.mjs'
import { known, printMachine, printRow, shown } from './table.mjs'

const PRELOAD = fileURLToPath(new URL('./pauses.cjs', import.meta.url))

/** Loads that run all the time, at a fixed rate over fifty pairs each. */
const STEADY = [
  ['QoS 0, 2,000/s', 'latency --qos 0 --rate 2000 --prefix zero'],
  ['QoS 1, 1,000/s', 'latency --qos 1 --rate 1000 --prefix one'],
  ['QoS 2, 500/s', 'latency --qos 2 --rate 500 --prefix two'],
]

/** Loads that run one after the other, again and again. */
const BURSTS = [
  'connect --conns 1000 --hold 0.2',
  'fanout --qos 0 --subs 200 --window 5 --secs 0.5 --warmup 0.1 --prefix out',
  'retained --messages 5000 --prefix kept',
  'offline --messages 300 --pubs 10 --prefix away',
  'subs --clients 50 --filters 100 --churn 500 --window 5 --secs 0.5 --warmup 0.1',
  'fanin --qos 1 --window 5 --secs 0.5 --warmup 0.1 --prefix in',
]

const BURST_GAP_MS = 500

/** Time for compiling and the first collections, which say nothing of a broker that has run for long. */
const WARM_SECONDS = 5

/**
 * The period of a timer in this process, which is idle: its lateness is that of any process on the machine.
 */
const BESIDE_PERIOD_MS = 10
const NS_PER_MS = 1e6

/** How long the broker's process may take to write its figures. */
const ANSWER_MS_MAX = 10_000

/** Fields of mqload's report that count faults. */
const FAULT = /^(lost|dup|ooo|misrouted|alien|nacks|unacked|disconnects|sub_failures|error)$/

const HELD = [
  'broker',
  'what',
  'count',
  'p50 ms',
  'p90 ms',
  'p99 ms',
  'p99.9 ms',
  'max ms',
  'share of time %',
]

const WORST = [
  'broker',
  'longest pauses: ms',
  'without waiting for a CPU',
  'ran',
  'waited for a CPU',
  'collected meanwhile',
  'functions',
]

const { values } = parseArgs({
  options: {
    secs: { type: 'string', default: '60' },
    brokers: { type: 'string', default: 'godwit' },
    json: { type: 'string' },
    profile: { type: 'boolean', default: false },
    'node-flags': { type: 'string' },
  },
})
const secs = Number(values.secs)
buildMqload()
printMachine({ rounds: 1, secs })
for (const name of known(values.brokers, BROKER_NAMES)) await measure(name)

async function measure(name) {
  // Only Node reports its pauses; of the other brokers there are the latencies.
  const isNode = !name.startsWith('mosquitto')
  const file = join(tmpdir(), `godwit-bench-pauses-${process.pid}.json`)
  /** @type {Record<string, string>} */
  const profiled = values.profile ? { BENCH_PAUSES_PROFILE: '1' } : {}
  const observed = isNode && {
    preload: PRELOAD,
    environment: { BENCH_PAUSES_FILE: file, ...profiled },
    nodeFlags: values['node-flags']?.split(' '),
  }
  const broker = await startBroker(name, { sysSeconds: 10, ...observed })
  try {
    const until = performance.now() + (WARM_SECONDS + secs) * 1000
    const bursts = runBursts(broker, until)
    const words = (load) => [
      ...['--scenario', ...load.split(' '), '--port', `${broker.port}`, '--pid', `${broker.pid}`],
    ]
    const time = ['--warmup', `${WARM_SECONDS}`, '--secs', `${secs}`]
    const steady = STEADY.map(([, load]) => runMqload([...words(load), ...time], secs + 60))
    await setTimeout(WARM_SECONDS * 1000)
    if (isNode) await pauses(broker, file)
    const beside = monitorEventLoopDelay({ resolution: BESIDE_PERIOD_MS })
    beside.enable()
    await setTimeout(secs * 1000)
    beside.disable()
    const { held, worst } = isNode ? await pauses(broker, file) : { held: {}, worst: [] }
    held['an idle process beside'] = lateness(beside)
    print({ name, held, worst, steady: await Promise.all(steady), bursts: await bursts })
  } finally {
    await broker.stop()
    rmSync(file, { force: true })
  }
}

async function runBursts(broker, until) {
  const reports = []
  for (let i = 0; performance.now() < until; i++) {
    const load = BURSTS[i % BURSTS.length].split(' ')
    reports.push(await runMqload(['--scenario', ...load, '--port', `${broker.port}`], 60))
    await setTimeout(BURST_GAP_MS)
  }
  return reports
}

/** Resolves with the pauses since the last call. */
async function pauses(broker, file) {
  rmSync(file, { force: true })
  broker.signal('SIGUSR2')
  const until = performance.now() + ANSWER_MS_MAX
  while (!existsSync(file) && performance.now() < until) await setTimeout(20)
  return JSON.parse(readFileSync(file, 'utf8'))
}

function lateness(histogram) {
  const late = (ns) => Math.max(0, ns / NS_PER_MS - BESIDE_PERIOD_MS)
  const [p50Ms, p90Ms, p99Ms, p999Ms] = [50, 90, 99, 99.9].map((percent) =>
    late(histogram.percentile(percent)),
  )
  return { count: histogram.count, p50Ms, p90Ms, p99Ms, p999Ms, maxMs: late(histogram.max) }
}

function print(result) {
  const { name, held, worst, steady, bursts } = result
  header(HELD)
  for (const [what, { count, p50Ms, p90Ms, p99Ms, p999Ms, maxMs, sumMs }] of Object.entries(held)) {
    const share = sumMs === undefined ? Number.NaN : (sumMs / (secs * 1000)) * 100
    printRow([name, what, ...[count, p50Ms, p90Ms, p99Ms, p999Ms, maxMs, share].map(shown)])
  }
  for (const [i, report] of steady.entries()) {
    const ms = ['p50_us', 'p90_us', 'p99_us', 'p999_us', 'max_us'].map((field) => report[field] / 1000)
    printRow([name, `latency ${STEADY[i][0]}`, ...[report.samples, ...ms, Number.NaN].map(shown)])
  }
  if (worst.length > 0) {
    console.log()
    header(WORST)
  }
  for (const { heldMs, ownMs, ranMs, waitedForCpuMs, collectedMs, functions = [] } of worst) {
    const collected = Object.entries(collectedMs).map(([kind, ms]) => `${kind} ${shown(ms)}`)
    const took = functions.map(([path, ms]) => `${shown(ms)} ${path}`)
    const times = [heldMs, ownMs, ranMs, waitedForCpuMs].map(shown)
    printRow([name, ...times, collected.join(', '), took.join('; ')])
  }
  const all = [...steady, ...bursts]
  for (const report of all) {
    for (const [field, value] of Object.entries(report)) {
      if (FAULT.test(field) && value !== 0) console.log(`\n**${report.scenario}: ${field} ${value}**`)
    }
  }
  const [{ cpu_pct: cpu, rss_after_kb: rss }] = steady
  const late = steady.map(
    ({ gen_late_max_us, gen_cpu_pct }) => `${shown(gen_late_max_us / 1000)} (${shown(gen_cpu_pct)} %)`,
  )
  console.log(
    `\n${bursts.length} bursts; CPU ${shown(cpu)} % of one core; memory ${shown(rss / 1024)} MiB; ` +
      `load generators late at worst, ms (their CPU): ${late.join(', ')}\n`,
  )
  if (values.json) appendFileSync(values.json, `${JSON.stringify({ broker: name, secs, ...result })}\n`)
}

function header(columns) {
  printRow(columns)
  printRow(columns.map(() => '---'))
}
