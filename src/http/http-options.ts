/** PURE. The options of the HTTP listener. */
import type { TlsOptions } from '../transport/tls/tls.ts'

/** The name of the listener in logs, errors and metrics. */
export const HTTP_NAME = 'http'

/** The default addresses, which only this machine can reach. */
export const HTTP_HOSTS: readonly string[] = ['127.0.0.1', '::1']

export const HTTP_PORT = 18_083

/** Connections at a time. They come out of `RESERVED_FILES` of `transport/open-files.ts`. */
export const HTTP_CONNECTIONS_MAX = 32

/** The options of the HTTP listener. */
export interface HttpOptions {
  /** Addresses or host names of this machine. An IPv6 address that it does not have is left out. */
  readonly hosts: readonly string[]
  /** 0 takes a free one for each host. */
  readonly port: number
  /** Certificate and key; plain HTTP when absent. */
  readonly tls?: TlsOptions
  /** Whether an address that is taken or missing fails the start. Otherwise it is a warning. */
  readonly isRequired: boolean
  /** Open connections of all hosts together. */
  readonly connectionsMax: number
  /** Whether `/metrics` is served. */
  readonly metrics: boolean
  /**
   * SHA-256 of the tokens that `/metrics` asks for, 64 hexadecimal digits each. Without any, only this
   * machine gets metrics.
   */
  readonly metricsTokenHashes: readonly string[]
}

/** Returns options with their defaults filled in. */
export function completeHttp(given: Partial<HttpOptions>): HttpOptions {
  return {
    hosts: HTTP_HOSTS,
    port: HTTP_PORT,
    isRequired: true,
    connectionsMax: HTTP_CONNECTIONS_MAX,
    metrics: true,
    metricsTokenHashes: [],
    ...given,
  }
}

/** Whether a listener can change its options while its sockets stay open. */
export function keepsSockets(from: HttpOptions, to: HttpOptions): boolean {
  const place = ({ hosts, port, tls, connectionsMax }: HttpOptions): string =>
    JSON.stringify([hosts, port, tls !== undefined, connectionsMax])
  return place(from) === place(to)
}
