/**
 * HOT. Handing out: which lane is next, which of its messages, and to whom. What came back goes before what
 * is new. At the live end of a log the publisher's own message is handed out, without reading it.
 */
import type { Message, QoS } from '../mqtt/message.ts'
import type { Core } from './core.ts'
import { Block, type Entry, Handle, Hold, type Member, State } from './state/consumer.ts'
import type { Lane } from './state/lane.ts'

/** Members that a message is offered to before it counts as too large for all. */
const TRIED_MAX = 100
/** How many messages that nobody may have are looked at for one unit of work. */
const ASIDE_PER_UNIT = 16

export class HandOut {
  readonly #core: Core
  /** Number of the latest hand-out. */
  #serial = 0
  /** Messages of higher lanes that went in a row while a lower one waited. */
  #streak = 0
  /** Whether it was told that too much is in memory. */
  #isFull = false
  /** Entries that the dispatch does not know yet, the next one last: nothing is handed out before. */
  #unknown: Entry[] = []
  /** Whether they have to be collected: once for all consumers that come back after a restart. */
  #isUnknownStale = false
  /** Broker time in ms at which the message that is offered came in. */
  #appendedAt = 0

  constructor(core: Core) {
    this.#core = core
  }

  /** The dispatch is new, or entries come from before a restart: it has to see their messages first. */
  introduce(): void {
    this.#isUnknownStale = true
  }

  #collectUnknown(): void {
    const core = this.#core
    this.#isUnknownStale = false
    this.#unknown = []
    if (!core.dispatch.needsMessages) return
    const ready: Entry[] = []
    for (const lane of core.lanes) {
      for (let entry = lane.first; entry !== null; entry = entry.next) {
        if (entry.state !== State.Ready) this.#unknown.push(entry)
        // An entry beyond the cursor is handed out when the cursor reaches it.
        else if (entry.sequence < lane.cursor) ready.push(entry)
      }
    }
    // Messages under way come first: those that are ready may have to wait for them.
    this.#unknown = [...this.#unknown, ...ready].reverse()
  }

  /** Whether `run` would do something now. */
  get hasWork(): boolean {
    const core = this.#core
    if (!this.#mayRun) return false
    if (this.#isUnknownStale) this.#collectUnknown()
    const unknown = this.#unknown.at(-1)
    if (unknown !== undefined) return !core.lanes[unknown.lane]!.isLoading
    if (core.isAsideStale && core.aside.size > 0) return true
    for (const lane of core.lanes) if (this.#isCandidate(lane)) return true
    return false
  }

  /** Hands out, at most `budget` messages. Returns the units of work that it did. */
  run(budget: number): number {
    const core = this.#core
    let units = 0
    if (this.#isUnknownStale && this.#mayRun) this.#collectUnknown()
    if (this.#mayRun) units += this.#introduceSome(budget)
    if (this.#mayRun && this.#unknown.length === 0) units += this.#revisit(budget)
    while (units < budget && this.#mayRun && this.#unknown.length === 0) {
      const lane = this.#nextLane()
      if (lane === null) break
      units++
      this.#next(lane)
      if (core.isAsideStale && core.aside.size > 0) units += this.#revisit(budget)
    }
    for (const lane of core.lanes) lane.endTurn()
    return units
  }

  /** Hands out a message that was just appended, if nothing is before it. Otherwise its turn comes. */
  live(lane: Lane, sequence: number, message: Message): void {
    if (!this.#mayRun) return
    const core = this.#core
    const isFirst = lane.ready.size === 0 && (core.aside.size === 0 || !core.isAsideStale)
    const isNext = lane.cursor === sequence && isFirst
    const isAlone = core.lanes.length === 1 || this.#nextLane() === lane
    if (!isNext || !isAlone || !this.#isCandidate(lane)) core.wake()
    else {
      this.#appendedAt = core.context.now()
      this.#fresh(lane, message.size, message)
    }
  }

  get #mayRun(): boolean {
    const { isPaused, isClosed, dispatch } = this.#core
    return dispatch.hasOpen && !isPaused && !isClosed
  }

  // ── which lane ──────────────────────────────────────────────────────────────────────────────────────

  #isCandidate(lane: Lane): boolean {
    if (lane.isLoading || this.#unknown.length > 0) return false
    const barrier = this.#barrier(lane)
    const { top } = lane.ready
    const isStuck =
      this.#core.dispatch.needsMessages && lane.hasFresh && top !== undefined && top.sequence > lane.cursor
    if (top !== undefined && top.sequence < barrier && !isStuck) return true
    return lane.hasFresh && lane.cursor < barrier && this.#mayEnter
  }

  /**
   * Where order is strict, what came back holds up what follows, and so does what another member still holds:
   * the sequence of the oldest such message.
   */
  #barrier(lane: Lane): number {
    const { dispatch, deferred, aside } = this.#core
    let barrier = Number.POSITIVE_INFINITY
    if (!dispatch.isStrict) return barrier
    const leases = heldByOthers(this.#core) > 0 ? this.#core.leases.values() : []
    if (deferred.size + aside.size + leases.length === 0) return barrier
    for (const list of [deferred.values(), aside, leases]) {
      for (const { lane: number, sequence, state, handle } of list) {
        const isOwn = state === State.Held && handle?.member === dispatch.active
        if (number === lane.number && sequence < barrier && !isOwn) barrier = sequence
      }
    }
    return barrier
  }

  /** Whether there may be one more entry in memory. */
  get #mayEnter(): boolean {
    const core = this.#core
    const { unsettledMax, lookaheadMessagesMax } = core.rules
    if (core.cap !== null && core.entries >= core.cap.entries) return false
    if (core.entries >= unsettledMax) {
      if (!this.#isFull) core.context.unsettledMax()
      this.#isFull = true
      return false
    }
    this.#isFull = false
    return core.inState[State.Waiting]! < lookaheadMessagesMax
  }

  /** The highest lane with something ready; now and then the lowest one, so that it does not starve. */
  #nextLane(): Lane | null {
    const { lanes, rules } = this.#core
    if (lanes.length === 1) return this.#isCandidate(lanes[0]!) ? lanes[0]! : null
    const ready = lanes.filter((lane) => this.#isCandidate(lane))
    if (ready.length === 0) return null
    const isLow = ready.length > 1 && rules.priorityBurst > 0 && this.#streak >= rules.priorityBurst
    return isLow ? ready[0]! : ready[ready.length - 1]!
  }

  /** Counts a hand-out from a lane for `priorityBurst`. */
  #served(lane: Lane): void {
    const { lanes } = this.#core
    if (lanes.length === 1) return
    const isLowerWaiting = lanes.some((one) => one.number < lane.number && this.#isCandidate(one))
    this.#streak = isLowerWaiting ? this.#streak + 1 : 0
  }

  // ── which message ───────────────────────────────────────────────────────────────────────────────────

  #next(lane: Lane): void {
    const { top } = lane.ready
    const isFresh = lane.hasFresh && lane.cursor < this.#barrier(lane) && this.#mayEnter
    const mayPass = !isFresh && !(this.#core.dispatch.needsMessages && lane.hasFresh)
    if (top !== undefined && (mayPass || top.sequence < lane.cursor)) this.#again(lane, top)
    else if (isFresh) this.#unread(lane)
  }

  /** Hands out an entry that came back, or that a Session without a connection has in flight. */
  #again(lane: Lane, entry: Entry): void {
    const core = this.#core
    const read = lane.read(entry.sequence)
    if (read === null) return
    entry.size = read.size
    this.#appendedAt = read.appendedAt
    if (entry.isSuperseded) core.drop(entry, 'superseded')
    else if (read.expiresAt <= core.context.now()) core.drop(entry, 'expired')
    else {
      lane.ready.remove(entry)
      const message = read.message()
      if (this.#admit(entry, message)) this.#offer(lane, entry, message)
    }
  }

  /** Shows an entry to the dispatch, unless it knows it. False if it has to wait for its key. */
  #admit(entry: Entry, message: Message): boolean {
    const core = this.#core
    if (!core.dispatch.needsMessages || entry.key !== null || core.dispatch.admit(entry, message)) return true
    core.setState(entry, State.Waiting)
    return false
  }

  #unread(lane: Lane): void {
    const core = this.#core
    const read = lane.read(lane.cursor)
    if (read === null) return
    if (read.expiresAt <= core.context.now()) core.dropUnread(lane, lane.cursor, read.size, 'expired')
    else {
      this.#appendedAt = read.appendedAt
      this.#fresh(lane, read.size, read.message())
    }
  }

  /** The message at the cursor. */
  #fresh(lane: Lane, size: number, message: Message): void {
    const entry = this.#core.enter(lane, size)
    if (this.#admit(entry, message)) this.#offer(lane, entry, message)
  }

  // ── to whom ─────────────────────────────────────────────────────────────────────────────────────────

  /** Offers an entry, ready or loose and in no list, until somebody takes it or nobody is left. */
  #offer(lane: Lane, entry: Entry, message: Message): void {
    const core = this.#core
    for (;;) {
      const member = core.dispatch.pick(entry)
      if (member === null) {
        this.#setAside(lane, entry)
        return
      }
      const result = this.#give(entry, member, message)
      if (result === 'taken') {
        this.#served(lane)
        return
      }
      if (result === 'no-room') {
        member.hasRoom = false
        core.refresh(member)
        continue
      }
      entry.block(member, Block.TooLarge)
      if (this.#isTooLarge(entry)) {
        this.#tooLarge(entry)
        return
      }
    }
  }

  #setAside(lane: Lane, entry: Entry): void {
    const { dispatch, aside } = this.#core
    if (entry.state === State.Ready) this.#core.idled(entry)
    if (this.#isRefusedByAll(entry)) this.#deferRefused(entry)
    else if (this.#isTooLarge(entry)) this.#tooLarge(entry)
    else if (!dispatch.hasOpen) lane.ready.push(entry)
    else if (entry.state === State.Ready && dispatch.keep(entry)) this.#core.setState(entry, State.Waiting)
    else aside.add(entry)
  }

  /** Whether it was too large for all connected members. */
  #isTooLarge(entry: Entry): boolean {
    const tried = entry.countBlocked(Block.TooLarge)
    if (tried === 0 || tried >= TRIED_MAX) return tried > 0
    return entry.countBlockedThere(Block.TooLarge) === this.#core.there
  }

  #tooLarge(entry: Entry): void {
    const core = this.#core
    const { handle } = entry
    if (core.queueMembers === 0) {
      core.dropped('packet-too-large', entry.lane, entry.sequence, 1)
      core.settle(entry)
    } else core.kill(entry, 'too-large', entry.code, '', '')
    if (handle !== null) handle.member.consumer.release(handle)
  }

  #give(entry: Entry, member: Member, message: Message): 'taken' | 'no-room' | 'too-large' {
    const core = this.#core
    const { options } = member
    const qos = options.face === 'share' ? (Math.min(message.qos, options.qos) as QoS) : options.qos
    const now = core.context.now()
    const attempt = entry.attempts + 1
    const token = options.isExplicit ? core.tokenOf(entry, attempt, member) : ''
    const handle = new Handle(entry, member, qos, attempt, now, token)
    const result = member.consumer.take(message, handle)
    if (result !== 'taken') return result
    const before = entry.handle
    if (before !== null) {
      core.detach(entry)
      before.member.consumer.release(before)
      core.counts.redelivered.lost++
    }
    if (entry.attempts === 0) core.counts.waited(now - this.#appendedAt)
    entry.attempts++
    member.servedAt = ++this.#serial
    core.counts.out++
    if (qos === 0 && token === '') {
      this.#settleBySending(entry, handle)
      if (member.isOpen) core.dispatch.loadChanged(member)
    } else {
      // The tag of the one before is known: no later hand-out may have the same one.
      if (before !== null && before.token !== '') core.recordBefore(entry)
      this.#holdBy(entry, handle)
      core.refresh(member)
    }
    return result
  }

  /** At most once: the settlement is in the same commit as the sending. */
  #settleBySending(entry: Entry, handle: Handle): void {
    const core = this.#core
    handle.hold = Hold.Over
    core.counts.acknowledged++
    core.settle(entry)
  }

  #holdBy(entry: Entry, handle: Handle): void {
    const core = this.#core
    const { member, qos } = handle
    entry.handle = handle
    core.handles++
    core.dispatch.given(entry, member)
    if (handle.token !== '') core.tagged[entry.lane]!.set(entry.sequence, entry)
    if (qos === 0) {
      core.hold(entry, handle, core.leaseMs(handle))
      return
    }
    core.setState(entry, State.Sent)
    member.sent.push(handle)
    core.doubt.record(handle)
    if (qos === 1 && member.options.face === 'queue') {
      core.timeouts.add(handle)
      if (core.timeouts.first === handle) core.due(handle.sentAt + core.rules.ackTimeoutMs)
    }
  }

  // ── what nobody could have ──────────────────────────────────────────────────────────────────────────

  /** Makes those ready again that somebody may have now. Returns the units of work that it did. */
  #revisit(budget: number): number {
    const core = this.#core
    if (!core.isAsideStale) return 0
    core.isAsideStale = false
    let looked = 0
    for (const entry of core.aside) {
      if (!core.dispatch.hasOpen || looked >= budget * ASIDE_PER_UNIT) {
        core.isAsideStale = true
        break
      }
      looked++
      if (this.#isRefusedByAll(entry)) this.#deferRefused(entry)
      else if (this.#isTooLarge(entry)) this.#tooLarge(entry)
      else if (core.dispatch.pick(entry) !== null) {
        core.aside.delete(entry)
        core.lanes[entry.lane]!.ready.push(entry)
      }
    }
    return Math.ceil(looked / ASIDE_PER_UNIT)
  }

  #isRefusedByAll(entry: Entry): boolean {
    const { state } = entry
    if (state !== State.Ready && state !== State.Loose) return false
    if (entry.blocks === null || entry.countBlocked(Block.Refused) === 0) return false
    return entry.countBlockedThere(Block.Refused) === this.#core.there
  }

  /**
   * Nobody else is left who might take it: those who refused it get it again after the delay. One that is
   * away and has it may never come back.
   */
  #deferRefused(entry: Entry): void {
    const core = this.#core
    const { handle } = entry
    core.aside.delete(entry)
    entry.unblockAll(Block.Refused)
    core.detach(entry)
    core.defer(entry, core.retryDelay(entry))
    if (handle === null) return
    handle.member.consumer.release(handle)
    core.counts.redelivered.lost++
  }

  /** Shows messages to the dispatch that it does not know. Returns the units of work that it did. */
  #introduceSome(budget: number): number {
    const { lanes } = this.#core
    let units = 0
    while (this.#unknown.length > 0 && units < budget) {
      const entry = this.#unknown.at(-1)!
      const lane = lanes[entry.lane]!
      const isKnown = entry.key !== null || entry.state === State.Moving || entry.state === State.Gone
      const read = isKnown ? null : lane.read(entry.sequence)
      if (!isKnown && read === null) break
      units++
      this.#unknown.pop()
      if (read !== null) this.#introduceOne(lane, entry, read.message())
    }
    return units
  }

  #introduceOne(lane: Lane, entry: Entry, message: Message): void {
    const core = this.#core
    if (core.dispatch.admit(entry, message)) return
    if (entry.heapIndex !== -1) lane.ready.remove(entry)
    else core.aside.delete(entry)
    core.setState(entry, State.Waiting)
  }
}

/** Where one member is active: how many messages others hold, which were active before. */
export function heldByOthers({ leases, dispatch }: Core): number {
  return leases.size - (dispatch.active?.held ?? 0)
}
