/**
 * Compares brokers in one interleaved run and prints a markdown table.
 *
 *   npm run bench -- [--rounds N] [--secs S] [--only ROW,ROW] [--brokers NAME,NAME] [--json FILE] [--list]
 *
 * Every row runs on each broker in turn, round after round, with the load generator mqload.c. The figures are medians
 * over the rounds; in brackets the ratio to Mosquitto, the only figure that can be compared across machines.
 */
import { appendFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { BROKER_NAMES, startBroker } from './brokers.mjs'
import { buildMqload, runMqload } from './load.mjs'
import { cell, known, median, printMachine, printRow, shown } from './table.mjs'

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
buildMqload()
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
  const report = await runMqload(args)
  const after = await broker.commits()
  return after === null ? report : { ...report, commits: after - before }
}

function print(reports) {
  printMachine(options)
  const columns = ['row', 'persistent Sessions', "Godwit's commits per run", 'figure', ...options.brokers]
  printRow(columns)
  printRow(columns.map(() => '---'))
  for (const row of options.rows) printFigures(row, reports[row])
}

function printFigures(row, reports) {
  const { persistent, figures } = ROWS[row]
  const good = (broker) => reports[broker].filter((report) => report.error === undefined)
  const line = (figure, cells) => printRow([row, persistent, commitsOf(reports), figure, ...cells])
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
