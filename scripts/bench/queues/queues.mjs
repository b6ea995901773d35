/**
 * `npm run bench:queues`: queues of Godwit beside RabbitMQ and NATS JetStream. See README.md.
 *
 *   --brokers NAMES    godwit,godwit-os,rabbitmq-quorum,rabbitmq-classic,nats, as far as they are installed
 *   --only ROWS        fill,drain,auto,live,key,slow,latency,guard,explicit
 *   --count N          messages of a row (100000)
 *   --rounds N         of which the table has the medians (3)
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { known, printHead, printRow } from '../table.mjs'
import { cpuUs, missing, NAMES, start } from './brokers.mjs'
import { judge } from './targets.mjs'

const LOAD = fileURLToPath(new URL('load.mjs', import.meta.url))

const { values } = parseArgs({
  options: {
    brokers: { type: 'string', default: NAMES.filter((name) => name !== 'godwit-memory').join(',') },
    only: { type: 'string' },
    count: { type: 'string', default: '100000' },
    rounds: { type: 'string', default: '3' },
  },
})

const COUNT = Number(values.count)
const ROUNDS = Number(values.rounds)
const CLIENTS = [1, 10, 100]
const PREFETCH = 100
const DECLARED = 10_000

/** @typedef {import('./brokers.mjs').Peer} Peer */

/** Starts a load. `ready` resolves once its consumers are there, `result` with its figures. */
function load(/** @type {Peer} */ { protocol, kind, port }, run) {
  const all = { protocol, kind, port, count: COUNT, prefetch: `${PREFETCH}`, ...run }
  const child = spawn(process.execPath, [LOAD, JSON.stringify(all)], { stdio: ['ignore', 'pipe', 'inherit'] })
  const lines = createInterface({ input: child.stdout })
  let result = null
  const ready = new Promise((resolve) => {
    lines.on('line', (line) => {
      if (line === 'ready') resolve(undefined)
      else result = JSON.parse(line)
    })
  })
  const ended = once(child, 'close').then(([code]) => {
    if (code !== 0) throw new Error(`the load ended with ${code}: ${JSON.stringify(all)}`)
    return result
  })
  return { ready: Promise.race([ready, ended]), result: ended }
}

/** Runs loads at once and measures the broker: CPU time and rate for each of `messages`. */
async function measured(/** @type {Peer} */ peer, messages, run) {
  const before = cpuUs(peer.pid)
  const results = await run()
  const cpu = cpuUs(peer.pid) - before
  const ms = Math.max(...results.map((result) => result.ms))
  const driver = results.reduce((sum, result) => sum + result.cpuUs, 0)
  return {
    us: cpu / messages,
    perSecond: (messages / ms) * 1000,
    driverUs: driver / messages,
    last: results.at(-1),
  }
}

const one = async (peer, run) => [await load(peer, run).result]

/** Each row adds figures, by name, to those of its broker. `add(name, figure)` keeps one. */
const ROWS = {
  fill: (peer, add) => filledAndDrained(peer, add),
  auto: async (peer, add) => {
    if (peer.protocol !== 'mqtt') return
    await one(peer, { what: 'publish', queue: 'learned', clients: 10 })
    const run = { what: 'consume', queue: 'learned', clients: 10, prefetch: 'auto' }
    add('drain auto 10', await measured(peer, COUNT, () => one(peer, run)))
  },
  live: async (peer, add) => {
    const figure = await measured(peer, COUNT, async () => {
      const taking = load(peer, { what: 'consume', queue: 'live', clients: 10 })
      await taking.ready
      const giving = load(peer, { what: 'publish', queue: 'live', clients: 10 })
      return [await giving.result, await taking.result]
    })
    add('live 10', figure)
  },
  key: async (peer, add) => {
    if (peer.protocol !== 'mqtt') return
    for (const dispatch of ['fair', 'key']) {
      const queue = `by${dispatch}`
      const topic = `by/${dispatch}/KEY`
      await one(peer, { what: 'publish', queue, clients: 10, topic, keys: 10_000 })
      const run = { what: 'consume', queue, clients: 10 }
      add(`drain ${dispatch} 10`, await measured(peer, COUNT, () => one(peer, run)))
    }
  },
  slow: async (peer, add) => {
    if (peer.protocol !== 'mqtt') return
    const count = 1000
    await one(peer, { what: 'publish', queue: 'slow', clients: 1, count })
    const run = { what: 'consume', queue: 'slow', clients: 2, count, prefetch: 'auto', workMs: [5, 50] }
    const figure = await measured(peer, count, () => one(peer, run))
    add('slow pair', { ...figure, share: figure.last.shares[0] / count })
  },
  latency: async (peer, add) => {
    const count = 3000
    const plain = peer.protocol === 'mqtt'
    for (const kind of plain ? ['queue', 'plain'] : ['queue']) {
      const queue = `latency${kind}`
      const form = kind === 'plain' ? { topic: 'plain/latency', filter: 'plain/latency' } : {}
      const taking = load(peer, { what: 'consume', queue, clients: 1, count, ...form })
      await taking.ready
      const run = { what: 'publish', queue, clients: 100, count, perSecond: 1000, ...form }
      await load(peer, run).result
      add(`latency ${kind}`, { last: await taking.result })
    }
  },
}

async function filledAndDrained(/** @type {Peer} */ peer, add) {
  for (const clients of CLIENTS) {
    const queue = `q${clients}`
    const into = { what: 'publish', queue, clients }
    add(`in ${clients}`, await measured(peer, COUNT, () => one(peer, into)))
    const out = { what: 'consume', queue, clients }
    const figure = await measured(peer, COUNT, () => one(peer, out))
    const { shares } = figure.last
    const spread = Math.max(...shares.map((share) => Math.abs(share / (COUNT / clients) - 1)))
    add(`out ${clients}`, { ...figure, spread })
  }
}

/** Godwit alone: publishing to topics without queues, with none and with many queues declared. */
async function guard(add) {
  for (const label of ['guard none', 'guard many']) {
    const peer = await start('godwit-memory', [`queues.declared_by_use_max=${DECLARED}`])
    try {
      if (label === 'guard many')
        await one(peer, { what: 'declare', queue: 'd', clients: 100, count: DECLARED })
      const form = { what: 'publish', queue: 'guard', clients: 10, topic: 'plain/KEY', keys: 100 }
      // As much as is measured: what was compiled for queues must not count.
      await one(peer, form)
      add(label, await measured(peer, COUNT, () => one(peer, form)))
    } finally {
      await peer.stop()
    }
  }
}

/** The settings of Godwit for all rows. */
const DECLARED_QUEUES = [
  "{name: byfair, filters: ['by/fair/#']}",
  "{name: bykey, filters: ['by/key/#'], dispatch: key}",
]
const SETTINGS = [`queues.declared=[${DECLARED_QUEUES.join(', ')}]`]

async function round(name, rows, add) {
  const peer = await start(name, SETTINGS)
  try {
    // A part of the code is compiled by the first messages.
    await one(peer, { what: 'publish', queue: 'warm', clients: 10, count: 20_000 })
    await one(peer, { what: 'consume', queue: 'warm', clients: 10, count: 20_000 })
    for (const row of rows) await ROWS[row](peer, add)
  } finally {
    await peer.stop()
  }
}

function median(figures, of) {
  const found = figures.map(of).filter((value) => value !== undefined && !Number.isNaN(value))
  return found.sort((a, b) => a - b)[Math.floor(found.length / 2)]
}

function text(figure, digits = 1) {
  return figure === undefined ? '' : figure.toFixed(digits)
}

const names = known(values.brokers, NAMES).filter((name) => {
  const reason = missing(name)
  if (reason !== null) console.log(`Without ${name}: ${reason}.`)
  return reason === null
})
const all = [...Object.keys(ROWS), 'guard']
const rows = values.only === undefined ? all : known(values.only, all)

/** @type {Map<string, Map<string, any[]>>} by row, then by broker */
const figures = new Map()
const adding = (name) => (row, figure) => {
  const ofRow = figures.get(row) ?? new Map()
  figures.set(row, ofRow)
  ofRow.set(name, [...(ofRow.get(name) ?? []), figure])
}
for (let at = 0; at < ROUNDS; at++) {
  for (const name of names) {
    const own = rows.filter((row) => row !== 'guard')
    if (own.length > 0) await round(name, own, adding(name))
    console.error(`round ${at + 1}: ${name}`)
  }
  if (rows.includes('guard')) await guard(adding('godwit-memory'))
}

const shown = [...new Set([...names, ...(rows.includes('guard') ? ['godwit-memory'] : [])])]
printHead(`medians of ${ROUNDS} rounds of ${COUNT} messages of 128 bytes; CPU us of the broker, messages/s`)
printRow(['', ...shown])
printRow(['---', ...shown.map(() => '---:')])
for (const [row, byName] of figures) {
  const cells = shown.map((name) => {
    const found = byName.get(name)
    if (found === undefined) return ''
    const p50 = median(found, ({ last }) => last.p50)
    const p99 = median(found, ({ last }) => last.p99)
    if (row.startsWith('latency')) return `${text(p50, 2)} ms, p99 ${text(p99, 2)} ms`
    const rate = Math.round(median(found, ({ perSecond }) => perSecond))
    const share = median(found, (figure) => figure.share)
    const more = share === undefined ? '' : `, share ${text(share, 2)}`
    return `${text(median(found, ({ us }) => us))} us, ${rate}/s${more}`
  })
  printRow([row, ...cells])
}
console.log('\nCPU us of the load for each message, beside it:')
for (const [row, byName] of figures) {
  const own = [...byName].filter(([, found]) => found[0].driverUs !== undefined)
  const parts = own.map(([name, found]) => `${name} ${text(median(found, ({ driverUs }) => driverUs))}`)
  if (parts.length > 0) console.log(`- ${row}: ${parts.join(', ')}`)
}
console.log('')
printRow(['target', 'figure', 'reached'])
printRow(['---', '---:', '---'])
for (const { target, figure, isReached } of judge((row, name, of) => {
  const found = figures.get(row)?.get(name)
  return found === undefined ? undefined : median(found, of)
})) {
  printRow([target, text(figure, 2), isReached ? 'yes' : 'no'])
}
