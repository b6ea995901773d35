/**
 * How messages leave without a consumer: a full queue drops its oldest, purging, expiry, and a newer message
 * of a key that takes the place of an older one. All of it goes in slices. What must be looked at is read
 * first.
 */
import type { Message } from '../mqtt/message.ts'
import type { Core } from './core.ts'
import { keyOf } from './key-of.ts'
import { type Entry, isIdle, State } from './state/consumer.ts'
import type { Lane } from './state/lane.ts'
import type { Run } from './state/runs.ts'

/** A queue that drops its oldest may be over its limits by this much while the oldest is read. */
const SLACK_MESSAGES = 256
const SLACK_BYTES = 1024 * 1024
/** Messages that one message may push out in its own turn; the others follow. */
const PUSHED_MAX = 512
/** How often expired messages are looked for. */
export const SWEEP_MS = 10_000
/** Units of work for looking at a message without dropping it. */
const LOOK_UNITS = 1 / 16

/** Why a message cannot be put in. */
export interface Refusal {
  /** 'capped': it holds as much as its owner may have while memory or disk is short. */
  readonly limit: 'messages' | 'bytes' | 'keys' | 'size' | 'capped'
  readonly max: number
}

export class Removal {
  readonly #core: Core
  #key: (message: Message) => string
  /** Runs that are looked through for expired messages. */
  #sweeping: { readonly lane: Lane; readonly run: Run }[] = []
  #sweepFrom = 0
  #sweptAt = Number.NEGATIVE_INFINITY
  /** Messages to read after a restart, to know their keys, where messages replace older ones. */
  readonly #unindexed: { readonly lane: Lane; next: number; readonly end: number }[] = []

  constructor(core: Core) {
    this.#core = core
    this.#key = keyOf(core.rules.key)
  }

  changed(): void {
    this.#key = keyOf(this.#core.rules.key)
  }

  /** After a restart. */
  index(): void {
    if (this.#core.lastValues === null) return
    for (const lane of this.#core.lanes) {
      if (lane.messages > 0) this.#unindexed.push({ lane, next: lane.floor, end: lane.end })
    }
  }

  get isIndexed(): boolean {
    return this.#unindexed.length === 0
  }

  // ── a full queue ────────────────────────────────────────────────────────────────────────────────────

  /** Returns what stands against putting in a message, if nothing is dropped; null for nothing. */
  refusal(lane: Lane, message: Message): Refusal | null {
    const { rules, lastValues } = this.#core
    const { size } = message
    if (size > rules.bytesMax) return { limit: 'size', max: rules.bytesMax }
    if (!this.#fits(1, rules.messagesMax, 0)) return { limit: 'messages', max: rules.messagesMax }
    if (!this.#fits(0, 0, size)) return { limit: 'bytes', max: rules.bytesMax }
    if (this.#isCappedFor(size)) return { limit: 'capped', max: 0 }
    const values = lastValues?.[lane.number]
    if (
      values !== undefined &&
      values.size >= rules.keysMax &&
      values.get(this.#key(message)) === undefined
    ) {
      return { limit: 'keys', max: rules.keysMax }
    }
    return null
  }

  /** Whether so many messages, or so many bytes, fit in. What moves to the dead letters does not count. */
  #fits(messages: number, messagesMax: number, bytes: number): boolean {
    const core = this.#core
    if (messages > 0) return core.messages - core.inState[State.Moving]! + messages <= messagesMax
    return core.bytes - core.movingBytes + bytes <= core.rules.bytesMax
  }

  /**
   * Whether memory or disk is short, and the queue may not take so many bytes more. Dead letters may always
   * come: they leave another queue of the same owner.
   */
  #isCappedFor(bytes: number): boolean {
    const { cap, rules, messages, bytes: now } = this.#core
    if (cap === null || rules.isDeadLetters) return false
    return messages >= cap.messages || now + bytes > cap.bytes
  }

  /** Drops the oldest until the message fits. False if it does not fit in. */
  makeRoom(lane: Lane, message: Message): boolean {
    for (let pushed = 0; ; pushed++) {
      const refusal = this.refusal(lane, message)
      if (refusal === null) return true
      if (refusal.limit === 'size') return false
      const dropped = pushed >= PUSHED_MAX ? 'unread' : this.#dropOldest()
      if (dropped === 'none') return false
      if (dropped === 'unread') return this.#isInSlack(message)
    }
  }

  #isInSlack({ size }: Message): boolean {
    const { rules } = this.#core
    const isFew = this.#fits(1, rules.messagesMax + SLACK_MESSAGES, 0)
    const core = this.#core
    return isFew && core.bytes - core.movingBytes + size <= rules.bytesMax + SLACK_BYTES
  }

  /** Whether the queue exceeds its limits and drops messages for it. */
  get #isOver(): boolean {
    const { rules } = this.#core
    if (rules.overflow !== 'drop-oldest') return false
    return !this.#fits(1, rules.messagesMax + 1, 0) || !this.#fits(0, 0, 0)
  }

  /** Drops the oldest message that nobody holds, of the lowest lane that has one. */
  #dropOldest(): 'dropped' | 'unread' | 'none' {
    const core = this.#core
    for (const lane of core.lanes) {
      const idle = core.idle > 0 ? lane.idle.first : null
      if (idle !== null && (idle.sequence < lane.cursor || !lane.hasFresh)) {
        core.drop(idle, 'overflow')
        return 'dropped'
      }
      if (!lane.hasFresh) continue
      const read = lane.read(lane.cursor)
      if (read === null) return 'unread'
      core.dropUnread(lane, read.sequence, read.size, 'overflow')
      lane.endTurn()
      return 'dropped'
    }
    return 'none'
  }

  // ── a newer message of a key ────────────────────────────────────────────────────────────────────────

  /** Notes an appended message. An older one with its key is removed, unless a consumer holds it. */
  appended(lane: Lane, sequence: number, message: Message): void {
    const values = this.#core.lastValues?.[lane.number]
    if (values === undefined) return
    const older = values.set(this.#key(message), sequence, message.size, null)
    if (older !== undefined) this.#supersede(lane, older.sequence, older.size, older.entry)
  }

  #supersede(lane: Lane, sequence: number, size: number, entry: Entry | null): void {
    const core = this.#core
    if (entry === null) {
      core.passUnread(lane, sequence, size)
      core.dropped('superseded', lane.number, sequence, 1)
    } else if (isIdle(entry)) core.drop(entry, 'superseded')
    else entry.isSuperseded = true
  }

  /** Reads what was there before the restart, a slice of it. */
  #indexSome(budget: number): number {
    const core = this.#core
    let units = 0
    for (let one = this.#unindexed[0]; one !== undefined && units < budget; one = this.#unindexed[0]) {
      const { lane, next, end } = one
      if (next >= end || lane.messages === 0) {
        this.#unindexed.shift()
        continue
      }
      const entry = lane.find(next)
      one.next++
      if (entry === null && !lane.isUnread(next)) continue
      const read = lane.read(next)
      if (read === null) {
        one.next--
        break
      }
      units++
      const values = core.lastValues![lane.number]!
      const key = this.#key(read.message())
      const known = values.get(key)
      if (known === undefined || known.sequence < next) {
        const older = values.set(key, next, read.size, entry)
        if (older !== undefined) this.#supersede(lane, older.sequence, older.size, older.entry)
      } else this.#supersede(lane, next, read.size, entry)
    }
    return units
  }

  // ── purging and expiry ──────────────────────────────────────────────────────────────────────────────

  /** Deletes the present messages that no consumer holds. Later ones stay. */
  purge(): void {
    for (const lane of this.#core.lanes) lane.purgeTo = lane.end
  }

  #purgeSome(lane: Lane, budget: number): number {
    const core = this.#core
    let units = 0
    let one = core.idle > 0 ? lane.first : null
    while (one !== null && one.sequence < lane.purgeTo && units < budget) {
      const { next } = one
      if (isIdle(one)) {
        core.drop(one, 'purged')
        units++
      }
      one = next
    }
    while (units < budget && lane.cursor < lane.purgeTo) {
      const read = lane.read(lane.cursor)
      if (read === null) return units
      core.dropUnread(lane, read.sequence, read.size, 'purged')
      units++
    }
    if (units < budget) lane.purgeTo = 0
    return units
  }

  /** Begins to look for expired messages, if it is time. Returns when to look again. */
  sweep(now: number): number {
    if (now < this.#sweptAt + SWEEP_MS) return this.#sweptAt + SWEEP_MS
    this.#sweptAt = now
    if (this.#sweeping.length === 0) {
      for (const lane of this.#core.lanes) {
        for (const run of this.#core.context.expiring(lane.number, now)) this.#sweeping.push({ lane, run })
      }
    }
    return now + SWEEP_MS
  }

  #sweepSome(budget: number): number {
    const core = this.#core
    const now = core.context.now()
    let units = 0
    for (let one = this.#sweeping[0]; one !== undefined && units < budget; one = this.#sweeping[0]) {
      const { lane, run } = one
      const sequence = Math.max(this.#sweepFrom, run.first, lane.floor)
      if (sequence >= run.next || sequence >= lane.end) {
        this.#sweeping.shift()
        this.#sweepFrom = 0
        continue
      }
      units += LOOK_UNITS
      const entry = lane.find(sequence)
      const isUnread = entry === null && lane.isUnread(sequence)
      if (isUnread || (entry !== null && isIdle(entry))) {
        const read = lane.read(sequence)
        if (read === null) break
        if (read.expiresAt <= now) {
          units++
          if (entry === null) core.dropUnread(lane, sequence, read.size, 'expired')
          else core.drop(entry, 'expired')
        }
      }
      this.#sweepFrom = sequence + 1
    }
    return Math.ceil(units)
  }

  /** Settles a message that nobody holds; false if there is no such one, or it has to be read first. */
  extract(number: number, sequence: number): boolean {
    const core = this.#core
    const lane = core.lanes[number]
    const entry = lane?.find(sequence) ?? null
    if (lane === undefined || (entry !== null && !isIdle(entry))) return false
    if (entry !== null) core.settle(entry)
    else {
      const read = lane.isUnread(sequence) ? lane.read(sequence) : null
      if (read === null) return false
      core.passUnread(lane, sequence, read.size)
      lane.endTurn()
    }
    return true
  }

  // ── slices ──────────────────────────────────────────────────────────────────────────────────────────

  get hasWork(): boolean {
    const { lanes } = this.#core
    const isSweeping = this.#sweeping.length > 0 && !this.#sweeping[0]!.lane.isLoading
    const isIndexing = !this.isIndexed && !this.#unindexed[0]!.lane.isLoading
    if (isSweeping || isIndexing) return true
    for (const lane of lanes) if (lane.purgeTo > 0 && !lane.isLoading) return true
    return this.#isOver && this.#canDrop
  }

  /** Whether something is there that a full queue may drop now. */
  get #canDrop(): boolean {
    const core = this.#core
    return core.idle > 0 || core.lanes.some((lane) => lane.hasFresh && !lane.isLoading)
  }

  /** Drops what has to go, about `budget` messages. Returns the units of work that it did. */
  run(budget: number): number {
    let units = 0
    if (this.#unindexed.length > 0) units += this.#indexSome(budget)
    for (const lane of this.#core.lanes) {
      if (lane.purgeTo > 0 && units < budget) units += this.#purgeSome(lane, budget - units)
    }
    if (this.#sweeping.length > 0 && units < budget) units += this.#sweepSome(budget - units)
    for (; units < budget && this.#isOver; units++) if (this.#dropOldest() !== 'dropped') break
    for (const lane of this.#core.lanes) lane.endTurn()
    return units
  }
}
