/** PURE. PINGREQ and PINGRESP (sections 3.12 and 3.13). */
import type { PingreqPacket } from '../packet.ts'
import type { Framer } from './framer.ts'
import { trailingBytes } from './packet-body.ts'

const PINGREQ: PingreqPacket = Object.freeze({ type: 'pingreq' })

/** Bytes of a PINGRESP. Shared: must not be changed. */
export const PINGRESP: Buffer = Buffer.from([0xd0, 0x00])

/** Decodes a PINGREQ. Throws ProtocolError. */
export function decodePingreq(framer: Framer): PingreqPacket {
  if (framer.start !== framer.end) throw trailingBytes('PINGREQ')
  return PINGREQ
}
