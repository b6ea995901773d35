/**
 * Looks at the heap while a store is read, so that a start which cannot succeed ends in words. V8 would end the process
 * without, and not before it had spent its last seconds on collecting garbage.
 */
import { createRequire } from 'node:module'
import { getHeapStatistics } from 'node:v8'
import { StoreError } from '../store.ts'

const load = createRequire(import.meta.url)

/**
 * What taking up needs beside what is there when everything was read, in bytes, measured with names of few levels that have many
 * in common: at least. What fits must not be refused.
 */
const SESSION_BYTES = 600
const SUBSCRIPTION_BYTES = 70
const RETAINED_BYTES = 90

/** What a Map needs at once, for each entry, when it grows: those of the largest Session are the largest. */
const GROWTH_BYTES = 60

/** Sessions and Subscriptions that are handed over between two looks. */
const HANDED_MAX = 1024

/** Of the heap's limit: garbage is collected above, to see what is really used. */
const NEAR = 0.75
/** ... and again when so much has come since. */
const STEP = 1 / 16
/** More than this is refused: the rest is for work. */
const FULL = 0.92

const MIB = 1024 * 1024

/** What is left in any case. */
const ROOM_BYTES = 8 * MIB

/** Of the young generation, on 64 bits. */
const YOUNG_BYTES = 48 * MIB

/** The heap of this process. */
export interface Heap {
  /** Bytes that may be used. */
  readonly limit: number
  /** Bytes that are used, garbage included. */
  used(): number
  collectGarbage(): void
}

export class HeapGuard {
  sessions = 0
  subscriptions = 0
  retainedMessages = 0
  readonly #directory: string
  readonly #heap: Heap
  /** Subscriptions of the Session that has most. */
  #largest = 0
  #handedSessions = 0
  #handedSubscriptions = 0
  /** Of both, since the last look. */
  #handed = 0
  /** As much was used after the last collection. */
  #usedThen = 0

  constructor(directory: string, heap: Heap = v8Heap()) {
    this.#directory = directory
    this.#heap = heap
  }

  /** To be called now and then. Throws StoreError `memory` when what is stored does not fit. */
  check(): void {
    const { limit } = this.#heap
    const used = this.#heap.used()
    const wanted = this.#wanted
    if (used + wanted < limit * NEAR || used - this.#usedThen < limit * STEP) return
    this.#heap.collectGarbage()
    this.#usedThen = this.#heap.used()
    if (this.#usedThen + wanted > Math.min(limit * FULL, limit - ROOM_BYTES))
      throw this.#refusal(this.#usedThen + wanted)
  }

  /** A Session with so many Subscriptions is handed over next. Throws as `check`. */
  handOver(subscriptions: number): void {
    if (this.#handed > HANDED_MAX) {
      this.#handed = 0
      this.check()
    }
    this.#handed += 1 + subscriptions
    this.#handedSessions++
    this.#handedSubscriptions += subscriptions
  }

  /** A Subscription was read of a Session that has so many by now. */
  subscribed(ofSession: number): void {
    this.subscriptions++
    if (ofSession > this.#largest) this.#largest = ofSession
  }

  get #wanted(): number {
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
      `what ${this.#directory} holds does not fit into memory: ${this.sessions} Sessions, ${this.subscriptions} ` +
        `Subscriptions and ${this.retainedMessages} retained messages, as far as it was read, take ` +
        `${Math.ceil(bytes / MIB)} MiB, and JavaScript may use ${Math.floor(limit / MIB)} MiB in this process`,
      'A broker reads what it could take in: this one had more memory, or a larger limits.memory_bytes_max. Start it with ' +
        `NODE_OPTIONS=--max-old-space-size=${wanted} (in MiB, as far as the machine has them) or where it was before, and delete ` +
        'there what is not needed (`godwit session delete`, `godwit retained delete`). Or take it out: `godwit export`, delete ' +
        'lines of the file, `godwit import` into a new data directory. Nothing was changed.',
    )
  }
}

/** Bytes that what lasts may take: V8 tells them with those of its young generation, which starts empty and is emptied. */
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

/** What a debugger asks for; loaded only when it is needed. */
function collectGarbage(): void {
  const { Session } = load('node:inspector') as typeof import('node:inspector')
  const session = new Session()
  session.connect()
  session.post('HeapProfiler.collectGarbage')
  session.disconnect()
}
