/** HOT. Memory for acknowledgements. */
import { ACKNOWLEDGE_BYTES_MAX } from '../mqtt/encode.ts'

/** As small as this since a single waiting acknowledgement keeps all of it alive. */
const SLAB_BYTES = 16 * 1024

/** Where acknowledgements are written: those that a client gets one after the other leave as one chunk. */
export class AcknowledgeSlab {
  buffer: Buffer = Buffer.allocUnsafeSlow(SLAB_BYTES)
  used = 0

  /** Makes room for one more. */
  reserve(): void {
    if (this.used + ACKNOWLEDGE_BYTES_MAX <= SLAB_BYTES) return
    this.buffer = Buffer.allocUnsafeSlow(SLAB_BYTES)
    this.used = 0
  }
}
