/** SUBSCRIBE and its answer SUBACK (sections 3.8 and 3.9). */
import { variableByteIntegerBytes, writeVariableByteInteger } from '../field.ts'
import type { ProtocolVersion, SubscribePacket, SubscribeRequest } from '../packet.ts'
import { FilterReader } from './filter-reader.ts'
import type { Framer } from './framer.ts'
import { encodableReason, generate } from './mqtt-packet.ts'

const SUBACK = 0x90

/** Decodes a SUBSCRIBE. Throws ProtocolError. */
export function decodeSubscribe(framer: Framer, version: ProtocolVersion): SubscribePacket {
  const reader = new FilterReader(framer, version)
  const requests: SubscribeRequest[] = []
  while (reader.next()) requests.push(reader.request)
  const { packetId, subscriptionIdentifier, userProperties } = reader
  return { type: 'subscribe', packetId, requests, subscriptionIdentifier, userProperties }
}

/** Encodes a SUBACK; `reasonCodes` in the order of the request, never empty. */
export function encodeSuback(
  version: ProtocolVersion,
  packetId: number,
  reasonCodes: readonly number[],
): Buffer {
  // [MQTT-3.9.3-2] of 3.1.1: the only failure it knows is 0x80. 3.1 knows none: a refused filter is
  // acknowledged all the same, as its section 3.8 says, at the QoS that promises least.
  const failure = version === 3 ? 0 : 0x80
  const packet = filterAnswer(SUBACK, packetId, version, reasonCodes.length)
  let at = packet.length - reasonCodes.length
  for (const code of reasonCodes) packet[at++] = version === 5 || code <= 2 ? code : failure
  return packet
}

/**
 * Encodes a SUBACK of 5.0 with a Reason String; without it where the packet would exceed `maximumPacketSize`
 * [MQTT-3.9.2-1].
 */
export function encodeExplainedSuback(
  packetId: number,
  reasonCodes: readonly number[],
  reason: string,
  maximumPacketSize: number,
): Buffer {
  const reasonString = encodableReason(reason)
  const bare = encodeSuback(5, packetId, reasonCodes)
  if (reasonString === undefined) return bare
  const granted = [...reasonCodes]
  const packet = generate({ cmd: 'suback', messageId: packetId, granted, properties: { reasonString } })
  return packet.length <= maximumPacketSize ? packet : bare
}

/** Makes a SUBACK or UNSUBACK without properties, with room for its Reason Codes at the end. */
export function filterAnswer(
  firstByte: number,
  packetId: number,
  version: ProtocolVersion,
  codes: number,
): Buffer {
  const remaining = 2 + (version === 5 ? 1 : 0) + codes
  const packet = Buffer.allocUnsafe(1 + variableByteIntegerBytes(remaining) + remaining)
  packet[0] = firstByte
  const at = packet.writeUInt16BE(packetId, writeVariableByteInteger(packet, 1, remaining))
  if (version === 5) packet[at] = 0
  return packet
}
