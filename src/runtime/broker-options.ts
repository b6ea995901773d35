/** The options of a broker in this process, with their defaults. */
import { isIP } from 'node:net'
import type { AccessOptions } from '../access/access-options.ts'
import type { ControlCommand } from '../admin/control.ts'
import type { Limits } from '../broker/boundary/limits.ts'
import type { Policy } from '../broker/boundary/policy.ts'
import type { HttpOptions } from '../http/http-options.ts'
import { DEFAULT_QUEUE_OPTIONS, type QueueOptions } from '../queue/queue-options.ts'
import type { ListenerOptions } from '../transport/listener/listener.ts'

/**
 * The promise of an acknowledgement. `fsync`: the message survives a power cut. `interval`: it survives a
 * crash of the process, and a power cut except for the last seconds. `os`: it survives a crash of the
 * process. `memory`: it survives nothing.
 */
export type Durability = 'fsync' | 'interval' | 'os' | 'memory'

/** The options of a listener. Its name and anonymous access have defaults. */
export type GivenListener = Omit<ListenerOptions, 'name' | 'allowAnonymous'> &
  Partial<Pick<ListenerOptions, 'name' | 'allowAnonymous'>>

/** The options of a broker. */
export interface BrokerOptions {
  /** Keeps Sessions, queues, retained messages and Wills. Without it nothing is stored (`memory`). */
  readonly dataDirectory?: string
  /** `fsync` by default if there is a data directory. */
  readonly durability?: Durability
  /** With `interval`: the longest time from an acknowledgement to its sync. 1 by default. */
  readonly durabilityIntervalSeconds?: number
  /**
   * The least time between two commits while many clients publish, so that a commit carries more of their
   * messages. 4 by default; 0 to let no commit wait.
   */
  readonly commitPaceMs?: number
  /** New work is refused while the disk has less free space than this. 64 MiB by default. */
  readonly reserveBytes?: number
  /** The stored messages kept in memory; others are read back when needed. 128 MiB by default. */
  readonly residentBytesMax?: number
  /** None by default: only this process can reach the broker. */
  readonly listeners?: readonly GivenListener[]
  /** `profile` sets all limits that are not named, `fleet` by default. */
  /**
   * Health over HTTP, as in the configuration; options that are absent have the same defaults. There is no
   * HTTP listener by default.
   */
  readonly http?: Partial<HttpOptions> | null
  readonly limits?: Partial<Limits>
  /** The message queues that there are, and how clients may make others. */
  readonly queues?: Partial<QueueOptions>
  /**
   * The file descriptors that the broker may use. Connections get those that the store and the rest do not
   * need. By default the limit of the process.
   */
  readonly openFilesMax?: number
  readonly policy?: Policy
  /** Users, passwords, certificates and rights, as in the configuration. `policy` replaces it. */
  readonly access?: Partial<AccessOptions>
  /**
   * A directory in memory (tmpfs) that belongs to this user alone. `access` remembers there which log-ins
   * were right, so that it need not hash them again after a restart. Nothing is remembered by default.
   */
  readonly runtimeDirectory?: string
  /** The seconds between two `$SYS` updates; 0 for none. 0 by default. */
  readonly sysIntervalSeconds?: number
  /** Lets `godwit status` and `godwit backup` reach this broker. False by default. */
  readonly controlSocket?: boolean
  /**
   * Renews the server certificates that `godwit setup` made in the data directory before they expire, while
   * the key of its authority is there.
   */
  readonly renewsCertificates?: boolean
  /** Further commands for the control socket. */
  readonly controlCommands?: Readonly<Record<string, ControlCommand>>
}

/** The options that can change while a broker runs. Those that are absent stay as they are. */
export type BrokerChanges = Pick<
  BrokerOptions,
  'listeners' | 'http' | 'limits' | 'queues' | 'sysIntervalSeconds'
>

const LOOPBACK = new Set(['localhost', '::1'])

/** Returns the queues in force; properties that `defaults` leaves out have their own defaults. */
export function queuesOf({ queues }: Pick<BrokerOptions, 'queues'>): QueueOptions {
  return { ...DEFAULT_QUEUE_OPTIONS, ...queues }
}

/** Returns the durability in force. */
export function durabilityOf({ dataDirectory, durability }: BrokerOptions): Durability {
  return durability ?? (dataDirectory === undefined ? 'memory' : 'fsync')
}

/** Returns the seconds between two syncs; null unless the durability is `interval`. */
export function syncSecondsOf(options: BrokerOptions): number | null {
  return durabilityOf(options) === 'interval' ? (options.durabilityIntervalSeconds ?? 1) : null
}

/** Returns the directory that keeps bans; null if nothing is stored. */
export function keptDirectoryOf(options: BrokerOptions): string | null {
  return durabilityOf(options) === 'memory' ? null : (options.dataDirectory ?? null)
}

/**
 * Fills in the defaults of listeners. Anonymous clients are accepted on loopback and unix sockets if no
 * policy authenticates clients.
 */
export function completeListeners(given: readonly GivenListener[], policy: Policy): ListenerOptions[] {
  return given.map((listener, index) => {
    const host = listener.host ?? '127.0.0.1'
    const isLocal =
      listener.type === 'unix' || LOOPBACK.has(host) || (isIP(host) === 4 && host.startsWith('127.'))
    return {
      name: `${listener.type}-${index}`,
      allowAnonymous: isLocal && policy.authenticate === undefined,
      ...listener,
    }
  })
}
