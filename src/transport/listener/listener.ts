/** A listener: a socket on which Network Connections arrive, each handed to the Server as a Link. */
import { isIP } from 'node:net'
import type { Limit } from '../../broker/boundary/events.ts'
import type { Acceptor, ClientIdRule, LinkInfo } from '../../broker/boundary/link.ts'
import type { Lenience } from '../../mqtt/lenience.ts'
import type { ServedCertificates } from '../tls/served-certificates.ts'
import type { TlsOptions } from '../tls/tls.ts'
import type { SocketRoom } from './socket-room.ts'

export type ListenerType = 'tcp' | 'tls' | 'ws' | 'wss' | 'unix'

/** The ports that a listener of a type has by habit. */
export const DEFAULT_PORTS = Object.freeze({ tcp: 1883, tls: 8883, ws: 8083, wss: 8084 })

/** The address on which a listener listens that names none: this machine only. */
export const DEFAULT_HOST = '127.0.0.1'

export interface ListenerOptions {
  /** Unique; logs and errors use it. */
  readonly name: string
  readonly type: ListenerType
  /** An address or host name of this machine; `DEFAULT_HOST` when absent. Not for `unix`. */
  readonly host?: string
  /** 0 takes a free one; the port by habit when absent. Not for `unix`. */
  readonly port?: number
  /** The socket file of a `unix` listener. */
  readonly path?: string
  /** Permission bits of the socket file; what the process's umask leaves when absent: for `godwit` its user's alone. */
  readonly mode?: number
  /** The HTTP path of a `ws` or `wss` listener; `/mqtt` when absent. */
  readonly webSocketPath?: string
  /**
   * Pages that may connect, by their origins such as `https://example.org`; `*` is every page. When absent, every page where
   * a password is asked for, and elsewhere those of the broker's own origin. Programs without an `Origin` header always may.
   */
  readonly allowedOrigins?: readonly string[]
  /** Server Keep Alive for clients of MQTT 5.0 in seconds, whatever they ask for; as they ask when absent. */
  readonly serverKeepAliveSeconds?: number
  /** QoS 1 and 2 messages in flight to one of its clients; the limit of all listeners when absent. */
  readonly inFlightMax?: number
  /** Certificate and key of a `tls` or `wss` listener. */
  readonly tls?: TlsOptions
  /** Whether clients that show no credentials are let in. */
  readonly allowAnonymous: boolean
  /** True where nobody has asked for that: it ends once there are users. */
  readonly anonymousUnlessUsers?: boolean
  /** What a Client Identifier has to be; anything when absent. */
  readonly clientIdRule?: ClientIdRule
  /** Rules of the standards that its clients may break; none when absent. */
  readonly lenient?: readonly Lenience[]
  /** Left out without an error where this machine does not have the address, such as ::1 without IPv6. */
  readonly optional?: boolean
}

/** The limits that hold before the Server sees a byte. */
export interface TransportLimits {
  /** Seconds for the TLS handshake and the WebSocket's opening handshake together. */
  readonly connectTimeoutSeconds: number
}

/** Told of peers that were turned away before they became a Link, and by which limit if it was one. Must not throw. */
export type HandshakeObserver = (peer: LinkInfo, reason: string, limit?: Limit) => void

/** Told of peers that found no room among the open sockets. Must not throw. */
export type NoRoomObserver = (remoteAddress: string) => void

/** What all listeners of a broker share. */
export interface SharedRoom {
  readonly sockets: SocketRoom
  readonly refused: NoRoomObserver
  /** Whether sockets of this address are to be cut off before anything is read; never when absent. Must not throw. */
  readonly isBanned?: (remoteAddress: string) => boolean
  /** Whether there are users with passwords; none when absent. */
  readonly hasUsers?: () => boolean
  /** Names and addresses of this machine; none when absent. */
  readonly machineNames?: () => readonly string[]
}

export interface Listener {
  readonly name: string
  readonly type: ListenerType
  /** Such as `mqtt://127.0.0.1:1883`, `mqtts://…`, `ws://127.0.0.1:8083/mqtt`, `wss://…`, `unix:/run/godwit.sock`. */
  readonly address: string
  /** The port listened on; 0 for `unix`. */
  readonly port: number
  /** What a TLS listener serves; null for the others. */
  readonly certificates: ServedCertificates | null
  /** Takes options that `isInPlace` allows: they hold for whoever connects from now on. Not for certificates. */
  reconfigure(options: ListenerOptions): void
  /**
   * Stops accepting and cuts off who has not finished a handshake. Open Links are the Server's to end. Idempotent.
   * Resolves when the address is free again.
   */
  close(): Promise<void>
}

/** What every kind of listener is made of. */
export interface ListenerContext {
  /** Exchanged when the listener is reconfigured. */
  options: ListenerOptions
  readonly acceptor: Acceptor
  readonly limits: TransportLimits
  readonly observer: HandshakeObserver
  readonly room: SharedRoom
}

/** Whether only this machine reaches a host. */
export function isLoopbackHost(host = DEFAULT_HOST): boolean {
  return host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'))
}

/** Whether a listener can go from one to the other without another socket: nobody is turned away meanwhile. */
export function isInPlace(from: ListenerOptions, to: ListenerOptions): boolean {
  const place = ({ name, type, host, port, path, mode, webSocketPath, tls }: ListenerOptions): string =>
    JSON.stringify([name, type, host, port, path, mode, webSocketPath, tls?.clientCertificate ?? 'none'])
  return place(from) === place(to)
}
