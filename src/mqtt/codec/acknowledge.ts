/** HOT, PURE. PUBACK, PUBREC, PUBREL and PUBCOMP (sections 3.4 to 3.7). */
import { truncated } from '../field.ts'
import type { AcknowledgePacket, AcknowledgeType, ProtocolVersion } from '../packet.ts'
import { PacketType } from '../packet-type.ts'
import { PropertyReader, readUserProperties } from '../properties/reader.ts'
import { PropertyId } from '../properties/table.ts'
import type { PacketWriter } from '../slab.ts'
import type { Framer } from './framer.ts'
import { encodableReason, generate } from './mqtt-packet.ts'
import { propertyRange, trailingBytes, unknownReason, zeroPacketId } from './packet-body.ts'

/** Names by packet type. */
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

/**
 * Reason Codes besides 0 that a client may send in PUBACK and PUBREC. 0x10 (No matching subscribers) is for
 * Servers only, but a bridge is a Server at its other end: Mosquitto's sends it when nobody has subscribed.
 */
const RECEIVED_CODES: ReadonlySet<number> = new Set([0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99])

/** Reason Codes besides 0 that a client may send in PUBREL and PUBCOMP. */
const RELEASE_CODES: ReadonlySet<number> = new Set([0x92])

/** Decodes PUBACK, PUBREC, PUBREL or PUBCOMP. Throws ProtocolError. */
export function decodeAcknowledge(framer: Framer, version: ProtocolVersion): AcknowledgePacket {
  const packetId = acknowledgedId(framer)
  const reasonCode = acknowledgedCode(framer, version)
  const packet = { type: ACKNOWLEDGE_TYPES[framer.type]!, packetId, reasonCode }
  return framer.end - framer.start > 4 ? withProperties(packet, framer) : packet
}

/** Decodes the packet identifier only. Throws ProtocolError. */
export function acknowledgedId({ buffer, start, end }: Framer): number {
  if (end - start < 2) throw truncated()
  const packetId = (buffer[start]! << 8) | buffer[start + 1]!
  if (packetId === 0) throw zeroPacketId()
  return packetId
}

/** Decodes the Reason Code, 0 when absent, of a packet whose identifier was decoded. Throws ProtocolError. */
export function acknowledgedCode(framer: Framer, version: ProtocolVersion): number {
  return framer.end - framer.start === 2 ? 0 : givenCode(framer, version)
}

function givenCode(framer: Framer, version: ProtocolVersion): number {
  const { buffer, start, end, type } = framer
  if (version !== 5) throw trailingBytes(ACKNOWLEDGE_TYPES[type]!)
  const reasonCode = buffer[start + 2]!
  const known = type === PacketType.Puback || type === PacketType.Pubrec ? RECEIVED_CODES : RELEASE_CODES
  if (reasonCode !== 0 && !known.has(reasonCode)) throw unknownReason(ACKNOWLEDGE_TYPES[type]!, reasonCode)
  // Below four bytes of Remaining Length there is no Property Length (section 3.4.2.2.1).
  if (end - start > 3) {
    const properties = propertyRange(framer, start + 3)
    if (properties.end !== end) throw trailingBytes(ACKNOWLEDGE_TYPES[type]!)
    readUserProperties(buffer, properties.start, end, 1 << type)
  }
  return reasonCode
}

/** Adds the properties, which `acknowledgedCode` has checked. */
function withProperties(packet: AcknowledgePacket, framer: Framer): AcknowledgePacket {
  const { start, end } = propertyRange(framer, framer.start + 3)
  const reader = new PropertyReader(framer.buffer, start, end, 1 << framer.type)
  let reasonString: string | undefined
  let retryAfter: string | undefined
  while (reader.next()) {
    if (reader.id === PropertyId.ReasonString) reasonString = reader.text
    else if (reader.text === 'retry-after') retryAfter = reader.pair[1]
  }
  return { ...packet, reasonString, retryAfter }
}

/**
 * Encodes PUBACK or PUBREC of 5.0 that refuses a message and says why. Null if the Reason String would exceed
 * `maximumPacketSize` [MQTT-3.4.2-2] [MQTT-3.5.2-2].
 */
export function encodeRefusal(
  type: 'puback' | 'pubrec',
  packetId: number,
  reasonCode: number,
  reason: string,
  maximumPacketSize: number,
): Buffer | null {
  const reasonString = encodableReason(reason)
  if (reasonString === undefined) return null
  const packet = generate({ cmd: type, messageId: packetId, reasonCode, properties: { reasonString } })
  return packet.length <= maximumPacketSize ? packet : null
}

/** Writes PUBACK, PUBREC, PUBREL or PUBCOMP, in the short form where that means the same. */
export function writeAcknowledge(
  writer: PacketWriter,
  type: AcknowledgeType,
  version: ProtocolVersion,
  packetId: number,
  reasonCode: number,
): void {
  const short = reasonCode === 0 || version !== 5
  writer.reserve(short ? 4 : 5)
  const packet = writer.buffer
  const at = writer.start
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
