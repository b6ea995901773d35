/**
 * DISCONNECT (section 3.14). One with a body is checked byte by byte here, since `mqtt-packet` accepts much
 * that the standards forbid, and then parsed by it.
 */
import type { DisconnectPacket, ProtocolVersion } from '../packet.ts'
import { NO_USER_PROPERTIES, readUserProperties } from '../properties/reader.ts'
import { PropertyPlace } from '../properties/table.ts'
import type { Framer } from './framer.ts'
import { encodableReason, generate, parse } from './mqtt-packet.ts'
import { propertyRange, trailingBytes, unknownReason } from './packet-body.ts'

/** A DISCONNECT without a body: Normal disconnection (section 3.14.2.1). */
const NORMAL_DISCONNECT: DisconnectPacket = Object.freeze({
  type: 'disconnect',
  reasonCode: 0,
  sessionExpirySeconds: undefined,
  reasonString: undefined,
  userProperties: NO_USER_PROPERTIES,
})

/** Reason Codes that a client may send; many others are for Servers only. */
const DISCONNECT_CODES: ReadonlySet<number> = new Set([
  0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
])

/** Decodes a DISCONNECT. Throws ProtocolError. */
export function decodeDisconnect(framer: Framer, version: ProtocolVersion): DisconnectPacket {
  const { buffer, start, end } = framer
  if (version !== 5 && start !== end) throw trailingBytes('DISCONNECT')
  if (start === end) return NORMAL_DISCONNECT
  let userProperties = NO_USER_PROPERTIES
  if (!DISCONNECT_CODES.has(buffer[start]!)) throw unknownReason('DISCONNECT', buffer[start]!)
  // Below two bytes of Remaining Length there is no Property Length (section 3.14.2.2.1).
  if (end - start > 1) {
    const properties = propertyRange(framer, start + 1)
    if (properties.end !== end) throw trailingBytes('DISCONNECT')
    userProperties = readUserProperties(buffer, properties.start, end, PropertyPlace.Disconnect)
  }
  const parsed = parse(framer, 'disconnect')
  return {
    type: 'disconnect',
    reasonCode: parsed.reasonCode ?? 0,
    sessionExpirySeconds: parsed.properties?.sessionExpiryInterval,
    reasonString: parsed.properties?.reasonString,
    userProperties,
  }
}

/**
 * Encodes a DISCONNECT of 5.0; drops the Reason String where it would exceed `maximumPacketSize`
 * [MQTT-3.14.2-3]. Without it the packet has four bytes; a client that takes less must not be sent it.
 */
export function encodeDisconnect(
  reasonCode: number,
  reasonString: string | undefined,
  maximumPacketSize: number,
): Buffer {
  const bare = { cmd: 'disconnect', reasonCode } as const
  const reason = encodableReason(reasonString)
  if (reason === undefined) return generate(bare)
  const packet = generate({ ...bare, properties: { reasonString: reason } })
  return packet.length <= maximumPacketSize ? packet : generate(bare)
}
