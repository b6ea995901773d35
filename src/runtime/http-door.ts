/** Opens, changes and closes the HTTP listener of a broker, which is loaded only then. */
import type { QueueOperator } from '../broker/queues/queue-view.ts'
import { HttpFigures } from '../http/http-figures.ts'
import { HTTP_NAME, type HttpOptions, keepsSockets } from '../http/http-options.ts'
import type { HttpServer } from '../http/http-server.ts'
import { type ReadinessFacts, readinessOf } from '../http/readiness.ts'
import type { Snapshot } from '../observe/snapshot.ts'
import type { ListenerUpdate } from '../transport/listener-set.ts'
import type { CertificateUpdate, ServedCertificates } from '../transport/tls/served-certificates.ts'
import { thisMachine } from './certificates/machine.ts'
import { version } from './version.ts'

/** The functions that the door asks of a broker that has started. */
export interface DoorBroker {
  readonly readiness: () => Omit<ReadinessFacts, 'phase'>
  readonly isBanned: (remoteAddress: string) => boolean
  readonly snapshot: () => Snapshot
  readonly queues: QueueOperator | null
}

const STARTING = 'The broker is starting: it reads its store.'

const NOTHING_YET: Omit<ReadinessFacts, 'phase'> = {
  health: { state: 'ok', detail: '' },
  closedListeners: [],
  clients: 0,
  clientsMax: Number.POSITIVE_INFINITY,
  sockets: 0,
  socketsMax: Number.POSITIVE_INFINITY,
}

/** Holds the HTTP listener. It opens before the store, so that a probe sees a long start. */
export class HttpDoor {
  readonly figures = new HttpFigures()
  #options: HttpOptions | null = null
  #server: HttpServer | null = null
  #broker: DoorBroker | null = null
  #phase: string | null = STARTING

  /** The options in force; null without a listener. */
  get options(): HttpOptions | null {
    return this.#options
  }

  /** The URLs of the open listener. */
  get addresses(): readonly string[] {
    return this.#server?.addresses ?? []
  }

  /** Sentences about addresses that could not be opened. */
  get warnings(): readonly string[] {
    return this.#server?.warnings ?? []
  }

  /** The listener with its certificates; empty without TLS. Its sockets serve the same ones. */
  get open(): readonly { readonly name: string; readonly certificates: ServedCertificates }[] {
    const [certificates] = this.#server?.certificates ?? []
    return certificates === undefined ? [] : [{ name: HTTP_NAME, certificates }]
  }

  /** The broker has started. */
  started(broker: DoorBroker): void {
    this.#broker = broker
    this.#phase = null
  }

  /** The broker stops: from now on it is not ready. */
  stopping(): void {
    this.#phase = 'The broker is stopping.'
  }

  /**
   * Opens, changes or closes the listener. Rejects with ListenError; then the former one is open again,
   * unless another program has taken its address meanwhile. Resolves with updates of certificates.
   */
  async change(options: HttpOptions | null, nowMs: number): Promise<ListenerUpdate[]> {
    const [before, server] = [this.#options, this.#server]
    if (server !== null && before !== null && options !== null && keepsSockets(before, options)) {
      const update = await server.reconfigure(options, nowMs)
      this.#options = options
      return update === null ? [] : [{ ...update, listener: HTTP_NAME }]
    }
    await this.#close()
    if (options === null) return []
    try {
      this.#server = await this.#opened(options)
      this.#options = options
      return []
    } catch (error) {
      if (before === null) throw error
      this.#server = await this.#opened(before).catch(() => null)
      this.#options = before
      throw error
    }
  }

  /** Checks whether files of certificates have changed. */
  check(nowMs: number): Promise<ListenerUpdate[]> {
    return this.#updates((certificates) => certificates.check(nowMs))
  }

  /** Reads all certificates again at once. */
  reread(nowMs: number): Promise<ListenerUpdate[]> {
    return this.#updates((certificates) => certificates.reread(nowMs))
  }

  close(): Promise<void> {
    return this.#close()
  }

  async #close(): Promise<void> {
    const server = this.#server
    this.#server = null
    this.#options = null
    await server?.close()
  }

  async #opened(options: HttpOptions): Promise<HttpServer> {
    const { openHttpServer } = await import('../http/http-server.ts')
    const release = version()
    const sources = {
      readiness: () => readinessOf({ phase: this.#phase, ...(this.#broker?.readiness() ?? NOTHING_YET) }),
      isRunning: () => this.#phase === null,
      metrics: () => {
        const broker = this.#phase === null ? this.#broker : null
        if (broker === null) return null
        return { snapshot: broker.snapshot(), queues: broker.queues, version: release }
      },
      machineNames: () => Object.values(thisMachine()).flat(),
      isBanned: (remoteAddress: string) => this.#broker?.isBanned(remoteAddress) === true,
    }
    return openHttpServer(options, sources, this.figures)
  }

  async #updates(
    ask: (certificates: ServedCertificates) => Promise<CertificateUpdate | null>,
  ): Promise<ListenerUpdate[]> {
    let found: CertificateUpdate | null = null
    for (const certificates of this.#server?.certificates ?? []) found = (await ask(certificates)) ?? found
    return found === null ? [] : [{ ...found, listener: HTTP_NAME }]
  }
}
