/** A log in a file of its own, for its owner alone. */
import {
  closeSync,
  constants,
  createWriteStream,
  fchmodSync,
  fstatSync,
  openSync,
  type WriteStream,
} from 'node:fs'
import { stat } from 'node:fs/promises'
import { lostLine } from './logger.ts'

const MODE = 0o600
/** How often it is looked whether the file still has its name. */
const LOOK_MS = 5000
/** The file cannot be written. */
export class LogFileError extends Error {
  override readonly name = 'LogFileError'
  readonly advice: string

  constructor(path: string, { code, message }: NodeJS.ErrnoException) {
    super(`${path} cannot be written: ${message}`)
    this.advice =
      code === 'ELOOP'
        ? 'It is a symbolic link: name the file itself.'
        : 'Name a file in a directory that the user who runs the broker can write.'
  }
}

/** What the file has to say of itself, for the log. */
export interface LogFileEvents {
  /** Lines begin to be lost. */
  lost(reason: string): void
  /** Lines are written again; so many were lost. */
  found(count: number): void
}

/**
 * Lines are appended as they come. When the file was renamed or removed, as by logrotate, a new one is begun within
 * seconds. What the disk does not take is lost and counted; how many were lost stands in the file once it takes lines again.
 */
export class LogFile {
  readonly #path: string
  readonly #waitingBytesMax: number
  readonly #events: LogFileEvents
  readonly #timer: NodeJS.Timeout
  #stream: WriteStream
  #node: bigint
  #isLosing = false
  /** Lines that were lost and are not told yet. */
  #lost = 0

  /** Opens the file, or makes it. Throws LogFileError. `waitingBytesMax` is for what a slow disk has not taken. */
  constructor(path: string, waitingBytesMax: number, events: LogFileEvents) {
    this.#path = path
    this.#waitingBytesMax = waitingBytesMax
    this.#events = events
    const { stream, node } = this.#open()
    this.#stream = stream
    this.#node = node
    this.#timer = setInterval(() => void this.look(), LOOK_MS).unref()
  }

  write(line: string): void {
    if (this.#stream.writableLength >= this.#waitingBytesMax) {
      this.#lost++
      this.#lose('the disk takes nothing')
      return
    }
    if (this.#lost > 0) this.#tellLost()
    this.#send(line, 1)
  }

  /** Begins a new file when this one has lost its name or cannot be written. Never rejects. */
  async look(): Promise<void> {
    const found = await stat(this.#path, { bigint: true }).catch(() => null)
    if (found?.ino === this.#node && !this.#stream.errored) {
      if (this.#lost > 0 && this.#stream.writableLength === 0) this.#tellLost()
      return
    }
    try {
      const { stream, node } = this.#open()
      this.#stream.end()
      this.#stream = stream
      this.#node = node
      if (this.#lost > 0) this.#tellLost()
    } catch (error) {
      this.#lose(error instanceof Error ? error.message : String(error))
    }
  }

  /** Resolves when everything is written, or cannot be. */
  close(): Promise<void> {
    clearInterval(this.#timer)
    return new Promise((resolve) => {
      if (this.#stream.errored) resolve()
      else this.#stream.end(() => resolve())
      this.#stream.once('error', () => resolve())
    })
  }

  #tellLost(): void {
    const count = this.#lost
    this.#lost = 0
    this.#send(lostLine(count), count)
  }

  /** `lines` are lost if this is. */
  #send(text: string, lines: number): void {
    this.#stream.write(text, (error) => {
      if (error) {
        this.#lost += lines
        return
      }
      if (!this.#isLosing || this.#lost > 0) return
      this.#isLosing = false
      this.#events.found(lines)
    })
  }

  #open(): { stream: WriteStream; node: bigint } {
    const { O_APPEND, O_CREAT, O_NOFOLLOW, O_WRONLY } = constants
    let fd: number | null = null
    try {
      fd = openSync(this.#path, O_APPEND | O_CREAT | O_NOFOLLOW | O_WRONLY, MODE)
      const found = fstatSync(fd, { bigint: true })
      // A device is not ours to change.
      if (found.isFile()) fchmodSync(fd, MODE)
      const node = found.ino
      const stream = createWriteStream('', { fd })
      stream.on('error', (error) => this.#lose(error.message))
      return { stream, node }
    } catch (error) {
      if (fd !== null) closeSync(fd)
      throw new LogFileError(this.#path, error as NodeJS.ErrnoException)
    }
  }

  #lose(reason: string): void {
    if (this.#isLosing) return
    this.#isLosing = true
    this.#events.lost(reason)
  }
}
