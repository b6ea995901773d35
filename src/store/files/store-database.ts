/**
 * One opening of a store's LevelDB. Commits and background work belong to it and end with it: they ask
 * `isOpen` after everything they waited for.
 */
import { FORMAT_VERSION, numberKey, Table } from '../format/format.ts'
import type { BatchMaker, Database, OpenBatch } from './database.ts'
import type { LogSync } from './log-sync.ts'
import type { Commit, WriteBehind } from './write-behind.ts'

/** `opening` until the Server may record; `closing` while the last commits are written. */
type Phase = 'opening' | 'open' | 'closing' | 'closed'

export interface StoreDatabaseOptions {
  readonly db: Database
  readonly directory: string
  /** The format on disk. */
  readonly format: number
  readonly openBatch: BatchMaker
  readonly onFailure: (error: unknown) => void
  /** Null where there is no redo log. */
  readonly writeBehind: WriteBehind | null
  /** Whether a commit without a redo log waits for fsync. */
  readonly isSynced: boolean
  /** Returns null unless commits are synced together. */
  readonly makeLogSync: (failed: (error: unknown) => void) => LogSync | null
}

export class StoreDatabase {
  readonly db: Database
  readonly directory: string
  readonly #openBatch: BatchMaker
  readonly #onFailure: (error: unknown) => void
  /** Null where each commit is synced by itself, or none is. */
  readonly #logSync: LogSync | null
  readonly #writeBehind: WriteBehind | null
  readonly #isSynced: boolean
  #format: number
  #neededFormat = FORMAT_VERSION
  #phase: Phase = 'opening'

  constructor(options: StoreDatabaseOptions) {
    this.db = options.db
    this.directory = options.directory
    this.#format = options.format
    this.#openBatch = options.openBatch
    this.#onFailure = options.onFailure
    this.#writeBehind = options.writeBehind
    this.#isSynced = options.isSynced
    this.#logSync = options.makeLogSync((error) => this.#syncFailed(error))
  }

  /** The format on disk: an earlier one until the first commit that needs a later one. */
  get format(): number {
    return this.#format
  }

  /** The format that the next commit writes. */
  get nextFormat(): number {
    return Math.max(this.#format, this.#neededFormat)
  }

  /** Notes that the next commit has something which this format has, and no earlier one. */
  needFormat(format: number): void {
    this.#neededFormat = Math.max(this.#neededFormat, format)
  }

  /** True while the Server may record. */
  get isOpen(): boolean {
    return this.#phase === 'open'
  }

  /** True while the last commits are written. */
  get isClosing(): boolean {
    return this.#phase === 'closing'
  }

  /** True while values can be read, also during the opening and the closing. */
  get isReadable(): boolean {
    return this.#phase !== 'closed' && this.db.status === 'open'
  }

  /** Ends the opening: the Server may record from now on. */
  begin(): void {
    this.#phase = 'open'
  }

  /** Lets the last commits be written, and nothing else. */
  beginClosing(): void {
    this.#phase = 'closing'
  }

  openBatch(): OpenBatch {
    return this.#openBatch(this.db)
  }

  /** Writes a commit, durably if each is synced by itself. Copies its bytes at once. Any failure rejects. */
  async write(commit: Commit): Promise<void> {
    if (this.#writeBehind !== null) return this.#writeBehind.write(commit)
    const batch = commit.batch ?? this.openBatch()
    batch.add(commit.operations)
    await batch.write(this.#isSynced)
  }

  /** Reads pages of the journal, as they are now. Resolves with undefined for each that does not exist. */
  async pages(numbers: readonly number[]): Promise<(Buffer | undefined)[]> {
    const behind = numbers.map((number) => this.#writeBehind?.page(number))
    const missing = numbers.filter((_, index) => behind[index] === undefined)
    const read = await this.db.getMany(missing.map((number) => numberKey(Table.Journal, number)))
    let next = 0
    return behind.map((page) => page ?? read[next++])
  }

  /** Whether LevelDB has all commits. */
  get isFlushed(): boolean {
    return this.#writeBehind?.isFlushed ?? true
  }

  /** Gives LevelDB all commits. A failure is reported, whoever asked, since they are not written then. */
  async flush(): Promise<void> {
    try {
      await this.#writeBehind?.flush()
    } catch (error) {
      this.backgroundFailed(error)
      throw error
    }
  }

  /** Notes that a commit was written. */
  committed(): void {
    this.#format = this.nextFormat
    this.#logSync?.wrote()
  }

  /** Syncs the commits that are synced together, now. */
  async sync(): Promise<void> {
    await this.#logSync?.now()
  }

  commitFailed(error: unknown): void {
    this.#onFailure(error)
  }

  /** Reports a failure of background work. It no longer matters when the store is being closed. */
  backgroundFailed(error: unknown): void {
    if (this.isOpen) this.#onFailure(error)
  }

  /** Closes LevelDB once `compaction`, which may be under way, has ended. */
  async close(compaction: Promise<void> | null): Promise<void> {
    this.#phase = 'closed'
    await this.#logSync?.stop()
    await compaction
    await this.#writeBehind?.close()
    await this.db.close()
  }

  #syncFailed(error: unknown): void {
    if (this.#phase !== 'closed') this.#onFailure(error)
  }
}
