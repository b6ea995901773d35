/**
 * HOT. Commits that are durable in the redo log first. The database gets them behind that, several at once
 * and without a sync: it may have any of them after a power cut, and a start applies all of them again. So a
 * small commit costs one synced write, and the database is synced when a half of the log is full.
 *
 * A commit that is large, or that the end of the store writes, goes to the database itself, synced. Before
 * that, everything in the log is made durable in the database, and the log says so.
 *
 * Commits come one at a time. LevelDB never gets one before it is durable in the log: it might keep it, and
 * lose others before it.
 */
import { type FileHandle, open } from 'node:fs/promises'
import { type BatchOperation, keyNumber, liveFormat, Table } from '../format/format.ts'
import { encodeRedo, redoBytes } from '../format/redo-record.ts'
import { markStore } from './data-directory.ts'
import type { BatchMaker, Database, OpenBatch } from './database.ts'
import { syncLogs } from './log-sync.ts'
import { openRedoLog, type RedoLog } from './redo-log.ts'

/** A larger commit is not written twice. */
const LOGGED_BYTES_MAX = 64 * 1024
/** After a large commit, so many go to the database, too: others like it often follow. */
const DIRECT_COMMITS = 16
/** The database gets what is behind when it has so many bytes in the log: 64 small commits. */
const FLUSH_BYTES = 256 * 1024
/** A commit waits for the database when this much is behind. */
const BEHIND_BYTES_MAX = 2 * FLUSH_BYTES
/** The most bytes of commits that are durable and that the database does not have yet. */
export const BEHIND_BYTES = 2 * (BEHIND_BYTES_MAX + LOGGED_BYTES_MAX)

/** A commit that is handed over. */
export interface Commit {
  readonly sequence: number
  /** Their bytes may change as soon as `write` returns. */
  readonly operations: readonly BatchOperation[]
  /** A batch with the operations before these, where a large commit was handed over in parts. */
  readonly batch: OpenBatch | null
  /** The store is being closed. */
  readonly isClosing: boolean
}

/** Commits that the database does not have yet. */
interface Unwritten {
  operations: BatchOperation[]
  bytes: number
  commits: number
}

export class WriteBehind {
  readonly #db: Database
  readonly #openBatch: BatchMaker
  readonly #log: RedoLog
  readonly #directory: string
  readonly #names: FileHandle
  readonly #onFailure: (error: unknown) => void
  #unwritten = nothing()
  /** Pages of commits that the database does not have yet, or is being given. */
  readonly #pages = new Map<number, Buffer>()
  /** Settles when the database has everything that was handed over. */
  #flushed: Promise<void> = Promise.resolve()
  #flushes = 0
  /** Settles when the half that was filled last may be used again. */
  #settling: Promise<void> = Promise.resolve()
  /** The newest commit that is durable. */
  #durable: number
  /** The database has all commits up to this one durably. */
  #settled: number
  /** The first commit says that the log is in use, so it is not in the log. */
  #direct = 1
  /** The format that the directory's marker names. */
  #marked: number
  /** The format of the closed store, as it was opened. */
  readonly #format: number
  #current: Promise<void> = Promise.resolve()

  constructor(
    place: { readonly db: Database; readonly directory: string; readonly names: FileHandle },
    format: number,
    openBatch: BatchMaker,
    log: RedoLog,
    settled: number,
    onFailure: (error: unknown) => void,
  ) {
    this.#db = place.db
    this.#directory = place.directory
    this.#names = place.names
    this.#format = format
    this.#marked = format
    this.#openBatch = openBatch
    this.#log = log
    this.#durable = settled
    this.#settled = settled
    this.#onFailure = onFailure
  }

  /** Makes a commit durable. Every failure rejects. */
  write(commit: Commit): Promise<void> {
    this.#current = this.#isDirect(commit) ? this.#writeDirectly(commit) : this.#writeToLog(commit)
    return this.#current
  }

  /** Returns a page that the database may not have yet. */
  page(number: number): Buffer | undefined {
    return this.#pages.get(number)
  }

  /** Whether the database has everything that is durable. */
  get isFlushed(): boolean {
    return this.#unwritten.commits === 0 && this.#flushes === 0
  }

  /** Gives the database everything that is durable. Rejects when that fails. */
  flush(): Promise<void> {
    const { operations, commits } = this.#unwritten
    if (commits === 0) return this.#flushed
    this.#unwritten = nothing()
    this.#flushes++
    this.#flushed = this.#flushed.then(() => this.#give(operations))
    return this.#flushed
  }

  /** Ends the writing: resolves when nothing is under way. Commits that are only in the log stay there. */
  async close(): Promise<void> {
    await Promise.allSettled([this.#current, this.#settling, this.#flushed])
    await this.#log.close()
    await this.#names.close()
  }

  #isDirect({ operations, batch, isClosing }: Commit): boolean {
    const bytesMax = Math.min(LOGGED_BYTES_MAX, this.#log.halfBytes)
    if (batch !== null || redoBytes(operations) > bytesMax) this.#direct = 1 + DIRECT_COMMITS
    if (this.#direct === 0) return isClosing
    this.#direct--
    return true
  }

  async #writeToLog({ sequence, operations }: Commit): Promise<void> {
    const log = this.#log
    const settled = this.#settled
    const record = encodeRedo(
      operations,
      { first: sequence, last: sequence, durable: this.#durable, settled },
      log.salt,
    )
    if (!log.hasRoom(record.bytes.length)) await this.#turn()
    await log.append(record.bytes, sequence, settled)
    this.#durable = sequence
    this.#add(record.operations, record.bytes.length)
    const { bytes } = this.#unwritten
    if (bytes < FLUSH_BYTES) return
    if (this.#flushes > 0 && bytes < BEHIND_BYTES_MAX) return
    if (this.#flushes > 0) await this.#flushed
    this.flush().catch(this.#onFailure)
  }

  #add(operations: readonly BatchOperation[], bytes: number): void {
    const unwritten = this.#unwritten
    for (const operation of operations) {
      unwritten.operations.push(operation)
      if (operation.key[0] !== Table.Journal) continue
      if (operation.type === 'put') this.#pages.set(keyNumber(operation.key), operation.value)
      else this.#pages.delete(keyNumber(operation.key))
    }
    unwritten.bytes += bytes
    unwritten.commits++
  }

  async #give(operations: readonly BatchOperation[]): Promise<void> {
    const batch = this.#openBatch(this.#db)
    batch.add(operations)
    await batch.write(false)
    this.#flushes--
    for (const { key } of operations) if (key[0] === Table.Journal) this.#pages.delete(keyNumber(key))
  }

  /** Goes on in the other half of the log, and makes this one free. */
  async #turn(): Promise<void> {
    await this.#settling
    await this.#log.turn(this.#settled)
    this.#settling = this.#settle()
    this.#settling.catch(this.#onFailure)
  }

  /** Makes everything durable in the database that is in the log. */
  async #settle(): Promise<void> {
    const sequence = this.#durable
    await this.flush()
    await syncLogs(this.#directory)
    this.#settled = sequence
  }

  async #writeDirectly({ sequence, operations, batch: begun, isClosing }: Commit): Promise<void> {
    const batch = begun ?? this.#openBatch(this.#db)
    batch.add(operations)
    await this.#settling
    if (this.#settled < this.#durable) await this.#settle()
    if (this.#log.isUnsettled) await this.#log.mark(this.#settled)
    if (isClosing) await this.#mark(this.#format)
    await batch.write(true)
    // LevelDB syncs a new log, but not its name.
    await this.#names.sync()
    if (!isClosing) await this.#mark(liveFormat(this.#format))
    this.#durable = sequence
    this.#settled = sequence
  }

  /** The marker says that the log is in use later than the description does, and no longer before it does. */
  async #mark(format: number): Promise<void> {
    if (this.#marked === format) return
    await markStore(this.#directory, format)
    this.#marked = format
  }
}

function nothing(): Unwritten {
  return { operations: [], bytes: 0, commits: 0 }
}

/**
 * Begins to use a redo log for a database that has all commits up to `settled` durably. `format` is that of
 * the closed store. Returns null where there is no room for the log.
 */
export async function openWriteBehind(
  db: Database,
  directory: string,
  {
    format,
    openBatch,
    redoHalfBytes,
  }: { readonly format: number; readonly openBatch: BatchMaker; readonly redoHalfBytes: number },
  settled: number,
  onFailure: (error: unknown) => void,
): Promise<WriteBehind | null> {
  const log = await openRedoLog(directory, redoHalfBytes, settled)
  if (log === null) return null
  const names = await open(directory, 'r')
  return new WriteBehind({ db, directory, names }, format, openBatch, log, settled, onFailure)
}
