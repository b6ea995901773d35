/** The Control Packets as the broker sees them: shapes only. */
import type { EncodedPacket, QoS, Topic, Will } from './message.ts'

export type { QoS } from './message.ts'
/** 3 is MQTT 3.1, 4 is 3.1.1, 5 is 5.0. */
export type ProtocolVersion = 3 | 4 | 5

/** User Properties in their order; names may repeat. */
export type UserProperties = readonly (readonly [name: string, value: string])[]

/** Session Expiry Interval that means "never". */
export const SESSION_NEVER_EXPIRES = 0xffffffff

/** CONNECT (section 3.1). */
export interface ConnectPacket {
  readonly type: 'connect'
  readonly protocolVersion: ProtocolVersion
  /** The protocol level had the bridge bit (0x80); never in 5.0, which has Subscription Options instead. */
  readonly isBridge: boolean
  readonly clientId: string
  readonly cleanStart: boolean
  readonly keepAliveSeconds: number
  readonly userName: string | undefined
  readonly password: Buffer | undefined
  readonly will: Will | undefined
  /** 5.0: as sent, 0 when absent. 3.1 and 3.1.1: 0 with Clean Session, else SESSION_NEVER_EXPIRES. */
  readonly sessionExpirySeconds: number
  /** 65,535 when absent. */
  readonly receiveMaximum: number
  /** `Infinity` when absent. */
  readonly maximumPacketSize: number
  readonly topicAliasMaximum: number
  readonly requestResponseInformation: boolean
  /** True when absent. */
  readonly requestProblemInformation: boolean
  readonly userProperties: UserProperties
  readonly authenticationMethod: string | undefined
  readonly authenticationData: Buffer | undefined
}

/** A PUBLISH as it was received: the packet is `buffer[start..end)`, which is valid until the turn ends. */
export interface PublishPacket extends EncodedPacket {
  readonly type: 'publish'
  /** Null when the topic name is empty and an alias stands for it. */
  readonly topic: Topic | null
  /** 0 when absent. */
  readonly topicAlias: number
  readonly qos: QoS
  readonly retain: boolean
  readonly dup: boolean
  /** 0 at QoS 0. */
  readonly packetId: number
  /** The payload is `buffer[payloadStart..end)`: a packet that is relayed unchanged needs no view. */
  readonly payloadStart: number
  /** A view, made on demand. */
  readonly payload: Buffer
  /** Raw properties to forward; see `Message.properties`. A view. */
  readonly properties: Buffer
  /** Message Expiry Interval; undefined when absent. */
  readonly expirySeconds: number | undefined
  /** The Payload Format Indicator says that the payload is UTF-8, which was not checked. */
  readonly payloadIsText: boolean
  /** Receivers of the same protocol version may get the very same bytes. */
  readonly isShared: boolean
}

/** The packets that acknowledge a PUBLISH, by name. */
export type AcknowledgeType = 'puback' | 'pubrec' | 'pubrel' | 'pubcomp'

/** PUBACK, PUBREC, PUBREL or PUBCOMP (sections 3.4 to 3.7). */
export interface AcknowledgePacket {
  readonly type: AcknowledgeType
  readonly packetId: number
  /** 0 when absent. */
  readonly reasonCode: number
  /** Reason String of 5.0; absent as a field, too, where the packet has no properties. */
  readonly reasonString?: string | undefined
  /** Its last User Property `retry-after`: when to hand the message out again, as the client wrote it. */
  readonly retryAfter?: string | undefined
}

/** The options of a Subscription (section 3.8.3.1). */
export interface SubscriptionOptions {
  readonly qos: QoS
  readonly noLocal: boolean
  readonly retainAsPublished: boolean
  readonly retainHandling: 0 | 1 | 2
}

/** One Topic Filter of a SUBSCRIBE, with its options. */
export interface SubscribeRequest extends SubscriptionOptions {
  /** Valid UTF-8 as sent; the codec does not check its MQTT syntax. */
  readonly filter: string
}

/** SUBSCRIBE (section 3.8). */
export interface SubscribePacket {
  readonly type: 'subscribe'
  readonly packetId: number
  readonly requests: readonly SubscribeRequest[]
  /** 0 when absent. */
  readonly subscriptionIdentifier: number
  readonly userProperties: UserProperties
}

/** UNSUBSCRIBE (section 3.10). */
export interface UnsubscribePacket {
  readonly type: 'unsubscribe'
  readonly packetId: number
  readonly filters: readonly string[]
  readonly userProperties: UserProperties
}

/** PINGREQ (section 3.12). */
export interface PingreqPacket {
  readonly type: 'pingreq'
}

/** DISCONNECT (section 3.14). */
export interface DisconnectPacket {
  readonly type: 'disconnect'
  readonly reasonCode: number
  /** Undefined when absent. */
  readonly sessionExpirySeconds: number | undefined
  readonly reasonString: string | undefined
  readonly userProperties: UserProperties
}

/** AUTH (section 3.15). */
export interface AuthPacket {
  readonly type: 'auth'
  readonly reasonCode: number
  readonly authenticationMethod: string | undefined
  readonly authenticationData: Buffer | undefined
  readonly reasonString: string | undefined
  readonly userProperties: UserProperties
}

/** Everything a client may send. */
export type ClientPacket =
  | ConnectPacket
  | PublishPacket
  | AcknowledgePacket
  | SubscribePacket
  | UnsubscribePacket
  | PingreqPacket
  | DisconnectPacket
  | AuthPacket

/** CONNACK (section 3.2). */
export interface ConnackPacket {
  readonly sessionPresent: boolean
  /** A 5.0 Reason Code; the encoder turns it into the return code of 3.1 and 3.1.1. */
  readonly reasonCode: number
  readonly properties: ConnackProperties
}

/** The properties of a CONNACK (section 3.2.2.3); those that are absent are not sent. */
export interface ConnackProperties {
  sessionExpirySeconds?: number
  receiveMaximum?: number
  maximumQoS?: 0 | 1
  retainAvailable?: boolean
  maximumPacketSize?: number
  assignedClientIdentifier?: string
  topicAliasMaximum?: number
  wildcardSubscriptionAvailable?: boolean
  subscriptionIdentifiersAvailable?: boolean
  sharedSubscriptionAvailable?: boolean
  reasonString?: string
  userProperties?: UserProperties
  serverKeepAliveSeconds?: number
  responseInformation?: string
  serverReference?: string
  authenticationMethod?: string
  authenticationData?: Buffer
}
