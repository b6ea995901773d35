/**
 * Whole data directories: which files are in them, how a store is kept aside, and how its files are replaced.
 * A crash at any instant leaves the old files, the new ones, or a directory that is marked as incomplete.
 *
 * Everything happens inside the directory, because it may be a mount point, which cannot be renamed.
 */
import { constants } from 'node:fs'
import { copyFile, link, mkdir, open, readdir, readFile, rename, rm, rmdir, stat } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { corrupt, FORMAT_VERSION, LOSS } from '../format/format.ts'
import { StoreError } from '../store.ts'
import { directoryError } from './failure.ts'
import { keptFiles, moveKeptFiles } from './kept-files.ts'

/** Marks a directory whose files are being replaced. */
export const INCOMPLETE = 'INCOMPLETE'

const FRESH = '.godwit-new'

/**
 * Marks a directory as a store from its founding on. LevelDB silently drops a damaged block of its log, and
 * in a young store everything may be in that block. A directory with this file and an empty database has
 * therefore lost data.
 */
export const MARKER = 'godwit.store'

/** The redo log (`redo-log.ts`). */
export const REDO_FILE = 'godwit.redo'

/** LevelDB's files, and ours. */
const STORE_FILE =
  /^(CURRENT|LOCK|LOG|LOG\.old|MANIFEST-\d+|\d+\.(ldb|sst|log|dbtmp)|INCOMPLETE|godwit\.(store|redo))$/

/** LevelDB's files that hold data. Other names may end alike, such as a log of the broker. */
const DATA_FILE = /^\d+\.(ldb|sst|log)$/

/**
 * Whether a file of this name in a data directory belongs to the store, or would be taken for one and
 * deleted.
 */
export function isStoreFile(name: string): boolean {
  return STORE_FILE.test(name)
}

/**
 * Throws StoreError for a store that has lost its CURRENT: LevelDB would begin a new database over the rest.
 */
export function refuseHeadless(directory: string, files: readonly string[]): void {
  if (files.includes('CURRENT') || !files.some((name) => DATA_FILE.test(name) || name === MARKER)) return
  throw corrupt(`${directory} belongs to a store that has lost its file CURRENT`, LOSS.session)
}

/** Names of the files in `directory` that make up its store; none if it does not exist. */
export async function storeFiles(directory: string): Promise<string[]> {
  try {
    return (await readdir(directory)).filter((name) => STORE_FILE.test(name)).sort()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}

/**
 * Makes the directory and the missing ones above it, and makes their names durable. Returns the directories
 * it made, outermost first. Throws StoreError. Node's own recursion is no use: it tries for ever in a
 * directory like /proc, which exists, takes no other directory, and answers ENOENT.
 */
export async function makeDirectory(directory: string, mode = 0o777): Promise<readonly string[]> {
  const missing: string[] = []
  try {
    for (let path = resolve(directory); !(await exists(path)); path = dirname(path)) missing.push(path)
    for (const path of missing.reverse()) await makeOne(path, mode)
    return missing
  } catch (error) {
    throw directoryError(error, directory)
  }
}

async function makeOne(path: string, mode: number): Promise<void> {
  try {
    await mkdir(path, mode)
  } catch (error) {
    // Another process made it meanwhile, or it is a link to nowhere.
    if (isCode(error, 'EEXIST') && (await exists(path))) return
    throw error
  }
  await syncNames(dirname(path))
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path)
    return true
  } catch (error) {
    if (isCode(error, 'ENOENT')) return false
    throw error
  }
}

/** Syncs the names in a directory, if it may be read: that is not always so where directories may be made. */
async function syncNames(directory: string): Promise<void> {
  try {
    await syncDirectory(directory)
  } catch (error) {
    if (!isCode(error, 'EACCES')) throw error
  }
}

function isCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code
}

/** Whether the directory's marker names this format; false without a marker. */
export async function isMarkedAs(directory: string, format: number): Promise<boolean> {
  return (await markedFormat(directory)) === format
}

/** Returns the format that the directory's marker names; null without a marker, or if it cannot be read. */
export async function markedFormat(directory: string): Promise<number | null> {
  try {
    const text = await readFile(join(directory, MARKER), 'utf8')
    const format = Number(/^Godwit store, format (\d+)\n$/.exec(text)?.[1] ?? Number.NaN)
    return Number.isInteger(format) ? format : null
  } catch (error) {
    if (isCode(error, 'ENOENT')) return null
    throw error
  }
}

function markerText(format: number): string {
  return `Godwit store, format ${format}\n`
}

/**
 * Marks the directory durably as a store. Call this when the store's description is durable, or before it
 * names a lower format. So if it names a lower one than the marker, LevelDB has lost a newer description.
 */
export async function markStore(directory: string, format = FORMAT_VERSION): Promise<void> {
  await replaceFile(join(directory, MARKER), markerText(format))
  await syncDirectory(directory)
}

/**
 * Removes a store that was just founded, and the directories made for it, unless something else is in them.
 */
export async function removeFounded(directory: string, made: readonly string[]): Promise<void> {
  for (const name of await storeFiles(directory)) await rm(join(directory, name), { force: true })
  for (const path of made.toReversed()) {
    try {
      await rmdir(path)
    } catch (error) {
      if (!isCode(error, 'ENOTEMPTY') && !isCode(error, 'ENOENT')) throw error
      return
    }
  }
}

/** Whether the directory holds anything of a store that an operator would miss. */
export async function holdsStore(directory: string): Promise<boolean> {
  return (await storeFiles(directory)).some((name) => name !== 'LOCK' && !name.startsWith('LOG'))
}

/** Throws StoreError if replacing the directory's files was cut off. */
export function refuseIncomplete(directory: string, files: readonly string[]): void {
  if (!files.includes(INCOMPLETE)) return
  throw new StoreError(
    'format',
    `a restore, import or repair of ${directory} was cut off`,
    'Finish it with `godwit repair DIR`. What was there before is kept in a directory inside it.',
  )
}

/**
 * Links the store's files into `target`: a copy that costs no space where the file system has hard links.
 * LevelDB never changes a file in place, except for the log that it is writing. The redo log is changed in
 * place, so it is copied. LevelDB's lock file is
 * linked, too: while the copy is open, no other process can open the original.
 */
export async function keepAside(directory: string, target: string): Promise<void> {
  await mkdir(target)
  for (const name of await storeFiles(directory)) {
    const [from, to] = [join(directory, name), join(target, name)]
    if (name === REDO_FILE) await copyFile(from, to, constants.COPYFILE_FICLONE)
    else await linkOrCopy(from, to)
  }
  await syncDirectory(target)
}

async function linkOrCopy(from: string, to: string): Promise<void> {
  try {
    await link(from, to)
  } catch (error) {
    // Not every file system has hard links, and not every user may make them.
    const { code } = error as NodeJS.ErrnoException
    if (code !== 'EPERM' && code !== 'ENOTSUP' && code !== 'EMLINK' && code !== 'EXDEV') throw error
    await copyFile(from, to, constants.COPYFILE_FICLONE)
  }
}

/** The content of INCOMPLETE: how far replacing the files has come. */
interface Progress {
  /** Tells whether the old files are in the directory, or the new ones. */
  readonly phase: 'old' | 'new'
  /** Name of the directory for the old files; null if they are kept already. */
  readonly aside: string | null
}

/** The directory in which a store is built before it replaces the one in `directory`. */
export function freshDirectory(directory: string): string {
  return join(directory, FRESH)
}

/**
 * Makes the store in `freshDirectory` the store of `directory`. The old one goes into the directory `aside`
 * inside it; null if it is kept already. A crash at any instant leaves the old store, the new one, or files
 * that `finishExchange` turns into the new one.
 */
export async function exchange(directory: string, aside: string | null): Promise<void> {
  await syncFiles(freshDirectory(directory))
  await mark(directory, { phase: 'old', aside })
  await finishExchange(directory)
}

/** Continues an exchange that was cut off, if there is one. */
export async function finishExchange(directory: string): Promise<void> {
  const progress = await readProgress(directory)
  if (progress === null) return
  if (progress.phase === 'old') {
    await removeOld(directory, progress.aside)
    await mark(directory, { ...progress, phase: 'new' })
  }
  const fresh = freshDirectory(directory)
  await moveKeptFiles(await keptFiles(fresh), fresh, directory)
  for (const name of await storeFiles(fresh)) await rename(join(fresh, name), join(directory, name))
  await syncDirectory(directory)
  await rm(join(directory, INCOMPLETE))
  await rm(fresh, { recursive: true, force: true })
  await syncDirectory(directory)
}

async function removeOld(directory: string, aside: string | null): Promise<void> {
  const old = (await storeFiles(directory)).filter((name) => name !== INCOMPLETE)
  const kept = await keptFiles(directory)
  // Only replaced files give way: a backup without accounts leaves the existing ones alone.
  const replaced = (await keptFiles(freshDirectory(directory))).filter((name) => kept.includes(name))
  if (aside === null || old.length + replaced.length === 0) {
    for (const name of old) await rm(join(directory, name), { force: true })
  } else {
    await mkdir(join(directory, aside), { recursive: true })
    for (const name of old) await rename(join(directory, name), join(directory, aside, name))
    await moveKeptFiles(replaced, directory, join(directory, aside))
    await syncDirectory(join(directory, aside))
  }
  await syncDirectory(directory)
}

async function readProgress(directory: string): Promise<Progress | null> {
  let text: string
  try {
    text = await readFile(join(directory, INCOMPLETE), 'utf8')
  } catch (error) {
    if (isCode(error, 'ENOENT')) return null
    throw error
  }
  return JSON.parse(text) as Progress
}

async function mark(directory: string, progress: Progress): Promise<void> {
  await replaceFile(join(directory, INCOMPLETE), JSON.stringify(progress))
  await syncDirectory(directory)
}

/**
 * Replaces the file as a whole, so that it is never empty; other hard links to it keep the old content. Its
 * name is not durable yet.
 */
async function replaceFile(path: string, text: string): Promise<void> {
  try {
    const file = await open(`${path}.new`, 'w')
    try {
      await file.writeFile(text)
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(`${path}.new`, path)
  } catch (error) {
    await rm(`${path}.new`, { force: true })
    throw error
  }
}

/** Makes the directory and every file in it durable. */
export async function syncFiles(directory: string): Promise<void> {
  for (const name of await readdir(directory)) await syncDirectory(join(directory, name))
  await syncDirectory(directory)
}

/** Makes a file durable, or a directory's list of names. */
export async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}
