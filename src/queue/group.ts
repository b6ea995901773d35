/**
 * HOT. The machine of one queue decides what becomes of each message, and who gets it. It is pure: time
 * comes in, and records, offers, reads and deadlines go out through `GroupContext`.
 *
 * Messages are handed out in `append`, `room` and `work` only. All other calls change states, and ask for
 * `work` if there is something to hand out then.
 */
import type { Message } from '../mqtt/message.ts'
import type { HeldEntry, ReturnedEntry } from '../store/log-store.ts'
import { Core, heldEntry } from './core.ts'
import { dispatchOf } from './dispatch/dispatch-of.ts'
import { DEFAULT_PRIORITY, laneOf } from './dispatch/priority.ts'
import { explain } from './explain.ts'
import type { Tag } from './explicit/tag.ts'
import type { Counts, StateCounts } from './figures.ts'
import type { Death, GroupContext } from './group-context.ts'
import { HandOut } from './hand-out.ts'
import { keyOf } from './key-of.ts'
import { KnownIds } from './known-ids.ts'
import { type Place, type Recovery, restoreEntries } from './recovery.ts'
import { type Refusal, Removal, SWEEP_MS } from './removal.ts'
import { Returns, type Verb } from './returns.ts'
import { completeRules, type GroupRules } from './rules.ts'
import {
  type Consumer,
  ENTRY_BYTES,
  HANDLE_BYTES,
  Handle,
  Member,
  type MemberOptions,
  State,
} from './state/consumer.ts'
import { type Look, look } from './state/look.ts'
import type { RememberedId } from './state/remembered.ts'
import type { Run } from './state/runs.ts'

/** Messages that are handed out or dropped in one turn: then others are served. */
const WORK_MAX = 512
/** Memory of the machine itself with one lane, and of any other lane, in bytes. */
const GROUP_BYTES = 5120
const LANE_BYTES = 1024

/** The fate of a message that was put in. */
export type Appended = 'in' | 'duplicate' | 'overflow'

export class Group {
  readonly number: number
  readonly #core: Core
  readonly #handOut: HandOut
  readonly #returns: Returns
  readonly #removal: Removal
  readonly #ids: KnownIds

  /** `recovery` is null for a new queue. */
  constructor(context: GroupContext, number: number, rules: GroupRules, recovery: Recovery | null) {
    const core = new Core(context, number, rules, recovery?.logs.length ?? 0)
    this.number = number
    this.#core = core
    this.#handOut = new HandOut(core)
    this.#returns = new Returns(core)
    this.#removal = new Removal(core)
    this.#ids = new KnownIds(core, recovery?.group.rememberedHead ?? 0, recovery?.group.remembered ?? [])
    if (recovery === null) return
    core.isPaused = recovery.isPaused
    restoreEntries(core, recovery)
    this.#handOut.introduce()
    this.#removal.index()
    if (core.messages > 0) core.due(context.now() + SWEEP_MS)
  }

  // ── putting in ──────────────────────────────────────────────────────────────────────────────────────

  /**
   * Asked before anything is done with a message: returns what refuses the whole PUBLISH; null for nothing.
   * Only a queue that rejects refuses one, and any queue what is larger than all that it may hold.
   */
  refusal(message: Message, priority: number | null = null, id: string | null = null): Refusal | null {
    const core = this.#core
    if (id !== null && this.#ids.has(id)) return null
    const refusal = this.#removal.refusal(core.lanes[this.#laneOf(priority)]!, message)
    return refusal !== null && (refusal.limit === 'size' || core.rules.overflow === 'reject') ? refusal : null
  }

  /**
   * Puts a message in, and hands it out at once if it can. `id` is its `message-id`, `priority` is from 0 to
   * 9, null for the default. Takes one that is refused, too: then it is dropped.
   */
  append(message: Message, id: string | null = null, priority: number | null = null): Appended {
    const core = this.#core
    if (core.isClosed) return 'overflow'
    if (id !== null && this.#ids.has(id)) {
      core.counts.duplicates++
      return 'duplicate'
    }
    const lane = core.lanes[this.#laneOf(priority)]!
    const isDropping = core.rules.overflow === 'drop-oldest'
    const fits = isDropping
      ? this.#removal.makeRoom(lane, message)
      : this.#removal.refusal(lane, message) === null
    if (!fits) {
      core.dropped('overflow', lane.number, 0, 1)
      return 'overflow'
    }
    const sequence = core.context.append(lane.number, message)
    if (sequence === 0) return 'overflow'
    lane.appended(sequence, message.size)
    core.counts.in++
    if (id !== null) this.#ids.add(id)
    if (message.expiresAt !== Number.POSITIVE_INFINITY) core.due(core.context.now() + SWEEP_MS)
    this.#removal.appended(lane, sequence, message)
    if (this.#removal.isIndexed) this.#handOut.live(lane, sequence, message)
    else this.#wakeIfNeeded()
    return 'in'
  }

  #laneOf(priority: number | null): number {
    return laneOf(priority ?? DEFAULT_PRIORITY, this.#core.rules.priorities)
  }

  // ── consumers ───────────────────────────────────────────────────────────────────────────────────────

  /** Adds a consumer. At a start, `adopt` what it has in flight, before any other call. */
  join(consumer: Consumer, options: MemberOptions, isOnline: boolean): Member {
    const core = this.#core
    const member = new Member(consumer, options, options.prefetch ?? core.rules.prefetch, isOnline)
    core.members.add(member)
    if (options.face === 'queue') core.queueMembers++
    core.dispatch.present(member)
    core.isAsideStale = true
    core.refresh(member)
    this.#wakeIfNeeded()
    return member
  }

  /** A consumer subscribed again with the same filter: it stays what it is, with other options. */
  rejoin(member: Member, options: MemberOptions): void {
    member.options = options
    member.isClosing = false
    member.window.ask(options.prefetch ?? this.#core.rules.prefetch)
    this.#core.dispatch.present(member)
    this.#core.refresh(member)
    this.#wakeIfNeeded()
  }

  /**
   * At a start: takes notice of a message in flight of a Session that is away. Call it in the order of the
   * hand-outs. Null if the message is settled, or was taken from it.
   */
  adopt(member: Member, place: Place): Handle | null {
    const core = this.#core
    const { lane: number, sequence, attempt, qos, packetId } = place
    const lane = core.lanes[number]
    if (lane === undefined) return null
    const known = lane.find(sequence)
    if (known === null && !lane.isUnread(sequence)) return null
    const entry = known ?? core.enterAt(lane, sequence, -1)
    // A later hand-out than those that are known to be over, or in flight elsewhere.
    const isOver = entry.state === State.Held || entry.attempts >= attempt
    if (known !== null && isOver) return null
    const before = entry.handle
    core.unlist(entry)
    core.detach(entry)
    if (before !== null) before.member.consumer.release(before)
    const { isExplicit } = member.options
    const token = isExplicit ? core.tokenOf(entry, attempt, member) : ''
    const handle = new Handle(entry, member, qos, attempt, core.context.now(), token)
    if (isExplicit) core.tagged[number]!.set(sequence, entry)
    handle.packetId = packetId
    entry.attempts = attempt
    entry.handle = handle
    core.handles++
    core.setState(entry, qos === 2 ? State.Pinned : State.Loose)
    member.sent.push(handle)
    if (qos !== 2) lane.ready.push(entry)
    this.#handOut.introduce()
    return handle
  }

  /** The connection of a consumer is lost, its Session stays. */
  away(member: Member): void {
    this.#returns.away(member)
    this.#wakeIfNeeded()
  }

  /**
   * Its client is back. Call it before what is in flight is sent again: what others claimed was released.
   */
  back(member: Member): void {
    this.#returns.back(member)
    this.#wakeIfNeeded()
  }

  /** The consumer unsubscribed: it is given nothing more, and hand-outs that have begun are completed. */
  leave(member: Member): void {
    this.#returns.leave(member)
    this.#wakeIfNeeded()
  }

  /** Its Session ended. Without `isCharged` it lost its rights, and its oldest message is not charged. */
  end(member: Member, isCharged = true): void {
    this.#returns.end(member, isCharged)
    this.#wakeIfNeeded()
  }

  /** The consumer has room again: hands out messages. */
  room(member: Member): void {
    if (member.isGone) return
    member.hasRoom = true
    this.#core.refresh(member)
    if (this.#removal.isIndexed && this.#handOut.hasWork) this.#handOut.run(WORK_MAX)
    this.#wakeIfNeeded()
  }

  // ── acknowledgements ────────────────────────────────────────────────────────────────────────────────

  /**
   * PUBACK, or PUBREC at QoS 2. `retryAfter` is in seconds, null if the consumer did not say; `detail` is
   * its Reason String.
   */
  acknowledged(handle: Handle, code: number, retryAfter: number | null = null, detail = ''): void {
    this.#returns.acknowledged(handle, code, retryAfter, detail)
    this.#wakeIfNeeded()
  }

  /** A message goes back before its consumer has begun with it: it is nobody's failure. */
  giveBack(handle: Handle): void {
    this.#returns.giveBack(handle)
    this.#wakeIfNeeded()
  }

  /** Whether `done` with this tag would settle something. */
  isThere(tag: Tag): boolean {
    if (this.#core.isClosed) return false
    return this.#returns.find(tag) !== null || this.#core.lanes[tag.lane]?.isUnread(tag.sequence) === true
  }

  /**
   * A PUBLISH to `$ack`. `seconds` belongs to `retry` and `extend`, null for the default. Returns 'gone' if
   * it changed nothing: the message is gone, or somebody else has it. That the tag was given out is for the
   * caller to check.
   */
  answer(tag: Tag, verb: Verb, seconds: number | null, detail: string): 'done' | 'gone' {
    if (this.#core.isClosed) return 'gone'
    const isDone = this.#returns.answer(tag, verb, seconds, detail)
    this.#wakeIfNeeded()
    return isDone ? 'done' : 'gone'
  }

  // ── going on ────────────────────────────────────────────────────────────────────────────────────────

  /** Whether `work` would do something now. */
  get hasWork(): boolean {
    const core = this.#core
    if (core.isClosed) return false
    if (core.doubt.hasWork) return true
    return this.#removal.hasWork || (this.#removal.isIndexed && this.#handOut.hasWork)
  }

  /**
   * Hands out, and drops what has to go: about `budget` messages. Returns the units of work that it did. If
   * `hasWork` is true afterwards, it is to be called again in a later turn; `wake` does not ask for it.
   */
  work(budget = WORK_MAX): number {
    const core = this.#core
    core.woke()
    if (core.isClosed) return 0
    let units = core.doubt.run(budget)
    units += this.#removal.run(budget - units)
    if (this.#removal.isIndexed && units < budget) units += this.#handOut.run(budget - units)
    return units
  }

  /** The segment of a lane that had to be read is in memory. */
  loaded(lane: number): void {
    this.#core.lanes[lane]!.isLoading = false
    this.#wakeIfNeeded()
  }

  /** Call this at the time that `tickAt` asked for. */
  tick(): void {
    const core = this.#core
    if (core.isClosed) return
    core.ticked()
    const now = core.context.now()
    const next = this.#returns.tick(now)
    const sweepAt = core.messages > 0 ? this.#removal.sweep(now) : Number.POSITIVE_INFINITY
    this.#ids.tick()
    const earliest = Math.min(next, sweepAt)
    if (earliest !== Number.POSITIVE_INFINITY) core.due(earliest)
    this.#wakeIfNeeded()
  }

  /** A message was appended elsewhere, in this turn, or is lost. */
  moved(death: Death): void {
    const core = this.#core
    if (core.isClosed || death.entry.state !== State.Moving) return
    core.settle(death.entry)
    this.#wakeIfNeeded()
  }

  #wakeIfNeeded(): void {
    if (this.hasWork) this.#core.wake()
  }

  // ── the operator ────────────────────────────────────────────────────────────────────────────────────

  /**
   * Other properties hold from now on. Another number of priorities is for an empty queue; each new lane has
   * its log.
   */
  change(rules: GroupRules): void {
    const core = this.#core
    const before = core.rules
    core.rules = { ...completeRules(rules), lastValue: before.lastValue }
    core.widen(core.rules.priorities)
    const { dispatch, key, keyWindow, prefetch } = core.rules
    if (dispatch !== before.dispatch || key !== before.key || keyWindow !== before.keyWindow)
      this.#dispatchAnew()
    for (const member of core.members) {
      if (member.options.prefetch === null && prefetch !== before.prefetch) member.window.ask(prefetch)
      core.refresh(member)
    }
    this.#removal.changed()
    this.#ids.changed()
    this.tick()
  }

  /** Consumers keep what they have; the new rule holds for the next hand-out. */
  #dispatchAnew(): void {
    const core = this.#core
    for (const lane of core.lanes) {
      for (let entry = lane.first; entry !== null; entry = entry.next) {
        entry.key = null
        if (entry.state === State.Waiting) core.ready(entry)
      }
    }
    core.dispatch = dispatchOf(core.rules, core, keyOf(core.rules.key))
    for (const member of core.members) {
      member.isOpen = false
      member.isStandby = false
    }
    for (const member of core.members) {
      core.dispatch.present(member)
      core.refresh(member)
    }
    core.isAsideStale = true
    this.#handOut.introduce()
  }

  /** Nothing is handed out any more; everything else goes on. */
  pause(): void {
    this.#core.isPaused = true
    this.#core.context.paused(true)
  }

  resume(): void {
    this.#core.isPaused = false
    this.#core.context.paused(false)
    this.#wakeIfNeeded()
  }

  /** While memory or disk is short it grows no more, but goes on with what it has. */
  setCapped(isCapped: boolean): void {
    this.#core.setCapped(isCapped)
    this.#wakeIfNeeded()
  }

  get isPaused(): boolean {
    return this.#core.isPaused
  }

  /** Has everything go that nobody holds and that is there now. */
  purge(): void {
    this.#removal.purge()
    this.#wakeIfNeeded()
  }

  get isPurging(): boolean {
    return this.#core.lanes.some(({ purgeTo }) => purgeTo > 0)
  }

  /** Deleted, or the store is lost: nothing has an effect any more. */
  close(): void {
    this.#core.isClosed = true
  }

  /** Tells the state of a message; null if it is settled or not there. */
  look(lane: number, sequence: number): Look | null {
    return look(this.#core.lanes, lane, sequence)
  }

  /**
   * Settles a message that nobody holds, since it was appended elsewhere in this turn. Returns false, and
   * does nothing, if somebody holds it, it is gone, or it has to be read first.
   */
  extract(lane: number, sequence: number): boolean {
    const isDone = this.#removal.extract(lane, sequence)
    this.#wakeIfNeeded()
    return isDone
  }

  // ── what it says of itself ──────────────────────────────────────────────────────────────────────────

  get members(): Iterable<Member> {
    return this.#core.members
  }

  get memberCount(): number {
    return this.#core.members.size
  }

  get counts(): Counts {
    return this.#core.counts
  }

  /** By lane, the sequence of the oldest message that waits for a consumer; 0 for none. */
  get oldestReady(): readonly number[] {
    return this.#core.oldestReady
  }

  /** Broker time in ms of the oldest hand-out that is not acknowledged; Infinity for none. */
  get oldestSentAt(): number {
    return this.#core.oldestSentAt
  }

  get states(): StateCounts {
    return this.#core.states
  }

  /** Ids that were forgotten early, since there were too many. */
  get forgottenIds(): number {
    return this.#ids.forgotten
  }

  /** Ids of messages that it would not take again now. */
  get knownIds(): number {
    return this.#ids.size
  }

  /** Memory of all that it keeps, without what is its members' (`Member.bytesHeld`). */
  get bytesHeld(): number {
    const { lanes, entries, inState, formerHeld, dispatch, lastValues } = this.#core
    const held = inState[State.Held]! - formerHeld
    const withMembers = inState[State.Sent]! + inState[State.Loose]! + inState[State.Pinned]! + held
    let bytes = GROUP_BYTES + ENTRY_BYTES * (entries - withMembers) + HANDLE_BYTES * formerHeld
    bytes += LANE_BYTES * (lanes.length - 1) + dispatch.bytesHeld + this.#ids.list.bytesHeld
    for (const values of lastValues ?? []) bytes += values.bytesHeld
    return bytes
  }

  /** Sentences, without a full stop, that say why messages wait. Empty if none does. */
  explain(): string[] {
    return explain(this.#core)
  }

  // ── its state, for a checkpoint of the store ────────────────────────────────────────────────────────

  get lanes(): readonly { readonly floor: number; readonly runs: Iterable<Run> }[] {
    return this.#core.lanes
  }

  /** Messages that failed or came back, and are not settled. */
  *returned(): IterableIterator<ReturnedEntry> {
    for (const lane of this.#core.lanes) {
      for (let entry = lane.first; entry !== null; entry = entry.next) {
        const isOut = entry.handle !== null && entry.state !== State.Held
        const attempts = isOut ? entry.attempts - 1 : entry.attempts
        if (entry.failures === 0 && attempts <= 0) continue
        const due = entry.state === State.Deferred ? entry.at : 0
        yield { lane: lane.number, sequence: entry.sequence, failures: entry.failures, attempts, due }
      }
    }
  }

  /** Messages that are held with explicit acknowledgement, or must go to nobody else after a restart. */
  *held(): IterableIterator<HeldEntry> {
    for (const lane of this.#core.lanes) {
      for (let entry = lane.first; entry !== null; entry = entry.next) {
        const note = this.#core.doubt.note(entry)
        if (note !== null) yield note
        else if (entry.state === State.Held) yield heldEntry(entry, entry.handle!)
      }
    }
  }

  get rememberedHead(): number {
    return this.#ids.list.head
  }

  get rememberedTail(): number {
    return this.#ids.list.tail
  }

  remembered(from: number, to: number): Iterable<RememberedId> {
    return this.#ids.list.between(from, to)
  }
}
