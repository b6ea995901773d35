/** The HTTP listener: all its addresses, with their certificates. Loaded only when it is on. */
import { isIPv6 } from 'node:net'
import { getRequestListener } from '@hono/node-server'
import { SocketLimit } from '../transport/listener/socket-limit.ts'
import { ListenError } from '../transport/tls/listen-error.ts'
import type { CertificateUpdate, ServedCertificates } from '../transport/tls/served-certificates.ts'
import type { HttpContext, HttpSources } from './http-context.ts'
import type { HttpFigures } from './http-figures.ts'
import type { HttpOptions } from './http-options.ts'
import { type HttpSocket, openHttpSocket, type SocketParts } from './http-socket.ts'
import { MetricsPage } from './metrics-page.ts'
import { ProcessWatch } from './process-watch.ts'
import { RequestRate } from './request-rate.ts'
import { httpRoutes } from './routes.ts'

/** An HTTP listener whose sockets are open. */
export interface HttpServer {
  /** The URLs, such as `http://127.0.0.1:18083`. */
  readonly addresses: readonly string[]
  /** Sentences about addresses that could not be opened, for the operator. */
  readonly warnings: readonly string[]
  /** The certificates of each socket; empty without TLS. */
  readonly certificates: readonly ServedCertificates[]
  /** Applies options that `keepsSockets` allows. Resolves with what happened to the certificates. */
  reconfigure(options: HttpOptions, nowMs: number): Promise<CertificateUpdate | null>
  /** Stops listening and closes all connections. */
  close(): Promise<void>
}

/**
 * Opens the listener on all its hosts. An address that is taken or missing becomes a warning unless the
 * options require it. Rejects with ListenError; then nothing stays open.
 */
export async function openHttpServer(
  options: HttpOptions,
  sources: HttpSources,
  figures: HttpFigures,
): Promise<HttpServer> {
  const context: HttpContext = { options, sources, figures }
  const watch = new ProcessWatch()
  const { fetch } = httpRoutes(context, new MetricsPage(context, watch))
  const parts: SocketParts = {
    context,
    handle: getRequestListener(fetch, { overrideGlobalObjects: false }),
    sockets: new SocketLimit(options.connectionsMax),
    rate: new RequestRate(performance.now()),
  }
  const open: HttpSocket[] = []
  const warnings: string[] = []
  for (const host of options.hosts) {
    try {
      open.push(await openHttpSocket(host, parts))
    } catch (error) {
      if (!(error instanceof ListenError)) throw error
      // A machine without IPv6 is no reason to warn.
      if (error.missingAddress && isIPv6(host)) continue
      if (options.isRequired || error.key !== undefined) {
        await Promise.all(open.map((socket) => socket.close()))
        throw error
      }
      warnings.push(
        `${error.message}, so health and metrics are not served there. ${error.advice} ` +
          'Or set http.port, or http.enabled to false.',
      )
    }
  }
  const certificates = open.flatMap(({ certificates: one }) => one ?? [])
  return {
    addresses: open.map(({ address }) => address),
    warnings,
    certificates,
    reconfigure: async (changed, nowMs) => {
      context.options = changed
      let update: CertificateUpdate | null = null
      for (const one of certificates) update = (await one.reread(nowMs, changed.tls)) ?? update
      return update
    },
    close: async () => {
      watch.stop()
      await Promise.all(open.map((socket) => socket.close()))
    },
  }
}
