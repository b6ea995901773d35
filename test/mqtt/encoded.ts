/** Encodes packets into buffers of their own. */
import { writeAcknowledge } from '../../src/mqtt/codec/acknowledge.ts'
import { writePublish } from '../../src/mqtt/codec/publish.ts'
import type { EncodedPacket } from '../../src/mqtt/message.ts'
import { PacketSlab } from '../../src/mqtt/slab.ts'

type Rest<F> = F extends (slab: PacketSlab, ...rest: infer R) => void ? R : never

export function bytesOf({ buffer, start, end }: EncodedPacket): Buffer {
  return Buffer.from(buffer.subarray(start, end))
}

export function encodePublish(...rest: Rest<typeof writePublish>): Buffer {
  const slab = new PacketSlab()
  writePublish(slab, ...rest)
  return Buffer.concat([bytesOf(slab), slab.body ?? Buffer.alloc(0)])
}

export function encodeAcknowledge(...rest: Rest<typeof writeAcknowledge>): Buffer {
  const slab = new PacketSlab()
  writeAcknowledge(slab, ...rest)
  return bytesOf(slab)
}
