/** Handles SUBSCRIBE and UNSUBSCRIBE (sections 3.8 to 3.11). */
import type { QoS, SubscribeRequest, SubscriptionOptions, UserProperties } from '../../mqtt/packet.ts'
import { NO_USER_PROPERTIES } from '../../mqtt/properties/reader.ts'
import { ProtocolError, Reason, SUBACK_REFUSALS } from '../../mqtt/reason.ts'
import type { InvalidAddress, QueueSubscription } from '../../mqtt/server-topics.ts'
import { parseFilter, topicFilterError, topicNameError } from '../../mqtt/topics.ts'
import { innerFilter } from '../../routing/filter.ts'
import { effectiveQoS, type Session } from '../../session/session.ts'
import type { ConsumerRecord } from '../../store/store.ts'
import { subscriptionRecord } from '../../store/subscription-record.ts'
import { filterExcess } from '../accounts/form-limits.ts'
import type { Limit } from '../boundary/events.ts'
import type { ClientView } from '../boundary/policy.ts'
import type { RetainedDelivery } from '../messages/retained-delivery.ts'
import type { KeptRelief } from '../relief/kept-relief.ts'
import { subscriptionExcess } from '../relief/quotas.ts'
import type { ShareBacklog } from '../relief/share-backlog.ts'
import { maySubscribe, type QueueDecision, type QueueRefusal } from '../state/queue-port.ts'
import type { ServerState } from '../state/server-state.ts'
import { addSubscription, removeSubscription } from '../state/subscriptions.ts'
import { SLICE_UNITS } from '../state/work.ts'

/** A policy's answer to one request: granted, or the Reason Code that refuses. */
type Decision = QueueDecision

/** A feature that a topic filter needs and the Server does not offer. */
export interface Unavailable {
  readonly limit: 'sharedSubscriptionAvailable' | 'wildcardSubscriptionAvailable'
  readonly filter: string
}

const UNAVAILABLE_CODES = {
  sharedSubscriptionAvailable: Reason.SharedSubscriptionsNotSupported,
  wildcardSubscriptionAvailable: Reason.WildcardSubscriptionsNotSupported,
} as const

const DOLLAR = 0x24

/** Cost of asking a policy about one Subscription, in units. */
export const ASK_UNITS = 20

/** Cost of recording one in Session and store, in units, beside what the router counts. */
const RECORD_UNITS = 20

export interface Subscribed {
  /** For SUBACK, in the order of the requests [MQTT-3.9.3-1]. */
  readonly reasonCodes: readonly number[]
  /** Requests whose retained messages are to be sent. */
  readonly wanting: readonly SubscribeRequest[]
  /** Why the first request about a queue was refused; null if none was. */
  readonly reason: string | null
  /** The commit that SUBACK waits for, besides that of the Session; 0 for none. */
  readonly durableAt: number
}

/** A SUBSCRIBE, or a slice of it, that is being handled. */
interface Handled {
  readonly view: ClientView
  readonly session: Session
  readonly identifier: number
  readonly userProperties: UserProperties
  readonly wanting: SubscribeRequest[]
  reason: string | null
  /** Why the latest request was refused, if it was about a queue. */
  latestRefusal: Refusal | null
  durableAt: number
}

/** Why a request about a queue was refused, and by which limit if it was one. */
type Refusal = Pick<QueueRefusal, 'reason' | 'limit'>

/** Returns why the latest request was refused, once. */
function takeRefusal(handled: Handled): Refusal | null {
  const { latestRefusal } = handled
  handled.latestRefusal = null
  return latestRefusal
}

export class Subscribing {
  /**
   * Filters that a policy is being asked about again. A filter that the client subscribes to meanwhile is
   * taken out: the policy was asked about it then.
   */
  readonly asked = new Map<Session, Set<string>>()
  readonly #state: ServerState
  readonly #retained: RetainedDelivery
  readonly #backlog: ShareBacklog
  readonly #kept: KeptRelief
  /** Reason Codes by topic filter. */
  readonly #refused: ReadonlyMap<string, Reason>

  constructor(state: ServerState, retained: RetainedDelivery, backlog: ShareBacklog, kept: KeptRelief) {
    this.#state = state
    this.#retained = retained
    this.#backlog = backlog
    this.#kept = kept
    this.#refused = new Map(
      state.limits.refusedSubscriptions.map(({ filter, reasonCode }) => [filter, reasonCode]),
    )
  }

  /**
   * Returns the error of a request that breaks section 4.7 or 4.8, or has No Local on a Shared Subscription
   * [MQTT-3.8.3-4]; null if it is valid. The whole packet is checked before anything is done.
   */
  invalid(filter: string, noLocal: boolean): ProtocolError | null {
    const error = topicFilterError(filter)
    if (error !== null)
      return new ProtocolError(Reason.TopicFilterInvalid, 'MQTT-4.7.1-1', `${error}: ${filter}`)
    if (!noLocal || innerFilter(filter) === filter) return null
    return new ProtocolError(
      Reason.ProtocolError,
      'MQTT-3.8.3-4',
      `No Local on a Shared Subscription: ${filter}`,
    )
  }

  /**
   * Returns the feature that a valid filter needs although CONNACK said it is not available (sections
   * 3.2.2.3.11 and 3.2.2.3.13); null for none.
   */
  unavailable(filter: string): Unavailable | null {
    const { sharedSubscriptionAvailable, wildcardSubscriptionAvailable } = this.#state.limits
    if (sharedSubscriptionAvailable && wildcardSubscriptionAvailable) return null
    const { share, filter: inner } = parseFilter(filter)
    if (share !== null && !sharedSubscriptionAvailable)
      return { limit: 'sharedSubscriptionAvailable', filter }
    // [MQTT-3.8.3-2] of 3.1.1
    const isWild = !wildcardSubscriptionAvailable && topicNameError(inner) !== null
    return isWild ? { limit: 'wildcardSubscriptionAvailable', filter } : null
  }

  /**
   * Throws ProtocolError for features that CONNACK said are not available (sections 3.2.2.3.11 to
   * 3.2.2.3.13), for clients of 5.0. Earlier ones were told nothing, and get a failure in SUBACK.
   * `identifier` is 0 for none.
   */
  expectAvailable(session: Session, identifier: number, unavailable: Unavailable | null): void {
    if (identifier !== 0 && !this.#state.limits.subscriptionIdentifierAvailable) {
      this.#state.limited('subscriptionIdentifierAvailable', session.clientId, `${identifier}`)
      throw new ProtocolError(
        Reason.SubscriptionIdentifiersNotSupported,
        'section 3.2.2.3.12',
        'Subscription Identifiers are not supported',
      )
    }
    if (unavailable === null) return
    const { limit, filter } = unavailable
    const reasonCode = this.#limited(limit, session, UNAVAILABLE_CODES[limit], filter)
    throw new ProtocolError(reasonCode, 'section 3.2.2.3', `not supported by this Server: ${filter}`)
  }

  /** Asks the policy about every request. Returns a promise only if the policy does. */
  authorize(view: ClientView, requests: readonly SubscribeRequest[]): Decision[] | Promise<Decision[]> {
    const decisions: (Decision | Promise<Decision>)[] = []
    let waits = false
    for (const { filter, qos } of requests) {
      const decision = this.#authorize(view, filter, qos)
      waits ||= typeof decision === 'object'
      decisions.push(decision)
    }
    return waits ? Promise.all(decisions) : (decisions as Decision[])
  }

  #authorize(view: ClientView, filter: string, qos: QoS): Decision | Promise<Decision> {
    const asked = this.#asked(filter)
    if (asked?.kind === 'queue') return this.#state.queues!.authorizeSubscribe(view, asked, qos)
    return this.#state.policy.authorizeSubscribe?.(view, filter, qos) ?? true
  }

  /** Returns the meaning of a filter to queues; null for an ordinary one. */
  #asked(filter: string): QueueSubscription | InvalidAddress | null {
    return filter.charCodeAt(0) === DOLLAR ? (this.#state.queues?.subscription(filter) ?? null) : null
  }

  /** Grants or refuses the requests of a packet, or of a slice of it, one by one [MQTT-3.8.4-5]. */
  subscribe(
    view: ClientView,
    session: Session,
    requests: readonly SubscribeRequest[],
    identifier: number,
    decisions: readonly Decision[],
    userProperties: UserProperties = NO_USER_PROPERTIES,
  ): Subscribed {
    const wanting: SubscribeRequest[] = []
    const handled: Handled = {
      view,
      session,
      identifier,
      userProperties,
      wanting,
      reason: null,
      latestRefusal: null,
      durableAt: 0,
    }
    const isHeard = this.#state.events.has('subscribed')
    const reasonCodes = requests.map((request, index) => {
      const { filter } = request
      const reasonCode = this.#subscribeOne(handled, request, decisions[index]!)
      const refusal = takeRefusal(handled)
      handled.reason ??= refusal?.reason ?? null
      if (isHeard) {
        const { reason, limit } = refusal ?? {}
        this.#state.events.emit('subscribed', {
          ...{ client: view, filter, reasonCode },
          ...(reason !== undefined && { reason }),
          ...(limit !== undefined && { limit }),
        })
      }
      return reasonCode
    })
    return { reasonCodes, wanting, reason: handled.reason, durableAt: handled.durableAt }
  }

  #subscribeOne(handled: Handled, request: SubscribeRequest, decision: Decision): number {
    const { session, identifier, wanting } = handled
    const { filter } = request
    const asked = this.#asked(filter)
    if (asked !== null) return this.#consume(handled, request, asked, decision)
    if (decision !== true) return refusalCode(decision)
    const inner = innerFilter(filter)
    const refused = this.#refusal(session, filter, inner)
    if (refused !== null) return refused
    const full = inner === filter ? null : (this.#state.queues?.shareRefusal(session, filter) ?? null)
    if (full !== null) {
      handled.latestRefusal = full
      return full.reasonCode
    }
    const qos = effectiveQoS(request.qos, this.#state.limits.maximumQoS) // [MQTT-3.2.2-10]
    const granted: SubscribeRequest = qos === request.qos ? request : { ...request, qos }
    const existed = this.add(session, filter, granted, identifier)
    const shared = inner !== filter
    // [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11]; Shared Subscriptions get none (section 4.8.2).
    const wanted = request.retainHandling === 0 || (request.retainHandling === 1 && !existed)
    if (wanted && !shared && this.#state.limits.retainAvailable) wanting.push(granted)
    else if (existed && this.#retained.waits(session)) {
      this.#retained.replaced(session, filter, granted, identifier)
    }
    return qos
  }

  /** Makes the Session a consumer of a queue. */
  #consume(
    handled: Handled,
    request: SubscribeRequest,
    asked: QueueSubscription | InvalidAddress,
    decision: Decision,
  ): number {
    const { view, session, identifier, userProperties } = handled
    if (asked.kind === 'invalid') {
      handled.latestRefusal = { reason: asked.sentence }
      return asked.reasonCode
    }
    if (decision !== true && decision !== 'may-declare') return refusalCode(decision)
    const refused = this.#refusal(session, request.filter, asked.canonical)
    if (refused !== null) return refused
    const mayDeclare = decision === 'may-declare'
    const answer = this.#state.queues!.admit({ view, session, request, asked, userProperties, mayDeclare })
    if ('reason' in answer) {
      handled.latestRefusal = answer
      return answer.reasonCode
    }
    // A queue may have been declared, also by a Session that is not stored.
    if (mayDeclare) handled.durableAt = this.#state.store.openSequence
    const qos = effectiveQoS(request.qos, this.#state.limits.maximumQoS) // [MQTT-3.2.2-10]
    this.add(session, request.filter, { ...request, qos }, identifier, answer.consumer)
    return qos
  }

  /** Adds or replaces one Subscription, also in the store. Returns true if it existed [MQTT-3.8.4-3]. */
  add(
    session: Session,
    filter: string,
    options: SubscriptionOptions,
    identifier: number,
    consumer: ConsumerRecord | null = null,
  ): boolean {
    const { subscriptions } = session
    this.#state.work.units += RECORD_UNITS
    if (this.asked.size > 0) this.asked.get(session)?.delete(filter)
    this.#forgetSuspended(session, filter)
    const plain = subscriptionRecord(options, identifier)
    const record = consumer === null ? plain : { ...plain, consumer }
    const held = addSubscription(this.#state, session, filter, record)
    const count = subscriptions.size
    subscriptions.set(held, record)
    if (session.stored) this.#state.store.putSubscription(session.id, held, record)
    const existed = subscriptions.size === count
    if (!existed) this.#state.usage.subscriptionAdded(session, held)
    return existed
  }

  #refusal(session: Session, filter: string, inner: string): Reason | null {
    const { limits, store } = this.#state
    const listed = this.#refused.size === 0 ? undefined : this.#refused.get(inner)
    if (listed !== undefined) return this.#limited('refusedSubscriptions', session, listed, filter)
    const unavailable = this.unavailable(filter)
    if (unavailable !== null) {
      return this.#limited(unavailable.limit, session, UNAVAILABLE_CODES[unavailable.limit], filter)
    }
    const excess =
      filterExcess(limits, filter, inner) ?? subscriptionExcess(this.#state, session, filter, inner)
    if (excess !== null) return this.#limited(excess.limit, session, excess.reasonCode, excess.detail)
    // An existing Subscription takes no space: a client that comes back to take messages off the disk
    // subscribes again first.
    if (session.stored && !session.subscriptions.has(filter) && store.refusal !== null) {
      return this.#limited('disk', session, Reason.QuotaExceeded, store.refusal)
    }
    const refusal = session.subscriptions.has(filter) ? null : this.#kept.refusalOf(session)
    if (refusal !== null) return this.#limited('memoryBytesMax', session, Reason.QuotaExceeded, refusal)
    return null
  }

  #limited(limit: Limit, session: Session, reasonCode: Reason, detail: string): Reason {
    this.#state.limited(limit, session.clientId, detail)
    return reasonCode
  }

  /**
   * Removes a Subscription and returns the code for UNSUBACK [MQTT-3.11.3-1]. Deliveries that are under way
   * are completed.
   */
  unsubscribe(view: ClientView, session: Session, filter: string): Reason {
    const reasonCode = this.remove(session, filter) ? Reason.Success : Reason.NoSubscriptionExisted
    if (this.#state.events.has('unsubscribed')) {
      this.#state.events.emit('unsubscribed', { client: view, filter, reasonCode })
    }
    return reasonCode
  }

  /**
   * Removes one Subscription, also from the store. Returns false if there is none. Filters are compared
   * character by character [MQTT-3.10.4-1].
   */
  remove(session: Session, filter: string): boolean {
    this.#state.work.units += RECORD_UNITS
    if (!session.subscriptions.delete(filter)) return false
    this.#state.usage.subscriptionRemoved(session, filter)
    this.#forgetSuspended(session, filter)
    removeSubscription(this.#state, session, filter)
    this.#retained.cancel(session, filter)
    if (session.stored) this.#state.store.deleteSubscription(session.id, filter)
    return true
  }

  // ── rights that are taken away for a while ──────────────────────────────────────────────────────────

  isSuspended(session: Session, filter: string): boolean {
    return this.#state.suspended.get(session)?.has(filter) === true
  }

  /**
   * Suspends a Subscription that the user may not have at the moment: Session and store keep it, and messages
   * do not find it. Returns false if it is suspended already.
   */
  suspend(session: Session, filter: string): boolean {
    const { suspended } = this.#state
    const filters = suspended.get(session) ?? new Map<string, boolean>()
    if (filters.has(filter)) return false
    suspended.set(session, filters)
    removeSubscription(this.#state, session, filter, true)
    filters.set(filter, this.#retained.cancel(session, filter))
    return true
  }

  /**
   * Makes messages find a suspended Subscription again, since the user may have it. Returns false if it was
   * not suspended.
   */
  resume(session: Session, filter: string): boolean {
    const record = session.subscriptions.get(filter)
    const wasUnderWay = this.#forgetSuspended(session, filter)
    if (record === undefined || wasUnderWay === undefined) return false
    addSubscription(this.#state, session, filter, record)
    if (wasUnderWay) this.#retained.start(session, [{ filter, ...record }], record.identifier)
    this.#backlog.resume(session)
    return true
  }

  /** Asks the policy again about suspended Subscriptions: it knows more of a client that is connected. */
  reconsider(view: ClientView, session: Session): void {
    const filters = this.#state.suspended.get(session)
    if (filters === undefined) return
    this.#reconsiderFrom(view, session, filters.keys(), filters.size)
  }

  /** Asks in slices: there may be as many as Subscriptions. */
  #reconsiderFrom(view: ClientView, session: Session, filters: Iterator<string>, count: number): void {
    const { policy, work, turn } = this.#state
    // An answer for another policy or another connection does not count.
    const isSame = (): boolean =>
      this.#state.policy === policy &&
      this.#state.connected.get(session)?.view === view &&
      !this.#state.stopping
    const until = work.units + SLICE_UNITS
    for (let left = count; left > 0; left--) {
      if (work.units >= until) {
        turn.continueLater(() => {
          if (isSame()) this.#reconsiderFrom(view, session, filters, left)
        })
        return
      }
      work.units += ASK_UNITS
      const next = filters.next()
      if (next.done === true) return
      this.#ask(view, session, next.value, isSame)
    }
  }

  #ask(view: ClientView, session: Session, filter: string, isSame: () => boolean): void {
    const qos = session.subscriptions.get(filter)?.qos ?? 0
    const decision = maySubscribe(this.#state, view, filter, qos)
    if (decision === true) this.resume(session, filter)
    if (!(decision instanceof Promise)) return
    decision.then(
      (answer) => {
        if (answer !== true || !isSame()) return
        this.#state.turn.begin()
        this.resume(session, filter)
      },
      () => {}, // a policy that cannot answer has not allowed it
    )
  }

  #forgetSuspended(session: Session, filter: string): boolean | undefined {
    const { suspended } = this.#state
    if (suspended.size === 0) return undefined
    const filters = suspended.get(session)
    const wasUnderWay = filters?.get(filter)
    filters?.delete(filter)
    if (filters?.size === 0) suspended.delete(session)
    return wasUnderWay
  }
}

/** Returns a Reason Code that SUBACK may have [MQTT-3.9.3-2]: a policy may have returned any. */
function refusalCode(decision: Exclude<Decision, true>): Reason {
  if (typeof decision !== 'number') return Reason.NotAuthorized
  return SUBACK_REFUSALS.has(decision) ? decision : Reason.UnspecifiedError
}
