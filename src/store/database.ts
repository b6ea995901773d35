/** The LevelDB under the store, as `level` gives it. */
import { Level } from 'level'

export interface DatabaseOptions {
  readonly keyEncoding: 'buffer'
  readonly valueEncoding: 'buffer'
  readonly writeBufferSize: number
  readonly cacheSize: number
  readonly maxFileSize: number
}

/** Binary keys and values. `compactRange` is there on Node, where `level` is `classic-level`. */
export type Database = Level<Buffer, Buffer> & {
  compactRange(from: Buffer, to: Buffer): Promise<void>
}

/** Makes the database without opening it. */
export function levelDatabase(directory: string, options: DatabaseOptions): Database {
  const db = new Level<Buffer, Buffer>(directory, options)
  if (!compacts(db)) throw new Error('this build of level cannot compact a range')
  return db
}

function compacts(db: Level<Buffer, Buffer>): db is Database {
  return 'compactRange' in db
}
