#!/usr/bin/env node
/**
 * The storm after a restart: a fleet with passwords comes back at once after `kill -9`, beside quiet pairs
 * that are connected already.
 *
 *   node scripts/fairness/storm.mjs [--clients 5000] [--chosen | --mixed] [--forgets] [--retries] [--tls]
 *                                   [--json] [--broker mosquitto | bare-node] [--main MAIN.JS]
 *
 * Users have passwords that Godwit generated; with `--chosen` passwords such as people choose (argon2id), and
 * with `--mixed` both in turn. The broker has a directory in memory, as under systemd, and so remembers who
 * logged in; with `--forgets` it has none, as after the machine was switched off. The fleet's process has
 * nice 10, since in the field it is thousands of other machines. Like MQTT.js, clients do not try again after
 * a refusal; with `--retries` they do, like paho. All limits have their defaults.
 *
 * `bare-node` is the relay of the benchmark: it reads no password, keeps no Session and lets everybody in at
 * once. What its pairs wait is what accepting so many sockets costs on Node's public interfaces.
 *
 * @typedef {object} StormOptions
 * @property {'godwit' | 'mosquitto' | 'bare-node'} [broker]
 * @property {number} [clients]
 * @property {'generated' | 'chosen' | 'mixed'} [passwords]
 * @property {boolean} [retries] clients try again after a refusal
 * @property {boolean} [tls]
 * @property {boolean} [remembers] the broker has a directory in memory, as under systemd
 * @property {readonly string[]} [settings] further `KEY=VALUE` of Godwit's configuration
 * @property {number} [pairs]
 * @property {number} [perSecond] messages of each pair
 * @property {number} [quietMs] how long the pairs are measured before the kill
 * @property {4 | 5} [version]
 * @property {string} [main]
 * @property {(text: string) => void} [log]
 *
 * @typedef {{ count: number, p50: number, p99: number, max: number }} Latency in milliseconds
 *
 * @typedef {Latency & { own: Latency }} PairsLatency `own` leaves out the time that the pairs and the broker
 * waited for a CPU
 *
 * @typedef {object} Storm
 * @property {string} broker
 * @property {number} clients
 * @property {string} passwords
 * @property {boolean} retries
 * @property {number} isIn clients that were let in
 * @property {number} attempts connections that were begun
 * @property {number} neverIn
 * @property {number} sessionsPresent
 * @property {number} refused
 * @property {Record<string, number>} refusals by Reason Code
 * @property {number} willsPublished
 * @property {number} halfMs when half of the clients were in
 * @property {number} lastMs when the last one was in
 * @property {number} cpuMs CPU time of the broker's main thread until then
 * @property {number} heldMs the longest time that the main thread ran without a pause
 * @property {PairsLatency} before
 * @property {PairsLatency} during
 */
import { execFileSync, fork, spawn } from 'node:child_process'
import { randomBytes, randomInt } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { constants, setPriority, tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const PAUSES = fileURLToPath(new URL('../bench/pauses.cjs', import.meta.url))
const BARE = fileURLToPath(new URL('../bench/bare.mjs', import.meta.url))
const CLIENTS = fileURLToPath(new URL('./storm-clients.mjs', import.meta.url))

const FLEET_NICE = 10

/** A storm that is ended by one of these leaves no process and no directory behind. */
const SIGNALS = /** @type {const} */ (['SIGINT', 'SIGTERM'])

/** @type {Required<StormOptions>} */
const DEFAULTS = {
  broker: 'godwit',
  clients: 5000,
  passwords: 'generated',
  retries: false,
  tls: false,
  remembers: true,
  settings: [],
  pairs: 50,
  perSecond: 5,
  quietMs: 8000,
  version: 4,
  main: join(ROOT, 'dist', 'main.js'),
  log: () => {},
}

/**
 * Runs the storm once.
 *
 * @param {StormOptions} [given]
 * @returns {Promise<Storm>}
 */
export async function storm(given = {}) {
  const options = { ...DEFAULTS, ...given }
  const { clients, passwords, retries, log } = options
  const directory = mkdtempSync(join(tmpdir(), 'godwit-storm-'))
  const runtime = options.remembers ? mkdtempSync(join('/dev/shm', 'godwit-storm-')) : null
  const data = join(directory, 'data')
  const fleet = new Clients()
  // The broker and the pairs do not wait for the fleet, whatever the broker.
  if (fleet.pid !== undefined) setPriority(fleet.pid, FLEET_NICE)
  const pairs = new Clients()
  /** @type {Broker | null} */
  let broker = null
  const remove = () => {
    for (const path of [directory, runtime]) if (path !== null) rmSync(path, { recursive: true, force: true })
  }
  /** @param {typeof SIGNALS[number]} signal */
  const interrupted = (signal) => {
    void Promise.all([fleet.kill(), pairs.kill(), broker?.kill()]).then(() => {
      remove()
      process.exit(128 + constants.signals[signal])
    })
  }
  for (const signal of SIGNALS) process.once(signal, interrupted)
  try {
    const users = makeUsers(options, data)
    const port = await freePort()
    const plainPort = options.tls ? await freePort() : port
    const ports = { port, plainPort }
    const place = { port, host: '127.0.0.1', tls: options.tls, version: options.version }
    broker = new Broker(options, data, ports, runtime)
    await broker.listening
    log(`${clients} clients connect for the first time`)
    await fleet.do('fleet', { ...place, users })
    await pairs.do('pairs', {
      ...place,
      tls: false,
      port: plainPort,
      count: options.pairs,
      perSecond: options.perSecond,
      users,
    })
    const first = await fleet.do('connect', { retries: true })
    if (first.isIn !== clients) throw new Error(`only ${first.isIn} clients came in at first`)
    log(`all in after ${(first.lastMs / 1000).toFixed(1)} s; the pairs are measured`)
    await sleep(1000)
    await pairs.do('watch', { pid: broker.pid })
    await pairs.do('measured')
    await sleep(options.quietMs)
    const before = await pairs.do('measured')
    await fleet.do('holdBack')
    log('kill -9')
    await broker.kill()
    broker = new Broker(options, data, ports, runtime)
    await broker.listening
    await pairs.do('allIn')
    await pairs.do('watch', { pid: broker.pid })
    await pairs.do('measured')
    const cpu = broker.cpuMs()
    await broker.heldMs()
    log('all clients come back')
    const back = await fleet.do('connect', { retries })
    const during = await pairs.do('measured')
    const cpuMs = broker.cpuMs() - cpu
    const heldMs = await broker.heldMs()
    // If a Will were published, it would arrive within a second.
    await sleep(1500)
    const { willsSeen } = await pairs.do('measured')
    const { refusals, ...rest } = back
    const refused = Object.values(refusals).reduce((sum, count) => sum + count, 0)
    const counts = { refused, refusals, willsPublished: willsSeen }
    const { broker: name } = options
    return { broker: name, clients, passwords, retries, ...rest, ...counts, cpuMs, heldMs, before, during }
  } finally {
    await Promise.all([fleet.end(), pairs.end(), broker?.kill()])
    for (const signal of SIGNALS) process.off(signal, interrupted)
    remove()
  }
}

/** Makes the users of the fleet in the accounts of the data directory. Returns them with their passwords. */
function makeUsers({ broker, clients, passwords, main }, data) {
  const names = Array.from({ length: clients }, (_, index) => `device-${index}`)
  if (broker === 'mosquitto') return usersOfMosquitto(names, data)
  if (broker === 'bare-node') {
    mkdirSync(data)
    return names.map((name) => ({ name, password: 'which nobody reads' }))
  }
  const godwit = (...words) =>
    execFileSync(process.execPath, [main, 'user', ...words, '--data', data], {
      encoding: 'utf8',
      input: `${names.join('\n')}\n`,
      stdio: ['pipe', 'pipe', 'ignore'],
      maxBuffer: 1 << 28,
    })
  const users = names.map((name) => ({ name, password: `chosen by ${name}` }))
  const isChosen = (index) => passwords === 'chosen' || (passwords === 'mixed' && index % 2 === 1)
  if (passwords !== 'chosen') {
    const lines = godwit('add', '--names', '-', '--generate').trimEnd().split('\n').slice(1)
    for (const [index, line] of lines.entries()) users[index].password = line.slice(line.indexOf(',') + 1)
  } else godwit('add', 'model', '--no-password')
  if (passwords === 'generated') return users
  // All chosen passwords are the same and hashed once: hashing thousands takes minutes, and checking costs
  // the same.
  const password = 'one that somebody chose'
  execFileSync(process.execPath, [main, 'user', 'add', 'hashed', '--password-file', '-', '--data', data], {
    input: `${password}\n`,
    stdio: ['pipe', 'ignore', 'ignore'],
  })
  const path = join(data, 'accounts.json')
  const accounts = JSON.parse(readFileSync(path, 'utf8'))
  const model = accounts.users.find(({ name }) => name === 'hashed')
  const byName = new Map(accounts.users.map((user) => [user.name, user]))
  for (const [index, user] of users.entries()) {
    if (!isChosen(index)) continue
    user.password = password
    const own = byName.get(user.name) ?? { id: `id-${index}` }
    byName.set(user.name, { ...model, name: user.name, id: own.id })
  }
  writeFileSync(path, JSON.stringify({ ...accounts, users: [...byName.values()] }))
  return users
}

/** Makes users as `mosquitto_passwd` stores them: PBKDF2 with few passes, which is its default. */
function usersOfMosquitto(names, data) {
  mkdirSync(data)
  const users = names.map((name) => ({ name, password: randomBytes(18).toString('base64url') }))
  const path = join(data, 'passwords')
  writeFileSync(path, users.map(({ name, password }) => `${name}:${password}\n`).join(''), { mode: 0o600 })
  execFileSync('mosquitto_passwd', ['-U', path], { stdio: 'ignore' })
  return users
}

class Broker {
  #child
  #isNode
  /** The file of `pauses.cjs`. */
  #pauses
  /**
   * Resolves when clients can connect; rejects if the broker ends before.
   *
   * @type {Promise<void>}
   */
  listening

  constructor(options, data, ports, runtime) {
    this.#isNode = options.broker !== 'mosquitto'
    this.#pauses = join(data, 'pauses.json')
    const [command, ...words] = this.#isNode
      ? nodeWords(options, data, ports)
      : ['mosquitto', '-c', mosquittoConfig(options, data, ports)]
    /** @type {NodeJS.ProcessEnv} */
    const environment = { ...process.env, BENCH_PAUSES_FILE: this.#pauses, XDG_RUNTIME_DIR: '' }
    if (runtime !== null) environment.RUNTIME_DIRECTORY = runtime
    const child = spawn(command, words, { env: environment, stdio: ['ignore', 'pipe', 'pipe'] })
    this.#child = child
    let output = ''
    this.listening = new Promise((resolve, reject) => {
      const read = (chunk) => {
        output = (output + chunk).slice(-10_000)
        if (/^godwit try:|^ready$|mosquitto version \S+ running/m.test(output)) resolve()
      }
      child.stdout.setEncoding('utf8').on('data', read)
      child.stderr.setEncoding('utf8').on('data', read)
      child.once('exit', (code) => reject(new Error(`the broker ended with ${code}:\n${output}`)))
    })
  }

  get pid() {
    return this.#child.pid
  }

  /** Returns the CPU time of its main thread, by the kernel's count. */
  cpuMs() {
    const { pid } = this.#child
    try {
      return Number(readFileSync(`/proc/${pid}/task/${pid}/schedstat`, 'utf8').split(' ')[0]) / 1e6
    } catch {
      return Number.NaN
    }
  }

  /**
   * Resolves with the longest time that the main thread ran without a pause since the last call; NaN if
   * unknown.
   */
  async heldMs() {
    if (!this.#isNode) return Number.NaN
    rmSync(this.#pauses, { force: true })
    this.#child.kill('SIGUSR2')
    while (!existsSync(this.#pauses) && this.#child.exitCode === null) await sleep(20)
    const { worst } = JSON.parse(readFileSync(this.#pauses, 'utf8'))
    return Math.max(0, ...worst.map(({ ranMs }) => ranMs))
  }

  kill() {
    return killed(this.#child)
  }
}

/**
 * Kills a process. Resolves when it has ended.
 *
 * @param {import('node:child_process').ChildProcess} child
 */
async function killed(child) {
  if (child.exitCode !== null || child.signalCode !== null) return
  const gone = new Promise((resolve) => child.once('exit', resolve))
  child.kill('SIGKILL')
  await gone
}

function nodeWords({ broker, main, tls, settings }, data, { port, plainPort }) {
  const node = [process.execPath, '--require', PAUSES]
  if (broker === 'bare-node') return [...node, BARE, `${port}`]
  const words = [...node, main, 'start', '--data', data]
  for (const setting of settings) words.push('--set', setting)
  if (!tls) return [...words, '--port', `${port}`]
  const path = join(data, 'storm.yaml')
  const { cert, key: fixture } = certificate()
  // Git does not keep the mode of the fixture, and Godwit refuses a key that others can read.
  const key = join(data, 'storm-key.pem')
  writeFileSync(key, readFileSync(fixture), { mode: 0o600 })
  const tlsPart = `tls: { cert: ${cert}, key: ${key} }`
  const secure = `{ name: tls, type: tls, host: 127.0.0.1, port: ${port}, ${tlsPart} }`
  const plain = `{ name: tcp, type: tcp, host: 127.0.0.1, port: ${plainPort} }`
  writeFileSync(path, `listeners:\n  - ${secure}\n  - ${plain}\n`)
  return [...words, '--config', path]
}

/** Makes Mosquitto save its state once a second and so lose what is newer. It can do no better. */
function mosquittoConfig({ tls }, data, { port, plainPort }) {
  const path = join(data, 'mosquitto.conf')
  const { cert, key } = certificate()
  const lines = [
    // Started by root, it would change to a user that may not read these files.
    `user ${userInfo().username}`,
    'allow_anonymous false',
    `password_file ${join(data, 'passwords')}`,
    'persistence true',
    `persistence_location ${data}/`,
    'autosave_interval 1',
    `listener ${port} 127.0.0.1`,
    ...(tls ? [`certfile ${cert}`, `keyfile ${key}`, `listener ${plainPort} 127.0.0.1`] : []),
  ]
  writeFileSync(path, `${lines.join('\n')}\n`)
  return path
}

function certificate() {
  const directory = join(ROOT, 'test', 'fixtures', 'tls')
  return { cert: join(directory, 'server.pem'), key: join(directory, 'server-key.pem') }
}

/** A process of clients. */
class Clients {
  #child = fork(CLIENTS, { stdio: 'inherit' })
  #next = 0
  /** The tasks under way, by number. */
  #waiting = new Map()

  get pid() {
    return this.#child.pid
  }

  constructor() {
    this.#child.on('message', (message) => {
      const { id, result, error } = /** @type {{ id: number, result?: unknown, error?: string }} */ (message)
      const { resolve, reject } = this.#waiting.get(id)
      this.#waiting.delete(id)
      if (error === undefined) resolve(result)
      else reject(new Error(error))
    })
  }

  do(task, options = {}) {
    const id = this.#next++
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject })
      this.#child.send({ id, task, options })
    })
  }

  kill() {
    return killed(this.#child)
  }

  async end() {
    if (!this.#child.connected) return
    const gone = new Promise((resolve) => this.#child.once('exit', resolve))
    this.#child.send({ id: -1, task: 'end' })
    this.#waiting.set(-1, { resolve() {}, reject() {} })
    await Promise.race([gone, sleep(3000)])
    this.#child.kill('SIGKILL')
  }
}

/**
 * Resolves with a free port below the range of outgoing connections, so that it is still free at the restart.
 */
async function freePort() {
  for (;;) {
    const port = randomInt(20_000, 32_000)
    const server = createServer()
    const isFree = await new Promise((resolve) => {
      server.once('error', () => resolve(false))
      server.listen(port, '127.0.0.1', () => resolve(true))
    })
    if (!isFree) continue
    await new Promise((resolve) => server.close(resolve))
    return port
  }
}

/**
 * Formats the outcome as lines of text.
 *
 * @param {Storm} seen
 */
export function stormText(seen) {
  const ms = (value) => (Number.isNaN(value) ? 'unknown' : `${value.toFixed(value < 10 ? 1 : 0)} ms`)
  const { clients, passwords, isIn, neverIn, refused, refusals, sessionsPresent, willsPublished } = seen
  const codes = Object.entries(refusals).map(
    ([code, count]) => `${count} with 0x${Number(code).toString(16)}`,
  )
  const figures = ({ p50, p99, max }) => `p50 ${ms(p50)}, p99 ${ms(p99)}, most ${ms(max)}`
  const pairs = (latency) => `${figures(latency)}; without waits for a CPU ${figures(latency.own)}`
  const seconds = (value) => `${(value / 1000).toFixed(1)} s`
  const reaction = seen.retries ? 'which try again after a refusal' : 'which never try again after a refusal'
  const entry = `${isIn}, half after ${seconds(seen.halfMs)}, the last after ${seconds(seen.lastMs)}`
  const reasons = codes.length === 0 ? '' : ` (${codes.join(', ')})`
  return [
    `${seen.broker}, ${clients} clients, passwords ${passwords}, ${reaction}`,
    `  in            ${entry}; ${sessionsPresent} found their Session; ${seen.attempts} connections begun`,
    `  refused       ${refused}${reasons}; ${neverIn} never came in`,
    `  Wills         ${willsPublished} published`,
    `  main thread   ${seconds(seen.cpuMs)} of CPU, at most ${ms(seen.heldMs)} without a pause`,
    `  pairs before  ${pairs(seen.before)}`,
    `  pairs during  ${pairs(seen.during)} (${seen.during.count} messages)`,
  ].join('\n')
}

/**
 * Runs the storms of `npm run bench:fairness` one after the other, and prints them.
 *
 * @param {StormOptions} [options]
 */
export async function printStorm(options = {}) {
  /** @type {StormOptions[]} */
  const variants = [
    { passwords: 'generated' },
    { passwords: 'generated', broker: 'mosquitto' },
    { passwords: 'generated', broker: 'bare-node' },
    { passwords: 'generated', tls: true },
    { passwords: 'chosen' },
    { passwords: 'chosen', remembers: false, clients: 500 },
    { passwords: 'mixed', retries: true },
  ]
  for (const variant of variants) console.log(stormText(await storm({ ...options, ...variant })))
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({
    options: {
      clients: { type: 'string' },
      chosen: { type: 'boolean', default: false },
      mixed: { type: 'boolean', default: false },
      retries: { type: 'boolean', default: false },
      tls: { type: 'boolean', default: false },
      forgets: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
      main: { type: 'string' },
      broker: { type: 'string', default: 'godwit' },
    },
  })
  const passwords = values.chosen ? 'chosen' : values.mixed ? 'mixed' : 'generated'
  const seen = await storm({
    broker: /** @type {StormOptions['broker']} */ (values.broker),
    passwords,
    retries: values.retries,
    tls: values.tls,
    remembers: !values.forgets,
    log: (text) => process.stderr.write(`${text}\n`),
    ...(values.clients !== undefined && { clients: Number(values.clients) }),
    ...(values.main !== undefined && { main: values.main }),
  })
  process.stdout.write(`${values.json ? JSON.stringify(seen) : stormText(seen)}\n`)
}
