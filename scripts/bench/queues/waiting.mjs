/**
 * `npm run bench:waiting`: many messages wait in one queue, then 100 consumers drain it, while the broker and
 * consumers are killed.
 *
 *   --count N      messages of 128 bytes (10000000)
 *   --kills N      kills of the broker at random moments, a tenth of the consumers with each (20)
 *   --seed N       of these moments
 *   --counts-only  judges neither times nor memory
 *
 * Ends with 1 if a message is missing, came twice without a kill in between, or a bound is exceeded.
 */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { newDirectory, ROOT, startBroker } from '../brokers.mjs'
import { anonymousBytes } from './brokers.mjs'
import { MqttClient } from './wire.mjs'

const LOAD = fileURLToPath(new URL('load.mjs', import.meta.url))
const MAIN = process.env.TEST_GODWIT_MAIN ?? join(ROOT, 'dist', 'main.js')
const MIB = 1024 * 1024
const CONSUMERS = 100
const KILLED_CONSUMERS = 10

/** Bounds of the specification. */
const MEMORY_MAX = 24 * MIB
const START_MS_MAX = 300
const FIRST_MS_MAX = 50
const FILES_MAX = 64 * MIB
const FILES_MS_MAX = 60_000

const { values } = parseArgs({
  options: {
    count: { type: 'string', default: '10000000' },
    kills: { type: 'string', default: '20' },
    seed: { type: 'string', default: `${Date.now() % 100_000}` },
    'counts-only': { type: 'boolean', default: false },
  },
})
const COUNT = Number(values.count)
const KILLS = Number(values.kills)

const faults = []

function told(what, isRight = true) {
  console.log(`${isRight ? ' ' : '!'} ${what}`)
  if (!isRight) faults.push(what)
}

function bounded(what, value, max, unit) {
  const isRight = values['counts-only'] || value <= max
  told(`${what}: ${value.toFixed(1)} ${unit}, at most ${max} ${unit}`, isRight)
}

/** A small generator of random numbers from 0 to 1, so that a run can be repeated. */
function randomOf(seed) {
  let state = seed
  return () => {
    state = (state * 1_103_515_245 + 12_345) % 2_147_483_648
    return state / 2_147_483_648
  }
}

const directory = newDirectory()

/** Room for all messages. */
const SETTINGS = ['queues.defaults.bytes_max=16GiB']

/** @type {import('../brokers.mjs').Broker | null} */
let running = null

// After a fault, too, nothing is left behind.
process.on('exit', () => {
  running?.signal('SIGKILL')
  rmSync(directory, { recursive: true, force: true })
})

async function start() {
  running = await startBroker('godwit', { directory, sysSeconds: 3600, settings: SETTINGS })
  return running
}

/** Starts the broker and lets it come to rest. */
async function started() {
  const broker = await start()
  await setTimeout(values['counts-only'] ? 0 : 2000)
  return { broker, startMs: broker.startMs, anonymous: anonymousBytes(broker.pid) }
}

function bytesOf(path) {
  const sizes = readdirSync(path, { withFileTypes: true }).map((entry) => {
    const inside = join(path, entry.name)
    if (entry.isDirectory()) return bytesOf(inside)
    return entry.isFile() ? statSync(inside, { throwIfNoEntry: false })?.size : 0
  })
  return sizes.reduce((sum, size) => sum + (size ?? 0), 0)
}

function shown() {
  const words = ['queue', 'show', 'waiting', '--json', '--data', join(directory, 'data')]
  const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN, ...words], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`queue show: ${stderr}`)
  return JSON.parse(stdout)
}

async function fill(port) {
  const run = { protocol: 'mqtt', what: 'publish', port, queue: 'waiting', clients: 1, count: COUNT }
  const words = [LOAD, JSON.stringify({ ...run, window: 5000, isNumbered: true, prefetch: '100' })]
  const child = spawn(process.execPath, words, { stdio: ['ignore', 'ignore', 'inherit'] })
  const [code] = await once(child, 'exit')
  if (code !== 0) throw new Error(`the load ended with ${code}`)
}

/** The messages that came, by number, and when: the count of kills before each. */
class Received {
  #lives = new Uint8Array(COUNT).fill(255)
  life = 0
  different = 0
  repeated = 0
  /** Came twice with the broker running all the time, to consumers that were not killed. */
  doubled = 0

  take(number) {
    const before = this.#lives[number]
    if (before === 255) this.different++
    else if (before < this.life) this.repeated++
    else this.doubled++
    this.#lives[number] = this.life
  }
}

/** Consumes with so many clients until the broker is gone or `isOver`. */
async function consumers(port, received, count) {
  const clients = []
  for (let number = 0; number < count; number++) {
    const filter = '$queue/waiting;prefetch=PREFETCH/#'
    const client = await MqttClient.open(port, `c${received.life}-${number}`, () => '', filter)
    client.socket.on('error', () => {})
    client.onMessage = (body, packetId) => {
      received.take(Number(body.readBigUInt64BE()))
      client.done(packetId)
    }
    clients.push(client)
  }
  await Promise.all(clients.map((client) => client.consume('100')))
  return clients
}

const random = randomOf(Number(values.seed))
console.log(`${COUNT} messages, ${KILLS} kills, --seed ${values.seed}`)
const empty = await started()
await fill(empty.broker.port)
const { messages } = shown()
told(`${messages} messages wait`, messages === COUNT)
told(`RssAnon after filling: ${(anonymousBytes(empty.broker.pid) / MIB).toFixed(1)} MiB`)
await empty.broker.close()

const full = await started()
bounded('RssAnon above an empty broker', (full.anonymous - empty.anonymous) / MIB, MEMORY_MAX / MIB, 'MiB')
bounded('start above an empty broker', full.startMs - empty.startMs, START_MS_MAX, 'ms')

const received = new Received()
let { broker } = full
const first = await MqttClient.open(broker.port, 'first', () => '', '$queue/waiting;prefetch=PREFETCH/#')
let order = 0
let isOrdered = true
const firstAt = new Promise((resolve) => {
  first.onMessage = (body, packetId) => {
    if (order === 0) resolve(performance.now())
    const number = Number(body.readBigUInt64BE())
    isOrdered &&= number === order++
    received.take(number)
    first.done(packetId)
  }
})
await first.consume('100')
const subscribedAt = performance.now()
bounded('first message after SUBACK', (await firstAt) - subscribedAt, FIRST_MS_MAX, 'ms')
while (order < COUNT / 100) await setTimeout(10)
const closed = once(first.socket, 'close')
first.socket.destroy()
await closed
told(`one consumer got ${order} messages in order`, isOrdered)
// It was killed with messages in its hands.
received.life++

const begin = performance.now()
for (let kill = 0; kill <= KILLS; kill++) {
  const clients = await consumers(broker.port, received, CONSUMERS)
  const from = received.different
  const until = from + Math.ceil((random() * 2 * (COUNT - from)) / (KILLS - kill + 1))
  if (kill === KILLS) {
    while (shown().messages > 0) await setTimeout(100)
    for (const client of clients) client.close()
    break
  }
  while (received.different < until && received.different < COUNT) await setTimeout(1)
  received.life++
  for (const client of clients.slice(0, KILLED_CONSUMERS)) client.socket.destroy()
  await broker.kill()
  for (const client of clients) client.socket.destroy()
  // The last ones of the broker that was killed came after that.
  received.life++
  broker = await start()
}
const seconds = (performance.now() - begin) / 1000
told(`${received.different} different messages came`, received.different === COUNT)
told(`${received.repeated} came again after a kill`)
told(`${received.doubled} came twice without a kill`, received.doubled === 0)
told(`drained in ${seconds.toFixed(1)} s with ${KILLS} kills`)

let files = bytesOf(join(directory, 'data'))
for (const end = performance.now() + FILES_MS_MAX; files > FILES_MAX && performance.now() < end; ) {
  await setTimeout(500)
  files = bytesOf(join(directory, 'data'))
}
bounded('files of the store', files / MIB, FILES_MAX / MIB, 'MiB')
await broker.stop()
if (faults.length > 0) process.exitCode = 1
