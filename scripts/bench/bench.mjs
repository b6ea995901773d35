/**
 * Compares brokers in one interleaved run and prints a markdown table.
 *
 *   npm run bench -- [--group GROUP,GROUP] [--only ROW,ROW] [--rounds N] [--secs S] [--brokers NAME,NAME]
 *                    [--patience SECONDS] [--json FILE] [--svg FILE] [--from FILE] [--list]
 *
 * Every row runs on each broker in turn, round after round, with the load generator mqload.c. The figures are
 * medians over the rounds; in brackets the ratio to Mosquitto, the only figure that can be compared across
 * machines. A broker that does not finish a row within `--patience` seconds is not measured in that row
 * again, and the table says so. `--from` runs nothing and prints what earlier runs kept by `--json`, in files
 * that are separated by commas.
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

/** Fields of mqload's report that count faults. */
const FAULT = /^(\w+_)?(lost|dup|ooo|misrouted|alien|nacks|unacked|disconnects|sub_failures)$/

/** The default: nobody reads `$SYS` of a broker that has one run. */
const SYS_SECONDS_FRESH = 10

/** The number of commits that each broker had made by the end of its last run. */
const commitsBefore = new Map()

/** A run in which nothing arrived is repeated so often, at most. */
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

/**
 * Returns the rows that are named, or those of the groups that are named, or all.
 *
 * @param {{ only?: string, group?: string }} options
 */
function rowsOf({ only, group }) {
  if (only !== undefined) return known(only, Object.keys(ROWS))
  const groups = group === undefined ? GROUPS : known(group, GROUPS)
  return Object.keys(ROWS).filter((row) => groups.includes(ROWS[row].group))
}

/** Returns the reports in these files by row and broker. Only rows that are in the files are printed. */
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

/** Runs all rows. Resolves with the reports by row and broker. */
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
          // A broker that failed is not measured in this row again, as that may take minutes.
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

/** Measures a row on a broker of its own, or on one that many rows share and that is therefore warm. */
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
  // A busy machine had no time for the load generator or the broker, which says nothing of the broker.
  for (let again = 0; again < EMPTY_RUNS_MAX && report.out_per_s === 0 && !report.error; again++) {
    report = await measured()
  }
  report.rss_growth_kb = report.rss_after_kb - report.rss_before_kb
  const total = ROWS[row].fresh ? null : await broker.commits()
  if (total === null) return report
  // This broker does nothing between its runs.
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

/** Takes the median, but of memory the largest: allocators keep what an earlier round needed. */
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

/** Returns the title and the ratios of each row of the chart; rows need a figure of Mosquitto. */
function ratios(reports) {
  return options.rows.flatMap((row) => {
    const titles = TITLES[row] ?? {}
    const shown = typeof titles === 'string' ? { [ROWS[row].ratio ?? '']: titles } : titles
    return Object.entries(shown).flatMap(([field, title]) => {
      const value = (broker) => figureOf(reports[row][broker] ?? [], field)
      const reference = value('mosquitto')
      if (!(reference > 0)) return []
      const all = options.brokers.map((broker) => [broker, value(broker) / reference])
      return [{ title, ratios: Object.fromEntries(all) }]
    })
  })
}
