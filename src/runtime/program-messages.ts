/** Publishes and subscribes for the program that embeds the broker. */
import { expiryTime } from '../broker/boundary/expiry.ts'
import type { Server } from '../broker/server.ts'
import type { Delivery } from '../mqtt/message.ts'
import type { QoS } from '../mqtt/packet.ts'
import {
  decodeForwardedProperties,
  encodeForwardedProperties,
  type ForwardedProperties,
} from '../mqtt/properties/forwarded.ts'
import { ProtocolError, Reason } from '../mqtt/reason.ts'
import { topicNameError } from '../mqtt/topics.ts'

/** A message to publish. */
export interface PublishOptions {
  /** A topic name. */
  readonly topic: string
  readonly payload: string | Uint8Array
  readonly qos?: QoS
  readonly retain?: boolean
  readonly properties?: ForwardedProperties
  /** The Message Expiry Interval. */
  readonly expirySeconds?: number
}

/** The options of a Subscription. */
export interface SubscribeOptions {
  /** 2 by default: messages keep the QoS with which they were published. */
  readonly qos?: QoS
  readonly retainAsPublished?: boolean
  /** False to get no retained messages at the start. */
  readonly retained?: boolean
}

/** A message as a subscriber in this process gets it. */
export interface ReceivedMessage {
  readonly topic: string
  /** Shared with the store and all other subscribers: copy it before you change it. */
  readonly payload: Buffer
  readonly qos: QoS
  readonly retain: boolean
  /** The Client Identifier of the publisher; empty for the broker itself. */
  readonly publisher: string
  readonly properties: ForwardedProperties
}

/** Resolves when the message is as durable as promised. Rejects with ProtocolError if it is refused. */
export async function publish(server: Server, options: PublishOptions): Promise<void> {
  const { topic, payload, qos = 0, retain = false, properties, expirySeconds } = options
  const error = topicNameError(topic)
  if (error !== null) throw new ProtocolError(Reason.TopicNameInvalid, 'section 4.7', `${error}: ${topic}`)
  await server.publish({
    topic,
    payload: Buffer.from(payload as Uint8Array),
    qos,
    retain,
    publisher: '',
    expiresAt: expiryTime(server.state.now(), expirySeconds),
    ...(properties === undefined ? {} : { properties: encodeForwardedProperties(properties) }),
  })
}

/** Calls `handler` for every message that matches. Returns a function that ends the Subscription. */
export function subscribe(
  server: Server,
  filter: string,
  handler: (message: ReceivedMessage) => void,
  options: SubscribeOptions,
): () => void {
  const { qos = 2, retainAsPublished = false, retained = true } = options
  const retainHandling = retained ? 0 : 2
  return server.subscribe(filter, { qos, noLocal: false, retainAsPublished, retainHandling }, (delivery) =>
    handler(received(delivery)),
  )
}

function received({ message, qos, retain }: Delivery): ReceivedMessage {
  const { payload, publisher } = message
  return {
    topic: message.topic.name,
    payload,
    qos,
    retain,
    publisher,
    properties: decodeForwardedProperties(message.properties),
  }
}
