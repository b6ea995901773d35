/** The messages that a Session did not deliver before it ended, taken out oldest first. */
import type { Delivery } from '../mqtt/message.ts'
import type { InFlightMessages } from './in-flight-messages.ts'
import type { SessionQueue } from './session-queue.ts'

/** `count` messages of the same kind: more than one only where none came by a Shared Subscription. */
export interface Leftover {
  readonly delivery: Delivery
  readonly mayGoToOthers: boolean
  readonly count: number
}

/**
 * Finds the oldest message, those in flight first, or all that are parked with it if none of them came by a
 * Shared Subscription; null when there is none left. Of QoS 2 in flight nothing may go to anybody else
 * [MQTT-4.8.2-5]. The body may be evicted.
 */
export function leftoverOf(inFlight: InFlightMessages, queue: SessionQueue): Leftover | null {
  inFlight.unpark()
  for (let oldest = inFlight.oldest; oldest !== null; oldest = inFlight.oldest) {
    const { delivery } = oldest
    if (delivery !== null) return { delivery, mayGoToOthers: delivery.qos < 2, count: 1 }
    inFlight.complete(oldest)
  }
  const parked = queue.parkedHead
  if (parked !== null && !parked.shared) {
    return { delivery: queue.at(queue.head), mayGoToOthers: false, count: parked.length }
  }
  const delivery = queue.peek()
  return delivery === undefined ? null : { delivery, mayGoToOthers: true, count: 1 }
}

/** Removes what `leftoverOf` returned. */
export function dropLeftover(inFlight: InFlightMessages, queue: SessionQueue): void {
  const { oldest } = inFlight
  const parked = queue.parkedHead
  if (oldest !== null) inFlight.complete(oldest)
  else if (parked !== null && !parked.shared) queue.dropParkedHead(parked)
  else queue.remove()
}
