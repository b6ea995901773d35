/** The bounded time in which a connection that we end may still take bytes and close its side. */

const LINGER_MS = 2000

/** Runs a cut-off once, some time after `start`, unless it is cancelled. Keeps no process alive. */
export class Lingering {
  readonly #cutOff: () => void
  #timer: NodeJS.Timeout | undefined

  constructor(cutOff: () => void) {
    this.#cutOff = cutOff
  }

  get started(): boolean {
    return this.#timer !== undefined
  }

  start(): void {
    this.#timer ??= setTimeout(this.#cutOff, LINGER_MS).unref()
  }

  cancel(): void {
    clearTimeout(this.#timer)
  }
}
