/** Opens a store for a command: that of a running broker, of a data directory without one, or of a backup. */
import { mkdtemp, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { askForData, brokerAnswers } from '../../admin/control-client.ts'
import { refuseIncomplete, storeFiles } from '../../store/files/data-directory.ts'
import type { Database } from '../../store/files/database.ts'
import { withKeptFiles } from '../../store/files/kept-files.ts'
import { containerChunks } from '../../store/format/container.ts'
import { META_KEY } from '../../store/format/format.ts'
import { decodeMeta } from '../../store/format/meta.ts'
import { fileChunks, hasDatabase, openDatabase, snapshotSlices, unpack } from '../../store/level/backup.ts'
import { StoreError } from '../../store/store.ts'

/** Accepts every entry, for commands that look for damaged ones. */
export const acceptEntry = (): void => {}

/** Yields the bytes of a backup of `path`. Throws StoreError or ControlError. */
export async function* backupChunks(path: string): AsyncGenerator<Buffer> {
  if (await isRegularFile(path)) yield* fileChunks(path)
  else if (await brokerAnswers(path)) yield* askForData(path, 'backup')
  else yield* directoryChunks(path)
}

/** Opens the database at `path` for `work`, or a copy of it if a broker runs or `path` is a backup. */
export async function withDatabase<T>(
  path: string,
  check: (key: Buffer, value: Buffer) => void,
  work: (db: Database) => Promise<T>,
): Promise<T> {
  if (!(await isRegularFile(path)) && !(await brokerAnswers(path))) return withOpenDatabase(path, work)
  const scratch = await mkdtemp(join(tmpdir(), 'godwit-'))
  try {
    const copy = join(scratch, 'store')
    await unpack(backupChunks(path), copy, check)
    return await withOpenDatabase(copy, work)
  } finally {
    await rm(scratch, { recursive: true, force: true })
  }
}

/** Opens the database in this directory for `work` and closes it. Throws StoreError. */
export async function withOpenDatabase<T>(directory: string, work: (db: Database) => Promise<T>): Promise<T> {
  refuseIncomplete(directory, await storeFiles(directory))
  if (!(await hasDatabase(directory))) throw noStoreError(directory)
  const db = await openDatabase(directory)
  try {
    return await work(db)
  } finally {
    await db.close()
  }
}

/** Returns the error for a directory without a store. */
export function noStoreError(path: string): StoreError {
  return new StoreError('access', `there is no store in ${path}`, 'Name the data directory with --data DIR.')
}

/** Whether the path is a file, which for a store means a backup. */
export async function isRegularFile(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isFile()
  } catch {
    return false
  }
}

async function* directoryChunks(directory: string): AsyncGenerator<Buffer> {
  refuseIncomplete(directory, await storeFiles(directory))
  if (!(await hasDatabase(directory))) throw noStoreError(directory)
  const db = await openDatabase(directory)
  try {
    const meta = await db.get(META_KEY)
    if (meta === undefined) throw noStoreError(directory)
    const { format } = decodeMeta(meta, directory)
    yield* containerChunks(withKeptFiles(directory, snapshotSlices(db, directory)), Date.now(), format)
  } finally {
    await db.close()
  }
}
