/** CONNECT (section 3.1). */
import { binaryEnd, malformed, readUint16, stringEnd, truncated } from '../field.ts'
import type { Leniences } from '../lenience.ts'
import type { Will } from '../message.ts'
import type { ConnectPacket, ProtocolVersion, QoS, UserProperties } from '../packet.ts'
import { SESSION_NEVER_EXPIRES } from '../packet.ts'
import { NO_MESSAGE_PROPERTIES, readMessageProperties } from '../properties/message-properties.ts'
import { NO_USER_PROPERTIES, PropertyReader } from '../properties/reader.ts'
import { PropertyId, PropertyPlace } from '../properties/table.ts'
import { ProtocolError, Reason } from '../reason.ts'
import { checkTopicName } from '../topics.ts'
import type { Framer } from './framer.ts'
import { propertyRange, trailingBytes } from './packet-body.ts'

/**
 * Set in the protocol level by bridges of Mosquitto and others before 5.0: asks for No Local and Retain As
 * Published.
 */
const BRIDGE_BIT = 0x80

const CLEAN_START_FLAG = 0x02
const WILL_FLAG = 0x04
const WILL_QOS = 0x18
const WILL_RETAIN = 0x20
const PASSWORD_FLAG = 0x40
const USER_NAME_FLAG = 0x80

/** The properties of a CONNECT (section 3.1.2.11), with defaults for absent ones. */
interface ConnectProperties {
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

/** A CONNECT without properties, as every one is before 5.0. */
const NO_CONNECT_PROPERTIES: Readonly<ConnectProperties> = Object.freeze({
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

/**
 * A CONNECT that cannot be accepted, with the version that the client speaks: the answer needs its format.
 */
export class ConnectError extends ProtocolError {
  /** Null when nothing was read that reveals it. */
  readonly version: ProtocolVersion | null

  constructor({ reasonCode, statement, message, limit }: ProtocolError, version: ProtocolVersion | null) {
    super(reasonCode, statement, message, limit)
    this.version = version
  }
}

/** Decodes a CONNECT of any version. Throws ConnectError. */
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
  const { buffer, start, end, leniences } = framer
  let at = stringEnd(buffer, start, end, 'the protocol name')
  const version = readVersion(buffer.toString('utf8', start + 2, at), buffer, at, end, speaks, leniences)
  const isBridge = (buffer[at]! & BRIDGE_BIT) !== 0
  at += 1
  if (at >= end) throw truncated()
  const flags = checkedConnectFlags(buffer[at++]!, version, leniences)
  const keepAliveSeconds = readUint16(buffer, at, end)
  at += 2

  let properties = NO_CONNECT_PROPERTIES
  if (version === 5) {
    const range = propertyRange(framer, at)
    if (range.end > range.start) properties = readConnectProperties(buffer, range.start, range.end)
    at = range.end
  }
  // The payload has this order: Client Identifier, Will, User Name, Password [MQTT-3.1.3-1] [MQTT-3.1.3-3].
  const clientIdAt = at + 2
  at = stringEnd(buffer, at, end, 'the Client Identifier') // [MQTT-3.1.3-4]
  const clientId = buffer.toString('utf8', clientIdAt, at)
  const { will, end: willEnd } = readWill(framer, version, flags, at)
  const { userName, password, end: packetEnd } = readCredentials(framer, version, flags, willEnd)
  if (packetEnd !== end) throw trailingBytes('CONNECT')
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
    sessionExpirySeconds:
      version === 5 ? properties.sessionExpirySeconds : cleanStart ? 0 : SESSION_NEVER_EXPIRES,
    receiveMaximum: properties.receiveMaximum,
    maximumPacketSize: properties.maximumPacketSize,
    topicAliasMaximum: properties.topicAliasMaximum,
    requestResponseInformation: properties.requestResponseInformation,
    requestProblemInformation: properties.requestProblemInformation,
    userProperties: properties.userProperties,
    authenticationMethod: properties.authenticationMethod,
    authenticationData: properties.authenticationData,
  }
}

/** Reads the Will at `at` if the flags announce one (sections 3.1.3.2 to 3.1.3.4); `end` is behind it. */
function readWill(
  framer: Framer,
  version: ProtocolVersion,
  flags: number,
  at: number,
): { will: Will | undefined; end: number } {
  if ((flags & WILL_FLAG) === 0) return { will: undefined, end: at }
  const { buffer, end } = framer
  let willProperties = NO_MESSAGE_PROPERTIES
  let lengthAt = at
  if (version === 5) {
    const range = propertyRange(framer, at)
    willProperties = readMessageProperties(buffer, range.start, range.end, PropertyPlace.Will)
    lengthAt = range.end
  }
  const topicAt = lengthAt + 2
  const payloadAt = binaryEnd(buffer, lengthAt, end) + 2
  checkTopicName(buffer, topicAt, payloadAt - 2) // [MQTT-3.1.3-11]
  const willEnd = binaryEnd(buffer, payloadAt - 2, end)
  const will = {
    topic: buffer.toString('utf8', topicAt, payloadAt - 2),
    payload: Buffer.from(buffer.subarray(payloadAt, willEnd)),
    qos: ((flags & WILL_QOS) >> 3) as QoS,
    retain: (flags & WILL_RETAIN) !== 0,
    properties: Buffer.from(willProperties.forwarded),
    expirySeconds: willProperties.expirySeconds,
    delaySeconds: willProperties.willDelaySeconds,
  }
  return { will, end: willEnd }
}

/** Reads User Name and Password at `start` (sections 3.1.3.5 and 3.1.3.6); `end` is behind them. */
function readCredentials(
  { buffer, end }: Framer,
  version: ProtocolVersion,
  flags: number,
  start: number,
): { userName: string | undefined; password: Buffer | undefined; end: number } {
  // 3.1 allows the flags to announce a User Name or Password that is not there: the length takes precedence.
  const isThere = (flag: number, at: number): boolean =>
    (flags & flag) !== 0 && !(version === 3 && at === end)
  let at = start
  let userName: string | undefined
  if (isThere(USER_NAME_FLAG, at)) {
    const userNameAt = at + 2
    at = stringEnd(buffer, at, end, 'the User Name') // [MQTT-3.1.3-12]
    userName = buffer.toString('utf8', userNameAt, at)
  }
  let password: Buffer | undefined
  if (isThere(PASSWORD_FLAG, at)) {
    const passwordAt = at + 2
    at = binaryEnd(buffer, at, end)
    password = Buffer.from(buffer.subarray(passwordAt, at))
  }
  return { userName, password, end: at }
}

/**
 * Reads the protocol name and level (sections 3.1.2.1 and 3.1.2.2); `speaks` receives the version of a
 * possible answer. After a name that is not MQTT's the level means nothing, so there is no answer
 * [MQTT-3.1.2-1].
 */
function readVersion(
  name: string,
  buffer: Buffer,
  at: number,
  end: number,
  speaks: { version: ProtocolVersion | null },
  leniences: Leniences | null,
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
  if (isSwapped && leniences?.use('protocol-name') === true) {
    speaks.version = level
    return level
  }
  const statement = name === 'MQTT' ? 'MQTT-3.1.2-2' : 'MQTT-3.1.2-1'
  const message = `protocol name ${JSON.stringify(name.slice(0, 32))} with level ${level} is not supported`
  throw new ProtocolError(Reason.UnsupportedProtocolVersion, statement, message)
}

/** Checks the Connect Flags; returns them without those that are ignored. */
function checkedConnectFlags(flags: number, version: ProtocolVersion, leniences: Leniences | null): number {
  const old = version === 5 ? null : leniences
  let checked = flags
  // 3.1 leaves the bit unused, so it may be anything.
  if ((flags & 1) !== 0 && version !== 3) throw malformed('MQTT-3.1.2-3', 'the reserved Connect Flag is set')
  if ((flags & WILL_FLAG) === 0 && (flags & (WILL_QOS | WILL_RETAIN)) !== 0) {
    // 3.1 disregards them (its section 3.1); 3.1.1 and 5.0 do not.
    if (version === 3 || old?.use('will-flags-without-will') === true) checked &= ~(WILL_QOS | WILL_RETAIN)
    else if ((flags & WILL_QOS) !== 0) throw malformed('MQTT-3.1.2-11', 'Will QoS without a Will')
    else throw malformed('MQTT-3.1.2-13', 'Will Retain without a Will')
  }
  if ((checked & WILL_QOS) === WILL_QOS) throw malformed('MQTT-3.1.2-12', 'the Will QoS is 3')
  if (version !== 5 && (flags & PASSWORD_FLAG) !== 0 && (flags & USER_NAME_FLAG) === 0) {
    // Required by 3.1.1, and section 3.1 of 3.1; 5.0 has no such rule.
    if (old?.use('password-without-user-name') !== true) {
      throw malformed('MQTT-3.1.2-22', 'a Password without a User Name')
    }
  }
  return checked
}

/** Checks and reads the properties of a CONNECT. Throws ProtocolError. */
function readConnectProperties(buffer: Buffer, start: number, end: number): ConnectProperties {
  const properties: ConnectProperties = { ...NO_CONNECT_PROPERTIES }
  let pairs: (readonly [string, string])[] | null = null
  const reader = new PropertyReader(buffer, start, end, PropertyPlace.Connect)
  while (reader.next()) {
    switch (reader.id) {
      case PropertyId.SessionExpiryInterval:
        properties.sessionExpirySeconds = reader.number
        break
      case PropertyId.ReceiveMaximum:
        properties.receiveMaximum = reader.number
        break
      case PropertyId.MaximumPacketSize:
        properties.maximumPacketSize = reader.number
        break
      case PropertyId.TopicAliasMaximum:
        properties.topicAliasMaximum = reader.number
        break
      case PropertyId.RequestResponseInformation:
        properties.requestResponseInformation = reader.number === 1
        break
      case PropertyId.RequestProblemInformation:
        properties.requestProblemInformation = reader.number === 1
        break
      case PropertyId.AuthenticationMethod:
        properties.authenticationMethod = reader.text
        break
      case PropertyId.AuthenticationData:
        properties.authenticationData = reader.bytes
        break
      case PropertyId.UserProperty:
        pairs ??= []
        pairs.push(reader.pair)
        break
    }
  }
  if (pairs !== null) properties.userProperties = pairs
  return properties
}
