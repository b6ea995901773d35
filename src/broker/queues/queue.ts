/** HOT. One queue: its definition, its machine and its consumers. It is an inlet of Routes. */
import { Message } from '../../mqtt/message.ts'
import { isDeadLetterName, QUEUED_TOPIC_BYTES_MAX } from '../../mqtt/server-topics.ts'
import { priorityOf } from '../../queue/dispatch/priority.ts'
import { Group } from '../../queue/group.ts'
import type { Death } from '../../queue/group-context.ts'
import { keyOf } from '../../queue/key-of.ts'
import { type Marks, marksOf } from '../../queue/marks.ts'
import { deadLetterQueue, type QueueProperties } from '../../queue/properties.ts'
import type { GroupRules } from '../../queue/rules.ts'
import type { Inlet, InletRefusal } from '../../routing/inlet.ts'
import type { DefinitionOrigin, RecoveredGroup } from '../../store/log-store.ts'
import type { Usage } from '../accounts/usage.ts'
import type { Owner } from '../boundary/policy.ts'
import type { OwnedQueue } from '../state/queue-port.ts'
import type { ServerState } from '../state/server-state.ts'
import { UNITS } from '../state/work.ts'
import type { ProgramConsumer } from './program-consumer.ts'
import type { QueueConsumer } from './queue-consumer.ts'
import { type OwningQueue, QueueContext, type QueueNumbers } from './queue-context.ts'
import { counted } from './queue-view.ts'

/** Memory of a queue with nothing in it. */
const QUEUE_BYTES = 2048

/** Memory of a consumer in this process, without its side in the machine. */
const CONSUMER_BYTES = 512

/** The Server around all queues. */
export interface QueueEnvironment {
  readonly state: ServerState
  readonly unsettledMax: number
  readonly lookaheadMessagesMax: number
  /** Moves a message to the dead letters, and calls `moved` of its queue's group in a later turn. */
  moveToDeadLetters(queue: Queue, death: Death): void
  /** Records the definition of a queue anew. */
  record(queue: Queue): void
}

/** The definition of a queue. */
export interface QueueDefinition {
  readonly name: string
  readonly numbers: QueueNumbers
  readonly origin: DefinitionOrigin
  readonly properties: QueueProperties
  /** The user whose client made it, and for whom it counts; null for the operator's. */
  readonly owner: Usage | null
  /** The secret behind the tags of its messages: they are good as long as the queue exists. */
  readonly tagSecret: string
  /** The user whose client consumes it, for a reply queue; null for any other. */
  readonly replyTo: Owner | null
}

/** A queue as the store knows it. */
export interface RecoveredQueue {
  readonly isPaused: boolean
  readonly group: RecoveredGroup
}

export class Queue implements Inlet, OwningQueue, OwnedQueue {
  readonly name: string
  numbers: QueueNumbers
  readonly group: Group
  readonly context: QueueContext
  readonly consumers = new Set<QueueConsumer>()
  readonly replyTo: Owner | null
  /** Consumers in this process. */
  readonly programs = new Set<ProgramConsumer>()
  readonly tagSecret: string
  origin: DefinitionOrigin
  properties: QueueProperties
  isPaused: boolean
  /** While memory or disk is short. */
  isCapped = false
  owner: Usage | null
  /** Bytes in memory and on the disk that are counted for its owner. */
  countedBytes = 0
  countedStoredBytes = 0
  /** Whether the file that declared it does so no more. */
  isOrphaned = false
  /** Broker time in ms since which it has been empty and without consumers, as far as was noticed. */
  idleSince: number
  /** Messages whose `message-id` had no or too many bytes, and was not heard. */
  ignoredIds = 0
  readonly #environment: QueueEnvironment
  readonly #state: ServerState
  #isGone = false

  constructor(environment: QueueEnvironment, definition: QueueDefinition, recovered: RecoveredQueue | null) {
    const { name, numbers, origin, properties, owner, replyTo, tagSecret } = definition
    this.#environment = environment
    this.#state = environment.state
    this.name = name
    this.numbers = numbers
    this.tagSecret = tagSecret
    this.origin = origin
    this.properties = properties
    this.owner = owner
    this.replyTo = replyTo
    this.isPaused = recovered?.isPaused === true
    this.idleSince = this.#state.now()
    this.context = new QueueContext(this.#state, this)
    const logs = numbers.logs.map((log) => this.#state.store.logs.log(log))
    const recovery = recovered === null ? null : { ...recovered, logs }
    this.group = new Group(this.context, numbers.group, this.#rules(), recovery)
    this.context.group = this.group
  }

  #rules(): GroupRules {
    const { unsettledMax, lookaheadMessagesMax } = this.#environment
    const hasDeadLetters = deadLetterQueue(this.name, this.properties) !== null
    const isDeadLetters = isDeadLetterName(this.name)
    return { ...this.properties, hasDeadLetters, isDeadLetters, unsettledMax, lookaheadMessagesMax }
  }

  get unsettledMax(): number {
    return this.#environment.unsettledMax
  }

  /**
   * Memory of everything that is kept for it, without segments that were read, and without clients that
   * consume it and what they hold: that is theirs.
   */
  get memoryBytes(): number {
    const { logs } = this.#state.store
    let bytes = QUEUE_BYTES + this.group.bytesHeld
    for (const log of this.numbers.logs) bytes += logs.log(log).memoryBytes
    for (const { member, bytesHeld } of this.programs)
      bytes += CONSUMER_BYTES + (member?.bytesHeld ?? 0) + bytesHeld
    return bytes
  }

  /** Its consumers, those in this process included. */
  get consumerCount(): number {
    return this.consumers.size + this.programs.size
  }

  /** Whether it is empty, nobody consumes it, and it remembers no `message-id`. */
  get isIdle(): boolean {
    const { consumerCount, group } = this
    return consumerCount === 0 && group.states.messages === 0 && group.knownIds === 0
  }

  /** The filter of the Shared Subscriptions that consume it; null for none. */
  get shareFilter(): string | null {
    const { share, filters } = this.properties
    return share && filters.length === 1 ? `$share/${this.name}/${filters[0]}` : null
  }

  // ── putting in ──────────────────────────────────────────────────────────────────────────────────────────

  refusal(message: Message): InletRefusal | null {
    return this.#refusal(message, marksOf(message.properties))
  }

  append(message: Message): void {
    const marks = marksOf(message.properties)
    if (marks.isIdBad) this.ignoredIds++
    this.#append(message, marks)
  }

  /** Why a message of another queue cannot be moved here; null if it can. */
  moveRefusal(message: Message): InletRefusal | null {
    return this.#refusal(message, { ...marksOf(message.properties), id: null })
  }

  /** Takes a message of another queue. Its `message-id` is not looked at: it is no publication. */
  moveIn(message: Message): void {
    this.#append(message, { ...marksOf(message.properties), id: null })
  }

  #refusal(message: Message, { id }: Marks): InletRefusal | null {
    if (message.topic.byteLength > QUEUED_TOPIC_BYTES_MAX) {
      return { detail: `the topic is too long for queue ${this.name}` }
    }
    const refusal = this.group.refusal(message, this.#priorityOf(message), id)
    if (refusal === null) return null
    const { limit, max } = refusal
    if (limit === 'size') return { detail: `the message is too large for queue ${this.name} (${max} bytes)` }
    if (limit === 'capped') {
      return { detail: `queue ${this.name} takes no more: its owner has much of what is short` }
    }
    const most = limit === 'messages' ? counted(max, 'message') : counted(max, 'byte')
    return { detail: `queue ${this.name} is full (${most})` }
  }

  #append(message: Message, { id }: Marks): void {
    if (this.#isGone) return
    const { work, store, memoryRefusal } = this.#state
    work.units += UNITS.storedDelivery
    if (this.replyTo === null) this.idleSince = this.#state.now()
    const isShort = message.qos === 0 && (store.refusal !== null || memoryRefusal !== null)
    if (isShort || message.topic.byteLength > QUEUED_TOPIC_BYTES_MAX) this.context.drop('overflow', 1)
    else this.group.append(this.#withTimeToLive(message), id, this.#priorityOf(message))
  }

  /** Null where no priority counts. */
  #priorityOf(message: Message): number | null {
    const { priorities, priorityRules } = this.properties
    return priorities === 1 ? null : priorityOf(message, priorityRules)
  }

  /** The earlier of its own expiry and the queue's holds. */
  #withTimeToLive(message: Message): Message {
    const { ttlSeconds } = this.properties
    const expiresAt = this.#state.now() + ttlSeconds * 1000
    if (expiresAt >= message.expiresAt) return message
    const { topic, payload, properties, qos, retain, publisher } = message
    return Message.of({ topic, payload, properties, qos, retain, publisher, expiresAt })
  }

  keyOf(message: Message): string {
    return keyOf(this.properties.key)(message)
  }

  moveToDeadLetters(death: Death): void {
    this.#environment.moveToDeadLetters(this, death)
  }

  // ── its life ────────────────────────────────────────────────────────────────────────────────────────────

  /** Its properties hold from now on. The store knows the logs of all lanes. */
  changed(): void {
    this.group.change(this.#rules())
  }

  cap(): void {
    this.isCapped = true
    this.group.setCapped(true)
  }

  uncap(): void {
    this.isCapped = false
    this.group.setCapped(false)
  }

  paused(isPaused: boolean): void {
    this.isPaused = isPaused
    this.#environment.record(this)
  }

  get isGone(): boolean {
    return this.#isGone
  }

  /** Nothing is put in or handed out from now on. */
  close(): void {
    this.#isGone = true
    this.group.close()
    this.context.close()
  }
}
