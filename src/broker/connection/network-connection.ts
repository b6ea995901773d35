/** The port between a Network Connection and its parts. */
import type { Framer } from '../../mqtt/codec/framer.ts'
import type { ConnectPacket } from '../../mqtt/packet.ts'
import type { ProtocolError } from '../../mqtt/reason.ts'
import type { Session } from '../../session/session.ts'
import type { BrokerEvents } from '../boundary/events.ts'
import type { Link } from '../boundary/link.ts'
import type { ClientView } from '../boundary/policy.ts'
import type { ServerParts } from '../sessions/server-parts.ts'
import type { Newcomer } from '../state/connect-queue.ts'
import type { ClientConnection } from '../state/server-state.ts'
import type { EnhancedAuthentication } from './enhanced-authentication.ts'

/** The side that ended a Network Connection. */
export type EndedBy = BrokerEvents['disconnected']['by']

/**
 * The Network Connection as its parts see it. An interface, since a part may not import what it is part of.
 */
export interface NetworkConnection extends ClientConnection, Newcomer {
  readonly link: Link
  readonly parts: ServerParts
  /** The client as far as it is known: without a Client Identifier before CONNECT. */
  view: ClientView
  /** Bytes of packets that are not whole, or not yet handled to their end. */
  readonly incompleteBytes: number
  /** Whether the client waits in the log-in queue. */
  readonly isQueuedToLogIn: boolean
  /** Whether CONNACK was not sent yet. */
  readonly isStranger: boolean
  /** Handles the framer's current packet. Throws ProtocolError. */
  handle(framer: Framer): void
  /** Answers a protocol error and ends the Network Connection. */
  violated(error: ProtocolError): void
  /** Serves this Session from now on. CONNECT is accepted, and CONNACK comes next. */
  opened(
    packet: ConnectPacket,
    session: Session,
    expirySeconds: number,
    authentication: EnhancedAuthentication | null,
  ): void
  /**
   * Ends the Network Connection with DISCONNECT in 5.0; `told` is for the client where the reason is only for
   * the log.
   */
  disconnect(reasonCode: number, reason: string, told?: string): void
  /** Ends the Network Connection; packets that were sent before still leave. Idempotent. */
  close(by: EndedBy, reasonCode: number, reason: string): void
}
