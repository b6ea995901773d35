/** The views around a Session: those it has of Server and Network Connection, and its parts' view of it. */
import type { Delivery, DeliverySource, Message } from '../mqtt/message.ts'
import type { AcknowledgePacket } from '../mqtt/packet.ts'
import type { Store } from '../store/store.ts'
import type { DropReason, SessionLimits } from './limits.ts'

/** The Network Connection as its Session sees it. `durableAt` is the commit to wait for; 0 for none. */
export interface SessionSink {
  /** True while so many bytes wait for the reader that nothing more should be added. */
  readonly congested: boolean
  /** Counts one more message that waited; true when it and the next ones have to wait for a later turn. */
  pumped(): boolean
  /** True for a subscriber in this process: it takes every message at once and acknowledges nothing. */
  readonly immediate: boolean
  /** Sends a PUBLISH; false when it exceeds the client's Maximum Packet Size and was not sent. */
  publish(delivery: Delivery, packetId: number, dup: boolean, durableAt: number): boolean
  pubrel(packetId: number, durableAt: number): void
}

/** The fields from which a Session is made. */
export interface SessionFields {
  readonly id: number
  readonly clientId: string
  /** The user that made it; null for anonymous. */
  readonly owner: string | null
  /** The id of the account that owns it; null where the owner has none. */
  readonly ownerId: string | null
  /** Whether it outlives its Network Connection, and so the process. */
  readonly stored: boolean
  readonly expirySeconds: number
}

/** A Session as its queue, its messages in flight and its sender see it. */
/** The consumers of queues that a Session is. They belong to the broker. */
export interface Consumption {
  /** Memory of them, and of what they hold. */
  readonly memoryBytes: number
}

export interface InnerSession {
  readonly id: number
  readonly stored: boolean
  readonly context: SessionContext
  readonly durableAt: number
  readonly ended: boolean
  /** Whether bodies are being read back: nothing is sent before they are here. */
  isRestoring: boolean
  /** The consumers of queues that it is, null for none. */
  readonly consumers: Consumption | null
  /** Tells the context, unless it knows already, that queue, flight or inbound identifiers changed. */
  changed(): void
  /** Sends what may be sent. */
  pump(): void
}

/** A Session's view of the Server around it. */
export interface SessionContext {
  readonly limits: SessionLimits
  readonly store: Store
  /** Broker time in ms. */
  now(): number
  /** Counts and reports a message that does not reach the client. */
  dropped(session: InnerSession, reason: DropReason, delivery: Delivery): void
  /** Whether `mayReceive` is to be asked. */
  readonly checksReceiving: boolean
  /** Whether the Session's user may receive this message now. */
  mayReceive(session: InnerSession, message: Message): boolean
  /** Whether `isDoubtful` is to be asked. */
  readonly isInDoubt: boolean
  /** Whether a message has expired only if time passed that is in doubt: it is neither sent nor dropped. */
  isDoubtful(message: Message): boolean
  /** Calls `sweep` of the Session at this broker time or a little later: messages in its queue expire. */
  sweepAt(session: InnerSession, time: number): void
  /** Runs `action` in a later turn. */
  later(action: () => void): void
  /** Is told that the oldest message that waited was dropped, so that another one is next. */
  headDropped(session: InnerSession): void
  /** Is told, once until `isMarked` is set to false, that queue, flight or inbound identifiers changed. */
  mark(session: InnerSession): void
  /** Reads evicted bodies back, then calls `restored` of the Session. */
  restore(session: InnerSession, messages: readonly Message[]): void
  /**
   * Is told of the answer to a queue's delivery: PUBACK, PUBREC, or that it could not be sent again
   * (`packet` is null, and the Reason Code says why).
   */
  settled(
    session: InnerSession,
    delivery: QueueDelivery,
    reasonCode: number,
    packet: AcknowledgePacket | null,
  ): void
  /** Is told that the client is gone: messages of queues that it has not acknowledged may go to others. */
  loosened(session: InnerSession): void
  /** Is told, for a Session that consumes queues, that everything was sent and there is room left. */
  room(session: InnerSession): void
}

/** The fate of a queue's delivery that was offered. */
export type OfferOutcome = 'sent' | 'no-room' | 'too-large'

/** A delivery that came from a queue. */
export type QueueDelivery = Delivery & { readonly source: DeliverySource }
