/**
 * HOT. A Session's part in queues: it sends what a queue offers it, and tells of the answers. Messages of
 * queues never wait in the Session's own queue.
 */
import type { Delivery } from '../mqtt/message.ts'
import type { AcknowledgePacket } from '../mqtt/packet.ts'
import type { InnerSession, OfferOutcome, QueueDelivery } from './context.ts'
import type { InFlightMessages } from './in-flight-messages.ts'
import type { InFlightEntry } from './in-flight-table.ts'
import type { Sender } from './sender.ts'

/** The result of a client's acknowledgement. */
export type AcknowledgeOutcome = 'completed' | 'received' | 'unknown' | 'wrong-kind'

/** A Session as these functions see it. */
export interface ConsumingSession extends InnerSession {
  readonly flight: InFlightMessages
  readonly sender: Sender | null
  /** Whether a queue's message found no room, since the reader was congested: `room` is to be told. */
  isRoomWanted: boolean
}

/** A queue's message in flight. */
export interface QueueFlight {
  readonly packetId: number
  /** Replaced once, at recovery: by one whose message can be restored. */
  delivery: QueueDelivery
}

/**
 * Sends a queue's delivery now, or does nothing: it never waits here. The message is this delivery's alone,
 * and is evicted once it is sent. `durableAt` is the commit that must be durable before it may be seen.
 */
export function offer(session: ConsumingSession, delivery: QueueDelivery, durableAt: number): OfferOutcome {
  const { sender } = session
  if (sender === null || session.isRestoring || session.ended) return 'no-room'
  if (delivery.qos > 0 ? sender.hasRoom : sender.isIdle) return sender.offer(delivery, durableAt)
  if (sender.sink.congested) session.isRoomWanted = true
  return 'no-room'
}

/** While the client is away: another consumer has the message, so nothing is sent again. */
export function release(session: ConsumingSession, packetId: number): void {
  const entry = session.flight.get(packetId)
  if (entry !== null) session.flight.complete(entry)
}

/**
 * While the client is connected: its message went elsewhere. The packet identifier stays in use, and is
 * charged, until PUBACK [MQTT-2.2.1-4].
 */
export function abandon(session: ConsumingSession, packetId: number): void {
  const entry = session.flight.get(packetId)
  if (entry?.delivery != null) session.flight.abandon(entry, entry.delivery)
}

/** Messages of queues that were sent and are not answered, oldest first. */
export function* queueFlight(session: ConsumingSession): IterableIterator<QueueFlight> {
  for (const entry of session.flight.entries()) {
    const { delivery } = entry
    if (delivery !== null && isOfQueue(delivery)) yield entry as QueueFlight
  }
}

/** Tells the queue of the client's answer, before there is room for its next message. */
export function answered(
  session: ConsumingSession,
  entry: InFlightEntry,
  delivery: QueueDelivery,
  packet: AcknowledgePacket | null,
): AcknowledgeOutcome {
  const { flight, context } = session
  const reasonCode = packet?.reasonCode ?? 0
  if (delivery.qos === 2 && reasonCode < 0x80) {
    flight.received(entry, delivery)
    context.settled(session, delivery, reasonCode, packet)
    return 'received'
  }
  flight.complete(entry)
  session.sender?.completed(entry)
  context.settled(session, delivery, reasonCode, packet)
  session.pump()
  return 'completed'
}

/** Tells that everything was sent, if there is room for more. */
export function tellRoom(session: ConsumingSession): void {
  const { sender, context } = session
  if (sender?.isIdle !== true) return
  session.isRoomWanted = false
  context.room(session)
}

export function isOfQueue(delivery: Delivery): delivery is QueueDelivery {
  return delivery.source !== undefined
}
