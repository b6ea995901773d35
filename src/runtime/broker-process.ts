/** Runs a whole broker in this process, from its start to its end. */

import { controlCommands, type ManagedBroker } from '../admin/commands.ts'
import { type ControlSocket, openControlSocket } from '../admin/control.ts'
import type { Limit } from '../broker/boundary/events.ts'
import { type Limits, limitChanges, limitsWith } from '../broker/boundary/limits.ts'
import type { LinkInfo } from '../broker/boundary/link.ts'
import type { Server } from '../broker/server.ts'
import { type CutOff, cutOffReason } from '../config/changes.ts'
import { automaticMemoryBytes } from '../config/memory.ts'
import { completeHttp, type HttpOptions } from '../http/http-options.ts'
import { Reason } from '../mqtt/reason.ts'
import { type Snapshot, takeSnapshot } from '../observe/snapshot.ts'
import { attachSys } from '../observe/sys.ts'
import { withKeptFiles } from '../store/files/kept-files.ts'
import { containerChunks } from '../store/format/container.ts'
import { LevelStore } from '../store/level/level-store.ts'
import type { Listener, ListenerOptions } from '../transport/listener/listener.ts'
import { SocketLimit } from '../transport/listener/socket-limit.ts'
import { ListenerSet } from '../transport/listener-set.ts'
import { type OpenFiles, openFiles, openFilesMax, openFilesReason } from '../transport/open-files.ts'
import { type BrokerCore, startCore } from './broker-core.ts'
import {
  type BrokerChanges,
  type BrokerOptions,
  completeListeners,
  type GivenListener,
  queuesOf,
} from './broker-options.ts'
import { CertificateWatch, together } from './certificates/certificate-watch.ts'
import { thisMachine } from './certificates/machine.ts'
import { Renewal } from './certificates/renewal.ts'
import { type DoorBroker, HttpDoor } from './http-door.ts'
import { accessCommands } from './running-access.ts'
import { brokerStatus } from './status.ts'
import { Ticker } from './ticker.ts'

/** The ticker waits at least so long between two ticks; the standard's times are in seconds. */
const TICK_MS = 100

/** The settings that a reconfiguration changes. */
interface LiveSettings {
  /** The limits that were given, without those of the profile. */
  given: Partial<Limits>
  /** All limits in force. Everything shares this object, so that a change reaches all of it. */
  readonly limits: Limits
  listeners: readonly ListenerOptions[]
}

/** The listeners, and the sockets that they may use. */
interface Opened {
  readonly listeners: ListenerSet
  readonly http: HttpDoor
  readonly files: OpenFiles
  readonly sockets: SocketLimit
}

/**
 * Starts a broker. Rejects with StoreError, ListenError, or the problem of a file of `access`; nothing stays
 * open then.
 */
export async function startProcess(options: BrokerOptions): Promise<BrokerProcess> {
  const given: Partial<Limits> = { memoryBytesMax: automaticMemoryBytes(), ...options.limits }
  const settings: LiveSettings = { given, limits: limitsWith(given), listeners: [] }
  const http = new HttpDoor()
  await http.change(httpOf(options.http), Date.now())
  const opened = await startBehind(http, options, settings)
  const broker = new BrokerProcess(options, settings, opened.core, opened)
  await broker.openControlSocket()
  return broker
}

/** Starts the core and opens its listeners. If that fails, the HTTP listener closes, too. */
async function startBehind(
  http: HttpDoor,
  options: BrokerOptions,
  settings: LiveSettings,
): Promise<Opened & { readonly core: BrokerCore }> {
  let core: BrokerCore | null = null
  try {
    core = await startCore(options, settings.limits, () => settings.listeners)
    settings.listeners = completeListeners(options.listeners ?? [], core.policy)
    const opened = { ...prepareListeners(options, settings.limits, core), http, core }
    await opened.listeners.openAll(settings.listeners)
    return opened
  } catch (error) {
    await http.close()
    if (core !== null) await (core.store instanceof LevelStore ? core.store.abandon() : core.store.close())
    throw error
  }
}

/** Returns the options of the HTTP listener with their defaults; null for none. */
function httpOf(given: BrokerOptions['http']): HttpOptions | null {
  return given === undefined || given === null ? null : completeHttp(given)
}

function prepareListeners(
  options: BrokerOptions,
  limits: Limits,
  { server, access }: BrokerCore,
): Omit<Opened, 'http'> {
  const { state } = server
  const observer = (link: LinkInfo, reason: string, limit?: Limit): void => {
    state.counters.connectionsRefused++
    if (limit !== undefined) state.counters.limits[limit]++
    state.events.emit('refused', { clientId: '', link, reasonCode: Reason.UnspecifiedError, reason })
  }
  const files = openFiles(options.openFilesMax ?? openFilesMax())
  const sockets = new SocketLimit(files.connectionsMax)
  state.newcomerCount = () => sockets.sockets - state.counters.clientsConnected
  const listeners = new ListenerSet(server, limits, observer, {
    sockets,
    hasUsers: () => access?.hasUsers === true,
    isBanned: (remoteAddress) => isBanned(server, remoteAddress),
    machineNames: () => Object.values(thisMachine()).flat(),
    refused: (remoteAddress) => server.turnedAway(`${openFilesReason(files)}; refused ${remoteAddress}`),
  })
  return { listeners, files, sockets }
}

function isBanned(server: Server, remoteAddress: string): boolean {
  return !server.state.bans.sparesAddresses && server.refusesAddress(remoteAddress)
}

/** A broker whose listeners are open. */
export class BrokerProcess {
  readonly core: BrokerCore
  readonly openFiles: OpenFiles
  readonly #options: BrokerOptions
  readonly #settings: LiveSettings
  readonly #server: Server
  readonly #opened: Opened
  readonly #certificates: CertificateWatch
  readonly #ticker: Ticker
  readonly #startedAtMs = performance.now()
  #detachSys: () => void
  #controlSocket: ControlSocket | null = null
  #controlNotice: string | undefined
  #closing: Promise<void> | null = null

  constructor(options: BrokerOptions, settings: LiveSettings, core: BrokerCore, opened: Opened) {
    this.core = core
    this.openFiles = opened.files
    this.#options = options
    this.#settings = settings
    this.#server = core.server
    this.#opened = opened
    const { dataDirectory, renewsCertificates = false } = options
    const renewal = renewsCertificates && dataDirectory !== undefined ? new Renewal(dataDirectory) : null
    this.#certificates = new CertificateWatch(
      together(opened.listeners, opened.http),
      core.server.state.events,
      renewal,
    )
    core.access?.watch()
    this.#ticker = new Ticker(core.server, TICK_MS)
    this.#detachSys = this.#attachSys(options.sysIntervalSeconds ?? 0)
    opened.http.started({
      readiness: () => this.#readiness(),
      isBanned: (remoteAddress) => isBanned(core.server, remoteAddress),
      snapshot: () => this.#snapshot(),
      queues: core.server.queueOperator,
    })
  }

  get listeners(): readonly Listener[] {
    return this.#opened.listeners.open
  }

  /** The URLs of the HTTP listener; empty without one. */
  get httpAddresses(): readonly string[] {
    return this.#opened.http.addresses
  }

  /** Sentences about addresses of the HTTP listener that could not be opened. */
  get httpWarnings(): readonly string[] {
    return this.#opened.http.warnings
  }

  /** The notices of the start for the operator; undefined without any. */
  get notice(): string | undefined {
    return [this.core.notice, this.#controlNotice].filter((text) => text !== undefined).join(' ') || undefined
  }

  /** Opens the control socket if the options ask for it. A failure becomes a notice: clients come first. */
  async openControlSocket(): Promise<void> {
    const { dataDirectory, controlSocket = false, durability, controlCommands: others } = this.#options
    if (dataDirectory === undefined || !controlSocket || durability === 'memory') return
    try {
      const commands = { ...controlCommands(dataDirectory, this.#managed()), ...others }
      this.#controlSocket = await openControlSocket(dataDirectory, commands)
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error)
      this.#controlNotice = `\`godwit status\` and \`godwit backup\` cannot reach this broker: ${reason}.`
    }
  }

  /** Returns the bytes of a backup file. Throws RangeError if the broker stores nothing. */
  backup(): AsyncGenerator<Buffer> {
    const { store } = this.core
    if (!(store instanceof LevelStore)) {
      throw new RangeError('a broker that stores nothing has nothing to back up')
    }
    const slices = withKeptFiles(this.#options.dataDirectory!, store.snapshot())
    return containerChunks(slices, Date.now(), store.format)
  }

  /** Applies changes; see `Broker.reconfigure`. */
  async reconfigure(changes: BrokerChanges): Promise<readonly CutOff[]> {
    const cutOff = await this.#changeDoors(changes)
    if (changes.limits !== undefined) await this.#changeLimits(changes.limits)
    if (changes.queues !== undefined) this.#server.queues?.configure(queuesOf(changes))
    if (changes.sysIntervalSeconds !== undefined) {
      this.#detachSys()
      this.#detachSys = this.#attachSys(changes.sysIntervalSeconds)
    }
    return cutOff
  }

  /** Lists the clients that these listeners would not accept. */
  cutOffBy(given: readonly GivenListener[]): CutOff[] {
    const { access, policy } = this.core
    const after = completeListeners(given, policy)
    const acceptsAnonymous = access === null ? undefined : (link: LinkInfo) => access.letsInAnonymous(link)
    return [...this.#server.state.connected.values()].flatMap(({ view: { clientId, userName, link } }) => {
      const reason = cutOffReason(link, userName, after, acceptsAnonymous)
      return reason === null ? [] : [{ clientId, listener: link.listener, reason }]
    })
  }

  /** Reads certificates, users, rights and bans again. */
  async reread(): Promise<void> {
    await this.#certificates.reread()
    await this.core.access?.reload('now')
    await this.core.guard.reread()
  }

  /**
   * Ends the broker. `stopConsumers` ends the consumers in this process, which the broker waits for. Further
   * calls return the same promise.
   */
  close(seconds: number, stopConsumers: () => Promise<void>): Promise<void> {
    this.#closing ??= this.#close(seconds, stopConsumers)
    return this.#closing
  }

  async #close(seconds: number, stopConsumers: () => Promise<void>): Promise<void> {
    const before = performance.now()
    this.#opened.http.stopping()
    await within(seconds, (timeout) => Promise.race([stopConsumers(), timeout]))
    const left = Math.max(0, seconds - (performance.now() - before) / 1000)
    this.#certificates.stop()
    const listening = this.#opened.listeners.close()
    this.#detachSys()
    this.core.access?.close()
    await this.#controlSocket?.close()
    await within(left, (timeout) => this.#server.stop(timeout))
    await this.core.guard.close()
    this.#ticker.stop()
    await listening
    await this.#opened.http.close()
  }

  /** Changes the HTTP listener and all others, or neither. */
  async #changeDoors({ http: given, listeners }: BrokerChanges): Promise<readonly CutOff[]> {
    const { http } = this.#opened
    const before = http.options
    if (given !== undefined) this.#certificates.tell(await http.change(httpOf(given), Date.now()))
    try {
      return listeners === undefined ? [] : await this.#changeListeners(listeners)
    } catch (error) {
      // The listener of MQTT is the error that the operator must see.
      if (given !== undefined) await http.change(before, Date.now()).catch(() => {})
      throw error
    }
  }

  async #changeListeners(given: readonly GivenListener[]): Promise<readonly CutOff[]> {
    const after = completeListeners(given, this.core.policy)
    this.#certificates.tell(await this.#opened.listeners.change(after, Date.now()))
    this.#settings.listeners = after
    const cutOff = this.cutOffBy(given)
    for (const { clientId, reason } of cutOff) {
      this.#server.disconnect(clientId, Reason.AdministrativeAction, reason)
    }
    return cutOff
  }

  async #changeLimits(changes: Partial<Limits>): Promise<void> {
    const settings = this.#settings
    const { sessionExpirySecondsMax: before } = settings.limits
    Object.assign(settings.limits, limitChanges(settings.given, changes))
    settings.given = { ...settings.given, ...changes }
    if (settings.limits.sessionExpirySecondsMax < before) await this.#server.capSessions()
  }

  #attachSys(seconds: number): () => void {
    return attachSys(this.#server, () => this.#snapshot(), seconds)
  }

  /** Reads all counters, gauges and histograms. */
  #snapshot(): Snapshot {
    const { files, sockets } = this.#opened
    return takeSnapshot({
      server: this.#server,
      startedAtMs: this.#startedAtMs,
      sockets: { ...files, open: sockets.sockets },
      certificateDays: this.#certificates.daysLeft(),
    })
  }

  #readiness(): ReturnType<DoorBroker['readiness']> {
    const { listeners, files, sockets } = this.#opened
    const { state } = this.#server
    return {
      health: this.#server.health,
      closedListeners: listeners.missing,
      clients: state.connected.size,
      clientsMax: state.limits.connectionsMax,
      sockets: sockets.sockets,
      socketsMax: files.connectionsMax,
    }
  }

  #managed(): ManagedBroker {
    const { server, access, keeping, guard } = this.core
    const sources = {
      options: this.#options,
      limits: this.#settings.limits,
      server,
      listeners: this.#opened.listeners,
      certificates: this.#certificates,
      snapshot: () => this.#snapshot(),
    }
    return {
      backup: () => this.backup(),
      commands: { ...guard.commands(), ...(access === null ? {} : accessCommands(access, server, keeping)) },
      inventory: server.inventory,
      queues: server.queueOperator,
      tell: (event) => server.state.events.emit('security', event),
      status: () => brokerStatus(sources),
    }
  }
}

/** Does something, but stops waiting for it after so many seconds; `timeout` resolves then. */
async function within(seconds: number, run: (timeout: Promise<void>) => Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, seconds * 1000)
  })
  try {
    await run(timeout)
  } finally {
    clearTimeout(timer)
  }
}
