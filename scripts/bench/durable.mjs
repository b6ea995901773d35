/**
 * Measures the paths that wait for the disk: rate, latency and CPU time of QoS 1 and QoS 2 into persistent
 * Sessions that are offline, by the number of publishers and their windows. With a window of 1, a publisher
 * sends the next message after the acknowledgement of the one before; with 20, as soon as one of twenty is
 * acknowledged.
 *
 *   npm run bench:durable -- [--rounds N] [--secs S] [--publishers 1,10] [--window 1,20] [--qos 1,2]
 *                            [--brokers NAME,NAME] [--json FILE]
 *
 * Every row runs on each broker in turn, round after round, with the load generator mqload.c. The figures are
 * medians over the rounds; in brackets the ratio to Mosquitto without persistence, which acknowledges from
 * memory.
 */
import { appendFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { BROKER_NAMES, startBroker } from './brokers.mjs'
import { buildMqload, runMqload } from './load.mjs'
import { cell, known, median, printMachine, printRow, shown } from './table.mjs'

const BROKERS = 'mosquitto,mosquitto-safest,godwit,godwit-os,godwit-memory,aedes-level'

/** The Sessions that the publishers share. They are created for each run and ended after it. */
const SESSIONS = 10

const PAYLOAD_BYTES = 128

const REFERENCE = 'mosquitto'

const FIGURES = [
  ['in_per_s', 'acknowledged/s'],
  ['p50_us', 'p50 µs'],
  ['p99_us', 'p99 µs'],
  ['p999_us', 'p99.9 µs'],
  ['cpu_us_per_in', 'CPU µs per message'],
]

/** Fields of mqload's report that count faults. */
const FAULTS = ['nacks', 'unacked', 'disconnects', 'sub_failures']

/** From so many publishers on, the durable path is to be the faster one. */
const BEATS_FROM_PUBLISHERS = 100

const options = readOptions()
buildMqload()
const reports = await run()
print()

function readOptions() {
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string', default: '3' },
      secs: { type: 'string', default: '2' },
      publishers: { type: 'string', default: '1,10,100,1000' },
      window: { type: 'string', default: '1,20' },
      qos: { type: 'string', default: '1,2' },
      brokers: { type: 'string', default: BROKERS },
      json: { type: 'string' },
    },
  })
  return {
    ...values,
    rounds: Number(values.rounds),
    rows: known(values.qos, ['1', '2']).flatMap((qos) =>
      values.window
        .split(',')
        .flatMap((window) =>
          values.publishers
            .split(',')
            .map((publishers) => ({ qos, window: count(window), publishers: count(publishers) })),
        ),
    ),
    brokers: known(values.brokers, BROKER_NAMES),
  }
}

function count(word) {
  if (/^[1-9]\d{0,4}$/.test(word)) return Number(word)
  console.error(`'${word}' is not a number of publishers or messages`)
  process.exit(2)
}

/** Runs all rows. Resolves with the reports, each with its row, broker and round. */
async function run() {
  const started = []
  const all = []
  try {
    for (const name of options.brokers) started.push({ broker: await startBroker(name), commits: 0 })
    for (let round = 1; round <= options.rounds; round++) {
      for (const row of options.rows) {
        for (const one of started) {
          const report = { ...row, round, broker: one.broker.name, ...(await measure(row, one)) }
          all.push(report)
          if (options.json) appendFileSync(options.json, `${JSON.stringify(report)}\n`)
          const { qos, publishers, window } = row
          const words = `QoS ${qos}, ${publishers} publishers, window ${window}, ${report.broker}`
          console.error(`round ${round} ${words} ${report.error ?? ''}`)
        }
      }
    }
  } finally {
    await Promise.all(started.map(({ broker }) => broker.stop()))
  }
  return all
}

async function measure({ qos, window, publishers }, one) {
  const { broker, commits } = one
  const report = await runMqload([
    ...[
      '--scenario',
      'durable',
      '--qos',
      qos,
      '--pubs',
      `${publishers}`,
      '--sessions',
      `${SESSIONS}`,
      '--window',
      `${window}`,
    ],
    ...['--label', broker.name, '--port', `${broker.port}`, '--pid', `${broker.pid}`],
    ...['--payload', `${PAYLOAD_BYTES}`, '--secs', options.secs, '--warmup', '0.3'],
  ])
  const total = await broker.commits()
  if (total === null) return { ...report, qos }
  // This broker does nothing between its runs.
  one.commits = total
  return { ...report, qos, commits: total - commits, messages_per_commit: report.sent / (total - commits) }
}

function print() {
  printMachine(options)
  const columns = ['QoS', 'window', 'publishers', 'figure', ...options.brokers]
  printRow(columns)
  printRow(columns.map(() => '---'))
  for (const row of options.rows) printFigures(row)
  for (const row of options.rows) if (row.qos === '1') printVerdict(row)
}

function printFigures(row) {
  const line = (figure, cells) => printRow([row.qos, row.window, row.publishers, figure, ...cells])
  for (const [field, figure] of FIGURES) {
    const reference = value(row, REFERENCE, field)
    line(
      figure,
      options.brokers.map((broker) =>
        cell(value(row, broker, field), broker === REFERENCE ? Number.NaN : reference),
      ),
    )
  }
  for (const [field, figure] of [
    ['commits', 'commits per run'],
    ['messages_per_commit', 'messages per commit'],
  ]) {
    line(
      figure,
      options.brokers.map((broker) => shown(value(row, broker, field))),
    )
  }
  for (const fault of FAULTS) {
    const totals = options.brokers.map((broker) =>
      good(row, broker).reduce((sum, report) => sum + (report[fault] ?? 0), 0),
    )
    if (totals.some((total) => total > 0)) line(`**${fault}**, all rounds`, totals)
  }
  const errors = options.brokers.map((broker) => of(row, broker).find(({ error }) => error)?.error ?? '')
  if (errors.some((error) => error !== '')) line('**error**', errors)
}

/** Says whether durable QoS 1 beats non-durable QoS 1, from 100 publishers on. */
function printVerdict(row) {
  const { publishers, window } = row
  if (publishers < BEATS_FROM_PUBLISHERS) return
  const ratio = value(row, 'godwit', 'in_per_s') / value(row, REFERENCE, 'in_per_s')
  if (!Number.isFinite(ratio)) return
  const verdict = `${ratio > 1 ? 'beats' : 'does not beat'} Mosquitto's non-durable QoS 1 (${shown(ratio)})`
  console.log(`\n${publishers} publishers, window ${window}: durable QoS 1 in Godwit ${verdict}.`)
}

function of({ qos, window, publishers }, broker) {
  return reports.filter(
    (report) =>
      report.qos === qos &&
      report.window === window &&
      report.publishers === publishers &&
      report.broker === broker,
  )
}

function good(row, broker) {
  return of(row, broker).filter(({ error }) => error === undefined)
}

function value(row, broker, field) {
  return median(good(row, broker).map((report) => report[field]))
}
