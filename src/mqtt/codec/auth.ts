/**
 * AUTH (section 3.15). It is checked byte by byte here, since `mqtt-packet` accepts much that the standard
 * forbids, and then parsed by it.
 */
import { illegal, malformed } from '../field.ts'
import type { AuthPacket, ProtocolVersion } from '../packet.ts'
import { readUserProperties } from '../properties/reader.ts'
import { PropertyPlace } from '../properties/table.ts'
import type { Framer } from './framer.ts'
import { generate, parse } from './mqtt-packet.ts'
import { propertyRange, trailingBytes, unknownReason } from './packet-body.ts'

/** Reason Codes that a client may send: Continue authentication, Re-authenticate. */
const AUTH_CODES: ReadonlySet<number> = new Set([0x18, 0x19])

/** Decodes an AUTH. Throws ProtocolError. */
export function decodeAuth(framer: Framer, version: ProtocolVersion): AuthPacket {
  const { buffer, start, end } = framer
  if (version !== 5) throw malformed('2.2.1', 'packet type 15 is reserved before 5.0')
  const reasonCode = start === end ? 0 : buffer[start]!
  if (!AUTH_CODES.has(reasonCode)) throw unknownReason('AUTH', reasonCode) // [MQTT-3.15.2-1]
  const properties = propertyRange(framer, start + 1)
  if (properties.end !== end) throw trailingBytes('AUTH')
  const userProperties = readUserProperties(buffer, properties.start, end, PropertyPlace.Auth)
  const parsed = parse(framer, 'auth')
  if (parsed.properties?.authenticationMethod === undefined) {
    throw illegal('3.15.2.2.2', 'an AUTH without an Authentication Method')
  }
  return {
    type: 'auth',
    reasonCode,
    authenticationMethod: parsed.properties.authenticationMethod,
    authenticationData: copyOf(parsed.properties.authenticationData),
    reasonString: parsed.properties.reasonString,
    userProperties,
  }
}

/** Copies bytes, so that they do not keep the read buffer in memory. */
function copyOf(view: Buffer | undefined): Buffer | undefined {
  return view === undefined ? undefined : Buffer.from(view)
}

/** Encodes an AUTH of 5.0. */
export function encodeAuth(reasonCode: number, method: string, data: Buffer | undefined): Buffer {
  const properties =
    data === undefined
      ? { authenticationMethod: method }
      : { authenticationMethod: method, authenticationData: data }
  return generate({ cmd: 'auth', reasonCode, properties })
}
