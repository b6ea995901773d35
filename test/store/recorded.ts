/** Batches that are recorded or made to fail, and access to the raw values of a store. */
import { crc32 } from 'node:zlib'
import { type BatchMaker, type Database, levelDatabase, openBatch } from '../../src/store/files/database.ts'
import type { BatchOperation } from '../../src/store/format/format.ts'

export type Batch = readonly BatchOperation[]

/** Handles a batch; `commit` passes it on to LevelDB. */
export type BatchHook = (operations: Batch, commit: () => Promise<void>) => Promise<void>

/** Writes batches through `hook`. */
export function hookedWriter(hook: BatchHook): BatchMaker {
  return (db) => {
    const batch = openBatch(db)
    const all: BatchOperation[] = []
    return {
      add: (operations) => {
        all.push(...operations.map(copied))
        batch.add(operations)
      },
      write: (sync) => hook(all, () => batch.write(sync)),
    }
  }
}

/** Writes batches, and appends a copy of each to `batches`. */
export function recordingWriter(batches: Batch[]): BatchMaker {
  return hookedWriter((operations, commit) => {
    batches.push(operations)
    return commit()
  })
}

function copied(operation: BatchOperation): BatchOperation {
  const key = Buffer.from(operation.key)
  return operation.type === 'put'
    ? { type: 'put', key, value: Buffer.from(operation.value) }
    : { type: 'del', key }
}

/** Opens the LevelDB of a closed store for `work`. */
export async function withRaw<T>(directory: string, work: (db: Database) => Promise<T>): Promise<T> {
  const db = levelDatabase(directory, {
    keyEncoding: 'buffer',
    valueEncoding: 'buffer',
    writeBufferSize: 1024 * 1024,
    cacheSize: 1024 * 1024,
    maxFileSize: 1024 * 1024,
  })
  await db.open()
  try {
    return await work(db)
  } finally {
    await db.close()
  }
}

/** Writes batches into an empty directory, as if a store had been killed after the last of them. */
export async function replay(directory: string, batches: readonly Batch[]): Promise<void> {
  await withRaw(directory, async (db) => {
    for (const batch of batches) await db.batch([...batch])
  })
}

/** Returns the value with a correct CRC behind it. */
export function resealed(key: Buffer, value: Buffer): Buffer {
  const crc = Buffer.alloc(4)
  crc.writeUInt32LE(crc32(value, crc32(key)))
  return Buffer.concat([value, crc])
}
