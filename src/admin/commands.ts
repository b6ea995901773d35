/** The table of commands that the operator can send to a running broker. */
import type { HolderEntry } from '../broker/accounts/holders.ts'
import type { SecurityEvent } from '../broker/boundary/security.ts'
import type { Inventory } from '../broker/inventory.ts'
import type { QueueOperator } from '../broker/queues/queue-view.ts'
import { freeSpace } from '../store/files/space-guard.ts'
import { type ControlCommand, type Reply, requestedBy } from './control.ts'
import { inventoryCommands } from './inventory.ts'
import { queueCommands } from './queues.ts'

/** A backup is sent in pieces of so many bytes. */
const PIECE_BYTES = 256 * 1024

/** The broker that the commands control. */
export interface ManagedBroker {
  status(): Omit<BrokerStatus, 'processId' | 'dataDirectory' | 'freeBytes'>
  /** The bytes of a backup file. */
  backup(): AsyncGenerator<Buffer>
  readonly inventory: Inventory
  /** Null if queues are switched off. */
  readonly queues: QueueOperator | null
  /** Commands of other parts of the broker, such as users and bans. */
  readonly commands: Readonly<Record<string, ControlCommand>>
  /** Reports an event to the security log. */
  tell(event: SecurityEvent): void
}

/** The numbers of objects that the broker holds at the moment. */
export interface StatusGauges {
  readonly connections: number
  readonly sessions: number
  readonly subscriptions: number
  readonly retainedMessages: number
  readonly queuedMessages: number
  readonly inFlightMessages: number
  readonly wills: number
  readonly queues: number
  readonly queuesMessages: number
  readonly queuesBytes: number
  readonly consumers: number
  readonly memoryBytes: number
}

/** Counters since the start. */
export interface StatusCounters {
  readonly connectionsAccepted: number
  readonly connectionsRefused: number
  readonly messagesReceived: number
  readonly messagesSent: number
  readonly bytesReceived: number
  readonly bytesSent: number
  /** Lost deliveries by reason; reasons without losses are absent. */
  readonly dropped: Readonly<Record<string, number>>
  /** Refusals by limit; limits that refused nothing are absent. */
  readonly limited: Readonly<Record<string, number>>
  /** Steps taken against the largest users of memory or disk while it is short, by step. */
  readonly relief: Readonly<Record<string, number>>
  /** Sessions without an owner that ended when users took their Client Identifiers. */
  readonly ownerlessSessionsEnded: number
}

/** The state of a listener's certificate. */
export interface CertificateStatus {
  readonly listener: string
  /** In ISO 8601. */
  readonly validFrom: string
  readonly validTo: string
  /** Such as `is valid until 2027-10-01, 300 days`. */
  readonly detail: string
  /** Whether the broker renews it automatically. */
  readonly renewed: boolean
}

/** The answer to `status`. */
export interface BrokerStatus {
  readonly version: string
  readonly processId: number
  readonly uptimeSeconds: number
  /** URLs of the listeners. */
  readonly listeners: readonly string[]
  /** The certificates of all TLS listeners. */
  readonly certificates: readonly CertificateStatus[]
  readonly dataDirectory: string
  readonly durability: string
  /** The time between two syncs of `interval`; null with another durability. */
  readonly durabilityIntervalSeconds: number | null
  readonly health: { readonly state: string; readonly detail: string }
  /** The bytes that the broker may still write to the disk; null if unknown. */
  readonly freeBytes: number | null
  /** The limit of open files, the connections that it allows (null: any number), and all open sockets. */
  readonly openFiles: {
    readonly openFilesMax: number | null
    readonly connectionsMax: number | null
    readonly sockets: number
  }
  readonly clientsConnected: number
  /** Publishers that are paused because the broker is behind. */
  readonly publishersPaused: number
  /** Clients whose passwords wait to be checked. */
  readonly loginsWaiting: number
  readonly bans: number
  /** Subscriptions that are not allowed at the moment; `held` does not count them. */
  readonly subscriptionsSuspended: number
  /** The profile of limits, and the keys whose values differ from it. */
  readonly limits: { readonly profile: string; readonly others: readonly string[] }
  readonly counted: StatusCounters
  /** The duration of commits in ms: median, 99th percentile and maximum. */
  readonly commitMs: { readonly p50: number; readonly p99: number; readonly maximum: number }
  /** The resident memory of the process. */
  readonly residentBytes: number
  readonly store: Readonly<Record<string, number>>
  readonly held: StatusGauges
  /** The limit of `held.memoryBytes`, `limits.memory_bytes_max`; null for unlimited. */
  readonly memoryBytesMax: number | null
  /** The clients and users that use the most memory, the largest first. */
  readonly largest: readonly HolderEntry[]
}

/** Returns the commands for this broker. */
export function controlCommands(
  directory: string,
  broker: ManagedBroker,
): Readonly<Record<string, ControlCommand>> {
  let isBackingUp = false
  return {
    ...broker.commands,
    ...inventoryCommands(broker.inventory, (event) => broker.tell(event)),
    ...queueCommands(broker.queues, (event) => broker.tell(event)),
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
