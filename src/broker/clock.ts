/**
 * Broker time is monotonic while the Server runs. Across a restart it goes on by the time that is known to
 * have passed.
 *
 * Until the machine is restarted, its own clock tells that time exactly, even if the wall clock was set.
 * After that, only the wall clock can tell, and it may be wrong for a while: 1970 until the network is up, or
 * days ahead. Time that only the wall clock saw counts, but is *in doubt* for a grace: a message that has
 * expired by it alone is neither deleted nor sent. If the wall clock is set back within the grace, that part
 * of the time did not pass.
 */
import type { Message } from '../mqtt/message.ts'
import type { BootTime, Parked, Recovered, TimeDoubt } from '../store/store.ts'
import type { Publisher } from './messages/publisher.ts'
import type { RetainedDelivery } from './messages/retained-delivery.ts'
import type { Wills } from './messages/wills.ts'
import type { ShareBacklog } from './relief/share-backlog.ts'
import type { Sessions } from './sessions/sessions.ts'
import type { ServerState } from './state/server-state.ts'

/** A wall clock below this was never set: Node 20, which this program needs, is from 2023. */
const CLOCK_SET_MS = Date.UTC(2023, 0, 1)
/** A smaller difference between two clocks is drift, not a step. */
const STEP_MS = 1000
const HOUR_MS = 3_600_000
/** The start reports at least this much time in doubt. */
const NOTICED_MS = HOUR_MS

/** The time since the last commit. */
export interface Elapsed {
  readonly ms: number
  /** Whether it was measured by the machine's own clock, which nobody can set. */
  readonly isSeen: boolean
}

/** Returns the time since a commit. It is 0 if the wall clock went back, or was never set. */
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

/** Parts of the Server that depend on time in doubt. */
interface ClockParts {
  readonly sessions: Sessions
  readonly publisher: Publisher
  readonly retainedDelivery: RetainedDelivery
  readonly wills: Wills
  readonly backlog: ShareBacklog
}

/** Sets and corrects broker time. */
export class BrokerClock {
  readonly #state: ServerState
  readonly #parts: ClockParts
  /** Wall time minus monotonic time, at the newest commit and at the start. */
  #recordedDistance = 0
  #startDistance = 0
  /** The part of the wall clock's steps back since the start that is already corrected. */
  #correctedMs = 0

  constructor(state: ServerState, parts: ClockParts) {
    this.#state = state
    this.#parts = parts
  }

  get #distance(): number {
    const { host } = this.#state
    return host.wallNow() - host.now()
  }

  /** Sets broker time, before anything is recovered. */
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
    state.timeInDoubt.span = doubtAt(now, before, isSeen ? 0 : ms, graceMs)
    if (state.timeInDoubt.span !== null || before !== null) state.store.putDoubt(state.timeInDoubt.span)
    if (state.timeInDoubt.span !== null) state.deadlines.at(state.timeInDoubt.span.until, () => this.#end())
  }

  /** A notice about the start for the operator; undefined if little time is in doubt. */
  get notice(): string | undefined {
    const { timeInDoubt, limits } = this.#state
    const doubt = timeInDoubt.span
    if (doubt === null || doubt.ms < NOTICED_MS) return undefined
    const hours = Math.round(doubt.ms / HOUR_MS)
    return (
      `By the wall clock alone, ${hours} hours have passed since the last commit: what expires by that ` +
      `is held for limits.clock_grace_seconds (${limits.clockGraceSeconds}), in case the clock is set back.`
    )
  }

  /** Notes that a commit records the wall time of this moment. */
  recorded(): void {
    this.#recordedDistance = this.#distance
  }

  /** Checks whether the wall clock was set. To be called about once a second. */
  watch(): void {
    const state = this.#state
    const distance = this.#distance
    const stepMs = distance - this.#recordedDistance
    if (Math.abs(stepMs) >= STEP_MS) {
      // After a crash before the next commit, the step would look like time that passed.
      state.store.recordTime()
      this.#recordedDistance = distance
      if (state.events.has('clock')) state.events.emit('clock', { what: 'stepped', ms: Math.round(stepMs) })
    }
    const backMs = this.#startDistance - distance - this.#correctedMs
    if (state.timeInDoubt.span !== null && backMs >= STEP_MS)
      this.#correct(Math.round(backMs), state.timeInDoubt.span)
  }

  /** Makes everything from before the start expire later: time in doubt did not pass. */
  #correct(backMs: number, { ms: doubtfulMs, since, until }: TimeDoubt): void {
    const state = this.#state
    const { sessions, publisher, wills } = this.#parts
    this.#correctedMs += backMs
    const ms = Math.min(backMs, doubtfulMs)
    // The moment that tells old from new times moves with the old ones.
    state.timeInDoubt.span = ms < doubtfulMs ? { ms: doubtfulMs - ms, since: since + ms, until } : null
    state.store.postpone(ms, since, this.#held())
    sessions.postpone(ms, since)
    publisher.retained.postpone(ms)
    wills.postpone(ms)
    state.store.putDoubt(state.timeInDoubt.span)
    if (state.events.has('clock')) state.events.emit('clock', { what: 'corrected', ms })
    this.#released()
  }

  *#held(): Generator<Message | Parked> {
    const { sessions, sessionsById } = this.#state
    for (const session of sessions.values()) yield* session.held()
    // Sessions that have ended and whose messages are being passed on.
    for (const session of sessionsById.values()) {
      if (sessions.get(session.clientId) !== session) yield* session.held()
    }
  }

  /** Ends the grace: the time in doubt passed. */
  #end(): void {
    const state = this.#state
    if (state.timeInDoubt.span === null) return
    state.turn.begin()
    state.timeInDoubt.span = null
    state.store.putDoubt(null)
    this.#parts.wills.clockTrusted()
    this.#released()
  }

  #released(): void {
    this.#parts.retainedDelivery.clockChanged()
    // Queues whose next message was in doubt had to wait.
    for (const session of this.#state.connected.keys()) {
      session.pump()
      this.#parts.backlog.resume(session)
    }
  }
}

/** Returns the time in doubt at a start, including time that was in doubt when the broker ended. */
function doubtAt(now: number, before: TimeDoubt | null, unseenMs: number, graceMs: number): TimeDoubt | null {
  if (graceMs === 0) return null
  if (unseenMs > 0) {
    const stillMs = before !== null && before.until > now - unseenMs ? before.ms : 0
    const doubtfulMs = unseenMs + stillMs
    // The sum is rounded: without one more ms, a time recorded at the very end would be later than the end.
    return { ms: doubtfulMs, since: Math.floor(now - doubtfulMs) + 1, until: now + graceMs }
  }
  return before !== null && before.until > now ? before : null
}
