/**
 * PUBLISH to `$ack`: a consumer acknowledges a message of a queue. The payload can be a result. It is
 * published in the same turn in which the message is settled, so that both are in one commit.
 */
import type { Message, Topic } from '../../mqtt/message.ts'
import type { PublishPacket } from '../../mqtt/packet.ts'
import { Reason } from '../../mqtt/reason.ts'
import type { AckAddress } from '../../mqtt/server-topics.ts'
import type { Session } from '../../session/session.ts'
import type { ClientView } from '../boundary/policy.ts'
import type { PublishOutcome } from '../messages/publish-outcome.ts'
import type { Publisher } from '../messages/publisher.ts'
import type { Acknowledgement, QueueDecision, Result } from '../state/queue-port.ts'
import type { ServerState } from '../state/server-state.ts'
import { SLICE_UNITS } from '../state/work.ts'
import type { Input } from './input.ts'

/** The ways to answer a PUBLISH. */
export interface PublishAnswers {
  /** `durableAt` is the commit after which the answer leaves. */
  accept(packet: PublishPacket, reasonCode: Reason, durableAt: number): void
  refuse(packet: PublishPacket, topic: Topic, reasonCode: Reason, why?: string | null): void
  /** Disk or memory is short. */
  exhausted(packet: PublishPacket, topic: Topic, reasonCode: Reason): void
  /** Copies a packet that has to wait. */
  kept(packet: PublishPacket): PublishPacket
}

/** An acknowledgement that is being handled. */
interface Answering {
  readonly packet: PublishPacket
  readonly topic: Topic
  readonly asked: Acknowledgement
}

export class AcknowledgementReceiver {
  readonly #state: ServerState
  readonly #publisher: Publisher
  readonly #input: Input
  readonly #session: Session
  readonly #view: ClientView
  readonly #answers: PublishAnswers

  constructor(
    state: ServerState,
    publisher: Publisher,
    input: Input,
    session: Session,
    view: ClientView,
    answers: PublishAnswers,
  ) {
    this.#state = state
    this.#publisher = publisher
    this.#input = input
    this.#session = session
    this.#view = view
    this.#answers = answers
  }

  /** Handles a PUBLISH to `$ack`; the answer follows, perhaps in a later turn. */
  handle(packet: PublishPacket, topic: Topic, address: AckAddress): void {
    const { unavailable, queues } = this.#state
    // No tag is known while the store is read again.
    if (unavailable !== null) {
      this.#answers.exhausted(packet, topic, Reason.QuotaExceeded)
      return
    }
    const decision = queues!.mayConsume(this.#view, address.name, packet.qos)
    if (typeof decision !== 'object') this.#decided(packet, topic, address, decision)
    else {
      const kept = this.#answers.kept(packet)
      this.#input.whenAnswered(decision, (decided) => this.#decided(kept, topic, address, decided))
    }
  }

  #decided(packet: PublishPacket, topic: Topic, address: AckAddress, decision: QueueDecision): void {
    if (decision !== true) {
      this.#answers.refuse(packet, topic, Reason.NotAuthorized)
      return
    }
    const asked = this.#state.queues!.acknowledgement(address, packet.payload)
    if ('reasonCode' in asked) {
      // Before 5.0 PUBACK can only say that the packet came [MQTT-3.3.5-2 of 3.1.1].
      if (this.#view.protocolVersion < 5) this.#answers.accept(packet, Reason.Success, 0)
      else this.#answers.refuse(packet, topic, asked.reasonCode, asked.reason)
      return
    }
    const answering = { packet, topic, asked }
    if (asked.verb === 'extend') this.#settle(answering)
    else this.#askFor(answering)
  }

  /** Looks at the message: it may say where its result goes, or be moved to the dead letters. */
  #askFor(answering: Answering): void {
    const request = answering.asked.request()
    if (request === null || !('then' in request)) this.#done(answering, request)
    else {
      const kept = { ...answering, packet: this.#answers.kept(answering.packet) }
      this.#input.whenAnswered(request, (read) => this.#done(kept, read))
    }
  }

  #done(answering: Answering, request: Message | null): void {
    const { packet, asked } = answering
    const result =
      request === null || asked.verb !== 'done' ? null : asked.result(request, packet, this.#view.clientId)
    if (result === null) this.#settle(answering)
    else this.#authorize(answering, result)
  }

  /** The result is published as by the worker. */
  #authorize(answering: Answering, result: Result): void {
    const { policy, queues } = this.#state
    const { address, message } = result
    const { topic, qos, retain } = message
    const decision: QueueDecision | Promise<QueueDecision> =
      address === null
        ? (policy.authorizePublish?.(this.#view, topic.name, qos, retain) ?? true)
        : queues!.authorizePublish(this.#view, address, qos, retain)
    if (typeof decision !== 'object') this.#authorized(answering, result, decision)
    else {
      message.own()
      const kept = { ...answering, packet: this.#answers.kept(answering.packet) }
      this.#input.whenAnswered(decision, (decided) => this.#authorized(kept, result, decided))
    }
  }

  #authorized(answering: Answering, result: Result, decision: QueueDecision): void {
    const { asked } = answering
    if (!asked.isThere) this.#settle(answering)
    else if (decision !== true && decision !== 'may-declare') {
      asked.lost('not-authorized', result)
      this.#settle(answering)
    } else if (result.address === null) this.#route(answering, result)
    else this.#putIn(answering, result, decision === 'may-declare')
  }

  // ── to a queue ──────────────────────────────────────────────────────────────────────────────────────────

  #putIn(answering: Answering, result: Result, mayDeclare: boolean): void {
    const inlet = this.#state.queues!.inletOf(result.address!, mayDeclare, result.message)
    if ('reasonCode' in inlet) {
      const isFull = inlet.reasonCode === Reason.QuotaExceeded
      answering.asked.lost(isFull ? 'overflow' : 'invalid-topic', result)
      this.#settle(answering)
    } else {
      this.#published(answering, result, this.#publisher.publishInto(inlet, result.message, this.#session))
    }
  }

  // ── to a topic ──────────────────────────────────────────────────────────────────────────────────────────

  /** Finds the receivers, in slices if they may be many. */
  #route(answering: Answering, result: Result): void {
    const { router } = this.#state
    if (router.mayTakeLong && !router.prepare(result.message.topic, SLICE_UNITS)) {
      result.message.own()
      const kept = { ...answering, packet: this.#answers.kept(answering.packet) }
      this.#input.later(() => this.#route(kept, result))
    } else this.#publishInOrder(answering, result)
  }

  /** Settlement and result are one fact: so nothing else is given out in between. */
  #publishInOrder(answering: Answering, result: Result): void {
    const publisher = this.#publisher
    const { topic } = result.message
    if (!publisher.mustQueue(topic)) {
      this.#publish(answering, result)
      return
    }
    result.message.own()
    const kept = { ...answering, packet: this.#answers.kept(answering.packet) }
    this.#input.hold('packet')
    publisher.queue(topic, () =>
      this.#input.resumeWith(() => publisher.admitting(() => this.#publish(kept, result))),
    )
  }

  #publish(answering: Answering, result: Result): void {
    if (!answering.asked.isThere) this.#settle(answering)
    else this.#published(answering, result, this.#publisher.publishWhole(result.message, this.#session))
  }

  #published(answering: Answering, result: Result, outcome: PublishOutcome): void {
    const { packet, topic, asked } = answering
    const { reasonCode, refusedBy, underWay } = outcome
    if (reasonCode >= Reason.UnspecifiedError) {
      // Nothing has happened: the worker sends both again.
      if (refusedBy === 'disk' || refusedBy === 'memoryBytesMax') {
        this.#answers.exhausted(packet, topic, reasonCode)
        return
      }
      asked.lost('overflow', result)
    } else asked.published()
    if (underWay === null) this.#settle(answering)
    else {
      const code = asked.carryOut() ? Reason.Success : Reason.NoMatchingSubscribers
      const kept = this.#answers.kept(packet)
      this.#input.hold('packet')
      underWay.done = () => this.#input.resumeWith(() => this.#accept(kept, code))
    }
  }

  /** Carries out what is asked, in this turn, and answers after the commit. */
  #settle({ packet, asked }: Answering): void {
    const code = asked.carryOut() ? Reason.Success : Reason.NoMatchingSubscribers
    if (asked.isMoving) this.#whenMoved(this.#answers.kept(packet), asked)
    else this.#accept(packet, code)
  }

  /** The message goes to the dead letters in a later turn: until then nothing of that is durable. */
  #whenMoved(kept: PublishPacket, asked: Acknowledgement): void {
    this.#input.later(() => {
      if (asked.isMoving) this.#whenMoved(kept, asked)
      else this.#accept(kept, Reason.Success)
    })
  }

  #accept(packet: PublishPacket, reasonCode: Reason): void {
    this.#answers.accept(packet, reasonCode, this.#state.store.recordedSequence)
  }
}
