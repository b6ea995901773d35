/**
 * Keeps Wills with their Sessions and publishes them when clients are lost (sections 3.1.2.5 and 3.1.3.2).
 */
import { Message, type Topic, type Will } from '../../mqtt/message.ts'
import { SESSION_NEVER_EXPIRES } from '../../mqtt/packet.ts'
import type { WillRecord } from '../../store/store.ts'
import type { BrokerEvents } from '../boundary/events.ts'
import { expiryTime } from '../boundary/expiry.ts'
import { ownerOf } from '../boundary/ownership.ts'
import { absentClient, type ClientView } from '../boundary/policy.ts'
import type { Deadline } from '../state/deadlines.ts'
import { mayPublish } from '../state/queue-port.ts'
import type { PendingWill, ServerState } from '../state/server-state.ts'
import { SLICE_UNITS } from '../state/work.ts'
import type { Publisher } from './publisher.ts'

/**
 * How many times its length the grace may take, if the broker keeps clients waiting at log-in all the time.
 */
const GRACES_MAX = 10

/** More clients than this that are not let in yet are a fleet that comes back, and not a few strangers. */
const CROWD = 16

/** How long a Will waits that fell due while the store was being read again. */
const RETRY_MS = 1000

export class Wills {
  readonly #state: ServerState
  readonly #publisher: Publisher
  /** Delayed Wills from before the start, and when they were due by the store; while time is in doubt. */
  readonly #doubtful = new Map<string, { readonly pending: PendingWill; readonly dueAt: number }>()
  /** Broker time at which a client was last kept waiting at log-in, or refused as one too many. */
  #keptWaitingAt = Number.NEGATIVE_INFINITY

  constructor(state: ServerState, publisher: Publisher) {
    this.#state = state
    this.#publisher = publisher
  }

  /** Replaces the Will of a client that connects; undefined for none. `assigned`: see WillRecord. */
  set(view: ClientView, will: Will | undefined, assigned: boolean): void {
    const { clientId, userName, userId = null } = view
    this.discard(clientId)
    if (will === undefined) return
    const record: WillRecord = { will, owner: userName, ownerId: userId, dueAt: 0, assigned }
    this.#put(clientId, { record, deadline: null, view })
    this.#state.store.putWill(clientId, record)
  }

  /** Gives the Wills of users with these names to the accounts with these ids. */
  own(ids: ReadonlyMap<string, string>): void {
    for (const [clientId, pending] of this.#state.wills) {
      const { owner } = pending.record
      const userId = owner === null ? undefined : ids.get(owner)
      if (userId === undefined) continue
      const record = { ...pending.record, ownerId: userId }
      this.#put(clientId, { ...pending, record, view: { ...pending.view, userId } })
      this.#state.store.putWill(clientId, record)
    }
  }

  /**
   * Forgets the Will unpublished: after a normal DISCONNECT [MQTT-3.14.4-3], or when the client is back in
   * time.
   */
  discard(clientId: string): void {
    const pending = this.#state.wills.get(clientId)
    if (pending === undefined) return
    this.#state.deadlines.cancel(pending.deadline)
    this.forget(clientId)
    this.#state.store.deleteWill(clientId)
  }

  /** Forgets the Will, and does not tell the store. */
  forget(clientId: string): void {
    const { wills, usage } = this.#state
    usage.willRemoved(wills.get(clientId))
    wills.delete(clientId)
  }

  #put(clientId: string, pending: Omit<PendingWill, 'usage'>): void {
    const { wills, usage } = this.#state
    wills.set(clientId, usage.willPut(clientId, pending))
  }

  /**
   * Publishes the Will of a client whose Network Connection is gone without a normal DISCONNECT: now, or
   * after its delay or at the end of the Session, whichever comes first [MQTT-3.1.2-8]. While the Server
   * stops, it waits for the next start.
   */
  connectionLost(clientId: string, sessionExpirySeconds: number): void {
    const pending = this.#state.wills.get(clientId)
    if (pending === undefined || this.#state.stopping) return
    // not section 3.1.3.2.2 where `willDelaySecondsMax` is less: it is published sooner than the client
    // asked.
    const delaySeconds = Math.min(pending.record.will.delaySeconds, this.#state.limits.willDelaySecondsMax)
    const seconds =
      sessionExpirySeconds === SESSION_NEVER_EXPIRES
        ? delaySeconds
        : Math.min(delaySeconds, sessionExpirySeconds)
    if (seconds === 0) this.publishNow(clientId)
    else this.#schedule(clientId, pending.record, pending.view, this.#state.now() + seconds * 1000)
  }

  /** Begins the grace anew, since the broker keeps a client waiting at log-in. */
  keptWaiting(): void {
    this.#keptWaitingAt = this.#state.now()
  }

  /** When a grace that began at `from` ends, as far as is known now; in broker time. */
  #graceEnd(from: number): number {
    const { limits, loginQueue } = this.#state
    const graceMs = limits.willGraceSeconds * 1000
    // Where the machine is busy, thousands of TLS handshakes take longer than the grace.
    if (loginQueue.length > 0) loginQueue.busyAt = this.#state.now()
    if (loginQueue.length > 0 || this.#state.newcomerCount() > CROWD) this.keptWaiting()
    // A client that waits in the queue for as long as is possible gets its grace after that.
    const queuedMs = Math.min(loginQueue.busyAt - from, limits.loginWaitSecondsMax * 1000)
    const longestMs = Math.max(GRACES_MAX * graceMs, queuedMs + graceMs)
    return Math.min(Math.max(from, this.#keptWaitingAt) + graceMs, from + longestMs)
  }

  /**
   * Takes up a Will that was stored when the broker ended: it is due after the grace, or later if its own
   * delay says so. If its client cannot come back, it is published at once: otherwise it would come after the
   * client's messages under its next name.
   */
  recover(clientId: string, record: WillRecord, sessionExpirySeconds: number): void {
    const { limits } = this.#state
    const now = this.#state.now()
    const expiry =
      sessionExpirySeconds === SESSION_NEVER_EXPIRES ? Number.POSITIVE_INFINITY : sessionExpirySeconds
    const delay = Math.min(record.will.delaySeconds, limits.willDelaySecondsMax, expiry)
    const isDelayed = record.dueAt !== 0
    const own = isDelayed ? this.#state.timeInDoubt.heldUntil(record.dueAt) : now + delay * 1000
    const view = absentClient(clientId, ownerOf(record))
    if (record.assigned === true && sessionExpirySeconds === 0) {
      this.#put(clientId, { record, deadline: null, view })
      this.publishNow(clientId)
      return
    }
    const due = Math.max(own, now + limits.willGraceSeconds * 1000)
    // A time that the store has already is not written again: all Wills of a store would be in memory several
    // times.
    if (due === record.dueAt) {
      this.#put(clientId, { record, deadline: this.#deadline(clientId, due), view, graceFrom: now })
    } else {
      this.#schedule(clientId, record, view, due, now)
    }
    const pending = this.#state.wills.get(clientId)
    if (isDelayed && this.#state.isInDoubt && pending !== undefined) {
      this.#doubtful.set(clientId, { pending, dueAt: record.dueAt })
    }
  }

  /** Postpones Wills that were delayed before the start by `ms`, which did not pass. */
  postpone(ms: number): void {
    for (const [clientId, { pending: before, dueAt }] of this.#doubtful) {
      const pending = this.#state.wills.get(clientId)
      // Another Will may have replaced it; the same one may have another deadline.
      if (pending?.record !== before.record) continue
      const due = Math.max(this.#state.timeInDoubt.heldUntil(dueAt + ms), pending.deadline?.time ?? 0)
      if (due === pending.deadline?.time) continue
      this.#state.deadlines.cancel(pending.deadline)
      this.#schedule(clientId, pending.record, pending.view, due, pending.graceFrom)
    }
    this.clockTrusted()
  }

  /** Ends the doubt about delayed Wills: the clock is trusted. */
  clockTrusted(): void {
    this.#doubtful.clear()
  }

  /**
   * Publishes the Will of a Session that has ended, but not before the end of the grace, within which its
   * client may be back.
   */
  sessionEnded(clientId: string, reason: BrokerEvents['sessionEnded']['reason']): void {
    const pending = this.#state.wills.get(clientId)
    const graceEnd = pending?.graceFrom === undefined ? 0 : this.#graceEnd(pending.graceFrom)
    if (pending === undefined || reason === 'deleted' || graceEnd <= this.#state.now()) {
      this.publishNow(clientId)
      return
    }
    this.#state.deadlines.cancel(pending.deadline)
    this.#state.wills.set(clientId, { ...pending, deadline: this.#deadline(clientId, graceEnd) })
  }

  /** Writes this client's Will, or that there is none, to a store that was read again. */
  reassert(clientId: string): void {
    const pending = this.#state.wills.get(clientId)
    if (pending === undefined) this.#state.store.deleteWill(clientId)
    else this.#state.store.putWill(clientId, pending.record)
  }

  #schedule(clientId: string, record: WillRecord, view: ClientView, dueAt: number, graceFrom?: number): void {
    const delayed: WillRecord = { ...record, dueAt }
    const deadline = this.#deadline(clientId, dueAt)
    this.#put(clientId, { record: delayed, deadline, view, ...(graceFrom !== undefined && { graceFrom }) })
    this.#state.store.putWill(clientId, delayed)
  }

  #deadline(clientId: string, dueAt: number): Deadline {
    return this.#state.deadlines.at(dueAt, () => {
      this.#state.turn.begin()
      const pending = this.#state.wills.get(clientId)
      const graceEnd = pending?.graceFrom === undefined ? 0 : this.#graceEnd(pending.graceFrom)
      if (pending === undefined || graceEnd <= this.#state.now()) this.publishNow(clientId)
      // The record on the disk stays as it is: after a restart there is a grace again.
      else this.#state.wills.set(clientId, { ...pending, deadline: this.#deadline(clientId, graceEnd) })
    })
  }

  /** Publishes the Will, if there is one, and forgets it in the same turn [MQTT-3.1.2-10]. */
  publishNow(clientId: string): void {
    const pending = this.#state.wills.get(clientId)
    if (pending === undefined) return
    if (this.#state.unavailable !== null) {
      this.#schedule(clientId, pending.record, pending.view, this.#state.now() + RETRY_MS)
      return
    }
    const { will } = pending.record
    const allowed = mayPublish(this.#state, pending.view, will)
    const topic = this.#state.topics.intern(will.topic)
    const isReady = (): boolean => this.#isRouted(topic) && !this.#publisher.mustQueue(topic)
    if (typeof allowed === 'boolean' && (!allowed || isReady())) {
      this.discard(clientId)
      this.#decided(pending, allowed, topic)
      return
    }
    // It is due: a client that comes back, or brings another Will, does not take it back any more. It stays
    // stored until the policy answers, so that a shutdown does not lose it.
    this.#state.deadlines.cancel(pending.deadline)
    this.forget(clientId)
    const decide = (answer: boolean): void => {
      if (this.#state.stopping) return
      this.#state.turn.begin()
      if (answer && !this.#isRouted(topic)) this.#state.turn.continueLater(() => decide(answer))
      else if (answer && this.#publisher.mustQueue(topic)) this.#publisher.queue(topic, admit)
      else finish(answer)
    }
    const admit = (): void => {
      if (this.#state.stopping) return
      this.#state.turn.begin()
      this.#publisher.admitting(() => finish(true))
    }
    // The Will is deleted and published in one commit.
    const finish = (answer: boolean): void => {
      if (!this.#state.wills.has(clientId)) this.#state.store.deleteWill(clientId)
      this.#decided(pending, answer, topic)
    }
    if (typeof allowed === 'boolean') this.#state.turn.continueLater(() => decide(allowed))
    else allowed.then(decide, () => decide(false))
  }

  /**
   * Whether the receivers of a message to this topic are known; if it takes long, they are searched for in
   * slices.
   */
  #isRouted(topic: Topic): boolean {
    const { router } = this.#state
    return !router.mayTakeLong || router.prepare(topic, SLICE_UNITS)
  }

  /** Counts a Will that its client may not publish, and reports it. */
  deny({ clientId }: ClientView, will: Will): void {
    this.#state.counters.willsDenied++
    this.#state.drop(
      clientId,
      'not-authorized',
      this.#message(clientId, will, this.#state.topics.intern(will.topic)),
    )
  }

  #message(clientId: string, will: Will, topic: Topic): Message {
    const { limits } = this.#state
    return Message.of({
      topic,
      payload: will.payload,
      qos: will.qos,
      retain: will.retain && limits.retainAvailable,
      properties: will.properties,
      expiresAt: expiryTime(this.#state.now(), will.expirySeconds),
      publisher: clientId,
    })
  }

  #decided(pending: PendingWill, allowed: boolean, topic: Topic): void {
    const { will } = pending.record
    const { clientId } = pending.view
    const state = this.#state
    if (!allowed) {
      this.deny(pending.view, will)
      return
    }
    state.counters.willsPublished++
    const message = this.#message(clientId, will, topic)
    if (message.retain) message.author = ownerOf(pending.record)
    // A Will is its client's message: No Local holds for it, too [MQTT-3.8.3-3].
    this.#publisher.publishAdmitted(message, state.sessions.get(clientId) ?? null)
    if (state.events.has('willPublished')) state.events.emit('willPublished', { clientId, topic: will.topic })
  }
}
