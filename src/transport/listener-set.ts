/** Opens, changes and closes all listeners of a broker. */
import type { Acceptor } from '../broker/boundary/link.ts'
import { listen, listenAll } from './listen.ts'
import {
  canReconfigure,
  DEFAULT_PORTS,
  type HandshakeObserver,
  type Listener,
  type ListenerOptions,
  type SharedContext,
  type TransportLimits,
} from './listener/listener.ts'
import { ListenError } from './tls/listen-error.ts'
import type { CertificateUpdate } from './tls/served-certificates.ts'
import { serverCredentials } from './tls/tls.ts'

/** An update of certificates and the name of its listener. */
export type ListenerUpdate = CertificateUpdate & { readonly listener: string }

interface Entry {
  readonly options: ListenerOptions
  /** Null for an optional listener whose address this machine does not have. */
  readonly listener: Listener | null
}

/** Holds the open listeners of a broker. */
export class ListenerSet {
  readonly #acceptor: Acceptor
  readonly #limits: TransportLimits
  readonly #observer: HandshakeObserver
  readonly #shared: SharedContext | undefined
  #entries: Entry[] = []

  /** Without `shared` the number of sockets has no limit. */
  constructor(
    acceptor: Acceptor,
    limits: TransportLimits,
    observer: HandshakeObserver,
    shared?: SharedContext,
  ) {
    this.#acceptor = acceptor
    this.#limits = limits
    this.#observer = observer
    this.#shared = shared
  }

  /** The open listeners, in the order of their options. */
  get open(): readonly Listener[] {
    return this.#entries.flatMap(({ listener }) => listener ?? [])
  }

  /** The names of listeners that should be open and are not: another program took their addresses. */
  get missing(): readonly string[] {
    return this.#entries.flatMap(({ options, listener }) =>
      listener === null && options.optional !== true ? [options.name] : [],
    )
  }

  /** Opens all listeners or none: rejects with ListenError. Call this once. */
  async openAll(options: readonly ListenerOptions[]): Promise<void> {
    const opened = await listenAll(options, this.#acceptor, this.#limits, this.#observer, this.#shared)
    this.#entries = options.map((wanted) => ({
      options: wanted,
      listener: opened.find(({ name }) => name === wanted.name) ?? null,
    }))
  }

  /**
   * Opens, updates and closes listeners to match `wanted`; restores the previous set if one fails.
   * A listener stays open if its changes concern only new connections. Connections of closed listeners stay
   * until somebody ends them. Resolves with updates of certificates. Rejects with ListenError.
   */
  async change(wanted: readonly ListenerOptions[], nowMs: number): Promise<ListenerUpdate[]> {
    // Check all certificates before anything is changed.
    for (const { name, tls } of wanted) if (tls !== undefined) serverCredentials(name, tls)
    const before = this.#entries
    const going = before.filter(({ options }) => !wanted.some((one) => canReconfigure(options, one)))
    const coming = wanted.filter((one) => !before.some(({ options }) => canReconfigure(options, one)))
    // A listener can take over an address only once the old listener is closed.
    const blocking = going.filter(({ options }) => coming.some((one) => conflict(options, one)))
    await Promise.all(blocking.map(({ listener }) => listener?.close()))
    const opened: Entry[] = []
    try {
      for (const options of coming) opened.push({ options, listener: await this.#openOne(options) })
    } catch (error) {
      await Promise.all(opened.map(({ listener }) => listener?.close()))
      // If another program has just taken an address, its old listener stays closed.
      const reopened = new Map<Entry, Listener | null>()
      for (const entry of blocking) {
        reopened.set(entry, await this.#openOne(entry.options).catch(() => null))
      }
      this.#entries = before.map((entry) => ({
        ...entry,
        listener: reopened.has(entry) ? reopened.get(entry)! : entry.listener,
      }))
      throw error
    }
    await Promise.all(going.map(({ listener }) => listener?.close()))
    this.#entries = []
    const found: ListenerUpdate[] = []
    for (const options of wanted) {
      const kept = before.find((entry) => canReconfigure(entry.options, options))
      if (kept === undefined) this.#entries.push(opened.find((entry) => entry.options === options)!)
      else {
        kept.listener?.reconfigure(options)
        const update = options.tls && (await kept.listener?.certificates?.reread(nowMs, options.tls))
        if (update) found.push({ ...update, listener: options.name })
        this.#entries.push({ options, listener: kept.listener })
      }
    }
    return found
  }

  /** Checks whether files of certificates have changed. */
  async check(nowMs: number): Promise<ListenerUpdate[]> {
    return this.#updates((listener) => listener.certificates?.check(nowMs))
  }

  /** Reads all certificates again at once. */
  async reread(nowMs: number): Promise<ListenerUpdate[]> {
    return this.#updates((listener) => listener.certificates?.reread(nowMs))
  }

  /** Closes all listeners. Resolves once their addresses are free again. */
  async close(): Promise<void> {
    await Promise.all(this.open.map((listener) => listener.close()))
  }

  async #updates(
    ask: (listener: Listener) => Promise<CertificateUpdate | null> | undefined,
  ): Promise<ListenerUpdate[]> {
    const found: ListenerUpdate[] = []
    for (const listener of this.open) {
      const update = (await ask(listener)) ?? null
      if (update !== null) found.push({ ...update, listener: listener.name })
    }
    return found
  }

  async #openOne(options: ListenerOptions): Promise<Listener | null> {
    try {
      return await listen(options, this.#acceptor, this.#limits, this.#observer, this.#shared)
    } catch (error) {
      if (options.optional === true && error instanceof ListenError && error.missingAddress) return null
      throw error
    }
  }
}

/** Whether the two cannot listen at the same time. Treats one port of two hosts as a conflict, too. */
function conflict(one: ListenerOptions, other: ListenerOptions): boolean {
  if (one.type === 'unix' || other.type === 'unix') return one.type === other.type && one.path === other.path
  const port = ({ type, port: given }: ListenerOptions): number =>
    given ?? DEFAULT_PORTS[type as keyof typeof DEFAULT_PORTS]
  return port(one) !== 0 && port(one) === port(other)
}
