/** HOT. Receivers of messages that are no subscribers: queues and streams keep what matches their filters. */
import type { Message } from '../mqtt/message.ts'

/** Why an inlet takes no message now. */
export interface InletRefusal {
  /** For the client: a sentence without a full stop. */
  readonly detail: string
}

/** The beginning of a log, as a Route names it beside the subscribers. */
export interface Inlet {
  /** Why the publisher of this message is to be refused, before anything is done; null for no reason. */
  refusal(message: Message): InletRefusal | null
  /** Takes the message in, or drops it. Never throws, never waits. */
  append(message: Message): void
}

/** No inlets: shared by all Routes that have none, so that one comparison tells. */
export const NO_INLETS: readonly Inlet[] = Object.freeze([])
