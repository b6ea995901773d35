/** The bounded time in which a connection that is over may still take bytes, close its side, or have its last input read. */

/** For the peer, after we have ended the connection, in ms. */
export const LINGER_MS = 2000

/** For what the peer sent before it was gone, in ms: the connection may be held, by a slow disk or a policy. */
export const READ_ON_MS = 60_000

/** Runs a cut-off once, some time after `start`, unless it is cancelled. Keeps no process alive. */
export class Lingering {
  readonly #cutOff: () => void
  #timer: NodeJS.Timeout | undefined
  #judgement: NodeJS.Immediate | undefined

  constructor(cutOff: () => void) {
    this.#cutOff = cutOff
  }

  /** Starts with so many ms, or starts again. */
  start(ms: number): void {
    this.cancel()
    // After a pause of the process timers run first: what the kernel has is read before.
    this.#timer = setTimeout(() => {
      this.#judgement = setImmediate(this.#cutOff).unref()
    }, ms).unref()
  }

  cancel(): void {
    clearTimeout(this.#timer)
    clearImmediate(this.#judgement)
  }
}
