/**
 * Compares brokers in one interleaved run and prints a markdown table.
 *
 *   npm run bench -- [--rounds N] [--secs S] [--only ROW,ROW] [--brokers NAME,NAME] [--json FILE] [--list]
 *
 * Every row runs on each broker in turn, round after round, with the load generator mqload.c. The figures are medians
 * over the rounds; in brackets the ratio to Mosquitto, the only figure that can be compared across machines.
 */
import { spawn, spawnSync } from 'node:child_process'
import { appendFileSync, existsSync, mkdirSync, statSync } from 'node:fs'
import { cpus, release } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { BROKER_NAMES, startBroker, versions } from './brokers.mjs'

const HERE = fileURLToPath(new URL('.', import.meta.url))
const MQLOAD = join(HERE, 'build', 'mqload')

/** More than any row needs, in seconds. */
const ROW_SECONDS_MAX = 180

const NOBODY = 'none'

const DELIVERED = [
  ['out_per_s', 'delivered/s'],
  ['cpu_us_per_msg', 'CPU µs per message'],
]

/** Name: arguments of mqload, whose Sessions are persistent, figures. */
const ROWS = {
  idle: {
    load: 'connect --conns 2000 --hold 1',
    persistent: NOBODY,
    figures: [
      ['connects_per_s', 'connects/s'],
      ['cpu_us_per_connect', 'CPU µs per connect'],
      ['rss_bytes_per_conn', 'memory bytes per idle connection'],
      ['idle_cpu_pct', 'CPU % while idle'],
    ],
  },
  'fanin-q0': { load: 'fanin --qos 0', persistent: NOBODY, figures: DELIVERED },
  'fanin-q1': { load: 'fanin --qos 1', persistent: NOBODY, figures: DELIVERED },
  'fanin-q2': { load: 'fanin --qos 2', persistent: NOBODY, figures: DELIVERED },
  'fanout-q0': { load: 'fanout --qos 0 --subs 100', persistent: NOBODY, figures: DELIVERED },
  'fanout-q1': { load: 'fanout --qos 1 --subs 100', persistent: NOBODY, figures: DELIVERED },
  'pairs-q0': { load: 'pairs --qos 0 --pairs 50', persistent: NOBODY, figures: DELIVERED },
  'pairs-q1': { load: 'pairs --qos 1 --pairs 50', persistent: NOBODY, figures: DELIVERED },
  'pairs-q0-single': { load: 'pairs --qos 0 --pairs 200 --window 1', persistent: NOBODY, figures: DELIVERED },
  'pairs-q1-single': { load: 'pairs --qos 1 --pairs 200 --window 1', persistent: NOBODY, figures: DELIVERED },
  'durable-q1': {
    load: 'offline --messages 5000 --pubs 10',
    persistent: '10 subscribers, offline',
    figures: [
      ['store_per_s', 'queued/s'],
      ['cpu_us_per_stored', 'CPU µs per queued'],
      ['drain_per_s', 'drained/s'],
      ['cpu_us_per_drained', 'CPU µs per drained'],
    ],
  },
}

/** What mqload counts when something went wrong. */
const FAULTS = ['lost', 'dup', 'ooo', 'misrouted', 'alien', 'nacks', 'unacked', 'disconnects', 'sub_failures']

const options = readOptions()
build()
const results = await run()
print(results)

function readOptions() {
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string', default: '3' },
      secs: { type: 'string', default: '2' },
      only: { type: 'string', default: Object.keys(ROWS).join(',') },
      brokers: { type: 'string', default: 'mosquitto,godwit,aedes' },
      json: { type: 'string' },
      list: { type: 'boolean', default: false },
    },
  })
  if (values.list) {
    for (const [name, { load }] of Object.entries(ROWS)) console.log(`${name.padEnd(16)} ${load}`)
    console.log(`\nbrokers: ${BROKER_NAMES.join(', ')}`)
    process.exit(0)
  }
  const rows = known(values.only, Object.keys(ROWS))
  const brokers = known(values.brokers, BROKER_NAMES)
  return { ...values, rounds: Number(values.rounds), rows, brokers }
}

function known(list, names) {
  const chosen = list.split(',')
  const unknown = chosen.find((name) => !names.includes(name))
  if (unknown === undefined) return chosen
  console.error(`There is no '${unknown}': ${names.join(', ')}`)
  process.exit(2)
}

function build() {
  const source = join(HERE, 'mqload.c')
  if (existsSync(MQLOAD) && statSync(MQLOAD).mtimeMs >= statSync(source).mtimeMs) return
  mkdirSync(join(HERE, 'build'), { recursive: true })
  const { status, error } = spawnSync('cc', ['-O2', '-o', MQLOAD, source], { stdio: 'inherit' })
  if (status === 0) return
  console.error(`mqload.c could not be compiled: ${error?.message ?? `cc ended with ${status}`}`)
  process.exit(1)
}

/** Row name -> broker name -> reports. */
async function run() {
  const started = []
  const reports = {}
  try {
    for (const name of options.brokers) started.push(await startBroker(name))
    for (let round = 1; round <= options.rounds; round++) {
      for (const row of options.rows) {
        for (const broker of started) {
          const report = await measure(row, broker)
          reports[row] ??= {}
          reports[row][broker.name] ??= []
          reports[row][broker.name].push(report)
          if (options.json) {
            appendFileSync(
              options.json,
              `${JSON.stringify({ row, round, broker: broker.name, ...report })}\n`,
            )
          }
          console.error(`round ${round} ${row} ${broker.name} ${report.error ?? ''}`)
        }
      }
    }
  } finally {
    await Promise.all(started.map((broker) => broker.stop()))
  }
  return reports
}

async function measure(row, broker) {
  const before = await broker.commits()
  const args = [
    ...['--scenario', ...ROWS[row].load.split(' ')],
    ...['--label', broker.name, '--port', `${broker.port}`, '--pid', `${broker.pid}`],
    ...['--secs', options.secs, '--warmup', '0.7'],
  ]
  const report = await load(args)
  const after = await broker.commits()
  return after === null ? report : { ...report, commits: after - before }
}

/** Runs mqload beside us: the brokers' output must go on being read. */
function load(args) {
  return new Promise((resolve) => {
    let text = ''
    const child = spawn(MQLOAD, args, {
      stdio: ['ignore', 'pipe', 'inherit'],
      timeout: ROW_SECONDS_MAX * 1000,
      killSignal: 'SIGKILL',
    })
    child.stdout.setEncoding('utf8').on('data', (chunk) => {
      text += chunk
    })
    child.once('close', (code, signal) => {
      resolve(parsed(text) ?? { error: `mqload ended with ${code ?? signal} and without a report` })
    })
  })
}

function parsed(text) {
  try {
    return JSON.parse(text.trim().split('\n').at(-1))
  } catch {
    return undefined
  }
}

function print(reports) {
  const { godwit, mosquitto, aedes, node } = versions()
  const cpu = cpus()
  console.log(`Godwit ${godwit}, Mosquitto ${mosquitto}, Aedes ${aedes}; Node ${node}, Linux ${release()}`)
  console.log(`${cpu.length} x ${cpu[0].model}; medians of ${options.rounds} rounds of ${options.secs} s\n`)
  const columns = ['row', 'persistent Sessions', "Godwit's commits per run", 'figure', ...options.brokers]
  console.log(`| ${columns.join(' | ')} |`)
  console.log(`|${' --- |'.repeat(columns.length)}`)
  for (const row of options.rows) printRow(row, reports[row])
}

function printRow(row, reports) {
  const { persistent, figures } = ROWS[row]
  const good = (broker) => reports[broker].filter((report) => report.error === undefined)
  const line = (figure, cells) =>
    console.log(`| ${[row, persistent, commitsOf(reports), figure, ...cells].join(' | ')} |`)
  for (const [field, figure] of figures) {
    // Allocators keep what an earlier round needed, so that only the first one shows growth.
    const pick = field.startsWith('rss_') ? (values) => Math.max(...values) : median
    const values = options.brokers.map((broker) => pick(good(broker).map((report) => report[field])))
    const reference = values[options.brokers.indexOf('mosquitto')]
    line(
      figure,
      values.map((value, i) => cell(value, options.brokers[i] === 'mosquitto' ? Number.NaN : reference)),
    )
  }
  for (const fault of FAULTS) {
    const totals = options.brokers.map((broker) =>
      good(broker).reduce((sum, report) => sum + (report[fault] ?? 0), 0),
    )
    if (totals.some((total) => total > 0)) line(`**${fault}**, all rounds`, totals)
  }
  const errors = options.brokers.map((broker) => reports[broker].find(({ error }) => error)?.error ?? '')
  if (errors.some((error) => error !== '')) line('**error**', errors)
}

function commitsOf(reports) {
  const broker = options.brokers.find((name) => name.startsWith('godwit'))
  if (broker === undefined) return '–'
  return shown(median(reports[broker].map(({ commits }) => commits)))
}

function cell(value, reference) {
  if (!(Number.isFinite(value) && reference > 0)) return shown(value)
  return `${shown(value)} (${(value / reference).toFixed(2)})`
}

function median(list) {
  const sorted = list.filter(Number.isFinite).toSorted((a, b) => a - b)
  if (sorted.length === 0) return Number.NaN
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

function shown(value) {
  if (!Number.isFinite(value)) return '–'
  if (Math.abs(value) >= 100) return Math.round(value).toLocaleString('en-US')
  return Number.isInteger(value) ? `${value}` : value.toFixed(Math.abs(value) >= 10 ? 1 : 2)
}
