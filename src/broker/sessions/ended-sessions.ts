/**
 * Takes ended Sessions apart in slices: their Subscriptions, of which there may be a million, and their
 * messages, of which those of Shared Subscriptions go to other members. For everybody else the Session is
 * gone at once.
 *
 * A stored Session stays in the store until all is done, under a name that no client can have: after a crash
 * it ends again, with the rest of its contents.
 */
import type { Leftover } from '../../session/leftover.ts'
import type { Session } from '../../session/session.ts'
import type { Publisher } from '../messages/publisher.ts'
import { MEMBER_BITS } from '../relief/share-backlog.ts'
import type { ServerState } from '../state/server-state.ts'
import { removeSubscription } from '../state/subscriptions.ts'
import { SLICE_UNITS } from '../state/work.ts'

/** Messages whose bodies are read back at a time, for members that can take them from memory only. */
const READ_SLICE = 256

/** Cost of a message that nobody takes over, in units. */
const DROP_UNITS = 8

/** A Session that is being taken apart. */
interface EndedSession {
  readonly session: Session
  /** Topic filters of Subscriptions that are still to be removed. */
  readonly filters: Iterator<string>
  /** Whether the store has it under its other name. */
  isKept: boolean
}

export class EndedSessions {
  readonly #state: ServerState
  readonly #publisher: Publisher
  readonly #open = new Map<Session, EndedSession>()
  /**
   * The latest turn in which Sessions ended, and the units that these may still take of it: very many may end
   * at once.
   */
  #turn = 0
  #unitsLeft = 0

  constructor(state: ServerState, publisher: Publisher) {
    this.#state = state
    this.#publisher = publisher
  }

  /** Number of ended Sessions that are not yet taken apart. */
  get size(): number {
    return this.#open.size
  }

  /** Takes apart a Session that has just ended; a small one at once. */
  add(session: Session): void {
    if (session.subscriptions.size + session.queueLength + session.inFlightCount === 0) {
      this.#end(session)
      return
    }
    const filters = session.subscriptions.keys()[Symbol.iterator]()
    const ended: EndedSession = { session, filters, isKept: false }
    this.#open.set(session, ended)
    const { turn, work, stopping } = this.#state
    if (turn.number !== this.#turn) {
      this.#turn = turn.number
      this.#unitsLeft = SLICE_UNITS
    }
    if (this.#unitsLeft <= 0 && !stopping) {
      this.#goOn(ended)
      return
    }
    const { units } = work
    this.#run(ended, this.#unitsLeft)
    this.#unitsLeft -= work.units - units
  }

  /** Takes apart now, however long it takes, all that are not stored: the Server stops. */
  finish(): void {
    for (const ended of [...this.#open.values()]) if (!ended.session.stored) this.#run(ended)
  }

  /** Forgets those that are stored: the store is read again, and they end again then. */
  forgetStored(): void {
    for (const { session } of [...this.#open.values()]) if (session.stored) this.#open.delete(session)
  }

  #run(ended: EndedSession, units = SLICE_UNITS): void {
    const { session } = ended
    if (this.#open.get(session) !== ended) return
    const { work, stopping } = this.#state
    const until = stopping ? Number.POSITIVE_INFINITY : work.units + units
    const outcome = stopping || this.#unsubscribe(ended, until) ? this.#passOn(session, until) : 'more'
    if (outcome === 'done') {
      this.#open.delete(session)
      this.#end(session)
      return
    }
    if (outcome === 'more') this.#goOn(ended)
    else if (session.stored && !ended.isKept) this.#keep(ended)
  }

  /** Goes on with a Session of which a queue took a message back. */
  resume(session: Session): void {
    const ended = this.#open.get(session)
    if (ended !== undefined && !this.#state.stopping) this.#goOn(ended)
  }

  #goOn(ended: EndedSession): void {
    if (ended.session.stored && !ended.isKept) this.#keep(ended)
    this.#state.turn.continueLater(() => this.#run(ended))
  }

  /** Removes Subscriptions. Returns false if some are left. */
  #unsubscribe({ session, filters, isKept }: EndedSession, until: number): boolean {
    const { store, work } = this.#state
    while (work.units < until) {
      const next = filters.next()
      if (next.done === true) return true
      const filter = next.value
      removeSubscription(this.#state, session, filter)
      // Subscriptions of the first slice are deleted together with the Session.
      if (isKept) store.deleteSubscription(session.id, filter)
      session.subscriptions.delete(filter)
    }
    return false
  }

  /**
   * Gives messages of Shared Subscriptions that the ended Session did not get to other members, except QoS 2
   * in delivery [MQTT-4.8.2-5]. All others are lost with the Session, and counted. Returns 'reading' if a
   * body must first be read from the disk for a member that is not stored.
   */
  #passOn(session: Session, until: number): 'done' | 'more' | 'reading' {
    const { work } = this.#state
    while (work.units < until) {
      const leftover = session.leftover()
      if (leftover === null) return 'done'
      // A queue moves it to the dead letters first; then `resume` is called.
      if (leftover.delivery.source !== undefined) return 'reading'
      if (this.#needsBody(leftover)) {
        this.#read(session, leftover)
        return 'reading'
      }
      work.units += DROP_UNITS
      this.#passOne(session, leftover)
      session.dropLeftover()
    }
    return session.leftover() === null ? 'done' : 'more'
  }

  #passOne(session: Session, { delivery, mayGoToOthers, count }: Leftover): void {
    const { message, share } = delivery
    const group = share !== null && mayGoToOthers ? this.#state.router.shareGroup(share) : null
    if (group === null) this.#state.drop(session.clientId, 'session-ended', message, count)
    else if (message.expiresAt <= this.#state.now() && !this.#state.isDoubtful(message))
      this.#state.drop(session.clientId, 'expired', message)
    else if (this.#publisher.deliverShared(group, message, session.durableAt)) message.forgetEncoded()
  }

  /** Whether all members that could take the message can take it from memory only. */
  #needsBody({ delivery: { message, share }, mayGoToOthers }: Leftover): boolean {
    if (!message.evicted || share === null || !mayGoToOthers) return false
    const { router, work } = this.#state
    const members = router.shareGroup(share)?.members ?? []
    let takers = 0
    let looked = 0
    let keeps = false
    for (const { subscriber } of members) {
      looked++
      if (subscriber.ended) continue
      keeps = subscriber.stored
      if (keeps) break
      takers++
    }
    work.units += looked >>> MEMBER_BITS
    return takers > 0 && !keeps
  }

  #read(session: Session, { delivery }: Leftover): void {
    const { store } = this.#state
    const evicted = session.inFlightCount > 0 ? [delivery.message] : session.queue.evicted(READ_SLICE)
    const ended = this.#open.get(session)
    const isOpen = (): boolean =>
      ended !== undefined && this.#open.get(session) === ended && !this.#state.stopping
    store.restore(evicted).then(
      () => {
        if (!isOpen()) return
        this.#state.turn.begin()
        this.#run(ended!)
      },
      (error: unknown) => {
        if (isOpen()) this.#state.storeFailed(error)
      },
    )
  }

  #keep(ended: EndedSession): void {
    const { session } = ended
    ended.isKept = true
    this.#state.sessionsById.set(session.id, session)
    const record = { ...session.record(), clientId: `\0ended ${session.id}`, expirySeconds: 0 }
    this.#state.store.putSession(session.id, record)
  }

  #end(session: Session): void {
    this.#state.sessionsById.delete(session.id)
    if (session.stored) this.#state.store.deleteSession(session.id, session.held())
    session.forget()
  }
}
