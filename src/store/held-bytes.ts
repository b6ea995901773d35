/**
 * HOT. Bytes of the messages that Sessions hold in memory, queued or in flight, and that the store does not
 * have. A message counts once, however many Sessions hold it. Messages that the store has are counted there,
 * as resident.
 */
import type { Message } from '../mqtt/message.ts'

/**
 * Memory that a message takes besides its bytes, measured: Message and Buffers. The disk store adds its own
 * share in `journal/body-index.ts`.
 */
export const MESSAGE_BYTES = 320

export class HeldBytes {
  bytes = 0
  /**
   * Entries of queues and flights that were ever made: the difference of two readings tells how many were
   * added.
   */
  made = 0

  /** One more entry of a queue or a flight has the message. */
  hold(message: Message): void {
    this.made++
    if (message.entries++ === 0 && message.stored === null && !message.evicted) {
      this.bytes += message.size + MESSAGE_BYTES
    }
  }

  /** One entry fewer has the message. */
  letGo(message: Message): void {
    if (--message.entries === 0 && message.stored === null && !message.evicted) {
      this.bytes -= message.size + MESSAGE_BYTES
    }
  }

  /** The store takes the message over: call this before `message.stored` is set. */
  stored(message: Message): void {
    if (message.entries > 0 && message.stored === null && !message.evicted) {
      this.bytes -= message.size + MESSAGE_BYTES
    }
  }

  /** The store no longer needs the message: call this after `message.stored` was set to null. */
  unstored(message: Message): void {
    if (message.entries > 0 && !message.evicted) this.bytes += message.size + MESSAGE_BYTES
  }

  /** The store that had the message is lost. */
  lost(message: Message): void {
    if (message.stored === null) return
    message.stored = null
    this.unstored(message)
  }
}
