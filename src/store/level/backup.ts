/** Backups: copies an open database into a file or a directory, and back. */
import { type FileHandle, mkdir, open, readdir, rename, rm } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { markStore, syncDirectory, syncFiles } from '../files/data-directory.ts'
import { type Database, type DatabaseIterator, levelDatabase } from '../files/database.ts'
import { storeError } from '../files/failure.ts'
import { keptFileOf, writeKeptFile } from '../files/kept-files.ts'
import { applyRedoLog } from '../files/redo-replay.ts'
import { ContainerReader, type Entry } from '../format/container.ts'
import { type DamageReport, refuseDamage } from '../format/damage.ts'
import {
  closedFormat,
  FORMAT_MAX,
  isLive,
  isOfQueues,
  keyNumber,
  META_KEY,
  sealed,
  Table,
  unsealed,
} from '../format/format.ts'
import { readPageHeader } from '../format/journal-page.ts'
import { formatOf, withFormat } from '../format/meta.ts'
import { cutLogEnd } from '../journal/log-end.ts'
import { StoreError } from '../store.ts'

/** The end of the name of a backup in one file. A backup with any other name is a directory. */
export const BACKUP_FILE_END = '.godwit-backup'

const MIB = 1024 * 1024
/** Bytes that are read at once: few enough that a commit in between hardly waits. */
const SLICE_BYTES = 256 * 1024
const SLICE_ENTRIES = 1000

const READING = { highWaterMarkBytes: SLICE_BYTES, fillCache: false }

/**
 * Opens the database of a data directory without the store over it, and brings it up to date. `report` is
 * told of damage on the way.
 */
export async function openDatabase(
  directory: string,
  createIfMissing = false,
  report: DamageReport = refuseDamage,
): Promise<Database> {
  // This comes before the object is made, because that opens the database by itself.
  if (!createIfMissing) await cutLogEnd(directory)
  const db = levelDatabase(directory, {
    keyEncoding: 'buffer',
    valueEncoding: 'buffer',
    writeBufferSize: 4 * MIB,
    cacheSize: 8 * MIB,
    maxFileSize: 8 * MIB,
  })
  try {
    await db.open({ createIfMissing })
    await applyRedoLog(db, directory, report)
  } catch (error) {
    await db.close()
    throw storeError(error, directory, 'opening it')
  }
  return db
}

/**
 * Yields everything in `db` at this moment, or when `flushed` resolves, in slices. A commit is included as a
 * whole or not at all. Throws StoreError, also when the database is closed meanwhile.
 */
export function snapshotSlices(
  db: Database,
  directory: string,
  flushed: Promise<void> | null = null,
): AsyncGenerator<readonly Entry[]> {
  // The iterator takes its snapshot now, not when the first slice is asked for.
  if (flushed === null) return slicesOf(db.iterator(READING), directory)
  const iterator = flushed.then(() => db.iterator(READING))
  // Whoever reads the slices is told why there are none.
  iterator.catch(() => {})
  return slicesOf(iterator, directory)
}

async function* slicesOf(
  made: DatabaseIterator | Promise<DatabaseIterator>,
  directory: string,
): AsyncGenerator<readonly Entry[]> {
  let iterator: DatabaseIterator | null = null
  try {
    iterator = await made
    for (;;) {
      const entries = await iterator.nextv(SLICE_ENTRIES)
      if (entries.length === 0) return
      yield entries.map(withoutRedoLog)
    }
  } catch (error) {
    throw storeError(error, directory, 'reading it for a backup')
  } finally {
    await iterator?.close()
  }
}

/** A backup has no redo log, and its description does not ask for one. */
function withoutRedoLog(entry: Entry): Entry {
  const [key, value] = entry
  if (!key.equals(META_KEY)) return entry
  const format = formatOf(value)
  if (format === null || !isLive(format)) return entry
  return [key, sealed(key, withFormat(unsealed(key, value), closedFormat(format)))]
}

/**
 * Writes a backup to `target`, a file or (by its name) a directory, which must not exist. It is built under
 * another name, made durable and renamed, so that nobody takes an unfinished one for a backup. Throws
 * StoreError.
 */
export async function writeBackup(
  chunks: AsyncIterable<Buffer>,
  target: string,
): Promise<{ records: number }> {
  const partial = join(dirname(target), `.${basename(target)}.${process.pid}.partial`)
  try {
    const write = target.endsWith(BACKUP_FILE_END) ? writeFile : unpack
    const records = await write(chunks, partial)
    await moved(partial, target)
    return { records }
  } catch (error) {
    await rm(partial, { recursive: true, force: true })
    throw storeError(error, dirname(target), 'writing the backup')
  }
}

/** Throws StoreError if `target` exists. */
export async function refuseExisting(target: string): Promise<void> {
  try {
    await (await open(target, 'r')).close()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
    throw storeError(error, target, 'looking for it')
  }
  throw new StoreError(
    'access',
    `${target} exists`,
    'A backup never overwrites anything: choose another name.',
  )
}

async function moved(partial: string, target: string): Promise<void> {
  // Renaming a directory replaces an empty one only, but renaming a file would replace any file.
  await refuseExisting(target)
  await rename(partial, target)
  await syncDirectory(dirname(target))
}

async function writeFile(chunks: AsyncIterable<Buffer>, path: string): Promise<number> {
  const reader = new ContainerReader(basename(path))
  const file = await open(path, 'wx', 0o600)
  try {
    for await (const chunk of chunks) {
      for (const [key, value] of reader.push(chunk)) checkEntry(key, value)
      await file.appendFile(chunk)
    }
    reader.end()
    await file.sync()
  } finally {
    await file.close()
  }
  return reader.records
}

/**
 * Makes `directory`, builds the database of a container in it, and makes it durable. `check` is called for
 * each entry and throws if it refuses the entry. Returns the number of records.
 */
export async function unpack(
  chunks: AsyncIterable<Buffer>,
  directory: string,
  check: EntryCheck = checkEntry,
): Promise<number> {
  await mkdir(directory, { mode: 0o700 })
  const reader = new ContainerReader(basename(directory))
  const db = await openDatabase(directory, true)
  try {
    for await (const chunk of chunks) {
      const entries = await takeKeptFiles(reader.push(chunk), directory)
      refuseNewerFormat(reader, directory)
      if (entries.length === 0) continue
      for (const [key, value] of entries) check(key, value)
      await db.batch(entries.map(([key, value]) => ({ type: 'put', key, value })))
    }
    reader.end()
    // LevelDB silently drops damaged parts of its log, but checks its tables: so nothing may stay in the log.
    await db.compactRange(Buffer.from([0x00]), Buffer.from([0xff]))
  } finally {
    await db.close()
  }
  await syncFiles(directory)
  await markStore(directory, reader.header?.storeFormat)
  return reader.records
}

/** Writes the entries that are files; returns the others, which belong to the store. */
async function takeKeptFiles(entries: readonly Entry[], directory: string): Promise<readonly Entry[]> {
  const rest: Entry[] = []
  for (const entry of entries) {
    const name = keptFileOf(entry[0])
    if (name === null) rest.push(entry)
    else await writeKeptFile(directory, name, entry[1])
  }
  return rest
}

type EntryCheck = (key: Buffer, value: Buffer) => void

/** Throws StoreError `corrupt` for a value that differs from what the store wrote. */
export const checkEntry: EntryCheck = (key, value) => {
  if (key[0] === Table.Journal) readPageHeader(keyNumber(key), value)
  // Entries that Aedes left of its Sessions have no checksum; nobody reads them.
  else if (key[0]! <= Table.Time || isOfQueues(key) || isOwnText(key)) unsealed(key, value)
}

function isOwnText(key: Buffer): boolean {
  const text = key.toString('latin1', 0, 9)
  return text === 'retained:' || text.startsWith('will:')
}

function refuseNewerFormat({ header }: ContainerReader, directory: string): void {
  if (header === null || header.storeFormat <= FORMAT_MAX) return
  throw new StoreError(
    'format',
    `the backup ${directory} is of store format ${header.storeFormat}; ` +
      `this version of Godwit reads formats up to ${FORMAT_MAX}`,
    'Restore it with the version of Godwit that wrote it. ' +
      'To go back: `godwit export` there, `godwit import` here.',
  )
}

/** Yields the bytes of a backup file. Throws StoreError. */
export async function* fileChunks(path: string): AsyncGenerator<Buffer> {
  let file: FileHandle
  try {
    file = await open(path, 'r')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      throw new StoreError('access', `${path} does not exist`, 'Name a file that exists.')
    }
    throw storeError(error, path, 'opening it')
  }
  try {
    for (;;) {
      const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(MIB), 0, MIB, null)
      if (bytesRead === 0) return
      yield buffer.subarray(0, bytesRead)
    }
  } catch (error) {
    throw storeError(error, path, 'reading it')
  } finally {
    await file.close()
  }
}

/** Returns whether the directory holds a database. */
export async function hasDatabase(directory: string): Promise<boolean> {
  try {
    return (await readdir(directory)).includes('CURRENT')
  } catch {
    return false
  }
}
