/**
 * Bounds the time in which an ended connection may still take bytes, close its side, or have its last input
 * read.
 */

/** The peer has so long to read and close after we have ended the connection. */
export const LINGER_MS = 2000

/**
 * We read so long what the peer sent before it was gone; a slow disk or a policy may delay the connection.
 */
export const READ_ON_MS = 60_000

/** Calls `cutOff` once, some time after `start`, unless it is cancelled. Does not keep the process alive. */
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
    // After a pause of the process, timers run before input. The immediate lets the input be read first.
    this.#timer = setTimeout(() => {
      this.#judgement = setImmediate(this.#cutOff).unref()
    }, ms).unref()
  }

  cancel(): void {
    clearTimeout(this.#timer)
    clearImmediate(this.#judgement)
  }
}
