/** Reports once, when log-ins have to wait long, how many wait and how long the last one will. */
import type { PasswordWork } from './password-work.ts'

/** Shorter waits are not reported. */
const LONG_SECONDS = 10

/** The report waits until the fleet is there: at its first clients, the number would say nothing. */
const TELL_AFTER_MS = 3000

export type CrowdListener = (waiting: number, seconds: number, hashMs: number) => void

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
