/** Starts the brokers that are compared, each on free ports of 127.0.0.1 and in a directory of its own. */
import { spawn, spawnSync } from 'node:child_process'
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import mqtt from 'mqtt'

export const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** The variable can name another build, which can then be measured while `dist` is in use. */
const MAIN = process.env.TEST_GODWIT_MAIN ?? join(ROOT, 'dist', 'main.js')

/** The program of FlashMQ; undefined where it was not built. */
export const FLASHMQ = process.env.BENCH_FLASHMQ

const AEDES = join(ROOT, 'scripts', 'bench', 'aedes.mjs')

const CERTIFICATES = join(ROOT, 'test', 'fixtures', 'tls')

const BARE = join(ROOT, 'scripts', 'bench', 'bare.mjs')

/**
 * Mosquitto gets no limit that would drop messages of a closed loop, and logs no line for each client, as
 * Godwit does not either. Without `user root`, it would lose access to its directory when root starts it.
 */
const MOSQUITTO = `allow_anonymous true
max_queued_messages 0
log_type error
log_type warning
${process.getuid?.() === 0 ? 'user root\n' : ''}`

/** Debian installs mosquitto in a directory that a user's PATH often lacks. */
const ENVIRONMENT = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` }

/** How long a broker may take until it listens, on a busy machine, too. */
const START_MS_MAX = 60_000

/**
 * @typedef {object} Options
 * @property {number} sysSeconds how often Godwit publishes `$SYS`
 * @property {readonly string[]} [settings] keys and values of Godwit's configuration
 * @property {Record<string, string>} [users] passwords by name; without them everybody is let in
 *
 * @typedef {Record<string, number>} Ports by the scheme of their addresses
 *
 * @typedef {object} Command
 * @property {string} program
 * @property {string[]} args
 * @property {Ports} [ports] of a broker that does not print its ports, as it is told them
 */

/**
 * How each broker is started, by name, in a directory that has `cert.pem` and `key.pem`.
 *
 * @type {Record<string, (directory: string, options: Options) => Command | Promise<Command>>}
 */
const KINDS = {
  godwit: (directory, options) => godwit(directory, 'fsync', options),
  'godwit-os': (directory, options) => godwit(directory, 'os', options),
  'godwit-interval': (directory, options) => godwit(directory, 'interval', options),
  'godwit-memory': (directory, options) => godwit(directory, 'memory', options),
  mosquitto: (directory, options) => mosquitto(directory, 'persistence false', options),
  // By default the kernel joins small packets, which saves writes and costs latency. This one sends as Godwit
  // does.
  'mosquitto-nodelay': (directory) => mosquitto(directory, 'persistence false\nset_tcp_nodelay true'),
  // Saves every half hour (autosave_interval 1800) and at the end: a crash loses all that came since.
  'mosquitto-persistence': (directory) =>
    mosquitto(directory, `persistence true\npersistence_location ${directory}/`),
  // The safest setting: writes the whole database after each turn that changed it, though after the
  // acknowledgement.
  'mosquitto-safest': (directory) =>
    mosquitto(
      directory,
      `persistence true\npersistence_location ${directory}/\nautosave_on_changes true\nautosave_interval 1`,
    ),
  // Not packaged: built from its public source, and named by the environment variable BENCH_FLASHMQ.
  flashmq: (directory) => flashmq(directory),
  aedes: (directory) => aedes(directory),
  'aedes-level': (directory) => aedes(directory, '--level', join(directory, 'level')),
  // Not a broker, but the least that a relay costs on Node. Only for rows without persistent Sessions.
  'bare-node': () => ({ program: process.execPath, args: [BARE] }),
}

export const BROKER_NAMES = Object.keys(KINDS)

/**
 * Has a listener for each transport.
 *
 * @param {string} directory
 * @param {string} durability
 * @param {Options} options
 */
function godwit(directory, durability, { sysSeconds, users = {}, settings = [] }) {
  const tls = `{ cert: ${join(directory, 'cert.pem')}, key: ${join(directory, 'key.pem')} }`
  const listeners = [
    `{ name: mqtt, type: tcp, host: 127.0.0.1, port: 0 }`,
    `{ name: ws, type: ws, host: 127.0.0.1, port: 0, websocket_path: /mqtt }`,
    `{ name: mqtts, type: tls, host: 127.0.0.1, port: 0, tls: ${tls} }`,
    `{ name: wss, type: wss, host: 127.0.0.1, port: 0, websocket_path: /mqtt, tls: ${tls} }`,
  ]
  const file = join(directory, 'godwit.yaml')
  writeFileSync(file, `listeners:\n${listeners.map((line) => `  - ${line}\n`).join('')}`)
  const data = ['--data', join(directory, 'data'), '--durability', durability]
  const sets = [`sys.interval_seconds=${sysSeconds}`, ...settings].flatMap((setting) => ['--set', setting])
  const rest = ['--config', file, '--log-level', 'warn', ...sets]
  addUsers(join(directory, 'data'), users)
  return { program: process.execPath, args: [MAIN, ...rest, ...data] }
}

/**
 * Adds users to Godwit's accounts. Those with the same password get copies of one hash, since each call of
 * the program takes a second.
 *
 * @param {string} data
 * @param {Record<string, string>} users passwords by name
 */
function addUsers(data, users) {
  /** @type {Map<string, string>} */
  const firstWith = new Map()
  for (const [name, password] of Object.entries(users)) {
    if (firstWith.has(password)) continue
    firstWith.set(password, name)
    const add = [MAIN, 'user', 'add', name, '--data', data, '--password-file', '-']
    const { status, stderr } = spawnSync(process.execPath, add, { input: password, encoding: 'utf8' })
    if (status !== 0) throw new Error(`the user ${name} was not added: ${stderr}`)
  }
  const copied = Object.entries(users).filter(([name, password]) => firstWith.get(password) !== name)
  if (copied.length === 0) return
  const path = join(data, 'accounts.json')
  const accounts = JSON.parse(readFileSync(path, 'utf8'))
  for (const [name, password] of copied) {
    const first = accounts.users.find((user) => user.name === firstWith.get(password))
    accounts.users.push({ ...first, name, id: `id-${name}` })
  }
  writeFileSync(path, JSON.stringify(accounts))
}

/**
 * @param {string} directory
 * @param {string} persistence
 * @param {Partial<Options>} options
 */
async function mosquitto(directory, persistence, { users = {} } = {}) {
  const ports = {
    mqtt: await freePort(),
    ws: await freePort(),
    wss: await freePort(),
    mqtts: await freePort(),
  }
  const tls = `certfile ${join(directory, 'cert.pem')}\nkeyfile ${join(directory, 'key.pem')}\n`
  const listeners = [
    `listener ${ports.mqtt} 127.0.0.1\n`,
    `listener ${ports.ws} 127.0.0.1\nprotocol websockets\n`,
    `listener ${ports.wss} 127.0.0.1\nprotocol websockets\n${tls}`,
    `listener ${ports.mqtts} 127.0.0.1\n${tls}`,
  ]
  const file = join(directory, 'mosquitto.conf')
  const passwords = join(directory, 'passwords')
  for (const [name, password] of Object.entries(users)) {
    const words = [...(existsSync(passwords) ? ['-b'] : ['-b', '-c']), passwords, name, password]
    const { status, stderr } = spawnSync('mosquitto_passwd', words, { encoding: 'utf8', env: ENVIRONMENT })
    if (status !== 0) throw new Error(`the user ${name} was not added: ${stderr}`)
  }
  const who = existsSync(passwords)
    ? `${MOSQUITTO.replace('allow_anonymous true', 'allow_anonymous false')}password_file ${passwords}\n`
    : MOSQUITTO
  writeFileSync(file, `${who}${persistence}\n${listeners.join('')}`)
  return { program: 'mosquitto', args: ['-c', file], ports }
}

async function flashmq(directory) {
  if (FLASHMQ === undefined)
    throw new Error('FlashMQ is not packaged: build it, and name its program in BENCH_FLASHMQ')
  const ports = { mqtt: await freePort() }
  const file = join(directory, 'flashmq.conf')
  const listener = `protocol mqtt\n  inet_protocol ip4\n  inet4_bind_address 127.0.0.1\n  port ${ports.mqtt}`
  const rest = `thread_count 1\nallow_anonymous true\nlog_level warning\nstorage_dir ${directory}\n`
  writeFileSync(file, `listen {\n  ${listener}\n}\n${rest}`)
  return { program: FLASHMQ, args: ['--config-file', file], ports }
}

function aedes(directory, ...words) {
  const tls = ['--cert', join(directory, 'cert.pem'), '--key', join(directory, 'key.pem')]
  return { program: process.execPath, args: [AEDES, ...tls, ...words] }
}

/** A running broker. */
export class Broker {
  #child
  /** @type {SysReader | null} */
  #sys = null

  constructor(name, child, directory, ports, startMs) {
    this.name = name
    this.ports = ports
    /** Milliseconds from its start until it could be connected to. */
    this.startMs = startMs
    this.directory = directory
    this.#child = child
  }

  /** The port for MQTT over TCP. */
  get port() {
    return this.ports.mqtt
  }

  get pid() {
    return this.#child.pid
  }

  /**
   * Resolves with the number of commits since the start; null for a broker that does not count them. Waits
   * for figures that are newer than the call: `$SYS/broker/uptime` changes every second, and that second's
   * figures follow it.
   */
  async commits() {
    if (!this.name.startsWith('godwit')) return null
    this.#sys ??= await SysReader.connect(this.port)
    return this.#sys.commits()
  }

  /** Kills it and deletes its data. */
  async stop() {
    await this.#end('SIGKILL')
    rmSync(this.directory, { recursive: true, force: true })
  }

  /** Ends it with SIGTERM. Its data stay in `directory`, for `startBroker`. */
  close() {
    return this.#end('SIGTERM')
  }

  /** Kills it. Its data stay as they are, for `startBroker`. */
  kill() {
    return this.#end('SIGKILL')
  }

  signal(signal) {
    this.#child.kill(signal)
  }

  /** How it ended, as a signal or an exit code; null while it runs. */
  get ended() {
    return this.#child.signalCode ?? this.#child.exitCode
  }

  async #end(signal) {
    await this.#sys?.end()
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const gone = new Promise((resolve) => this.#child.once('exit', resolve))
    this.#child.kill(signal)
    await gone
  }
}

/**
 * Starts a broker by its name. Resolves when it listens.
 *
 * @param {string} name
 * @param {Partial<Options> & {
 *   directory?: string,
 *   preload?: string,
 *   environment?: Record<string, string>,
 *   nodeFlags?: readonly string[],
 * }} options `directory` is that of a broker that was closed; `preload` is a script that Node loads first,
 * and `environment` has variables for it
 */
export async function startBroker(
  name,
  {
    directory = newDirectory(),
    sysSeconds = 1,
    settings,
    users,
    preload,
    environment = {},
    nodeFlags = [],
  } = {},
) {
  const { program, args, ports } = await KINDS[name](directory, { sysSeconds, settings, users })
  const from = performance.now()
  const first = preload === undefined ? nodeFlags : [...nodeFlags, '--require', preload]
  const words = [...first, ...args]
  const env = { ...ENVIRONMENT, ...environment }
  const child = spawn(program, words, { env, stdio: ['ignore', 'pipe', 'pipe'] })
  const found = await (ports === undefined ? printedPorts(child) : answering(child, ports))
  return new Broker(name, child, directory, found, performance.now() - from)
}

/**
 * Makes the directory of a broker, with its certificate.
 *
 * @param {string} parent
 */
export function newDirectory(parent = tmpdir()) {
  const directory = mkdtempSync(join(parent, 'godwit-bench-'))
  copyFileSync(join(CERTIFICATES, 'server.pem'), join(directory, 'cert.pem'))
  copyFileSync(join(CERTIFICATES, 'server-key.pem'), join(directory, 'key.pem'))
  // Godwit refuses a key that others may read.
  chmodSync(join(directory, 'key.pem'), 0o600)
  return directory
}

/** Returns the versions of all that runs. */
export function versions() {
  const first = (program, ...args) =>
    spawnSync(program, args, { encoding: 'utf8' }).stdout?.split('\n')[0] ?? ''
  const help = spawnSync('mosquitto', ['-h'], { encoding: 'utf8', env: ENVIRONMENT }).stdout ?? ''
  return {
    godwit: first(process.execPath, MAIN, '--version'),
    mosquitto: /version (\S+)/.exec(help)?.[1] ?? '',
    aedes: JSON.parse(
      spawnSync('npm', ['ls', 'aedes', '--json'], { cwd: ROOT, encoding: 'utf8' }).stdout || '{}',
    ).dependencies?.aedes?.version,
    node: process.version,
  }
}

/** Resolves with the ports once all are printed. Goes on reading, so that the program never blocks. */
function printedPorts(child) {
  return new Promise((resolve, reject) => {
    let text = ''
    child.stdout.setEncoding('utf8').on('data', (chunk) => {
      text = `${text}${chunk}`.slice(-10_000)
      // Both brokers print their addresses first, and another line then.
      if (!/^(godwit try:|ready$)/m.test(text)) return
      const found = text.matchAll(/listening on (\w+):\/\/127\.0\.0\.1:(\d+)/g)
      resolve(Object.fromEntries([...found].map(([, scheme, port]) => [scheme, Number(port)])))
    })
    child.stderr.pipe(process.stderr)
    child.once('error', reject)
    child.once('exit', (code) => reject(new Error(`${child.spawnfile} ended with ${code}: ${text}`)))
  })
}

/** Resolves with the ports once the last of them answers. */
async function answering(child, ports) {
  /** @type {string | null} */
  let ended = null
  child.once('error', (error) => {
    ended = error.message
  })
  child.once('exit', (code) => {
    ended = `ended with ${code}`
  })
  child.stdout.resume()
  child.stderr.resume()
  const until = performance.now() + START_MS_MAX
  while (ended === null && performance.now() < until) {
    if (await answers(Object.values(ports).at(-1))) return ports
    await setTimeout(1)
  }
  throw new Error(`${child.spawnfile}: ${ended ?? 'nobody answers'}`)
}

function answers(port) {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
}

/** @returns {Promise<number>} */
function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = /** @type {import('node:net').AddressInfo} */ (server.address())
      server.close(() => resolve(port))
    })
  })
}

/** Follows the figures that Godwit publishes. */
class SysReader {
  #client
  #commits = 0
  /** @type {((value?: unknown) => void)[]} */
  #waiting = []

  static async connect(port) {
    const reader = new SysReader()
    reader.#client = await mqtt.connectAsync(`mqtt://127.0.0.1:${port}`, { keepalive: 0 })
    reader.#client.on('message', (topic, payload) => reader.#take(topic, String(payload)))
    await reader.#client.subscribeAsync(['$SYS/broker/uptime', '$SYS/broker/store/commits'])
    return reader
  }

  #take(topic, value) {
    if (topic.endsWith('/commits')) this.#commits = Number(value)
    else for (const waiting of this.#waiting.splice(0)) waiting()
  }

  async commits() {
    // The first uptime may have been sent before this call. The second was not, and ends a whole update.
    for (let i = 0; i < 3; i++) await new Promise((resolve) => this.#waiting.push(resolve))
    return this.#commits
  }

  end() {
    return this.#client.endAsync(true)
  }
}
