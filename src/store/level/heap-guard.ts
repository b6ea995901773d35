/**
 * Watches the heap while a store is read, so that a start that cannot succeed ends with an explanation. V8
 * would end the process without one, after seconds of collecting garbage.
 */
import { createRequire } from 'node:module'
import { getHeapStatistics } from 'node:v8'
import { StoreError } from '../store.ts'

const load = createRequire(import.meta.url)

/**
 * Bytes that the Server needs for each Session, Subscription and retained message it takes over, besides
 * those in use when everything was read. Measured with names of few levels that share most of them. These are
 * lower bounds: a store that fits must not be refused.
 */
const SESSION_BYTES = 600
const SUBSCRIPTION_BYTES = 70
const RETAINED_BYTES = 90

/**
 * Bytes that a Map needs at once for each entry when it grows. The Maps of the largest Session are the
 * largest.
 */
const GROWTH_BYTES = 60

/** Sessions and Subscriptions that are handed over between two checks. */
const HANDED_MAX = 1024

/** Share of the heap's limit: above it, garbage is collected to see how much is really used. */
const NEAR = 0.75
/** Share of the heap's limit: when this much was added since, garbage is collected again. */
const STEP = 1 / 16
/** Share of the heap's limit above which a store is refused: the rest is for work. */
const FULL = 0.92

const MIB = 1024 * 1024

/** Bytes that must be left in any case. */
const ROOM_BYTES = 8 * MIB

/** Size of V8's young generation on 64 bits. */
const YOUNG_BYTES = 48 * MIB

/** The heap of this process. */
export interface Heap {
  /** Bytes that may be used. */
  readonly limit: number
  /** Bytes in use, including garbage. */
  used(): number
  collectGarbage(): void
}

export class HeapGuard {
  sessions = 0
  subscriptions = 0
  retainedMessages = 0
  readonly #directory: string
  readonly #heap: Heap
  /** Subscriptions of the Session with the most of them. */
  #largest = 0
  #handedSessions = 0
  #handedSubscriptions = 0
  /** Sessions and Subscriptions handed over since the last check. */
  #handed = 0
  /** Bytes in use after the last collection. */
  #usedThen = 0

  constructor(directory: string, heap: Heap = v8Heap()) {
    this.#directory = directory
    this.#heap = heap
  }

  /** Call this now and then. Throws StoreError `memory` if the stored data does not fit. */
  check(): void {
    const { limit } = this.#heap
    const used = this.#heap.used()
    const wanted = this.#wantedBytes
    if (used + wanted < limit * NEAR || used - this.#usedThen < limit * STEP) return
    this.#heap.collectGarbage()
    this.#usedThen = this.#heap.used()
    if (this.#usedThen + wanted > Math.min(limit * FULL, limit - ROOM_BYTES))
      throw this.#refusal(this.#usedThen + wanted)
  }

  /** Counts a Session with this number of Subscriptions as handed over. Throws as `check`. */
  handOver(subscriptions: number): void {
    if (this.#handed > HANDED_MAX) {
      this.#handed = 0
      this.check()
    }
    this.#handed += 1 + subscriptions
    this.#handedSessions++
    this.#handedSubscriptions += subscriptions
  }

  /** Counts a Subscription that was read. `ofSession` is how many its Session has by now. */
  subscribed(ofSession: number): void {
    this.subscriptions++
    if (ofSession > this.#largest) this.#largest = ofSession
  }

  /** Bytes that the Server will still need for everything that was read and not yet handed over. */
  get #wantedBytes(): number {
    return (
      this.#largest * GROWTH_BYTES +
      (this.sessions - this.#handedSessions) * SESSION_BYTES +
      (this.subscriptions - this.#handedSubscriptions) * SUBSCRIPTION_BYTES +
      this.retainedMessages * RETAINED_BYTES
    )
  }

  #refusal(bytes: number): StoreError {
    const { limit } = this.#heap
    const wanted = Math.max(2 * Math.ceil(bytes / MIB), Math.ceil((2 * limit) / MIB))
    return new StoreError(
      'memory',
      `the data in ${this.#directory} does not fit into memory: ${this.sessions} Sessions, ` +
        `${this.subscriptions} Subscriptions and ${this.retainedMessages} retained messages, ` +
        `as far as they were read, take ${Math.ceil(bytes / MIB)} MiB, ` +
        `and JavaScript may use ${Math.floor(limit / MIB)} MiB in this process`,
      'When it was written, the broker had more memory or a larger limits.memory_bytes_max. ' +
        `Start it with NODE_OPTIONS=--max-old-space-size=${wanted} (in MiB, if the machine has as much) ` +
        'or where it ran before, and delete what is not needed ' +
        '(`godwit session delete`, `godwit retained delete`). ' +
        'Or take the data out: `godwit export`, delete lines of the file, ' +
        '`godwit import` into a new data directory. Nothing was changed.',
    )
  }
}

/**
 * Returns the heap that lasting objects may take: V8's limit without the young generation, which is emptied
 * again.
 */
export function heapBytesMax(): number {
  const { heap_size_limit: limit } = getHeapStatistics()
  return Math.max(limit - YOUNG_BYTES, limit / 2)
}

function v8Heap(): Heap {
  return {
    limit: heapBytesMax(),
    used: () => getHeapStatistics().used_heap_size,
    collectGarbage,
  }
}

/** Collects garbage as a debugger does. The inspector is loaded only when it is needed. */
function collectGarbage(): void {
  const { Session } = load('node:inspector') as typeof import('node:inspector')
  const session = new Session()
  session.connect()
  session.post('HeapProfiler.collectGarbage')
  session.disconnect()
}
