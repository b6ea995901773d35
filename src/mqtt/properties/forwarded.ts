/** PURE. Properties that travel with an Application Message, as bytes and as values. */
import type { UserProperties } from '../packet.ts'
import { topicNameError } from '../topics.ts'
import { STRING_BYTES_MAX, stringError } from '../utf8.ts'
import { NO_USER_PROPERTIES, PropertyReader } from './reader.ts'
import { PropertyId, PropertyPlace } from './table.ts'

/** The properties that travel with an Application Message, as values. */
export interface ForwardedProperties {
  payloadFormatIndicator?: 0 | 1
  contentType?: string
  responseTopic?: string
  correlationData?: Buffer
  userProperties?: UserProperties
}

/**
 * Encodes properties to forward, as `Message.properties` holds them. Throws RangeError for values that the
 * standard does not allow.
 */
export function encodeForwardedProperties(properties: ForwardedProperties): Buffer {
  const parts: Buffer[] = []
  const { payloadFormatIndicator, contentType, responseTopic, correlationData, userProperties } = properties
  if (payloadFormatIndicator !== undefined) {
    if (payloadFormatIndicator !== 0 && payloadFormatIndicator !== 1) {
      throw new RangeError(`Payload Format Indicator is ${payloadFormatIndicator}: only 0 and 1 are allowed`)
    }
    parts.push(Buffer.from([PropertyId.PayloadFormatIndicator, payloadFormatIndicator]))
  }
  if (contentType !== undefined) {
    parts.push(Buffer.from([PropertyId.ContentType]), encodeString(contentType, 'Content Type'))
  }
  if (responseTopic !== undefined) {
    const error = topicNameError(responseTopic)
    if (error !== null) throw new RangeError(`Response Topic ${error}`) // [MQTT-3.3.2-14]
    parts.push(Buffer.from([PropertyId.ResponseTopic]), encodeString(responseTopic, 'Response Topic'))
  }
  if (correlationData !== undefined) {
    parts.push(Buffer.from([PropertyId.CorrelationData]), lengthPrefixed(correlationData, 'Correlation Data'))
  }
  for (const [name, value] of userProperties ?? NO_USER_PROPERTIES) {
    parts.push(Buffer.from([PropertyId.UserProperty]), encodeString(name, 'User Property name'))
    parts.push(encodeString(value, 'User Property value'))
  }
  return Buffer.concat(parts)
}

/** Decodes `Message.properties`. Throws ProtocolError when the bytes are not properties of a PUBLISH. */
export function decodeForwardedProperties(raw: Buffer): ForwardedProperties {
  const properties: ForwardedProperties = {}
  const pairs: (readonly [string, string])[] = []
  const reader = new PropertyReader(raw, 0, raw.length, PropertyPlace.Publish)
  while (reader.next()) {
    switch (reader.id) {
      case PropertyId.PayloadFormatIndicator:
        properties.payloadFormatIndicator = reader.number === 1 ? 1 : 0
        break
      case PropertyId.ContentType:
        properties.contentType = reader.text
        break
      case PropertyId.ResponseTopic:
        properties.responseTopic = reader.text
        break
      case PropertyId.CorrelationData:
        properties.correlationData = reader.bytes
        break
      case PropertyId.UserProperty:
        pairs.push(reader.pair)
        break
    }
  }
  if (pairs.length > 0) properties.userProperties = pairs
  return properties
}

function encodeString(value: string, name: string): Buffer {
  const error = stringError(value)
  if (error !== null) throw new RangeError(`${name} ${error}`)
  return lengthPrefixed(Buffer.from(value, 'utf8'), name)
}

function lengthPrefixed(bytes: Buffer, name: string): Buffer {
  if (bytes.length > STRING_BYTES_MAX) throw new RangeError(`${name} is longer than 65,535 bytes`)
  const result = Buffer.allocUnsafe(2 + bytes.length)
  result.writeUInt16BE(bytes.length, 0)
  bytes.copy(result, 2)
  return result
}
