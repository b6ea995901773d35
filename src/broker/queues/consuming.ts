/** SUBSCRIBE and UNSUBSCRIBE of queues, and what becomes of a Session's consumers. */
import { type DeliverySource, Message, NO_TOPIC } from '../../mqtt/message.ts'
import type { AcknowledgePacket } from '../../mqtt/packet.ts'
import { Reason } from '../../mqtt/reason.ts'
import {
  isReplyName,
  parseSubscription,
  type QueueParameters,
  type QueueSubscription,
  withProperties,
} from '../../mqtt/server-topics.ts'
import { SHARE_PREFIX } from '../../mqtt/topics.ts'
import { propertiesByUse } from '../../queue/queue-options.ts'
import type { QueueDelivery } from '../../session/context.ts'
import { abandon, queueFlight, release } from '../../session/queue-deliveries.ts'
import type { Session } from '../../session/session.ts'
import type { ConsumerRecord, SubscriptionRecord } from '../../store/store.ts'
import type { Admission, ConsumeRequest, QueueRefusal } from '../state/queue-port.ts'
import type { ServerState } from '../state/server-state.ts'
import type { ConsumerChanges, Definitions } from './definitions.ts'
import { ProgramConsumers } from './program-consumer.ts'
import { Queue } from './queue.ts'
import { HandedOut, QueueConsumer } from './queue-consumer.ts'
import type { ReplyQueues } from './reply-queues.ts'
import { consumersOf, SessionConsumers } from './session-consumers.ts'

/** Units of work for telling one consumer that there is room. */
const CONSUMER_UNITS = 2

const NO_PARAMETERS: QueueParameters = { prefetch: null, ack: null, leaseSeconds: null, meta: null }

export class Consuming implements ConsumerChanges {
  readonly #state: ServerState
  readonly #definitions: Definitions
  readonly #replies: ReplyQueues
  /** Messages at QoS 2 of stored Sessions that have ended, on their way to the dead letters. */
  readonly #inDoubt = new Map<string, { readonly session: Session; readonly packetId: number }>()
  readonly programs: ProgramConsumers
  /** Consumers of all queues that belong to Sessions. */
  count = 0
  /** Called when an ended Session has one message fewer in doubt. Set by the Server. */
  whenOver: (session: Session) => void = () => {}

  constructor(state: ServerState, definitions: Definitions, replies: ReplyQueues) {
    this.#state = state
    this.#replies = replies
    this.#definitions = definitions
    this.programs = new ProgramConsumers(state)
  }

  // ── SUBSCRIBE ───────────────────────────────────────────────────────────────────────────────────────────

  /** Refuses a valid SUBSCRIBE, or grants it and declares the queue where it is not there. */
  admit(given: ConsumeRequest): QueueRefusal | Admission {
    const { asked, request, view, session } = given
    const { name } = asked
    if (request.noLocal) {
      const reason = `No Local on queue ${name}: the publisher's own message could go to nobody else`
      return { reasonCode: Reason.ImplementationSpecificError, reason }
    }
    const parameters = withProperties(asked.parameters, given.userProperties)
    if ('kind' in parameters) return { reasonCode: parameters.reasonCode, reason: parameters.sentence }
    // Before 5.0 only the topic can tell the client its tag.
    if (parameters.ack === 'explicit' && asked.form !== 'tagged' && view.protocolVersion < 5) {
      const reason = `before 5.0, ack=explicit needs the filter $queue/${name};ack=explicit/+/#`
      return { reasonCode: Reason.TopicFilterInvalid, reason }
    }
    const queue = isReplyName(name)
      ? this.#replies.open(view)
      : (this.#definitions.byName.get(name) ?? this.#declare(asked, given.mayDeclare, view.clientId))
    if (!(queue instanceof Queue)) return queue
    const refusal = this.#misfit(queue, asked) ?? this.excess(session, request.filter, queue)
    return refusal ?? { consumer: beyondFilter(asked.parameters, parameters) }
  }

  #declare(asked: QueueSubscription, mayDeclare: boolean, clientId: string): Queue | QueueRefusal {
    const { name, filter } = asked
    if (!mayDeclare) return { reasonCode: Reason.TopicFilterInvalid, reason: `there is no queue ${name}` }
    const properties = propertiesByUse(this.#definitions.options, name, filter === null ? [] : [filter])
    return this.#definitions.declare(name, properties, 'use', clientId)
  }

  /** A filter behind the name is the queue's only one, character by character. */
  #misfit({ name, properties }: Queue, { filter }: QueueSubscription): QueueRefusal | null {
    if (filter === null || (properties.filters.length === 1 && properties.filters[0] === filter)) return null
    const taken = properties.filters.length === 0 ? 'no filter' : properties.filters.join(', ')
    return { reasonCode: Reason.TopicFilterInvalid, reason: `queue ${name} takes ${taken}, not ${filter}` }
  }

  /** Whether the queue has too many consumers for this one. */
  excess(session: Session, filter: string, queue: Queue): QueueRefusal | null {
    const { consumersPerQueueMax: max } = this.#definitions.options
    if (queue.consumers.size < max || consumersOf(session)?.byFilter.has(filter) === true) return null
    const reason = `queue ${queue.name} has ${max} consumers`
    this.#state.limited('queueConsumersMax', session.clientId, reason)
    return { reasonCode: Reason.QuotaExceeded, reason, limit: 'queueConsumersMax' }
  }

  /** Finds the queue that a filter consumes. */
  queueOf(filter: string): Queue | null {
    if (filter.startsWith(SHARE_PREFIX)) {
      const name = filter.slice(SHARE_PREFIX.length, filter.indexOf('/', SHARE_PREFIX.length))
      const queue = this.#definitions.byName.get(name)
      return queue?.shareFilter === filter ? queue : null
    }
    const asked = parseSubscription(filter)
    return asked?.kind === 'queue' ? (this.#definitions.byName.get(asked.name) ?? null) : null
  }

  join(session: Session, filter: string, record: SubscriptionRecord): void {
    const asked = filter.startsWith(SHARE_PREFIX) ? null : parseSubscription(filter)
    const ofFilter = asked?.kind === 'queue' ? asked.parameters : NO_PARAMETERS
    const parameters = { ...ofFilter, ...record.consumer }
    const { prefetchMax } = this.#definitions.options
    const queue = this.queueOf(filter)
    const known = consumersOf(session)?.byFilter.get(filter)
    if (known !== undefined) {
      known.replace(record, parameters)
      queue?.group.rejoin(known.member, known.options(prefetchMax))
      return
    }
    if (queue === null) return
    const face = asked?.kind === 'queue' ? asked : 'share'
    const consumer = new QueueConsumer(this.#state, queue.context, session, filter, face, record, parameters)
    this.#add(queue, consumer)
    if (this.#state.events.has('consumerJoined')) {
      const { clientId } = session
      this.#state.events.emit('consumerJoined', { queue: queue.name, clientId, filter })
    }
  }

  #add(queue: Queue, consumer: QueueConsumer): void {
    const { session, filter } = consumer
    session.consumers ??= new SessionConsumers()
    const consumers = consumersOf(session)!
    consumers.byFilter.set(filter, consumer)
    consumer.wanting = consumers.wanting
    queue.consumers.add(consumer)
    this.count++
    session.changed()
    const { prefetchMax } = this.#definitions.options
    consumer.member = queue.group.join(consumer, consumer.options(prefetchMax), session.online)
  }

  /** Ends a consumer. `isDeprived`: what it holds goes back at once, uncharged. */
  leave(session: Session, filter: string, isDeprived: boolean): void {
    const consumers = consumersOf(session)
    const consumer = consumers?.byFilter.get(filter)
    if (consumers == null || consumer === undefined) return
    consumers.byFilter.delete(filter)
    consumers.wanting.delete(consumer)
    const { group } = consumer.queue
    if (isDeprived) {
      group.end(consumer.member, false)
      this.#letGo(consumer)
    } else {
      group.leave(consumer.member)
      if (!consumer.member.isGone) consumers.closing.add(consumer)
    }
    this.#left(consumer)
  }

  /** Takes everything back that a consumer has in flight. */
  #letGo(consumer: QueueConsumer): void {
    const { session } = consumer
    const held = [...queueFlight(session)].filter(({ delivery: { source } }) => isOf(source, consumer))
    for (const { packetId } of held) {
      if (session.online) abandon(session, packetId)
      else release(session, packetId)
    }
  }

  #left(consumer: QueueConsumer): void {
    const { queue, session, filter } = consumer
    const found = this.#definitions.byName.get(queue.name)
    if (found?.consumers.delete(consumer) !== true) return
    this.count--
    session.changed()
    found.idleSince = this.#state.now()
    if (found.consumerCount === 0) for (const log of found.numbers.logs) this.#state.store.logs.forget(log)
    if (!this.#state.events.has('consumerLeft')) return
    this.#state.events.emit('consumerLeft', { queue: queue.name, clientId: session.clientId, filter })
  }

  // ── the Session ─────────────────────────────────────────────────────────────────────────────────────────

  settled(
    session: Session,
    { source }: QueueDelivery,
    reasonCode: number,
    packet: AcknowledgePacket | null,
  ): void {
    if (!(source instanceof HandedOut)) return
    const { handle, consumer } = source
    // A message that is too large to be sent again goes back. The next hand-out finds that it is too large.
    const code = reasonCode === Reason.PacketTooLarge ? Reason.PacketIdentifierInUse : reasonCode
    const { retryAfter, reasonString = '' } = packet ?? {}
    consumer.queue.group.acknowledged(handle, code, secondsOf(retryAfter), reasonString)
    const consumers = consumersOf(session)
    if (consumers === null) return
    consumers.wanting.add(consumer)
    if (consumers.closing.size > 0) consumers.sweep()
  }

  loosened(session: Session): void {
    const consumers = consumersOf(session)
    // When the Server stops, no delivery counts as failed.
    if (consumers === null || this.#state.stopping) return
    for (const consumer of consumers.all()) consumer.queue.group.away(consumer.member)
    consumers.sweep()
  }

  back(session: Session): void {
    const consumers = consumersOf(session)
    if (consumers === null) return
    for (const consumer of consumers.all()) consumer.queue.group.back(consumer.member)
  }

  room(session: Session): void {
    const consumers = consumersOf(session)
    if (consumers === null) return
    // A client can make many consumers, and this comes with each of its acknowledgements.
    const { wanting } = consumers
    for (const consumer of wanting) {
      this.#state.work.units += CONSUMER_UNITS
      const { member, queue } = consumer
      const { servedAt } = member
      queue.group.room(member)
      const isServed = member.servedAt !== servedAt
      if (member.hasRoom || isServed) wanting.delete(consumer)
      if (member.hasRoom) continue
      // It found no room again, and neither would the others. If it got something, they are next.
      if (isServed) wanting.add(consumer)
      return
    }
  }

  ended(session: Session): void {
    const consumers = consumersOf(session)
    if (consumers === null) return
    for (const consumer of consumers.all()) {
      if (!this.#state.stopping) consumer.queue.group.end(consumer.member, true)
      this.#left(consumer)
    }
    for (const { packetId, delivery } of [...queueFlight(session)]) {
      if (this.#isInDoubt(session, delivery)) this.#inDoubt.set(keyOf(delivery.source), { session, packetId })
      else release(session, packetId)
    }
    session.consumers = null
  }

  /**
   * Whether a message at QoS 2 is on its way to the dead letters. Until it is there, the store keeps the
   * Session with it: after a crash in between nobody else must get it [MQTT-4.3.3-6].
   */
  #isInDoubt({ stored }: Session, { qos, source }: QueueDelivery): boolean {
    if (!stored || qos !== 2) return false
    const group = this.#definitions.byGroup.get(source.group)?.group
    return group?.look(source.lane, source.sequence)?.state === 'moving'
  }

  /** A message went to the dead letters, in this turn. */
  moved(queue: Queue, lane: number, sequence: number): void {
    if (this.#inDoubt.size === 0) return
    const key = keyOf({ group: queue.numbers.group, lane, sequence })
    const found = this.#inDoubt.get(key)
    if (found === undefined) return
    this.#inDoubt.delete(key)
    release(found.session, found.packetId)
    this.whenOver(found.session)
  }

  /** Forgets what was in doubt: the store is read again. */
  clear(): void {
    this.#inDoubt.clear()
    this.programs.lose()
    this.count = 0
  }

  /** Takes over what a Session of the store has in flight. */
  recovered(session: Session): void {
    for (const flight of [...queueFlight(session)]) {
      const { packetId, delivery } = flight
      const { group, lane, sequence, attempt, filter } = delivery.source
      const queue = this.#definitions.byGroup.get(group)
      const consumer = queue === undefined ? null : this.#consumerFor(queue, session, filter)
      const place = { lane, sequence, attempt, qos: delivery.qos, packetId }
      const handle = consumer === null ? null : queue!.group.adopt(consumer.member, place)
      if (consumer === null || handle === null) {
        release(session, packetId)
        continue
      }
      const { qos, retain } = delivery
      const message = Message.of({ topic: NO_TOPIC, qos, retain, publisher: '' }, delivery.message.size)
      message.entries = delivery.message.entries
      flight.delivery = consumer.recovered(handle, { ...delivery, message })
    }
  }

  /** Finds the consumer of a filter, which may have unsubscribed since. */
  #consumerFor(queue: Queue, session: Session, filter: string): QueueConsumer | null {
    const consumers = consumersOf(session)
    const known =
      consumers?.byFilter.get(filter) ?? [...(consumers?.closing ?? [])].find((one) => one.filter === filter)
    if (known !== undefined) return known
    const options = { qos: 1, noLocal: false, retainAsPublished: false, retainHandling: 0 } as const
    const asked = filter.startsWith(SHARE_PREFIX) ? null : parseSubscription(filter)
    const face = asked === null ? 'share' : asked.kind === 'queue' ? asked : null
    if (face === null) return null
    const record = { ...options, identifier: 0 }
    const consumer = new QueueConsumer(
      this.#state,
      queue.context,
      session,
      filter,
      face,
      record,
      NO_PARAMETERS,
    )
    this.#add(queue, consumer)
    this.leave(session, filter, false)
    // The machine may have forgotten it already, since it has no messages.
    consumersOf(session)!.closing.add(consumer)
    return consumer
  }

  // ── definitions that change ─────────────────────────────────────────────────────────────────────────────

  takeMembers(queue: Queue): void {
    const share = queue.shareFilter
    const group = share === null ? null : this.#state.router.shareGroup(share)
    for (const { subscriber, options, identifier } of [...(group?.members ?? [])]) {
      const record = subscriber.subscriptions.get(share!)
      if (subscriber.ended || this.#state.sessions.get(subscriber.clientId) !== subscriber) continue
      this.#state.router.unsubscribe(subscriber, share!)
      this.join(subscriber, share!, record ?? { ...options, identifier })
    }
  }

  giveMembersBack(queue: Queue): void {
    for (const consumer of [...queue.consumers]) {
      if (consumer.face !== 'share') continue
      const { session, filter } = consumer
      const record = session.subscriptions.get(filter)
      this.leave(session, filter, true)
      if (record !== undefined) this.#state.router.subscribe(session, filter, record, record.identifier)
    }
  }

  endConsumers(queue: Queue, which: 'all' | 'unfitting', reason: string): void {
    if (which === 'all') this.programs.endOf(queue)
    for (const consumer of [...queue.consumers]) {
      const { session, filter, face } = consumer
      const asked = face === 'share' ? null : parseSubscription(filter)
      const fits = asked?.kind === 'queue' && this.#misfit(queue, asked) === null
      if (face === 'share' || (which === 'unfitting' && fits)) continue
      this.leave(session, filter, true)
      session.subscriptions.delete(filter)
      this.#state.usage.subscriptionRemoved(session, filter)
      if (session.stored) this.#state.store.deleteSubscription(session.id, filter)
      this.#state.connected.get(session)?.disconnect(Reason.AdministrativeAction, reason)
    }
  }
}

/** Names a message of a queue. */
function keyOf({ group, lane, sequence }: Pick<DeliverySource, 'group' | 'lane' | 'sequence'>): string {
  return `${group}/${lane}/${sequence}`
}

/** Returns what the Subscription has to keep beside its filter; null if that says the same. */
function beyondFilter(ofFilter: QueueParameters, joined: QueueParameters): ConsumerRecord | null {
  const { prefetch, meta, ack, leaseSeconds } = joined
  const isSame =
    ofFilter.prefetch === prefetch &&
    (ofFilter.meta === true) === (meta === true) &&
    (ofFilter.ack === 'explicit') === (ack === 'explicit') &&
    ofFilter.leaseSeconds === leaseSeconds
  if (isSame) return null
  return {
    prefetch,
    meta: meta === true,
    ...(ack === 'explicit' && { ack }),
    ...(leaseSeconds !== null && { leaseSeconds }),
  }
}

function isOf(source: unknown, consumer: QueueConsumer): boolean {
  return source instanceof HandedOut && source.consumer === consumer
}

/** Reads the User Property `retry-after`; null for none, and for what is no time. */
function secondsOf(text: string | undefined): number | null {
  if (text === undefined || !/^\d{1,6}(?:\.\d{1,3})?$/.test(text)) return null
  return Number(text)
}
