/** CONNACK (section 3.2). */
import type { ConnackPacket, ProtocolVersion, UserProperties } from '../packet.ts'
import { PropertyId } from '../properties/table.ts'
import { Reason } from '../reason.ts'
import { encodableReason, generate } from './mqtt-packet.ts'

const CONNACK = 0x20
const SESSION_PRESENT = 1
const NOTHING: Buffer = Buffer.alloc(0)

/** CONNACK with Success before 5.0, without and with Session Present. */
const ACCEPTED: Buffer = Buffer.from([CONNACK, 2, 0, 0])
const ACCEPTED_PRESENT: Buffer = Buffer.from([CONNACK, 2, SESSION_PRESENT, 0])

/** Bytes of CONNACK with Success before 5.0; 3.1 has no Session Present. Shared: must not be changed. */
export function acceptedBefore5(version: ProtocolVersion, sessionPresent: boolean): Buffer {
  return sessionPresent && version !== 3 ? ACCEPTED_PRESENT : ACCEPTED
}

/**
 * Encodes a CONNACK. Null when 3.1 and 3.1.1 have no return code for the reason. Drops the Reason String,
 * then the User Properties, when they would exceed `maximumPacketSize` [MQTT-3.2.2-19] [MQTT-3.2.2-20];
 * when even the rest is larger, the caller must not send it [MQTT-3.1.2-24].
 */
export function encodeConnack(
  packet: ConnackPacket,
  version: ProtocolVersion,
  maximumPacketSize: number,
): Buffer | null {
  // [MQTT-3.2.2-6] A refusal never says that a Session is present; 3.1 has no such flag.
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
  let bytes = NOTHING
  for (const properties of [{ ...withUser, reasonString: encodableReason(reasonString) }, withUser, bare]) {
    bytes = generate({ cmd: 'connack', sessionPresent, reasonCode: packet.reasonCode, properties })
    if (bytes.length <= maximumPacketSize) break
  }
  return bytes
}

/** The most bytes of a successful CONNACK besides User Properties, strings and Authentication Data. */
const USUAL_CONNACK_BYTES = 64

/**
 * Encodes a successful CONNACK; null when it has a property that only `mqtt-packet` writes. Every
 * connection gets one, so it is written directly: 0.5 us in place of 4.
 */
function usualConnack({ properties }: ConnackPacket, sessionPresent: boolean): Buffer | null {
  const { assignedClientIdentifier, authenticationMethod, authenticationData } = properties
  const { reasonString, userProperties, responseInformation, serverReference } = properties
  if (reasonString !== undefined || userProperties !== undefined) return null
  if (responseInformation !== undefined || serverReference !== undefined) return null
  if (authenticationMethod !== undefined || authenticationData !== undefined) return null
  const idBytes = assignedClientIdentifier === undefined ? 0 : Buffer.byteLength(assignedClientIdentifier)
  const packet = Buffer.allocUnsafe(USUAL_CONNACK_BYTES + idBytes)
  // One byte each for Remaining Length and Property Length is enough for the usual ones.
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

/** Sets Session Present in an encoded CONNACK; its size stays the same. */
export function setSessionPresent(connack: Buffer): void {
  let at = 2
  while (connack[at - 1]! >= 0x80) at++
  connack[at] = SESSION_PRESENT
}

/**
 * Returns the return code of 3.1 and 3.1.1 (table 3.1 of 3.1.1) for a Reason Code of 5.0; null when none
 * fits.
 */
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

/**
 * Makes an object of each pair: mqtt-packet writes a list in its order; one object would lose order and
 * repeats.
 */
function pairs(userProperties: UserProperties | undefined): object[] | undefined {
  // An empty list would make mqtt-packet stop in the middle of the packet.
  if (userProperties === undefined || userProperties.length === 0) return undefined
  return userProperties.map(([name, value]) => ({ [name]: value }))
}
