/** HOT. Memory that packets to clients are written into, one behind the other, so that neighbours leave as one slice. */

import type { EncodedPacket } from './message.ts'

/** As small as this since a single waiting packet keeps all of it alive. */
const SLAB_BYTES = 16 * 1024

/** Larger packets get memory of their own, so that little of a slab is left unused. */
const PLACED_BYTES_MAX = 2048

const NOTHING: Buffer = Buffer.alloc(0)

/** Where a packet is written: `reserve` makes room, then it is `buffer[start..end)`, for whoever placed it to fill. */
export interface PacketWriter extends EncodedPacket {
  /** A large payload that follows these bytes and lies elsewhere; null where the packet is whole. `reserve` makes it so. */
  body: Buffer | null
  reserve(bytes: number): void
}

export class PacketSlab implements PacketWriter {
  /** Where the packet lies that was placed last. */
  buffer: Buffer = NOTHING
  start = 0
  end = 0
  body: Buffer | null = null
  #slab: Buffer = Buffer.allocUnsafeSlow(SLAB_BYTES)
  #used = 0

  /** Makes room for a packet of this many bytes, to be written into `buffer` from `start` on. */
  reserve(bytes: number): void {
    this.body = null
    if (bytes > PLACED_BYTES_MAX) {
      this.buffer = Buffer.allocUnsafe(bytes)
      this.start = 0
      this.end = bytes
      return
    }
    if (bytes > SLAB_BYTES - this.#used) {
      this.#slab = Buffer.allocUnsafeSlow(SLAB_BYTES)
      this.#used = 0
    }
    this.buffer = this.#slab
    this.start = this.#used
    this.#used += bytes
    this.end = this.#used
  }
}
