/**
 * The library face: a whole broker in this process, for tests and for embedding.
 *
 *     const broker = await createBroker({ listeners: [{ type: 'tcp', port: 0 }] })
 *     await broker.publish({ topic: 'hello/world', payload: 'hi', qos: 1 })
 *     await broker.close()
 */
import { randomBytes } from 'node:crypto'
import { isIP } from 'node:net'
import type { AccessOptions } from './access/access-options.ts'
import { type BanView, banCommand, subjectOf, viewOf } from './access/bans/ban-commands.ts'
import { bansVersion, readBans } from './access/bans/bans-file.ts'
import { KeptBans } from './access/bans/kept-bans.ts'
import { controlCommands, type ManagedBroker, type StatusCounters } from './admin/commands.ts'
import { type ControlCommand, type ControlSocket, openControlSocket } from './admin/control.ts'
import { largestHolders } from './broker/accounts/holders.ts'
import type { Events, Health, Limit } from './broker/boundary/events.ts'
import { expiryTime } from './broker/boundary/expiry.ts'
import { configKey } from './broker/boundary/limit-row.ts'
import {
  type LimitName,
  type Limits,
  limitChanges,
  limitsBesideProfile,
  limitsWith,
} from './broker/boundary/limits.ts'
import type { LinkInfo } from './broker/boundary/link.ts'
import type { Policy } from './broker/boundary/policy.ts'
import { Server } from './broker/server.ts'
import type { Counters } from './broker/state/counters.ts'
import type { Host } from './broker/state/server-state.ts'
import { type CutOff, cutOffReason } from './config/changes.ts'
import { automaticMemoryBytes } from './config/memory.ts'
import { mqttPacket } from './mqtt/codec/mqtt-packet.ts'
import type { Delivery } from './mqtt/message.ts'
import type { QoS } from './mqtt/packet.ts'
import {
  decodeForwardedProperties,
  encodeForwardedProperties,
  type ForwardedProperties,
} from './mqtt/properties/forwarded.ts'
import { ProtocolError, Reason } from './mqtt/reason.ts'
import { topicNameError } from './mqtt/topics.ts'
import { attachSys } from './observe/sys.ts'
import { BanGuard } from './runtime/ban-guard.ts'
import { bootClock } from './runtime/boot-clock.ts'
import { CertificateWatch } from './runtime/certificate-watch.ts'
import { thisMachine } from './runtime/machine.ts'
import { Renewal } from './runtime/renewal.ts'
import { accessCommands, openAccess, rememberLogins } from './runtime/running-access.ts'
import { Ticker } from './runtime/ticker.ts'
import { version } from './runtime/version.ts'
import { BANS_FILE, withKeptFiles } from './store/files/kept-files.ts'
import { containerChunks } from './store/format/container.ts'
import { loadPersistence } from './store/format/retained.ts'
import { heapBytesMax } from './store/level/heap-guard.ts'
import { LevelStore } from './store/level/level.ts'
import { MemoryStore } from './store/memory.ts'
import type { Store, StoreFigures } from './store/store.ts'
import type { Listener, ListenerOptions } from './transport/listener/listener.ts'
import { SocketLimit } from './transport/listener/socket-limit.ts'
import { ListenerSet } from './transport/listener-set.ts'
import { type OpenFiles, openFiles, openFilesMax, openFilesReason } from './transport/open-files.ts'

export type { AccessOptions } from './access/access-options.ts'
export type { BanView } from './access/bans/ban-commands.ts'
export { BansError } from './access/bans/bans-file.ts'
export type { BrokerEvents, EventName, Events, Health, Limit } from './broker/boundary/events.ts'
export type { Profile } from './broker/boundary/limit-row.ts'
export { DEFAULT_LIMITS, type Limits, PROFILES, type RefusedSubscription } from './broker/boundary/limits.ts'
export type { LinkInfo } from './broker/boundary/link.ts'
export type {
  AuthenticationExchange,
  AuthenticationResult,
  AuthenticationStep,
  ClientView,
  ConnackExtras,
  Credentials,
  Policy,
  Rejection,
  WaitingClient,
} from './broker/boundary/policy.ts'
export type { Lenience } from './mqtt/lenience.ts'
export type { QoS } from './mqtt/packet.ts'
export type { ForwardedProperties } from './mqtt/properties/forwarded.ts'
export { ProtocolError, Reason } from './mqtt/reason.ts'
export { StoreError } from './store/store.ts'
export type { Listener, ListenerOptions, ListenerType } from './transport/listener/listener.ts'

/**
 * What an acknowledgement promises: `fsync` survives a power cut, `interval` a crash of the process, and a power cut but for the
 * last seconds, `os` a crash of the process, `memory` nothing.
 */
export type Durability = 'fsync' | 'interval' | 'os' | 'memory'

/** How often deadlines are looked at, at most; the standard's times are in seconds. */
const TICK_MS = 100

const MIB = 1024 * 1024

/** Of the heap, that stored messages and queue entries may have at most, whatever the settings say. */
const RESIDENT_SHARE = 0.25

const LOOPBACK = new Set(['localhost', '::1'])

export interface BrokerOptions {
  /** Where Sessions, queues, retained messages and Wills are kept; without it nothing is (`memory`). */
  readonly dataDirectory?: string
  /** `fsync` when there is a data directory. */
  readonly durability?: Durability
  /** Of `interval`: how long what is acknowledged may wait for its sync. 1 when absent. */
  readonly durabilityIntervalSeconds?: number
  /** Free bytes on the disk below which new work is refused. 64 MiB when absent. */
  readonly reserveBytes?: number
  /** Bytes of stored messages kept in memory; beyond it they are read back when needed. 128 MiB when absent. */
  readonly residentBytesMax?: number
  /** None when absent: the broker is reached in process only. Name and anonymous access have defaults. */
  readonly listeners?: readonly (Omit<ListenerOptions, 'name' | 'allowAnonymous'> &
    Partial<Pick<ListenerOptions, 'name' | 'allowAnonymous'>>)[]
  /** `profile` sets all that are not named; `fleet` when it is not named either. */
  readonly limits?: Partial<Limits>
  /** File descriptors that it may use; connections get what the store and others do not need. The process's limit when absent. */
  readonly openFilesMax?: number
  readonly policy?: Policy
  /** Users, passwords, certificates and rights as the configuration's `access` has them; a `policy` takes its place. */
  readonly access?: Partial<AccessOptions>
  /**
   * A directory of this user alone, in memory (tmpfs): in it `access` remembers over a restart which log-ins were right, and does not
   * hash them again. Nowhere when absent.
   */
  readonly runtimeDirectory?: string
  /** Seconds between `$SYS` values; 0 for none. 0 when absent. */
  readonly sysIntervalSeconds?: number
  /** Lets `godwit status` and `godwit backup` reach this broker, through its data directory. False when absent. */
  readonly controlSocket?: boolean
  /** Renews server certificates of `godwit setup` in the data directory before they end, while its authority's key is there. */
  readonly renewsCertificates?: boolean
  /** What else may be asked on the control socket. */
  readonly controlCommands?: Readonly<Record<string, ControlCommand>>
}

/** What can be changed while a broker runs; what is absent stays as it is. */
export type BrokerChanges = Pick<BrokerOptions, 'listeners' | 'limits' | 'sysIntervalSeconds'>

export interface PublishOptions {
  readonly topic: string
  readonly payload: string | Uint8Array
  readonly qos?: QoS
  readonly retain?: boolean
  readonly properties?: ForwardedProperties
  /** Message Expiry Interval. */
  readonly expirySeconds?: number
}

export interface SubscribeOptions {
  /** 2 when absent: messages keep the QoS they were published with. */
  readonly qos?: QoS
  readonly retainAsPublished?: boolean
  /** False to get no retained messages at the start. */
  readonly retained?: boolean
}

/** A message as a subscriber in this process gets it. */
export interface ReceivedMessage {
  readonly topic: string
  /** The very bytes that other subscribers are sent and the store keeps: to be copied by whoever wants to change them. */
  readonly payload: Buffer
  readonly qos: QoS
  readonly retain: boolean
  /** Client Identifier of the publisher; empty for the broker itself. */
  readonly publisher: string
  readonly properties: ForwardedProperties
}

export interface Broker {
  readonly listeners: readonly Listener[]
  /** What there was to say at the start, such as what the store imported; for the operator. */
  readonly notice: string | undefined
  /** Why log-ins are not remembered in `runtimeDirectory`; null where they are, or are not asked for. */
  readonly loginsNotice: string | null
  /** What the limit of open files allows, whatever `connectionsMax` says. */
  readonly openFiles: OpenFiles
  /** Whether there is anybody whose password `access` knows. */
  readonly hasUsers: boolean
  readonly events: Events
  /** Never rejects; resolves with the reason when the broker cannot go on. Close it then. */
  readonly fatal: Promise<Error>
  /** Counters since the start. */
  readonly figures: Readonly<Counters>
  readonly storeFigures: Readonly<StoreFigures>
  /** Whether it takes new work, and why not. */
  readonly health: Health
  /** What is held at the moment: for tests that look for leaks, and for `$SYS`. */
  census(): Census
  /** Resolves when the message is as durable as promised; rejects when it was refused. */
  publish(options: PublishOptions): Promise<void>
  /** Calls `handler` for every message that matches. Returns a function that ends the subscription. */
  subscribe(
    filter: string,
    handler: (message: ReceivedMessage) => void,
    options?: SubscribeOptions,
  ): () => void
  /** Who is not let in, whatever it shows. In the data directory, where there is one; `godwit ban` works on the same. */
  readonly bans: BrokerBans
  /** Ends a client's Network Connection; false when it has none. */
  disconnect(clientId: string, reasonCode?: Reason): boolean
  /**
   * What is stored at this moment, as the bytes of a backup file that `godwit restore` takes. To be read without long
   * pauses. Throws StoreError, and RangeError for a broker that stores nothing.
   */
  backup(): AsyncGenerator<Buffer>
  /**
   * Takes other settings while it runs, without losing a connection but those of clients that the new listeners would not
   * let in: these get 0x98 and are named in the answer. Rejects with ListenError when a listener cannot be opened: then
   * nothing has changed.
   */
  reconfigure(changes: BrokerChanges): Promise<readonly CutOff[]>
  /** Whom `reconfigure` would cut off. */
  cutOffBy(listeners: NonNullable<BrokerOptions['listeners']>): readonly CutOff[]
  /**
   * What a `sessionExpirySecondsMax` that `reconfigure` is given would do to Sessions that are there. The event
   * `sessionsCapped` tells what it did.
   */
  cappedBy(sessionExpirySecondsMax: number): { readonly shortened: number; readonly ended: number }
  /** What is there beyond limits such as these, as sentences: it stays, and new things are refused. */
  beyondBy(limits: Limits): readonly string[]
  /** Reads certificates, users and rights again, at once. What changed, or cannot be used, is told as `security`. */
  reread(): Promise<void>
  /** Drains, commits, closes: at most this many seconds (5). No handle stays open. */
  close(options?: { readonly seconds?: number }): Promise<void>
}

/** Whom a ban is about: an address or network such as `203.0.113.0/24`, a Client Identifier, or a user. */
export type Banned =
  | { readonly address: string }
  | { readonly clientId: string }
  | { readonly userName: string }

export interface BrokerBans {
  /**
   * Bans somebody, for ever or for so many seconds, in place of an earlier ban of the same, and ends its connections. Addresses are
   * turned away before TLS, others get 0x8A (before 5.0: 5). Rejects with BansError for what is no address, and where it cannot be
   * written: it holds until the broker ends then. `reason` is for the operator alone.
   */
  add(who: Banned, options?: { readonly seconds?: number; readonly reason?: string }): Promise<void>
  /** Those that hold, automatic ones included. */
  list(): readonly BanView[]
  /** Lifts a ban; false where there is none. Rejects as `add` does. */
  remove(who: Banned): Promise<boolean>
}

export interface Census {
  readonly connections: number
  readonly sessions: number
  readonly subscriptions: number
  readonly sharedSubscriptions: number
  readonly retainedMessages: number
  readonly retainedBytes: number
  readonly queuedMessages: number
  readonly inFlightMessages: number
  readonly wills: number
  readonly deadlines: number
  readonly waiting: number
  readonly paused: number
  readonly retainedDeliveries: number
  /** Everything that is kept in memory for clients, and the topic names that are remembered. */
  readonly memoryBytes: number
  /** These alone: they stay when clients are gone, and make room for others. */
  readonly topicBytes: number
}

/** Starts a broker. Rejects with StoreError, ListenError, or what is wrong with a file of `access`; nothing stays open then. */
export async function createBroker(options: BrokerOptions = {}): Promise<Broker> {
  // Everybody shares this object, so that a change reaches them.
  let givenLimits: Partial<Limits> = { memoryBytesMax: automaticMemoryBytes(), ...options.limits }
  const limits: Limits = limitsWith(givenLimits)
  const store = openStore(options)
  let resolveFatal: (error: Error) => void = () => {}
  const fatal = new Promise<Error>((resolve) => {
    resolveFatal = resolve
  })
  /** Users who are being added and keep what is there under their names. */
  const keeping = new Set<string>()
  const access =
    options.access === undefined || options.policy !== undefined
      ? null
      : await openAccess(
          options.access,
          options.dataDirectory ?? null,
          () => server,
          () => wanted,
          keeping,
          limits,
          () => guard,
        )
  const keptDirectory = durabilityOf(options) === 'memory' ? null : (options.dataDirectory ?? null)
  const bansSeen = keptDirectory === null ? null : await bansVersion(keptDirectory)
  const keptBans = keptDirectory === null ? [] : await readBans(keptDirectory)
  const policy = options.policy ?? access?.policy ?? {}
  const server = new Server({ host: systemHost(), store, limits, policy }, resolveFatal)
  const [notice] = await Promise.all([
    server.start((userName) => access?.accounts?.user(userName)?.id ?? null),
    loadBeforeServing(store),
  ])
  const { runtimeDirectory, dataDirectory } = options
  const loginsNotice =
    access === null || runtimeDirectory === undefined || dataDirectory === undefined
      ? null
      : rememberLogins(access, server, runtimeDirectory, dataDirectory)
  const notKept = ({ message: detail }: Error): void =>
    server.state.events.emit('security', { kind: 'bans-not-kept', subject: BANS_FILE, by: 'broker', detail })
  const banClock = { now: () => server.state.now(), wallNow: () => Date.now() }
  const bans = new KeptBans(server.state.bans, banClock, keptDirectory, notKept)
  bans.take(keptBans, bansSeen)
  const guard = new BanGuard(server, bans, () => performance.now())
  // Users and files may have changed while no broker ran.
  if (access !== null) server.usePolicy(access.policy)
  const complete = (given: readonly GivenListener[]): ListenerOptions[] =>
    given.map((listener, index) => named(listener, index, policy))
  let wanted = complete(options.listeners ?? [])
  const observer = (link: LinkInfo, reason: string, limit?: Limit): void => {
    server.state.counters.connectionsRefused++
    if (limit !== undefined) server.state.counters.limits[limit]++
    server.state.events.emit('refused', { clientId: '', link, reasonCode: Reason.UnspecifiedError, reason })
  }
  const files = openFiles(options.openFilesMax ?? openFilesMax())
  const sockets = new SocketLimit(files.connectionsMax)
  server.state.newcomerCount = () => sockets.sockets - server.state.counters.clientsConnected
  const listeners = new ListenerSet(server, limits, observer, {
    sockets,
    hasUsers: () => access?.hasUsers === true,
    isBanned: (remoteAddress) => !server.state.bans.sparesAddresses && server.refusesAddress(remoteAddress),
    machineNames: () => Object.values(thisMachine()).flat(),
    refused: (remoteAddress) => server.turnedAway(`${openFilesReason(files)}; refused ${remoteAddress}`),
  })
  try {
    await listeners.openAll(wanted)
  } catch (error) {
    await (store instanceof LevelStore ? store.abandon() : store.close())
    throw error
  }
  const renewal =
    options.renewsCertificates === true && options.dataDirectory !== undefined
      ? new Renewal(options.dataDirectory)
      : null
  const certificates = new CertificateWatch(listeners, server.state.events, renewal)
  const since = performance.now()
  const backup = (): AsyncGenerator<Buffer> => {
    if (store instanceof LevelStore) {
      const slices = withKeptFiles(options.dataDirectory!, store.snapshot())
      return containerChunks(slices, Date.now(), store.format)
    }
    throw new RangeError('a broker that stores nothing has nothing to back up')
  }
  access?.watch()
  const ticker = new Ticker(server, TICK_MS)
  const census = (): Census => take(server)
  const publishSys = (seconds: number): (() => void) =>
    attachSys(server, store, census, seconds, () => certificates.figures())
  let detachSys = publishSys(options.sysIntervalSeconds ?? 0)
  const administered: ManagedBroker = {
    backup,
    commands: { ...guard.commands(), ...(access === null ? {} : accessCommands(access, server, keeping)) },
    inventory: server.inventory,
    tell: (event) => server.state.events.emit('security', event),
    status: () => ({
      version: version(),
      uptimeSeconds: Math.floor((performance.now() - since) / 1000),
      listeners: listeners.open.map(({ address }) => address),
      certificates: certificates.status(Date.now()),
      durability: durabilityOf(options),
      durabilityIntervalSeconds: syncSecondsOf(options),
      health: server.health,
      openFiles: { ...files, sockets: sockets.sockets },
      clientsConnected: server.state.counters.clientsConnected,
      publishersPaused: server.state.paused.size,
      loginsWaiting: server.state.loginQueue.length,
      bans: server.state.bans.list().length,
      subscriptionsSuspended: server.suspendedCount,
      limits: { profile: limits.profile, others: ownLimits(limits).map(configKey) },
      counted: counted(server.state.counters),
      commitMs: {
        p50: store.commitLatency.quantileMs(0.5),
        p99: store.commitLatency.quantileMs(0.99),
        maximum: store.commitLatency.maxMs,
      },
      residentBytes: process.memoryUsage.rss(),
      store: { ...store.figures },
      held: census(),
      memoryBytesMax: Number.isFinite(limits.memoryBytesMax) ? limits.memoryBytesMax : null,
      largest: largestHolders(server.state.usage),
    }),
  }
  const control = await opened(options, administered)
  let closing: Promise<void> | null = null
  const close = async (seconds: number): Promise<void> => {
    certificates.stop()
    const listening = listeners.close()
    detachSys()
    access?.close()
    await control.socket?.close()
    await stop(server, seconds)
    await guard.close()
    ticker.stop()
    await listening
  }
  const acceptsAnonymous = access === null ? undefined : (link: LinkInfo) => access.letsInAnonymous(link)
  const cutOffBy = (given: readonly GivenListener[]): CutOff[] => {
    const after = complete(given)
    return [...server.state.connected.values()].flatMap(({ view: { clientId, userName, link } }) => {
      const reason = cutOffReason(link, userName, after, acceptsAnonymous)
      return reason === null ? [] : [{ clientId, listener: link.listener, reason }]
    })
  }
  const reconfigure = async (changes: BrokerChanges): Promise<readonly CutOff[]> => {
    const cutOff: CutOff[] = []
    if (changes.listeners !== undefined) {
      const after = complete(changes.listeners)
      certificates.tell(await listeners.change(after, Date.now()))
      wanted = after
      cutOff.push(...cutOffBy(changes.listeners))
      for (const { clientId, reason } of cutOff)
        server.disconnect(clientId, Reason.AdministrativeAction, reason)
    }
    if (changes.limits !== undefined) {
      const { sessionExpirySecondsMax: before } = limits
      Object.assign(limits, limitChanges(givenLimits, changes.limits))
      givenLimits = { ...givenLimits, ...changes.limits }
      if (limits.sessionExpirySecondsMax < before) await server.capSessions()
    }
    if (changes.sysIntervalSeconds !== undefined) {
      detachSys()
      detachSys = publishSys(changes.sysIntervalSeconds)
    }
    return cutOff
  }
  return {
    get listeners() {
      return listeners.open
    },
    openFiles: files,
    reconfigure,
    cutOffBy,
    cappedBy: (sessionExpirySecondsMax) => server.cappedBy(sessionExpirySecondsMax),
    beyondBy: (given) => server.beyondBy(given),
    reread: async () => {
      await certificates.reread()
      await access?.reload('now')
      await guard.reread()
    },
    get hasUsers() {
      return access?.hasUsers === true
    },
    loginsNotice,
    notice: [notice, control.notice].filter((text) => text !== undefined).join(' ') || undefined,
    events: server.state.events,
    fatal,
    figures: server.state.counters,
    get storeFigures() {
      return store.figures
    },
    get health() {
      return server.health
    },
    census,
    backup,
    publish: (message) => publish(server, message),
    subscribe: (filter, handler, subscription = {}) => subscribe(server, filter, handler, subscription),
    bans: bansOf(guard),
    disconnect: (clientId, reasonCode = Reason.AdministrativeAction) =>
      server.disconnect(clientId, reasonCode, 'ended by the operator'),
    close: ({ seconds = 5 } = {}) => {
      closing ??= close(seconds)
      return closing
    },
  }
}

function bansOf(guard: BanGuard): BrokerBans {
  const by = 'program'
  const named = (who: Banned): ReturnType<typeof subjectOf> => {
    if ('address' in who) return subjectOf({ kind: 'address', subject: who.address })
    if ('clientId' in who) return subjectOf({ kind: 'client', subject: who.clientId })
    return subjectOf({ kind: 'user', subject: who.userName })
  }
  return {
    add: async (who, { seconds, reason = '' } = {}) => {
      await banCommand(guard, 'ban add', { ...named(who), seconds, reason }, by, guard.now())
    },
    list: () => guard.list().map((ban) => viewOf(ban, guard.now())),
    remove: async (who) => {
      const { kind, subject } = named(who)
      return guard.remove(kind, subject, by)
    },
  }
}

function durabilityOf({ dataDirectory, durability }: BrokerOptions): Durability {
  return durability ?? (dataDirectory === undefined ? 'memory' : 'fsync')
}

/** Null where commits are not synced together. */
function syncSecondsOf(options: BrokerOptions): number | null {
  return durabilityOf(options) === 'interval' ? (options.durabilityIntervalSeconds ?? 1) : null
}

/** A broker without its control socket still serves its clients: what prevents it is only told. */
async function opened(
  { dataDirectory, controlSocket = false, ...options }: BrokerOptions,
  administered: ManagedBroker,
): Promise<{ readonly socket?: ControlSocket; readonly notice?: string }> {
  if (dataDirectory === undefined || !controlSocket || options.durability === 'memory') return {}
  try {
    const commands = { ...controlCommands(dataDirectory, administered), ...options.controlCommands }
    return { socket: await openControlSocket(dataDirectory, commands) }
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    return { notice: `\`godwit status\` and \`godwit backup\` cannot reach this broker: ${reason}.` }
  }
}

function openStore(options: BrokerOptions): Store {
  const { dataDirectory: directory } = options
  const durability = durabilityOf(options)
  if (durability === 'memory') return new MemoryStore()
  if (directory === undefined) throw new RangeError(`durability ${durability} needs a dataDirectory`)
  return new LevelStore({
    directory,
    sync: durability === 'fsync',
    syncEverySeconds: syncSecondsOf(options) ?? 0,
    reserveBytes: options.reserveBytes ?? 64 * MIB,
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
  }
}

type GivenListener = NonNullable<BrokerOptions['listeners']>[number]

/** Anonymous clients are served on loopback and unix sockets where no policy asks who they are. */
function named(listener: GivenListener, index: number, policy: Policy): ListenerOptions {
  const host = listener.host ?? '127.0.0.1'
  const local =
    listener.type === 'unix' || LOOPBACK.has(host) || (isIP(host) === 4 && host.startsWith('127.'))
  return {
    name: `${listener.type}-${index}`,
    allowAnonymous: local && policy.authenticate === undefined,
    ...listener,
  }
}

/**
 * Modules that a packet of a stranger could need, loaded while the disk is waited for and before anybody can connect: a broker
 * whose clients have taken all file descriptors cannot load anything any more.
 */
async function loadBeforeServing(store: Store): Promise<void> {
  mqttPacket()
  if (store instanceof LevelStore) loadPersistence()
}

async function stop(server: Server, seconds: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, seconds * 1000)
  })
  try {
    await server.stop(timeout)
  } finally {
    clearTimeout(timer)
  }
}

async function publish(server: Server, options: PublishOptions): Promise<void> {
  const { topic, payload, qos = 0, retain = false, properties, expirySeconds } = options
  const error = topicNameError(topic)
  if (error !== null) throw new ProtocolError(Reason.TopicNameInvalid, 'section 4.7', `${error}: ${topic}`)
  await server.publish({
    topic,
    payload: Buffer.from(payload as Uint8Array),
    qos,
    retain,
    publisher: '',
    expiresAt: expiryTime(server.state.now(), expirySeconds),
    ...(properties === undefined ? {} : { properties: encodeForwardedProperties(properties) }),
  })
}

function subscribe(
  server: Server,
  filter: string,
  handler: (message: ReceivedMessage) => void,
  options: SubscribeOptions,
): () => void {
  const { qos = 2, retainAsPublished = false, retained = true } = options
  const retainHandling = retained ? 0 : 2
  return server.subscribe(filter, { qos, noLocal: false, retainAsPublished, retainHandling }, (delivery) =>
    handler(received(delivery)),
  )
}

function received({ message, qos, retain }: Delivery): ReceivedMessage {
  const { payload, publisher } = message
  return {
    topic: message.topic.name,
    payload,
    qos,
    retain,
    publisher,
    properties: decodeForwardedProperties(message.properties),
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

/** Those that have another value than their profile gives them, or than the process has by itself. */
function ownLimits(limits: Limits): LimitName[] {
  const isAutomatic = limits.memoryBytesMax === automaticMemoryBytes()
  return limitsBesideProfile(limits).filter((name) => name !== 'memoryBytesMax' || !isAutomatic)
}

function take(server: Server): Census {
  const { state } = server
  let queuedMessages = 0
  let inFlightMessages = 0
  for (const session of state.sessions.values()) {
    queuedMessages += session.queueLength
    inFlightMessages += session.inFlightCount
  }
  return {
    connections: server.connectionCount,
    sessions: state.sessions.size,
    subscriptions: state.router.subscriptionCount,
    sharedSubscriptions: state.router.sharedCount,
    retainedMessages: state.retained.count,
    retainedBytes: state.retained.bytes,
    queuedMessages,
    inFlightMessages,
    wills: state.wills.size,
    deadlines: state.deadlines.size,
    waiting: state.waiting.size,
    paused: state.paused.size,
    retainedDeliveries: server.retainedDeliveries,
    memoryBytes: server.memoryBytes(),
    topicBytes: state.usage.topicBytes,
  }
}
