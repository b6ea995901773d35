/**
 * HOT. From a framed packet to its fields. CONNECT, PUBLISH, its acknowledgements, SUBSCRIBE and UNSUBSCRIBE are read
 * directly. AUTH and a DISCONNECT that says something are checked byte by byte here, for `mqtt-packet` accepts much that
 * the standards forbid, and then parsed by it.
 */
import type { Packet as ParsedPacket } from 'mqtt-packet'
import {
  binaryEnd,
  illegal,
  malformed,
  readUint16,
  readVariableByteInteger,
  stringEnd,
  truncated,
  variableByteIntegerBytes,
} from '../field.ts'
import type { Tolerance } from '../lenience.ts'
import type { Topic, Will } from '../message.ts'
import type {
  AcknowledgePacket,
  AcknowledgeType,
  AuthPacket,
  ClientPacket,
  ConnectPacket,
  DisconnectPacket,
  PingreqPacket,
  ProtocolVersion,
  PublishPacket,
  QoS,
  SubscribePacket,
  SubscribeRequest,
  UnsubscribePacket,
  UserProperties,
} from '../packet.ts'
import { SESSION_NEVER_EXPIRES } from '../packet.ts'
import { ProtocolError, Reason } from '../reason.ts'
import { checkTopicName, type TopicTable } from '../topics.ts'
import { codec } from './codec.ts'
import { FilterReader, propertyRange, zeroPacketId } from './filter-reader.ts'
import { type Framer, PacketType, propertiesTooLong } from './framing.ts'
import {
  type MessageProperties,
  NOTHING_SAID_AT_CONNECT,
  PropertyPlace,
  walkConnectProperties,
  walkMessageProperties,
  walkUserProperties,
} from './properties.ts'

const EMPTY = Buffer.alloc(0)
const PINGREQ: PingreqPacket = Object.freeze({ type: 'pingreq' })
const NO_USER_PROPERTIES: UserProperties = Object.freeze([])

const NO_WILL_PROPERTIES: Readonly<MessageProperties> = Object.freeze({
  forwarded: EMPTY,
  expirySeconds: undefined,
  payloadIsText: false,
  topicAlias: 0,
  willDelaySeconds: 0,
})

/** A CONNECT that cannot be accepted, with what the client speaks, so that it can be answered in that format. */
export class ConnectError extends ProtocolError {
  /** Null when nothing was read that tells. */
  readonly version: ProtocolVersion | null

  constructor({ reasonCode, statement, message, limit }: ProtocolError, version: ProtocolVersion | null) {
    super(reasonCode, statement, message, limit)
    this.version = version
  }
}

/**
 * Decodes the framer's current packet, unless it is the first: that is for `decodeConnect`. Payload and properties
 * are views of the framer's buffer. Throws ProtocolError.
 */
export function decode(framer: Framer, version: ProtocolVersion, topics: TopicTable): ClientPacket {
  switch (framer.type) {
    case PacketType.Publish:
      return decodePublish(framer, version, topics)
    case PacketType.Puback:
    case PacketType.Pubrec:
    case PacketType.Pubrel:
    case PacketType.Pubcomp:
      return decodeAcknowledge(framer, version)
    case PacketType.Pingreq:
      if (framer.start !== framer.end) throw trailing('PINGREQ')
      return PINGREQ
    case PacketType.Subscribe:
      return decodeSubscribe(framer, version)
    case PacketType.Unsubscribe:
      return decodeUnsubscribe(framer, version)
    case PacketType.Disconnect:
      return decodeDisconnect(framer, version)
    case PacketType.Auth:
      return decodeAuth(framer, version)
    case PacketType.Connect:
      throw illegal('MQTT-3.1.0-2', 'a second CONNECT')
    default:
      throw illegal('4.13', `packet type ${framer.type} is not for a Server`)
  }
}

/** Decodes a PUBLISH (section 3.3). Throws ProtocolError. */
export function decodePublish(framer: Framer, version: ProtocolVersion, topics: TopicTable): PublishPacket {
  const buffer = framer.buffer
  const end = framer.end
  const flags = framer.flags
  const qos = ((flags >> 1) & 3) as QoS
  // In 3.1 DUP is about QoS 1 and 2, and not used with QoS 0.
  if (qos === 0 && (flags & 8) !== 0 && version !== 3 && framer.tolerance?.excuses('dup-on-qos-0') !== true) {
    throw malformed('MQTT-3.3.1-2', 'DUP is set on a PUBLISH with QoS 0')
  }

  let at = framer.start + 2
  if (at > end) throw truncated()
  const topicEnd = at + ((buffer[at - 2]! << 8) | buffer[at - 1]!)
  if (topicEnd > end) throw truncated()
  const topic = topicEnd === at ? null : resolveTopic(framer, topics, at, topicEnd)
  at = topicEnd

  let packetId = 0
  if (qos !== 0) {
    if (at + 2 > end) throw truncated()
    packetId = (buffer[at]! << 8) | buffer[at + 1]!
    if (packetId === 0 && (qos === 2 || framer.tolerance?.excuses('packet-identifier-zero') !== true)) {
      throw zeroPacketId()
    }
    at += 2
  }

  let properties: Buffer = EMPTY
  let topicAlias = 0
  let expirySeconds: number | undefined
  let payloadIsText = false
  if (version === 5) {
    const propertyBytes = readVariableByteInteger(buffer, at, end)
    at += variableByteIntegerBytes(propertyBytes)
    if (propertyBytes > 0) {
      const propertiesEnd = at + propertyBytes
      if (propertiesEnd > end) throw truncated()
      if (propertyBytes > framer.propertyBytesMax)
        throw propertiesTooLong(propertyBytes, framer.propertyBytesMax)
      const said = walkMessageProperties(buffer, at, propertiesEnd, PropertyPlace.Publish)
      properties = said.forwarded
      topicAlias = said.topicAlias
      expirySeconds = said.expirySeconds
      payloadIsText = said.payloadIsText
      at = propertiesEnd
    }
  }
  if (topic === null && topicAlias === 0) throw emptyTopic(version)
  return new ReceivedPublish(
    framer,
    topic,
    topicAlias,
    packetId,
    at,
    properties,
    expirySeconds,
    payloadIsText,
    flags === 0 && topicAlias === 0 && expirySeconds === undefined,
  )
}

class ReceivedPublish implements PublishPacket {
  readonly type = 'publish'
  readonly topic: Topic | null
  readonly topicAlias: number
  readonly qos: QoS
  readonly retain: boolean
  readonly dup: boolean
  readonly packetId: number
  readonly buffer: Buffer
  readonly start: number
  readonly payloadStart: number
  readonly end: number
  readonly properties: Buffer
  readonly expirySeconds: number | undefined
  readonly payloadIsText: boolean
  readonly isShared: boolean

  constructor(
    framer: Framer,
    topic: Topic | null,
    topicAlias: number,
    packetId: number,
    payloadStart: number,
    properties: Buffer,
    expirySeconds: number | undefined,
    payloadIsText: boolean,
    isShared: boolean,
  ) {
    const { flags, end } = framer
    this.topic = topic
    this.topicAlias = topicAlias
    this.qos = ((flags >> 1) & 3) as QoS
    this.retain = (flags & 1) !== 0
    this.dup = (flags & 8) !== 0
    this.packetId = packetId
    this.buffer = framer.buffer
    this.start = end - framer.packetBytes
    this.payloadStart = payloadStart
    this.end = end
    this.properties = properties
    this.expirySeconds = expirySeconds
    this.payloadIsText = payloadIsText
    this.isShared = isShared
  }

  get payload(): Buffer {
    return this.buffer.subarray(this.payloadStart, this.end)
  }
}

/** Longer names, in bytes, are looked up each time: a connection would keep 128 KiB for one, which nobody counts. */
const LATEST_TOPIC_BYTES_MAX = 256

/** Comparing with the latest Topic Name saves hashing it and looking it up. */
function resolveTopic(framer: Framer, topics: TopicTable, start: number, end: number): Topic {
  const { buffer, latestTopic } = framer
  if (latestTopic?.isNamed(buffer, start, end) === true) {
    // A name that comes again will come again: from now on its bytes are compared.
    void latestTopic.bytes
    return latestTopic
  }
  const topic = topics.resolve(buffer, start, end)
  framer.latestTopic = end - start > LATEST_TOPIC_BYTES_MAX ? null : topic
  return topic
}

/** Decodes PUBACK, PUBREC, PUBREL and PUBCOMP (sections 3.4 to 3.7). Throws ProtocolError. */
export function decodeAcknowledge(framer: Framer, version: ProtocolVersion): AcknowledgePacket {
  const { buffer, start, end, type } = framer
  const bytes = end - start
  if (bytes < 2) throw truncated()
  const packetId = (buffer[start]! << 8) | buffer[start + 1]!
  if (packetId === 0) throw zeroPacketId()
  let reasonCode = 0
  if (bytes > 2) {
    if (version !== 5) throw trailing(ACKNOWLEDGE_TYPES[type]!)
    reasonCode = buffer[start + 2]!
    const known = type === PacketType.Puback || type === PacketType.Pubrec ? RECEIVED_CODES : RELEASE_CODES
    if (reasonCode !== 0 && !known.has(reasonCode)) throw unknownReason(ACKNOWLEDGE_TYPES[type]!, reasonCode)
    // Below four bytes of Remaining Length there is no Property Length (section 3.4.2.2.1).
    if (bytes > 3) {
      const properties = propertyRange(framer, start + 3)
      if (properties.end !== end) throw trailing(ACKNOWLEDGE_TYPES[type]!)
      walkUserProperties(buffer, properties.start, end, 1 << type)
    }
  }
  return { type: ACKNOWLEDGE_TYPES[type]!, packetId, reasonCode }
}

/** Decodes a CONNECT (section 3.1) of any version. Throws ConnectError. */
export function decodeConnect(framer: Framer): ConnectPacket {
  const speaks: { version: ProtocolVersion | null } = { version: null }
  try {
    return readConnect(framer, speaks)
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw error
    throw new ConnectError(error, speaks.version)
  }
}

function readConnect(framer: Framer, speaks: { version: ProtocolVersion | null }): ConnectPacket {
  const { buffer, start, end, tolerance } = framer
  let at = stringEnd(buffer, start, end, 'the protocol name')
  const version = readVersion(buffer.toString('utf8', start + 2, at), buffer, at, end, speaks, tolerance)
  const isBridge = (buffer[at]! & BRIDGE_BIT) !== 0
  at += 1
  if (at >= end) throw truncated()
  let flags = checkedConnectFlags(buffer[at++]!, version, tolerance)
  const keepAliveSeconds = readUint16(buffer, at, end)
  at += 2

  let said = NOTHING_SAID_AT_CONNECT
  if (version === 5) {
    const range = propertyRange(framer, at)
    if (range.end > range.start) said = walkConnectProperties(buffer, range.start, range.end)
    at = range.end
  }
  // The order of the payload: Client Identifier, Will, User Name, Password [MQTT-3.1.3-1] [MQTT-3.1.3-3].
  const clientIdAt = at + 2
  at = stringEnd(buffer, at, end, 'the Client Identifier') // [MQTT-3.1.3-4]
  const clientId = buffer.toString('utf8', clientIdAt, at)
  let will: Will | undefined
  if ((flags & WILL_FLAG) !== 0) {
    let properties = NO_WILL_PROPERTIES
    if (version === 5) {
      const range = propertyRange(framer, at)
      properties = walkMessageProperties(buffer, range.start, range.end, PropertyPlace.Will)
      at = range.end
    }
    const topicAt = at + 2
    const payloadAt = binaryEnd(buffer, at, end) + 2
    checkTopicName(buffer, topicAt, payloadAt - 2) // [MQTT-3.1.3-11]
    at = binaryEnd(buffer, payloadAt - 2, end)
    will = {
      topic: buffer.toString('utf8', topicAt, payloadAt - 2),
      payload: Buffer.from(buffer.subarray(payloadAt, at)),
      qos: ((flags & WILL_QOS) >> 3) as QoS,
      retain: (flags & WILL_RETAIN) !== 0,
      properties: Buffer.from(properties.forwarded),
      expirySeconds: properties.expirySeconds,
      delaySeconds: properties.willDelaySeconds,
    }
  }
  // 3.1 allows the flags to announce a User Name or Password that is not there: the length takes precedence.
  if (version === 3 && at === end) flags &= ~(USER_NAME_FLAG | PASSWORD_FLAG)
  let userName: string | undefined
  if ((flags & USER_NAME_FLAG) !== 0) {
    const userNameAt = at + 2
    at = stringEnd(buffer, at, end, 'the User Name') // [MQTT-3.1.3-12]
    userName = buffer.toString('utf8', userNameAt, at)
  }
  if (version === 3 && at === end) flags &= ~PASSWORD_FLAG
  let password: Buffer | undefined
  if ((flags & PASSWORD_FLAG) !== 0) {
    const passwordAt = at + 2
    at = binaryEnd(buffer, at, end)
    password = Buffer.from(buffer.subarray(passwordAt, at))
  }
  if (at !== end) throw trailing('CONNECT')
  const cleanStart = (flags & CLEAN_START_FLAG) !== 0
  return {
    type: 'connect',
    protocolVersion: version,
    isBridge,
    clientId,
    cleanStart,
    keepAliveSeconds,
    userName,
    password,
    will,
    sessionExpirySeconds: version === 5 ? said.sessionExpirySeconds : cleanStart ? 0 : SESSION_NEVER_EXPIRES,
    receiveMaximum: said.receiveMaximum,
    maximumPacketSize: said.maximumPacketSize,
    topicAliasMaximum: said.topicAliasMaximum,
    requestResponseInformation: said.requestResponseInformation,
    requestProblemInformation: said.requestProblemInformation,
    userProperties: said.userProperties,
    authenticationMethod: said.authenticationMethod,
    authenticationData: said.authenticationData,
  }
}

/**
 * Protocol name and level (sections 3.1.2.1 and 3.1.2.2); `speaks` keeps what an answer can be written in. Behind a name
 * that is not MQTT's the level means nothing, so there is no answer [MQTT-3.1.2-1].
 */
function readVersion(
  name: string,
  buffer: Buffer,
  at: number,
  end: number,
  speaks: { version: ProtocolVersion | null },
  tolerance: Tolerance | null,
): ProtocolVersion {
  if (name === 'MQTT') speaks.version = 4
  if (name === 'MQIsdp') speaks.version = 3
  if (at >= end) throw truncated()
  const level = buffer[at]!
  const plainLevel = level & ~BRIDGE_BIT
  if (name === 'MQTT' && plainLevel >= 5) speaks.version = 5
  if (name === 'MQTT' && (level === 4 || level === 5)) return level
  if (name === 'MQIsdp' && level === 3) return level
  if (level === (BRIDGE_BIT | 4) && name === 'MQTT') return 4
  if (level === (BRIDGE_BIT | 3) && name === 'MQIsdp') return 3
  const isSwapped = (name === 'MQTT' && level === 3) || (name === 'MQIsdp' && level === 4)
  if (isSwapped && tolerance?.excuses('protocol-name') === true) {
    speaks.version = level
    return level
  }
  const statement = name === 'MQTT' ? 'MQTT-3.1.2-2' : 'MQTT-3.1.2-1'
  const message = `protocol name ${JSON.stringify(name.slice(0, 32))} with level ${level} is not supported`
  throw new ProtocolError(Reason.UnsupportedProtocolVersion, statement, message)
}

/** Set in the protocol level by bridges before 5.0 of Mosquitto and others: they want No Local and Retain As Published. */
const BRIDGE_BIT = 0x80

const CLEAN_START_FLAG = 0x02
const WILL_FLAG = 0x04
const WILL_QOS = 0x18
const WILL_RETAIN = 0x20
const PASSWORD_FLAG = 0x40
const USER_NAME_FLAG = 0x80

/** The Connect Flags without those that are forgiven. */
function checkedConnectFlags(flags: number, version: ProtocolVersion, tolerance: Tolerance | null): number {
  const old = version === 5 ? null : tolerance
  let checked = flags
  // 3.1 leaves the bit unused, so it may be anything.
  if ((flags & 1) !== 0 && version !== 3) throw malformed('MQTT-3.1.2-3', 'the reserved Connect Flag is set')
  if ((flags & WILL_FLAG) === 0 && (flags & (WILL_QOS | WILL_RETAIN)) !== 0) {
    // 3.1 disregards them (its section 3.1); 3.1.1 and 5.0 do not.
    if (version === 3 || old?.excuses('will-flags-without-will') === true)
      checked &= ~(WILL_QOS | WILL_RETAIN)
    else if ((flags & WILL_QOS) !== 0) throw malformed('MQTT-3.1.2-11', 'Will QoS without a Will')
    else throw malformed('MQTT-3.1.2-13', 'Will Retain without a Will')
  }
  if ((checked & WILL_QOS) === WILL_QOS) throw malformed('MQTT-3.1.2-12', 'the Will QoS is 3')
  if (version !== 5 && (flags & PASSWORD_FLAG) !== 0 && (flags & USER_NAME_FLAG) === 0) {
    // Of 3.1.1, and section 3.1 of 3.1; allowed in 5.0.
    if (old?.excuses('password-without-user-name') !== true) {
      throw malformed('MQTT-3.1.2-22', 'a Password without a User Name')
    }
  }
  return checked
}

function decodeSubscribe(framer: Framer, version: ProtocolVersion): SubscribePacket {
  const reader = new FilterReader(framer, version)
  const requests: SubscribeRequest[] = []
  while (reader.next()) requests.push(reader.request)
  const { packetId, subscriptionIdentifier, userProperties } = reader
  return { type: 'subscribe', packetId, requests, subscriptionIdentifier, userProperties }
}

function decodeUnsubscribe(framer: Framer, version: ProtocolVersion): UnsubscribePacket {
  const reader = new FilterReader(framer, version)
  const filters: string[] = []
  while (reader.next()) filters.push(reader.filter)
  return { type: 'unsubscribe', packetId: reader.packetId, filters, userProperties: reader.userProperties }
}

/** Without anything in it: Normal disconnection (section 3.14.2.1). */
const NORMAL_DISCONNECT: DisconnectPacket = Object.freeze({
  type: 'disconnect',
  reasonCode: 0,
  sessionExpirySeconds: undefined,
  reasonString: undefined,
  userProperties: NO_USER_PROPERTIES,
})

function decodeDisconnect(framer: Framer, version: ProtocolVersion): DisconnectPacket {
  const { buffer, start, end } = framer
  if (version !== 5 && start !== end) throw trailing('DISCONNECT')
  if (start === end) return NORMAL_DISCONNECT
  let userProperties = NO_USER_PROPERTIES
  if (start < end && !DISCONNECT_CODES.has(buffer[start]!)) throw unknownReason('DISCONNECT', buffer[start]!)
  // Below two bytes of Remaining Length there is no Property Length (section 3.14.2.2.1).
  if (end - start > 1) {
    const properties = propertyRange(framer, start + 1)
    if (properties.end !== end) throw trailing('DISCONNECT')
    userProperties = walkUserProperties(buffer, properties.start, end, PropertyPlace.Disconnect)
  }
  const parsed = parse(wholePacket(framer), 'disconnect', version)
  return {
    type: 'disconnect',
    reasonCode: parsed.reasonCode ?? 0,
    sessionExpirySeconds: parsed.properties?.sessionExpiryInterval,
    reasonString: parsed.properties?.reasonString,
    userProperties,
  }
}

function decodeAuth(framer: Framer, version: ProtocolVersion): AuthPacket {
  const { buffer, start, end } = framer
  if (version !== 5) throw malformed('2.2.1', 'packet type 15 is reserved before 5.0')
  const reasonCode = start === end ? 0 : buffer[start]!
  if (!AUTH_CODES.has(reasonCode)) throw unknownReason('AUTH', reasonCode) // [MQTT-3.15.2-1]
  const properties = propertyRange(framer, start + 1)
  if (properties.end !== end) throw trailing('AUTH')
  const userProperties = walkUserProperties(buffer, properties.start, end, PropertyPlace.Auth)
  const parsed = parse(wholePacket(framer), 'auth', version)
  if (parsed.properties?.authenticationMethod === undefined) {
    throw illegal('3.15.2.2.2', 'an AUTH without an Authentication Method')
  }
  return {
    type: 'auth',
    reasonCode,
    authenticationMethod: parsed.properties.authenticationMethod,
    authenticationData: owned(parsed.properties.authenticationData),
    reasonString: parsed.properties.reasonString,
    userProperties,
  }
}

function wholePacket(framer: Framer): Buffer {
  return framer.buffer.subarray(framer.end - framer.packetBytes, framer.end)
}

/** A parser of mqtt-packet, and what it made of the packet that it was given last. */
class Machine {
  readonly #parser: ReturnType<ReturnType<typeof codec>['parser']>
  #packet: ParsedPacket | undefined
  #failed = false

  constructor(version: ProtocolVersion) {
    this.#parser = codec().parser({ protocolVersion: version })
    this.#parser.on('packet', (packet) => {
      this.#packet = packet
    })
    this.#parser.on('error', () => {
      this.#failed = true
    })
  }

  /** The one packet in `whole`; undefined where it is none. Then the machine is of no further use. */
  parse(whole: Buffer): ParsedPacket | undefined {
    this.#packet = undefined
    const left = this.#parser.parse(whole)
    return this.#failed || left > 0 ? undefined : this.#packet
  }
}

/** Kept from packet to packet, by protocol version: making one costs more than a packet takes to be parsed. */
const machines: (Machine | undefined)[] = []

/** Parses one complete packet that was checked. */
function parse<Command extends ParsedPacket['cmd']>(
  whole: Buffer,
  command: Command,
  version: ProtocolVersion,
): Extract<ParsedPacket, { cmd: Command }> {
  const machine = machines[version] ?? new Machine(version)
  machines[version] = undefined
  const packet = machine.parse(whole)
  if (packet === undefined || packet.cmd !== command) {
    // Never expected, as our checks are the stricter ones; yet no bytes of a client may stop the Server.
    throw new ProtocolError(Reason.ImplementationSpecificError, '4.13', `a ${command} could not be parsed`)
  }
  machines[version] = machine
  return packet as Extract<ParsedPacket, { cmd: Command }>
}

/** A copy that does not pin the read buffer. */
function owned(view: Buffer | undefined): Buffer | undefined {
  return view === undefined ? undefined : Buffer.from(view)
}

const ACKNOWLEDGE_TYPES: readonly (AcknowledgeType | undefined)[] = [
  undefined,
  undefined,
  undefined,
  undefined,
  'puback',
  'pubrec',
  'pubrel',
  'pubcomp',
]

// What a client may send; many of DISCONNECT's are for Servers only. So is 0x10 (No matching subscribers), but a bridge is a
// Server at its other end: Mosquitto's says it where nobody has subscribed.
const RECEIVED_CODES: ReadonlySet<number> = new Set([0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99])
const RELEASE_CODES: ReadonlySet<number> = new Set([0x92])
const DISCONNECT_CODES: ReadonlySet<number> = new Set([
  0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
])
const AUTH_CODES: ReadonlySet<number> = new Set([0x18, 0x19])

function emptyTopic(version: ProtocolVersion): ProtocolError {
  if (version === 5) return illegal('3.3.2.1', 'the topic name is empty and there is no Topic Alias')
  return new ProtocolError(Reason.TopicNameInvalid, 'MQTT-4.7.3-1', 'the topic name is empty')
}

function trailing(what: string): ProtocolError {
  return malformed('2.1.4', `bytes after the end of a ${what}`)
}

function unknownReason(what: string, reasonCode: number): ProtocolError {
  return illegal('2.4', `a client’s ${what} must not have Reason Code 0x${reasonCode.toString(16)}`)
}
