/** SUBSCRIBE and UNSUBSCRIBE (sections 3.8 to 3.11). */
import type { SubscribePacket, SubscribeRequest, SubscriptionOptions } from '../mqtt/packet.ts'
import { ProtocolError, Reason } from '../mqtt/reason.ts'
import { parseFilter, topicFilterError, topicLevels } from '../mqtt/topics.ts'
import { effectiveQoS, type Session } from '../session/session.ts'
import type { SubscriptionRecord } from '../store/store.ts'
import type { Limit } from './events.ts'
import type { ClientView } from './policy.ts'
import type { RetainedDelivery } from './retained.ts'
import type { State } from './state.ts'

/** What a policy said to one request: granted, or the Reason Code that refuses. */
type Decision = boolean | Reason

export interface Subscribed {
  /** For SUBACK, in the order of the requests [MQTT-3.9.3-1]. */
  readonly reasonCodes: readonly number[]
  /** Starts the retained messages; called when the SUBACK is in the connection's output. */
  startRetained(): void
}

export class Subscribing {
  readonly #state: State
  readonly #retained: RetainedDelivery

  constructor(state: State, retained: RetainedDelivery) {
    this.#state = state
    this.#retained = retained
  }

  /**
   * Checks the whole packet, before anything is done. Throws ProtocolError for a filter that breaks section 4.7 or
   * 4.8, and for No Local on a Shared Subscription [MQTT-3.8.3-4].
   */
  validate(requests: readonly SubscribeRequest[]): void {
    for (const { filter, noLocal } of requests) {
      expectTopicFilter(filter)
      if (noLocal && parseFilter(filter).share !== null) {
        throw new ProtocolError(
          Reason.ProtocolError,
          'MQTT-3.8.3-4',
          `No Local on a Shared Subscription: ${filter}`,
        )
      }
    }
  }

  /** Asks the policy about every request; a promise only where the policy gives one. */
  authorize(view: ClientView, requests: readonly SubscribeRequest[]): Decision[] | Promise<Decision[]> {
    const { policy } = this.#state
    if (policy.authorizeSubscribe === undefined) return requests.map(() => true)
    const decisions: (Decision | Promise<Decision>)[] = []
    let waits = false
    for (const { filter, qos } of requests) {
      const decision = policy.authorizeSubscribe(view, filter, qos)
      waits ||= typeof decision === 'object'
      decisions.push(decision)
    }
    return waits ? Promise.all(decisions) : (decisions as Decision[])
  }

  /** Does what the packet asks for, request by request [MQTT-3.8.4-5]. */
  subscribe(
    view: ClientView,
    session: Session,
    packet: SubscribePacket,
    decisions: readonly Decision[],
  ): Subscribed {
    const starts: SubscribeRequest[] = []
    const reasonCodes = packet.requests.map((request, index) => {
      const reasonCode = this.#subscribeOne(
        session,
        request,
        packet.subscriptionIdentifier,
        decisions[index]!,
        starts,
      )
      if (this.#state.events.has('subscribed')) {
        this.#state.events.emit('subscribed', { client: view, filter: request.filter, reasonCode })
      }
      return reasonCode
    })
    const startRetained = (): void => {
      this.#retained.start(session, starts, packet.subscriptionIdentifier)
    }
    return { reasonCodes, startRetained }
  }

  #subscribeOne(
    session: Session,
    request: SubscribeRequest,
    identifier: number,
    decision: Decision,
    starts: SubscribeRequest[],
  ): number {
    const { filter } = request
    if (decision !== true) return refusalCode(decision)
    const refused = this.#refusal(session, filter)
    if (refused !== null) return refused
    const qos = effectiveQoS(request.qos, this.#state.limits.maximumQoS) // [MQTT-3.2.2-10]
    const granted: SubscribeRequest = { ...request, qos }
    const existed = this.add(session, filter, granted, identifier)
    const shared = parseFilter(filter).share !== null
    // [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11]; Shared Subscriptions get none (section 4.8.2).
    const wanted = request.retainHandling === 0 || (request.retainHandling === 1 && !existed)
    if (wanted && !shared && this.#state.limits.retainAvailable) starts.push(granted)
    return qos
  }

  /** Adds or replaces one Subscription, also in the store. True if it existed [MQTT-3.8.4-3]. */
  add(session: Session, filter: string, options: SubscriptionOptions, identifier: number): boolean {
    const { qos, noLocal, retainAsPublished, retainHandling } = options
    const record: SubscriptionRecord = { qos, noLocal, retainAsPublished, retainHandling, identifier }
    const existed = session.subscriptions.has(filter)
    this.#state.router.subscribe(session, filter, record, identifier)
    session.subscriptions.set(filter, record)
    if (session.stored) this.#state.store.putSubscription(session.id, filter, record)
    return existed
  }

  #refusal(session: Session, filter: string): Reason | null {
    const { limits, store } = this.#state
    const { filter: inner } = parseFilter(filter)
    if (inner.length > limits.topicBytesMax || Buffer.byteLength(inner) > limits.topicBytesMax) {
      return this.#limited('topicBytesMax', session, Reason.TopicFilterInvalid, 'topic filter is longer')
    }
    if (limits.topicLevelsMax !== Number.POSITIVE_INFINITY && topicLevels(inner) > limits.topicLevelsMax) {
      return this.#limited(
        'topicLevelsMax',
        session,
        Reason.TopicFilterInvalid,
        'topic filter has more levels',
      )
    }
    const isNew = !session.subscriptions.has(filter)
    if (isNew && session.subscriptions.size >= limits.subscriptionsPerClientMax) {
      return this.#limited(
        'subscriptionsPerClientMax',
        session,
        Reason.QuotaExceeded,
        'no further Subscription',
      )
    }
    if (session.stored && store.refusal !== null) {
      return this.#limited('disk', session, Reason.QuotaExceeded, store.refusal)
    }
    return null
  }

  #limited(limit: Limit, session: Session, reasonCode: Reason, detail: string): Reason {
    this.#state.limited(limit, session.clientId, detail)
    return reasonCode
  }

  /**
   * Removes Subscriptions; the codes for UNSUBACK, in order [MQTT-3.11.3-1]. What is under way is completed. Throws
   * ProtocolError for what is no Topic Filter, before anything is done.
   */
  unsubscribe(view: ClientView, session: Session, filters: readonly string[]): number[] {
    for (const filter of filters) expectTopicFilter(filter)
    return filters.map((filter) => {
      const reasonCode = this.#unsubscribeOne(session, filter)
      if (this.#state.events.has('unsubscribed')) {
        this.#state.events.emit('unsubscribed', { client: view, filter, reasonCode })
      }
      return reasonCode
    })
  }

  #unsubscribeOne(session: Session, filter: string): number {
    // Compared character by character [MQTT-3.10.4-1].
    if (!session.subscriptions.delete(filter)) return Reason.NoSubscriptionExisted
    this.#state.router.unsubscribe(session, filter)
    this.#retained.cancel(session, filter)
    if (session.stored) this.#state.store.deleteSubscription(session.id, filter)
    return Reason.Success
  }
}

/** What SUBACK may say when it refuses [MQTT-3.9.3-2]: a policy may have said something else. */
function refusalCode(decision: false | Reason): Reason {
  if (decision === false) return Reason.NotAuthorized
  return SUBACK_REFUSALS.has(decision) ? decision : Reason.UnspecifiedError
}

const SUBACK_REFUSALS: ReadonlySet<number> = new Set([0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2])

/** Sections 4.7 and 4.8.2, for SUBSCRIBE and UNSUBSCRIBE alike. */
function expectTopicFilter(filter: string): void {
  const error = topicFilterError(filter)
  if (error !== null)
    throw new ProtocolError(Reason.TopicFilterInvalid, 'MQTT-4.7.1-1', `${error}: ${filter}`)
}
