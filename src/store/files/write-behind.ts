/**
 * HOT. Commits that are durable in the redo log first. The database gets them behind that, several at once
 * and without a sync: it may have any of them after a power cut, and a start applies all of them again. So a
 * small commit costs one synced write, and the database is synced when a half of the log is full.
 *
 * A commit that is large, or that the end of the store writes, goes to the database itself, synced. Before
 * that, everything in the log is made durable in the database, and the log says so.
 *
 * With `durability: interval` commits are written to the log without a sync, and `sync` makes those of an
 * interval durable. Where there are so many bytes that writing them twice costs more than it saves, they go
 * to the database itself, and `sync` makes them durable there.
 *
 * Commits come one at a time. LevelDB never gets one before it is durable in the log: it might keep it, and
 * lose others before it.
 */
import { type FileHandle, open } from 'node:fs/promises'
import { type BatchOperation, isLive, keyNumber, liveFormat, Table } from '../format/format.ts'
import { encodeRedo } from '../format/redo-record.ts'
import { type CommitRoute, LOGGED_BYTES_MAX, SharedSyncRoute, SingleSyncRoute } from './commit-route.ts'
import { markStore } from './data-directory.ts'
import type { BatchMaker, Database, OpenBatch } from './database.ts'
import { syncLogs } from './log-sync.ts'
import { openRedoLog, type RedoLog, type RedoSyncing } from './redo-log.ts'

/**
 * The database gets the commits that it lacks once they have so many bytes in the log: 64 small commits that
 * are synced by themselves, or 1,500 that are synced together.
 */
const FLUSH_BYTES: Readonly<Record<RedoSyncing, number>> = { each: 256 * 1024, together: 512 * 1024 }
/** A commit waits while the database lacks more bytes of commits than this. */
const BEHIND_BYTES_MAX = 512 * 1024
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

export interface WriteBehindOptions {
  /** The format of the closed store. */
  readonly format: number
  readonly openBatch: BatchMaker
  readonly redoHalfBytes: number
  readonly syncing: RedoSyncing
  readonly onFailure: (error: unknown) => void
}

export class WriteBehind {
  readonly #db: Database
  readonly #openBatch: BatchMaker
  readonly #log: RedoLog
  readonly #directory: string
  readonly #names: FileHandle
  readonly #onFailure: (error: unknown) => void
  readonly #syncing: RedoSyncing
  readonly #route: CommitRoute
  /** Commits in the log that are not durable yet. The database must not get them. */
  #unsynced = nothing()
  /** Durable commits. */
  #unwritten = nothing()
  /** Pages of commits that the database does not have yet, or is being given. */
  readonly #pages = new Map<number, Buffer>()
  /** Settles when the database has everything that was handed over. */
  #flushed: Promise<void> = Promise.resolve()
  #flushes = 0
  /** Settles when the syncs of the log that were asked for have ended. */
  #synced: Promise<void> = Promise.resolve()
  /** Settles when the half that was filled last may be used again. */
  #settling: Promise<void> = Promise.resolve()
  /** The newest commit that is written, to the log or to the database. */
  #newest: number
  /** The newest commit that is durable, with all before it. */
  #durable: number
  /** The database has all commits up to this one durably. */
  #settled: number
  /** The newest commit went to the database. */
  #isDirect = true
  /** The format that the directory's marker names. */
  #marked: number
  /** The format of the closed store, as it was opened. */
  readonly #format: number
  #current: Promise<void> = Promise.resolve()

  /** The database has all commits up to `settled` durably. */
  constructor(
    place: { readonly db: Database; readonly directory: string; readonly names: FileHandle },
    { format, openBatch, syncing, onFailure }: WriteBehindOptions,
    log: RedoLog,
    settled: number,
  ) {
    this.#db = place.db
    this.#directory = place.directory
    this.#names = place.names
    this.#format = format
    this.#marked = format
    this.#openBatch = openBatch
    this.#syncing = syncing
    this.#route = syncing === 'each' ? new SingleSyncRoute(log.halfBytes) : new SharedSyncRoute(log.halfBytes)
    this.#log = log
    this.#newest = settled
    this.#durable = settled
    this.#settled = settled
    this.#onFailure = onFailure
  }

  /** Writes a commit, durably if each is synced. Every failure rejects. */
  write(commit: Commit): Promise<void> {
    this.#current = this.#goesDirectly(commit) ? this.#writeDirectly(commit) : this.#writeToLog(commit)
    return this.#current
  }

  /** Makes everything durable that is written now. Call this once in an interval. */
  async sync(): Promise<void> {
    this.#route.synced()
    if (this.#isDirect) await this.#syncDatabase()
    else await this.#syncLog()
  }

  /** Returns a page that the database may not have yet. */
  page(number: number): Buffer | undefined {
    return this.#pages.get(number)
  }

  /** Whether the database has everything that is written. */
  get isFlushed(): boolean {
    return this.#unsynced.commits === 0 && this.#unwritten.commits === 0 && this.#flushes === 0
  }

  /** Gives the database everything that is written. Rejects when that fails. */
  async flush(): Promise<void> {
    await this.#syncLog()
    await this.#flushDurable()
  }

  /** Gives the database everything that is durable. */
  #flushDurable(): Promise<void> {
    const { operations, commits } = this.#unwritten
    if (commits === 0) return this.#flushed
    this.#unwritten = nothing()
    this.#flushes++
    this.#flushed = this.#flushed.then(() => this.#give(operations))
    return this.#flushed
  }

  /** Ends the writing: resolves when nothing is under way. Commits that are only in the log stay there. */
  async close(): Promise<void> {
    await Promise.allSettled([this.#current, this.#settling, this.#synced, this.#flushed])
    await this.#log.close()
    await this.#names.close()
  }

  #goesDirectly({ operations, batch, isClosing }: Commit): boolean {
    const isDirect = this.#route.isDirect(batch === null ? operations : null)
    // The first commit says that the log is in use, so it is not in the log.
    return isDirect || isClosing || !this.#isInUse
  }

  get #isInUse(): boolean {
    return isLive(this.#marked)
  }

  async #writeToLog({ sequence, operations }: Commit): Promise<void> {
    const log = this.#log
    const isFirst = this.#isDirect
    // The first record is written when the database has everything before it durably.
    const settled = isFirst ? this.#newest : this.#settled
    const durable = isFirst ? this.#newest : this.#durable
    const record = encodeRedo(operations, { first: sequence, last: sequence, durable, settled }, log.salt)
    if (isFirst) await this.#syncDatabase()
    this.#isDirect = false
    if (!log.hasRoom(record.bytes.length)) await this.#turn()
    await log.append(record, sequence, settled)
    this.#newest = sequence
    if (this.#syncing === 'each') {
      this.#durable = sequence
      this.#add(this.#unwritten, record.operations, record.bytes.length)
    } else this.#add(this.#unsynced, record.operations, record.length)
    const { bytes } = this.#unwritten
    if (bytes < FLUSH_BYTES[this.#syncing]) return
    if (this.#flushes > 0 && bytes < BEHIND_BYTES_MAX) return
    if (this.#flushes > 0) await this.#flushed
    this.#flushDurable().catch(this.#onFailure)
  }

  #add(to: Unwritten, operations: readonly BatchOperation[], bytes: number): void {
    for (const operation of operations) {
      to.operations.push(operation)
      if (operation.key[0] !== Table.Journal) continue
      if (operation.type === 'put') this.#pages.set(keyNumber(operation.key), operation.value)
      else this.#pages.delete(keyNumber(operation.key))
    }
    to.bytes += bytes
    to.commits++
  }

  /** Makes everything durable that is in the log now. */
  #syncLog(): Promise<void> {
    if (this.#syncing === 'each') return this.#synced
    this.#synced = this.#synced.then(() => this.#syncUnsynced())
    return this.#synced
  }

  async #syncUnsynced(): Promise<void> {
    const { operations, bytes, commits } = this.#unsynced
    if (commits === 0) return
    const newest = this.#newest
    this.#unsynced = nothing()
    await this.#log.sync()
    this.#durable = Math.max(this.#durable, newest)
    const unwritten = this.#unwritten
    for (const operation of operations) unwritten.operations.push(operation)
    unwritten.bytes += bytes
    unwritten.commits += commits
  }

  async #give(operations: readonly BatchOperation[]): Promise<void> {
    const batch = this.#openBatch(this.#db)
    batch.add(latestOfEach(operations))
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
    await this.#syncLog()
    const sequence = this.#durable
    await this.#flushDurable()
    await syncLogs(this.#directory)
    this.#settled = sequence
  }

  /** Makes the commits durable that went to the database. */
  async #syncDatabase(): Promise<void> {
    const newest = this.#newest
    if (this.#settled >= newest) return
    await syncLogs(this.#directory)
    this.#durable = Math.max(this.#durable, newest)
    this.#settled = Math.max(this.#settled, newest)
  }

  async #writeDirectly({ sequence, operations, batch: begun, isClosing }: Commit): Promise<void> {
    const batch = begun ?? this.#openBatch(this.#db)
    batch.add(operations)
    if (!this.#isDirect) await this.#leaveLog()
    this.#isDirect = true
    const isSynced = this.#syncing === 'each' || isClosing || !this.#isInUse
    if (isSynced) await this.#syncDatabase()
    if (isClosing) await this.#mark(this.#format)
    await batch.write(isSynced)
    this.#newest = sequence
    if (!isSynced) return
    // LevelDB syncs a new log, but not its name.
    await this.#names.sync()
    if (!isClosing) await this.#mark(liveFormat(this.#format))
    this.#durable = sequence
    this.#settled = sequence
  }

  /** The database has everything durably that is in the log, and the log says so. */
  async #leaveLog(): Promise<void> {
    await this.#settling
    if (this.#settled < this.#newest) await this.#settle()
    if (this.#log.isUnsettled) await this.#log.mark(this.#settled)
  }

  /** The marker says that the log is in use later than the description does, and no longer before it does. */
  async #mark(format: number): Promise<void> {
    if (this.#marked === format) return
    await markStore(this.#directory, format)
    this.#marked = format
  }
}

/** Returns the operations without those that a later one of the same key undoes. */
function latestOfEach(operations: readonly BatchOperation[]): BatchOperation[] {
  const seen = new Set<string>()
  const latest: BatchOperation[] = []
  for (let index = operations.length - 1; index >= 0; index--) {
    const operation = operations[index]!
    const key = operation.key.toString('latin1')
    if (seen.has(key)) continue
    seen.add(key)
    latest.push(operation)
  }
  return latest.reverse()
}

function nothing(): Unwritten {
  return { operations: [], bytes: 0, commits: 0 }
}

/**
 * Begins to use a redo log for a database that has all commits up to `settled` durably. Returns null where
 * there is no room for the log.
 */
export async function openWriteBehind(
  db: Database,
  directory: string,
  options: WriteBehindOptions,
  settled: number,
): Promise<WriteBehind | null> {
  const log = await openRedoLog(directory, options.redoHalfBytes, settled, options.syncing)
  if (log === null) return null
  const names = await open(directory, 'r')
  return new WriteBehind({ db, directory, names }, options, log, settled)
}
