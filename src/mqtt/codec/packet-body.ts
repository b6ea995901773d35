/** HOT, PURE. Checks parts that the bodies of several packets have in common. */
import { illegal, malformed, readVariableByteInteger, truncated, variableByteIntegerBytes } from '../field.ts'
import type { ProtocolError } from '../reason.ts'
import { type Framer, propertiesTooLong } from './framer.ts'

/** Finds the properties at `at`, without their length [MQTT-2.2.2-1]. Throws ProtocolError. */
export function propertyRange(framer: Framer, at: number): { start: number; end: number } {
  const { buffer, end, propertyBytesMax } = framer
  const bytes = readVariableByteInteger(buffer, at, end)
  const start = at + variableByteIntegerBytes(bytes)
  if (start + bytes > end) throw truncated()
  if (bytes > propertyBytesMax) throw propertiesTooLong(bytes, propertyBytesMax)
  return { start, end: start + bytes }
}

/** A Packet Identifier of 0 (0x81): a value to throw. */
export function zeroPacketId(): ProtocolError {
  return malformed('MQTT-2.2.1-3', 'the Packet Identifier is 0')
}

/** Bytes after the last field (0x81): a value to throw. */
export function trailingBytes(packet: string): ProtocolError {
  return malformed('2.1.4', `bytes after the end of a ${packet}`)
}

/** A Reason Code that clients must not send in this packet (0x82): a value to throw. */
export function unknownReason(packet: string, reasonCode: number): ProtocolError {
  return illegal('2.4', `a client’s ${packet} must not have Reason Code 0x${reasonCode.toString(16)}`)
}
