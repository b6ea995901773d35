/** A transport's connection as the Server sees it: bytes in, bytes out, and a way to pause. */
import type { Lenience } from '../../mqtt/lenience.ts'

/**
 * A rule for Client Identifiers. `user`: the Client Identifier is the user's name, or begins with it and a
 * slash. `certificate`: it is the Common Name of the client's certificate.
 */
export type ClientIdRule = 'user' | 'certificate'

/** Everything that is known about a connection before CONNECT. */
export interface LinkInfo {
  readonly transport: 'tcp' | 'tls' | 'ws' | 'wss' | 'unix' | 'memory'
  /** The name of the listener in the configuration. */
  readonly listener: string
  /** Address and port of the peer, for logs; empty for unix sockets. */
  readonly remoteAddress: string
  readonly remotePort: number
  /** Whether the listener accepts clients without credentials. */
  readonly allowAnonymous: boolean
  /** Whether this is only a default, which ends once there are users. */
  readonly anonymousUnlessUsers?: boolean
  /** The rule for Client Identifiers; absent if any is allowed. */
  readonly clientIdRule?: ClientIdRule
  /** Rules of the standard that clients of the listener may break; absent for none. */
  readonly lenient?: readonly Lenience[]
  /** Duration of the TLS and WebSocket handshakes. The connect time-out includes it. */
  readonly handshakeMs?: number
  /** The verified TLS client certificate, if the client showed one. */
  readonly certificate?: ClientCertificate
  /** Why the TLS client certificate is missing or invalid; CONNECT is refused with this reason. */
  readonly certificateRefusal?: string
  /** The listener's Server Keep Alive; absent if the client's Keep Alive is used. */
  readonly serverKeepAliveSeconds?: number
  /** Limit of QoS 1 and 2 messages in flight to a client of the listener; else `Limits.inFlightMax`. */
  readonly inFlightMax?: number
}

/** A TLS client certificate, signed by an authority of the listener, neither revoked nor expired. */
export interface ClientCertificate {
  /** The Common Name of its subject; null if it has none, or several. */
  readonly subjectCommonName: string | null
  /**
   * Names with their kinds, such as `DNS:device-7.example.org`, `URI:urn:device:7`, `email:…`, `IP
   * Address:…`.
   */
  readonly subjectAltNames: readonly string[]
  /** SHA-256 over the certificate, as pairs of upper-case hexadecimal digits with colons between them. */
  readonly fingerprint256: string
}

/** A connection of a transport. */
export interface Link {
  readonly info: LinkInfo
  /** Bytes written that the kernel has not taken yet. */
  readonly bufferedBytes: number
  /** Bytes that the kernel took since the start. It does not change for a stalled reader. */
  readonly flushedBytes: number
  /** Bytes that arrived over TLS, including those of an incomplete record; undefined for other transports. */
  readonly arrivedBytes?: number | undefined
  /** Whether written memory may be used again once `bufferedBytes` is 0. */
  readonly leavesWritten?: boolean
  /**
   * Whether each `write` becomes a TLS record. A client that waits for its socket does not notice packets of
   * the latest record that are still in its TLS library. So the last packet is written alone: the socket
   * stays readable until the client has come to it.
   */
  readonly hidesRecords?: boolean
  /** Writes all chunks in one piece. They must not be changed afterwards. */
  write(chunks: readonly Buffer[], bytes: number): void
  /** Stops reading. Bytes that were read already may still arrive. Idempotent. */
  pause(): void
  resume(): void
  /** Flushes and closes, within a bounded time. Idempotent. */
  end(): void
  /** Closes at once. Idempotent. */
  destroy(): void
}

/** Gets the events of one connection. The Server makes one for each Link. */
export interface LinkHandler {
  /** Called when bytes arrived. The chunk belongs to the handler from now on. */
  received(chunk: Buffer): void
  /** Called once nothing is buffered any more: the kernel took everything, or a write failed. */
  drained(): void
  /**
   * Called when the peer will send nothing more: it closed its side, or broke a rule of the transport
   * (`error`). Called at most once, after all bytes were handed over, even while paused. Written bytes may
   * still arrive. The handler ends the link.
   */
  ended(error: Error | undefined): void
  /**
   * Called exactly once, when the transport is closed: also after `end` or `destroy`, and perhaps without
   * `ended`.
   */
  closed(error: Error | undefined): void
}

/** Accepts the connections of transports. */
export interface Acceptor {
  /**
   * Returns the handler, or a refusal (already counted) after which the transport destroys the connection.
   */
  accept(link: Link): LinkHandler | null
}
