/** The retained messages of one Subscription, as far as they are still to come. */
import { type Delivery, type Message, NO_IDENTIFIERS } from '../../mqtt/message.ts'
import type { QoS, SubscribeRequest, SubscriptionOptions } from '../../mqtt/packet.ts'
import { effectiveQoS } from '../../session/session.ts'

export class RetainedCursor {
  readonly filter: string
  qos: QoS
  noLocal: boolean
  identifiers: readonly number[]
  /** Messages published later than this count as live; on the clock of `LiveMessages`. */
  readonly since: number
  /** The same for the store: after a restart, nothing that was published before counts as sent. */
  storedSince: number
  readonly messages: Iterator<Message | null>
  /** The topic name of a message that was found, and waits for room. */
  found: string | null = null
  /** A second walk while the first one waits for a slot: messages at QoS 0 need none. */
  ahead: Iterator<Message | null> | null = null
  /** Whether that walk is over, so that the first one skips messages at QoS 0. */
  isSwept = false
  /**
   * Topic names whose messages were sent. When there are too many to keep, a message may come twice before a
   * live one of its topic, rather than too late.
   */
  passed: Set<string> | null = null
  /** Topic names of live messages that were dropped, so that the retained ones are still to come. */
  owed: Set<string> | null = null
  /**
   * Topic names whose messages have expired only if time passed that is in doubt: they wait for the end of
   * the doubt.
   */
  doubtful: Set<string> | null = null
  /** Whether nothing else is left to be sent. */
  waitsForClock = false
  /** Whether the store knows that messages are still to come. */
  pending = false

  constructor(
    { filter, qos, noLocal }: SubscribeRequest,
    identifier: number,
    since: number,
    messages: Iterator<Message | null>,
  ) {
    this.filter = filter
    this.qos = qos
    this.noLocal = noLocal
    this.identifiers = identifiersOf(identifier)
    this.since = since
    this.storedSince = since
    this.messages = messages
  }

  /** Goes on for a Subscription that has other options now. */
  replace({ qos, noLocal }: SubscriptionOptions, identifier: number): void {
    this.qos = qos
    this.noLocal = noLocal
    this.identifiers = identifiersOf(identifier)
  }

  /**
   * Whether the retained message of a topic is still to come, if its latest live message was published at
   * `live`.
   */
  isToCome(topic: string, live: number): boolean {
    if (this.owed?.has(topic) === true) return true
    return live <= this.since && this.passed?.has(topic) !== true
  }

  /** A retained message for the new Subscription [MQTT-3.3.1-9]. */
  deliveryOf(message: Message): Delivery {
    return {
      message,
      qos: effectiveQoS(message.qos, this.qos),
      retain: true, // section 3.3.1.3
      subscriptionIdentifiers: this.identifiers,
      share: null,
    }
  }
}

function identifiersOf(identifier: number): readonly number[] {
  return identifier === 0 ? NO_IDENTIFIERS : [identifier]
}
