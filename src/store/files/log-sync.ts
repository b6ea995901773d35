/**
 * Syncs the redo log, or LevelDB's logs, at intervals, for commits that are not synced one by one
 * (`durability: interval`).
 *
 * LevelDB syncs only together with a write, and only the log it writes to: a log that was full just before is
 * not synced until its table is. So all of its logs are synced here, and the directory that names them. A log
 * that is gone by then is in a table, which LevelDB synced before it deleted the log.
 */
import { type FileHandle, open, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { syncDirectory } from './data-directory.ts'

/** The store whose logs are synced. */
export interface SyncedStore {
  /** Returns the newest block that is written. */
  written(): number
  /** Makes all these blocks durable. */
  sync(): Promise<void>
  /** Called when all blocks up to this one are on disk. */
  synced(sequence: number): void
  failed(error: unknown): void
}

export class LogSync {
  readonly #everyMs: number
  readonly #store: SyncedStore
  #timer: NodeJS.Timeout | null = null
  #running: Promise<void> | null = null
  #isStopped = false
  /** The newest block that was synced. */
  #synced = 0

  constructor(everySeconds: number, store: SyncedStore) {
    this.#everyMs = everySeconds * 1000
    this.#store = store
  }

  /**
   * Notes that a block was written. It is synced within the interval, or as soon as a sync that is then under
   * way has ended.
   */
  wrote(): void {
    if (this.#timer !== null || this.#running !== null || this.#isStopped) return
    this.#timer = setTimeout(() => {
      this.#timer = null
      void this.now()
    }, this.#everyMs)
    this.#timer.unref()
  }

  /** Syncs all written blocks. Resolves when that is done, or when the store was told why it failed. */
  async now(): Promise<void> {
    while (this.#running !== null) await this.#running
    if (this.#store.written() === this.#synced) return
    this.#running = this.#run()
    await this.#running
  }

  /** Stops syncing. Waits for a sync that is under way. */
  async stop(): Promise<void> {
    this.#isStopped = true
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
    await this.#running
  }

  async #run(): Promise<void> {
    const sequence = this.#store.written()
    try {
      await this.#store.sync()
      this.#synced = sequence
      this.#store.synced(sequence)
    } catch (error) {
      this.#store.failed(error)
    } finally {
      this.#running = null
    }
    if (this.#store.written() > sequence) this.wrote()
  }
}

const LOG = /^\d+\.log$/

/** Makes everything durable that LevelDB has in its logs, and the names of its files. */
export async function syncLogs(directory: string): Promise<void> {
  for (const name of await readdir(directory)) if (LOG.test(name)) await syncLog(join(directory, name))
  await syncDirectory(directory)
}

async function syncLog(path: string): Promise<void> {
  let file: FileHandle
  try {
    file = await open(path, 'r')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
    throw error
  }
  try {
    await file.datasync()
  } finally {
    await file.close()
  }
}
