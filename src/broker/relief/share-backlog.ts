/**
 * Messages of Shared Subscriptions that wait for a member which does not take them, while others could
 * (section 4.8.2). What was never sent goes to whoever has room: the oldest first, so that nobody gets a
 * newer one before.
 */
import { type Delivery, type Message, NO_IDENTIFIERS } from '../../mqtt/message.ts'
import type { SubscriptionOptions } from '../../mqtt/packet.ts'
import { effectiveQoS, type Session } from '../../session/session.ts'
import type { SubscriptionRecord } from '../../store/store.ts'
import type { ServerState } from '../state/server-state.ts'
import { UNITS } from '../state/work.ts'

/** Messages whose bodies are read back at a time, for a member that can only take them from memory. */
const READ_SLICE = 64

/** Members of a group that are looked at for one unit, as a power of two. */
export const MEMBER_BITS = 3

const SHARE_PREFIX = '$share/'

export class ShareBacklog {
  readonly #state: ServerState
  /** Members for which messages of a Shared Subscription may wait, by its whole filter. */
  readonly #behind = new Map<string, Set<Session>>()
  /** The same by member. */
  readonly #shares = new Map<Session, Set<string>>()
  /** Members whose waiting messages are being read back. */
  readonly #reading = new Set<Session>()
  /** Members whose next message is another one than before, so that others may want it. */
  readonly #moved = new Set<Session>()
  #isMoving = false
  /** Members of which much has expired, which is dropped in later turns. */
  readonly #dropping = new Set<Session>()

  constructor(state: ServerState) {
    this.#state = state
  }

  /** Shared Subscriptions of which messages wait for a member. */
  get size(): number {
    return this.#behind.size
  }

  /**
   * The member for which messages of this Shared Subscription wait the longest, next in its queue; null where
   * none do.
   */
  holder(share: string): Session | null {
    if (this.#behind.size === 0) return null
    let looked = 0
    let found: Session | null = null
    for (const holder of this.#behind.get(share) ?? []) {
      looked++
      // While it is not known what is next, what comes is kept behind it, and not given to others before it.
      if (this.#next(holder)?.share !== share && !this.#dropping.has(holder)) continue
      found = holder
      break
    }
    this.#state.work.units += looked >>> MEMBER_BITS
    return found
  }

  /**
   * Whether it is not known yet what waits next for this member: much has expired, and is dropped in later
   * turns.
   */
  isDropping(holder: Session): boolean {
    return this.#dropping.has(holder)
  }

  /** A message of this Shared Subscription waits for a member. */
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

  /** A Session was read back from the store: what waits for it may be of its Shared Subscriptions. */
  recovered(session: Session): void {
    if (session.queueLength === 0) return
    for (const filter of session.subscriptions.keys()) {
      if (filter.startsWith(SHARE_PREFIX)) this.add(filter, session)
    }
  }

  /** The Session is over; what it had is passed on otherwise. */
  forget(session: Session): void {
    this.#moved.delete(session)
    const shares = this.#shares.get(session)
    if (shares === undefined) return
    for (const share of shares) this.#remove(share, session)
    this.#state.work.units += shares.size
  }

  /** The client of a member is gone: those that have room take what waits for it. */
  left(holder: Session): void {
    if (holder.queueLength === 0) return
    this.recovered(holder)
    this.#move(holder)
  }

  /**
   * A member has room, or may have: it takes what waits for others, as far as its window goes. Where messages
   * wait for itself, the next one may be for others now.
   */
  resume(session: Session): void {
    if (this.#behind.size === 0) return
    if (session.hasRoom) this.#takeAll(session)
    else if (session.queueLength > 0) this.#moved.add(session)
    this.#moveAll()
  }

  /**
   * The oldest message that waited for a member was dropped. What is next goes to others behind what is being
   * handled.
   */
  headDropped(holder: Session): void {
    if (this.#behind.size === 0 || holder.queueLength === 0 || this.#moved.has(holder)) return
    this.#moved.add(holder)
    this.#state.turn.continueLater(() => this.#moveAll())
  }

  #move(holder: Session): void {
    this.#moved.add(holder)
    this.#moveAll()
  }

  /** One after the other: what one member takes may bring up what is for another one. */
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
   * What waits next for a member, as `SessionQueue.oldestShared` says; null, too, while what has expired
   * before it is dropped.
   */
  #next(holder: Session): (Delivery & { readonly share: string }) | null {
    if (this.#dropping.has(holder)) return null
    const waiting = holder.queue.oldestShared()
    if (waiting !== 'expired') return waiting
    this.#dropping.add(holder)
    this.#state.turn.continueLater(() => {
      this.#dropping.delete(holder)
      // The Session may be over, or the store may have failed and have given another one back.
      if (this.#state.sessionsById.get(holder.id) === holder) this.#move(holder)
    })
    return null
  }

  /** Whoever has room takes what waits next for this member, if it came by a Shared Subscription. */
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
   * Takes what waits next for another member, by whatever Shared Subscription of both. False where that is
   * nothing.
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
      // A body that is on disk only stays there for a stored Session alone.
      if (message.evicted && !session.stored) {
        this.#read(session, holder)
        break
      }
      if (this.#state.checksReceiving && !message.evicted && !this.#state.mayTake(session, message)) break
      const durableAt = Math.max(holder.durableAt, session.durableAt)
      holder.queue.remove()
      work.units += UNITS.delivery
      session.deliver(sharedDelivery(message, share, record, record.identifier), durableAt)
      message.forgetEncoded() // others may have it in their queues for long
      isTaken = true
    }
    if (!isTaken) return false
    this.#moved.add(holder)
    // What is next may need no slot, as messages at QoS 0 do.
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
 * What a member of a Shared Subscription gets of a message, by its own options [MQTT-4.8.2-3]. `identifier`
 * is 0 for none.
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
