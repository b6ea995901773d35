/**
 * Bounds how many passwords are hashed at once, since libuv has few threads and the store needs them as well.
 */
import { availableParallelism } from 'node:os'
import { type Entry, FairQueue, type FullBy, type Place, type QueueLimits } from './fair-queue.ts'

/** Threads of libuv that are left to the disk; there are four unless `UV_THREADPOOL_SIZE` says otherwise. */
const THREADS_FOR_DISK = 2
const THREADS = 4

/** The assumed time of a hash before any was measured. */
const HASH_MS = 50
/** The moving average is over about so many hashes. */
const MEASURED = 16

/** The limits of the queue if none are given. */
const QUEUE: QueueLimits = {
  loginQueueMax: 16_384,
  loginQueueBytesMax: 64 * 1024 ** 2,
  loginQueuePerAddressMax: 8192,
  loginQueuePerUserMax: 8192,
}

/** Too many log-ins wait for a password check; `limit` is the limit that was reached. */
export class PasswordsBusyError extends Error {
  override readonly name = 'PasswordsBusyError'
  readonly limit: FullBy

  constructor(limit: FullBy) {
    super(`too many log-ins wait (${limit})`)
    this.limit = limit
  }
}

/** The client left before its password was checked. */
export class LeftError extends Error {
  override readonly name = 'LeftError'
}

/** Gets calls as a log-in goes through the queue. */
export interface Waiting {
  /**
   * It waits in the queue; `leave` removes it. Not called if its turn comes, or it is refused, at once.
   */
  queued(leave: () => void): void
  /** Its turn has come. */
  served(): void
}

interface Turn {
  readonly begin: () => void
  readonly refuse: (error: Error) => void
}

/** The options of this work. */
export interface PasswordWorkOptions {
  readonly atOnceMax?: number
  /** Read with each log-in that has to wait, since they may change. */
  readonly limits?: QueueLimits
}

/** Runs slow hashes: the operator's first, then those of log-ins in turn. */
export class PasswordWork {
  readonly #atOnceMax: number
  #running = 0
  /** Work of the operator, who sets passwords. It goes before all log-ins, however many wait. */
  readonly #own: (() => void)[] = []
  readonly #logins: FairQueue<Turn>
  /**
   * Counts since the start: `done` hashes, log-ins `refused` by a limit of the queue, and log-ins that `left`
   * while they waited.
   */
  readonly figures = { done: 0, refused: 0, left: 0 }
  /** Time in ms that one slow hash took lately on one thread. */
  hashMs = HASH_MS

  constructor({ atOnceMax = atOnce(), limits = QUEUE }: PasswordWorkOptions = {}) {
    this.#atOnceMax = atOnceMax
    this.#logins = new FairQueue(limits)
  }

  get running(): number {
    return this.#running
  }

  get waiting(): number {
    return this.#own.length + this.#logins.length
  }

  /** The time that the last one in the queue will wait at the present pace. */
  get waitSeconds(): number {
    return (this.waiting * this.hashMs) / this.#atOnceMax / 1000
  }

  /** The memory that waiting log-ins take. */
  get waitingBytes(): number {
    return this.#logins.bytes
  }

  /** Runs `work` for the operator, as soon as a thread is free. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    // Work that ends hands its place on, so `#running` stays as it is.
    if (this.#running >= this.#atOnceMax) await new Promise<void>((resolve) => this.#own.push(resolve))
    else this.#running++
    return this.#work(work)
  }

  /**
   * Runs `work` for a log-in when it is its turn. Rejects with PasswordsBusyError when the queue is full and
   * this log-in has to give way, at once or later, and with LeftError when the client left meanwhile.
   */
  async login<T>(place: Place, work: () => Promise<T>, waiting?: Waiting): Promise<T> {
    if (this.#running >= this.#atOnceMax) {
      await new Promise<void>((resolve, reject) => this.#enter(place, waiting, resolve, reject))
      waiting?.served()
    } else this.#running++
    return this.#work(work)
  }

  #enter(place: Place, waiting: Waiting | undefined, begin: () => void, refuse: Turn['refuse']): void {
    const entry: Entry<Turn> = this.#logins.push(place, { begin, refuse }, (turn, by) => {
      this.figures.refused++
      turn.refuse(new PasswordsBusyError(by))
    })
    if (!entry.waits) return
    waiting?.queued(() => {
      if (!this.#logins.leave(entry)) return
      this.figures.left++
      refuse(new LeftError('the client left'))
    })
  }

  async #work<T>(work: () => Promise<T>): Promise<T> {
    const from = performance.now()
    try {
      return await work()
    } finally {
      this.figures.done++
      const ms = performance.now() - from
      // Work of less than a millisecond was no slow hash.
      if (ms > 1) this.hashMs += (ms - this.hashMs) / MEASURED
      const next = this.#own.shift() ?? this.#logins.shift()?.begin
      if (next === undefined) this.#running--
      else next()
    }
  }
}

/**
 * Returns how many passwords are hashed at once: two by default. If libuv has more than four threads, it may
 * be more, up to the number of processors besides the one for the main thread. If libuv has fewer than four,
 * one is left to the disk.
 */
export function atOnce(
  threads = Number(process.env.UV_THREADPOOL_SIZE ?? THREADS),
  processors = availableParallelism(),
): number {
  const known = Number.isInteger(threads) && threads > 0 ? threads : THREADS
  if (known < THREADS) return Math.max(1, Math.min(2, known - 1))
  return Math.min(known - THREADS_FOR_DISK, Math.max(2, processors - 1))
}
