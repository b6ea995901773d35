/**
 * HOT. The state of a queue that its parts share, and the steps from one state of a message to another. Each
 * step keeps the counts, tells the dispatch, and makes the record that the step needs.
 */

import type { HeldEntry } from '../store/log-store.ts'
import type { Dispatch, DispatchContext } from './dispatch/dispatch.ts'
import { dispatchOf } from './dispatch/dispatch-of.ts'
import { Doubt } from './doubt.ts'
import { Counts, type GoneReason, type StateCounts } from './figures.ts'
import type { GroupContext } from './group-context.ts'
import { keyOf } from './key-of.ts'
import type { DeathReason } from './properties.ts'
import { completeRules, type GroupRules, type Rules, retryDelayMs } from './rules.ts'
import { type Entry, type Handle, Hold, isIdle, type Member, State, Timeouts } from './state/consumer.ts'
import { EntryHeap } from './state/entry-heap.ts'
import { Lane } from './state/lane.ts'
import { LastValues } from './state/last-values.ts'

/** Entries that a capped queue may have at least, so that it can be worked off. */
const CAPPED_ENTRIES_MIN = 64
/** Reason String that a dead letter keeps. */
const DETAIL_CHARACTERS_MAX = 256

/** The most that a queue may have while it is capped. */
export interface Cap {
  readonly messages: number
  readonly bytes: number
  readonly entries: number
}

export class Core implements DispatchContext {
  readonly context: GroupContext
  readonly number: number
  rules: Rules
  dispatch: Dispatch
  /**
   * Never fewer than there were: one that is not used any more had messages, and its floor must be known to
   * the next checkpoint.
   */
  readonly lanes: Lane[] = []
  /** By lane; null unless a message replaces an older one of its key. */
  readonly lastValues: readonly LastValues[] | null
  readonly members = new Set<Member>()
  /** Members that are connected, and neither closing nor standing by. */
  there = 0
  /** Members that consume by `$queue`. */
  queueMembers = 0
  readonly counts = new Counts()
  /** Entries in memory, by state. */
  readonly inState = new Array<number>(State.Gone + 1).fill(0)
  /** Bytes of messages that are being moved. */
  movingBytes = 0
  /** Deferred ones, by the time at which they are ready. */
  readonly deferred = new EntryHeap<Entry>((entry) => entry.at)
  /** Held ones, by the end of their lease. */
  readonly leases = new EntryHeap<Entry>((entry) => entry.at)
  /** Ready ones that no open member may have. */
  readonly aside = new Set<Entry>()
  /** Whether that may have changed for some of them. */
  isAsideStale = false
  /** Sent at QoS 1: those that time out, and those that do so earlier since they were passed over. */
  readonly timeouts = new Timeouts()
  readonly passedOver = new Timeouts()
  /**
   * Entries by lane and sequence that may be named by a tag: `lane * 2^48 + sequence` would be no small
   * integer.
   */
  readonly tagged: Map<number, Entry>[] = []
  readonly pausedMembers = new Set<Member>()
  readonly doubt: Doubt
  /** Those that are gone and hold messages; after a restart, all that held any. */
  readonly former = new Set<Member>()
  isPaused = false
  /** As much as it had when memory or disk became short, and so may have; null at other times. */
  cap: Cap | null = null
  isClosed = false
  /** Entries and handles in memory. */
  handles = 0
  #isAwake = false
  #tickAt = Number.POSITIVE_INFINITY

  /** `logs` is the number of logs that it has already, if any. */
  constructor(context: GroupContext, number: number, rules: GroupRules, logs: number) {
    this.context = context
    this.number = number
    this.rules = completeRules(rules)
    this.doubt = new Doubt(this)
    this.dispatch = dispatchOf(this.rules, this, keyOf(this.rules.key))
    this.widen(Math.max(logs, this.rules.priorities))
    this.lastValues = this.rules.lastValue ? this.lanes.map(() => new LastValues()) : null
  }

  setCapped(isCapped: boolean): void {
    const entries = Math.max(this.entries, CAPPED_ENTRIES_MIN)
    this.cap = isCapped ? { messages: this.messages, bytes: this.bytes, entries } : null
  }

  /** Adds empty lanes, up to so many. */
  widen(lanes: number): void {
    for (let number = this.lanes.length; number < lanes; number++) {
      this.lanes.push(new Lane(number, (sequence) => this.context.segment(number, sequence)))
      this.tagged.push(new Map())
    }
  }

  // ── counts ──────────────────────────────────────────────────────────────────────────────────────────

  get messages(): number {
    let messages = 0
    for (const lane of this.lanes) messages += lane.messages
    return messages
  }

  get bytes(): number {
    let bytes = 0
    for (const lane of this.lanes) bytes += lane.bytes
    return bytes
  }

  /** Entries in memory. */
  get entries(): number {
    let count = 0
    for (const lane of this.lanes) count += lane.count
    return count
  }

  get states(): StateCounts {
    const { inState, messages } = this
    const inFlight = inState[State.Sent]! + inState[State.Loose]! + inState[State.Pinned]!
    const waiting = inState[State.Waiting]!
    const held = inState[State.Held]!
    const deferred = inState[State.Deferred]!
    const moving = inState[State.Moving]!
    const ready = messages - inFlight - waiting - held - deferred - moving
    return { ready, waiting, inFlight, held, deferred, moving, messages, bytes: this.bytes }
  }

  /** Entries that nobody holds. */
  get idle(): number {
    const { inState } = this
    return inState[State.Ready]! + inState[State.Waiting]! + inState[State.Deferred]!
  }

  /** By lane, the sequence of the oldest message that waits for a consumer or its key; 0 for none. */
  get oldestReady(): readonly number[] {
    return this.lanes.map((lane) => {
      for (let one = lane.first; one !== null && one.sequence < lane.cursor; one = one.next) {
        if (one.state === State.Ready || one.state === State.Waiting) return one.sequence
      }
      return lane.hasFresh ? lane.cursor : 0
    })
  }

  /** Broker time in ms of the oldest hand-out that is not acknowledged; Infinity for none. */
  get oldestSentAt(): number {
    let oldest = Number.POSITIVE_INFINITY
    for (const { oldest: handle } of this.members)
      if (handle !== null) oldest = Math.min(oldest, handle.sentAt)
    for (const { handle } of this.leases.values())
      if (handle !== null) oldest = Math.min(oldest, handle.sentAt)
    return oldest
  }

  /** Makes an entry of the message at the cursor of a lane, ready. */
  enter(lane: Lane, size: number): Entry {
    return this.#entered(lane.enter(size))
  }

  /** Makes an entry of an unread message anywhere in a lane, ready. */
  enterAt(lane: Lane, sequence: number, size: number): Entry {
    return this.#entered(lane.restore(sequence, size))
  }

  #entered(entry: Entry): Entry {
    this.inState[State.Ready]!++
    if (this.lastValues !== null) this.lastValues[entry.lane]!.entered(entry)
    return entry
  }

  /** Entries that members hold who are gone. */
  get formerHeld(): number {
    let held = 0
    for (const member of this.former) held += member.held
    return held
  }

  setState(entry: Entry, state: State): void {
    this.inState[entry.state]!--
    this.inState[state]!++
    entry.state = state
    if (isIdle(entry)) this.idled(entry)
  }

  /** Nobody holds an entry any more, or it was ready and nobody takes it. */
  idled(entry: Entry): void {
    const lane = this.lanes[entry.lane]!
    lane.idle.add(entry, lane.count)
  }

  // ── steps of an entry ───────────────────────────────────────────────────────────────────────────────

  /** Takes an entry out of whatever list its state has it in. */
  unlist(entry: Entry): void {
    if (entry.heapIndex !== -1) {
      const { state } = entry
      const heap = state === State.Deferred ? this.deferred : state === State.Held ? this.leases : null
      if (heap === null) this.lanes[entry.lane]!.ready.remove(entry)
      else heap.remove(entry)
    } else if (this.aside.size > 0) this.aside.delete(entry)
  }

  /** Ends the hand-out of an entry: the member has it no more, and nothing is recorded. */
  detach(entry: Entry): void {
    const { handle } = entry
    if (handle === null) return
    entry.handle = null
    if (entry.state === State.Held && --handle.member.held === 0) this.former.delete(handle.member)
    handle.list?.remove(handle)
    handle.timeouts?.remove(handle)
    handle.hold = Hold.Over
    this.handles--
    this.isAsideStale ||= this.aside.size > 0
    this.dispatch.returned(entry, handle.member)
  }

  /** Settles an entry, and records that. */
  settle(entry: Entry): void {
    if (entry.size < 0) entry.size = this.#sizeOf(entry)
    this.unlist(entry)
    this.detach(entry)
    this.dispatch.left(entry)
    this.#gone(entry)
    this.context.settled(entry.lane, entry.sequence, entry.sequence + 1, entry.size)
  }

  #gone(entry: Entry): void {
    const { lane, sequence } = entry
    if (entry.state === State.Moving) this.movingBytes -= entry.size
    this.inState[entry.state]!--
    entry.state = State.Gone
    entry.blocks = null
    this.lanes[lane]!.remove(entry)
    if (this.lastValues !== null) this.lastValues[lane]!.left(sequence)
    const tagged = this.tagged[lane]!
    if (tagged.size > 0) tagged.delete(sequence)
    this.doubt.left(entry)
  }

  /** An entry from before a restart whose message was not read meanwhile: what it takes on the average. */
  #sizeOf(entry: Entry): number {
    const lane = this.lanes[entry.lane]!
    const read = lane.read(entry.sequence)
    lane.endTurn()
    if (read !== null) return read.size
    return lane.messages === 1 ? lane.bytes : Math.floor(lane.bytes / lane.messages)
  }

  /**
   * An entry may be handed out, unless a newer one has taken its place. It is in no list and with nobody.
   */
  ready(entry: Entry): void {
    if (entry.isSuperseded) {
      this.drop(entry, 'superseded')
      return
    }
    this.setState(entry, State.Ready)
    this.lanes[entry.lane]!.ready.push(entry)
  }

  /** An entry is ready again after `ms`, and that is recorded. */
  defer(entry: Entry, ms: number): void {
    if (entry.isSuperseded) {
      this.drop(entry, 'superseded')
      return
    }
    if (ms <= 0) {
      this.recordReturned(entry, 0)
      this.ready(entry)
      return
    }
    entry.at = this.context.now() + ms
    this.setState(entry, State.Deferred)
    this.deferred.push(entry)
    this.recordReturned(entry, entry.at)
    this.due(entry.at)
  }

  recordReturned(entry: Entry, due: number): void {
    this.context.returned(entry.lane, entry.sequence, entry.failures, entry.attempts, due)
  }

  /** Records a message that is under way as it was before this hand-out. */
  recordBefore({ lane, sequence, failures, attempts }: Entry): void {
    this.context.returned(lane, sequence, failures, attempts - 1, 0)
  }

  /** Counts a failure. Returns true if that was one too many: then the entry is dead. */
  fail(entry: Entry, code: number, detail: string, clientId: string): boolean {
    entry.failures++
    if (entry.failures < this.rules.deliveryLimit) return false
    this.kill(entry, 'delivery-limit', code, detail, clientId)
    return true
  }

  /** A member got an entry, and holds it until its lease ends. The entry is in no list. */
  hold(entry: Entry, handle: Handle, ms: number): void {
    const { member } = handle
    handle.list?.remove(handle)
    handle.timeouts?.remove(handle)
    if (entry.state !== State.Held) member.held++
    else this.leases.remove(entry)
    entry.at = this.context.now() + ms
    this.setState(entry, State.Held)
    this.leases.push(entry)
    this.context.held(heldEntry(entry, handle))
    this.due(entry.at)
  }

  tokenOf({ lane, sequence }: Entry, attempt: number, { consumer }: Member): string {
    return this.context.token(lane, sequence, attempt, consumer)
  }

  leaseMs({ leaseSeconds }: Handle): number {
    return 1000 * leaseSeconds
  }

  retryDelay(entry: Entry): number {
    return retryDelayMs(this.rules, entry.failures)
  }

  /** Sends a message to the dead letters, or drops it where there are none. */
  kill(entry: Entry, reason: DeathReason, code: number, detail: string, clientId: string): void {
    const { rules, counts } = this
    if (!rules.hasDeadLetters || !rules.deadLetterReasons.includes(reason)) {
      const isOrdinary = reason === 'expired' || reason === 'overflow' || reason === 'purged'
      this.dropped(isOrdinary ? reason : 'dead', entry.lane, entry.sequence, 1)
      this.settle(entry)
      return
    }
    counts.dead[reason]++
    // After a crash before it is moved, its tag must not be given out again.
    if (this.tagged[entry.lane]!.has(entry.sequence)) this.recordReturned(entry, 0)
    if (reason === 'in-doubt') this.doubt.moves(entry)
    if (entry.size < 0) entry.size = this.#sizeOf(entry)
    this.unlist(entry)
    this.detach(entry)
    this.dispatch.left(entry)
    this.setState(entry, State.Moving)
    this.movingBytes += entry.size
    const { lane, sequence, attempts } = entry
    const cut = detail.slice(0, DETAIL_CHARACTERS_MAX)
    this.context.dead({ lane, sequence, reason, attempts, code, detail: cut, clientId, entry })
  }

  /** An idle or loose entry is gone without a consumer's word. */
  drop(entry: Entry, reason: GoneReason & ('expired' | 'overflow' | 'purged' | 'superseded')): void {
    const { handle } = entry
    const clientId = handle?.member.consumer.clientId ?? ''
    if (reason === 'superseded') {
      this.dropped(reason, entry.lane, entry.sequence, 1)
      this.settle(entry)
    } else this.kill(entry, reason, entry.code, '', clientId)
    if (handle !== null) handle.member.consumer.release(handle)
  }

  /** Settles an unread message without a consumer's word. Its lane is read at it. */
  dropUnread(lane: Lane, sequence: number, size: number, reason: 'expired' | 'overflow' | 'purged'): void {
    const { rules } = this
    // The memory of those that move is bounded: beyond, they are dropped.
    const mayMove = this.entries < rules.unsettledMax
    if (rules.hasDeadLetters && mayMove && rules.deadLetterReasons.includes(reason)) {
      const isNext = sequence === lane.cursor
      const entry = isNext ? this.enter(lane, size) : this.enterAt(lane, sequence, size)
      this.kill(entry, reason, 0, '', '')
      return
    }
    this.passUnread(lane, sequence, size)
    this.dropped(reason, lane.number, sequence, 1)
  }

  /** Settles an unread message, and records that. */
  passUnread(lane: Lane, sequence: number, size: number): void {
    lane.pass(sequence, sequence + 1, size)
    if (this.lastValues !== null) this.lastValues[lane.number]!.left(sequence)
    this.context.settled(lane.number, sequence, sequence + 1, size)
  }

  dropped(reason: GoneReason, lane: number, sequence: number, count: number): void {
    this.counts.dropped[reason] += count
    this.context.dropped(reason, lane, sequence, count)
  }

  // ── members ─────────────────────────────────────────────────────────────────────────────────────────

  /** Tells the dispatch if a member may be chosen now, and was not before, or the other way round. */
  refresh(member: Member): void {
    const isThere = member.isOnline && !member.isClosing && !member.isStandby && !member.isGone
    if (isThere !== member.isThere) {
      member.isThere = isThere
      this.there += isThere ? 1 : -1
    }
    const isOpen = !member.isGone && member.state === 'open'
    if (isOpen === member.isOpen) {
      if (isOpen && member.used !== member.load) this.dispatch.loadChanged(member)
      return
    }
    member.isOpen = isOpen
    if (isOpen) {
      this.dispatch.open(member)
      this.isAsideStale = true
    } else this.dispatch.close(member)
  }

  /** Whether another member is there who might take what this one refused. */
  hasOther(member: Member): boolean {
    return this.there > (member.isThere ? 1 : 0)
  }

  // ── time and work ───────────────────────────────────────────────────────────────────────────────────

  /** Something is due at this time. */
  due(time: number): void {
    if (time >= this.#tickAt) return
    this.#tickAt = time
    this.context.tickAt(time)
  }

  /** The next time is found anew. */
  ticked(): void {
    this.#tickAt = Number.POSITIVE_INFINITY
  }

  /** Asks for `work`, once. */
  wake(): void {
    if (this.#isAwake || this.isClosed) return
    this.#isAwake = true
    this.context.wake()
  }

  /** `work` begins. */
  woke(): void {
    this.#isAwake = false
  }
}

/** An entry that is held by this hand-out, as the store keeps it. */
export function heldEntry({ lane, sequence, at }: Entry, handle: Handle): HeldEntry {
  const { attempt, token, leaseSeconds, member } = handle
  return { lane, sequence, attempt, until: at, token, leaseSeconds, clientId: member.consumer.clientId }
}
