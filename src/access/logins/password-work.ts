/** How much password hashing goes on at once: it runs on libuv's few threads, which the store needs as well. */
import { availableParallelism } from 'node:os'
import { type Entry, FairQueue, type FullBy, type Place, type QueueLimits } from './fair-queue.ts'

/** Threads of libuv's that are left for the disk; it has four unless `UV_THREADPOOL_SIZE` says otherwise. */
const THREADS_FOR_DISK = 2
const THREADS = 4

/** How long a hash takes until one was measured, and of how many the last ones the mean is taken. */
const HASH_MS = 50
const MEASURED = 16

/** Without other limits: what the queue may hold. */
const QUEUE: QueueLimits = {
  loginQueueMax: 16_384,
  loginQueueBytesMax: 64 * 1024 ** 2,
  loginQueuePerAddressMax: 8192,
  loginQueuePerUserMax: 8192,
}

/** Too many log-ins wait for their passwords to be checked; `limit` is the one that says so. */
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

/** What is told of a log-in that waits. */
export interface Waiting {
  /** It is in the queue; `leave` takes it off. Not called where it is its turn at once, or it is refused at once. */
  queued(leave: () => void): void
  /** Its turn has come. */
  served(): void
}

interface Turn {
  readonly begin: () => void
  readonly refuse: (error: Error) => void
}

export interface PasswordWorkOptions {
  readonly atOnceMax?: number
  /** Read with each log-in that has to wait. */
  readonly limits?: QueueLimits
}

export class PasswordWork {
  readonly #atOnceMax: number
  #running = 0
  /** Of the operator: passwords that are set. Before all log-ins, however many wait. */
  readonly #own: (() => void)[] = []
  readonly #logins: FairQueue<Turn>
  /** Since the start: what was done, what was refused because too much waited, and log-ins that left while they waited. */
  readonly figures = { done: 0, refused: 0, left: 0 }
  /** How long a slow hash has taken of late, on one thread. */
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

  /** How long the last of those that wait has to, at the pace of late. */
  get waitSeconds(): number {
    return (this.waiting * this.hashMs) / this.#atOnceMax / 1000
  }

  /** What the log-ins that wait have us keep. */
  get waitingBytes(): number {
    return this.#logins.bytes
  }

  /** Runs `work` for the operator, as soon as a thread is free. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    // Whoever ends hands its place on, so `#running` stays as it is.
    if (this.#running >= this.#atOnceMax) await new Promise<void>((resolve) => this.#own.push(resolve))
    else this.#running++
    return this.#work(work)
  }

  /**
   * Runs `work` for a log-in when it is its turn. Rejects with PasswordsBusyError when too much waits and this log-in has to give
   * way, also later; and with LeftError when the client left meanwhile.
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
      // What took less than a millisecond was no slow hash.
      if (ms > 1) this.hashMs += (ms - this.hashMs) / MEASURED
      const next = this.#own.shift() ?? this.#logins.shift()?.begin
      if (next === undefined) this.#running--
      else next()
    }
  }
}

/**
 * How many passwords are hashed at once: two, and where libuv was given more threads, as many as there are processors beside the one of
 * the main thread. Where it was given fewer than four, one of them is left for the disk.
 */
export function atOnce(
  threads = Number(process.env.UV_THREADPOOL_SIZE ?? THREADS),
  processors = availableParallelism(),
): number {
  const known = Number.isInteger(threads) && threads > 0 ? threads : THREADS
  if (known < THREADS) return Math.max(1, Math.min(2, known - 1))
  return Math.min(known - THREADS_FOR_DISK, Math.max(2, processors - 1))
}
