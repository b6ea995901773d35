/** Bounds the output of the log: a stalled reader or a full disk costs lines, never memory or the broker. */

/** A stream, or something simpler, that takes lines. */
export interface LineWriter {
  /** Calls `done` with an error if the write failed. */
  write(text: string, done?: (error?: Error | null) => void): unknown
  /** Bytes, or characters, that wait for the reader; 0 when absent. */
  readonly writableLength?: number
  once?(event: 'drain', callback: () => void): unknown
}

/** Returns a line that tells how many lines were lost. */
export type LostLine = (count: number) => string

/**
 * Passes lines on while at most `waitingMax` wait. Counts lost lines and reports them as soon as possible.
 */
export class LogOutput {
  readonly #writer: LineWriter
  readonly #waitingMax: number
  readonly #lostLine: LostLine
  #lost = 0
  #isWatching = false

  constructor(writer: LineWriter, waitingMax: number, lostLine: LostLine) {
    this.#writer = writer
    this.#waitingMax = waitingMax
    this.#lostLine = lostLine
  }

  write(line: string): void {
    if (!this.#hasRoom) {
      this.#lost++
      this.#watch()
      return
    }
    if (this.#lost > 0) this.#tellLost()
    this.#send(line, 1)
  }

  get #hasRoom(): boolean {
    return (this.#writer.writableLength ?? 0) < this.#waitingMax
  }

  /** Reports lost lines when the reader is back; the next line of the log may be far away. */
  #watch(): void {
    if (this.#isWatching || this.#writer.once === undefined) return
    this.#isWatching = true
    this.#writer.once('drain', () => {
      this.#isWatching = false
      if (this.#lost > 0) this.#tellLost()
    })
  }

  #tellLost(): void {
    const count = this.#lost
    this.#lost = 0
    this.#send(this.#lostLine(count), count)
  }

  /** Writes a text; `lines` is the number of lines that are lost if this fails. */
  #send(text: string, lines: number): void {
    try {
      this.#writer.write(text, (error) => {
        if (error) this.#lost += lines
      })
    } catch {
      // A full disk makes the write throw. The next line is the next attempt.
      this.#lost += lines
    }
  }
}
