/**
 * PURE. Messages as they arrive at a consumer: their topics and added User Properties (section 3.3.2.3.7).
 */
import { Message, Topic } from '../../mqtt/message.ts'
import { encodeForwardedProperties } from '../../mqtt/properties/forwarded.ts'
import { PropertyReader } from '../../mqtt/properties/reader.ts'
import { PropertyId, PropertyPlace } from '../../mqtt/properties/table.ts'
import { arrivingTopic, type QueueSubscription } from '../../mqtt/server-topics.ts'

/** The form of a Subscription to a queue; `share` for a Shared Subscription, where nothing is changed. */
export type Face = Pick<QueueSubscription, 'form' | 'prefix'> | 'share'

/** The parts of a hand-out that the client is told. */
export interface Told {
  /** Hand-outs of the message, this one included. */
  readonly attempt: number
  /** Names the hand-out with explicit acknowledgement; else null. */
  readonly tag: string | null
  /** The topic to acknowledge at; null without explicit acknowledgement. */
  readonly acknowledgeAt: string | null
  /** Sequence number, wall time and key of the message, where the consumer asked for them. */
  readonly meta: { readonly sequence: number; readonly enqueuedAt: number; readonly key: string } | null
  /** Whether the client hears properties: 5.0. */
  readonly hearsProperties: boolean
}

/** Makes the message that one consumer gets. The publisher's properties stay as they are [MQTT-3.3.2-17]. */
export function arrivingMessage(face: Face, message: Message, told: Told): Message {
  const { payload, publisher, qos, retain, expiresAt } = message
  if (face === 'share') {
    const { topic, properties } = message
    return Message.of({ topic, payload, properties, publisher, qos, retain, expiresAt })
  }
  const name = message.topic.byteLength === 0 ? null : message.topic.name
  const topic = new Topic(arrivingTopic(face, name, told.tag ?? ''))
  const added = told.hearsProperties ? addedProperties(face, name, told) : []
  const properties = withUserProperties(message.properties, added)
  return Message.of({ topic, payload, properties, publisher, qos, retain, expiresAt })
}

type Pair = readonly [name: string, value: string]

function addedProperties({ form }: Exclude<Face, 'share'>, topic: string | null, told: Told): Pair[] {
  const pairs: Pair[] = []
  if (form === 'topicless' && topic !== null) pairs.push(['x-topic', topic])
  if (told.attempt > 1) pairs.push(['x-delivery-count', `${told.attempt}`])
  if (told.acknowledgeAt !== null) pairs.push(['x-ack', told.acknowledgeAt])
  if (told.meta !== null) {
    const { sequence, enqueuedAt, key } = told.meta
    pairs.push(['x-sequence', `${sequence}`], ['x-enqueued', `${enqueuedAt}`], ['x-key', key])
  }
  return pairs
}

/** Adds User Properties behind those that are there [MQTT-3.3.2-18]. */
export function withUserProperties(properties: Buffer, pairs: readonly Pair[]): Buffer {
  if (pairs.length === 0) return properties
  return Buffer.concat([properties, encodeForwardedProperties({ userProperties: pairs })])
}

/** Returns properties without the User Properties that `drops` names. */
export function withoutUserProperties(properties: Buffer, drops: (name: string) => boolean): Buffer {
  const kept: Buffer[] = []
  let isWhole = true
  const reader = new PropertyReader(properties, 0, properties.length, PropertyPlace.Publish)
  while (reader.next()) {
    if (reader.id === PropertyId.UserProperty && drops(reader.text)) isWhole = false
    else kept.push(properties.subarray(reader.start, reader.end))
  }
  return isWhole ? properties : Buffer.concat(kept)
}

/** Returns the last User Property of this name; undefined without one. */
export function userProperty(properties: Buffer, name: string): string | undefined {
  let found: string | undefined
  const reader = new PropertyReader(properties, 0, properties.length, PropertyPlace.Publish)
  while (reader.next()) {
    if (reader.id !== PropertyId.UserProperty) continue
    const [key, value] = reader.pair
    if (key === name) found = value
  }
  return found
}
