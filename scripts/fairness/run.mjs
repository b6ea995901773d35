/**
 * Starts a broker with users for a fleet and for an attacker, starts the fleet, and measures what the broker
 * uses.
 */
import { fork } from 'node:child_process'
import { existsSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { startBroker } from '../bench/brokers.mjs'
import { USERS_AT_LOG_IN } from './attacks.mjs'
import { pause } from './wire.mjs'

const FLEET = fileURLToPath(new URL('./fleet.mjs', import.meta.url))
const PRELOAD = fileURLToPath(new URL('../bench/pauses.cjs', import.meta.url))

/** The user of the devices, which are to notice nothing, and the user of the attacker. */
export const FLEET_USER = { user: 'fleet', password: 'an ordinary password of the fleet' }
export const ATTACKER = { user: 'attacker', password: 'an ordinary password of somebody' }

/** How long the broker's process may take to write its figures. */
const ANSWER_MS_MAX = 20_000
const READY_MS_MAX = 120_000

/**
 * Starts a broker that asks for passwords. Measures its pauses if it runs on Node.
 *
 * @param {string} name
 * @param {{ nodeFlags?: readonly string[], settings?: readonly string[] }} [options]
 */
export async function startGuarded(name, { nodeFlags = [], settings = [] } = {}) {
  const names = [ATTACKER.user, ...USERS_AT_LOG_IN]
  const users = Object.fromEntries(names.map((user) => [user, ATTACKER.password]))
  users[FLEET_USER.user] = FLEET_USER.password
  const isNode = !name.startsWith('mosquitto')
  const file = join(tmpdir(), `godwit-fairness-${process.pid}-${Math.random().toString(36).slice(2)}.json`)
  const observed = isNode && { preload: PRELOAD, environment: { BENCH_PAUSES_FILE: file } }
  const options = { sysSeconds: 10, users, settings, nodeFlags: isNode ? nodeFlags : [] }
  const broker = await startBroker(name, { ...options, ...observed })
  return { broker, pauses: isNode ? () => pauses(broker, file) : async () => null }
}

/**
 * Kills a broker with `kill -9` and starts it again on its data.
 *
 * @param {import('../bench/brokers.mjs').Broker} broker
 * @param {{ nodeFlags?: readonly string[], settings?: readonly string[] }} [options]
 */
export async function restartGuarded(broker, { nodeFlags = [], settings = [] } = {}) {
  await broker.kill()
  const { name, directory } = broker
  return await startBroker(name, { directory, sysSeconds: 10, settings, nodeFlags })
}

/**
 * Returns Node's flags for a heap of so many MiB; none if Node is to choose.
 *
 * @param {string | undefined} mebibytes
 */
export function heapFlags(mebibytes) {
  return mebibytes === undefined ? [] : [`--max-old-space-size=${mebibytes}`]
}

/**
 * Resolves with what held the event loop since the last call; with null if the broker does not answer any
 * more.
 */
async function pauses(broker, file) {
  rmSync(file, { force: true })
  broker.signal('SIGUSR2')
  const until = performance.now() + ANSWER_MS_MAX
  while (!existsSync(file)) {
    if (broker.ended !== null || performance.now() > until) return null
    await pause(20)
  }
  const figures = JSON.parse(readFileSync(file, 'utf8'))
  rmSync(file, { force: true })
  return figures
}

/** Returns the longest time that the main thread ran without a pause of the event loop, in ms of CPU time. */
export function longestHold(figures) {
  return figures === null ? Number.NaN : Math.max(0, ...figures.worst.map(({ ranMs }) => ranMs))
}

/** Returns the memory of a process and its peak since the start, in MiB; NaN if it has ended. */
export function memory(pid) {
  try {
    const text = readFileSync(`/proc/${pid}/status`, 'utf8')
    const of = (field) => Number(new RegExp(`${field}:\\s+(\\d+)`).exec(text)?.[1] ?? Number.NaN) / 1024
    return { rssMiB: of('VmRSS'), peakMiB: of('VmHWM') }
  } catch {
    return { rssMiB: Number.NaN, peakMiB: Number.NaN }
  }
}

/** The fleet's process. */
export class Fleet {
  /** @type {import('node:child_process').ChildProcess} */
  #child

  /**
   * @param {import('node:child_process').ChildProcess} child
   */
  constructor(child) {
    this.#child = child
  }

  static async start(port, devices, { user, password } = FLEET_USER) {
    const fleet = new Fleet(fork(FLEET, [port, devices, user, password].map(String), { stdio: 'inherit' }))
    const until = performance.now() + READY_MS_MAX
    while (performance.now() < until) {
      if ((await fleet.figures()).ready === devices) return fleet
      await pause(200)
    }
    throw new Error('the fleet could not connect')
  }

  /** Resolves with the figures since the last call. */
  figures() {
    return this.#ask('figures')
  }

  /** Drains and ends. Resolves with the last figures and what was lost. */
  end() {
    return this.#ask('end')
  }

  #ask(word) {
    return new Promise((resolve) => {
      this.#child.once('message', resolve)
      this.#child.send(word)
    })
  }
}
