/** The LevelDB under the store, as `level` gives it. */
import { Level } from 'level'
import type { BatchOperation } from '../format/format.ts'

/**
 * Of LevelDB's cache of open tables (7 GB of them), ten other files included. On 64 bits it maps tables, up to 1000 of them, and
 * keeps no file descriptor of what is mapped: below that, with room for tables that somebody reads though the cache has
 * dropped them, a store of any size has some ten descriptors. `transport/open-files.ts` counts on it.
 */
export const OPEN_TABLES_MAX = 900

export interface DatabaseOptions {
  readonly keyEncoding: 'buffer'
  readonly valueEncoding: 'buffer'
  readonly writeBufferSize: number
  readonly cacheSize: number
  readonly maxFileSize: number
}

/** Binary keys and values. `compactRange` and `getProperty` are there on Node, where `level` is `classic-level`. */
export type Database = Level<Buffer, Buffer> & {
  compactRange(from: Buffer, to: Buffer): Promise<void>
  getProperty(property: string): string
}

/** Sees the database as it was when it was made. */
export interface DatabaseIterator {
  nextv(size: number): Promise<(readonly [key: Buffer, value: Buffer])[]>
  close(): Promise<void>
}

/** Makes the database without opening it. */
export function levelDatabase(directory: string, options: DatabaseOptions): Database {
  const db = new Level<Buffer, Buffer>(directory, { ...options, maxOpenFiles: OPEN_TABLES_MAX })
  if (!compacts(db)) throw new Error('this build of level cannot compact a range')
  return db
}

/**
 * LevelDB's own repair: makes a readable database of all that it can read in the directory, which is not open. Keeps
 * nothing of damaged blocks, and may bring back what was deleted.
 */
export async function repairDatabase(directory: string): Promise<void> {
  const { repair }: { readonly repair?: unknown } = Object(Level)
  if (typeof repair !== 'function') throw new Error('this build of level cannot repair')
  await repair.call(Level, directory)
}

function compacts(db: Level<Buffer, Buffer>): db is Database {
  return 'compactRange' in db && 'getProperty' in db
}

/** An atomic batch that is still being filled. Closing the database throws it away. */
export interface OpenBatch {
  /** Adds operations; their keys and values are copied before this returns. */
  add(operations: readonly BatchOperation[]): void
  /** Writes everything that was added. */
  write(sync: boolean): Promise<void>
}

/** Begins a batch. */
export type BatchMaker = (db: Database) => OpenBatch

/** By a chained batch, which costs 0.6 us per operation here, where a batch of an array costs 5. */
export const openBatch: BatchMaker = (db) => {
  const batch = db.batch()
  return {
    add: (operations) => {
      for (const operation of operations) {
        if (operation.type === 'put') batch.put(operation.key, operation.value)
        else batch.del(operation.key)
      }
    },
    write: (sync) => batch.write({ sync }),
  }
}
