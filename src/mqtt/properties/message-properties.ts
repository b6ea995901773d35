/** HOT, PURE. Reads the properties of a PUBLISH (section 3.3.2.3) or a Will (section 3.1.3.2). */
import { illegal } from '../field.ts'
import { PropertyReader } from './reader.ts'
import { PropertyId, type PropertyPlace } from './table.ts'

const EMPTY = Buffer.alloc(0)

/** The properties of a PUBLISH or a Will. */
export interface MessageProperties {
  /** Those to forward, raw and in order [MQTT-3.3.2-18]: a view unless one was cut out of their middle. */
  forwarded: Buffer
  /** Message Expiry Interval; undefined when absent. */
  expirySeconds: number | undefined
  /** The Payload Format Indicator says that the payload is UTF-8. */
  payloadIsText: boolean
  /** 0 when absent. */
  topicAlias: number
  /** 0 when absent. */
  willDelaySeconds: number
}

/** A message without properties, as every one is before 5.0. */
export const NO_MESSAGE_PROPERTIES: Readonly<MessageProperties> = Object.freeze({
  forwarded: EMPTY,
  expirySeconds: undefined,
  payloadIsText: false,
  topicAlias: 0,
  willDelaySeconds: 0,
})

/**
 * Checks the properties of a client's PUBLISH or Will and separates those for the Server from those that it
 * forwards unaltered [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-20]. Throws
 * ProtocolError.
 */
export function readMessageProperties(
  buffer: Buffer,
  start: number,
  end: number,
  place: typeof PropertyPlace.Publish | typeof PropertyPlace.Will,
): MessageProperties {
  const result: MessageProperties = {
    forwarded: EMPTY,
    expirySeconds: undefined,
    payloadIsText: false,
    topicAlias: 0,
    willDelaySeconds: 0,
  }
  const reader = new PropertyReader(buffer, start, end, place)
  // Kept so far: buffer[keptStart..keptEnd) while it is in one piece, then the first joinedBytes of `joined`.
  let keptStart = start
  let keptEnd = start
  let joined: Buffer | null = null
  let joinedBytes = 0
  while (reader.next()) {
    switch (reader.id) {
      case PropertyId.MessageExpiryInterval:
        result.expirySeconds = reader.number
        continue
      case PropertyId.PayloadFormatIndicator:
        result.payloadIsText = reader.number === 1
        break
      case PropertyId.TopicAlias:
        result.topicAlias = reader.number
        continue
      case PropertyId.WillDelayInterval:
        result.willDelaySeconds = reader.number
        continue
      case PropertyId.SubscriptionIdentifier:
        throw illegal('MQTT-3.3.4-6', 'a client’s PUBLISH contains a Subscription Identifier')
    }
    if (joined === null && keptEnd === keptStart) {
      keptStart = reader.start
    } else if (joined === null && keptEnd !== reader.start) {
      joined = Buffer.allocUnsafe(end - start)
      joinedBytes = buffer.copy(joined, 0, keptStart, keptEnd)
    }
    if (joined !== null) joinedBytes += buffer.copy(joined, joinedBytes, reader.start, reader.end)
    keptEnd = reader.end
  }
  if (joined !== null) result.forwarded = joined.subarray(0, joinedBytes)
  else if (keptEnd > keptStart) result.forwarded = buffer.subarray(keptStart, keptEnd)
  return result
}
