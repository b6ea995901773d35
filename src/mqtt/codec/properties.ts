/** HOT. Properties (section 2.2.2): their table, a strict walk over their bytes, and what of them is forwarded. */
import {
  binaryEnd,
  illegal,
  malformed,
  readUint16,
  readUint32,
  readVariableByteInteger,
  stringEnd,
  truncated,
  variableByteIntegerBytes,
} from '../field.ts'
import type { UserProperties } from '../packet.ts'
import { ProtocolError, Reason } from '../reason.ts'
import { hasWildcard, topicNameError } from '../topics.ts'
import { STRING_BYTES_MAX, stringError } from '../utf8.ts'
import { PacketType } from './framing.ts'

/** Property identifiers (table 2-4). */
export const PropertyId = {
  PayloadFormatIndicator: 0x01,
  MessageExpiryInterval: 0x02,
  ContentType: 0x03,
  ResponseTopic: 0x08,
  CorrelationData: 0x09,
  SubscriptionIdentifier: 0x0b,
  SessionExpiryInterval: 0x11,
  AssignedClientIdentifier: 0x12,
  ServerKeepAlive: 0x13,
  AuthenticationMethod: 0x15,
  AuthenticationData: 0x16,
  RequestProblemInformation: 0x17,
  WillDelayInterval: 0x18,
  RequestResponseInformation: 0x19,
  ResponseInformation: 0x1a,
  ServerReference: 0x1c,
  ReasonString: 0x1f,
  ReceiveMaximum: 0x21,
  TopicAliasMaximum: 0x22,
  TopicAlias: 0x23,
  MaximumQoS: 0x24,
  RetainAvailable: 0x25,
  UserProperty: 0x26,
  MaximumPacketSize: 0x27,
  WildcardSubscriptionAvailable: 0x28,
  SubscriptionIdentifierAvailable: 0x29,
  SharedSubscriptionAvailable: 0x2a,
} as const

export type PropertyType = 'byte' | 'uint16' | 'uint32' | 'variable' | 'string' | 'binary' | 'pair'

/** Where properties stand: the type of their packet, or the Will of a CONNECT. One bit each. */
export const PropertyPlace = {
  Will: 1,
  Connect: 1 << PacketType.Connect,
  Connack: 1 << PacketType.Connack,
  Publish: 1 << PacketType.Publish,
  Puback: 1 << PacketType.Puback,
  Pubrec: 1 << PacketType.Pubrec,
  Pubrel: 1 << PacketType.Pubrel,
  Pubcomp: 1 << PacketType.Pubcomp,
  Subscribe: 1 << PacketType.Subscribe,
  Suback: 1 << PacketType.Suback,
  Unsubscribe: 1 << PacketType.Unsubscribe,
  Unsuback: 1 << PacketType.Unsuback,
  Disconnect: 1 << PacketType.Disconnect,
  Auth: 1 << PacketType.Auth,
} as const

export interface PropertyDefinition {
  readonly id: number
  readonly name: string
  readonly type: PropertyType
  /** Places in which it is allowed, as bits of PropertyPlace. */
  readonly places: number
  /** Places in which it may stand more than once. */
  readonly repeatable: number
  /** Range of the value; for integers only. */
  readonly min: number
  readonly max: number
}

const EMPTY = Buffer.alloc(0)
const NO_USER_PROPERTIES: UserProperties = Object.freeze([])

/** Every property of the standard by its identifier. */
export const PROPERTIES: readonly (PropertyDefinition | undefined)[] = propertyTable()

/**
 * Walks over properties one by one and checks each: known and allowed here, once unless it may repeat, its value
 * whole, well-formed and in range. Throws ProtocolError.
 *
 * After `next` returned true: `id`; `start` and `end` of the whole property; `number` for integers; `valueStart` and
 * `valueEnd` for strings, binary data and the name of a pair; `secondStart` and `secondEnd` for its value.
 */
export class PropertyWalk {
  id = 0
  start: number
  end: number
  number = 0
  valueStart = 0
  valueEnd = 0
  secondStart = 0
  secondEnd = 0
  readonly #buffer: Buffer
  readonly #limit: number
  readonly #place: number
  // Identifiers already seen, as bits: 0 to 31, and 32 to 63.
  #seenLow = 0
  #seenHigh = 0

  /** The properties in `buffer[start..end)`, without their length. */
  constructor(buffer: Buffer, start: number, end: number, place: number) {
    this.#buffer = buffer
    this.#limit = end
    this.#place = place
    this.start = start
    this.end = start
  }

  next(): boolean {
    const start = this.end
    if (start >= this.#limit) {
      this.#checkComplete()
      return false
    }
    this.start = start
    const definition = PROPERTIES[this.#buffer[start]!]
    if (definition === undefined) throw malformed('2.2.2.2', 'unknown property identifier')
    if ((definition.places & this.#place) === 0) {
      throw malformed('2.2.2.2', `${definition.name} is not allowed in this packet`)
    }
    this.id = definition.id
    this.#mark(definition)
    this.#value(definition, start + 1)
    return true
  }

  #mark(definition: PropertyDefinition): void {
    const bit = 1 << (definition.id & 31)
    const seen = definition.id < 32 ? this.#seenLow : this.#seenHigh
    if ((seen & bit) !== 0 && (definition.repeatable & this.#place) === 0) {
      throw illegal('2.2.2.2', `${definition.name} is included more than once`)
    }
    if (definition.id < 32) this.#seenLow |= bit
    else this.#seenHigh |= bit
  }

  #value(definition: PropertyDefinition, at: number): void {
    const buffer = this.#buffer
    const limit = this.#limit
    switch (definition.type) {
      case 'byte':
        if (at >= limit) throw truncated()
        this.#integer(definition, buffer[at]!, at + 1)
        break
      case 'uint16':
        this.#integer(definition, readUint16(buffer, at, limit), at + 2)
        break
      case 'uint32':
        this.#integer(definition, readUint32(buffer, at, limit), at + 4)
        break
      case 'variable': {
        const value = readVariableByteInteger(buffer, at, limit)
        this.#integer(definition, value, at + variableByteIntegerBytes(value))
        break
      }
      case 'binary':
        this.valueStart = at + 2
        this.valueEnd = this.end = binaryEnd(buffer, at, limit)
        break
      case 'string':
        this.valueStart = at + 2
        this.valueEnd = this.end = stringEnd(buffer, at, limit, definition.name)
        if (definition.id === PropertyId.ResponseTopic) this.#checkResponseTopic()
        break
      case 'pair': // [MQTT-1.5.7-1]
        this.valueStart = at + 2
        this.valueEnd = stringEnd(buffer, at, limit, 'the name of a User Property')
        this.secondStart = this.valueEnd + 2
        this.secondEnd = this.end = stringEnd(buffer, this.valueEnd, limit, 'the value of a User Property')
        break
    }
  }

  #integer(definition: PropertyDefinition, value: number, end: number): void {
    if (value < definition.min || value > definition.max) {
      const alias = definition.id === PropertyId.TopicAlias // [MQTT-3.3.2-8]
      throw new ProtocolError(
        alias ? Reason.TopicAliasInvalid : Reason.ProtocolError,
        alias ? 'MQTT-3.3.2-8' : '2.2.2.2',
        `${definition.name} is ${value}`,
      )
    }
    this.number = value
    this.end = end
  }

  #checkResponseTopic(): void {
    if (this.valueStart === this.valueEnd) throw illegal('MQTT-4.7.3-1', 'the Response Topic is empty')
    if (hasWildcard(this.#buffer, this.valueStart, this.valueEnd)) {
      throw illegal('MQTT-3.3.2-14', 'the Response Topic contains a wildcard')
    }
  }

  #checkComplete(): void {
    const data = (this.#seenLow >>> PropertyId.AuthenticationData) & 1
    const method = (this.#seenLow >>> PropertyId.AuthenticationMethod) & 1
    if (data === 1 && method === 0) {
      throw illegal('3.1.2.11.10', 'Authentication Data without an Authentication Method')
    }
  }
}

/** Checks properties of which only the User Properties are of interest, and returns those in order. */
export function walkUserProperties(
  buffer: Buffer,
  start: number,
  end: number,
  place: number,
): UserProperties {
  if (start === end) return NO_USER_PROPERTIES
  const walk = new PropertyWalk(buffer, start, end, place)
  let pairs: (readonly [string, string])[] | null = null
  while (walk.next()) {
    if (walk.id !== PropertyId.UserProperty) continue
    pairs ??= []
    pairs.push(pairIn(buffer, walk))
  }
  return pairs ?? NO_USER_PROPERTIES
}

/** What a SUBSCRIBE says in its properties: its Subscription Identifier, 0 when absent, and User Properties. */
export function walkSubscribeProperties(
  buffer: Buffer,
  start: number,
  end: number,
): { readonly subscriptionIdentifier: number; readonly userProperties: UserProperties } {
  let subscriptionIdentifier = 0
  const userProperties: (readonly [string, string])[] = []
  const walk = new PropertyWalk(buffer, start, end, PropertyPlace.Subscribe)
  while (walk.next()) {
    if (walk.id === PropertyId.SubscriptionIdentifier) subscriptionIdentifier = walk.number
    else userProperties.push(pairIn(buffer, walk))
  }
  return { subscriptionIdentifier, userProperties }
}

/** What a CONNECT says in its properties, or what holds where it says nothing (section 3.1.2.11). */
export interface ConnectProperties {
  /** 0 when absent. */
  sessionExpirySeconds: number
  /** 65,535 when absent. */
  receiveMaximum: number
  /** `Infinity` when absent. */
  maximumPacketSize: number
  /** 0 when absent. */
  topicAliasMaximum: number
  requestResponseInformation: boolean
  /** True when absent. */
  requestProblemInformation: boolean
  userProperties: UserProperties
  authenticationMethod: string | undefined
  /** A copy. */
  authenticationData: Buffer | undefined
}

/** A CONNECT without properties, which is every one before 5.0. */
export const NOTHING_SAID_AT_CONNECT: Readonly<ConnectProperties> = Object.freeze({
  sessionExpirySeconds: 0,
  receiveMaximum: 65_535,
  maximumPacketSize: Number.POSITIVE_INFINITY,
  topicAliasMaximum: 0,
  requestResponseInformation: false,
  requestProblemInformation: true,
  userProperties: NO_USER_PROPERTIES,
  authenticationMethod: undefined,
  authenticationData: undefined,
})

/** Checks and reads the properties of a CONNECT. Throws ProtocolError. */
export function walkConnectProperties(buffer: Buffer, start: number, end: number): ConnectProperties {
  const said: ConnectProperties = { ...NOTHING_SAID_AT_CONNECT }
  let pairs: (readonly [string, string])[] | null = null
  const walk = new PropertyWalk(buffer, start, end, PropertyPlace.Connect)
  while (walk.next()) {
    switch (walk.id) {
      case PropertyId.SessionExpiryInterval:
        said.sessionExpirySeconds = walk.number
        break
      case PropertyId.ReceiveMaximum:
        said.receiveMaximum = walk.number
        break
      case PropertyId.MaximumPacketSize:
        said.maximumPacketSize = walk.number
        break
      case PropertyId.TopicAliasMaximum:
        said.topicAliasMaximum = walk.number
        break
      case PropertyId.RequestResponseInformation:
        said.requestResponseInformation = walk.number === 1
        break
      case PropertyId.RequestProblemInformation:
        said.requestProblemInformation = walk.number === 1
        break
      case PropertyId.AuthenticationMethod:
        said.authenticationMethod = text(buffer, walk.valueStart, walk.valueEnd)
        break
      case PropertyId.AuthenticationData:
        said.authenticationData = Buffer.from(buffer.subarray(walk.valueStart, walk.valueEnd))
        break
      case PropertyId.UserProperty:
        pairs ??= []
        pairs.push(pairIn(buffer, walk))
        break
    }
  }
  if (pairs !== null) said.userProperties = pairs
  return said
}

/** What a PUBLISH, or a Will, says in its properties. */
export interface MessageProperties {
  /** What is forwarded, raw and in order [MQTT-3.3.2-18]: a view when nothing was cut out of its middle. */
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

/**
 * Checks the properties of a client's PUBLISH or Will and separates what is for the Server from what it forwards
 * unaltered [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-20]. Throws ProtocolError.
 */
export function walkMessageProperties(
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
  const walk = new PropertyWalk(buffer, start, end, place)
  // What is kept: buffer[keptStart..keptEnd) while it is in one piece, else the first joinedBytes of `joined`.
  let keptStart = start
  let keptEnd = start
  let joined: Buffer | null = null
  let joinedBytes = 0
  while (walk.next()) {
    switch (walk.id) {
      case PropertyId.MessageExpiryInterval:
        result.expirySeconds = walk.number
        continue
      case PropertyId.PayloadFormatIndicator:
        result.payloadIsText = walk.number === 1
        break
      case PropertyId.TopicAlias:
        result.topicAlias = walk.number
        continue
      case PropertyId.WillDelayInterval:
        result.willDelaySeconds = walk.number
        continue
      case PropertyId.SubscriptionIdentifier:
        throw illegal('MQTT-3.3.4-6', 'a client’s PUBLISH contains a Subscription Identifier')
    }
    if (joined === null && keptEnd === keptStart) {
      keptStart = walk.start
    } else if (joined === null && keptEnd !== walk.start) {
      joined = Buffer.allocUnsafe(end - start)
      joinedBytes = buffer.copy(joined, 0, keptStart, keptEnd)
    }
    if (joined !== null) joinedBytes += buffer.copy(joined, joinedBytes, walk.start, walk.end)
    keptEnd = walk.end
  }
  if (joined !== null) result.forwarded = joined.subarray(0, joinedBytes)
  else if (keptEnd > keptStart) result.forwarded = buffer.subarray(keptStart, keptEnd)
  return result
}

/** The properties that travel with an Application Message, as values. */
export interface ForwardedProperties {
  payloadFormatIndicator?: 0 | 1
  contentType?: string
  responseTopic?: string
  correlationData?: Buffer
  userProperties?: UserProperties
}

/**
 * Encodes properties to forward, as `Message.properties` holds them. Throws RangeError for what the standard does
 * not allow.
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
  const walk = new PropertyWalk(raw, 0, raw.length, PropertyPlace.Publish)
  while (walk.next()) {
    switch (walk.id) {
      case PropertyId.PayloadFormatIndicator:
        properties.payloadFormatIndicator = walk.number === 1 ? 1 : 0
        break
      case PropertyId.ContentType:
        properties.contentType = text(raw, walk.valueStart, walk.valueEnd)
        break
      case PropertyId.ResponseTopic:
        properties.responseTopic = text(raw, walk.valueStart, walk.valueEnd)
        break
      case PropertyId.CorrelationData:
        properties.correlationData = Buffer.from(raw.subarray(walk.valueStart, walk.valueEnd))
        break
      case PropertyId.UserProperty:
        pairs.push(pairIn(raw, walk))
        break
    }
  }
  if (pairs.length > 0) properties.userProperties = pairs
  return properties
}

/** The User Property at which the walk stands. */
function pairIn(buffer: Buffer, walk: PropertyWalk): readonly [string, string] {
  return [text(buffer, walk.valueStart, walk.valueEnd), text(buffer, walk.secondStart, walk.secondEnd)]
}

function text(buffer: Buffer, start: number, end: number): string {
  return buffer.toString('utf8', start, end)
}

function encodeString(value: string, what: string): Buffer {
  const error = stringError(value)
  if (error !== null) throw new RangeError(`${what} ${error}`)
  return lengthPrefixed(Buffer.from(value, 'utf8'), what)
}

function lengthPrefixed(bytes: Buffer, what: string): Buffer {
  if (bytes.length > STRING_BYTES_MAX) throw new RangeError(`${what} is longer than 65,535 bytes`)
  const result = Buffer.allocUnsafe(2 + bytes.length)
  result.writeUInt16BE(bytes.length, 0)
  bytes.copy(result, 2)
  return result
}

function propertyTable(): (PropertyDefinition | undefined)[] {
  const { Will, Connect, Connack, Publish, Puback, Pubrec, Pubrel, Pubcomp } = PropertyPlace
  const { Subscribe, Suback, Unsubscribe, Unsuback, Disconnect, Auth } = PropertyPlace
  const id = PropertyId
  const answers = Connack | Puback | Pubrec | Pubrel | Pubcomp | Suback | Unsuback | Disconnect | Auth
  const everywhere = answers | Will | Connect | Publish | Subscribe | Unsubscribe
  const table: (PropertyDefinition | undefined)[] = new Array(256).fill(undefined)

  function define(
    id: number,
    name: string,
    type: PropertyType,
    places: number,
    min = 0,
    max = Number.POSITIVE_INFINITY,
    repeatable = 0,
  ): void {
    table[id] = { id, name, type, places, repeatable, min, max }
  }

  define(id.PayloadFormatIndicator, 'Payload Format Indicator', 'byte', Publish | Will, 0, 1)
  define(id.MessageExpiryInterval, 'Message Expiry Interval', 'uint32', Publish | Will)
  define(id.ContentType, 'Content Type', 'string', Publish | Will)
  define(id.ResponseTopic, 'Response Topic', 'string', Publish | Will)
  define(id.CorrelationData, 'Correlation Data', 'binary', Publish | Will)
  define(
    id.SubscriptionIdentifier,
    'Subscription Identifier',
    'variable',
    Publish | Subscribe,
    1,
    undefined,
    Publish,
  )
  define(id.SessionExpiryInterval, 'Session Expiry Interval', 'uint32', Connect | Connack | Disconnect)
  define(id.AssignedClientIdentifier, 'Assigned Client Identifier', 'string', Connack)
  define(id.ServerKeepAlive, 'Server Keep Alive', 'uint16', Connack)
  define(id.AuthenticationMethod, 'Authentication Method', 'string', Connect | Connack | Auth)
  define(id.AuthenticationData, 'Authentication Data', 'binary', Connect | Connack | Auth)
  define(id.RequestProblemInformation, 'Request Problem Information', 'byte', Connect, 0, 1)
  define(id.WillDelayInterval, 'Will Delay Interval', 'uint32', Will)
  define(id.RequestResponseInformation, 'Request Response Information', 'byte', Connect, 0, 1)
  define(id.ResponseInformation, 'Response Information', 'string', Connack)
  define(id.ServerReference, 'Server Reference', 'string', Connack | Disconnect)
  define(id.ReasonString, 'Reason String', 'string', answers)
  define(id.ReceiveMaximum, 'Receive Maximum', 'uint16', Connect | Connack, 1)
  define(id.TopicAliasMaximum, 'Topic Alias Maximum', 'uint16', Connect | Connack)
  define(id.TopicAlias, 'Topic Alias', 'uint16', Publish, 1)
  define(id.MaximumQoS, 'Maximum QoS', 'byte', Connack, 0, 1)
  define(id.RetainAvailable, 'Retain Available', 'byte', Connack, 0, 1)
  define(id.UserProperty, 'User Property', 'pair', everywhere, 0, undefined, everywhere)
  define(id.MaximumPacketSize, 'Maximum Packet Size', 'uint32', Connect | Connack, 1)
  define(id.WildcardSubscriptionAvailable, 'Wildcard Subscription Available', 'byte', Connack, 0, 1)
  define(id.SubscriptionIdentifierAvailable, 'Subscription Identifier Available', 'byte', Connack, 0, 1)
  define(id.SharedSubscriptionAvailable, 'Shared Subscription Available', 'byte', Connack, 0, 1)
  return table
}
