/** A transport's connection as the Server sees it: bytes in, bytes out, and a way to pause. */
import type { Lenience } from '../../mqtt/lenience.ts'

/**
 * Whom a Client Identifier belongs to. `user`: it is the user's name, or begins with that and a slash. `certificate`: it is the
 * Common Name of the client's certificate.
 */
export type ClientIdRule = 'user' | 'certificate'

export interface LinkInfo {
  readonly transport: 'tcp' | 'tls' | 'ws' | 'wss' | 'unix' | 'memory'
  /** Name of the listener, as in the configuration. */
  readonly listener: string
  /** Address and port of the peer, for logs; empty for unix sockets. */
  readonly remoteAddress: string
  readonly remotePort: number
  /** True where the listener lets in clients that show no credentials. */
  readonly allowAnonymous: boolean
  /** True where nobody has asked for that: it ends once there are users. */
  readonly anonymousUnlessUsers?: boolean
  /** What a Client Identifier has to be: of the user, or of the certificate; anything when absent. */
  readonly clientIdRule?: ClientIdRule
  /** Rules that the listener forgives its clients; none, as it should be, when absent. */
  readonly lenient?: readonly Lenience[]
  /** Milliseconds that the TLS and WebSocket handshakes took, when there were any: connecting began so much earlier. */
  readonly handshakeMs?: number
  /** The TLS client certificate, when one was shown and verified. */
  readonly certificate?: ClientCertificate
  /** Why the TLS client certificate is missing or invalid; CONNECT is refused with this reason. */
  readonly certificateRefusal?: string
  /** What the listener answers as Server Keep Alive, in seconds; what the client asked for when absent. */
  readonly serverKeepAliveSeconds?: number
  /** QoS 1 and 2 messages in flight to one client of the listener; `Limits.inFlightMax` when absent. */
  readonly inFlightMax?: number
}

/** A TLS client certificate that an authority of the listener signed, that is not revoked and not expired. */
export interface ClientCertificate {
  /** The Common Name of its subject; null when it has none, or several. */
  readonly subjectCommonName: string | null
  /** With their kinds, such as `DNS:device-7.example.org`, `URI:urn:device:7`, `email:…`, `IP Address:…`. */
  readonly subjectAltNames: readonly string[]
  /** SHA-256 over the certificate, as pairs of upper-case hexadecimal digits with colons between them. */
  readonly fingerprint256: string
}

export interface Link {
  readonly info: LinkInfo
  /** Bytes handed over and not yet taken by the kernel. */
  readonly bufferedBytes: number
  /** Bytes the kernel took since the start; a stalled reader is one whose figure stands still. */
  readonly flushedBytes: number
  /** Bytes that came over TLS, those of a record that is not whole yet included; undefined elsewhere. */
  readonly arrivedBytes?: number | undefined
  /** True where nobody reads what was written any more once `bufferedBytes` is 0: its memory may be used again. */
  readonly leavesWritten?: boolean
  /**
   * True over TLS: what one `write` was given becomes a record, and a client that waits for its socket sees nothing of what is
   * left of the latest record in its TLS library. So the last packet that is written is written alone: the socket is readable
   * until the client has come to it.
   */
  readonly hidesRecords?: boolean
  /** Writes all chunks as one write. The chunks must not be changed afterwards. */
  write(chunks: readonly Buffer[], bytes: number): void
  /** Stops reading; what was read already may still arrive. Idempotent. */
  pause(): void
  resume(): void
  /** Flushes, then closes; cuts off after a bounded time. Idempotent. */
  end(): void
  /** Cuts off at once. Idempotent. */
  destroy(): void
}

/** What the Server gives a transport for each new connection. */
export interface LinkHandler {
  /** Bytes arrived. The chunk belongs to the handler from now on. */
  received(chunk: Buffer): void
  /** Buffered bytes went out after `write` had to buffer. */
  drained(): void
  /**
   * The peer sends nothing more: it closed its side, or broke a rule of the transport (`error`). Called at most once, after
   * all that it sent was handed over, also while paused. What is written may still arrive. The handler ends the link.
   */
  ended(error: Error | undefined): void
  /** The transport is gone; called exactly once, also after `end` or `destroy`, and perhaps without `ended`. */
  closed(error: Error | undefined): void
}

/** What transports hand their connections to. */
export interface Acceptor {
  /** Returns the handler, or a refusal (already counted) after which the transport destroys the connection. */
  accept(link: Link): LinkHandler | null
}
