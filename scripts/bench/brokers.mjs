/** The brokers that are compared: each started on a free port of 127.0.0.1, in a directory of its own. */
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import mqtt from 'mqtt'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** Another build can be named, so that one can be measured while `dist` is in use. */
const MAIN = process.env.TEST_GODWIT_MAIN ?? join(ROOT, 'dist', 'main.js')

const AEDES = join(ROOT, 'scripts', 'bench', 'aedes.mjs')

/** No limit that would drop what a closed loop has under way; started by root, it would lose access to its directory. */
const MOSQUITTO = `allow_anonymous true\nmax_queued_messages 0\n${process.getuid?.() === 0 ? 'user root\n' : ''}`

/** Name, and how it is started. What names no port takes a free one and prints `listening on …`. */
const KINDS = {
  godwit: (directory) => godwit(directory, 'fsync'),
  'godwit-os': (directory) => godwit(directory, 'os'),
  'godwit-memory': (directory) => godwit(directory, 'memory'),
  mosquitto: (directory, port) => mosquitto(directory, port, 'persistence false'),
  // Saved every half hour and at the end (autosave_interval 1800): a crash in between loses what came since.
  'mosquitto-persistence': (directory, port) =>
    mosquitto(directory, port, `persistence true\npersistence_location ${directory}/`),
  // As safe as it gets: the whole database is written after each turn that changed it, and yet after the acknowledgement.
  'mosquitto-safest': (directory, port) =>
    mosquitto(
      directory,
      port,
      `persistence true\npersistence_location ${directory}/\nautosave_on_changes true\nautosave_interval 1`,
    ),
  aedes: () => ({ program: process.execPath, args: [AEDES] }),
  'aedes-level': (directory) => ({ program: process.execPath, args: [AEDES, join(directory, 'level')] }),
}

export const BROKER_NAMES = Object.keys(KINDS)

function godwit(directory, durability) {
  const data = ['--data', join(directory, 'data'), '--durability', durability]
  const rest = ['--port', '0', '--log-level', 'warn', '--set', 'sys.interval_seconds=1']
  return { program: process.execPath, args: [MAIN, ...rest, ...data] }
}

function mosquitto(directory, port, persistence) {
  const file = join(directory, 'mosquitto.conf')
  writeFileSync(file, `listener ${port} 127.0.0.1\n${MOSQUITTO}${persistence}\n`)
  return { program: 'mosquitto', args: ['-c', file], port }
}

/** A broker under way. */
export class Broker {
  #child
  #directory
  #sys = null

  constructor(name, child, directory, port) {
    this.name = name
    this.port = port
    this.#child = child
    this.#directory = directory
  }

  get pid() {
    return this.#child.pid
  }

  /**
   * Commits since its start; null for a broker that does not count them. Waits for figures that are newer than the
   * call: `$SYS/broker/uptime` changes every second, and the figures of the same second follow it.
   */
  async commits() {
    if (!this.name.startsWith('godwit')) return null
    this.#sys ??= await SysReader.connect(this.port)
    return this.#sys.commits()
  }

  async stop() {
    await this.#sys?.end()
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      const gone = new Promise((resolve) => this.#child.once('exit', resolve))
      this.#child.kill('SIGKILL')
      await gone
    }
    rmSync(this.#directory, { recursive: true, force: true })
  }
}

/** Starts a broker by its name; resolves when it listens. */
export async function startBroker(name) {
  const directory = mkdtempSync(join(tmpdir(), 'godwit-bench-'))
  const free = await freePort()
  const { program, args, port } = KINDS[name](directory, free)
  const environment = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` }
  const child = spawn(program, args, { env: environment, stdio: ['ignore', 'pipe', 'pipe'] })
  const listening = port === undefined ? printedPort(child) : answering(child, port)
  return new Broker(name, child, directory, await listening)
}

/** What is run, for the record. */
export function versions() {
  const first = (program, ...args) =>
    spawnSync(program, args, { encoding: 'utf8' }).stdout?.split('\n')[0] ?? ''
  const environment = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` }
  const help = spawnSync('mosquitto', ['-h'], { encoding: 'utf8', env: environment }).stdout ?? ''
  return {
    godwit: first(process.execPath, MAIN, '--version'),
    mosquitto: /version (\S+)/.exec(help)?.[1] ?? '',
    aedes: JSON.parse(
      spawnSync('npm', ['ls', 'aedes', '--json'], { cwd: ROOT, encoding: 'utf8' }).stdout || '{}',
    ).dependencies?.aedes?.version,
    node: process.version,
  }
}

/** Resolves with the port once it is printed; goes on reading, so that the program never waits for us. */
function printedPort(child) {
  return new Promise((resolve, reject) => {
    let text = ''
    child.stdout.setEncoding('utf8').on('data', (chunk) => {
      text = `${text}${chunk}`.slice(-10_000)
      const match = /listening on \S*?(\d+)$/m.exec(text)
      if (match !== null) resolve(Number(match[1]))
    })
    child.stderr.pipe(process.stderr)
    child.once('error', reject)
    child.once('exit', (code) => reject(new Error(`${child.spawnfile} ended with ${code}: ${text}`)))
  })
}

/** Resolves with the port once somebody answers there. */
async function answering(child, port) {
  let ended = null
  child.once('error', (error) => {
    ended = error.message
  })
  child.once('exit', (code) => {
    ended = `ended with ${code}`
  })
  child.stdout.resume()
  child.stderr.resume()
  while (ended === null) {
    if (await answers(port)) return port
    await setTimeout(20)
  }
  throw new Error(`${child.spawnfile}: ${ended}`)
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

function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address()
      server.close(() => resolve(port))
    })
  })
}

/** Follows Godwit's figures. */
class SysReader {
  #client
  #commits = 0
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
    // The first uptime may have been under way already; the second began after this call, and ends a whole update.
    for (let i = 0; i < 3; i++) await new Promise((resolve) => this.#waiting.push(resolve))
    return this.#commits
  }

  end() {
    return this.#client.endAsync(true)
  }
}
