/** What the fairness programs share: a broker with a fleet's and an attacker's user, the fleet, and what the broker used. */
import { fork } from 'node:child_process'
import { existsSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { startBroker } from '../bench/brokers.mjs'
import { pause } from './wire.mjs'

const FLEET = fileURLToPath(new URL('./fleet.mjs', import.meta.url))
const PRELOAD = fileURLToPath(new URL('../bench/pauses.cjs', import.meta.url))

/** Whose devices are to notice nothing; whose client does what is tried. */
export const FLEET_USER = { user: 'fleet', password: 'an ordinary password of the fleet' }
export const ATTACKER = { user: 'attacker', password: 'an ordinary password of somebody' }

/** How long the broker's process may take to write its figures. */
const ANSWER_MS_MAX = 20_000
const READY_MS_MAX = 120_000

/** Starts a broker that asks for passwords; its pauses are measured where it runs on Node. */
export async function startGuarded(name, { nodeFlags = [], settings = [] } = {}) {
  const users = { [FLEET_USER.user]: FLEET_USER.password, [ATTACKER.user]: ATTACKER.password }
  const isNode = !name.startsWith('mosquitto')
  const file = join(tmpdir(), `godwit-fairness-${process.pid}-${Math.random().toString(36).slice(2)}.json`)
  const observed = isNode && { preload: PRELOAD, environment: { BENCH_PAUSES_FILE: file } }
  const options = { sysSeconds: 10, users, settings, nodeFlags: isNode ? nodeFlags : [] }
  const broker = await startBroker(name, { ...options, ...observed })
  return { broker, pauses: isNode ? () => pauses(broker, file) : async () => null }
}

/** Kills it with `kill -9`, and starts it again on its data. */
export async function restartGuarded(broker, { nodeFlags = [], settings = [] } = {}) {
  await broker.kill()
  const { name, directory } = broker
  return await startBroker(name, { directory, sysSeconds: 10, settings, nodeFlags })
}

/** Node's words for a heap of so many MiB; none for that which Node chooses. */
export function heapFlags(mebibytes) {
  return mebibytes === undefined ? [] : [`--max-old-space-size=${mebibytes}`]
}

/** What held the event loop since the last call; null where the broker does not answer any more. */
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

/** The longest time that the main thread ran without a pause of the event loop, in ms of CPU. */
export function longestHold(figures) {
  return figures === null ? Number.NaN : Math.max(0, ...figures.worst.map(({ ranMs }) => ranMs))
}

/** Of a process, in MiB; its peak since the start where the kernel tells it. */
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
  #child

  static async start(port, devices, { user, password } = FLEET_USER) {
    const fleet = new Fleet()
    fleet.#child = fork(FLEET, [port, devices, user, password].map(String), { stdio: 'inherit' })
    const until = performance.now() + READY_MS_MAX
    while (performance.now() < until) {
      if ((await fleet.figures()).ready === devices) return fleet
      await pause(200)
    }
    throw new Error('the fleet could not connect')
  }

  /** What was since the last call. */
  figures() {
    return this.#ask('figures')
  }

  /** Drains, and ends; with what was lost. */
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
