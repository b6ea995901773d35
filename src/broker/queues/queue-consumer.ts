/** HOT. A consumer of a queue: one Session with one filter. Sends what the queue hands out. */
import { type DeliverySource, type Message, NO_IDENTIFIERS } from '../../mqtt/message.ts'
import type { QoS } from '../../mqtt/packet.ts'
import type { QueueParameters } from '../../mqtt/server-topics.ts'
import { isUnknown } from '../../queue/doubt.ts'
import type { Group } from '../../queue/group.ts'
import type { Consumer, Handle, Member, MemberOptions } from '../../queue/state/consumer.ts'
import type { QueueDelivery } from '../../session/context.ts'
import { abandon, offer, release } from '../../session/queue-deliveries.ts'
import type { Session } from '../../session/session.ts'
import type { SubscriptionRecord } from '../../store/store.ts'
import type { ServerState } from '../state/server-state.ts'
import { UNITS } from '../state/work.ts'
import { arrivingMessage, type Face } from './arriving.ts'

/** The queue as its consumers see it. */
export interface ConsumedQueue {
  readonly name: string
  readonly group: Group
  /** The commit that makes this message durable; 0 where it is. */
  durableAt(lane: number, sequence: number): number
  /** Wall time in ms at which it was put in. */
  enqueuedAt(lane: number, sequence: number): number
  /** The key of a message, by the queue's rule. */
  keyOf(message: Message): string
}

/** One hand-out of a message: the source of its Delivery, and the handle by which its body is read back. */
export class HandedOut implements DeliverySource {
  readonly group: number
  readonly lane: number
  readonly sequence: number
  readonly attempt: number
  readonly filter: string
  readonly handle: Handle
  readonly consumer: QueueConsumer

  constructor(handle: Handle, consumer: QueueConsumer) {
    this.group = consumer.queue.group.number
    this.lane = handle.lane
    this.sequence = handle.sequence
    this.attempt = handle.attempt
    this.filter = consumer.filter
    this.handle = handle
    this.consumer = consumer
  }
}

export class QueueConsumer implements Consumer {
  readonly queue: ConsumedQueue
  readonly session: Session
  /** The whole filter as sent. */
  readonly filter: string
  readonly face: Face
  /** Set once the queue's group has it. */
  member!: Member
  /** The consumers of its Session that found no room there. Set when it joins. */
  wanting: Set<QueueConsumer> | null = null
  parameters: QueueParameters
  #record: SubscriptionRecord
  readonly #state: ServerState

  constructor(
    state: ServerState,
    queue: ConsumedQueue,
    session: Session,
    filter: string,
    face: Face,
    record: SubscriptionRecord,
    parameters: QueueParameters,
  ) {
    this.#state = state
    this.queue = queue
    this.session = session
    this.filter = filter
    this.face = face
    this.#record = record
    this.parameters = parameters
  }

  get clientId(): string {
    return this.session.clientId
  }

  get isStored(): boolean {
    return this.session.stored
  }

  /** The Subscription as the machine hears of it. `prefetchMax` bounds what the client asks for. */
  options(prefetchMax: number): MemberOptions {
    const { prefetch, ack, leaseSeconds } = this.parameters
    // A subscriber in this process acknowledges nothing.
    const qos = this.session.sender?.sink.immediate === true ? 0 : this.#record.qos
    return {
      face: this.face === 'share' ? 'share' : 'queue',
      qos,
      prefetch: typeof prefetch === 'number' ? Math.min(prefetch, prefetchMax) : prefetch,
      isExplicit: ack === 'explicit',
      leaseSeconds,
    }
  }

  /** Takes the options of a SUBSCRIBE that replaces the Subscription [MQTT-3.8.4-3]. */
  replace(record: SubscriptionRecord, parameters: QueueParameters): void {
    this.#record = record
    this.parameters = parameters
  }

  take(message: Message, handle: Handle): 'taken' | 'no-room' | 'too-large' {
    const state = this.#state
    const { session } = this
    // A right that this member lacks does not keep others from the message.
    if (this.face === 'share' && state.checksReceiving && !state.mayReceive(session, message)) {
      return 'too-large'
    }
    state.work.units += UNITS.storedDelivery
    const delivery = this.#delivery(message, new HandedOut(handle, this), handle.qos)
    const outcome = offer(session, delivery, this.#durableAt(handle))
    if (outcome === 'no-room') this.wanting?.add(this)
    if (outcome !== 'sent') return outcome
    if (handle.qos > 0) handle.packetId = session.lastPacketId
    return 'taken'
  }

  /**
   * At QoS 0, or held at once, its record must be durable before anybody sees the message. So must the one
   * of a hand-out at QoS 2 to a Session that is not stored.
   */
  #durableAt(handle: Handle): number {
    if (handle.qos === 0 || isUnknown(handle)) return this.#state.store.openSequence
    return this.queue.durableAt(handle.lane, handle.sequence)
  }

  release(handle: Handle): void {
    release(this.session, handle.packetId)
  }

  abandon(handle: Handle): void {
    abandon(this.session, handle.packetId)
  }

  /** Makes the Delivery of a hand-out that the store remembers; its body is read back when it is needed. */
  recovered(handle: Handle, delivery: QueueDelivery): QueueDelivery {
    const source = new HandedOut(handle, this)
    delivery.message.stored = source
    return { ...delivery, share: this.#share, source }
  }

  #delivery(message: Message, source: HandedOut, qos: QoS): QueueDelivery {
    const { retainAsPublished, identifier } = this.#record
    const arriving = this.arriving(message, source.handle)
    arriving.stored = source
    return {
      message: arriving,
      qos,
      retain: message.retain && retainAsPublished,
      subscriptionIdentifiers: identifier === 0 ? NO_IDENTIFIERS : [identifier],
      share: this.#share,
      source,
    }
  }

  get #share(): string | null {
    return this.face === 'share' ? this.filter : null
  }

  /** The message as this consumer gets it: the same again for the same hand-out. */
  arriving(message: Message, { lane, sequence, attempt, tag }: Handle): Message {
    const { queue, face, parameters } = this
    const version = this.#state.connected.get(this.session)?.view.protocolVersion ?? 5
    const meta =
      parameters.meta === true
        ? { sequence, enqueuedAt: queue.enqueuedAt(lane, sequence), key: queue.keyOf(message) }
        : null
    return arrivingMessage(face, message, {
      attempt,
      tag: tag === '' ? null : tag,
      acknowledgeAt: tag === '' ? null : `$ack/${queue.name}/${tag}`,
      meta,
      hearsProperties: version === 5,
    })
  }
}
