/** Answers `godwit status`. */
import type { ManagedBroker, StatusCounters } from '../admin/commands.ts'
import { largestHolders } from '../broker/accounts/holders.ts'
import { configKey } from '../broker/boundary/limit-row.ts'
import { type LimitName, type Limits, limitsBesideProfile } from '../broker/boundary/limits.ts'
import { takeCensus } from '../broker/census.ts'
import type { Server } from '../broker/server.ts'
import type { Counters } from '../broker/state/counters.ts'
import { automaticMemoryBytes } from '../config/memory.ts'
import type { Store } from '../store/store.ts'
import type { SocketLimit } from '../transport/listener/socket-limit.ts'
import type { ListenerSet } from '../transport/listener-set.ts'
import type { OpenFiles } from '../transport/open-files.ts'
import { type BrokerOptions, durabilityOf, syncSecondsOf } from './broker-options.ts'
import type { CertificateWatch } from './certificate-watch.ts'
import { version } from './version.ts'

/** The parts of a broker that its status describes. */
export interface StatusSources {
  readonly options: BrokerOptions
  /** The limits in force. */
  readonly limits: Limits
  readonly server: Server
  readonly store: Store
  readonly listeners: ListenerSet
  readonly certificates: CertificateWatch
  readonly files: OpenFiles
  readonly sockets: SocketLimit
  /** The time of the start by `performance.now`. */
  readonly startedAtMs: number
}

/** Describes a broker at this moment. */
export function brokerStatus(sources: StatusSources): ReturnType<ManagedBroker['status']> {
  const { options, limits, server, store, listeners, certificates, files, sockets, startedAtMs } = sources
  const { state } = server
  return {
    version: version(),
    uptimeSeconds: Math.floor((performance.now() - startedAtMs) / 1000),
    listeners: listeners.open.map(({ address }) => address),
    certificates: certificates.status(Date.now()),
    durability: durabilityOf(options),
    durabilityIntervalSeconds: syncSecondsOf(options),
    health: server.health,
    openFiles: { ...files, sockets: sockets.sockets },
    clientsConnected: state.counters.clientsConnected,
    publishersPaused: state.paused.size,
    loginsWaiting: state.loginQueue.length,
    bans: state.bans.list().length,
    subscriptionsSuspended: server.suspendedCount,
    limits: { profile: limits.profile, others: ownLimits(limits).map(configKey) },
    counted: counted(state.counters),
    commitMs: {
      p50: store.commitLatency.quantileMs(0.5),
      p99: store.commitLatency.quantileMs(0.99),
      maximum: store.commitLatency.maxMs,
    },
    residentBytes: process.memoryUsage.rss(),
    store: { ...store.figures },
    held: takeCensus(server),
    memoryBytesMax: Number.isFinite(limits.memoryBytesMax) ? limits.memoryBytesMax : null,
    largest: largestHolders(state.usage),
  }
}

function counted(counters: Counters): StatusCounters {
  const happened = (counts: Readonly<Record<string, number>>): Record<string, number> =>
    Object.fromEntries(Object.entries(counts).filter(([, count]) => count > 0))
  return {
    connectionsAccepted: counters.connectionsAccepted,
    connectionsRefused: counters.connectionsRefused,
    messagesReceived: counters.publishReceived,
    messagesSent: counters.publishSent,
    bytesReceived: counters.bytesReceived,
    bytesSent: counters.bytesSent,
    dropped: happened(counters.drops),
    limited: happened(counters.limits),
    relief: happened(counters.relief),
    ownerlessSessionsEnded: counters.ownerlessSessionsEnded,
  }
}

/** Returns the limits that differ from their profile. The automatic memory limit does not count. */
function ownLimits(limits: Limits): LimitName[] {
  const isAutomatic = limits.memoryBytesMax === automaticMemoryBytes()
  return limitsBesideProfile(limits).filter((name) => name !== 'memoryBytesMax' || !isAutomatic)
}
