/** The record of a Subscription, without its filter. Subscriptions that are alike share one object. */
import type { QoS, SubscriptionOptions } from '../mqtt/packet.ts'
import type { SubscriptionRecord } from './store.ts'

/**
 * Records without a Subscription Identifier, by QoS (2 bits), No Local, Retain As Published and Retain
 * Handling (2 bits).
 */
const PLAIN: readonly SubscriptionRecord[] = Array.from({ length: 48 }, (_, index) =>
  Object.freeze({
    qos: (index & 3) as QoS,
    noLocal: (index & 4) !== 0,
    retainAsPublished: (index & 8) !== 0,
    retainHandling: (index >> 4) as 0 | 1 | 2,
    identifier: 0,
  }),
)

/**
 * Returns the record of a Subscription that awaits no retained messages. `identifier` is 0 for none.
 * Immutable.
 */
export function subscriptionRecord(options: SubscriptionOptions, identifier: number): SubscriptionRecord {
  const { qos, noLocal, retainAsPublished, retainHandling } = options
  if (identifier !== 0) return { qos, noLocal, retainAsPublished, retainHandling, identifier }
  return PLAIN[qos | (noLocal ? 4 : 0) | (retainAsPublished ? 8 : 0) | (retainHandling << 4)]!
}
