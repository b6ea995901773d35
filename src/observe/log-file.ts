/** Writes a log to a separate file that only its owner can read. */

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
import type { ErrorCode } from '../errors.ts'
import { lostLine } from './logger.ts'

const MODE = 0o600
/** The broker checks this often whether the file was renamed or removed. */
const CHECK_MS = 5000

/** The file cannot be written. */
export class LogFileError extends Error {
  override readonly name = 'LogFileError'
  readonly code: ErrorCode = 'GODWIT_LOG_FILE'
  readonly advice: string

  constructor(path: string, { code, message }: NodeJS.ErrnoException) {
    super(`${path} cannot be written: ${message}`)
    this.advice =
      code === 'ELOOP'
        ? 'It is a symbolic link: name the file itself.'
        : "Name a file in a directory that the broker's user can write."
  }
}

/** Receives the events of a log file. */
export interface LogFileEvents {
  /** The file begins to lose lines. */
  lost(reason: string): void
  /** The file takes lines again after losing `count`. */
  found(count: number): void
}

/**
 * Appends lines to a file. Begins a new file within seconds after the old one was renamed or removed, as by
 * logrotate. Lines that the disk does not take are lost; a later line tells how many.
 */
export class LogFile {
  readonly #path: string
  readonly #waitingBytesMax: number
  readonly #events: LogFileEvents
  readonly #timer: NodeJS.Timeout
  #stream: WriteStream
  #inode: bigint
  #isLosing = false
  /** Lost lines that no line has reported yet. */
  #lost = 0

  /** Opens or creates the file. At most `waitingBytesMax` wait for a slow disk. Throws LogFileError. */
  constructor(path: string, waitingBytesMax: number, events: LogFileEvents) {
    this.#path = path
    this.#waitingBytesMax = waitingBytesMax
    this.#events = events
    const { stream, inode } = this.#open()
    this.#stream = stream
    this.#inode = inode
    this.#timer = setInterval(() => void this.check(), CHECK_MS).unref()
  }

  write(line: string): void {
    if (this.#stream.writableLength >= this.#waitingBytesMax) {
      this.#lost++
      this.#lose('the disk does not take more')
      return
    }
    if (this.#lost > 0) this.#tellLost()
    this.#send(line, 1)
  }

  /** Begins a new file if this one was renamed, was removed or cannot be written. Never rejects. */
  async check(): Promise<void> {
    const found = await stat(this.#path, { bigint: true }).catch(() => null)
    if (found?.ino === this.#inode && !this.#stream.errored) {
      if (this.#lost > 0 && this.#stream.writableLength === 0) this.#tellLost()
      return
    }
    try {
      const { stream, inode } = this.#open()
      this.#stream.end()
      this.#stream = stream
      this.#inode = inode
      if (this.#lost > 0) this.#tellLost()
    } catch (error) {
      this.#lose(error instanceof Error ? error.message : String(error))
    }
  }

  /** Resolves once everything is written or the file has failed. */
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

  /** Writes a text; `lines` is the number of lines that are lost if this fails. */
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

  #open(): { stream: WriteStream; inode: bigint } {
    const { O_APPEND, O_CREAT, O_NOFOLLOW, O_WRONLY } = constants
    let fd: number | null = null
    try {
      fd = openSync(this.#path, O_APPEND | O_CREAT | O_NOFOLLOW | O_WRONLY, MODE)
      const found = fstatSync(fd, { bigint: true })
      // The mode of a device must stay as it is.
      if (found.isFile()) fchmodSync(fd, MODE)
      const inode = found.ino
      const stream = createWriteStream('', { fd })
      stream.on('error', (error) => this.#lose(error.message))
      return { stream, inode }
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
