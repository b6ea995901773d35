/**
 * The redo log: a file of fixed size to which a commit goes with one synced write, before the database gets
 * it. It is written once in full when it is made. From then on a write changes neither its size nor where its
 * blocks are, so a sync is one write to the device, and it cannot run out of space. Where the system has
 * O_DSYNC, write and sync are one call.
 *
 * Commits that are synced together (`durability: interval`) are written without a sync, one right behind the
 * other, and `sync` makes them durable.
 *
 * Its two halves are filled in turn. Before a half is written again, the database has everything in it
 * durably, and the state on the disk says so.
 */
import { close, constants, fdatasync, open as openFile, write } from 'node:fs'
import { open, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import {
  type EncodedCommit,
  encodeState,
  newestState,
  newSalt,
  REDO_BLOCK_BYTES,
  REDO_STATES,
} from '../format/redo-record.ts'
import { REDO_FILE, syncDirectory } from './data-directory.ts'

const STATES_BYTES = REDO_STATES * REDO_BLOCK_BYTES

const openDescriptor = promisify(openFile)
const closeDescriptor = promisify(close)
const syncData = promisify(fdatasync)

/** How a commit in the log becomes durable: by its own write, or together with others. */
export type RedoSyncing = 'each' | 'together'

export class RedoLog {
  readonly salt: Buffer
  /** A larger record does not fit. */
  readonly halfBytes: number
  readonly #descriptor: number
  readonly #syncing: RedoSyncing
  readonly #isSyncedByWrite: boolean
  #turn: number
  /** The newest commit in the log; 0 for none. */
  #newest = 0
  /** The log says on the disk that the database has all commits up to this one. */
  #settled = 0
  #at = STATES_BYTES
  #end: number
  /** Settles when the latest record is written, synced or not. */
  #written: Promise<void> = Promise.resolve()

  constructor(
    descriptor: number,
    syncing: RedoSyncing,
    isSyncedByWrite: boolean,
    halfBytes: number,
    turn: number,
  ) {
    this.#descriptor = descriptor
    this.#syncing = syncing
    this.#isSyncedByWrite = isSyncedByWrite
    this.salt = newSalt()
    this.halfBytes = halfBytes
    this.#end = STATES_BYTES + halfBytes
    this.#turn = turn
  }

  /** Whether a record of so many bytes fits into the current half. */
  hasRoom(bytes: number): boolean {
    return this.#at + bytes <= this.#end
  }

  /** Whether a start would apply commits, given that the database has all of them. */
  get isUnsettled(): boolean {
    return this.#newest > this.#settled
  }

  /**
   * Writes the record of a commit, durably if each is synced. There must be room; `settled` is what the
   * record says.
   */
  async append({ bytes, length }: EncodedCommit, sequence: number, settled: number): Promise<void> {
    const at = this.#at
    if (this.#syncing === 'each') {
      this.#at += bytes.length
      await this.#write(bytes, at)
    } else {
      this.#at += length
      this.#written = written(this.#descriptor, bytes.subarray(0, length), at)
      await this.#written
    }
    this.#newest = sequence
    this.#settled = Math.max(this.#settled, settled)
  }

  /** Makes all records durable that are written now. The next one begins a block. */
  async sync(): Promise<void> {
    this.#at = Math.ceil(this.#at / REDO_BLOCK_BYTES) * REDO_BLOCK_BYTES
    // Its block must not be written while it is synced, nor after that.
    await this.#written
    await syncData(this.#descriptor)
  }

  /** Records durably that the database has all commits up to this one. */
  async mark(settled: number): Promise<void> {
    const { salt } = this
    const slot = this.#turn % REDO_STATES
    await this.#write(encodeState({ salt, turn: this.#turn, settled }), slot * REDO_BLOCK_BYTES)
    this.#turn++
    this.#settled = settled
  }

  /** Goes on in the other half. The database has all that is in it durably, which is `settled`. */
  async turn(settled: number): Promise<void> {
    await this.mark(settled)
    const isSecond = this.#end > STATES_BYTES + this.halfBytes
    this.#at = isSecond ? STATES_BYTES : STATES_BYTES + this.halfBytes
    this.#end = this.#at + this.halfBytes
  }

  /** Call this when nothing is being written. */
  close(): Promise<void> {
    return closeDescriptor(this.#descriptor)
  }

  async #write(bytes: Buffer, at: number): Promise<void> {
    await written(this.#descriptor, bytes, at)
    if (!this.#isSyncedByWrite) await syncData(this.#descriptor)
  }
}

/** One call of write(2), without the objects of a FileHandle. */
function written(descriptor: number, bytes: Buffer, at: number): Promise<void> {
  return new Promise((resolve, reject) => {
    write(descriptor, bytes, 0, bytes.length, at, (error, count) => {
      if (error !== null) reject(error)
      else if (count < bytes.length) reject(new Error(`IO error: only ${count} bytes were written`))
      else resolve()
    })
  })
}

/**
 * Makes the redo log of a database that is open and has all commits up to `settled` durably. Old records
 * count no longer. Returns null where a new file has no room.
 */
export async function openRedoLog(
  directory: string,
  halfBytes: number,
  settled: number,
  syncing: RedoSyncing,
): Promise<RedoLog | null> {
  const path = join(directory, REDO_FILE)
  const bytes = STATES_BYTES + 2 * halfBytes
  const turn = await turnOf(path, bytes)
  if (turn === null && !(await isMade(path, bytes))) return null
  await syncDirectory(directory)
  const { O_RDWR, O_DSYNC } = constants
  const syncFlag = syncing === 'each' ? O_DSYNC : undefined
  const descriptor = await openDescriptor(path, O_RDWR | (syncFlag ?? 0))
  const log = new RedoLog(descriptor, syncing, syncFlag !== undefined, halfBytes, turn ?? 0)
  try {
    await log.mark(settled)
  } catch (error) {
    await log.close()
    throw error
  }
  return log
}

/** Returns the number of the next state; null if there is no file of the right size. */
async function turnOf(path: string, bytes: number): Promise<number | null> {
  try {
    const file = await readFile(path)
    return file.length === bytes ? (newestState(file)?.turn ?? -1) + 1 : null
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw error
  }
}

/** Writes the file in full; returns false if there is no room. */
async function isMade(path: string, bytes: number): Promise<boolean> {
  const file = await open(path, 'w', 0o600)
  try {
    await file.writeFile(Buffer.alloc(bytes))
    await file.sync()
    return true
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code !== 'ENOSPC' && code !== 'EDQUOT') throw error
    await rm(path)
    return false
  } finally {
    await file.close()
  }
}
