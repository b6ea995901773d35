/**
 * HOT. Keeps the Server's retained messages (section 3.3.1.3): in the tree, in the store, and until they
 * expire.
 */
import { type Author, Message } from '../../mqtt/message.ts'
import type { Session } from '../../session/session.ts'
import type { ServerState } from '../state/server-state.ts'
import { UNITS } from '../state/work.ts'
import type { LiveMessages } from './live-messages.ts'

/** Cost of clearing a retained message, in units. */
const CLEAR_UNITS = 20

export class RetainedMessages {
  readonly #state: ServerState
  readonly #live: LiveMessages
  #latestAuthor: Author | null = null
  #latestPublisher = ''

  constructor(state: ServerState, live: LiveMessages) {
    this.#state = state
    this.#live = live
  }

  /** Retains a message, or clears the retained message of its topic name if the payload is empty. */
  put(message: Message, publisher: Session | null): void {
    const { retained, store, events, work } = this.#state
    const { name } = message.topic
    work.units += UNITS.retained
    // The author of a Will is known already.
    if (publisher !== null) message.author ??= this.#authorOf(publisher)
    if (message.payloadBytes === 0) {
      // [MQTT-3.3.1-6] [MQTT-3.3.1-7]
      this.clear(name)
      return
    }
    message.own(true)
    this.#cancelExpiry(name)
    this.#state.usage.retained(message, retained.set(message))
    store.putRetained(message, 0)
    if (message.expiresAt !== Number.POSITIVE_INFINITY) this.#expireAt(message, message.expiresAt)
    if (events.has('retainedSet')) events.emit('retainedSet', { topic: name, bytes: message.size })
  }

  /** Returns the same object for all messages of a publisher in a row. */
  #authorOf(publisher: Session): Author {
    const { owner: userName, ownerId: userId } = publisher
    const latest = this.#latestAuthor
    if (
      latest?.userName === userName &&
      latest.userId === userId &&
      this.#latestPublisher === publisher.clientId
    ) {
      return latest
    }
    this.#latestPublisher = publisher.clientId
    this.#latestAuthor = { userName, userId }
    return this.#latestAuthor
  }

  /** Removes the retained message of a topic name. Returns false if there is none. */
  clear(topic: string): boolean {
    const { retained, store, events, work } = this.#state
    work.units += CLEAR_UNITS
    this.#cancelExpiry(topic)
    const cleared = retained.delete(topic)
    if (cleared === null) return false
    this.#state.usage.retainedRemoved(cleared)
    this.#live.cleared(topic)
    store.deleteRetained(topic)
    if (events.has('retainedCleared')) events.emit('retainedCleared', { topic })
    return true
  }

  /** Takes up a retained message from before the start. */
  recover(message: Message): void {
    const previous = this.#state.retained.set(message)
    if (previous !== null) this.#state.usage.retained(message, previous)
    if (message.expiresAt === Number.POSITIVE_INFINITY) return
    this.#state.timeInDoubt.addRetained(message)
    this.#expireAt(message, this.#state.timeInDoubt.heldUntil(message.expiresAt))
  }

  /** Postpones the expiry of messages from before the start by `ms`, which did not pass. */
  postpone(ms: number): void {
    const { retained, retainedExpiry, store } = this.#state
    for (const topic of [...retainedExpiry.topics()]) {
      const message = retained.get(topic)
      if (message === undefined || !this.#state.timeInDoubt.isOld(message)) continue
      const { payload, properties, qos, retain, publisher } = message
      const expiresAt = message.expiresAt + ms
      const fields = { topic: message.topic, payload, properties, qos, retain, publisher, expiresAt }
      const postponed = Message.of(fields)
      postponed.author = message.author
      this.#cancelExpiry(topic)
      store.putRetained(postponed, this.#live.recordedAt(topic))
      this.recover(postponed)
    }
  }

  /** Makes the accounts with these ids, by user name, the authors of all messages of users of these names. */
  own(ids: ReadonlyMap<string, string>): void {
    const { retained, store } = this.#state
    const authors = new Map<string, Author>()
    for (const message of retained) {
      const { author, publisher, topic } = message
      const userName = author?.userName ?? null
      const userId = userName === null ? undefined : ids.get(userName)
      if (userId === undefined || author?.userId === userId) continue
      const known = authors.get(publisher)
      const own = known?.userId === userId ? known : { userName, userId }
      authors.set(publisher, own)
      message.author = own
      store.putRetained(message, this.#live.recordedAt(topic.name))
    }
  }

  /** Sets the deadline at which a message is cleared. */
  #expireAt(message: Message, time: number): void {
    const { name } = message.topic
    this.#state.retainedExpiry.at(name, message.size, time, () => {
      this.#state.turn.begin()
      this.clear(name)
    })
  }

  #cancelExpiry(topic: string): void {
    const { retained, retainedExpiry } = this.#state
    if (retainedExpiry.size > 0) retainedExpiry.cancel(topic, retained.get(topic)?.size ?? 0)
  }
}
