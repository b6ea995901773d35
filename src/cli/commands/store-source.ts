/** Where a command reads a store: a running broker, a data directory without one, or a backup. */
import { mkdtemp, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { answers, start } from '../../admin/control-client.ts'
import { refuseIncomplete, storeFiles } from '../../store/files/data-directory.ts'
import type { Database } from '../../store/files/database.ts'
import { withKeptFiles } from '../../store/files/kept-files.ts'
import { containerChunks } from '../../store/format/container.ts'
import { META_KEY } from '../../store/format/format.ts'
import { decodeMeta } from '../../store/format/meta.ts'
import { fileChunks, hasDatabase, openDatabase, snapshotSlices, unpack } from '../../store/level/backup.ts'
import { StoreError } from '../../store/store.ts'

/** Accepts damaged entries, too: for those who look for them. */
export const anyEntry = (): void => {}

/** The bytes of a backup of what is at `path`. Throws StoreError or ControlError. */
export async function* backupChunks(path: string): AsyncGenerator<Buffer> {
  if (await isFile(path)) yield* fileChunks(path)
  else if (await answers(path)) yield* start(path, 'backup')
  else yield* directoryChunks(path)
}

/** Opens a database of what is at `path` for `work`: a copy where something else holds it, or may need it. */
export async function withDatabase<T>(
  path: string,
  check: (key: Buffer, value: Buffer) => void,
  work: (db: Database) => Promise<T>,
): Promise<T> {
  if (!(await isFile(path)) && !(await answers(path))) return withOpen(path, work)
  const scratch = await mkdtemp(join(tmpdir(), 'godwit-'))
  try {
    const copy = join(scratch, 'store')
    await unpack(backupChunks(path), copy, check)
    return await withOpen(copy, work)
  } finally {
    await rm(scratch, { recursive: true, force: true })
  }
}

/** Opens the database in this directory for `work`, and closes it. Throws StoreError. */
export async function withOpen<T>(directory: string, work: (db: Database) => Promise<T>): Promise<T> {
  refuseIncomplete(directory, await storeFiles(directory))
  if (!(await hasDatabase(directory))) throw noStore(directory)
  const db = await openDatabase(directory)
  try {
    return await work(db)
  } finally {
    await db.close()
  }
}

export function noStore(path: string): StoreError {
  return new StoreError('access', `there is no store in ${path}`, 'Name the data directory with --data DIR.')
}

/** Whether it is a backup in one file, as far as its kind tells. */
export async function isFile(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isFile()
  } catch {
    return false
  }
}

async function* directoryChunks(directory: string): AsyncGenerator<Buffer> {
  refuseIncomplete(directory, await storeFiles(directory))
  if (!(await hasDatabase(directory))) throw noStore(directory)
  const db = await openDatabase(directory)
  try {
    const described = await db.get(META_KEY)
    if (described === undefined) throw noStore(directory)
    const { format } = decodeMeta(described, directory)
    yield* containerChunks(withKeptFiles(directory, snapshotSlices(db, directory)), Date.now(), format)
  } finally {
    await db.close()
  }
}
