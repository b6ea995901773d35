/** Looks at memory once a second, and early after much input or growth. Starts and ends the reliefs. */
import { COSTS, topicsBytes } from './accounts/costs.ts'
import type { DiskRelief } from './relief/disk-relief.ts'
import type { KeptRelief } from './relief/kept-relief.ts'
import type { Relief } from './relief/relief.ts'
import type { ServerState } from './state/server-state.ts'
import { SLICE_UNITS } from './state/work.ts'

/** Time between two looks. */
export const MEMORY_SAMPLE_MS = 1000
/** Growth that leads to an early look, as a share of `memoryBytesMax` and at least in bytes. */
const LOOK_SHARE = 1 / 32
const LOOK_BYTES_MIN = 1024 * 1024
/** The share of `memoryBytesMax` that remembered topic names may take. */
const TOPICS_SHARE = 1 / 16
/** Topics per look whose outdated Routes are dropped: it takes 0.1 ms, and half a minute for a full table. */
const TOPICS_SWEPT = 4096
const TOPICS_AT_ONCE = 16

/** Relief for all memory, for memory that is kept for long, and for the disk. */
export interface Reliefs {
  readonly relief: Relief
  readonly keptRelief: KeptRelief
  readonly diskRelief: DiskRelief
}

/** Decides when to look at memory. */
export class MemoryGuard {
  readonly #state: ServerState
  readonly #reliefs: Reliefs
  #lookedAt = Number.NEGATIVE_INFINITY
  /** Whether a look is due in the next turn. */
  #isLooking = false

  constructor(state: ServerState, reliefs: Reliefs) {
    this.#state = state
    this.#reliefs = reliefs
  }

  /** Broker time in ms of the next look. */
  get dueAt(): number {
    return this.#lookedAt + MEMORY_SAMPLE_MS
  }

  /** Counts the bytes in memory for all clients. */
  bytes(): number {
    const state = this.#state
    const { memoryBytesMax } = state.limits
    // Topic names belong to no client that could pay for them. Those in use are added again.
    if (topicsBytes(state.topics) > memoryBytesMax * TOPICS_SHARE) state.topics.clear()
    state.usage.look()
    const most = Math.max(LOOK_BYTES_MIN, memoryBytesMax * LOOK_SHARE)
    const { lookAt } = state.memoryWatch
    lookAt.bytesReceived = state.counters.bytesReceived + most
    lookAt.entriesMade = state.store.held.made + most / COSTS.queueEntry
    lookAt.keptBytes = state.usage.total.keptBytes + most
    return state.usage.bytes + (state.queues?.look() ?? 0)
  }

  /** Looks in the next turn, once for any number of calls. */
  lookSoon(): void {
    if (this.#isLooking) return
    this.#isLooking = true
    this.#state.turn.continueLater(() => {
      this.#isLooking = false
      this.look()
    })
  }

  /** Looks at memory and disk now. */
  look(): void {
    const state = this.#state
    this.#lookedAt = state.now()
    state.rates.sweep()
    // Retained messages have their own limit. Counted here, they would keep out a client that comes to clear
    // them.
    this.#reliefs.relief.look(this.bytes() - state.usage.total.retainedBytes)
    this.#reliefs.keptRelief.look()
    this.#reliefs.diskRelief.look()
  }

  /**
   * Drops outdated Routes of some topics. Otherwise a Route keeps ended Sessions in memory until the next
   * PUBLISH to its topic.
   */
  sweepTopics(): void {
    const { topics, router, work } = this.#state
    const until = work.units + SLICE_UNITS
    for (let places = 0; places < TOPICS_SWEPT && work.units < until; places += TOPICS_AT_ONCE) {
      topics.visit(TOPICS_AT_ONCE, (topic) => router.release(topic))
    }
  }
}
