/**
 * HOT. Counts the bytes of messages that Sessions hold in memory, queued or in flight, and that are not in
 * the store. A message counts once, however many Sessions hold it. The store itself counts the messages that
 * it has, as resident.
 */
import type { Message } from '../mqtt/message.ts'

/**
 * Memory in bytes that a message takes besides its own bytes, measured: Message and Buffers. The store on
 * disk needs more for each message; see `journal/body-index.ts`.
 */
export const MESSAGE_BYTES = 320

export class HeldBytes {
  bytes = 0
  /** Entries that were ever made. The difference of two readings tells how many were added. */
  made = 0

  /** Notes that one more entry, queued or in flight, has the message. */
  hold(message: Message): void {
    this.made++
    if (message.entries++ === 0 && message.stored === null && !message.evicted) {
      this.bytes += message.size + MESSAGE_BYTES
    }
  }

  /** Notes that one entry fewer has the message. */
  letGo(message: Message): void {
    if (--message.entries === 0 && message.stored === null && !message.evicted) {
      this.bytes -= message.size + MESSAGE_BYTES
    }
  }

  /** Notes that the store takes the message over. Call this before `message.stored` is set. */
  stored(message: Message): void {
    if (message.entries > 0 && message.stored === null && !message.evicted) {
      this.bytes -= message.size + MESSAGE_BYTES
    }
  }

  /** Notes that the store no longer needs the message. Call this after `message.stored` was set to null. */
  unstored(message: Message): void {
    if (message.entries > 0 && !message.evicted) this.bytes += message.size + MESSAGE_BYTES
  }

  /** Takes a message back from a store that is lost. */
  lost(message: Message): void {
    if (message.stored === null) return
    message.stored = null
    this.unstored(message)
  }
}
