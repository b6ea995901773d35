/** Where the log's lines go: a reader that stops, or a disk that is full, costs lines, never memory or the broker. */

/** What lines are written to: a stream, or less. */
export interface LineWriter {
  /** `done` is called with what went wrong, if anything did. */
  write(text: string, done?: (error?: Error | null) => void): unknown
  /** Bytes, or characters, that wait for the reader; 0 when absent. */
  readonly writableLength?: number
  once?(event: 'drain', callback: () => void): unknown
}

/** Told when lines were lost and lines can be written again. */
export type LostLine = (count: number) => string

/** Hands lines on as long as no more than `waitingMax` wait; counts those that are lost, and says how many once it can. */
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

  /** Nobody may have anything to log for long after the reader is back. */
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

  /** `lines` are lost if this is. */
  #send(text: string, lines: number): void {
    try {
      this.#writer.write(text, (error) => {
        if (error) this.#lost += lines
      })
    } catch {
      // A file on a full disk: it is tried again with the next line.
      this.#lost += lines
    }
  }
}
