/**
 * HOT. From the Server's packets to bytes. PUBLISH, acknowledgements, SUBACK, UNSUBACK and a usual CONNACK directly, all
 * others by `mqtt-packet`.
 */
import type { Packet as GeneratedPacket } from 'mqtt-packet'
import { VARIABLE_BYTE_INTEGER_MAX, variableByteIntegerBytes, writeVariableByteInteger } from '../field.ts'
import type { Message, Wire } from '../message.ts'
import type { AcknowledgeType, ConnackPacket, ProtocolVersion, UserProperties } from '../packet.ts'
import { Reason } from '../reason.ts'
import type { PacketPlace } from '../slab.ts'
import { stringError } from '../utf8.ts'
import { codec } from './codec.ts'
import { PropertyId } from './properties.ts'

const CONNACK = 0x20
const PUBLISH = 0x30
const SUBACK = 0x90
const UNSUBACK = 0xb0
const SESSION_PRESENT = 1
const UINT32_MAX = 0xffff_ffff
const EMPTY: Buffer = Buffer.alloc(0)

/** From this size on, in bytes, a payload is not copied beside its head: that would take memory for each receiver. */
const BODY_BYTES_MIN = 2048

/** PINGRESP (section 3.13). Shared: must not be changed. */
export const PINGRESP: Buffer = Buffer.from([0xd0, 0x00])

/**
 * Writes a PUBLISH (section 3.3) into `place`. `flags` is the low nibble of the fixed header: DUP 8, QoS times 2, RETAIN 1.
 * `packetId` is not used at QoS 0. `expirySeconds` -1: none; `alias` 0: none; `aliasKnown`: the client knows the
 * alias, so the topic name stays empty. Identifiers, expiry and alias are for 5.0 only.
 *
 * A large payload stays where the message has it: `place.body`, which follows what was placed.
 * A packet beyond what the protocol can express is placed as no bytes: it cannot be sent [MQTT-3.1.2-25].
 */
export function writePublish(
  place: PacketPlace,
  message: Message,
  version: ProtocolVersion,
  flags: number,
  packetId: number,
  subscriptionIdentifiers: readonly number[],
  expirySeconds: number,
  alias: number,
  aliasKnown: boolean,
): void {
  if (version === 5 && (subscriptionIdentifiers.length > 0 || expirySeconds >= 0 || alias > 0)) {
    const topic = aliasKnown ? EMPTY : message.topic.bytes
    writeWithMore(place, message, flags, packetId, topic, subscriptionIdentifiers, expirySeconds, alias)
  } else writePlain(place, message, version, flags, packetId, BODY_BYTES_MIN)
}

/**
 * The PUBLISH at QoS 0 without RETAIN, identifiers, expiry and alias: the same bytes for all receivers of a protocol
 * version, and those of the publisher's packet where it looked like this. Empty where `writePublish` places nothing.
 */
export function publishWire(place: PacketPlace, message: Message, version: ProtocolVersion): Wire {
  const known = version === 5 ? message.wire5 : message.wire4
  if (known !== null) return known
  writePlain(place, message, version, 0, 0, Number.POSITIVE_INFINITY)
  const wire = { buffer: place.buffer, start: place.start, end: place.end }
  if (version === 5) message.wire5 = wire
  else message.wire4 = wire
  return wire
}

function writePlain(
  place: PacketPlace,
  message: Message,
  version: ProtocolVersion,
  flags: number,
  packetId: number,
  bodyBytesMin: number,
): void {
  const topic = message.topic.bytes
  const payload = message.payload
  const properties = message.properties
  const hasId = (flags & 6) !== 0
  const propertyBytes = properties.length
  let remaining = 2 + topic.length + payload.length
  if (hasId) remaining += 2
  if (version === 5) remaining += variableByteIntegerBytes(propertyBytes) + propertyBytes
  const body = payload.length >= bodyBytesMin ? payload : null
  if (!placed(place, remaining, body)) return
  const packet = place.buffer
  let at = writeHead(packet, place.start, flags, remaining, topic)
  if (hasId) {
    packet[at++] = packetId >>> 8
    packet[at++] = packetId
  }
  if (version === 5) {
    at = writeVariableByteInteger(packet, at, propertyBytes)
    if (propertyBytes > 0) {
      packet.set(properties, at)
      at += propertyBytes
    }
  }
  if (body === null && payload.length > 0) packet.set(payload, at)
}

/** 5.0, with properties that differ per receiver; they stand before those that are forwarded. */
function writeWithMore(
  place: PacketPlace,
  message: Message,
  flags: number,
  packetId: number,
  topic: Buffer,
  subscriptionIdentifiers: readonly number[],
  expirySeconds: number,
  alias: number,
): void {
  const payload = message.payload
  const properties = message.properties
  const hasId = (flags & 6) !== 0
  let propertyBytes = properties.length
  if (expirySeconds >= 0) propertyBytes += 5
  if (alias > 0) propertyBytes += 3
  for (let index = 0; index < subscriptionIdentifiers.length; index++) {
    propertyBytes += 1 + variableByteIntegerBytes(subscriptionIdentifiers[index]!)
  }
  const remaining =
    2 +
    topic.length +
    (hasId ? 2 : 0) +
    variableByteIntegerBytes(propertyBytes) +
    propertyBytes +
    payload.length
  const body = payload.length >= BODY_BYTES_MIN ? payload : null
  if (!placed(place, remaining, body)) return
  const packet = place.buffer
  let at = writeHead(packet, place.start, flags, remaining, topic)
  if (hasId) {
    packet[at++] = packetId >>> 8
    packet[at++] = packetId
  }
  at = writeVariableByteInteger(packet, at, propertyBytes)
  if (expirySeconds >= 0) {
    packet[at++] = PropertyId.MessageExpiryInterval
    at = packet.writeUInt32BE(Math.min(expirySeconds, UINT32_MAX), at)
  }
  if (alias > 0) {
    packet[at++] = PropertyId.TopicAlias
    packet[at++] = alias >>> 8
    packet[at++] = alias
  }
  for (let index = 0; index < subscriptionIdentifiers.length; index++) {
    packet[at++] = PropertyId.SubscriptionIdentifier
    at = writeVariableByteInteger(packet, at, subscriptionIdentifiers[index]!)
  }
  packet.set(properties, at)
  if (body === null) packet.set(payload, at + properties.length)
}

/** Places a packet with this Remaining Length but for its `body`; nothing, where the protocol cannot express it. */
function placed(place: PacketPlace, remaining: number, body: Buffer | null): boolean {
  if (remaining > VARIABLE_BYTE_INTEGER_MAX) {
    place.place(0)
    return false
  }
  place.place(1 + variableByteIntegerBytes(remaining) + remaining - (body === null ? 0 : body.length))
  place.body = body
  return true
}

/** Fixed header and topic name; returns the position after them. */
function writeHead(packet: Buffer, start: number, flags: number, remaining: number, topic: Buffer): number {
  packet[start] = PUBLISH | flags
  const at = writeVariableByteInteger(packet, start + 1, remaining)
  packet[at] = topic.length >>> 8
  packet[at + 1] = topic.length
  packet.set(topic, at + 2)
  return at + 2 + topic.length
}

/**
 * Writes PUBACK, PUBREC, PUBREL or PUBCOMP (sections 3.4 to 3.7) into `place`, in the short form where that says the same.
 */
export function writeAcknowledge(
  place: PacketPlace,
  type: AcknowledgeType,
  version: ProtocolVersion,
  packetId: number,
  reasonCode: number,
): void {
  const short = reasonCode === 0 || version !== 5
  place.place(short ? 4 : 5)
  const packet = place.buffer
  const at = place.start
  packet[at] = acknowledgeHeader(type)
  packet[at + 1] = short ? 2 : 3
  packet[at + 2] = packetId >>> 8
  packet[at + 3] = packetId
  if (!short) packet[at + 4] = reasonCode
}

function acknowledgeHeader(type: AcknowledgeType): number {
  switch (type) {
    case 'puback':
      return 0x40
    case 'pubrec':
      return 0x50
    case 'pubrel':
      return 0x62
    case 'pubcomp':
      return 0x70
  }
}

/**
 * Encodes a CONNACK (section 3.2). Null when 3.1 and 3.1.1 have no return code for the reason. Drops the Reason
 * String, then the User Properties, where they would exceed `maximumPacketSize` [MQTT-3.2.2-19] [MQTT-3.2.2-20]; if even the
 * rest is larger, the caller must not send it [MQTT-3.1.2-24].
 */
export function encodeConnack(
  packet: ConnackPacket,
  version: ProtocolVersion,
  maximumPacketSize: number,
): Buffer | null {
  // [MQTT-3.2.2-6] a refusal never says that a Session is present; 3.1 has no such flag.
  const sessionPresent = packet.sessionPresent && packet.reasonCode === 0 && version !== 3
  if (version !== 5) {
    const returnCode = connectReturnCode(packet.reasonCode)
    if (returnCode === null) return null
    return Buffer.from([CONNACK, 2, sessionPresent ? SESSION_PRESENT : 0, returnCode])
  }
  if (packet.reasonCode === Reason.Success) {
    const usual = usualConnack(packet, sessionPresent)
    if (usual !== null) return usual
  }
  const { reasonString, userProperties, sessionExpirySeconds, serverKeepAliveSeconds, ...same } =
    packet.properties
  const bare = {
    ...same,
    sessionExpiryInterval: sessionExpirySeconds,
    serverKeepAlive: serverKeepAliveSeconds,
  }
  const withUser = { ...bare, userProperties: pairs(userProperties) }
  let bytes = EMPTY
  for (const properties of [{ ...withUser, reasonString: sendable(reasonString) }, withUser, bare]) {
    bytes = write({ cmd: 'connack', sessionPresent, reasonCode: packet.reasonCode, properties }, 5)
    if (bytes.length <= maximumPacketSize) break
  }
  return bytes
}

/** What a CONNACK that lets a client in says at most besides User Properties, strings and Authentication Data, in bytes. */
const USUAL_CONNACK_BYTES = 64

/**
 * The CONNACK of a client that was let in; null where it says what only `mqtt-packet` writes. Directly, since each
 * connection gets one: 0.5 us in place of 4.
 */
function usualConnack({ properties }: ConnackPacket, sessionPresent: boolean): Buffer | null {
  const { assignedClientIdentifier, authenticationMethod, authenticationData } = properties
  const { reasonString, userProperties, responseInformation, serverReference } = properties
  if (reasonString !== undefined || userProperties !== undefined) return null
  if (responseInformation !== undefined || serverReference !== undefined) return null
  if (authenticationMethod !== undefined || authenticationData !== undefined) return null
  const idBytes = assignedClientIdentifier === undefined ? 0 : Buffer.byteLength(assignedClientIdentifier)
  const packet = Buffer.allocUnsafe(USUAL_CONNACK_BYTES + idBytes)
  // Remaining Length and Property Length have one byte each up to here, which the usual ones never exceed.
  const propertiesAt = 5
  let at = propertiesAt
  at = uint32(packet, at, PropertyId.SessionExpiryInterval, properties.sessionExpirySeconds)
  at = uint16(packet, at, PropertyId.ReceiveMaximum, properties.receiveMaximum)
  at = byte(packet, at, PropertyId.MaximumQoS, properties.maximumQoS)
  at = byte(packet, at, PropertyId.RetainAvailable, properties.retainAvailable)
  at = uint32(packet, at, PropertyId.MaximumPacketSize, properties.maximumPacketSize)
  if (assignedClientIdentifier !== undefined) {
    packet[at] = PropertyId.AssignedClientIdentifier
    packet.writeUInt16BE(idBytes, at + 1)
    at += 3 + packet.write(assignedClientIdentifier, at + 3)
  }
  at = uint16(packet, at, PropertyId.TopicAliasMaximum, properties.topicAliasMaximum)
  at = byte(packet, at, PropertyId.WildcardSubscriptionAvailable, properties.wildcardSubscriptionAvailable)
  at = byte(
    packet,
    at,
    PropertyId.SubscriptionIdentifierAvailable,
    properties.subscriptionIdentifiersAvailable,
  )
  at = byte(packet, at, PropertyId.SharedSubscriptionAvailable, properties.sharedSubscriptionAvailable)
  at = uint16(packet, at, PropertyId.ServerKeepAlive, properties.serverKeepAliveSeconds)
  if (at - 2 >= 0x80) return null
  packet[0] = CONNACK
  packet[1] = at - 2
  packet[2] = sessionPresent ? SESSION_PRESENT : 0
  packet[3] = Reason.Success
  packet[4] = at - propertiesAt
  return packet.subarray(0, at)
}

function byte(packet: Buffer, at: number, id: number, value: number | boolean | undefined): number {
  if (value === undefined) return at
  packet[at] = id
  packet[at + 1] = Number(value)
  return at + 2
}

function uint16(packet: Buffer, at: number, id: number, value: number | undefined): number {
  if (value === undefined) return at
  packet[at] = id
  return packet.writeUInt16BE(value, at + 1)
}

function uint32(packet: Buffer, at: number, id: number, value: number | undefined): number {
  if (value === undefined) return at
  packet[at] = id
  return packet.writeUInt32BE(value, at + 1)
}

/** Says in an encoded CONNACK that a Session is present; its size stays the same. */
export function setSessionPresent(connack: Buffer): void {
  let at = 2
  while (connack[at - 1]! >= 0x80) at++
  connack[at] = SESSION_PRESENT
}

/** The return code of 3.1 and 3.1.1 (table 3.1 of 3.1.1) for a Reason Code of 5.0; null when none fits. */
function connectReturnCode(reasonCode: number): number | null {
  switch (reasonCode) {
    case Reason.Success:
      return 0
    case Reason.UnsupportedProtocolVersion:
      return 1
    case Reason.ClientIdentifierNotValid:
      return 2
    case Reason.ServerUnavailable:
    case Reason.ServerBusy:
    case Reason.ServerShuttingDown:
    case Reason.QuotaExceeded:
    case Reason.UseAnotherServer:
    case Reason.ServerMoved:
    case Reason.ConnectionRateExceeded:
      return 3
    case Reason.BadUserNameOrPassword:
      return 4
    case Reason.NotAuthorized:
    case Reason.Banned:
      return 5
    default:
      return null
  }
}

/** Encodes a SUBACK (section 3.9); `reasonCodes` in the order of the request, never empty. */
export function encodeSuback(
  version: ProtocolVersion,
  packetId: number,
  reasonCodes: readonly number[],
): Buffer {
  // [MQTT-3.9.3-2] of 3.1.1: the only failure it knows is 0x80. 3.1 knows none: what is refused is acknowledged all the
  // same, as its section 3.8 says, at the QoS that promises least.
  const failure = version === 3 ? 0 : 0x80
  const packet = filterAnswer(SUBACK, packetId, version, reasonCodes.length)
  let at = packet.length - reasonCodes.length
  for (const code of reasonCodes) packet[at++] = version === 5 || code <= 2 ? code : failure
  return packet
}

/** Encodes an UNSUBACK (section 3.11); before 5.0 it has no Reason Codes. */
export function encodeUnsuback(
  version: ProtocolVersion,
  packetId: number,
  reasonCodes: readonly number[],
): Buffer {
  const codes = version === 5 ? reasonCodes : []
  const packet = filterAnswer(UNSUBACK, packetId, version, codes.length)
  packet.set(codes, packet.length - codes.length)
  return packet
}

/** A SUBACK or UNSUBACK without properties, with room for its Reason Codes at the end. */
function filterAnswer(type: number, packetId: number, version: ProtocolVersion, codes: number): Buffer {
  const remaining = 2 + (version === 5 ? 1 : 0) + codes
  const packet = Buffer.allocUnsafe(1 + variableByteIntegerBytes(remaining) + remaining)
  packet[0] = type
  const at = packet.writeUInt16BE(packetId, writeVariableByteInteger(packet, 1, remaining))
  if (version === 5) packet[at] = 0
  return packet
}

/**
 * Encodes a DISCONNECT of 5.0 (section 3.14); drops the Reason String where it would exceed `maximumPacketSize`
 * [MQTT-3.14.2-3]. Without it the packet has four bytes; a client that takes less must not be sent it.
 */
export function encodeDisconnect(
  reasonCode: number,
  reasonString: string | undefined,
  maximumPacketSize: number,
): Buffer {
  const bare = { cmd: 'disconnect', reasonCode } as const
  const reason = sendable(reasonString)
  if (reason === undefined) return write(bare, 5)
  const packet = write({ ...bare, properties: { reasonString: reason } }, 5)
  return packet.length <= maximumPacketSize ? packet : write(bare, 5)
}

/** Encodes an AUTH of 5.0 (section 3.15). */
export function encodeAuth(reasonCode: number, method: string, data: Buffer | undefined): Buffer {
  const properties =
    data === undefined
      ? { authenticationMethod: method }
      : { authenticationMethod: method, authenticationData: data }
  return write({ cmd: 'auth', reasonCode, properties }, 5)
}

/** A Reason String that cannot be a UTF-8 Encoded String is left out: it only explains. */
function sendable(reasonString: string | undefined): string | undefined {
  return reasonString === undefined || stringError(reasonString) !== null ? undefined : reasonString
}

/** One object per pair: mqtt-packet writes a list in its order, whereas a single object loses order and repeats. */
function pairs(userProperties: UserProperties | undefined): object[] | undefined {
  // An empty list would make mqtt-packet stop in the middle of the packet.
  if (userProperties === undefined || userProperties.length === 0) return undefined
  return userProperties.map(([name, value]) => ({ [name]: value }))
}

function write(packet: object, version: ProtocolVersion): Buffer {
  return codec().generate(packet as GeneratedPacket, { protocolVersion: version })
}
