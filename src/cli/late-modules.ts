/**
 * Modules that a start need not wait for, loaded just after it. Not with the first packet that needs one: by then there may be
 * no file descriptor left to read it with, or another version of it on the disk.
 */

/** After the start, between two of them, and before the next attempt. */
const LATE_MS = 100

/** Calls each of `loads` by and by, one that throws until it does not. Does not keep the process alive. */
export class LateModules {
  readonly #loads: (() => unknown)[]
  #timer: NodeJS.Timeout | null = null

  constructor(loads: readonly (() => unknown)[]) {
    this.#loads = [...loads]
    this.#wait()
  }

  stop(): void {
    this.#loads.length = 0
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
  }

  #wait(): void {
    this.#timer = this.#loads.length === 0 ? null : setTimeout(() => this.#next(), LATE_MS).unref()
  }

  #next(): void {
    const load = this.#loads.shift()!
    try {
      load()
    } catch {
      // Who needs it before is told why it cannot be loaded.
      this.#loads.push(load)
    }
    this.#wait()
  }
}
