/** UNSUBSCRIBE and its answer UNSUBACK (sections 3.10 and 3.11). */
import type { ProtocolVersion, UnsubscribePacket } from '../packet.ts'
import { FilterReader } from './filter-reader.ts'
import type { Framer } from './framer.ts'
import { filterAnswer } from './subscribe.ts'

const UNSUBACK = 0xb0

/** Decodes an UNSUBSCRIBE. Throws ProtocolError. */
export function decodeUnsubscribe(framer: Framer, version: ProtocolVersion): UnsubscribePacket {
  const reader = new FilterReader(framer, version)
  const filters: string[] = []
  while (reader.next()) filters.push(reader.filter)
  return { type: 'unsubscribe', packetId: reader.packetId, filters, userProperties: reader.userProperties }
}

/** Encodes an UNSUBACK; before 5.0 it has no Reason Codes. */
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
