/** Tells once, when passwords wait to be checked for long, how many there are and how long the last one has to wait. */
import type { PasswordWork } from './password-work.ts'

/** Who waits for less is no news. */
const LONG_SECONDS = 10

/** A fleet comes within seconds: told at its first clients, the number would say nothing. */
const TELL_AFTER_MS = 3000

export type CrowdListener = (waiting: number, seconds: number, hashMs: number) => void

export class LoginCrowd {
  readonly #work: PasswordWork
  readonly #tell: CrowdListener
  #timer: NodeJS.Timeout | null = null
  /** Of this crowd, until nobody waits. */
  #isTold = false

  constructor(work: PasswordWork, tell: CrowdListener) {
    this.#work = work
    this.#tell = tell
  }

  /** One more log-in waits. */
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
