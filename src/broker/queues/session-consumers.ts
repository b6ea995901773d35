/** The consumers that one Session is, by filter. */
import type { Consumption } from '../../session/context.ts'
import type { Session } from '../../session/session.ts'
import type { QueueConsumer } from './queue-consumer.ts'

/** Memory of a consumer, without its side in the machine. */
const CONSUMER_BYTES = 512

export class SessionConsumers implements Consumption {
  readonly byFilter = new Map<string, QueueConsumer>()
  /** Unsubscribed, with messages that are not answered yet. */
  readonly closing = new Set<QueueConsumer>()
  /**
   * Those that may take messages once the Session has room: they found none, or acknowledged one. In the
   * order in which they came here, so a Session's queues are served in turn.
   */
  readonly wanting = new Set<QueueConsumer>()

  get memoryBytes(): number {
    let bytes = 0
    for (const { member } of this.byFilter.values()) bytes += CONSUMER_BYTES + member.bytesHeld
    for (const { member } of this.closing) bytes += CONSUMER_BYTES + member.bytesHeld
    return bytes
  }

  *all(): IterableIterator<QueueConsumer> {
    yield* this.byFilter.values()
    yield* this.closing
  }

  /** Forgets those that are closing and have nothing left. */
  sweep(): void {
    for (const consumer of this.closing) if (consumer.member.isGone) this.closing.delete(consumer)
  }
}

/** Returns the consumers that a Session is; null for none. */
export function consumersOf({ consumers }: Session): SessionConsumers | null {
  return consumers as SessionConsumers | null
}
