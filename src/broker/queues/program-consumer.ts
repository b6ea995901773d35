/** HOT. Consumers of queues in this process: members of a queue's machine, as those of Sessions are. */
import type { Message } from '../../mqtt/message.ts'
import type { Group } from '../../queue/group.ts'
import { type Consumer, type Handle, Hold, type Member } from '../../queue/state/consumer.ts'
import type { CommitWaiter, ServerState } from '../state/server-state.ts'
import type { Flushable } from '../state/turn.ts'
import { UNITS } from '../state/work.ts'
import type { ConsumedQueue } from './queue-consumer.ts'

/** Bytes of messages that one consumer may have in hand. A larger message comes alone. */
const BYTES_MAX = 16 * 1024 * 1024

/** A queue as its consumers in this process see it. */
export interface ProgramQueue {
  readonly name: string
  readonly group: Group
  readonly context: Pick<ConsumedQueue, 'durableAt' | 'enqueuedAt'>
  readonly programs: Set<ProgramConsumer>
  readonly isGone: boolean
}

/** Why a consumer in this process has ended. */
export type ConsumerEnd = 'stopped' | 'queue-deleted' | 'broker-closed'

/** A message in the hands of this process, until `settle` is called with it. */
export interface Handed {
  readonly message: Message
  readonly handle: Handle
  /** Wall time in ms at which it was put in. */
  readonly enqueuedAt: number
}

/** The wishes of a consumer in this process. */
export interface ProgramConsumerOptions {
  /** For lists, events and dead letters, as the Client Identifier of others. */
  readonly name: string
  readonly prefetch: 'auto' | number
  /** Messages that are with the handler at once. */
  readonly concurrency: number
  /** Called for each message, when it is as durable as promised. `settle` ends it. */
  readonly handler: (handed: Handed) => void
  /** Called once, when it has ended and no message is with the handler. */
  readonly ended: (end: ConsumerEnd) => void
}

interface Waiting extends Handed {
  durableAt: number
}

export class ProgramConsumer implements Consumer, CommitWaiter, Flushable {
  readonly queueName: string
  /** Null from the loss of the store until its queues are there again. */
  #queue: ProgramQueue | null = null
  #member: Member | null = null
  readonly #state: ServerState
  readonly #options: ProgramConsumerOptions
  /** Taken, and not with the handler yet; oldest first. */
  #waiting: Waiting[] = []
  readonly #handed = new Set<Handle>()
  #bytes = 0
  #isTouched = false
  #isFull = false
  #end: ConsumerEnd | null = null
  #isTold = false

  constructor(state: ServerState, queueName: string, options: ProgramConsumerOptions) {
    this.#state = state
    this.queueName = queueName
    this.#options = options
  }

  get clientId(): string {
    return this.#options.name
  }

  get filter(): string {
    return `$queue/${this.queueName}`
  }

  /** Null while it has no queue. */
  get member(): Member | null {
    return this.#member
  }

  /** Bytes of messages that it keeps in memory. */
  get bytesHeld(): number {
    return this.#bytes
  }

  get hasEnded(): boolean {
    return this.#end !== null
  }

  /** Becomes a consumer of the queue: at its beginning, and when the store was read again. */
  join(queue: ProgramQueue): void {
    const { prefetch } = this.#options
    const form = { face: 'queue', qos: 1, prefetch, isExplicit: false, leaseSeconds: null } as const
    queue.programs.add(this)
    this.#queue = queue
    this.#member = queue.group.join(this, { ...form, answersInAnyOrder: true }, true)
  }

  // ── messages ────────────────────────────────────────────────────────────────────────────────────────────

  take(message: Message, handle: Handle): 'taken' | 'no-room' {
    if (this.#bytes > 0 && this.#bytes + message.size > BYTES_MAX) {
      this.#isFull = true
      return 'no-room'
    }
    const { lane, sequence } = handle
    const { context } = this.#queue!
    message.own()
    this.#bytes += message.size
    const enqueuedAt = context.enqueuedAt(lane, sequence)
    this.#waiting.push({ message, handle, enqueuedAt, durableAt: context.durableAt(lane, sequence) })
    this.#state.work.units += UNITS.storedDelivery
    this.#touch()
    return 'taken'
  }

  #touch(): void {
    if (this.#isTouched) return
    this.#isTouched = true
    this.#state.turn.touch(this)
  }

  flush(): void {
    this.#isTouched = false
    const { recordedSequence, committedSequence } = this.#state.store
    for (const waiting of this.#waiting) waiting.durableAt = Math.min(waiting.durableAt, recordedSequence)
    this.committed(committedSequence)
  }

  committed(committedSequence: number): void {
    const { concurrency, handler } = this.#options
    let count = 0
    for (const { durableAt } of this.#waiting) {
      if (durableAt > committedSequence || this.#handed.size + count >= concurrency) break
      count++
    }
    const due = this.#waiting.splice(0, count)
    this.#wait()
    for (const handed of due) {
      const { handle, message } = handed
      // It may have been taken away meanwhile.
      if (handle.hold !== Hold.Current || !this.#isMember(handle)) {
        this.#free(message)
        this.#touch()
        continue
      }
      this.#handed.add(handle)
      this.#state.work.units += UNITS.delivery
      try {
        handler(handed)
      } catch (error) {
        this.#state.thrownOutside(error)
      }
    }
  }

  /** Waits for the commit of the next message, if it waits for one and the handler is free. */
  #wait(): void {
    const isDue = this.#waiting.length > 0 && this.#handed.size < this.#options.concurrency
    if (isDue) this.#state.waiting.add(this)
    else this.#state.waiting.delete(this)
  }

  /** A message is in its memory no more: what did not fit is asked for again, in a later turn. */
  #free(message: Message): void {
    this.#bytes -= message.size
    if (!this.#isFull) return
    this.#isFull = false
    this.#state.turn.continueLater(() => {
      if (this.#member !== null && this.#queue?.isGone === false) this.#queue.group.room(this.#member)
    })
  }

  /** Whether the hand-out is one of the queue as it is now. */
  #isMember({ member }: Handle): boolean {
    return member === this.#member && this.#queue?.isGone === false
  }

  /** The message went elsewhere. It is found out when it is to be handled. */
  release(): void {}

  abandon(): void {}

  /** Whether a message is still in its hands. */
  has({ handle }: Handed): boolean {
    return this.#handed.has(handle) && handle.hold === Hold.Current && this.#isMember(handle)
  }

  /**
   * Ends a message as PUBACK does. `retryAfter` is in seconds, null for the queue's delay; `detail` is kept
   * with a dead letter. Does nothing if the message went elsewhere.
   */
  settle({ handle, message }: Handed, code: number, retryAfter: number | null, detail: string): void {
    if (!this.#handed.delete(handle)) return
    this.#state.turn.begin()
    if (this.#isMember(handle)) this.#queue?.group.acknowledged(handle, code, retryAfter, detail)
    this.#free(message)
    if (this.#waiting.length > 0) this.#touch()
    this.#tellEnd()
  }

  // ── its end ─────────────────────────────────────────────────────────────────────────────────────────────

  /** Takes nothing more. What the handler has not begun goes back; `ended` follows once it has nothing. */
  end(end: ConsumerEnd): void {
    if (this.#end !== null) return
    this.#end = end
    this.#state.turn.begin()
    const { group } = this.#queue ?? {}
    const waiting = this.#waiting.splice(0)
    this.#wait()
    for (const { handle, message } of waiting) {
      this.#bytes -= message.size
      if (this.#isMember(handle)) group?.giveBack(handle)
    }
    if (this.#member !== null && this.#queue?.isGone === false) group?.leave(this.#member)
    this.#queue?.programs.delete(this)
    this.#tellEnd()
  }

  /** Its queue is read again with the store: what it had comes again. */
  lose(): void {
    this.#queue = null
    this.#member = null
    for (const { message } of this.#waiting.splice(0)) this.#bytes -= message.size
    this.#state.waiting.delete(this)
  }

  #tellEnd(): void {
    if (this.#end === null || this.#handed.size > 0 || this.#isTold) return
    this.#isTold = true
    this.#options.ended(this.#end)
  }
}

/** All consumers in this process. */
export class ProgramConsumers {
  readonly #state: ServerState
  readonly #all = new Set<ProgramConsumer>()

  constructor(state: ServerState) {
    this.#state = state
  }

  get size(): number {
    return this.#all.size
  }

  add(queue: ProgramQueue, options: ProgramConsumerOptions): ProgramConsumer {
    this.#state.turn.begin()
    const consumer: ProgramConsumer = new ProgramConsumer(this.#state, queue.name, {
      ...options,
      ended: (end) => {
        this.#all.delete(consumer)
        options.ended(end)
      },
    })
    this.#all.add(consumer)
    consumer.join(queue)
    const { events } = this.#state
    const { clientId, filter } = consumer
    if (events.has('consumerJoined')) events.emit('consumerJoined', { queue: queue.name, clientId, filter })
    return consumer
  }

  end(consumer: ProgramConsumer, end: ConsumerEnd): void {
    if (consumer.hasEnded) return
    consumer.end(end)
    const { queueName: queue, clientId, filter } = consumer
    const { events } = this.#state
    if (events.has('consumerLeft')) events.emit('consumerLeft', { queue, clientId, filter })
  }

  /** A queue is deleted. */
  endOf(queue: ProgramQueue): void {
    for (const consumer of [...queue.programs]) this.end(consumer, 'queue-deleted')
  }

  /** Nobody takes anything more; what handlers have is ended by them. */
  endAll(): void {
    for (const consumer of [...this.#all]) this.end(consumer, 'broker-closed')
  }

  /** The store is read again. */
  lose(): void {
    for (const consumer of this.#all) consumer.lose()
  }

  /** The queues of the store are there again. */
  rejoin(queueOf: (name: string) => ProgramQueue | undefined): void {
    for (const consumer of [...this.#all]) {
      if (consumer.member !== null || consumer.hasEnded) continue
      const queue = queueOf(consumer.queueName)
      if (queue === undefined) this.end(consumer, 'queue-deleted')
      else consumer.join(queue)
    }
  }
}
