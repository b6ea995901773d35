/**
 * Moves messages of Shared Subscriptions that wait for one member while another could take them (section
 * 4.8.2). A message that was never sent goes to a member that has room, the oldest first, so that order is
 * kept.
 */
import { type Delivery, type Message, NO_IDENTIFIERS } from '../../mqtt/message.ts'
import type { SubscriptionOptions } from '../../mqtt/packet.ts'
import { SHARE_PREFIX } from '../../mqtt/topics.ts'
import { effectiveQoS, type Session } from '../../session/session.ts'
import type { SubscriptionRecord } from '../../store/store.ts'
import type { ServerState } from '../state/server-state.ts'
import { UNITS } from '../state/work.ts'

/** Bodies that are read back at a time, for a member that can only take messages from memory. */
const READ_SLICE = 64

/** Members of a group per unit of work, as a power of two. */
export const MEMBER_BITS = 3

/** Keeps track of the members for which messages of Shared Subscriptions wait. */
export class ShareBacklog {
  readonly #state: ServerState
  /** Members for which messages of a Shared Subscription may wait, by its whole filter. */
  readonly #behind = new Map<string, Set<Session>>()
  /** Shared Subscriptions of which messages may wait, by member. */
  readonly #shares = new Map<Session, Set<string>>()
  /** Members whose waiting messages are being read back. */
  readonly #reading = new Set<Session>()
  /** Members with a new next message, which others may take. */
  readonly #moved = new Set<Session>()
  #isMoving = false
  /** Members whose many expired messages are dropped in later turns. */
  readonly #dropping = new Set<Session>()

  constructor(state: ServerState) {
    this.#state = state
  }

  /** Number of Shared Subscriptions of which messages wait. */
  get size(): number {
    return this.#behind.size
  }

  /**
   * Returns the member for which a message of this Shared Subscription is next and has waited longest; null
   * for none.
   */
  holder(share: string): Session | null {
    if (this.#behind.size === 0) return null
    let looked = 0
    let found: Session | null = null
    for (const holder of this.#behind.get(share) ?? []) {
      looked++
      // While the next message is unknown, new ones are queued behind it, so that nobody gets them first.
      if (this.#next(holder)?.share !== share && !this.#dropping.has(holder)) continue
      found = holder
      break
    }
    this.#state.work.units += looked >>> MEMBER_BITS
    return found
  }

  /** Tells whether this member's next message is unknown, as expired ones are still being dropped. */
  isDropping(holder: Session): boolean {
    return this.#dropping.has(holder)
  }

  /** Notes that a message of this Shared Subscription waits for a member. */
  add(share: string, holder: Session): void {
    const holders = this.#behind.get(share)
    if (holders === undefined) this.#behind.set(share, new Set([holder]))
    else if (holders.has(holder)) return
    else holders.add(holder)
    const shares = this.#shares.get(holder)
    if (shares === undefined) this.#shares.set(holder, new Set([share]))
    else shares.add(share)
  }

  #remove(share: string, holder: Session): void {
    const holders = this.#behind.get(share)
    holders?.delete(holder)
    if (holders?.size === 0) this.#behind.delete(share)
    const shares = this.#shares.get(holder)
    shares?.delete(share)
    if (shares?.size === 0) this.#shares.delete(holder)
  }

  /**
   * Notes that messages of its Shared Subscriptions may wait for a Session, such as one read from the store.
   */
  recovered(session: Session): void {
    if (session.queueLength === 0) return
    for (const filter of session.subscriptions.keys()) {
      if (filter.startsWith(SHARE_PREFIX)) this.add(filter, session)
    }
  }

  /** Forgets a Session that has ended. Its messages are passed on elsewhere. */
  forget(session: Session): void {
    this.#moved.delete(session)
    const shares = this.#shares.get(session)
    if (shares === undefined) return
    for (const share of shares) this.#remove(share, session)
    this.#state.work.units += shares.size
  }

  /** Gives the messages that wait for a member whose client is gone to members that have room. */
  left(holder: Session): void {
    if (holder.queueLength === 0) return
    this.recovered(holder)
    this.#move(holder)
  }

  /**
   * Lets a member that may have room take messages that wait for others, as far as its window goes. If
   * messages wait for it, others may take the next one.
   */
  resume(session: Session): void {
    if (this.#behind.size === 0) return
    if (session.hasRoom) this.#takeAll(session)
    else if (session.queueLength > 0) this.#moved.add(session)
    this.#moveAll()
  }

  /** Offers a member's next message to others in a later turn, after the oldest one was dropped. */
  headDropped(holder: Session): void {
    if (this.#behind.size === 0 || holder.queueLength === 0 || this.#moved.has(holder)) return
    this.#moved.add(holder)
    this.#state.turn.continueLater(() => this.#moveAll())
  }

  #move(holder: Session): void {
    this.#moved.add(holder)
    this.#moveAll()
  }

  /**
   * Offers the next messages of all moved members, one by one: what one takes may uncover a message for
   * another.
   */
  #moveAll(): void {
    if (this.#isMoving) return
    this.#isMoving = true
    try {
      for (const holder of this.#moved) {
        this.#moved.delete(holder)
        this.#offer(holder)
      }
    } finally {
      this.#isMoving = false
    }
  }

  /**
   * Returns a member's next message by `SessionQueue.oldestShared`; null also while expired ones are being
   * dropped.
   */
  #next(holder: Session): (Delivery & { readonly share: string }) | null {
    if (this.#dropping.has(holder)) return null
    const waiting = holder.queue.oldestShared()
    if (waiting !== 'expired') return waiting
    this.#dropping.add(holder)
    this.#state.turn.continueLater(() => {
      this.#dropping.delete(holder)
      // The Session may have ended, or may be another one after the store was read again.
      if (this.#state.sessionsById.get(holder.id) === holder) this.#move(holder)
    })
    return null
  }

  /** Offers a member's next message to others that have room, if it is of a Shared Subscription. */
  #offer(holder: Session): void {
    const waiting = this.#next(holder)
    if (waiting === null) return
    const { share } = waiting
    this.add(share, holder)
    const { router, work } = this.#state
    let looked = 0
    for (const { subscriber } of router.shareGroup(share)?.members ?? []) {
      looked++
      if (subscriber !== holder && subscriber.hasRoom && this.#take(subscriber, holder)) break
    }
    work.units += looked >>> MEMBER_BITS
  }

  #takeAll(session: Session): void {
    const shares = this.#behind.size <= session.subscriptions.size ? this.#behind : session.subscriptions
    this.#state.work.units += shares.size
    for (const share of [...shares.keys()]) {
      const holders = this.#behind.get(share)
      if (holders === undefined || this.#subscriptionOf(session, share) === null) continue
      for (const holder of holders) {
        if (holder !== session) this.#take(session, holder)
        if (holder.queueLength === 0) this.#remove(share, holder)
        if (!session.hasRoom) return
      }
    }
  }

  #subscriptionOf(session: Session, share: string): SubscriptionRecord | null {
    const record = session.subscriptions.get(share)
    if (record === undefined || this.#state.suspended.get(session)?.has(share) === true) return null
    return record
  }

  /**
   * Takes the next messages of another member, by any Shared Subscription of both. Returns false if there are
   * none.
   */
  #take(session: Session, holder: Session): boolean {
    const { work } = this.#state
    let isTaken = false
    while (session.hasRoom) {
      const waiting = this.#next(holder)
      if (waiting === null) break
      const { message, share } = waiting
      const record = this.#subscriptionOf(session, share)
      if (record === null) break
      // Only a stored Session can take a message whose body is on the disk only.
      if (message.evicted && !session.stored) {
        this.#read(session, holder)
        break
      }
      if (this.#state.checksReceiving && !message.evicted && !this.#state.rights.mayTake(session, message))
        break
      const durableAt = Math.max(holder.durableAt, session.durableAt)
      holder.queue.remove()
      work.units += UNITS.delivery
      session.deliver(sharedDelivery(message, share, record, record.identifier), durableAt)
      message.forgetEncoded() // others may have it in their queues for long
      isTaken = true
    }
    if (!isTaken) return false
    this.#moved.add(holder)
    // The next message may need no slot of the window, such as one at QoS 0.
    if (holder.online) holder.pump()
    return true
  }

  #read(session: Session, holder: Session): void {
    if (this.#reading.has(holder)) return
    this.#reading.add(holder)
    this.#state.store.restore(holder.queue.evicted(READ_SLICE)).then(
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

/**
 * Makes a Delivery for a member of a Shared Subscription, by its own options [MQTT-4.8.2-3]. `identifier` is
 * 0 for none.
 */
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
