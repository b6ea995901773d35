/** Listens for HTTP or HTTPS on one address, within bounds that keep it from starving MQTT. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { createServer as createSecureServer } from 'node:https'
import type { Socket } from 'node:net'
import { bindPort, SOCKET_OPTIONS } from '../transport/listener/bind.ts'
import { queueHandshakes } from '../transport/listener/handshake-queue.ts'
import type { ListenerOptions } from '../transport/listener/listener.ts'
import { admit, Handshakes, TIMER_MS_MAX } from '../transport/listener/peer.ts'
import type { SocketLimit } from '../transport/listener/socket-limit.ts'
import { type ServedCertificates, serveCertificates } from '../transport/tls/served-certificates.ts'
import { clientCertificateOptions } from '../transport/tls/tls.ts'
import type { HttpContext } from './http-context.ts'
import type { HttpRefusal } from './http-figures.ts'
import { HTTP_NAME } from './http-options.ts'
import type { RequestRate } from './request-rate.ts'
import { type RequestPlace, requestRefusal } from './request-refusal.ts'

/** The time for the TLS handshake and the first request, and for each further request. */
const REQUEST_MS = 10_000

/** The time that a client may take to read an answer. */
const ANSWER_MS = 10_000

/** An idle connection is closed after this time. */
const IDLE_MS = 5_000

/** Requests beyond the rate wait so long for their refusal. */
const REFUSAL_DELAY_MS = 100

const HTTP_OPTIONS = {
  ...SOCKET_OPTIONS,
  headersTimeout: REQUEST_MS,
  requestTimeout: REQUEST_MS,
  connectionsCheckingInterval: 1000,
  keepAliveTimeout: IDLE_MS,
  maxHeaderSize: 16 * 1024,
}

/** Mistakes that have an answer of their own, by Node's codes. */
const MISTAKES: Readonly<Record<string, readonly [reason: HttpRefusal, status: string]>> = {
  ERR_HTTP_REQUEST_TIMEOUT: ['timeout', '408 Request Timeout'],
  HPE_HEADER_OVERFLOW: ['malformed', '431 Request Header Fields Too Large'],
}

/** The parts that the sockets of one HTTP listener share. */
export interface SocketParts {
  readonly context: HttpContext
  readonly handle: (request: IncomingMessage, response: ServerResponse) => Promise<void>
  readonly sockets: SocketLimit
  readonly rate: RequestRate
}

/** An open address. */
export interface HttpSocket {
  /** The URL, such as `http://127.0.0.1:18083`. */
  readonly address: string
  readonly port: number
  readonly certificates: ServedCertificates | null
  /** Stops listening and closes all connections. Idempotent. */
  close(): Promise<void>
}

/** Listens on a host. Rejects with ListenError. */
export async function openHttpSocket(host: string, parts: SocketParts): Promise<HttpSocket> {
  const { sources, figures, options } = parts.context
  const { port: wanted, tls } = options
  const secureServer = tls === undefined ? null : makeSecureServer()
  const server: Server = secureServer ?? createServer(HTTP_OPTIONS)
  const refused: Refused = (reason) => {
    figures.refusals[reason]++
  }
  const handshakes = new Handshakes(REQUEST_MS, () => refused('timeout'))
  if (secureServer === null) server.on('connection', (socket: Socket) => handshakes.add(socket))
  else queueHandshakes(secureServer, handshakes)
  const shared = { sockets: parts.sockets, isBanned: sources.isBanned, refused: () => refused('connections') }
  admit({ shared }, server)
  const certificates = secureServer === null ? null : serveCertificates(HTTP_NAME, tls, secureServer)
  server.on('clientError', (error, socket: Socket) => answerMistake(error, socket, refused))
  answerRequests(
    server,
    { host, certificates, machineNames: sources.machineNames },
    handshakes,
    parts,
    refused,
  )
  const { port, address } = await bindPort(server, bound(host, wanted, tls !== undefined), schemeOf(tls), '')
  let closed: Promise<void> | null = null
  return {
    address,
    port,
    certificates,
    close: () => {
      closed ??= new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
        handshakes.destroyAll()
      })
      return closed
    },
  }
}

type Refused = (reason: HttpRefusal) => void

function makeSecureServer(): ReturnType<typeof createSecureServer> {
  const options = { ...HTTP_OPTIONS, ...clientCertificateOptions(undefined), handshakeTimeout: TIMER_MS_MAX }
  return createSecureServer(options)
}

function schemeOf(tls: unknown): string {
  return tls === undefined ? 'http' : 'https'
}

function bound(host: string, port: number, isSecure: boolean): ListenerOptions {
  return { name: HTTP_NAME, type: isSecure ? 'wss' : 'ws', host, port, allowAnonymous: false }
}

/** Answers requests, or refuses them. */
function answerRequests(
  server: Server,
  place: RequestPlace,
  handshakes: Handshakes,
  { context, rate, handle }: SocketParts,
  refused: Refused,
): void {
  const answering = new WeakSet<Socket>()
  server.on('request', (request, response) => {
    const { socket } = request
    handshakes.done(socket)
    context.figures.requests++
    // Otherwise one connection could have any number of requests under way.
    if (answering.has(socket)) {
      refused('pipelined')
      socket.destroy()
      return
    }
    answering.add(socket)
    limitAnswer(response, socket, () => refused('slow_reader'))
    response.once('close', () => answering.delete(socket))
    if (!rate.take(performance.now())) {
      refused('rate')
      const text = 'There are too many requests. Ask again in a second.'
      setTimeout(() => refuse(response, 429, text), REFUSAL_DELAY_MS).unref()
      return
    }
    const refusal = requestRefusal(request, place)
    if (refusal === null) {
      // The handler of Hono's adapter never rejects.
      void handle(request, response)
      return
    }
    refused(refusal.reason)
    refuse(response, refusal.status, refusal.text)
  })
}

/** Answers what is no whole HTTP request. */
function answerMistake(error: NodeJS.ErrnoException, socket: Socket, refused: Refused): void {
  const [reason, status = '400 Bad Request'] = MISTAKES[error.code ?? ''] ?? []
  const isHttp = error.code?.startsWith('HPE_') === true
  if (reason !== undefined || isHttp) refused(reason ?? 'malformed')
  if (!socket.writable || (reason === undefined && !isHttp)) socket.destroy()
  else socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`)
}

/** Ends the connection of a client that does not read its answer in time. */
function limitAnswer(response: ServerResponse, socket: Socket, late: () => void): void {
  const timer = setTimeout(() => {
    late()
    socket.destroy()
  }, ANSWER_MS).unref()
  response.once('close', () => clearTimeout(timer))
}

function refuse(response: ServerResponse, status: number, text: string): void {
  const body = `${text}\n`
  response.writeHead(status, {
    Connection: 'close',
    'Content-Type': 'text/plain; charset=utf-8',
    'Content-Length': Buffer.byteLength(body),
    'Cache-Control': 'no-store',
    'X-Content-Type-Options': 'nosniff',
  })
  response.end(body)
}
