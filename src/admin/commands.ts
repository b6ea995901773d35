/** What the operator may ask of a running broker. Further commands are further entries of the table. */
import type { HolderEntry } from '../broker/accounts/holders.ts'
import type { SecurityEvent } from '../broker/boundary/security.ts'
import type { Inventory } from '../broker/inventory.ts'
import { freeSpace } from '../store/files/space.ts'
import { type ControlCommand, type Reply, requestedBy } from './control.ts'
import { inventoryCommands } from './inventory.ts'

/** Bytes of one piece of a backup. */
const PIECE_BYTES = 256 * 1024

/** A broker, as far as the commands need it. */
export interface ManagedBroker {
  status(): Omit<BrokerStatus, 'processId' | 'dataDirectory' | 'freeBytes'>
  /** The bytes of a backup file. */
  backup(): AsyncGenerator<Buffer>
  readonly inventory: Inventory
  /** Of other parts of the broker: users and rights. */
  readonly commands: Readonly<Record<string, ControlCommand>>
  /** For the security log. */
  tell(event: SecurityEvent): void
}

export interface StatusGauges {
  readonly connections: number
  readonly sessions: number
  readonly subscriptions: number
  readonly retainedMessages: number
  readonly queuedMessages: number
  readonly inFlightMessages: number
  readonly wills: number
  readonly memoryBytes: number
}

/** Counted since the start. */
export interface StatusCounters {
  readonly connectionsAccepted: number
  readonly connectionsRefused: number
  readonly messagesReceived: number
  readonly messagesSent: number
  readonly bytesReceived: number
  readonly bytesSent: number
  /** Deliveries that were lost, by reason; those that happened. */
  readonly dropped: Readonly<Record<string, number>>
  /** What limits refused, by limit; those that did. */
  readonly limited: Readonly<Record<string, number>>
  /** What those met who hold most of the memory or the disk while it is short, by the step. */
  readonly relief: Readonly<Record<string, number>>
  /** Sessions that nobody owned, ended by users who took their Client Identifiers. */
  readonly ownerlessSessionsEnded: number
}

export interface CertificateStatus {
  readonly listener: string
  /** In ISO 8601. */
  readonly validFrom: string
  readonly validTo: string
  /** Such as `is valid until 2027-10-01, 300 days`. */
  readonly detail: string
  /** Whether the broker renews it by itself. */
  readonly renewed: boolean
}

/** The answer to `status`. */
export interface BrokerStatus {
  readonly version: string
  readonly processId: number
  readonly uptimeSeconds: number
  /** As addresses. */
  readonly listeners: readonly string[]
  /** Of listeners with TLS. */
  readonly certificates: readonly CertificateStatus[]
  readonly dataDirectory: string
  readonly durability: string
  /** Between two syncs of `interval`; null with another durability. */
  readonly durabilityIntervalSeconds: number | null
  readonly health: { readonly state: string; readonly detail: string }
  /** What the broker may still write on the disk; null when it cannot be told. */
  readonly freeBytes: number | null
  /** The limit of open files, the connections that it allows (null: any number), and the sockets of clients and strangers. */
  readonly openFiles: {
    readonly openFilesMax: number | null
    readonly connectionsMax: number | null
    readonly sockets: number
  }
  readonly clientsConnected: number
  /** Publishers that are not read from at the moment, since the broker is behind. */
  readonly publishersPaused: number
  /** Clients that wait at log-in until their passwords are checked, and who is banned. */
  readonly loginsWaiting: number
  readonly bans: number
  /** Subscriptions that their users may not have at the moment; they are not among those that are held. */
  readonly subscriptionsSuspended: number
  /** The profile of limits, and the keys of those that have other values than it gives them. */
  readonly limits: { readonly profile: string; readonly others: readonly string[] }
  readonly counted: StatusCounters
  /** How long commits took, in ms: half of them, 99 of 100, all of them. */
  readonly commitMs: { readonly p50: number; readonly p99: number; readonly maximum: number }
  /** Of the whole process. */
  readonly residentBytes: number
  readonly store: Readonly<Record<string, number>>
  /** How much there is of what a broker holds. */
  readonly held: StatusGauges
  /** `limits.memory_bytes_max`, which `held.memoryBytes` is measured by; null for unlimited. */
  readonly memoryBytesMax: number | null
  /** The clients and users for which most is kept in memory, the largest first. */
  readonly largest: readonly HolderEntry[]
}

/** The table of commands for this broker. */
export function controlCommands(
  directory: string,
  broker: ManagedBroker,
): Readonly<Record<string, ControlCommand>> {
  let isBackingUp = false
  return {
    ...broker.commands,
    ...inventoryCommands(broker.inventory, (event) => broker.tell(event)),
    status: async (): Promise<BrokerStatus> => ({
      processId: process.pid,
      dataDirectory: directory,
      freeBytes: await freeSpace(directory).catch(() => null),
      ...broker.status(),
    }),
    backup: async (parameters, reply) => {
      if (isBackingUp) throw new Error('a backup is under way')
      isBackingUp = true
      try {
        await sendBackup(broker.backup(), reply)
        broker.tell({ kind: 'backup-taken', subject: directory, by: requestedBy(parameters), detail: '' })
      } finally {
        isBackingUp = false
      }
    },
  }
}

async function sendBackup(chunks: AsyncGenerator<Buffer>, reply: Reply): Promise<void> {
  for await (const chunk of chunks) {
    for (let from = 0; from < chunk.length; from += PIECE_BYTES) {
      await reply.data(chunk.subarray(from, from + PIECE_BYTES))
    }
  }
}
