/** Publishers and subscribers in this process. */
import { Message, type MessageFields } from '../mqtt/message.ts'
import type { SubscriptionOptions } from '../mqtt/packet.ts'
import { Reason } from '../mqtt/reason.ts'
import { SHARE_PREFIX } from '../mqtt/topics.ts'
import type { Durability } from './durability.ts'
import { type LocalHandler, localSession } from './messages/local-subscriber.ts'
import type { ServerParts } from './sessions/server-parts.ts'
import type { ServerState } from './state/server-state.ts'
import { removeSubscription } from './state/subscriptions.ts'

/** A message of this process. */
export type LocalMessage = Omit<MessageFields, 'topic'> & { readonly topic: string }

/** The fate of a result. */
export type ResultOutcome = 'published' | 'overflow' | 'unavailable' | 'gone'

export class LocalClients {
  readonly #state: ServerState
  readonly #parts: ServerParts
  readonly #durability: Durability

  constructor(state: ServerState, parts: ServerParts, durability: Durability) {
    this.#state = state
    this.#parts = parts
    this.#durability = durability
  }

  /** Publishes a message. Resolves when it is as durable as promised; rejects a refusal. */
  publish(fields: LocalMessage): Promise<void> {
    const { turn, topics } = this.#state
    turn.begin()
    const message = Message.of({ ...fields, topic: topics.intern(fields.topic) })
    const { reasonCode, durableAt, underWay, detail } = this.#parts.publisher.publish(message, null)
    if (reasonCode >= Reason.UnspecifiedError) {
      const code = `0x${reasonCode.toString(16)}${detail === null ? '' : `: ${detail}`}`
      return Promise.reject(new Error(`the message to ${fields.topic} was refused with Reason Code ${code}`))
    }
    if (underWay === null) return this.#durability.durable(durableAt)
    return new Promise((resolve) => {
      underWay.done = (last) => resolve(this.#durability.durable(last))
    })
  }

  /**
   * Publishes the result of a message of a queue, and calls `settle` in the same turn: what that records is
   * in the same commit. `unavailable`: disk or memory is short, so that both are to be done again. `gone`: it
   * had to wait, and `isDue` has become false meanwhile.
   */
  publishResult(fields: LocalMessage, isDue: () => boolean, settle: (outcome: ResultOutcome) => void): void {
    const { turn, topics } = this.#state
    const { publisher } = this.#parts
    turn.begin()
    const message = Message.of({ ...fields, topic: topics.intern(fields.topic) })
    const publish = (): void => {
      if (!isDue()) {
        settle('gone')
        return
      }
      const { reasonCode, refusedBy } = publisher.publishWhole(message, null)
      if (reasonCode < Reason.UnspecifiedError) settle('published')
      else settle(refusedBy === 'disk' || refusedBy === 'memoryBytesMax' ? 'unavailable' : 'overflow')
    }
    if (!publisher.mustQueue(message.topic)) publish()
    else publisher.queue(message.topic, () => publisher.admitting(publish))
  }

  /** Publishes a `$SYS` value: retained in memory, never stored. */
  publishOwn(topic: string, payload: Buffer): void {
    const { turn, topics } = this.#state
    turn.begin()
    const fields = { topic: topics.intern(topic), payload, qos: 0, retain: true, publisher: '' } as const
    this.#parts.publisher.publishOwn(Message.of(fields))
  }

  /** Subscribes a function; retained messages come first. Returns a function that ends the Subscription. */
  subscribe(filter: string, options: SubscriptionOptions, handler: LocalHandler): () => void {
    const state = this.#state
    const { subscribing, retainedDelivery, backlog } = this.#parts
    state.turn.begin()
    const request = { filter, ...options }
    const invalid = subscribing.invalid(filter, options.noLocal)
    if (invalid !== null) throw invalid
    const { session, close } = localSession(state, handler)
    subscribing.add(session, filter, options, 0)
    if (options.retainHandling !== 2 && !filter.startsWith(SHARE_PREFIX)) {
      retainedDelivery.start(session, [request], 0)
    }
    backlog.resume(session)
    return () => {
      retainedDelivery.cancel(session)
      removeSubscription(state, session, filter)
      close()
    }
  }
}
