/** Listeners for MQTT straight on a stream: TCP, TLS, unix socket. */
import { createServer, type Server, type Socket } from 'node:net'
import { createServer as createTlsServer, type TLSSocket, type Server as TlsServer } from 'node:tls'
import type { LinkInfo } from '../../broker/boundary/link.ts'
import { bindPath, bindPort, SOCKET_OPTIONS } from '../listener/bind.ts'
import type { Listener, ListenerContext } from '../listener/listener.ts'
import { admit, Handshakes, linkInfo, TIMER_MS_MAX } from '../listener/peer.ts'
import { clientCertificate } from '../tls/client-certificate.ts'
import { handshakeFailure } from '../tls/handshake-error.ts'
import { servedCertificates } from '../tls/served-certificates.ts'
import { requestOptions } from '../tls/tls.ts'
import { ScratchBuffers } from './outgoing.ts'
import { ReadBuffer } from './read-buffer.ts'
import { StreamLink } from './stream-link.ts'

/** What the Links of one listener share. */
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
  const certificates = secure === null ? null : servedCertificates(options.name, options.tls, secure)
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
      // The listening socket is gone when this returns; a socket file goes with it.
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
    ...requestOptions(context.options.tls),
    // `handshakes` cuts off.
    handshakeTimeout: TIMER_MS_MAX,
  })
  // TLS encrypts later than it says that it took what is written.
  const memory: LinkMemory = { scratchBuffers: null, readBuffer: new ReadBuffer() }
  server.on('connection', (socket: Socket) => handshakes.add(socket))
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
