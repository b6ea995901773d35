/** Starts the Server with its store, users and bans. Nothing can reach it until listeners open. */
import { createHmac, randomBytes } from 'node:crypto'
import type { Access } from '../access/access.ts'
import { bansVersion, readBans } from '../access/bans/bans-file.ts'
import { KeptBans } from '../access/bans/kept-bans.ts'
import type { Host } from '../broker/boundary/host.ts'
import type { Limits } from '../broker/boundary/limits.ts'
import type { Policy } from '../broker/boundary/policy.ts'
import { Server } from '../broker/server.ts'
import { mqttPacket } from '../mqtt/codec/mqtt-packet.ts'
import { COMMIT_PACE_MS } from '../store/commit/commit-pace.ts'
import { BANS_FILE } from '../store/files/kept-files.ts'
import { loadPersistence } from '../store/format/retained.ts'
import { heapBytesMax } from '../store/level/heap-guard.ts'
import { LevelStore } from '../store/level/level-store.ts'
import { MemoryStore } from '../store/memory/memory-store.ts'
import type { Store } from '../store/store.ts'
import type { ListenerOptions } from '../transport/listener/listener.ts'
import { BanGuard } from './ban-guard.ts'
import { bootClock } from './boot-clock.ts'
import {
  type BrokerOptions,
  durabilityOf,
  keptDirectoryOf,
  queuesOf,
  syncSecondsOf,
} from './broker-options.ts'
import { openAccess, rememberLogins } from './running-access.ts'

const MIB = 1024 * 1024

/** Stored messages and queue entries never take more than this share of the heap. */
const RESIDENT_SHARE = 0.25

/** Shares of `memoryBytesMax` that logs of queues may take: parts that were read, and parts that grow. */
const LOG_CACHE_SHARE = 1 / 8
const OPEN_LOGS_SHARE = 1 / 16

/** A Server that has started, with the parts that it needs. */
export interface BrokerCore {
  readonly server: Server
  readonly store: Store
  readonly policy: Policy
  /** Null unless the option `access` is in force. */
  readonly access: Access | null
  /** Users who are being added and take over the Sessions under their names. */
  readonly keeping: Set<string>
  readonly guard: BanGuard
  /** A notice of the store about its start, such as an import. */
  readonly notice: string | undefined
  /** The reason why log-ins are not remembered in `runtimeDirectory`; null if they are, or need not be. */
  readonly loginsNotice: string | null
  /** Resolves with the reason when the broker cannot go on. */
  readonly fatal: Promise<Error>
}

/**
 * Starts the Server. `wanted` returns the listeners that should be open. Everything shares `limits`, so that
 * a change reaches all of it. Rejects with StoreError, or with the problem of a file of `access`.
 */
export async function startCore(
  options: BrokerOptions,
  limits: Limits,
  wanted: () => readonly ListenerOptions[],
): Promise<BrokerCore> {
  const store = openStore(options, limits)
  let resolveFatal: (error: Error) => void = () => {}
  const fatal = new Promise<Error>((resolve) => {
    resolveFatal = resolve
  })
  const keeping = new Set<string>()
  const access =
    options.access === undefined || options.policy !== undefined
      ? null
      : await openAccess(
          options.access,
          options.dataDirectory ?? null,
          () => server,
          wanted,
          keeping,
          limits,
          () => guard,
        )
  const keptDirectory = keptDirectoryOf(options)
  const bansSeen = keptDirectory === null ? null : await bansVersion(keptDirectory)
  const keptBans = keptDirectory === null ? [] : await readBans(keptDirectory)
  const policy = options.policy ?? access?.policy ?? {}
  const server = new Server(
    { host: systemHost(), store, limits, policy, queues: queuesOf(options) },
    resolveFatal,
  )
  const [notice] = await Promise.all([
    server.start((userName) => access?.accounts?.user(userName)?.id ?? null),
    loadBeforeServing(store),
  ])
  const loginsNotice = access === null ? null : loginsNoticeOf(access, server, options)
  const bans = bansOf(server, keptDirectory)
  bans.take(keptBans, bansSeen)
  const guard = new BanGuard(server, bans, () => performance.now())
  // Users and files may have changed while no broker ran.
  if (access !== null) server.usePolicy(access.policy)
  return { server, store, policy, access, keeping, guard, notice, loginsNotice, fatal }
}

function openStore(options: BrokerOptions, { memoryBytesMax }: Limits): Store {
  const { dataDirectory: directory } = options
  const durability = durabilityOf(options)
  if (durability === 'memory') return new MemoryStore()
  if (directory === undefined) throw new RangeError(`durability ${durability} needs a dataDirectory`)
  return new LevelStore({
    directory,
    sync: durability === 'fsync',
    syncEverySeconds: syncSecondsOf(options) ?? 0,
    commitPaceMs: options.commitPaceMs ?? COMMIT_PACE_MS,
    reserveBytes: options.reserveBytes ?? 64 * MIB,
    // Clients could not give way to more: it counts in the same limit.
    logCacheBytesMax: Math.min(queuesOf(options).readCacheBytesMax, memoryBytesMax * LOG_CACHE_SHARE),
    openLogBytesMax: Math.min(16 * MIB, memoryBytesMax * OPEN_LOGS_SHARE),
    residentBytesMax: Math.min(options.residentBytesMax ?? 128 * MIB, heapBytesMax() * RESIDENT_SHARE),
  })
}

function systemHost(): Host {
  return {
    now: () => performance.now(),
    wallNow: () => Date.now(),
    bootTime: bootClock(),
    defer: (callback) => {
      setImmediate(callback)
    },
    randomId: () => randomBytes(12).toString('base64url'),
    keyedHash: (key, text) => createHmac('sha256', key).update(text).digest(),
  }
}

/**
 * Loads modules that a packet of a stranger could need, while the disk is busy and nobody can connect. A
 * broker whose clients have taken all file descriptors cannot load anything.
 */
async function loadBeforeServing(store: Store): Promise<void> {
  mqttPacket()
  if (store instanceof LevelStore) loadPersistence()
}

function loginsNoticeOf(
  access: Access,
  server: Server,
  { runtimeDirectory, dataDirectory }: BrokerOptions,
): string | null {
  if (runtimeDirectory === undefined || dataDirectory === undefined) return null
  return rememberLogins(access, server, runtimeDirectory, dataDirectory)
}

function bansOf(server: Server, directory: string | null): KeptBans {
  const { state } = server
  const notKept = ({ message: detail }: Error): void =>
    state.events.emit('security', { kind: 'bans-not-kept', subject: BANS_FILE, by: 'broker', detail })
  const clock = { now: () => state.now(), wallNow: () => Date.now() }
  return new KeptBans(state.bans, clock, directory, notKept)
}
