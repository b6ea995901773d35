/** Listens for MQTT directly on a stream: TCP, TLS or a unix socket. */
import { createServer, type Server, type Socket } from 'node:net'
import { createServer as createTlsServer, type TLSSocket, type Server as TlsServer } from 'node:tls'
import type { LinkInfo } from '../../broker/boundary/link.ts'
import { bindPath, bindPort, SOCKET_OPTIONS } from '../listener/bind.ts'
import { queueHandshakes } from '../listener/handshake-queue.ts'
import type { Listener, ListenerContext } from '../listener/listener.ts'
import { admit, Handshakes, linkInfo, TIMER_MS_MAX } from '../listener/peer.ts'
import { clientCertificate } from '../tls/client-certificate.ts'
import { handshakeFailure } from '../tls/handshake-error.ts'
import { serveCertificates } from '../tls/served-certificates.ts'
import { clientCertificateOptions } from '../tls/tls.ts'
import { ReadBuffer } from './read-buffer.ts'
import { ScratchBuffers } from './send-queue.ts'
import { StreamLink } from './stream-link.ts'

/** The memory that the Links of one listener share. */
interface LinkMemory {
  readonly scratchBuffers: ScratchBuffers | null
  readonly readBuffer: ReadBuffer
}

/** Listens for `tcp`, `tls` or `unix`. Rejects with ListenError. */
export async function listenForStreams(context: ListenerContext): Promise<Listener> {
  const { options } = context
  const handshakes = new Handshakes(context.limits.connectTimeoutSeconds * 1000, (socket) =>
    context.observer(linkInfo(context.options, socket), 'the TLS handshake took too long'),
  )
  const secure = options.type === 'tls' ? tlsServer(context, handshakes) : null
  const server = secure ?? streamServer(context)
  admit(context, server)
  const certificates = secure === null ? null : serveCertificates(options.name, options.tls, secure)
  const { port, address } =
    options.type === 'unix'
      ? await bindPath(server, options)
      : await bindPort(server, options, options.type === 'tls' ? 'mqtts' : 'mqtt', '')
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
      // The listening socket and its file are gone when `close` returns.
      server.close()
      handshakes.destroyAll()
    },
  }
}

function streamServer(context: ListenerContext): Server {
  const memory: LinkMemory = { scratchBuffers: new ScratchBuffers(0), readBuffer: new ReadBuffer() }
  return createServer(SOCKET_OPTIONS, (socket) =>
    accept(context, socket, linkInfo(context.options, socket), memory),
  )
}

function tlsServer(context: ListenerContext, handshakes: Handshakes): TlsServer {
  const server = createTlsServer({
    ...SOCKET_OPTIONS,
    ...clientCertificateOptions(context.options.tls),
    // `handshakes` enforces the time-out.
    handshakeTimeout: TIMER_MS_MAX,
  })
  // TLS reports a write as taken before it encrypts it, so memory cannot be reused.
  const memory: LinkMemory = { scratchBuffers: null, readBuffer: new ReadBuffer() }
  queueHandshakes(server, handshakes)
  server.on('tlsClientError', (error: Error, socket: TLSSocket) => {
    context.observer(linkInfo(context.options, socket), handshakeFailure(error))
    socket.destroy()
  })
  server.on('secureConnection', (socket: TLSSocket) => {
    const { options } = context
    const handshakeMs = handshakes.done(socket)
    const shown = clientCertificate(socket, options.tls, Date.now())
    if (!server.listening) socket.destroy()
    else accept(context, socket, linkInfo(options, socket, { handshakeMs, ...shown }), memory)
  })
  return server
}

function accept(
  context: ListenerContext,
  socket: Socket,
  info: LinkInfo,
  { scratchBuffers, readBuffer }: LinkMemory,
): void {
  const link = new StreamLink(socket, info, scratchBuffers)
  const handler = context.acceptor.accept(link)
  if (handler === null) link.destroy()
  else link.start(handler, readBuffer)
}
