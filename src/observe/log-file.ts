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

const MODE = 0o600
/** How often it is looked whether the file still has its name. */
const LOOK_MS = 5000
/** What may wait for a disk that takes nothing. */
const WAITING_BYTES_MAX = 1024 * 1024

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

/**
 * Lines are appended as they come. When the file was renamed or removed, as by logrotate, a new one is begun within
 * seconds. What the disk does not take is lost, and told to `lost`; the broker goes on.
 */
export class LogFile {
  readonly #path: string
  readonly #lost: (reason: string) => void
  readonly #timer: NodeJS.Timeout
  #stream: WriteStream
  #node: bigint
  #isLosing = false

  /** Opens the file, or makes it. Throws LogFileError. `lost` is called once for each time that lines begin to be lost. */
  constructor(path: string, lost: (reason: string) => void) {
    this.#path = path
    this.#lost = lost
    const { stream, node } = this.#open()
    this.#stream = stream
    this.#node = node
    this.#timer = setInterval(() => void this.look(), LOOK_MS).unref()
  }

  write(line: string): void {
    if (this.#stream.writableLength > WAITING_BYTES_MAX) this.#lose('the disk takes nothing')
    else this.#stream.write(line)
  }

  /** Begins a new file when this one has lost its name. Never rejects. */
  async look(): Promise<void> {
    const found = await stat(this.#path, { bigint: true }).catch(() => null)
    if (found?.ino === this.#node && !this.#stream.errored) return
    try {
      const { stream, node } = this.#open()
      this.#stream.end()
      this.#stream = stream
      this.#node = node
      this.#isLosing = false
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
    this.#lost(reason)
  }
}
