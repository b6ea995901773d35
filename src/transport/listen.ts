/** Opens listeners of every type. */
import type { Acceptor } from '../broker/boundary/link.ts'
import type {
  HandshakeObserver,
  Listener,
  ListenerContext,
  ListenerOptions,
  SharedContext,
  TransportLimits,
} from './listener/listener.ts'
import { SocketLimit } from './listener/socket-limit.ts'
import { listenForStreams } from './sockets/stream-listener.ts'
import { ListenError } from './tls/listen-error.ts'

const UNBOUNDED: SharedContext = { sockets: new SocketLimit(Number.POSITIVE_INFINITY), refused: () => {} }

/**
 * Opens a listener. Rejects with ListenError if the address is in use or not ours, the port is not allowed, a
 * certificate is missing or does not match its key, or a socket file is in use.
 */
export async function listen(
  options: ListenerOptions,
  acceptor: Acceptor,
  limits: TransportLimits,
  observer: HandshakeObserver = () => {},
  shared: SharedContext = UNBOUNDED,
): Promise<Listener> {
  const context: ListenerContext = { options, acceptor, limits, observer, shared }
  if (options.type === 'ws' || options.type === 'wss') {
    // Loading `ws` and Node's HTTP takes 30 ms, which a broker without WebSockets saves at its start.
    const { listenForWebSockets } = await import('./websocket/websocket-listener.ts')
    return listenForWebSockets(context)
  }
  return listenForStreams(context)
}

/**
 * Opens all listeners or none: rejects with the first ListenError. The result may lack optional listeners.
 */
export async function listenAll(
  listeners: readonly ListenerOptions[],
  acceptor: Acceptor,
  limits: TransportLimits,
  observer: HandshakeObserver = () => {},
  shared: SharedContext = UNBOUNDED,
): Promise<Listener[]> {
  const open: Listener[] = []
  for (const options of listeners) {
    try {
      open.push(await listen(options, acceptor, limits, observer, shared))
    } catch (error) {
      if (options.optional === true && error instanceof ListenError && error.missingAddress) continue
      await Promise.all(open.map((listener) => listener.close()))
      throw error
    }
  }
  return open
}
