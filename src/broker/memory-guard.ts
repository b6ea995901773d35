/** Looks at memory, once a second and after much came in, and has those who hold most of it pay. */
import { COSTS, topicsBytes } from './accounts/costs.ts'
import type { DiskRelief } from './relief/disk-relief.ts'
import type { KeptRelief } from './relief/kept-relief.ts'
import type { Relief } from './relief/relief.ts'
import type { ServerState } from './state/server-state.ts'
import { SLICE_UNITS } from './state/work.ts'

/** Milliseconds between two looks. */
export const MEMORY_SAMPLE_MS = 1000
/** The share of `memoryBytesMax` that may come in before memory is looked at once more, and the least of it in bytes. */
const LOOK_SHARE = 1 / 32
const LOOK_BYTES_MIN = 1024 * 1024
/** The share of `memoryBytesMax` that topic names may take which are remembered. */
const TOPICS_SHARE = 1 / 16
/** Topics that are looked at with it, for Routes that hold no more: 0.1 ms, and half a minute for a full table. */
const TOPICS_SWEPT = 4096
const TOPICS_AT_ONCE = 16

/** The steps by which those who hold most pay: for memory in all, for what lasts in it, and for the disk. */
export interface Reliefs {
  readonly relief: Relief
  readonly keptRelief: KeptRelief
  readonly diskRelief: DiskRelief
}

export class MemoryGuard {
  readonly #state: ServerState
  readonly #reliefs: Reliefs
  #lookedAt = Number.NEGATIVE_INFINITY
  /** A look is due in the next turn. */
  #isLooking = false

  constructor(state: ServerState, reliefs: Reliefs) {
    this.#state = state
    this.#reliefs = reliefs
  }

  /** Broker time in ms of the next look. */
  get dueAt(): number {
    return this.#lookedAt + MEMORY_SAMPLE_MS
  }

  /** Bytes that all clients have us keep in memory, as far as they are ours to count. */
  bytes(): number {
    const state = this.#state
    const { memoryBytesMax } = state.limits
    // They are nobody's, so that nobody could pay for them; those that are used come again.
    if (topicsBytes(state.topics) > memoryBytesMax * TOPICS_SHARE) state.topics.clear()
    state.usage.look()
    const most = Math.max(LOOK_BYTES_MIN, memoryBytesMax * LOOK_SHARE)
    state.lookAt.bytesReceived = state.counters.bytesReceived + most
    state.lookAt.entriesMade = state.store.held.made + most / COSTS.queueEntry
    return state.usage.bytes
  }

  /** Looks in the next turn, once however often it is called. */
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
    // Retained messages have a limit of their own: counted here they would lock out who comes to clear them.
    this.#reliefs.relief.look(this.bytes() - state.usage.total.retainedBytes)
    this.#reliefs.keptRelief.look()
    this.#reliefs.diskRelief.look()
  }

  /**
   * Gives back Routes that hold no more, of some of the topics. Else whom a topic was routed to stays in memory until
   * somebody publishes to it again.
   */
  sweepTopics(): void {
    const { topics, router, work } = this.#state
    const until = work.units + SLICE_UNITS
    for (let places = 0; places < TOPICS_SWEPT && work.units < until; places += TOPICS_AT_ONCE) {
      topics.visit(TOPICS_AT_ONCE, (topic) => router.release(topic))
    }
  }
}
