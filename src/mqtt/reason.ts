/** Reason Codes of MQTT 5.0 (section 2.4), and the error that carries one. */

export const Reason = {
  Success: 0x00,
  GrantedQoS1: 0x01,
  GrantedQoS2: 0x02,
  DisconnectWithWill: 0x04,
  NoMatchingSubscribers: 0x10,
  NoSubscriptionExisted: 0x11,
  ContinueAuthentication: 0x18,
  ReAuthenticate: 0x19,
  UnspecifiedError: 0x80,
  MalformedPacket: 0x81,
  ProtocolError: 0x82,
  ImplementationSpecificError: 0x83,
  UnsupportedProtocolVersion: 0x84,
  ClientIdentifierNotValid: 0x85,
  BadUserNameOrPassword: 0x86,
  NotAuthorized: 0x87,
  ServerUnavailable: 0x88,
  ServerBusy: 0x89,
  Banned: 0x8a,
  ServerShuttingDown: 0x8b,
  BadAuthenticationMethod: 0x8c,
  KeepAliveTimeout: 0x8d,
  SessionTakenOver: 0x8e,
  TopicFilterInvalid: 0x8f,
  TopicNameInvalid: 0x90,
  PacketIdentifierInUse: 0x91,
  PacketIdentifierNotFound: 0x92,
  ReceiveMaximumExceeded: 0x93,
  TopicAliasInvalid: 0x94,
  PacketTooLarge: 0x95,
  MessageRateTooHigh: 0x96,
  QuotaExceeded: 0x97,
  AdministrativeAction: 0x98,
  PayloadFormatInvalid: 0x99,
  RetainNotSupported: 0x9a,
  QoSNotSupported: 0x9b,
  UseAnotherServer: 0x9c,
  ServerMoved: 0x9d,
  SharedSubscriptionsNotSupported: 0x9e,
  ConnectionRateExceeded: 0x9f,
  MaximumConnectTime: 0xa0,
  SubscriptionIdentifiersNotSupported: 0xa1,
  WildcardSubscriptionsNotSupported: 0xa2,
} as const

/** A Reason Code. */
export type Reason = (typeof Reason)[keyof typeof Reason]

/** Reason Codes for refusals in SUBACK (table 3-8). */
export const SUBACK_REFUSALS: ReadonlySet<number> = new Set([
  Reason.UnspecifiedError,
  Reason.ImplementationSpecificError,
  Reason.NotAuthorized,
  Reason.TopicFilterInvalid,
  Reason.PacketIdentifierInUse,
  Reason.QuotaExceeded,
  Reason.SharedSubscriptionsNotSupported,
  Reason.SubscriptionIdentifiersNotSupported,
  Reason.WildcardSubscriptionsNotSupported,
])

/** A limit of this Server or of its client that a packet may exceed. */
export type PacketLimit =
  | 'packetBytesMax'
  | 'controlPacketBytesMax'
  | 'propertyBytesMax'
  | 'topicAliasMaximum'
  | 'clientMaximumPacketSize'

/** The peer broke the standard. Ends in DISCONNECT (or CONNACK, or close), never in a stack trace. */
export class ProtocolError extends Error {
  override readonly name = 'ProtocolError'
  readonly reasonCode: Reason
  /** The normative statement that was broken, such as `MQTT-3.3.1-4`; or a section. */
  readonly statement: string
  /** The exceeded limit, which the Reason Code alone does not reveal; null when there is none. */
  readonly limit: PacketLimit | null

  constructor(reasonCode: Reason, statement: string, message: string, limit: PacketLimit | null = null) {
    super(message)
    this.reasonCode = reasonCode
    this.statement = statement
    this.limit = limit
  }
}
