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
