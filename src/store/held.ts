/**
 * HOT. Bytes of the messages that Sessions hold in memory, queued or in flight, and that the store does not have: each once,
 * however many Sessions have it. What the store has it counts itself, as resident.
 */
import type { Message } from '../mqtt/message.ts'

/** What a message in memory takes beside its bytes, measured: Message and Buffers. What the disk's store knows of it is its own. */
export const MESSAGE_BYTES = 320

export class HeldBytes {
  bytes = 0
  /** How many entries of queues and flights were made so far: tells how much was added since some time. */
  made = 0

  /** One more entry of a queue or a flight has the message. */
  hold(message: Message): void {
    this.made++
    if (message.entries++ === 0 && message.stored === null && !message.evicted) {
      this.bytes += message.size + MESSAGE_BYTES
    }
  }

  letGo(message: Message): void {
    if (--message.entries === 0 && message.stored === null && !message.evicted) {
      this.bytes -= message.size + MESSAGE_BYTES
    }
  }

  /** The store is about to take it up: `message.stored` is null no longer. */
  stored(message: Message): void {
    if (message.entries > 0 && message.stored === null && !message.evicted) {
      this.bytes -= message.size + MESSAGE_BYTES
    }
  }

  /** The store needs it no more: `message.stored` is null again. */
  unstored(message: Message): void {
    if (message.entries > 0 && !message.evicted) this.bytes += message.size + MESSAGE_BYTES
  }

  /** The store that had it is lost. */
  lost(message: Message): void {
    if (message.stored === null) return
    message.stored = null
    this.unstored(message)
  }
}
