/**
 * Keeps remembered log-ins beyond a restart of the broker, in a file in memory (tmpfs), which is gone when
 * the machine is switched off. The file has both the key and the HMACs. On a disk they would let a thief try
 * passwords a million times faster than argon2id does, so a directory that is not in memory is refused.
 */
import { createHash, randomBytes } from 'node:crypto'
import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statfsSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'

/**
 * Remembered log-ins, about 100 bytes each. Only correct passwords are added, so there are hardly more than
 * users.
 */
export const REMEMBERED_MAX = 65_536

/** The length of the key, and of an HMAC. */
export const MAC_BYTES = 32

/** The types of file systems in memory on Linux (statfs(2)). */
const TMPFS = 0x01021994
const RAMFS = 0x858458f6

const HEADER = Buffer.from('godwit logins 1\n', 'latin1')

/** The file is only appended to, and written anew when it has twice as many records as may be remembered. */
const RECORDS_MAX = 2 * REMEMBERED_MAX
const BYTES_MAX = HEADER.length + MAC_BYTES * (1 + RECORDS_MAX)

/** Log-ins cannot be kept in the directory; the message says why. */
export class LoginFileError extends Error {
  override readonly name = 'LoginFileError'
}

/** The options of a file of log-ins. */
export interface LoginFileOptions {
  /** Called once, when writing fails: nothing is kept from then on. */
  readonly failed: (error: Error) => void
  /** Tells whether an open file or directory is in memory; asks the kernel when absent. */
  readonly isInMemory?: (descriptor: number) => boolean
}

/** The file of the log-ins to one data directory. */
export class LoginFile {
  readonly key: Buffer
  /** The HMACs found when the file was opened, oldest first. */
  readonly macs: readonly string[]
  readonly #path: string
  readonly #failed: LoginFileOptions['failed']
  readonly #isInMemory: (descriptor: number) => boolean
  /** Null until something is appended, so that opening changes nothing. Undefined once writing has failed. */
  #descriptor: number | null | undefined = null
  #records = 0

  private constructor(path: string, { failed, isInMemory = isOfMemory }: LoginFileOptions) {
    const found = read(path, isInMemory)
    this.#path = path
    this.#failed = failed
    this.#isInMemory = isInMemory
    this.key = found?.key ?? randomBytes(MAC_BYTES)
    this.macs = found?.macs ?? []
  }

  /**
   * Opens the file for this data directory in `directory`, which is created when it is missing. Throws
   * LoginFileError if others could read or change the directory, or if it is on a disk. An existing file with
   * one of these faults is ignored.
   */
  static open(directory: string, dataDirectory: string, options: LoginFileOptions): LoginFile {
    const { isInMemory = isOfMemory } = options
    try {
      mkdirSync(directory, { recursive: true, mode: 0o700 })
      const descriptor = openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY)
      try {
        expectPrivate(directory, descriptor, isInMemory)
      } finally {
        closeSync(descriptor)
      }
      const data = createHash('sha256').update(realpathSync(dataDirectory)).digest('hex')
      const path = join(directory, `logins-${data.slice(0, 16)}`)
      return new LoginFile(path, options)
    } catch (error) {
      if (error instanceof LoginFileError) throw error
      const { message } = error as Error
      throw new LoginFileError(`${directory} cannot be used: ${message}`, { cause: error })
    }
  }

  /**
   * Adds an HMAC; `all` has every one that is to be kept, this one included. The write is synchronous: it
   * takes microseconds, since the file is in memory, and survives a `kill -9`.
   */
  append(mac: string, all: ReadonlySet<string>): void {
    if (this.#descriptor === undefined) return
    try {
      if (this.#descriptor === null || this.#records >= RECORDS_MAX) this.#rewrite(all)
      else {
        writeWhole(this.#descriptor, Buffer.from(mac, 'latin1'))
        this.#records++
      }
    } catch (error) {
      this.#fail(error as Error)
    }
  }

  #rewrite(all: ReadonlySet<string>): void {
    const partial = `${this.#path}.partial`
    rmSync(partial, { force: true })
    const { O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY } = constants
    const descriptor = openSync(partial, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)
    try {
      if (!this.#isInMemory(descriptor)) throw new Error('it is not in memory any more')
      fchmodSync(descriptor, 0o600)
      writeWhole(descriptor, Buffer.concat([HEADER, this.key, Buffer.from([...all].join(''), 'latin1')]))
      renameSync(partial, this.#path)
    } catch (error) {
      closeSync(descriptor)
      rmSync(partial, { force: true })
      throw error
    }
    if (typeof this.#descriptor === 'number') closeSync(this.#descriptor)
    this.#descriptor = descriptor
    this.#records = all.size
  }

  /** The file stays as it is: a record that was cut off at its end is left out by the next start. */
  #fail(error: Error): void {
    if (typeof this.#descriptor === 'number') closeSync(this.#descriptor)
    this.#descriptor = undefined
    this.#failed(error)
  }
}

function writeWhole(descriptor: number, bytes: Buffer): void {
  const written = writeSync(descriptor, bytes)
  if (written !== bytes.length) throw new Error('no space is left in memory for remembered log-ins')
}

function expectPrivate(
  directory: string,
  descriptor: number,
  isInMemory: NonNullable<LoginFileOptions['isInMemory']>,
): void {
  const { uid, mode } = fstatSync(descriptor)
  if (uid !== process.geteuid?.()) throw new LoginFileError(`${directory} belongs to another user`)
  if ((mode & 0o077) !== 0) throw new LoginFileError(`${directory} is open to other users (chmod 0700)`)
  if (!isInMemory(descriptor)) throw new LoginFileError(`${directory} is not in memory (tmpfs)`)
}

/** Asks about the open file itself, since another one may have taken its place. */
function isOfMemory(descriptor: number): boolean {
  if (process.platform !== 'linux') return false
  const { type } = statfsSync(`/proc/self/fd/${descriptor}`)
  return type === TMPFS || type === RAMFS
}

interface Content {
  readonly key: Buffer
  readonly macs: readonly string[]
}

/** Reads the file. Returns null without a file that can be trusted. */
function read(path: string, isInMemory: (descriptor: number) => boolean): Content | null {
  let descriptor: number
  try {
    descriptor = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ELOOP') return null
    throw error
  }
  try {
    const { uid, mode, nlink, size } = fstatSync(descriptor)
    const isOurs = uid === process.geteuid?.() && (mode & 0o177) === 0 && (mode & 0o170000) === 0o100000
    if (!isOurs || nlink !== 1 || size > BYTES_MAX || !isInMemory(descriptor)) return null
    return contentOf(readFileSync(descriptor))
  } finally {
    closeSync(descriptor)
  }
}

/** Parses the file. Leaves out a record at the end that a crash cut off. */
function contentOf(bytes: Buffer): Content | null {
  const start = HEADER.length + MAC_BYTES
  if (bytes.length < start || !bytes.subarray(0, HEADER.length).equals(HEADER)) return null
  const macs: string[] = []
  for (let at = start; at + MAC_BYTES <= bytes.length; at += MAC_BYTES)
    macs.push(bytes.toString('latin1', at, at + MAC_BYTES))
  return { key: Buffer.from(bytes.subarray(HEADER.length, start)), macs }
}
