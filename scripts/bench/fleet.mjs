/**
 * Measures a fleet: 2,000 devices that each send one small message now and then, dashboards, sleepers and an
 * archive, with connections that come and go (fleetload.c). Also one durable publisher alone, and the bytes
 * that reach the disk.
 *
 *   npm run bench:fleet -- [--only fleet,alone,wear] [--brokers NAME,NAME] [--rounds 3] [--secs 20]
 *                          [--warmup 10] [--devices 2000] [--rate 3900] [--plain] [--sync-ms MS]
 *                          [--set KEY=VALUE] [--json FILE] [--svg FILE]
 *
 * Every broker runs in turn, round after round, freshly started. Figures are medians over the rounds; in
 * brackets is the ratio to the first broker. FlashMQ takes part if BENCH_FLASHMQ names its program.
 * `--svg` draws the fleet's figures as ratios to Mosquitto.
 * `--plain` is the fleet without Wills, kept Sessions and MQTT 5.0, which `bare-node` can serve, too.
 * `--sync-ms` adds so much to each sync of the disk, for Godwit only, since the others do not sync. `wear`
 * needs root, for an ext4 file system on a loop device of its own.
 */
import {
  appendFileSync,
  closeSync,
  constants,
  mkdtempSync,
  openSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import mqtt from 'mqtt'
import { BROKER_NAMES, FLASHMQ, newDirectory, startBroker } from './brokers.mjs'
import { chart } from './chart.mjs'
import { printFleetAims } from './fleet-aims.mjs'
import { buildFleetload, buildMqload, buildSlowSync, runFleetload, runMqload } from './load.mjs'
import { LoopDisk } from './loop-disk.mjs'
import { cell, known, median, printMachine, printRow, shown } from './table.mjs'

const PEERS = ['mosquitto', ...(FLASHMQ ? ['flashmq'] : [])]
const BROKERS = [...PEERS, 'godwit-memory', 'godwit-os', 'godwit']
const PLAIN_BROKERS = [...PEERS, 'bare-node', 'godwit-memory']

/**
 * Fields of fleetload's report, and their titles.
 *
 * @type {readonly [string, string][]}
 */
const FLEET_FIGURES = [
  ['cpu_us_per_msg', 'CPU µs per message'],
  ['ack_p50_us', 'PUBACK p50 µs'],
  ['ack_p99_us', 'PUBACK p99 µs'],
  ['arrival_p50_us', 'arrival p50 µs'],
  ['arrival_p99_us', 'arrival p99 µs'],
  ['commits_per_s', 'commits/s'],
  ['in_per_s', 'in/s'],
  ['out_per_s', 'out/s'],
]
const FLEET_FAULTS = [
  'error',
  ...[
    'lost',
    'dup',
    'ooo',
    'alien',
    'wills_missing',
    'nacks',
    'given_up',
    'refused',
    'sub_failures',
    'disconnects',
  ],
]

/** Figures of the chart: less is better in all of them. */
const CHARTED = /_us(_per_msg)?$/

const WEAR_MESSAGES = 1000
const WEAR_PER_SECOND = 10
const DISK_MIB = 256

const WRITE_BYTES = 4096
const WRITES = 400

const { values } = parseArgs({
  options: {
    only: { type: 'string', default: 'fleet,alone' },
    brokers: { type: 'string' },
    rounds: { type: 'string', default: '3' },
    secs: { type: 'string', default: '20' },
    warmup: { type: 'string', default: '10' },
    devices: { type: 'string', default: '2000' },
    rate: { type: 'string', default: '3900' },
    plain: { type: 'boolean', default: false },
    'sync-ms': { type: 'string', default: '0' },
    set: { type: 'string', multiple: true, default: [] },
    json: { type: 'string' },
    svg: { type: 'string' },
  },
})
const rounds = Number(values.rounds)
const syncMs = Number(values['sync-ms'])
const parts = { fleet: measureFleet, alone: measureAlone, wear: measureWear }
/** @type {Record<string, string>} */
const slowDisk = syncMs > 0 ? { LD_PRELOAD: buildSlowSync(), SLOW_SYNC_US: `${syncMs * 1000}` } : {}

buildFleetload()
buildMqload()
printMachine({ rounds, secs: Number(values.secs) })
if (syncMs > 0) console.log(`${syncMs} ms are added to each sync.\n`)
for (const part of known(values.only, Object.keys(parts))) await parts[part]()

/** Returns the brokers that the options name, or else `names`. */
function brokersAmong(names) {
  return values.brokers === undefined ? names : known(values.brokers, BROKER_NAMES)
}

function start(name, options = {}) {
  const isGodwit = name.startsWith('godwit')
  return startBroker(name, {
    ...options,
    settings: isGodwit ? values.set : [],
    environment: isGodwit ? slowDisk : {},
  })
}

/** Runs `measure` for each broker in turn, round after round. Resolves with the reports by broker. */
async function interleaved(names, part, measure) {
  const reports = new Map(names.map((name) => [name, []]))
  for (let round = 0; round < rounds; round++) {
    for (const name of names) {
      const report = await measure(name)
      reports.get(name).push(report)
      if (values.json)
        appendFileSync(values.json, `${JSON.stringify({ part, broker: name, syncMs, ...report })}\n`)
    }
  }
  return reports
}

function figureOf(reports, name, field) {
  return median(reports.get(name).map((report) => report[field]))
}

/** Prints a line for each figure and a column for each broker. */
function printFigures(reports, figures) {
  const names = [...reports.keys()]
  printRow(['', ...names])
  printRow(['---', ...names.map(() => '---')])
  for (const [field, title] of figures) {
    const medians = names.map((name) => figureOf(reports, name, field))
    printRow([title, ...medians.map((value, i) => (i === 0 ? shown(value) : cell(value, medians[0])))])
  }
}

async function measureFleet() {
  const { secs, warmup, devices, rate } = values
  const load = ['--secs', secs, '--warmup', warmup, '--devices', devices, '--rate', rate]
  if (values.plain) load.push('--plain', '1')
  const reports = await interleaved(
    brokersAmong(values.plain ? PLAIN_BROKERS : BROKERS),
    'fleet',
    async (name) => {
      const broker = await start(name)
      try {
        const before = await broker.commits()
        const report = await runFleetload(['--port', `${broker.port}`, '--pid', `${broker.pid}`, ...load])
        const seconds = Number(secs) + Number(warmup)
        const after = await broker.commits()
        const commits = before === null || after === null ? Number.NaN : after - before
        return { ...report, commits_per_s: commits / seconds }
      } finally {
        await broker.stop()
      }
    },
  )
  console.log(`## A fleet of ${Number(devices).toLocaleString('en-US')} devices\n`)
  printFigures(reports, FLEET_FIGURES)
  for (const [name, list] of values.plain ? [] : reports) {
    for (const report of list) {
      const faults = FLEET_FAULTS.filter((field) => report[field]).map((field) => `${field} ${report[field]}`)
      if (faults.length > 0) console.log(`\n**${name}: ${faults.join(', ')}**`)
    }
  }
  const names = [...reports.keys()]
  const figure = (name, field) => figureOf(reports, name, field)
  if (!values.plain) printFleetAims(names, new Map(FLEET_FIGURES), figure)
  if (values.svg) writeFileSync(values.svg, fleetChart(names, figure))
  console.log()
}

/** Returns the SVG of the fleet's CPU time and latencies. */
function fleetChart(names, figure) {
  const rows = FLEET_FIGURES.filter(([field]) => CHARTED.test(field)).map(([field, title]) => {
    const ratios = names.map((name) => [name, figure(name, field) / figure('mosquitto', field)])
    return { title, ratios: Object.fromEntries(ratios) }
  })
  const title = 'A fleet of small devices: CPU time and latencies, as ratios to Mosquitto'
  return chart(rows, names, { title, note: 'logarithmic; left of the line is less' })
}

/** Measures one publisher with one message in flight, into a Session that is offline. */
async function measureAlone() {
  const names = brokersAmong(['mosquitto', 'godwit'])
  const writes = []
  const reports = await interleaved(names, 'alone', async (name) => {
    writes.push(writeLatencyUs())
    const broker = await start(name)
    try {
      const load = [
        '--scenario',
        'durable',
        '--qos',
        '1',
        '--pubs',
        '1',
        '--sessions',
        '1',
        '--payload',
        '128',
      ]
      const time = ['--secs', values.secs, '--warmup', '2']
      return await runMqload([...load, ...time, '--port', `${broker.port}`, '--pid', `${broker.pid}`])
    } finally {
      await broker.stop()
    }
  })
  console.log('## One publisher, one message under way\n')
  printFigures(reports, [
    ['p50_us', 'PUBACK p50 µs'],
    ['p99_us', 'PUBACK p99 µs'],
    ['cpu_us_per_in', 'CPU µs per message'],
  ])
  const write = median(writes) + syncMs * 1000
  const sum = write + median(reports.get(names[0]).map(({ p50_us }) => p50_us))
  console.log(
    `\nOne O_DSYNC write of 4 KiB: p50 ${shown(write)} µs. With p50 of ${names[0]}: ${shown(sum)} µs.`,
  )
  for (const name of names.slice(1)) {
    const p50 = median(reports.get(name).map((report) => report.p50_us))
    console.log(`${name} takes ${(p50 / sum).toFixed(2)} of it.`)
  }
  console.log()
}

/** Returns the median time of synced writes, one after the other, over a file that has its blocks. */
function writeLatencyUs() {
  const directory = mkdtempSync(join(tmpdir(), 'godwit-write-'))
  const file = join(directory, 'file')
  const bytes = Buffer.alloc(WRITE_BYTES, 1)
  const first = openSync(file, 'w')
  for (let i = 0; i < WRITES; i++) writeSync(first, bytes)
  closeSync(first)
  const synced = openSync(file, constants.O_WRONLY | constants.O_DSYNC)
  const times = []
  for (let i = 0; i < WRITES; i++) {
    const from = performance.now()
    writeSync(synced, bytes, 0, bytes.length, i * WRITE_BYTES)
    times.push((performance.now() - from) * 1000)
  }
  closeSync(synced)
  rmSync(directory, { recursive: true })
  return median(times)
}

/**
 * Measures the bytes that reach the device for retained messages at ten a second, and while nothing happens.
 */
async function measureWear() {
  console.log(`## Written for ${WEAR_MESSAGES} retained messages of QoS 1, ${WEAR_PER_SECOND} a second\n`)
  printRow(['broker', 'MB', 'MB in as long without messages'])
  printRow(['---', '---', '---'])
  for (const name of ['godwit', 'godwit-interval']) {
    const { busyBytes, idleBytes } = await wear(name)
    printRow([name, shown(busyBytes / 1e6), shown(idleBytes / 1e6)])
    if (values.json)
      appendFileSync(values.json, `${JSON.stringify({ part: 'wear', broker: name, busyBytes, idleBytes })}\n`)
  }
  console.log()
}

/** @param {string} name */
async function wear(name) {
  const disk = new LoopDisk(DISK_MIB)
  try {
    const broker = await startBroker(name, { directory: newDirectory(disk.mount), settings: values.set })
    try {
      const client = await mqtt.connectAsync(`mqtt://127.0.0.1:${broker.port}`)
      const start = await disk.writtenBytes()
      for (let i = 0; i < WEAR_MESSAGES; i++) {
        const due = setTimeout(1000 / WEAR_PER_SECOND)
        await client.publishAsync(`wear/${i % 50}/state`, 'x'.repeat(64), { qos: 1, retain: true })
        await due
      }
      const busy = await disk.writtenBytes()
      await setTimeout((WEAR_MESSAGES / WEAR_PER_SECOND) * 1000)
      const idle = await disk.writtenBytes()
      await client.endAsync()
      return { busyBytes: busy - start, idleBytes: idle - busy }
    } finally {
      await broker.close()
    }
  } finally {
    disk.remove()
  }
}
