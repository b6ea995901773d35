/** Publishes the broker's counters as retained `$SYS` messages under Mosquitto's names. */
import { readFileSync } from 'node:fs'
import { configKey } from '../broker/boundary/limit-row.ts'
import type { Server } from '../broker/server.ts'
import type { ServerState } from '../broker/state/server-state.ts'
import type { Store } from '../store/store.ts'

/** The current numbers of objects for `$SYS`; see `Census`. */
export interface SysCensus {
  readonly sessions: number
  readonly subscriptions: number
  readonly sharedSubscriptions: number
  readonly retainedMessages: number
  readonly queuedMessages: number
  readonly inFlightMessages: number
}

/** The periods of Mosquitto's load averages, in minutes. */
const LOAD_MINUTES = [1, 5, 15] as const

const KIB = 1024

const VERSION = (
  JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }
).version

/** Returns the counters whose rates are published, by their names under `$SYS/broker/load/`. */
function loadCounters({ counters }: ServerState, connections: number): Record<string, number> {
  return {
    'messages/received': counters.packetsReceived,
    'messages/sent': counters.packetsSent,
    'publish/received': counters.publishReceived,
    'publish/sent': counters.publishSent,
    'publish/dropped': counters.publishDropped,
    'bytes/received': counters.bytesReceived,
    'bytes/sent': counters.bytesSent,
    connections,
    sockets: counters.connectionsAccepted,
  }
}

/** A name below `$SYS/broker/` and its value. */
export type SysValue = readonly [name: string, value: string | number]

/**
 * Publishes `$SYS` and the values of `more` every `intervalSeconds`; 0 or Infinity means never. Returns a
 * function that stops it.
 */
export function attachSys(
  server: Server,
  store: Store,
  census: () => SysCensus,
  intervalSeconds: number,
  more: () => readonly SysValue[] = () => [],
): () => void {
  if (intervalSeconds === 0 || intervalSeconds === Number.POSITIVE_INFINITY) return () => {}
  const { state } = server
  const started = performance.now()
  const averages = new Map<string, number>()
  const published = new Map<string, string>()
  // Counts answered CONNECT packets; `sockets` also counts connections without a CONNECT.
  let connections = 0
  const count = (): void => {
    connections++
  }
  const detach = [state.events.on('connected', count), state.events.on('refused', count)]
  let before = loadCounters(state, connections)
  const put = (name: string, value: string | number): void => {
    const text = String(value)
    // Like Mosquitto, publish only changed values.
    if (published.get(name) === text) return
    published.set(name, text)
    server.publishOwn(`$SYS/broker/${name}`, Buffer.from(text))
  }
  const tell = (): void => {
    const now = loadCounters(state, connections)
    tellMoment(server, store, census(), started, put)
    for (const [name, value] of more()) put(name, value)
    tellLoad(before, now, averages, intervalSeconds, put)
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

type Put = (name: string, value: string | number) => void

function tellMoment(server: Server, store: Store, census: SysCensus, started: number, put: Put): void {
  const { counters } = server.state
  put('uptime', `${Math.floor((performance.now() - started) / 1000)} seconds`)
  put('clients/total', census.sessions)
  put('clients/connected', counters.clientsConnected)
  put('clients/active', counters.clientsConnected)
  put('clients/disconnected', Math.max(0, census.sessions - counters.clientsConnected))
  put('clients/inactive', Math.max(0, census.sessions - counters.clientsConnected))
  put('clients/maximum', counters.clientsMaximum)
  put('clients/expired', counters.clientsExpired)
  put('messages/received', counters.packetsReceived)
  put('messages/sent', counters.packetsSent)
  put('publish/messages/received', counters.publishReceived)
  put('publish/messages/sent', counters.publishSent)
  put('publish/messages/dropped', counters.publishDropped)
  put('publish/bytes/received', counters.publishBytesReceived)
  put('publish/bytes/sent', counters.publishBytesSent)
  put('bytes/received', counters.bytesReceived)
  put('bytes/sent', counters.bytesSent)
  put('retained messages/count', census.retainedMessages)
  put('subscriptions/count', census.subscriptions)
  put('shared_subscriptions/count', census.sharedSubscriptions)
  // A message counts once for each Session in which it waits.
  const stored = census.retainedMessages + census.queuedMessages + census.inFlightMessages
  put('store/messages/count', stored)
  put('messages/stored', stored)
  put('store/messages/bytes', store.figures.storedBytes)
  put('store/commits', store.figures.commits)
  for (const [rule, count] of Object.entries(counters.forgiven)) if (count > 0) put(`forgiven/${rule}`, count)
  for (const [limit, count] of Object.entries(counters.limits)) {
    if (count > 0) put(`limits/refused/${configKey(limit)}`, count)
  }
  for (const [step, count] of Object.entries(counters.relief)) if (count > 0) put(`relief/${step}`, count)
  // `memory` is that for clients. `heap` is the whole process, unlike Mosquitto's own allocations.
  const { usage, limits } = server.state
  put('memory/bytes', usage.bytes)
  put('memory/maximum', Number.isFinite(limits.memoryBytesMax) ? limits.memoryBytesMax : 'unlimited')
  // Finding the largest takes a pass over all clients, so it is done only when memory matters.
  if (usage.bytes > limits.memoryBytesMax / 2) {
    for (const kind of ['client', 'user'] as const) {
      const [largest] = usage.largest(kind, 1)
      if (largest !== undefined) put(`memory/largest/${kind}`, `${largest.bytes} ${largest.name}`)
    }
  }
  put('heap/current', process.memoryUsage.rss())
  put('heap/maximum', process.resourceUsage().maxRSS * KIB)
}

/** Publishes exponentially weighted rates per minute over 1, 5 and 15 minutes. */
function tellLoad(
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
