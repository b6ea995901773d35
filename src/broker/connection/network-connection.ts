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
 * The Network Connection as its parts (handshake, input, sender) need it: imports make no circle this
 * way.
 */
export interface NetworkConnection extends ClientConnection, Newcomer {
  readonly link: Link
  readonly parts: ServerParts
  /** The client as far as it is known. */
  view: ClientView
  /** Bytes of packets that are not whole, or not yet handled to their end. */
  readonly incompleteBytes: number
  /** Whether CONNECT has not been answered yet. */
  readonly isStranger: boolean
  /** Handles the framer's current packet. Throws ProtocolError. */
  handle(framer: Framer): void
  /** Answers a protocol error and ends the Network Connection. */
  violated(error: ProtocolError): void
  /** CONNECT was accepted: the Network Connection serves this Session from now on. */
  opened(
    packet: ConnectPacket,
    session: Session,
    expirySeconds: number,
    authentication: EnhancedAuthentication | null,
  ): void
  /** Disconnects the client; `told` is for the client where the reason is for the log alone. */
  disconnect(reasonCode: number, reason: string, told?: string): void
  /** Ends this Network Connection once; packets that were sent before still leave. */
  close(by: EndedBy, reasonCode: number, reason: string): void
}
