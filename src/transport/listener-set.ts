/** All listeners of a broker: opened together, changed while it runs, closed together. */
import type { Acceptor } from '../broker/boundary/link.ts'
import { listen, listenAll } from './listen.ts'
import {
  DEFAULT_PORTS,
  type HandshakeObserver,
  isInPlace,
  type Listener,
  type ListenerOptions,
  type SharedRoom,
  type TransportLimits,
} from './listener/listener.ts'
import { ListenError } from './tls/listen-error.ts'
import type { CertificateNews } from './tls/served-certificates.ts'
import { serverCredentials } from './tls/tls.ts'

/** Which listener has news of its certificates. */
export type ListenerNews = CertificateNews & { readonly listener: string }

interface Entry {
  readonly options: ListenerOptions
  /** Null for an optional one whose address this machine does not have. */
  readonly listener: Listener | null
}

export class ListenerSet {
  readonly #acceptor: Acceptor
  readonly #limits: TransportLimits
  readonly #observer: HandshakeObserver
  readonly #room: SharedRoom | undefined
  #entries: Entry[] = []

  /** Without `room` there may be any number of sockets. */
  constructor(acceptor: Acceptor, limits: TransportLimits, observer: HandshakeObserver, room?: SharedRoom) {
    this.#acceptor = acceptor
    this.#limits = limits
    this.#observer = observer
    this.#room = room
  }

  /** Those that are open, in the order of their options. */
  get open(): readonly Listener[] {
    return this.#entries.flatMap(({ listener }) => listener ?? [])
  }

  /** Opens all of them, or none: rejects with ListenError. To be called once. */
  async openAll(options: readonly ListenerOptions[]): Promise<void> {
    const opened = await listenAll(options, this.#acceptor, this.#limits, this.#observer, this.#room)
    this.#entries = options.map((wanted) => ({
      options: wanted,
      listener: opened.find(({ name }) => name === wanted.name) ?? null,
    }))
  }

  /**
   * Makes it so that these are open. Those that are the same, or differ only for connections to come, stay open; connections of
   * any other stay, too, until somebody ends them. Resolves with the news of certificates. Rejects with ListenError when one cannot be opened: then those of before are.
   */
  async change(wanted: readonly ListenerOptions[], nowMs: number): Promise<ListenerNews[]> {
    // Everything that can be known to be wrong is looked at before anything is touched.
    for (const { name, tls } of wanted) if (tls !== undefined) serverCredentials(name, tls)
    const before = this.#entries
    const going = before.filter(({ options }) => !wanted.some((one) => isInPlace(options, one)))
    const coming = wanted.filter((one) => !before.some(({ options }) => isInPlace(options, one)))
    // An address that goes from one listener to another is free only once the first is closed.
    const blocking = going.filter(({ options }) => coming.some((one) => contend(options, one)))
    await Promise.all(blocking.map(({ listener }) => listener?.close()))
    const opened: Entry[] = []
    try {
      for (const options of coming) opened.push({ options, listener: await this.#openOne(options) })
    } catch (error) {
      await Promise.all(opened.map(({ listener }) => listener?.close()))
      // What cannot be opened again, since somebody was quicker, is not open: there is no better answer then.
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
    const found: ListenerNews[] = []
    for (const options of wanted) {
      const kept = before.find((entry) => isInPlace(entry.options, options))
      if (kept === undefined) this.#entries.push(opened.find((entry) => entry.options === options)!)
      else {
        kept.listener?.reconfigure(options)
        const news = options.tls && (await kept.listener?.certificates?.reread(nowMs, options.tls))
        if (news) found.push({ ...news, listener: options.name })
        this.#entries.push({ options, listener: kept.listener })
      }
    }
    return found
  }

  /** Looks whether files of certificates have changed. */
  async look(nowMs: number): Promise<ListenerNews[]> {
    return this.#news((listener) => listener.certificates?.look(nowMs))
  }

  /** Reads all certificates again, at once. */
  async reread(nowMs: number): Promise<ListenerNews[]> {
    return this.#news((listener) => listener.certificates?.reread(nowMs))
  }

  async close(): Promise<void> {
    await Promise.all(this.open.map((listener) => listener.close()))
  }

  async #news(
    ask: (listener: Listener) => Promise<CertificateNews | null> | undefined,
  ): Promise<ListenerNews[]> {
    const found: ListenerNews[] = []
    for (const listener of this.open) {
      const news = (await ask(listener)) ?? null
      if (news !== null) found.push({ ...news, listener: listener.name })
    }
    return found
  }

  async #openOne(options: ListenerOptions): Promise<Listener | null> {
    try {
      return await listen(options, this.#acceptor, this.#limits, this.#observer, this.#room)
    } catch (error) {
      if (options.optional === true && error instanceof ListenError && error.missingAddress) return null
      throw error
    }
  }
}

/** Whether the one cannot listen while the other does. */
function contend(one: ListenerOptions, other: ListenerOptions): boolean {
  if (one.type === 'unix' || other.type === 'unix') return one.type === other.type && one.path === other.path
  const port = ({ type, port: given }: ListenerOptions): number =>
    given ?? DEFAULT_PORTS[type as keyof typeof DEFAULT_PORTS]
  return port(one) !== 0 && port(one) === port(other)
}
