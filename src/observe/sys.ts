/** Publishes the broker's metrics as retained `$SYS` messages under Mosquitto's names. */
import { readFileSync } from 'node:fs'
import type { Server } from '../broker/server.ts'
import { METRIC_ROWS } from './metrics.ts'
import type { Snapshot } from './snapshot.ts'

/** The periods of Mosquitto's load averages, in minutes. */
const LOAD_MINUTES = [1, 5, 15] as const

const VERSION = (
  JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }
).version

type Put = (name: string, value: string | number) => void

/**
 * Publishes `$SYS` every `intervalSeconds`; 0 or Infinity means never. Returns a function that stops it.
 */
export function attachSys(server: Server, snapshot: () => Snapshot, intervalSeconds: number): () => void {
  if (intervalSeconds === 0 || intervalSeconds === Number.POSITIVE_INFINITY) return () => {}
  const { state } = server
  const averages = new Map<string, number>()
  const published = new Map<string, string>()
  // Counts answered CONNECT packets; `sockets` also counts connections without a CONNECT.
  let connections = 0
  const count = (): void => {
    connections++
  }
  const detach = [state.events.on('connected', count), state.events.on('refused', count)]
  const put = (name: string, value: string | number): void => {
    const text = String(value)
    // Like Mosquitto, publish only changed values.
    if (published.get(name) === text) return
    published.set(name, text)
    server.publishOwn(`$SYS/broker/${name}`, Buffer.from(text))
  }
  let before: Record<string, number> | null = null
  const tell = (): void => {
    const moment = snapshot()
    put('uptime', `${moment.uptimeSeconds} seconds`)
    putMetrics(moment, put)
    putLargest(server, put)
    const now = { ...loadCounters(moment), connections }
    putLoad(before ?? now, now, averages, intervalSeconds, put)
    before = now
  }
  put('version', `godwit version ${VERSION}`)
  tell()
  const timer = setInterval(tell, intervalSeconds * 1000)
  return () => {
    clearInterval(timer)
    for (const off of detach) off()
  }
}

function putMetrics(moment: Snapshot, put: Put): void {
  for (const [name, metric] of METRIC_ROWS) {
    if (metric.kind === 'histogram' || metric.sys === undefined) continue
    if (!('label' in metric)) {
      const value = moment[name] as number | null
      for (const topic of metric.sys) put(topic, value ?? 'unlimited')
      continue
    }
    for (const [label, value] of Object.entries(moment[name] as Readonly<Record<string, number>>)) {
      if (value > 0 || metric.kind === 'gauge') put(metric.sys(label), value)
    }
  }
}

/**
 * Publishes the client and the user with most memory. Finding them takes a pass, so only when memory matters.
 */
function putLargest({ state: { usage, limits } }: Server, put: Put): void {
  if (usage.bytes <= limits.memoryBytesMax / 2) return
  for (const kind of ['client', 'user'] as const) {
    const [largest] = usage.largest(kind, 1)
    if (largest !== undefined) put(`memory/largest/${kind}`, `${largest.bytes} ${largest.name}`)
  }
}

/** Returns the counters whose rates are published, by their names under `$SYS/broker/load/`. */
function loadCounters(moment: Snapshot): Record<string, number> {
  const found: Record<string, number> = {}
  for (const [name, metric] of METRIC_ROWS) {
    if ('load' in metric && metric.load !== undefined) found[metric.load] = moment[name] as number
  }
  return found
}

/** Publishes exponentially weighted rates per minute over 1, 5 and 15 minutes. */
function putLoad(
  before: Record<string, number>,
  now: Record<string, number>,
  averages: Map<string, number>,
  intervalSeconds: number,
  put: Put,
): void {
  for (const [name, value] of Object.entries(now)) {
    const perMinute = ((value - before[name]!) / intervalSeconds) * 60
    for (const minutes of LOAD_MINUTES) {
      const key = `load/${name}/${minutes}min`
      const decay = Math.exp(-intervalSeconds / (minutes * 60))
      const average = perMinute + decay * ((averages.get(key) ?? 0) - perMinute)
      averages.set(key, average)
      put(key, average.toFixed(2))
    }
  }
}
