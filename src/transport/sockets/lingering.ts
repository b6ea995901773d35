/**
 * Bounds the time in which an ended connection may still take bytes, close its side, or have its last input
 * read.
 */

/** The time that the peer has to read and close after we have ended the connection. */
export const LINGER_MS = 2000

/** The time to read what a peer sent before it was gone. A slow disk or a policy may delay the reading. */
export const READ_ON_MS = 60_000

/** Calls `cutOff` once the time of `start` is over, unless cancelled. Does not keep the process alive. */
export class LingerTimer {
  readonly #cutOff: () => void
  #timer: NodeJS.Timeout | undefined
  #judgement: NodeJS.Immediate | undefined

  constructor(cutOff: () => void) {
    this.#cutOff = cutOff
  }

  /** Starts or restarts the timer. */
  start(ms: number): void {
    this.cancel()
    // After a pause of the process, timers run before input is read. The immediate runs after that.
    this.#timer = setTimeout(() => {
      this.#judgement = setImmediate(this.#cutOff).unref()
    }, ms).unref()
  }

  cancel(): void {
    clearTimeout(this.#timer)
    clearImmediate(this.#judgement)
  }
}
