/** Reports a crowd of log-ins once: how many wait, and for how long, if that is long. */
import type { PasswordWork } from './password-work.ts'

/** Shorter waits are not reported. */
const LONG_SECONDS = 10

/** The report waits for more clients of the fleet: after its first ones the number would say little. */
const TELL_AFTER_MS = 3000

/** Gets the number of waiting log-ins, the seconds that the last one will wait, and the time of a hash. */
export type CrowdListener = (waiting: number, seconds: number, hashMs: number) => void

/** Watches for crowds. */
export class LoginCrowd {
  readonly #work: PasswordWork
  readonly #tell: CrowdListener
  #timer: NodeJS.Timeout | null = null
  /** Whether this crowd was reported; reset when nobody waits. */
  #isTold = false

  constructor(work: PasswordWork, tell: CrowdListener) {
    this.#work = work
    this.#tell = tell
  }

  /** Notes that one more log-in waits. */
  grew(): void {
    if (this.#work.waiting <= 1) this.#isTold = false
    if (this.#isTold || this.#work.waitSeconds < LONG_SECONDS) return
    this.#isTold = true
    this.#timer ??= setTimeout(() => {
      this.#timer = null
      const { waiting, waitSeconds, hashMs } = this.#work
      if (waiting > 0) this.#tell(waiting, waitSeconds, hashMs)
    }, TELL_AFTER_MS).unref()
  }

  close(): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
  }
}
