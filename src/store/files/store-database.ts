/**
 * One opening of a store's LevelDB. Commits and background work belong to it and end with it: they ask
 * `isOpen` after everything they waited for.
 */
import { FORMAT_VERSION } from '../format/format.ts'
import type { BatchMaker, Database, OpenBatch } from './database.ts'
import type { LogSync } from './log-sync.ts'

/** `opening` until the Server may record; `closing` while the last commits are written. */
type Phase = 'opening' | 'open' | 'closing' | 'closed'

export class StoreDatabase {
  readonly db: Database
  readonly directory: string
  readonly #openBatch: BatchMaker
  readonly #onFailure: (error: unknown) => void
  /** Null where each commit is synced by itself, or none is. */
  readonly #logSync: LogSync | null
  #format: number
  #neededFormat = FORMAT_VERSION
  #phase: Phase = 'opening'

  /** `format` is the one on disk. `makeLogSync` returns null unless commits are synced together. */
  constructor(
    db: Database,
    directory: string,
    format: number,
    openBatch: BatchMaker,
    onFailure: (error: unknown) => void,
    makeLogSync: (failed: (error: unknown) => void) => LogSync | null,
  ) {
    this.db = db
    this.directory = directory
    this.#format = format
    this.#openBatch = openBatch
    this.#onFailure = onFailure
    this.#logSync = makeLogSync((error) => this.#syncFailed(error))
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
    await this.db.close()
  }

  #syncFailed(error: unknown): void {
    if (this.#phase !== 'closed') this.#onFailure(error)
  }
}
