/** HOT, PURE. Reads and writes the data types of section 1.5, strictly within a byte range. */
import { ProtocolError, Reason } from './reason.ts'
import { isUtf8String } from './utf8.ts'

/** The largest Variable Byte Integer, and so the largest Remaining Length (section 1.5.5). */
export const VARIABLE_BYTE_INTEGER_MAX = 268_435_455

/** A Malformed Packet (0x81): a value to throw. */
export function malformed(statement: string, message: string): ProtocolError {
  return new ProtocolError(Reason.MalformedPacket, statement, message)
}

/** A Protocol Error (0x82): a value to throw. */
export function illegal(statement: string, message: string): ProtocolError {
  return new ProtocolError(Reason.ProtocolError, statement, message)
}

/** Reads a Two Byte Integer; throws ProtocolError (0x81) when it does not end before `end`. */
export function readUint16(buffer: Buffer, at: number, end: number): number {
  if (at + 2 > end) throw truncated()
  return (buffer[at]! << 8) | buffer[at + 1]!
}

/** Reads a Four Byte Integer; throws ProtocolError (0x81) when it does not end before `end`. */
export function readUint32(buffer: Buffer, at: number, end: number): number {
  if (at + 4 > end) throw truncated()
  return buffer.readUInt32BE(at)
}

/**
 * Reads a Variable Byte Integer. Only the shortest form is accepted, so `variableByteIntegerBytes` of the
 * value is its length. Throws ProtocolError (0x81).
 */
export function readVariableByteInteger(buffer: Buffer, at: number, end: number): number {
  let value = 0
  for (let index = 0; index < 4; index++) {
    if (at + index >= end) throw truncated()
    const byte = buffer[at + index]!
    value |= (byte & 0x7f) << (7 * index)
    if (byte < 0x80) {
      if (byte === 0 && index > 0) {
        throw malformed('MQTT-1.5.5-1', 'a Variable Byte Integer is longer than it needs to be')
      }
      return value
    }
  }
  throw malformed('1.5.5', 'a Variable Byte Integer has more than four bytes')
}

/** Returns the length in bytes of a Variable Byte Integer in its shortest form [MQTT-1.5.5-1]. */
export function variableByteIntegerBytes(value: number): number {
  return value < 0x80 ? 1 : value < 0x4000 ? 2 : value < 0x20_0000 ? 3 : 4
}

/** Writes a Variable Byte Integer in its shortest form [MQTT-1.5.5-1]; returns the position after it. */
export function writeVariableByteInteger(buffer: Buffer, at: number, value: number): number {
  let rest = value
  let position = at
  while (rest >= 0x80) {
    buffer[position++] = (rest & 0x7f) | 0x80
    rest >>>= 7
  }
  buffer[position++] = rest
  return position
}

/** Checks a UTF-8 Encoded String at `at`; returns the position after it. Throws ProtocolError (0x81). */
export function stringEnd(buffer: Buffer, at: number, end: number, name: string): number {
  const after = binaryEnd(buffer, at, end)
  if (!isUtf8String(buffer, at + 2, after)) {
    throw malformed('MQTT-1.5.4-1', `${name} is not well-formed UTF-8 or contains U+0000`)
  }
  return after
}

/** Checks Binary Data at `at`; returns the position after it. Throws ProtocolError (0x81). */
export function binaryEnd(buffer: Buffer, at: number, end: number): number {
  const after = at + 2 + readUint16(buffer, at, end)
  if (after > end) throw truncated()
  return after
}

/** A field that reaches beyond its packet (0x81): a value to throw. */
export function truncated(): ProtocolError {
  return malformed('1.2', 'a field reaches beyond the end of the packet')
}
