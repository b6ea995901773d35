/** The LevelDB under the store, as the package `level` provides it. */
import { Level } from 'level'
import type { BatchOperation } from '../format/format.ts'

/**
 * Size of LevelDB's cache of open tables (7 GB of them), including ten other files. On 64 bits LevelDB maps
 * up to 1000 tables and keeps no file descriptor of a mapped one. This is below 1000, to leave room for
 * tables that are still read after the cache dropped them. So a store of any size has about ten descriptors;
 * `transport/open-files.ts` relies on that.
 */
export const OPEN_TABLES_MAX = 900

export interface DatabaseOptions {
  readonly keyEncoding: 'buffer'
  readonly valueEncoding: 'buffer'
  readonly writeBufferSize: number
  readonly cacheSize: number
  readonly maxFileSize: number
}

/**
 * Binary keys and values. `compactRange` and `getProperty` exist on Node, where `level` is `classic-level`.
 */
export type Database = Level<Buffer, Buffer> & {
  compactRange(from: Buffer, to: Buffer): Promise<void>
  getProperty(property: string): string
}

/** Sees the database as it was when the iterator was made. */
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
 * Runs LevelDB's own repair on a directory that is not open: makes a readable database of everything that can
 * be read. It keeps nothing of damaged blocks, and may bring back deleted values.
 */
export async function repairDatabase(directory: string): Promise<void> {
  const { repair }: { readonly repair?: unknown } = Object(Level)
  if (typeof repair !== 'function') throw new Error('this build of level cannot repair')
  await repair.call(Level, directory)
}

function compacts(db: Level<Buffer, Buffer>): db is Database {
  return 'compactRange' in db && 'getProperty' in db
}

/** An atomic batch that is being filled. Closing the database throws it away. */
export interface OpenBatch {
  /** Adds operations; their keys and values are copied before this returns. */
  add(operations: readonly BatchOperation[]): void
  /** Writes all operations. */
  write(sync: boolean): Promise<void>
}

/** Begins a batch. */
export type BatchMaker = (db: Database) => OpenBatch

/** Begins a chained batch: it costs 0.6 us per operation here, a batch of an array 5 us. */
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
