/**
 * PURE. The properties of the standard (section 2.2.2): identifiers, types, ranges, and where each is
 * allowed.
 */
import { PacketType } from '../packet-type.ts'

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

/** Types of values (section 2.2.2.2); a pair is a name and a value. */
export type PropertyType = 'byte' | 'uint16' | 'uint32' | 'variable' | 'string' | 'binary' | 'pair'

/** Places for properties, one bit each: the packet types, and the Will of a CONNECT. */
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

/** A row of the table. */
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

/** Every property of the standard by its identifier. */
export const PROPERTIES: readonly (PropertyDefinition | undefined)[] = propertyTable()

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
