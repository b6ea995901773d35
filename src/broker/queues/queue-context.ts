/** HOT. What the machine of a queue asks of the Server: records, reads, deadlines, and another turn. */
import type { Message } from '../../mqtt/message.ts'
import type { Tag } from '../../queue/explicit/tag.ts'
import { TagKey } from '../../queue/explicit/tag-key.ts'
import type { GoneReason } from '../../queue/figures.ts'
import type { Group } from '../../queue/group.ts'
import type { Death, GroupContext } from '../../queue/group-context.ts'
import type { Consumer, Member } from '../../queue/state/consumer.ts'
import type { LogSegment } from '../../queue/state/lane.ts'
import type { Run } from '../../queue/state/runs.ts'
import { type HeldEntry, type LogStore, SEGMENT_ENTRIES_MAX } from '../../store/log-store.ts'
import type { Deadline } from '../state/deadlines.ts'
import type { ServerState } from '../state/server-state.ts'
import type { ConsumedQueue } from './queue-consumer.ts'

/** The numbers of a queue in the store. */
export interface QueueNumbers {
  readonly definition: number
  readonly group: number
  /** By lane. */
  readonly logs: readonly number[]
}

/** The queue behind the machine. */
export interface OwningQueue {
  readonly name: string
  readonly numbers: QueueNumbers
  readonly unsettledMax: number
  /** The secret behind the tags of its messages. */
  readonly tagSecret: string
  /** The key of a message, by its rule. */
  keyOf(message: Message): string
  /** Moves a message to the dead letters, and tells the group in a later turn. */
  moveToDeadLetters(death: Death): void
  /** Records whether the queue is paused, for the next start. */
  paused(isPaused: boolean): void
}

export class QueueContext implements GroupContext, ConsumedQueue {
  /** Set once, right after it was made with this context. */
  group!: Group
  readonly #owner: OwningQueue
  readonly #state: ServerState
  readonly #logs: LogStore
  readonly #number: number
  readonly #tags: TagKey
  /** Lanes whose next segment is being read. */
  readonly #reading = new Set<number>()
  #deadline: Deadline | null = null
  #isWorkDue = false
  #isClosed = false
  /** The block of the latest append. */
  #block = 0
  /** By lane: what is appended from here on may not be durable before that block. */
  readonly #safeNext: number[]

  constructor(state: ServerState, owner: OwningQueue) {
    this.#owner = owner
    this.#state = state
    this.#logs = state.store.logs
    this.#number = owner.numbers.group
    this.#tags = new TagKey(state.host, owner.tagSecret)
    this.#safeNext = this.#owner.numbers.logs.map((log) => this.#logs.log(log).next)
  }

  get name(): string {
    return this.#owner.name
  }

  now(): number {
    return this.#state.now()
  }

  token(lane: number, sequence: number, attempt: number, { isStored }: Consumer): string {
    return this.#tags.token(lane, sequence, attempt, isStored === true)
  }

  /** Whether this queue gave out the tag at any time. */
  isOwnTag(tag: Tag): boolean {
    return this.#tags.isOwn(tag)
  }

  // ── the log ─────────────────────────────────────────────────────────────────────────────────────────────

  append(lane: number, message: Message): number {
    const { openSequence, committedSequence } = this.#state.store
    if (openSequence !== this.#block) {
      if (committedSequence >= this.#block) {
        const { logs } = this.#owner.numbers
        for (let at = 0; at < logs.length; at++) this.#safeNext[at] = this.#logs.log(logs[at]!).next
      }
      this.#block = openSequence
    }
    return this.#logs.append(this.#owner.numbers.logs[lane]!, message, message.expiresAt)
  }

  durableAt(lane: number, sequence: number): number {
    if (this.#state.store.committedSequence >= this.#block) return 0
    // A lane that was added meanwhile has nothing that is safe.
    return sequence < (this.#safeNext[lane] ?? 0) ? 0 : this.#block
  }

  enqueuedAt(lane: number, sequence: number): number {
    const cursor = this.#logs.segment(this.#owner.numbers.logs[lane]!, sequence)?.from(sequence)
    return cursor?.next() === true ? cursor.appendedWall : this.#state.host.wallNow()
  }

  keyOf(message: Message): string {
    return this.#owner.keyOf(message)
  }

  segment(lane: number, sequence: number): LogSegment | null {
    const log = this.#owner.numbers.logs[lane]!
    const found = this.#logs.segment(log, sequence)
    if (found !== null) return found
    if (!this.#reading.has(lane)) this.#load(lane, log, sequence)
    return null
  }

  #load(lane: number, log: number, sequence: number): void {
    this.#reading.add(lane)
    this.#logs.load(log, sequence).then(
      () => {
        this.#reading.delete(lane)
        if (this.#isClosed) return
        this.#state.turn.begin()
        this.group.loaded(lane)
      },
      (error: unknown) => {
        this.#reading.delete(lane)
        if (!this.#isClosed) this.#state.storeFailed(error)
      },
    )
  }

  *expiring(lane: number, now: number): Iterable<Run> {
    const log = this.#owner.numbers.logs[lane]!
    let from = 0
    for (;;) {
      const first = this.#logs.expiring(log, from, now)
      if (first < 0) return
      from = first + SEGMENT_ENTRIES_MAX
      yield { first, next: from }
    }
  }

  // ── records ─────────────────────────────────────────────────────────────────────────────────────────────

  settled(lane: number, first: number, next: number, bytes: number): void {
    this.#logs.settled(this.#number, lane, first, next, bytes)
  }

  returned(lane: number, sequence: number, failures: number, attempts: number, due: number): void {
    this.#logs.returned(this.#number, { lane, sequence, failures, attempts, due })
  }

  held(entry: HeldEntry): void {
    this.#logs.held(this.#number, entry)
  }

  remembered(id: string, time: number): void {
    this.#logs.remembered(this.#number, { id, time })
  }

  forgottenIds(count: number): void {
    const { name } = this.#owner
    const detail = `queue ${name} has deduplicate_ids_max ids: it forgot the oldest early`
    for (let told = 0; told < count; told++) this.#state.limited('queueIdsMax', '', detail)
  }

  paused(isPaused: boolean): void {
    this.#owner.paused(isPaused)
  }

  // ── what becomes of messages and consumers ──────────────────────────────────────────────────────────────

  dead(death: Death): void {
    this.#owner.moveToDeadLetters(death)
  }

  dropped(reason: GoneReason, _lane: number, _sequence: number, count: number): void {
    this.drop(reason, count)
  }

  /** Counts and reports messages that nobody gets. */
  drop(reason: GoneReason, count: number): void {
    const { counters, events } = this.#state
    counters.drop(reason, count)
    if (events.has('queueDropped')) events.emit('queueDropped', { queue: this.name, reason, count })
  }

  silent({ consumer }: Member): void {
    const { events } = this.#state
    if (!events.has('consumerSilent')) return
    events.emit('consumerSilent', { queue: this.name, clientId: consumer.clientId })
  }

  unsettledMax(): void {
    const { name, unsettledMax } = this.#owner
    const detail = `${unsettledMax} messages of queue ${name} are handed out or deferred`
    this.#state.limited('queueUnsettledMax', '', detail)
  }

  // ── going on ────────────────────────────────────────────────────────────────────────────────────────────

  wake(): void {
    if (this.#isWorkDue) return
    this.#isWorkDue = true
    this.#state.turn.continueLater(() => this.#work())
  }

  #work(): void {
    this.#isWorkDue = false
    if (this.#isClosed) return
    this.#state.work.units += this.group.work()
    if (this.group.hasWork) this.wake()
  }

  tickAt(time: number): void {
    // A deadline that comes too early does no harm: it sets the next one.
    if (this.#deadline !== null && this.#deadline.time <= time) return
    this.#state.deadlines.cancel(this.#deadline)
    this.#deadline = time === Number.POSITIVE_INFINITY ? null : this.#state.deadlines.at(time, this.#tick)
  }

  readonly #tick = (): void => {
    this.#deadline = null
    if (this.#isClosed) return
    this.#state.turn.begin()
    this.group.tick()
  }

  /** Ends reads, deadlines and continuations. */
  close(): void {
    this.#isClosed = true
    this.#state.deadlines.cancel(this.#deadline)
    this.#deadline = null
  }
}
