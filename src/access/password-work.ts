/** How much password hashing goes on at once: it runs on libuv's few threads, which the store needs as well. */

/** Passwords that are hashed or checked at once: with libuv's four threads, two are left for the disk. */
const AT_ONCE_MAX = 2

/** Passwords that wait for their turn, in all. At 50 ms each, the last one waits 1.6 seconds. */
const WAITING_MAX = 64

/** More passwords wait to be checked than may. */
export class PasswordsBusyError extends Error {
  override readonly name = 'PasswordsBusyError'
}

export class PasswordWork {
  readonly #atOnceMax: number
  readonly #waitingMax: number
  #running = 0
  readonly #waiting: (() => void)[] = []
  /** Since the start: what was done, and what was refused because too much waited. */
  readonly figures = { done: 0, refused: 0 }

  constructor({ atOnceMax = atOnce(), waitingMax = WAITING_MAX } = {}) {
    this.#atOnceMax = atOnceMax
    this.#waitingMax = waitingMax
  }

  get running(): number {
    return this.#running
  }

  get waiting(): number {
    return this.#waiting.length
  }

  /** Runs `work` when it is its turn. Rejects with PasswordsBusyError when too much waits already. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#running >= this.#atOnceMax) {
      if (this.#waiting.length >= this.#waitingMax) {
        this.figures.refused++
        throw new PasswordsBusyError(`${this.#waiting.length} passwords wait to be checked`)
      }
      // Whoever ends hands its place on, so `#running` stays as it is.
      await new Promise<void>((resolve) => this.#waiting.push(resolve))
    } else this.#running++
    try {
      return await work()
    } finally {
      this.figures.done++
      const next = this.#waiting.shift()
      if (next === undefined) this.#running--
      else next()
    }
  }
}

/** Where libuv was given fewer threads than four, one of them is left for the disk. */
function atOnce(): number {
  const threads = Number(process.env.UV_THREADPOOL_SIZE ?? 4)
  return Number.isInteger(threads) && threads > 0
    ? Math.max(1, Math.min(AT_ONCE_MAX, threads - 1))
    : AT_ONCE_MAX
}
