/**
 * PURE. Describes a control packet for `log.level: trace`: its type, identifier and size, but not its
 * content.
 */
import type { Framer } from '../../../mqtt/codec/framer.ts'
import type { AcknowledgeType, ProtocolVersion } from '../../../mqtt/packet.ts'
import { PacketType } from '../../../mqtt/packet-type.ts'
import type { PacketEvent } from '../../boundary/events.ts'

export type TracedPacket = Omit<PacketEvent, 'clientId' | 'link' | 'direction'>

const NAMES: Readonly<Record<number, string>> = Object.fromEntries(
  Object.entries(PacketType).map(([name, type]) => [type, name.toUpperCase()]),
)

/** Types whose variable header begins with a packet identifier. */
const IDENTIFIED: ReadonlySet<number> = new Set([
  PacketType.Puback,
  PacketType.Pubrec,
  PacketType.Pubrel,
  PacketType.Pubcomp,
  PacketType.Subscribe,
  PacketType.Suback,
  PacketType.Unsubscribe,
  PacketType.Unsuback,
])

/** Describes the framer's current packet, which is not decoded yet and may be malformed. */
export function receivedPacket({ type, flags, buffer, start, end, packetBytes }: Framer): TracedPacket {
  const packet = NAMES[type] ?? `type ${type}`
  if (type === PacketType.Publish) {
    const qos = (flags >> 1) & 3
    const idAt = start + 2 <= end ? start + 2 + buffer.readUInt16BE(start) : end
    const id = qos > 0 && idAt + 2 <= end ? { packetId: buffer.readUInt16BE(idAt) } : {}
    return { packet, bytes: packetBytes, qos, dup: (flags & 8) !== 0, retain: (flags & 1) !== 0, ...id }
  }
  const isIdentified = IDENTIFIED.has(type) && start + 2 <= end
  return { packet, bytes: packetBytes, ...(isIdentified && { packetId: buffer.readUInt16BE(start) }) }
}

/** Describes a packet that leaves, from its bytes. */
export function sentPacket(bytes: Buffer): TracedPacket {
  const type = bytes[0]! >> 4
  const traced = { packet: NAMES[type] ?? `type ${type}`, bytes: bytes.length }
  if (!IDENTIFIED.has(type)) return traced
  let at = 1
  while (bytes[at]! >= 0x80) at++
  return { ...traced, packetId: bytes.readUInt16BE(at + 1) }
}

/**
 * Describes PUBACK, PUBREC, PUBREL or PUBCOMP as it is written: without Reason Code before 5.0, and for
 * success.
 */
export function acknowledgement(
  type: AcknowledgeType,
  version: ProtocolVersion,
  packetId: number,
  reasonCode: number,
): TracedPacket {
  return { packet: type.toUpperCase(), bytes: version === 5 && reasonCode !== 0 ? 5 : 4, packetId }
}
