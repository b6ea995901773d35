/**
 * HOT. How hand-outs end: acknowledgements and refusals, time-outs, lost connections, leases, and answers by
 * tag. Nothing is handed out here: `Group` asks for that.
 */
import { Reason } from '../mqtt/reason.ts'
import type { Core } from './core.ts'
import { isUnknown } from './doubt.ts'
import type { Tag } from './explicit/tag.ts'
import { Block, type Entry, type Handle, Hold, type Member, State } from './state/consumer.ts'

/** How long a consumer that had too much is given nothing: it doubles each time, up to the second one. */
const PAUSE_MS = 1000
const PAUSE_MAX_MS = 60_000
/** The longest delay that a consumer can ask for. */
const RETRY_AFTER_SECONDS_MAX = 86_400
/** Messages that time out or come back in one call of `tick`. */
const SLICE = 512

export type Verb = 'done' | 'retry' | 'dead' | 'extend'

export class Returns {
  readonly #core: Core

  constructor(core: Core) {
    this.#core = core
  }

  // ── acknowledgements ────────────────────────────────────────────────────────────────────────────────

  /** `retryAfter` in seconds; null if the consumer did not say. */
  acknowledged(handle: Handle, code: number, retryAfter: number | null, detail: string): void {
    const core = this.#core
    const { member, entry } = handle
    if (handle.hold === Hold.Over || entry.state === State.Held) return
    if (handle.hold === Hold.Echo) this.#echoAnswered(handle, code)
    else {
      this.#passOver(handle)
      if (!member.options.isExplicit) member.window.acknowledged(core.context.now(), handle.sentAt)
      member.isSilent = false
      if (code >= 0x80) this.#refused(handle, code, retryAfter, detail)
      else if (member.options.isExplicit) core.hold(entry, handle, core.leaseMs(handle))
      else {
        core.counts.acknowledged++
        core.settle(entry)
      }
    }
    if (code < 0x80) this.#unpause(member)
    this.#settleDown(member)
  }

  /** Clients acknowledge in order [MQTT-4.6.0-2]: one that skips a message will never acknowledge it. */
  #passOver(handle: Handle): void {
    const core = this.#core
    const { sent, passedOver } = handle.member
    if (handle.list !== sent || handle.member.options.answersInAnyOrder === true) return
    for (let one = sent.first!; one !== handle; one = sent.first!) {
      sent.remove(one)
      passedOver.push(one)
      one.isPassedOver = true
      if (one.timeouts === null) continue
      one.timeouts.remove(one)
      core.passedOver.add(one)
      if (core.passedOver.first === one) core.due(one.sentAt + core.rules.passedOverMs)
    }
  }

  /** Takes a message back that its consumer has not begun to handle. */
  giveBack(handle: Handle): void {
    const { entry, member } = handle
    if (handle.hold !== Hold.Current || entry.state !== State.Sent) return
    this.#core.unlist(entry)
    this.#core.detach(entry)
    this.#core.ready(entry)
    this.#settleDown(member)
  }

  #refused(handle: Handle, code: number, retryAfter: number | null, detail: string): void {
    const core = this.#core
    const { entry, member } = handle
    const { clientId } = member.consumer
    core.counts.refusedBy(code)
    entry.code = code
    if (member.options.face === 'share') {
      // [MQTT-4.8.2-6]: discarded, and given to nobody else.
      core.dropped('refused-by-client', entry.lane, entry.sequence, 1)
      core.settle(entry)
      return
    }
    core.unlist(entry)
    core.detach(entry)
    // It answered, so it is not in doubt, whatever becomes of it now.
    if (isUnknown(handle)) core.recordReturned(entry, 0)
    switch (code) {
      case Reason.QuotaExceeded:
        this.#pause(member)
        this.#back(entry)
        return
      case Reason.PacketIdentifierInUse:
        this.#back(entry)
        return
      case Reason.ImplementationSpecificError:
      case Reason.TopicNameInvalid:
      case Reason.PayloadFormatInvalid:
        if (!core.rules.isDeadLetters) {
          entry.failures++
          core.kill(entry, 'refused', code, detail, clientId)
          return
        }
        break
      case Reason.NotAuthorized:
        if (!core.hasOther(member)) break
        core.counts.redelivered.refused++
        if (core.fail(entry, code, detail, clientId)) return
        entry.block(member, Block.Refused)
        this.#back(entry)
        return
    }
    if (core.fail(entry, code, detail, clientId)) return
    core.counts.redelivered.refused++
    const asked = retryAfter === null ? null : 1000 * Math.min(retryAfter, RETRY_AFTER_SECONDS_MAX)
    core.defer(entry, asked ?? core.retryDelay(entry))
  }

  /** Makes an entry ready at once, and records that. */
  #back(entry: Entry): void {
    this.#core.recordReturned(entry, 0)
    this.#core.ready(entry)
  }

  #pause(member: Member): void {
    member.pauseMs = Math.min(Math.max(2 * member.pauseMs, PAUSE_MS), PAUSE_MAX_MS)
    member.pausedUntil = this.#core.context.now() + member.pauseMs
    this.#core.pausedMembers.add(member)
    this.#core.due(member.pausedUntil)
  }

  #unpause(member: Member): void {
    member.pauseMs = 0
    if (member.pausedUntil === 0) return
    member.pausedUntil = 0
    this.#core.pausedMembers.delete(member)
  }

  /** A late answer: done is done, whoever has it now. A late refusal changes nothing. */
  #echoAnswered(handle: Handle, code: number): void {
    const core = this.#core
    const { member, entry } = handle
    this.#endEcho(handle)
    member.isSilent = false
    if (entry.state === State.Gone) return
    entry.unblock(member, Block.Echo)
    core.isAsideStale = true
    if (code >= 0x80 || member.options.isExplicit || entry.state === State.Moving) return
    core.counts.acknowledged++
    this.#complete(entry)
  }

  #endEcho(handle: Handle): void {
    const { member } = handle
    member.echoList.remove(handle)
    if (!handle.isPassedOver) member.echoesCounted--
    handle.hold = Hold.Over
    this.#core.handles--
  }

  /** Settles an entry wherever it is. Whoever has it keeps its packet identifier until it answers. */
  #complete(entry: Entry): void {
    const core = this.#core
    const { handle } = entry
    if (handle === null) {
      core.settle(entry)
      return
    }
    const { member } = handle
    const isOut = handle.list !== null
    core.settle(entry)
    if (isOut && member.isOnline) this.#echo(handle)
    else if (isOut) member.consumer.release(handle)
    this.#settleDown(member)
  }

  /** The message was taken from its member, the packet identifier not. */
  #echo(handle: Handle): void {
    const { member } = handle
    handle.hold = Hold.Echo
    member.echoList.push(handle)
    if (!handle.isPassedOver) member.echoesCounted++
    this.#core.handles++
    member.consumer.abandon(handle)
  }

  // ── time ────────────────────────────────────────────────────────────────────────────────────────────

  /** Ends time-outs, delays and leases that are over by now, a slice of them. Returns when to call next. */
  tick(now: number): number {
    const core = this.#core
    const { ackTimeoutMs, passedOverMs } = core.rules
    let left = SLICE
    for (const [list, ms] of [
      [core.passedOver, passedOverMs],
      [core.timeouts, ackTimeoutMs],
    ] as const) {
      for (let one = list.first; one !== null && one.sentAt + ms <= now && left > 0; one = list.first) {
        left--
        this.#timeOut(one)
      }
    }
    for (; left > 0 && (core.deferred.top?.at ?? Number.POSITIVE_INFINITY) <= now; left--) {
      core.ready(core.deferred.pop()!)
    }
    for (; left > 0 && (core.leases.top?.at ?? Number.POSITIVE_INFINITY) <= now; left--) {
      this.#leaseEnded(core.leases.top!)
    }
    for (const member of core.pausedMembers) {
      if (member.pausedUntil > now) continue
      member.pausedUntil = 0
      core.pausedMembers.delete(member)
      core.refresh(member)
    }
    return this.#nextTime()
  }

  #nextTime(): number {
    const core = this.#core
    const { ackTimeoutMs, passedOverMs } = core.rules
    let next = Math.min(
      (core.timeouts.first?.sentAt ?? Number.POSITIVE_INFINITY) + ackTimeoutMs,
      (core.passedOver.first?.sentAt ?? Number.POSITIVE_INFINITY) + passedOverMs,
      core.deferred.top?.at ?? Number.POSITIVE_INFINITY,
      core.leases.top?.at ?? Number.POSITIVE_INFINITY,
    )
    for (const { pausedUntil } of core.pausedMembers) next = Math.min(next, pausedUntil)
    return next
  }

  #timeOut(handle: Handle): void {
    const core = this.#core
    const { member, entry } = handle
    const { clientId } = member.consumer
    // Of what it has not acknowledged, the oldest alone is charged, and what it has skipped.
    const isCharged = handle.isPassedOver || (handle === member.sent.first && !member.isSilent)
    core.detach(entry)
    this.#echo(handle)
    core.counts.redelivered.timeout++
    if (!handle.isPassedOver) {
      entry.block(member, Block.Echo)
      if (!member.isSilent) core.context.silent(member)
      member.isSilent = true
    }
    if (!isCharged || !core.fail(entry, entry.code, '', clientId)) this.#back(entry)
    core.refresh(member)
    this.#forgetIfDone(member)
  }

  #leaseEnded(entry: Entry): void {
    const core = this.#core
    const { member } = entry.handle!
    core.counts.redelivered.lease++
    this.#letGo(entry)
    if (!core.fail(entry, entry.code, '', member.consumer.clientId)) core.defer(entry, core.retryDelay(entry))
    this.#settleDown(member)
  }

  /** Takes an entry from its member. The caller says what becomes of it. */
  #letGo(entry: Entry): void {
    const core = this.#core
    const handle = entry.handle!
    const isOut = handle.list !== null
    core.unlist(entry)
    core.detach(entry)
    if (!isOut) return
    if (handle.member.isOnline) this.#echo(handle)
    else handle.member.consumer.release(handle)
  }

  // ── connections and Sessions ────────────────────────────────────────────────────────────────────────

  /** The connection of a member is lost, its Session stays. */
  away(member: Member): void {
    const core = this.#core
    if (!member.isOnline) return
    member.isOnline = false
    member.connection++
    this.#forgetEchoes(member)
    const { oldest } = member
    // Messages of a silent one were charged when it fell silent.
    if (oldest !== null && !member.isSilent) this.#charge(oldest, member)
    member.isSilent = false
    for (const handle of member.flights) {
      handle.timeouts?.remove(handle)
      core.setState(handle.entry, handle.qos === 2 ? State.Pinned : State.Loose)
      if (handle.qos !== 2) core.lanes[handle.entry.lane]!.ready.push(handle.entry)
    }
    core.dispatch.present(member)
    core.isAsideStale = true
    this.#settleDown(member)
  }

  /** Charges the oldest message of a member whose connection is lost. */
  #charge(handle: Handle, member: Member): void {
    const core = this.#core
    const { entry } = handle
    member.isCharged = true
    if (handle.qos !== 2 && entry.failures + 1 >= core.rules.deliveryLimit) {
      core.fail(entry, entry.code, '', member.consumer.clientId)
      member.consumer.release(handle)
      return
    }
    entry.failures++
    core.recordBefore(entry)
    core.doubt.record(handle)
  }

  /** The client is back. It is sent again the messages that no other consumer has claimed. */
  back(member: Member): void {
    const core = this.#core
    if (member.isOnline) return
    const now = core.context.now()
    member.isOnline = true
    member.isCharged = false
    member.hasRoom = true
    for (const handle of member.flights) {
      core.unlist(handle.entry)
      core.setState(handle.entry, State.Sent)
      handle.sentAt = now
      if (handle.qos !== 1 || member.options.face !== 'queue') continue
      const list = handle.isPassedOver ? core.passedOver : core.timeouts
      list.add(handle)
      core.due(now + (handle.isPassedOver ? core.rules.passedOverMs : core.rules.ackTimeoutMs))
    }
    core.dispatch.present(member)
    core.isAsideStale = true
    this.#settleDown(member)
  }

  /** The Session ended or, without `isCharged`, lost its rights: then no message is charged. */
  end(member: Member, isCharged: boolean): void {
    const core = this.#core
    if (member.isGone) return
    this.#forgetEchoes(member)
    const charged = isCharged && !member.isCharged && !member.isSilent ? member.oldest : null
    member.isOnline = false
    member.connection++
    for (const handle of member.flights) {
      const { entry } = handle
      if (handle.qos === 2) core.doubt.end(handle)
      else {
        core.unlist(entry)
        core.detach(entry)
        core.counts.redelivered.lost++
        const isOldest = handle === charged
        if (isOldest && core.fail(entry, entry.code, '', member.consumer.clientId)) continue
        // A tag that was given out must not be given out again.
        if (isOldest || handle.token !== '') this.#back(entry)
        else core.ready(entry)
      }
    }
    this.#forget(member)
  }

  /** The consumer unsubscribed: hand-outs that have begun are completed. */
  leave(member: Member): void {
    member.isClosing = true
    this.#core.dispatch.present(member)
    this.#core.isAsideStale = true
    this.#settleDown(member)
  }

  /** Forgets messages that were taken from it: the end of the connection frees their packet identifiers. */
  #forgetEchoes(member: Member): void {
    const { echoList } = member
    for (let one = echoList.first; one !== null; one = echoList.first) this.#endEcho(one)
  }

  /** After a step of a member. */
  #settleDown(member: Member): void {
    this.#core.refresh(member)
    this.#forgetIfDone(member)
  }

  #forgetIfDone(member: Member): void {
    if (member.isClosing && !member.isGone && member.inFlight === 0) this.#forget(member)
  }

  #forget(member: Member): void {
    const core = this.#core
    member.isGone = true
    if (core.members.delete(member) && member.options.face === 'queue') core.queueMembers--
    if (member.held > 0) core.former.add(member)
    core.pausedMembers.delete(member)
    this.#forgetEchoes(member)
    core.refresh(member)
    member.isOnline = false
    core.dispatch.present(member)
    core.isAsideStale = true
  }

  // ── answers by tag ──────────────────────────────────────────────────────────────────────────────────

  /** Finds what a tag is about: an entry that is not dead; null if there is none. */
  find(tag: Tag): Entry | null {
    const { tagged, lanes } = this.#core
    const entry = tagged[tag.lane]?.get(tag.sequence) ?? lanes[tag.lane]?.find(tag.sequence) ?? null
    return entry?.state === State.Moving ? null : entry
  }

  /** Returns false if nothing was done, since the message is gone or with somebody else. */
  answer(tag: Tag, verb: Verb, seconds: number | null, detail: string): boolean {
    const core = this.#core
    const entry = this.find(tag)
    if (entry === null) return verb === 'done' && this.#completeUnread(tag)
    const { handle } = entry
    const isLatest = handle !== null && handle.token === tag.token && handle.attempt === tag.attempt
    if (verb === 'done') {
      core.counts.acknowledged++
      if (isLatest) this.#learn(handle)
      this.#complete(entry)
      return true
    }
    if (!isLatest) return false
    const { member } = handle
    if (verb === 'extend') {
      if (entry.state !== State.Held) return false
      core.hold(entry, handle, seconds === null ? core.leaseMs(handle) : 1000 * seconds)
      return true
    }
    this.#learn(handle)
    this.#letGo(entry)
    const { clientId } = member.consumer
    const isForGood = verb === 'dead' && !core.rules.isDeadLetters
    if (isForGood) {
      entry.failures++
      core.kill(entry, 'refused', 0, detail, clientId)
    } else if (!core.fail(entry, entry.code, detail, clientId)) {
      core.counts.redelivered.refused++
      core.defer(entry, seconds === null ? core.retryDelay(entry) : 1000 * seconds)
    }
    this.#settleDown(member)
    return true
  }

  #learn(handle: Handle): void {
    const { member } = handle
    member.window.acknowledged(this.#core.context.now(), handle.sentAt)
    member.isSilent = false
    this.#unpause(member)
  }

  /**
   * Completes a message that a consumer had before a restart and that was not read since, if it can be read
   * now.
   */
  #completeUnread({ lane: number, sequence }: Tag): boolean {
    const core = this.#core
    const lane = core.lanes[number]
    if (lane === undefined || !lane.isUnread(sequence)) return false
    const read = lane.read(sequence)
    const size = read?.size ?? -1
    lane.endTurn()
    if (size < 0) return false
    core.passUnread(lane, sequence, size)
    core.counts.acknowledged++
    return true
  }
}
