/** Listeners accept Network Connections and hand each to the Server as a Link. */
import { isIP } from 'node:net'
import type { Limit } from '../../broker/boundary/events.ts'
import type { Acceptor, ClientIdRule, LinkInfo } from '../../broker/boundary/link.ts'
import type { Lenience } from '../../mqtt/lenience.ts'
import type { ServedCertificates } from '../tls/served-certificates.ts'
import type { TlsOptions } from '../tls/tls.ts'
import type { SocketLimit } from './socket-limit.ts'

export type ListenerType = 'tcp' | 'tls' | 'ws' | 'wss' | 'unix'

/** The default port of each type of listener. */
export const DEFAULT_PORTS = Object.freeze({ tcp: 1883, tls: 8883, ws: 8083, wss: 8084 })

/** The default address of a listener, which only this machine can reach. */
export const DEFAULT_HOST = '127.0.0.1'

/** The options of a listener. */
export interface ListenerOptions {
  /** A unique name for logs and errors. */
  readonly name: string
  readonly type: ListenerType
  /** An address or host name of this machine; `DEFAULT_HOST` when absent. Not for `unix`. */
  readonly host?: string
  /** 0 takes a free one; the default port when absent. Not for `unix`. */
  readonly port?: number
  /** The socket file of a `unix` listener. */
  readonly path?: string
  /**
   * Permission bits of the socket file; when absent the umask decides, with which `godwit` allows only its
   * own user.
   */
  readonly mode?: number
  /** The HTTP path of a `ws` or `wss` listener; `/mqtt` when absent. */
  readonly webSocketPath?: string
  /**
   * Origins of pages that may connect, such as `https://example.org`; `*` is every page. When absent, every
   * page may connect to a listener that asks for passwords; otherwise only pages of the broker's own origin
   * may. Programs that send no `Origin` header may always connect.
   */
  readonly allowedOrigins?: readonly string[]
  /** The Server Keep Alive for clients of MQTT 5.0; when absent, they choose their own Keep Alive. */
  readonly serverKeepAliveSeconds?: number
  /** QoS 1 and 2 messages in flight to one of its clients; the limit of all listeners when absent. */
  readonly inFlightMax?: number
  /** Certificate and key of a `tls` or `wss` listener. */
  readonly tls?: TlsOptions
  /** Whether clients without credentials are accepted. */
  readonly allowAnonymous: boolean
  /** True if `allowAnonymous` is only a default, which ends once there are users. */
  readonly anonymousUnlessUsers?: boolean
  /** The rule for Client Identifiers; none when absent. */
  readonly clientIdRule?: ClientIdRule
  /** Rules of the standards that its clients may break; none when absent. */
  readonly lenient?: readonly Lenience[]
  /** Whether a missing address, such as ::1 without IPv6, is no error; the listener is then left out. */
  readonly optional?: boolean
}

/** Limits that apply before the Server sees a byte. */
export interface TransportLimits {
  /** The time for the TLS handshake and the WebSocket's opening handshake together. */
  readonly connectTimeoutSeconds: number
}

/**
 * Is called for each peer that is refused before it becomes a Link; `limit` is set if a limit refuses it.
 * Must not throw.
 */
export type HandshakeObserver = (peer: LinkInfo, reason: string, limit?: Limit) => void

/** Is called for each peer that is refused because too many sockets are open. Must not throw. */
export type SocketLimitObserver = (remoteAddress: string) => void

/** The state and functions that all listeners of a broker share. */
export interface SharedContext {
  readonly sockets: SocketLimit
  readonly refused: SocketLimitObserver
  /**
   * Whether sockets of this address are closed before anything is read; never when absent. Must not throw.
   */
  readonly isBanned?: (remoteAddress: string) => boolean
  /** Whether there are users with passwords; none when absent. */
  readonly hasUsers?: () => boolean
  /** Names and addresses of this machine; none when absent. */
  readonly machineNames?: () => readonly string[]
}

/** An open listener. */
export interface Listener {
  readonly name: string
  readonly type: ListenerType
  /**
   * The URL, such as `mqtt://127.0.0.1:1883`, `mqtts://…`, `ws://127.0.0.1:8083/mqtt`, `wss://…`,
   * `unix:/run/godwit.sock`.
   */
  readonly address: string
  /** The port listened on; 0 for `unix`. */
  readonly port: number
  /** The certificates of a TLS listener; null for the others. */
  readonly certificates: ServedCertificates | null
  /** Applies options that `canReconfigure` allows to new connections. Does not change certificates. */
  reconfigure(options: ListenerOptions): void
  /**
   * Stops accepting and closes sockets in a handshake; the Server ends open Links. Idempotent. Resolves
   * once the address is free again.
   */
  close(): Promise<void>
}

/** The parts of every kind of listener. */
export interface ListenerContext {
  /** `reconfigure` replaces these. */
  options: ListenerOptions
  readonly acceptor: Acceptor
  readonly limits: TransportLimits
  readonly observer: HandshakeObserver
  readonly shared: SharedContext
}

/** Whether only this machine can reach a host. */
export function isLoopbackHost(host = DEFAULT_HOST): boolean {
  return host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'))
}

/** Whether a listener can change its options while its socket stays open. */
export function canReconfigure(from: ListenerOptions, to: ListenerOptions): boolean {
  const place = ({ name, type, host, port, path, mode, webSocketPath, tls }: ListenerOptions): string =>
    JSON.stringify([name, type, host, port, path, mode, webSocketPath, tls?.clientCertificate ?? 'none'])
  return place(from) === place(to)
}
