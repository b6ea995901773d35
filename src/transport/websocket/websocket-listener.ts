/** Listens for MQTT over WebSocket (MQTT 5.0 section 6), plain or secure. */
import { createServer, type IncomingMessage, type Server, STATUS_CODES } from 'node:http'
import { createServer as createSecureServer, type Server as SecureServer } from 'node:https'
import { isIPv6, type Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { TLSSocket } from 'node:tls'
import { WebSocketServer } from 'ws'
import type { Limit } from '../../broker/boundary/events.ts'
import { bindPort, SOCKET_OPTIONS } from '../listener/bind.ts'
import { queueHandshakes } from '../listener/handshake-queue.ts'
import type { Listener, ListenerContext } from '../listener/listener.ts'
import { originRefusal } from '../listener/page-origin.ts'
import { admit, Handshakes, linkInfo, plainAddress, TIMER_MS_MAX } from '../listener/peer.ts'
import { ReadBuffer } from '../sockets/read-buffer.ts'
import { ScratchBuffers } from '../sockets/send-queue.ts'
import { clientCertificate } from '../tls/client-certificate.ts'
import { handshakeFailure } from '../tls/handshake-error.ts'
import { type ServedCertificates, serveCertificates } from '../tls/served-certificates.ts'
import { clientCertificateOptions } from '../tls/tls.ts'
import { HEADER_BYTES_MAX } from './websocket-frames.ts'
import { WebSocketLink } from './websocket-link.ts'
import { isPathOf, type RequestTarget, requestTarget } from './websocket-target.ts'

const DEFAULT_PATH = '/mqtt'

const NO_BYTES = Buffer.alloc(0)

/** In order of preference: `mqtt` [MQTT-6.0.0-3], and the subprotocol of MQTT 3.1. */
const SUBPROTOCOLS = ['mqtt', 'mqttv3.1']

/** The memory that the Links of one listener share. */
interface LinkMemory {
  readonly scratchBuffers: ScratchBuffers | null
  readonly readBuffer: ReadBuffer
}

/** An HTTP answer that refuses a WebSocket. */
interface Refusal {
  readonly status: number
  readonly text: string
  /** The text for the log, if it differs from the answer. */
  readonly detail?: string
  readonly limit?: Limit
}

const HTTP_OPTIONS = {
  ...SOCKET_OPTIONS,
  // `Handshakes` enforces the time-out.
  headersTimeout: 0,
  requestTimeout: 0,
  keepAliveTimeout: 1,
  maxHeaderSize: 16 * 1024,
}

/** Reports a refused client to the observer. */
type Refused = (socket: Socket, reason: string, limit?: Limit) => void

/** Listens for `ws` or `wss`. Rejects with ListenError. */
export async function listenForWebSockets(context: ListenerContext): Promise<Listener> {
  const { options, limits } = context
  const path = options.webSocketPath ?? DEFAULT_PATH
  const timeoutMs = limits.connectTimeoutSeconds * 1000
  const secure = options.type === 'wss'
  const secureServer = secure ? makeSecureServer(options) : null
  const server: Server = secureServer ?? createServer(HTTP_OPTIONS)
  const refused: Refused = (socket, reason, limit) =>
    context.observer(linkInfo(context.options, socket), reason, limit)
  const handshakes = new Handshakes(timeoutMs, (socket) =>
    refused(socket, 'the WebSocket handshake took too long'),
  )
  if (secureServer === null) server.on('connection', (socket: Socket) => handshakes.add(socket))
  else queueHandshakes(secureServer, handshakes)
  admit(context, server)
  const certificates =
    secureServer === null ? null : serveCertificates(options.name, options.tls, secureServer)
  const webSockets = webSocketServer(refused)
  const memory: LinkMemory = {
    // TLS reports a write as taken before it encrypts it, so memory cannot be reused.
    scratchBuffers: secure ? null : new ScratchBuffers(HEADER_BYTES_MAX),
    readBuffer: new ReadBuffer(),
  }

  refuseOthers(server, secure, path, refused)
  server.on('upgrade', (request, socket: Socket, head) => {
    const target = requestTarget(request.url, request.headers.host)
    const url = urlFor(target, socket, secure, path)
    const refusal =
      refusalOfPath(target, `There is nothing here. MQTT over WebSocket is at ${url}`, path) ??
      refusalOfOrigin(request, socket, target, context, certificates) ??
      refusalOfSubprotocol(request)
    if (refusal !== undefined) {
      refused(socket, refusal.detail ?? refusal.text, refusal.limit)
      answer(socket, refusal)
      return
    }
    webSockets.handleUpgrade(request, new OpeningHandshake(socket), NO_BYTES, () => {
      const handshakeMs = handshakes.done(socket)
      if (server.listening) accept(context, socket, head, handshakeMs, memory)
      else socket.destroy()
    })
  })
  const { port, address } = await bindPort(server, options, secure ? 'wss' : 'ws', path)
  return {
    name: options.name,
    type: options.type,
    address,
    port,
    certificates,
    reconfigure: (changed) => {
      context.options = changed
    },
    close: async () => {
      server.close()
      server.closeAllConnections()
      handshakes.destroyAll()
    },
  }
}

function makeSecureServer({ tls }: ListenerContext['options']): SecureServer {
  const options = { ...HTTP_OPTIONS, ...clientCertificateOptions(tls), handshakeTimeout: TIMER_MS_MAX }
  return createSecureServer(options)
}

/** Makes the part of `ws` that checks and answers opening handshakes. */
function webSocketServer(refused: Refused): WebSocketServer {
  const webSockets = new WebSocketServer({
    noServer: true,
    clientTracking: false,
    perMessageDeflate: false,
    handleProtocols: (offered) => chosenSubprotocol(offered) ?? false,
  })
  webSockets.on('wsClientError', (error, opening) => {
    const { socket } = opening as OpeningHandshake
    refused(socket, error.message)
    answer(socket, { status: 400, text: error.message })
  })
  return webSockets
}

/** Answers what is no WebSocket handshake: failed TLS handshakes, other protocols, plain HTTP requests. */
function refuseOthers(server: Server, secure: boolean, path: string, refused: Refused): void {
  // This includes TLS: Node's HTTPS server reports failed handshakes as client errors.
  server.on('clientError', (error: NodeJS.ErrnoException, socket: Socket) => {
    const isHttp = error.code?.startsWith('HPE_') === true
    if (isHttp) refused(socket, `not HTTP: ${error.message}`)
    else if (secure) refused(socket, handshakeFailure(error))
    if (isHttp && socket.writable) answer(socket, { status: 400, text: 'This is not HTTP.' })
    else socket.destroy()
  })
  server.on('request', (request, response) => {
    const target = requestTarget(request.url, request.headers.host)
    const url = urlFor(target, request.socket, secure, path)
    const text = `This is an MQTT broker. Connect to ${url} with a WebSocket and the subprotocol "mqtt".`
    const { status, detail } = refusalOfPath(target, text, path) ?? { status: 426, detail: '' }
    refused(request.socket, `an HTTP request that does not ask for a WebSocket${detail && `: ${detail}`}`)
    response.writeHead(status, { ...headers(text), ...(status === 426 && { Upgrade: 'websocket' }) })
    response.end(text)
  })
}

/**
 * Stands in for the socket while `ws` checks and answers the opening handshake. The socket stays ours,
 * because `ws` only passes on whole messages and would collect whatever a client announces before we can
 * refuse it.
 */
class OpeningHandshake extends Duplex {
  readonly socket: Socket

  constructor(socket: Socket) {
    super()
    this.socket = socket
  }

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.socket.write(chunk)
    done()
  }

  override _read(): void {}
}

function accept(
  context: ListenerContext,
  socket: Socket,
  head: Buffer,
  handshakeMs: number,
  { scratchBuffers, readBuffer }: LinkMemory,
): void {
  const { options } = context
  const shown = socket instanceof TLSSocket ? clientCertificate(socket, options.tls, Date.now()) : {}
  const link = new WebSocketLink(socket, linkInfo(options, socket, { handshakeMs, ...shown }), scratchBuffers)
  const handler = context.acceptor.accept(link)
  if (handler === null) link.destroy()
  else link.start(handler, head, readBuffer)
}

function chosenSubprotocol(offered: ReadonlySet<string>): string | undefined {
  return SUBPROTOCOLS.find((name) => offered.has(name))
}

function refusalOfPath(target: RequestTarget, text: string, path: string): Refusal | undefined {
  if (isPathOf(target, path)) return undefined
  const asked = target.path === null ? 'no path' : `the path ${target.path}`
  return { status: 404, text, detail: `${asked} was requested. ${text}` }
}

/** Refuses pages by the origin that browsers send. Other programs can send any origin or none. */
function refusalOfOrigin(
  request: IncomingMessage,
  socket: Socket,
  { host }: RequestTarget,
  { options, shared }: ListenerContext,
  certificates: ServedCertificates | null,
): Refusal | undefined {
  const { origin } = request.headers
  const local = plainAddress(socket.localAddress ?? '')
  const isKnownName = (name: string): boolean =>
    name === local || certificates?.covers(name) === true || shared.machineNames?.().includes(name) === true
  const situation = { hasUsers: shared.hasUsers?.() === true, isKnownName }
  const refusal = originRefusal(options, { origin, host, port: socket.localPort ?? 0 }, situation)
  if (refusal === null) return undefined
  const { reason, advice } = refusal
  const detail = `${reason}: see allowed_origins`
  return { status: 403, text: `${capitalized(reason)}. ${advice}`, detail, limit: 'allowedOrigins' }
}

/** Returns the URL of MQTT with the host that the client used, which differs from ours behind a proxy. */
function urlFor({ host }: RequestTarget, socket: Socket, secure: boolean, path: string): string {
  const local = plainAddress(socket.localAddress ?? '')
  const own = `${isIPv6(local) ? `[${local}]` : local}:${socket.localPort}`
  return `${secure ? 'wss' : 'ws'}://${/^[\w.:[\]-]{1,260}$/.test(host) ? host : own}${path}`
}

function capitalized(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1)
}

/** Refuses a client that does not offer the subprotocol `mqtt` [MQTT-6.0.0-3]. */
function refusalOfSubprotocol(request: IncomingMessage): Refusal | undefined {
  const offered = request.headers['sec-websocket-protocol']?.split(',').map((name) => name.trim()) ?? []
  if (chosenSubprotocol(new Set(offered)) !== undefined) return undefined
  return { status: 400, text: 'The WebSocket must offer the subprotocol "mqtt" (or "mqttv3.1").' }
}

function headers(text: string): Record<string, string | number> {
  return {
    Connection: 'close',
    'Content-Type': 'text/plain; charset=utf-8',
    'Content-Length': Buffer.byteLength(text),
    'X-Content-Type-Options': 'nosniff',
  }
}

/** Answers an upgrade request on its raw socket. If the peer does not close it, the time-out does. */
function answer(socket: Socket, { status, text }: Refusal): void {
  const lines = Object.entries(headers(text)).map(([name, value]) => `${name}: ${value}\r\n`)
  socket.on('error', () => socket.destroy())
  socket.resume()
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${lines.join('')}\r\n${text}`)
}
