/** The broker that is tested: any program that can be started on a port and a data directory. */
import { spawn } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
/** The build of Godwit. */
export const GODWIT_MAIN = join(ROOT, 'dist', 'main.js')

const OUTPUT_MAX = 1500

/** The Wills of clients of a killed broker are published one second after its next start. */
const GODWIT_WORDS = ['--log-level', 'warn', '--set', 'limits.will_grace_seconds=1']

/** How each broker is started, and how much of the standard it has. */
const KINDS = {
  godwit: { command: godwit, backup, restore, versions: [4, 5], shared: true },
  mosquitto: { command: mosquitto('autosave_interval 1'), versions: [4, 5], shared: true },
  // Saves the whole state after every change.
  'mosquitto-safest': {
    command: mosquitto('autosave_interval 1\nautosave_on_changes true'),
    versions: [4, 5],
    shared: true,
  },
  aedes: {
    command: ({ port, data }) => [
      process.execPath,
      join(ROOT, 'scripts', 'crash', 'aedes.mjs'),
      `${port}`,
      data,
    ],
    versions: [4],
    shared: false,
  },
}

export const BROKER_NAMES = Object.keys(KINDS)

/**
 * Returns the kind of broker that a name stands for; the name may be a command with `{port}` and `{data}` in
 * it. `settings` are for Godwit.
 *
 * @param {string} name
 * @param {{ main?: string, durability?: string, words?: readonly string[] }} settings `main` is its main.js,
 * `words` are more of its command line
 */
export function brokerKind(name, settings = {}) {
  const kind = KINDS[name]
  if (kind !== undefined) {
    const withSettings = (command) => command && ((place) => command({ ...place, ...settings }))
    const { command, backup, restore } = kind
    return {
      ...kind,
      name,
      command: withSettings(command),
      backup: withSettings(backup),
      restore: withSettings(restore),
    }
  }
  if (!name.includes('{port}')) {
    throw new Error(`'${name}' is none of ${BROKER_NAMES.join(', ')}, and no command with {port} and {data}`)
  }
  const words = name.split(/\s+/)
  const command = ({ port, data }) =>
    words.map((word) => word.replaceAll('{port}', `${port}`).replaceAll('{data}', data))
  return { name, versions: [4, 5], shared: true, command }
}

function godwit({ port, data, durability = 'fsync', main = GODWIT_MAIN, words = [] }) {
  const place = ['--port', `${port}`, '--data', data, '--durability', durability]
  return [process.execPath, main, ...place, ...GODWIT_WORDS, ...words]
}

function backup({ data, target, main = GODWIT_MAIN }) {
  return [process.execPath, main, 'backup', target, '--data', data]
}

function restore({ data, source, main = GODWIT_MAIN }) {
  return [process.execPath, main, 'restore', source, '--data', data]
}

function mosquitto(saving) {
  return ({ port, data }) => {
    mkdirSync(data, { recursive: true })
    const file = join(data, 'mosquitto.conf')
    // With its default of 1,000 queued messages it would drop some, and that would count as loss.
    const limits = 'max_queued_messages 0\nallow_anonymous true\nuser root'
    const persistence = `persistence true\npersistence_location ${data}/\n${saving}`
    writeFileSync(file, `listener ${port} 127.0.0.1\n${limits}\n${persistence}\n`)
    return ['mosquitto', '-c', file]
  }
}

/** The processes of a broker that is started again and again, on one port and one directory. */
export class BrokerProcess {
  port
  data
  #kind
  #environment
  /** @type {import('node:child_process').ChildProcess | null} */
  #child = null
  #exit = Promise.resolve()
  #output = ''
  #expected = true
  #died

  /**
   * `environment()` returns further variables for each start. `died(text)` is called when the broker ends
   * without having been killed.
   */
  constructor({ kind, port, data, environment = () => ({}), died }) {
    this.#kind = kind
    this.port = port
    this.data = data
    this.#environment = environment
    this.#died = died
  }

  get pid() {
    return this.#child?.pid
  }

  get running() {
    return this.#child !== null
  }

  /** The end of its output. */
  get output() {
    return this.#output
  }

  /** Resolves when the process that was started last has ended. */
  get exited() {
    return this.#exit
  }

  start() {
    const [program, ...args] = this.#kind.command({ port: this.port, data: this.data })
    const environment = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin`, ...this.#environment() }
    const child = spawn(program, args, { env: environment, stdio: ['ignore', 'pipe', 'pipe'] })
    this.#child = child
    this.#expected = false
    const take = (chunk) => {
      this.#output = `${this.#output}${chunk}`.slice(-OUTPUT_MAX)
    }
    child.stdout.setEncoding('utf8').on('data', take)
    child.stderr.setEncoding('utf8').on('data', take)
    this.#exit = new Promise((resolve) => {
      const gone = (how) => {
        if (this.#child !== child) return
        this.#child = null
        if (!this.#expected) this.#died(`${how}\n${this.#output}`)
        resolve()
      }
      child.on('error', (error) => gone(error.message))
      child.on('close', (code, signal) => gone(`it ended with ${code ?? signal}`))
    })
  }

  /**
   * Resolves when the process has ended.
   *
   * @param {NodeJS.Signals} signal
   */
  async kill(signal = 'SIGKILL') {
    this.#expected = true
    this.#child?.kill(signal)
    await this.#exit
  }
}

/**
 * Resolves with a free port of 127.0.0.1 below the range of outgoing connections, so that it is still free at
 * a restart.
 */
export async function freePort(random) {
  for (;;) {
    const port = random.between(20_000, 32_000)
    if (!(await answers(port)) && (await canListen(port))) return port
  }
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

function canListen(port) {
  return new Promise((resolve) => {
    const server = createServer()
    server.once('error', () => resolve(false))
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
  })
}
