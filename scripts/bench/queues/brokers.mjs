/**
 * Starts the brokers that are compared, on loopback only and in directories of their own. RabbitMQ and NATS
 * are left out where Debian's packages `rabbitmq-server` and `nats-server` are not installed.
 */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { startBroker } from '../brokers.mjs'

const RABBITMQ = '/usr/lib/rabbitmq/bin/rabbitmq-server'
const EPMD = '/usr/bin/epmd'
const NATS = ['/usr/sbin/nats-server', '/usr/bin/nats-server'].find((path) => existsSync(path))

/** How long a broker may take until it listens. */
const START_MS_MAX = 120_000

/**
 * @typedef {object} Peer
 * @property {string} name
 * @property {'mqtt' | 'amqp' | 'nats'} protocol
 * @property {string} kind of AMQP: `classic` or `quorum`
 * @property {number} port
 * @property {number} pid
 * @property {() => Promise<void>} stop
 */

export const NAMES = ['godwit', 'godwit-os', 'godwit-memory', 'rabbitmq-quorum', 'rabbitmq-classic', 'nats']

/** Returns why a broker cannot run here; null if it can. */
export function missing(name) {
  if (name.startsWith('rabbitmq') && !existsSync(RABBITMQ)) return 'rabbitmq-server is not installed'
  return name === 'nats' && NATS === undefined ? 'nats-server is not installed' : null
}

/** @returns {Promise<Peer>} */
export async function start(name, settings = []) {
  if (name === 'nats') return nats()
  if (name.startsWith('rabbitmq')) return rabbitmq(name)
  const broker = await startBroker(name, { sysSeconds: 3600, settings })
  const stop = () => broker.stop()
  return { name, protocol: 'mqtt', kind: '', port: broker.port, pid: broker.pid, stop }
}

async function nats() {
  const directory = mkdtempSync(join(tmpdir(), 'bench-nats-'))
  const port = await freePort()
  const words = ['-a', '127.0.0.1', '-p', `${port}`, '-js', '-sd', directory]
  const child = spawn(/** @type {string} */ (NATS), words, { stdio: 'ignore' })
  await listening(port, child)
  const stop = async () => {
    await ended(child, 'SIGKILL')
    rmSync(directory, { recursive: true, force: true })
  }
  return { name: 'nats', protocol: /** @type {const} */ ('nats'), kind: '', port, pid: pidOf(child), stop }
}

async function rabbitmq(name) {
  const directory = mkdtempSync(join(tmpdir(), 'bench-rabbitmq-'))
  const [port, dist, epmdPort] = [await freePort(), await freePort(), await freePort()]
  const loopback = { ...process.env, ERL_EPMD_ADDRESS: '127.0.0.1', ERL_EPMD_PORT: `${epmdPort}` }
  // Its own, in the foreground: the one that Erlang starts would stay.
  const epmd = spawn(EPMD, ['-address', '127.0.0.1', '-port', `${epmdPort}`], {
    stdio: 'ignore',
    env: loopback,
  })
  await listening(epmdPort, epmd)
  for (const part of ['home', 'data', 'log']) mkdirSync(join(directory, part))
  const plugins = join(directory, 'plugins')
  writeFileSync(plugins, '[].\n')
  const configuration = join(directory, 'rabbitmq.conf')
  writeFileSync(configuration, `listeners.tcp.1 = 127.0.0.1:${port}\nlog.console = false\n`)
  const child = spawn(RABBITMQ, [], {
    stdio: 'ignore',
    env: {
      ...loopback,
      HOME: join(directory, 'home'),
      RABBITMQ_NODENAME: `bench${port}@localhost`,
      RABBITMQ_DIST_PORT: `${dist}`,
      RABBITMQ_CONFIG_FILE: configuration,
      RABBITMQ_CONF_ENV_FILE: '/dev/null',
      RABBITMQ_ENABLED_PLUGINS_FILE: plugins,
      RABBITMQ_MNESIA_BASE: join(directory, 'data'),
      RABBITMQ_LOG_BASE: join(directory, 'log'),
      RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: '-kernel inet_dist_use_interface {127,0,0,1}',
    },
  })
  await listening(port, child)
  const pid = erlangOf(child)
  const stop = async () => {
    const end = new Promise((resolve) => child.once('exit', resolve))
    process.kill(pid, 'SIGKILL')
    await end
    await ended(epmd, 'SIGKILL')
    rmSync(directory, { recursive: true, force: true })
  }
  const kind = name === 'rabbitmq-quorum' ? 'quorum' : 'classic'
  return { name, protocol: /** @type {const} */ ('amqp'), kind, port, pid, stop }
}

function pidOf(child) {
  if (child.pid === undefined) throw new Error('it did not start')
  return child.pid
}

/** Finds the process of Erlang below the script that starts it. */
function erlangOf(child) {
  for (let pid = pidOf(child); ; ) {
    if (readFileSync(`/proc/${pid}/comm`, 'utf8').startsWith('beam')) return pid
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim()
    if (children === '') throw new Error('there is no process of Erlang')
    pid = Number(children.split(' ')[0])
  }
}

async function ended(child, signal) {
  if (child.exitCode !== null || child.signalCode !== null) return
  const end = new Promise((resolve) => child.once('exit', resolve))
  child.kill(signal)
  await end
}

/** @returns {Promise<number>} */
function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer().once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const { port } = /** @type {import('node:net').AddressInfo} */ (server.address())
      server.close(() => resolve(port))
    })
  })
}

async function listening(port, child) {
  for (const begin = performance.now(); performance.now() - begin < START_MS_MAX; await setTimeout(100)) {
    if (child.exitCode !== null) throw new Error(`it ended with ${child.exitCode}`)
    const isOpen = await new Promise((resolve) => {
      const socket = connect(port, '127.0.0.1', () => resolve(true)).once('error', () => resolve(false))
      socket.once('connect', () => socket.destroy())
    })
    if (isOpen) return
  }
  throw new Error(`nothing listens on port ${port}`)
}

/** CPU time of a process and its threads so far, in us. */
export function cpuUs(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ')
  return (Number(fields[11]) + Number(fields[12])) * 10_000
}

/** Anonymous memory of a process in bytes. */
export function anonymousBytes(pid) {
  const found = /^RssAnon:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))
  return Number(found?.[1]) * 1024
}
