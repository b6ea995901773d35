/**
 * Messages of Shared Subscriptions that wait for a member which does not take them, while others could (section 4.8.2). What
 * was never sent goes to whoever has room: the oldest first, so that nobody gets a newer one before.
 */
import { type Delivery, type Message, NO_IDENTIFIERS } from '../mqtt/message.ts'
import type { SubscriptionOptions } from '../mqtt/packet.ts'
import { effectiveQoS, type Session } from '../session/session.ts'
import type { State } from './state.ts'

/** Messages whose bodies are read back at a time, for a member that can only take them from memory. */
const READ_SLICE = 64

const SHARE_PREFIX = '$share/'

export class ShareBacklog {
  readonly #state: State
  /** Members for which messages of a Shared Subscription may wait, by its whole filter. */
  readonly #behind = new Map<string, Set<Session>>()
  /** Members whose waiting messages are being read back. */
  readonly #reading = new Set<Session>()

  constructor(state: State) {
    this.#state = state
  }

  /** Shared Subscriptions of which messages wait for a member. */
  get size(): number {
    return this.#behind.size
  }

  /** The member for which messages of this Shared Subscription wait the longest, next in its queue; null where none do. */
  holder(share: string): Session | null {
    if (this.#behind.size === 0) return null
    for (const holder of this.#behind.get(share) ?? []) if (holder.waitingOf(share) !== null) return holder
    return null
  }

  /** A message of this Shared Subscription waits for a member. */
  add(share: string, holder: Session): void {
    const holders = this.#behind.get(share)
    if (holders === undefined) this.#behind.set(share, new Set([holder]))
    else holders.add(holder)
  }

  /** A Session was read back from the store: what waits for it may be of its Shared Subscriptions. */
  recovered(session: Session): void {
    if (session.queueLength === 0) return
    for (const filter of session.subscriptions.keys()) {
      if (filter.startsWith(SHARE_PREFIX)) this.add(filter, session)
    }
  }

  /** The Session is over; what it had is passed on otherwise. */
  forget(session: Session): void {
    for (const [share, holders] of this.#behind) {
      holders.delete(session)
      if (holders.size === 0) this.#behind.delete(share)
    }
  }

  /** The client of a member is gone: those that have room take what waits for it. */
  left(holder: Session): void {
    if (holder.queueLength === 0) return
    this.recovered(holder)
    for (const [share, holders] of [...this.#behind]) {
      if (!holders.has(holder)) continue
      for (const { subscriber } of this.#state.router.shareGroup(share)?.members ?? [])
        this.resume(subscriber)
    }
  }

  /** A member has room, or may have: it takes what waits for others, as far as its window goes. */
  resume(session: Session): void {
    if (this.#behind.size === 0 || !session.hasRoom) return
    if (this.#behind.size <= session.subscriptions.size) {
      for (const share of [...this.#behind.keys()]) this.#resumeOne(session, share)
      return
    }
    for (const share of session.subscriptions.keys())
      if (this.#behind.has(share)) this.#resumeOne(session, share)
  }

  #resumeOne(session: Session, share: string): void {
    const record = session.subscriptions.get(share)
    if (record === undefined || this.#state.suspended.get(session)?.has(share) === true) return
    const holders = this.#behind.get(share)!
    for (const holder of holders) {
      if (holder !== session) this.#take(session, share, record, record.identifier, holder)
      if (holder.queueLength === 0) holders.delete(holder)
      if (!session.hasRoom) break
    }
    if (holders.size === 0) this.#behind.delete(share)
  }

  #take(
    session: Session,
    share: string,
    options: SubscriptionOptions,
    identifier: number,
    holder: Session,
  ): void {
    const { store } = this.#state
    while (session.hasRoom) {
      const waiting = holder.waitingOf(share)
      if (waiting === null) return
      const { message } = waiting
      // A body that is on disk only stays there for a stored Session alone.
      if (message.evicted && !session.stored) {
        this.#read(session, holder)
        return
      }
      if (this.#state.checksReceiving && !message.evicted && !this.#state.mayTake(session, message)) return
      const gate = holder.stored || session.stored ? store.openSequence : 0
      holder.giveUp()
      session.deliver(sharedDelivery(message, share, options, identifier), gate)
      message.forgetWires() // others may have it in their queues for long
    }
  }

  #read(session: Session, holder: Session): void {
    if (this.#reading.has(holder)) return
    this.#reading.add(holder)
    this.#state.store.restore(holder.waitingBodies(READ_SLICE)).then(
      () => {
        this.#reading.delete(holder)
        if (this.#state.stopping) return
        this.#state.turn.begin()
        this.resume(session)
      },
      (error: unknown) => {
        this.#reading.delete(holder)
        // The store failed meanwhile, and the Session was forgotten with it.
        if (this.#state.sessionsById.get(holder.id) === holder) this.#state.storeFailed(error)
      },
    )
  }
}

/** What a member of a Shared Subscription gets of a message, by its own options [MQTT-4.8.2-3]. `identifier` is 0 for none. */
export function sharedDelivery(
  message: Message,
  share: string,
  options: SubscriptionOptions,
  identifier: number,
): Delivery {
  return {
    message,
    qos: effectiveQoS(message.qos, options.qos),
    retain: message.retain && options.retainAsPublished,
    subscriptionIdentifiers: identifier === 0 ? NO_IDENTIFIERS : [identifier],
    share,
  }
}
