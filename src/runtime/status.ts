/** Answers `godwit status`. */
import type { ManagedBroker } from '../admin/commands.ts'
import { largestHolders } from '../broker/accounts/holders.ts'
import { configKey } from '../broker/boundary/limit-row.ts'
import { type LimitName, type Limits, limitsBesideProfile } from '../broker/boundary/limits.ts'
import type { Server } from '../broker/server.ts'
import { automaticMemoryBytes } from '../config/memory.ts'
import { type Snapshot, statusValues } from '../observe/snapshot.ts'
import type { ListenerSet } from '../transport/listener-set.ts'
import { type BrokerOptions, durabilityOf, syncSecondsOf } from './broker-options.ts'
import type { CertificateWatch } from './certificates/certificate-watch.ts'
import { version } from './version.ts'

/** The parts of a broker that its status describes. */
export interface StatusSources {
  readonly options: BrokerOptions
  /** The limits in force. */
  readonly limits: Limits
  readonly server: Server
  readonly listeners: ListenerSet
  readonly certificates: CertificateWatch
  readonly snapshot: () => Snapshot
}

/** Describes a broker at this moment. */
export function brokerStatus(sources: StatusSources): ReturnType<ManagedBroker['status']> {
  const { options, limits, server, listeners, certificates, snapshot } = sources
  return {
    version: version(),
    listeners: listeners.open.map(({ address }) => address),
    certificates: certificates.status(Date.now()),
    durability: durabilityOf(options),
    durabilityIntervalSeconds: syncSecondsOf(options),
    health: server.health,
    limits: { profile: limits.profile, others: ownLimits(limits).map(configKey) },
    ...statusValues(snapshot()),
    largest: largestHolders(server.state.usage),
  }
}

/** Returns the limits that differ from their profile. The automatic memory limit does not count. */
function ownLimits(limits: Limits): LimitName[] {
  const isAutomatic = limits.memoryBytesMax === automaticMemoryBytes()
  return limitsBesideProfile(limits).filter((name) => name !== 'memoryBytesMax' || !isAutomatic)
}
