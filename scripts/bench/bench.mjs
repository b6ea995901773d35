/**
 * Compares brokers in one interleaved run and prints a markdown table.
 *
 *   npm run bench -- [--group GROUP,GROUP] [--only ROW,ROW] [--rounds N] [--secs S] [--brokers NAME,NAME]
 *                    [--patience SECONDS] [--json FILE] [--svg FILE] [--from FILE] [--list]
 *
 * Every row runs on each broker in turn, round after round, with the load generator mqload.c. The figures are medians
 * over the rounds; in brackets the ratio to Mosquitto, the only figure that can be compared across machines. A broker that
 * is not done with a row after so many seconds of patience is not asked again, and the table says so. `--from`
 * prints what earlier runs have kept by `--json`, in one file or several with commas between them, and runs nothing.
 */
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { printAims } from './aims.mjs'
import { BROKER_NAMES, startBroker } from './brokers.mjs'
import { chart } from './chart.mjs'
import { buildMqload, runMqload } from './load.mjs'
import { GROUPS, isFor, mqloadWords, nameOf, persistentSessions, ROWS, TITLES } from './rows.mjs'
import { measureStart } from './startup.mjs'
import { cell, known, median, printMachine, printRow, shown } from './table.mjs'

/** What mqload counts when something went wrong. */
const FAULT = /^(\w+_)?(lost|dup|ooo|misrouted|alien|nacks|unacked|disconnects|sub_failures)$/

/** As it is by default: nobody reads `$SYS` of a broker that has one run. */
const SYS_SECONDS_FRESH = 10

/** Commits that a broker had made at the end of its last run. */
const commitsBefore = new Map()

/** So often a run in which nothing arrived is made again. */
const EMPTY_RUNS_MAX = 5

const options = readOptions()
const results = options.from ? read(options.from) : await run()
print(results)
if (options.svg) writeFileSync(options.svg, chart(ratios(results), options.brokers))

function readOptions() {
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string', default: '3' },
      secs: { type: 'string', default: '2' },
      group: { type: 'string' },
      only: { type: 'string' },
      brokers: { type: 'string', default: 'mosquitto,godwit,aedes' },
      patience: { type: 'string', default: '240' },
      json: { type: 'string' },
      svg: { type: 'string' },
      from: { type: 'string' },
      list: { type: 'boolean', default: false },
    },
  })
  if (values.list) {
    for (const [name, { group, load = '' }] of Object.entries(ROWS)) {
      console.log(`${group.padEnd(12)} ${name.padEnd(20)} ${load}`)
    }
    console.log(`\nbrokers: ${BROKER_NAMES.join(', ')}`)
    process.exit(0)
  }
  const brokers = known(values.brokers, BROKER_NAMES)
  return { ...values, rounds: Number(values.rounds), rows: rowsOf(values), brokers }
}

/** Those named, those of the groups named, or all. */
function rowsOf({ only, group }) {
  if (only !== undefined) return known(only, Object.keys(ROWS))
  const groups = group === undefined ? GROUPS : known(group, GROUPS)
  return Object.keys(ROWS).filter((row) => groups.includes(ROWS[row].group))
}

/** Row name -> broker name -> reports, as they were kept; the rows that are there become those to print. */
function read(files) {
  const reports = {}
  for (const file of files.split(',')) {
    for (const line of readFileSync(file, 'utf8').trim().split('\n')) {
      const { row, round: _round, broker, ...report } = JSON.parse(line)
      reports[row] ??= Object.fromEntries(options.brokers.map((name) => [name, []]))
      reports[row][broker]?.push(report)
    }
  }
  options.rows = options.rows.filter((row) => reports[row] !== undefined)
  return reports
}

/** Row name -> broker name -> reports. */
async function run() {
  buildMqload()
  const started = {}
  const reports = {}
  try {
    for (let round = 1; round <= options.rounds; round++) {
      for (const row of options.rows) {
        if (ROWS[row].once && round > 1) continue
        for (const name of options.brokers) {
          reports[row] ??= {}
          reports[row][name] ??= []
          // Who cannot do it is not asked again: that may take minutes.
          if (!isFor(row, name) || reports[row][name].some(({ error }) => error)) continue
          const from = performance.now()
          const report = await measure(row, name, started)
          reports[row][name].push(report)
          if (options.json) {
            appendFileSync(options.json, `${JSON.stringify({ row, round, broker: name, ...report })}\n`)
          }
          const seconds = shown((performance.now() - from) / 1000)
          console.error(`round ${round} ${row} ${name} ${seconds} s ${report.error ?? ''}`)
        }
      }
    }
  } finally {
    await Promise.all(Object.values(started).map((broker) => broker.stop()))
  }
  return reports
}

/** On a broker of its own, or on the one that all such rows share, so that it is as warm as one that has been running. */
async function measure(row, name, started) {
  if (row === 'start') return measureStart(name)
  if (!ROWS[row].fresh) {
    started[name] ??= await startBroker(name)
    return loaded(row, started[name])
  }
  const broker = await startBroker(name, { sysSeconds: SYS_SECONDS_FRESH })
  try {
    return await loaded(row, broker)
  } finally {
    await broker.stop()
  }
}

async function loaded(row, broker) {
  const words = ['--label', broker.name, '--pid', `${broker.pid}`, '--secs', options.secs, '--warmup', '0.7']
  const measured = () => runMqload([...mqloadWords(row, broker), ...words], Number(options.patience))
  let report = await measured()
  // A busy machine had no time for one or the other: that says nothing of the broker.
  for (let again = 0; again < EMPTY_RUNS_MAX && report.out_per_s === 0 && !report.error; again++) {
    report = await measured()
  }
  report.rss_growth_kb = report.rss_after_kb - report.rss_before_kb
  const total = ROWS[row].fresh ? null : await broker.commits()
  if (total === null) return report
  // Nothing asks this broker for anything between its runs.
  const before = commitsBefore.get(broker) ?? 0
  commitsBefore.set(broker, total)
  return { ...report, commits: total - before }
}

function print(reports) {
  printMachine(options)
  const columns = ['row', 'persistent Sessions', "Godwit's commits per run", 'figure', ...options.brokers]
  printRow(columns)
  printRow(columns.map(() => '---'))
  for (const row of options.rows) printFigures(row, reports[row])
  const figure = (row, broker, field) => figureOf(reports[row][broker] ?? [], field)
  const godwit = options.brokers.find((name) => name.startsWith('godwit'))
  if (godwit !== undefined) printAims(options.rows, nameOf, figure, godwit)
}

function printFigures(row, reports) {
  const line = (figure, cells) =>
    printRow([row, persistentSessions(row), commitsOf(reports), figure, ...cells])
  for (const [field, figure] of ROWS[row].figures) {
    const values = options.brokers.map((broker) => figureOf(reports[broker], field))
    const reference = values[options.brokers.indexOf('mosquitto')]
    line(
      figure,
      values.map((value, i) => cell(value, options.brokers[i] === 'mosquitto' ? Number.NaN : reference)),
    )
  }
  for (const fault of faultsOf(reports)) {
    const totals = options.brokers.map((broker) =>
      good(reports[broker]).reduce((sum, report) => sum + (report[fault] ?? 0), 0),
    )
    if (totals.some((total) => total > 0)) line(`**${fault}**, all rounds`, totals)
  }
  const errors = options.brokers.map((broker) => reports[broker].find(({ error }) => error)?.error ?? '')
  if (errors.some((error) => error !== '')) line('**error**', errors)
}

function good(reports) {
  return reports.filter(({ error }) => error === undefined)
}

/** Allocators keep what an earlier round needed, so that of memory only the largest shows growth. */
function figureOf(reports, field) {
  const values = good(reports).map((report) => report[field])
  if (!field.startsWith('rss_')) return median(values)
  return values.length === 0 ? Number.NaN : Math.max(...values)
}

function faultsOf(reports) {
  const fields = Object.values(reports).flatMap((list) => good(list).flatMap((report) => Object.keys(report)))
  return [...new Set(fields)].filter((field) => FAULT.test(field))
}

function commitsOf(reports) {
  const broker = options.brokers.find((name) => name.startsWith('godwit'))
  if (broker === undefined) return '–'
  return shown(median(reports[broker].map(({ commits }) => commits)))
}

/** Title and ratios of each row that the chart shows: where Mosquitto has a figure. */
function ratios(reports) {
  return options.rows.flatMap((row) => {
    const titles = TITLES[row] ?? {}
    const shown = typeof titles === 'string' ? { [ROWS[row].ratio]: titles } : titles
    return Object.entries(shown).flatMap(([field, title]) => {
      const value = (broker) => figureOf(reports[row][broker] ?? [], field)
      const reference = value('mosquitto')
      if (!(reference > 0)) return []
      const all = options.brokers.map((broker) => [broker, value(broker) / reference])
      return [{ title, ratios: Object.fromEntries(all) }]
    })
  })
}
