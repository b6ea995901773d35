/**
 * Broker time: monotonic while the Server runs; across a restart it goes on by what is known to have passed.
 *
 * Within one start of the machine the machine's own clock knows that exactly, whatever was done to the wall clock. After
 * another start the wall clock is the only witness, and it may be wrong for a while: 1970 until the network is there, or
 * days ahead. Time that only it saw counts, but is *in doubt* for a grace: what would expire by it alone is neither deleted nor
 * sent, and if the wall clock is set back within the grace, as much of that time did not pass.
 */
import type { Message } from '../mqtt/message.ts'
import type { BootTime, Parked, Recovered, TimeDoubt } from '../store/store.ts'
import type { Publisher } from './messages/publisher.ts'
import type { RetainedDelivery } from './messages/retained.ts'
import type { Wills } from './messages/wills.ts'
import type { ShareBacklog } from './relief/share-backlog.ts'
import type { Sessions } from './sessions/sessions.ts'
import type { ServerState } from './state/server-state.ts'

/** A wall clock that shows less was never set: Node 20, which this program needs, is younger than 2023. */
const CLOCK_SET_MS = Date.UTC(2023, 0, 1)
/** Less than this between two clocks is drift, not a step. */
const STEP_MS = 1000
const HOUR_MS = 3_600_000
/** Doubt that is worth a word at a start. */
const NOTICED_MS = HOUR_MS

/** What passed since the last commit. */
export interface Elapsed {
  readonly ms: number
  /** Whether a clock saw it that nobody sets. */
  readonly isSeen: boolean
}

/** Tells how much time passed since a commit; a wall clock that went back, or was never set, says that none did. */
export function elapsedSince(
  { wallTime, bootTime }: Pick<Recovered, 'wallTime' | 'bootTime'>,
  wallNow: number,
  bootNow: BootTime | null,
): Elapsed {
  const isSameBoot = bootTime !== null && bootTime.bootId === bootNow?.bootId
  if (isSameBoot && bootNow.sinceBoot >= bootTime.sinceBoot) {
    return { ms: bootNow.sinceBoot - bootTime.sinceBoot, isSeen: true }
  }
  if (wallTime < CLOCK_SET_MS || wallNow <= wallTime) return { ms: 0, isSeen: true }
  return { ms: wallNow - wallTime, isSeen: false }
}

/** What moves with time that did not pass, or waits for it. */
interface ClockParts {
  readonly sessions: Sessions
  readonly publisher: Publisher
  readonly retained: RetainedDelivery
  readonly wills: Wills
  readonly backlog: ShareBacklog
}

export class BrokerClock {
  readonly #state: ServerState
  readonly #parts: ClockParts
  /** Wall time minus monotonic time: of the newest commit, and of the start. */
  #recordedDistance = 0
  #startDistance = 0
  /** How far the wall clock was set back since the start, as far as that is done. */
  #correctedMs = 0

  constructor(state: ServerState, parts: ClockParts) {
    this.#state = state
    this.#parts = parts
  }

  get #distance(): number {
    const { host } = this.#state
    return host.wallNow() - host.now()
  }

  /** Sets broker time, before anything is taken up. */
  start(recovered: Recovered): void {
    const state = this.#state
    const { host } = state
    const { ms, isSeen } = elapsedSince(recovered, host.wallNow(), host.bootTime())
    const now = recovered.brokerTime + ms
    state.timeOffset = now - host.now()
    this.#startDistance = this.#distance
    this.#recordedDistance = this.#startDistance
    const before = recovered.doubt
    const graceMs = state.limits.clockGraceSeconds * 1000
    state.doubt = doubtAt(now, before, isSeen ? 0 : ms, graceMs)
    if (state.doubt !== null || before !== null) state.store.putDoubt(state.doubt)
    if (state.doubt !== null) state.deadlines.at(state.doubt.until, () => this.#end())
  }

  /** What the operator should know about the start; undefined where nothing worth a word is in doubt. */
  get notice(): string | undefined {
    const { doubt, limits } = this.#state
    if (doubt === null || doubt.ms < NOTICED_MS) return undefined
    const hours = Math.round(doubt.ms / HOUR_MS)
    return (
      `By the wall clock alone, ${hours} hours have passed since the last commit: what expires by that is held for ` +
      `limits.clock_grace_seconds (${limits.clockGraceSeconds}), in case the clock is set back.`
    )
  }

  /** A commit records the wall time of this moment. */
  recorded(): void {
    this.#recordedDistance = this.#distance
  }

  /** Looks whether somebody set the wall clock: to be called now and then, about once a second. */
  watch(): void {
    const state = this.#state
    const distance = this.#distance
    const stepMs = distance - this.#recordedDistance
    if (Math.abs(stepMs) >= STEP_MS) {
      // A crash before the next commit would take the step for time that passed.
      state.store.recordTime()
      this.#recordedDistance = distance
      if (state.events.has('clock')) state.events.emit('clock', { what: 'stepped', ms: Math.round(stepMs) })
    }
    const backMs = this.#startDistance - distance - this.#correctedMs
    if (state.doubt !== null && backMs >= STEP_MS) this.#correct(Math.round(backMs), state.doubt)
  }

  /** Time that was in doubt did not pass: what was there before the start expires later. */
  #correct(backMs: number, { ms: doubtfulMs, since, until }: TimeDoubt): void {
    const state = this.#state
    const { sessions, publisher, wills } = this.#parts
    this.#correctedMs += backMs
    const ms = Math.min(backMs, doubtfulMs)
    // What is old moves, and so does the moment by which old and new times are told apart.
    state.doubt = ms < doubtfulMs ? { ms: doubtfulMs - ms, since: since + ms, until } : null
    state.store.postpone(ms, since, this.#held())
    sessions.postpone(ms, since)
    publisher.postponeRetained(ms)
    wills.postpone(ms)
    state.store.putDoubt(state.doubt)
    if (state.events.has('clock')) state.events.emit('clock', { what: 'corrected', ms })
    this.#released()
  }

  *#held(): Generator<Message | Parked> {
    const { sessions, sessionsById } = this.#state
    for (const session of sessions.values()) yield* session.held()
    // Those that ended, and whose messages are being passed on.
    for (const session of sessionsById.values()) {
      if (sessions.get(session.clientId) !== session) yield* session.held()
    }
  }

  /** The grace is over: the time passed. */
  #end(): void {
    const state = this.#state
    if (state.doubt === null) return
    state.turn.begin()
    state.doubt = null
    state.store.putDoubt(null)
    this.#parts.wills.clockTrusted()
    this.#released()
  }

  #released(): void {
    this.#parts.retained.clockChanged()
    // Queues whose next message was in doubt have waited.
    for (const session of this.#state.connected.keys()) {
      session.pump()
      this.#parts.backlog.resume(session)
    }
  }
}

/** What is in doubt at a start, with what was in doubt when the broker ended. */
function doubtAt(now: number, before: TimeDoubt | null, unseenMs: number, graceMs: number): TimeDoubt | null {
  if (graceMs === 0) return null
  if (unseenMs > 0) {
    const stillMs = before !== null && before.until > now - unseenMs ? before.ms : 0
    const doubtfulMs = unseenMs + stillMs
    // The sum was rounded: without a ms more, what was noted at the very end would be younger than the end.
    return { ms: doubtfulMs, since: Math.floor(now - doubtfulMs) + 1, until: now + graceMs }
  }
  return before !== null && before.until > now ? before : null
}
