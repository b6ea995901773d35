/**
 * What an ended Session leaves is taken apart in slices: its Subscriptions, of which there may be a million, and its messages,
 * of which those of Shared Subscriptions go to other members. For everybody else it is gone at once.
 *
 * A stored one stays so until all is done, under a name that no client can have: after a crash it ends again, with what was
 * left of it.
 */
import type { Leftover } from '../../session/leftover.ts'
import type { Session } from '../../session/session.ts'
import type { Publisher } from '../messages/publisher.ts'
import { MEMBER_BITS } from '../relief/share-backlog.ts'
import type { ServerState } from '../state/server-state.ts'
import { SLICE_UNITS } from '../state/work.ts'

/** Messages whose bodies are read back at a time, for members that can only take them from memory. */
const READ_SLICE = 256

/** What a message that nobody takes over takes, in units. */
const DROP_UNITS = 8

/** A Session that is being taken apart. */
interface Estate {
  readonly session: Session
  /** Topic filters that are still to be looked at. */
  readonly filters: Iterator<string>
  /** Whether the store has it under its other name. */
  isKept: boolean
}

export class Estates {
  readonly #state: ServerState
  readonly #publisher: Publisher
  readonly #open = new Map<Session, Estate>()
  /** The latest turn in which Sessions ended, and what that may still take of it: very many may end at once. */
  #turn = 0
  #unitsLeft = 0

  constructor(state: ServerState, publisher: Publisher) {
    this.#state = state
    this.#publisher = publisher
  }

  /** Ended Sessions of which something is left. */
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
    const estate: Estate = { session, filters, isKept: false }
    this.#open.set(session, estate)
    const { turn, work, stopping } = this.#state
    if (turn.number !== this.#turn) {
      this.#turn = turn.number
      this.#unitsLeft = SLICE_UNITS
    }
    if (this.#unitsLeft <= 0 && !stopping) {
      this.#goOn(estate)
      return
    }
    const { units } = work
    this.#run(estate, this.#unitsLeft)
    this.#unitsLeft -= work.units - units
  }

  /** Those that are not stored are taken apart now, however long it takes: the Server stops. */
  finish(): void {
    for (const estate of [...this.#open.values()]) if (!estate.session.stored) this.#run(estate)
  }

  /** Forgets those that are stored: the store is read again, and they end again then. */
  forgetStored(): void {
    for (const { session } of [...this.#open.values()]) if (session.stored) this.#open.delete(session)
  }

  #run(estate: Estate, units = SLICE_UNITS): void {
    const { session } = estate
    if (this.#open.get(session) !== estate) return
    const { work, stopping } = this.#state
    const until = stopping ? Number.POSITIVE_INFINITY : work.units + units
    const outcome = stopping || this.#unsubscribe(estate, until) ? this.#passOn(session, until) : 'more'
    if (outcome === 'done') {
      this.#open.delete(session)
      this.#end(session)
      return
    }
    if (outcome === 'more') this.#goOn(estate)
    else if (session.stored && !estate.isKept) this.#keep(estate)
  }

  #goOn(estate: Estate): void {
    if (estate.session.stored && !estate.isKept) this.#keep(estate)
    this.#state.turn.continueLater(() => this.#run(estate))
  }

  /** False when there are more Subscriptions. */
  #unsubscribe({ session, filters, isKept }: Estate, until: number): boolean {
    const { router, store, work } = this.#state
    while (work.units < until) {
      const next = filters.next()
      if (next.done === true) return true
      const filter = next.value
      router.unsubscribe(session, filter)
      // Those of the first slice are deleted with the Session.
      if (isKept) store.deleteSubscription(session.id, filter)
      session.subscriptions.delete(filter)
    }
    return false
  }

  /**
   * Messages of Shared Subscriptions that the ended Session did not get go to another member, but for QoS 2 in
   * delivery [MQTT-4.8.2-5]. Everything else is lost with the Session, and counted. 'reading' while a body has to be read
   * from the disk for a member that is not stored.
   */
  #passOn(session: Session, until: number): 'done' | 'more' | 'reading' {
    const { work } = this.#state
    while (work.units < until) {
      const leftover = session.leftover()
      if (leftover === null) return 'done'
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

  /** Whether all who could take it can only take it from memory. */
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
    const estate = this.#open.get(session)
    const isOpen = (): boolean =>
      estate !== undefined && this.#open.get(session) === estate && !this.#state.stopping
    store.restore(evicted).then(
      () => {
        if (!isOpen()) return
        this.#state.turn.begin()
        this.#run(estate!)
      },
      (error: unknown) => {
        if (isOpen()) this.#state.storeFailed(error)
      },
    )
  }

  #keep(estate: Estate): void {
    const { session } = estate
    estate.isKept = true
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
