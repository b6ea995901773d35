/**
 * HOT. Memory into which packets for clients are written one after another, so that neighbours are sent as
 * one slice.
 */

import type { EncodedPacket } from './message.ts'

/** Small, since a single waiting packet keeps all of it alive. */
const SLAB_BYTES = 16 * 1024

/** Larger packets get memory of their own, so that little of a slab stays unused. */
const PLACED_BYTES_MAX = 2048

const NOTHING: Buffer = Buffer.alloc(0)

/** A place to write packets: after `reserve`, the caller fills `buffer[start..end)`. */
export interface PacketWriter extends EncodedPacket {
  /**
   * A large payload that follows these bytes and lies elsewhere; null when the packet is whole, as after
   * `reserve`.
   */
  body: Buffer | null
  reserve(bytes: number): void
}

/** Reserves room in slabs. */
export class PacketSlab implements PacketWriter {
  /** The latest packet is `buffer[start..end)`. */
  buffer: Buffer = NOTHING
  start = 0
  end = 0
  body: Buffer | null = null
  #slab: Buffer = Buffer.allocUnsafeSlow(SLAB_BYTES)
  #used = 0

  /** Makes room for a packet of this many bytes: `buffer[start..end)`. */
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
