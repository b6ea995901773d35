/** Opens listeners of every type. */
import type { Acceptor } from '../broker/boundary/link.ts'
import type {
  HandshakeObserver,
  Listener,
  ListenerContext,
  ListenerOptions,
  SharedRoom,
  TransportLimits,
} from './listener/listener.ts'
import { SocketRoom } from './listener/socket-room.ts'
import { listenForStreams } from './sockets/stream-listener.ts'
import { ListenError } from './tls/listen-error.ts'

const UNBOUNDED: SharedRoom = { sockets: new SocketRoom(Number.POSITIVE_INFINITY), refused: () => {} }

/**
 * Listens. Rejects with ListenError: the address is taken or not ours, the port is not allowed, a certificate is
 * missing or does not fit, a socket file is in use.
 */
export async function listen(
  options: ListenerOptions,
  acceptor: Acceptor,
  limits: TransportLimits,
  observer: HandshakeObserver = () => {},
  room: SharedRoom = UNBOUNDED,
): Promise<Listener> {
  const context: ListenerContext = { options, acceptor, limits, observer, room }
  if (options.type === 'ws' || options.type === 'wss') {
    // With `ws` and Node's HTTP it takes 30 ms to load, which a broker without WebSockets need not spend at its start.
    const { listenForWebSockets } = await import('./websocket/websocket-listener.ts')
    return listenForWebSockets(context)
  }
  return listenForStreams(context)
}

/** Listens on all of them, or on none: rejects with the first ListenError. Optional ones may be missing in the answer. */
export async function listenAll(
  listeners: readonly ListenerOptions[],
  acceptor: Acceptor,
  limits: TransportLimits,
  observer: HandshakeObserver = () => {},
  room: SharedRoom = UNBOUNDED,
): Promise<Listener[]> {
  const open: Listener[] = []
  for (const options of listeners) {
    try {
      open.push(await listen(options, acceptor, limits, observer, room))
    } catch (error) {
      if (options.optional === true && error instanceof ListenError && error.missingAddress) continue
      await Promise.all(open.map((listener) => listener.close()))
      throw error
    }
  }
  return open
}
