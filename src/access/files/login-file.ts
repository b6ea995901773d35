/**
 * Where remembered log-ins outlive a restart of the broker: a file in memory (tmpfs), which is gone when the machine is switched off. Key
 * and HMACs are in it together. On a disk they would let a thief try passwords a million times faster than argon2id does, so a
 * directory that is not in memory is refused.
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

/** Log-ins that are remembered: about 100 bytes each. Only right passwords come in, so there are hardly more of them than users. */
export const REMEMBERED_MAX = 65_536

/** Of the key, and of an HMAC. */
export const MAC_BYTES = 32

/** What Linux says of a file system that is in memory (statfs(2)). */
const TMPFS = 0x01021994
const RAMFS = 0x858458f6

const HEADER = Buffer.from('godwit logins 1\n', 'latin1')

/** A file that holds more than it may is written anew once it is twice as long. */
const RECORDS_MAX = 2 * REMEMBERED_MAX
const BYTES_MAX = HEADER.length + MAC_BYTES * (1 + RECORDS_MAX)

/** Why log-ins cannot be kept there. */
export class LoginFileError extends Error {
  override readonly name = 'LoginFileError'
}

export interface LoginFileOptions {
  /** Gets why nothing is kept any more, once. */
  readonly failed: (error: Error) => void
  /** Whether the open file or directory is in memory; asks the kernel when absent. */
  readonly isInMemory?: (descriptor: number) => boolean
}

export class LoginFile {
  readonly key: Buffer
  /** Those that were there when it was opened, oldest first. */
  readonly macs: readonly string[]
  readonly #path: string
  readonly #failed: LoginFileOptions['failed']
  readonly #isInMemory: (descriptor: number) => boolean
  /** Null until something is appended: who only looks changes nothing. Undefined once it has failed. */
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
   * Opens the file for this data directory in `directory`, which is made when it is missing. Throws LoginFileError where what is in
   * the directory could be read or changed by others, or is kept on a disk. A file of which this is true counts for nothing.
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
   * Adds an HMAC; `all` has every one that is to be kept, this one included. Writing to memory takes microseconds, and what is
   * written before a `kill -9` stays.
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

  /** What is there is whole, or ends in a part that the next start leaves out. */
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

/** The file that is open, and no other that has come to its place. */
function isOfMemory(descriptor: number): boolean {
  if (process.platform !== 'linux') return false
  const { type } = statfsSync(`/proc/self/fd/${descriptor}`)
  return type === TMPFS || type === RAMFS
}

interface Content {
  readonly key: Buffer
  readonly macs: readonly string[]
}

/** Null where there is none that can be trusted. */
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

/** What a crash cut off at the end is left out. */
function contentOf(bytes: Buffer): Content | null {
  const start = HEADER.length + MAC_BYTES
  if (bytes.length < start || !bytes.subarray(0, HEADER.length).equals(HEADER)) return null
  const macs: string[] = []
  for (let at = start; at + MAC_BYTES <= bytes.length; at += MAC_BYTES)
    macs.push(bytes.toString('latin1', at, at + MAC_BYTES))
  return { key: Buffer.from(bytes.subarray(HEADER.length, start)), macs }
}
