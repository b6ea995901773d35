/** Wills (section 3.1.2.5, 3.1.3.2): kept with the Session, published when the client is lost. */
import { Message, type Topic, type Will } from '../../mqtt/message.ts'
import { SESSION_NEVER_EXPIRES } from '../../mqtt/packet.ts'
import type { WillRecord } from '../../store/store.ts'
import type { BrokerEvents } from '../boundary/events.ts'
import { expiryTime } from '../boundary/expiry.ts'
import { ownerOf } from '../boundary/ownership.ts'
import { absentClient, type ClientView } from '../boundary/policy.ts'
import type { Deadline } from '../state/deadlines.ts'
import type { PendingWill, ServerState } from '../state/server-state.ts'
import { SLICE_UNITS } from '../state/work.ts'
import type { Publisher } from './publisher.ts'

/** How often the grace may go by, when the broker keeps clients waiting at log-in all the time. */
const GRACES_MAX = 10

/** So many sockets of clients that are not let in yet are a fleet that comes back, and not some strangers. */
const CROWD = 16

/** When a Will is tried again that fell due while the store was being read again. */
const RETRY_MS = 1000

export class Wills {
  readonly #state: ServerState
  readonly #publisher: Publisher
  /** Delayed Wills of before the start, and when they were due by what the store said; as long as there is doubt. */
  readonly #doubtful = new Map<string, { readonly pending: PendingWill; readonly dueAt: number }>()
  /** When a client was last kept waiting at log-in, or refused as one too many, in broker time. */
  #keptWaitingAt = Number.NEGATIVE_INFINITY

  constructor(state: ServerState, publisher: Publisher) {
    this.#state = state
    this.#publisher = publisher
  }

  /** The Will of a client that connects replaces the one before; undefined for none. `assigned`: see WillRecord. */
  set(view: ClientView, will: Will | undefined, assigned: boolean): void {
    const { clientId, userName, userId = null } = view
    this.discard(clientId)
    if (will === undefined) return
    const record: WillRecord = { will, owner: userName, ownerId: userId, dueAt: 0, assigned }
    this.#put(clientId, { record, deadline: null, view })
    this.#state.store.putWill(clientId, record)
  }

  /** The Wills of users of these names are of the accounts with these ids now. */
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

  /** Forgets the Will unpublished: after a normal DISCONNECT [MQTT-3.14.4-3], or when the client is back in time. */
  discard(clientId: string): void {
    const pending = this.#state.wills.get(clientId)
    if (pending === undefined) return
    this.#state.deadlines.cancel(pending.deadline)
    this.forget(clientId)
    this.#state.store.deleteWill(clientId)
  }

  /** Forgets the Will, without a word to the store. */
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
   * The Network Connection is gone without a normal DISCONNECT: the Will is published now, or after its delay or at
   * the end of the Session, whichever comes first [MQTT-3.1.2-8]. While the Server stops, it waits for the next start.
   */
  connectionLost(clientId: string, sessionExpirySeconds: number): void {
    const pending = this.#state.wills.get(clientId)
    if (pending === undefined || this.#state.stopping) return
    // not section 3.1.3.2.2 where `willDelaySecondsMax` is less: it is published sooner than it asked for.
    const delaySeconds = Math.min(pending.record.will.delaySeconds, this.#state.limits.willDelaySecondsMax)
    const seconds =
      sessionExpirySeconds === SESSION_NEVER_EXPIRES
        ? delaySeconds
        : Math.min(delaySeconds, sessionExpirySeconds)
    if (seconds === 0) this.publishNow(clientId)
    else this.#schedule(clientId, pending.record, pending.view, this.#state.now() + seconds * 1000)
  }

  /** A client that logs in is kept waiting by the broker: the grace begins anew. */
  keptWaiting(): void {
    this.#keptWaitingAt = this.#state.now()
  }

  /** When a grace that began then ends, as far as is known now; in broker time. */
  #graceEnd(from: number): number {
    const { limits, loginQueue } = this.#state
    const graceMs = limits.willGraceSeconds * 1000
    // Where the machine is busy, thousands of TLS handshakes take longer than the grace.
    if (loginQueue.length > 0) loginQueue.busyAt = this.#state.now()
    if (loginQueue.length > 0 || this.#state.newcomerCount() > CROWD) this.keptWaiting()
    // Who waits in the queue for as long as anybody may gets its grace after that.
    const queuedMs = Math.min(loginQueue.busyAt - from, limits.loginWaitSecondsMax * 1000)
    const longestMs = Math.max(GRACES_MAX * graceMs, queuedMs + graceMs)
    return Math.min(Math.max(from, this.#keptWaitingAt) + graceMs, from + longestMs)
  }

  /**
   * A Will that was stored when the broker ended: due after the grace, or later if its own delay says so. One whose client
   * cannot come back is published at once: later it would come behind what the client says under its next name.
   */
  recover(clientId: string, record: WillRecord, sessionExpirySeconds: number): void {
    const { limits } = this.#state
    const now = this.#state.now()
    const expiry =
      sessionExpirySeconds === SESSION_NEVER_EXPIRES ? Number.POSITIVE_INFINITY : sessionExpirySeconds
    const delay = Math.min(record.will.delaySeconds, limits.willDelaySecondsMax, expiry)
    const isDelayed = record.dueAt !== 0
    const own = isDelayed ? this.#state.heldUntil(record.dueAt) : now + delay * 1000
    const view = absentClient(clientId, ownerOf(record))
    if (record.assigned === true && sessionExpirySeconds === 0) {
      this.#put(clientId, { record, deadline: null, view })
      this.publishNow(clientId)
      return
    }
    const due = Math.max(own, now + limits.willGraceSeconds * 1000)
    // What the disk says already is not written again: all Wills of a store at once would be in memory several times.
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

  /** So many ms did not pass before the start: Wills that were delayed then are due later. */
  postpone(ms: number): void {
    for (const [clientId, { pending: before, dueAt }] of this.#doubtful) {
      const pending = this.#state.wills.get(clientId)
      // Another Will has its place; the same one may have another deadline.
      if (pending?.record !== before.record) continue
      const due = Math.max(this.#state.heldUntil(dueAt + ms), pending.deadline?.time ?? 0)
      if (due === pending.deadline?.time) continue
      this.#state.deadlines.cancel(pending.deadline)
      this.#schedule(clientId, pending.record, pending.view, due, pending.graceFrom)
    }
    this.clockTrusted()
  }

  /** Nothing is in doubt any more. */
  clockTrusted(): void {
    this.#doubtful.clear()
  }

  /** Its Session has ended, and the Will is due at the latest now; not before the grace is over, within which its client may be back. */
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

  /** The store was read again: what it says of this client's Will gives way to what is so. */
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
      // What is on the disk stays as it is: after a restart there is a grace again.
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
    const { authorizePublish } = this.#state.policy
    const { will } = pending.record
    const allowed =
      authorizePublish === undefined
        ? true
        : authorizePublish.call(this.#state.policy, pending.view, will.topic, will.qos, will.retain)
    const topic = this.#state.topics.intern(will.topic)
    const isReady = (): boolean => this.#isRouted(topic) && !this.#publisher.mustQueue(topic)
    if (typeof allowed === 'boolean' && (!allowed || isReady())) {
      this.discard(clientId)
      this.#decided(pending, allowed, topic)
      return
    }
    // It is due: a client that comes back, or brings another Will, does not take it back any more. A shutdown before
    // the policy's answer must not lose it either: it stays stored until then.
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
    // That it is gone, and that it is published, are one fact.
    const finish = (answer: boolean): void => {
      if (!this.#state.wills.has(clientId)) this.#state.store.deleteWill(clientId)
      this.#decided(pending, answer, topic)
    }
    if (typeof allowed === 'boolean') this.#state.turn.continueLater(() => decide(allowed))
    else allowed.then(decide, () => decide(false))
  }

  /** Whether it is known who gets a message to this topic; where that takes long it is looked for in slices. */
  #isRouted(topic: Topic): boolean {
    const { router } = this.#state
    return !router.mayTakeLong || router.prepare(topic, SLICE_UNITS)
  }

  /** Counts and tells that the client may not publish this Will. */
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
