/** The queues of the Server. Its parts: `definitions`, and `consuming`. */
import type { Message } from '../../mqtt/message.ts'
import type { AcknowledgePacket, QoS } from '../../mqtt/packet.ts'
import { Reason } from '../../mqtt/reason.ts'
import {
  type AckAddress,
  type Address,
  type InvalidAddress,
  isDeadLetterName,
  isReplyName,
  parseAddress,
  parseSubscription,
  type QueueAddress,
  type QueueSubscription,
} from '../../mqtt/server-topics.ts'
import { SHARE_PREFIX } from '../../mqtt/topics.ts'
import type { Group } from '../../queue/group.ts'
import { MESSAGE_ID_BYTES_MAX, marksOf } from '../../queue/marks.ts'
import { propertiesByUse, type QueueOptions } from '../../queue/queue-options.ts'
import { filterMatches } from '../../routing/filter.ts'
import type { Inlet } from '../../routing/inlet.ts'
import type { QueueDelivery } from '../../session/context.ts'
import type { Session } from '../../session/session.ts'
import type { GroupState, LogSegment, LogStore, RecoveredLogs } from '../../store/log-store.ts'
import type { SubscriptionRecord } from '../../store/store.ts'
import { type ClientView, mayDeclare } from '../boundary/policy.ts'
import type {
  Acknowledgement,
  Addressed,
  Admission,
  ConsumeRequest,
  QueueDecision,
  QueueRefusal,
  Queues,
  Straight,
} from '../state/queue-port.ts'
import type { ServerState } from '../state/server-state.ts'
import { acknowledgementOf } from './acknowledging.ts'
import { Consuming } from './consuming.ts'
import { Definitions } from './definitions.ts'
import { Queue } from './queue.ts'
import { HandedOut } from './queue-consumer.ts'
import { ReplyQueues } from './reply-queues.ts'

/** How often queues that nobody uses are looked for, in ms. */
const IDLE_MS = 10_000

export class QueueRoom implements Queues {
  readonly definitions: Definitions
  readonly consuming: Consuming
  readonly replies: ReplyQueues
  readonly #state: ServerState
  /** For the operator, of the latest recovery. */
  readonly #notices: string[] = []

  constructor(state: ServerState, options: QueueOptions) {
    this.#state = state
    this.definitions = new Definitions(state, options)
    this.replies = new ReplyQueues(state, this.definitions)
    this.consuming = new Consuming(state, this.definitions, this.replies)
    this.definitions.changes = this.consuming
  }

  // ── its life ────────────────────────────────────────────────────────────────────────────────────────────

  /** Takes over the queues of the store. Sessions follow. */
  recover(logs: RecoveredLogs | undefined): void {
    if (logs !== undefined) this.#notices.push(...this.definitions.recover(logs))
  }

  /** Declares what the configuration says, once Sessions were taken over. Returns notices. */
  configure(options: QueueOptions): readonly string[] {
    this.#state.turn.begin()
    const notices = [...this.#notices.splice(0), ...this.definitions.configure(options)]
    this.consuming.programs.rejoin((name) => this.definitions.byName.get(name))
    this.#watchIdle()
    return notices
  }

  /** Applies the configuration after the store was read again: it may have changed meanwhile. */
  configureAgain(): void {
    this.configure(this.definitions.options)
  }

  #isWatching = false

  #watchIdle(): void {
    if (this.#isWatching || this.definitions.byUse === 0) return
    this.#isWatching = true
    this.#state.deadlines.at(this.#state.now() + IDLE_MS, () => {
      this.#isWatching = false
      if (this.#state.stopping) return
      this.#state.turn.begin()
      this.#deleteIdle()
      this.#watchIdle()
    })
  }

  #deleteIdle(): void {
    const until = this.#state.now() - this.definitions.options.idleExpirySeconds * 1000
    for (const queue of [...this.definitions.byName.values()]) {
      this.#state.work.units++
      if (queue.origin !== 'use') continue
      const isUsed = queue.replyTo === null ? !queue.isIdle : this.replies.isKept(queue)
      if (isUsed) queue.idleSince = this.#state.now()
      else if (queue.idleSince <= until) this.replies.expire(queue)
    }
  }

  /** Forgets everything, as the store is read again. Clients that consume try again. */
  lost(): void {
    const sessions = new Set<Session>()
    for (const { consumers } of this.definitions.byName.values()) {
      for (const { session } of consumers) sessions.add(session)
    }
    this.definitions.clear()
    const reason = 'the disk is full: what was not acknowledged was not stored'
    for (const session of sessions) {
      this.#state.connected.get(session)?.disconnect(Reason.QuotaExceeded, reason)
    }
    this.consuming.clear()
  }

  /** The Server stops: nothing more is handed out. */
  stop(): void {
    this.consuming.programs.endAll()
    for (const queue of this.definitions.byName.values()) queue.close()
  }

  groupState(number: number): GroupState | undefined {
    const group = this.definitions.byGroup.get(number)?.group
    return group === undefined ? undefined : new KeptGroup(group)
  }

  look(): number {
    const { definitions } = this
    return definitions.owners.look(definitions.byName.values()) + this.#state.store.logs.cachedBytes
  }

  get keptBytes(): number {
    return this.definitions.owners.keptBytes
  }

  get owned(): Iterable<Queue> {
    return this.definitions.byName.values()
  }

  // ── Subscriptions ───────────────────────────────────────────────────────────────────────────────────────

  subscription(filter: string): QueueSubscription | InvalidAddress | null {
    return parseSubscription(filter)
  }

  authorizeSubscribe(
    view: ClientView,
    { name, canonical, filter }: QueueSubscription,
    qos: QoS,
  ): QueueDecision | Promise<QueueDecision> {
    const consumes = this.mayConsume(view, name, qos)
    if (!this.#mayBeDeclared(name)) return consumes
    return bothOf(consumes, mayDeclare(this.#state.policy, view, canonical, filter === null ? [] : [filter]))
  }

  mayConsume(view: ClientView, name: string, qos: QoS): boolean | Reason | Promise<boolean | Reason> {
    if (isReplyName(name)) return this.replies.mayConsume(view, name)
    return this.#state.policy.authorizeSubscribe?.(view, `$queue/${name}`, qos) ?? true
  }

  replyTopic(view: ClientView): string | null {
    return this.replies.topicFor(view)
  }

  openReply(view: ClientView): boolean {
    const isOpen = this.replies.open(view) instanceof Queue
    this.#watchIdle()
    return isOpen
  }

  /** Whether a queue that is not there may be declared by use. */
  #mayBeDeclared(name: string): boolean {
    const { byName, options } = this.definitions
    return options.declare === 'auto' && !byName.has(name) && !isDeadLetterName(name) && !isReplyName(name)
  }

  admit(request: ConsumeRequest): QueueRefusal | Admission {
    const answer = this.consuming.admit(request)
    this.#watchIdle()
    return answer
  }

  shareRefusal(session: Session, filter: string): QueueRefusal | null {
    const queue = filter.startsWith(SHARE_PREFIX) ? this.consuming.queueOf(filter) : null
    return queue === null ? null : this.consuming.excess(session, filter, queue)
  }

  isConsumer(filter: string): boolean {
    return filter.startsWith(SHARE_PREFIX)
      ? this.consuming.queueOf(filter) !== null
      : parseSubscription(filter)?.kind === 'queue'
  }

  join(session: Session, filter: string, record: SubscriptionRecord): void {
    this.consuming.join(session, filter, record)
  }

  leave(session: Session, filter: string, isDeprived: boolean): void {
    this.consuming.leave(session, filter, isDeprived)
  }

  // ── PUBLISH ─────────────────────────────────────────────────────────────────────────────────────────────

  address(topic: string): Address | null {
    return parseAddress(topic)
  }

  mayPut(
    view: ClientView,
    { name, canonical, topic }: QueueAddress,
    qos: QoS,
    retain: boolean,
  ): boolean | Promise<boolean> {
    const { policy } = this.#state
    const isOpen = isReplyName(name) && this.definitions.options.replyOpen
    if (isOpen || policy.authorizePublish === undefined) return true
    const puts = policy.authorizePublish(view, canonical, qos, retain)
    const hasShare = this.definitions.byName.get(name)?.shareFilter != null
    if (topic === null || !hasShare) return puts
    // Members of the Shared Subscription get it with this topic, as if it had been published there.
    const publishes = policy.authorizePublish(view, topic, qos, false)
    if (typeof puts === 'boolean' && typeof publishes === 'boolean') return puts && publishes
    return Promise.all([puts, publishes]).then(([one, other]) => one && other)
  }

  authorizePublish(
    view: ClientView,
    address: QueueAddress,
    qos: QoS,
    retain: boolean,
  ): QueueDecision | Promise<QueueDecision> {
    const puts = this.mayPut(view, address, qos, retain)
    if (!this.#mayBeDeclared(address.name)) return puts
    return bothOf(puts, mayDeclare(this.#state.policy, view, `$queue/${address.name}`, []))
  }

  acknowledgement(address: AckAddress, payload: Buffer): Acknowledgement | QueueRefusal {
    return acknowledgementOf(this.#state, this.definitions.byName.get(address.name), address, payload)
  }

  straightRefusal({ retain, properties }: Straight): QueueRefusal | null {
    const reasonCode = Reason.ImplementationSpecificError
    if (retain) return { reasonCode, reason: 'a message for a queue cannot be retained' }
    if (!marksOf(properties).isIdBad) return null
    return { reasonCode, reason: `a message-id has 1 to ${MESSAGE_ID_BYTES_MAX} bytes` }
  }

  inletOf({ name, topic }: QueueAddress, mayDeclareIt: boolean, given: Addressed): Inlet | QueueRefusal {
    const refusal = this.straightRefusal(given)
    if (refusal !== null) return refusal
    const queue = this.definitions.byName.get(name)
    if (queue === undefined) {
      if (!mayDeclareIt) return { reasonCode: Reason.TopicNameInvalid, reason: `there is no queue ${name}` }
      const properties = propertiesByUse(this.definitions.options, name, [])
      const made = this.definitions.declare(name, properties, 'use', given.publisher)
      this.#watchIdle()
      return made
    }
    const { filters } = queue.properties
    if (filters.length === 0 || (topic !== null && filters.some((filter) => filterMatches(filter, topic)))) {
      return queue
    }
    const what = topic === null ? 'a message without a topic' : topic
    return {
      reasonCode: Reason.TopicNameInvalid,
      reason: `queue ${name} takes ${filters.join(', ')}, not ${what}`,
    }
  }

  // ── Sessions ────────────────────────────────────────────────────────────────────────────────────────────

  settled(
    session: Session,
    delivery: QueueDelivery,
    reasonCode: number,
    packet: AcknowledgePacket | null,
  ): void {
    this.consuming.settled(session, delivery, reasonCode, packet)
  }

  loosened(session: Session): void {
    this.consuming.loosened(session)
  }

  room(session: Session): void {
    this.consuming.room(session)
  }

  back(session: Session): void {
    this.consuming.back(session)
  }

  ended(session: Session): void {
    this.consuming.ended(session)
  }

  recovered(session: Session): void {
    this.consuming.recovered(session)
  }

  hasBody({ stored }: Message): boolean {
    return stored instanceof HandedOut
  }

  async restore(messages: readonly Message[]): Promise<void> {
    const { logs } = this.#state.store
    for (const message of messages) {
      const source = message.stored
      const queue = source instanceof HandedOut ? this.definitions.byGroup.get(source.group) : undefined
      if (!(source instanceof HandedOut) || queue === undefined || !message.evicted) continue
      const { lane, sequence } = source
      const log = queue.numbers.logs[lane]!
      const segment = logs.segment(log, sequence) ?? (await loaded(logs, log, sequence, queue))
      // While it is read, the client may answer, and the operator may delete the queue.
      if (queue.isGone || !isInFlight(message, source)) continue
      if (segment?.has(sequence) !== true) {
        throw new Error(`message ${sequence} of queue ${queue.name} is in flight and not in its log`)
      }
      const arriving = source.consumer.arriving(segment.message(sequence), source.handle)
      message.expiresAt = arriving.expiresAt
      message.restore(arriving.topic, arriving.properties, arriving.payload, arriving.publisher)
    }
  }
}

/** A group as the store keeps it. */
class KeptGroup implements GroupState {
  readonly counters: readonly number[] = []
  readonly #group: Group

  constructor(group: Group) {
    this.#group = group
  }

  get lanes(): GroupState['lanes'] {
    return this.#group.lanes
  }

  returned(): ReturnType<GroupState['returned']> {
    return this.#group.returned()
  }

  held(): ReturnType<GroupState['held']> {
    return this.#group.held()
  }

  get rememberedHead(): number {
    return this.#group.rememberedHead
  }

  get rememberedTail(): number {
    return this.#group.rememberedTail
  }

  remembered(from: number, to: number): ReturnType<GroupState['remembered']> {
    return this.#group.remembered(from, to)
  }
}

/** Reads a segment; null if its queue is deleted meanwhile. */
async function loaded(
  logs: LogStore,
  log: number,
  sequence: number,
  queue: Queue,
): Promise<LogSegment | null> {
  try {
    return await logs.load(log, sequence)
  } catch (error) {
    if (queue.isGone) return null
    throw error
  }
}

/** Whether a message is still to be sent again to the client that it was handed out to. */
function isInFlight(message: Message, { consumer, handle }: HandedOut): boolean {
  const delivery = consumer.session.flight.get(handle.packetId)?.delivery
  return delivery?.message === message && delivery.isEcho !== true
}

/** Joins the answers about a queue's use and its declaration. */
function bothOf(
  use: boolean | Reason | Promise<boolean | Reason>,
  declares: boolean | Promise<boolean>,
): QueueDecision | Promise<QueueDecision> {
  if (typeof use !== 'object' && typeof declares !== 'object') return both(use, declares)
  return Promise.all([use, declares]).then(([used, declared]) => both(used, declared))
}

function both(use: boolean | Reason, declares: boolean): QueueDecision {
  if (use !== true) return use
  return declares ? 'may-declare' : false
}
