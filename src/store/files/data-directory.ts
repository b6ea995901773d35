/**
 * Whole data directories: what is in them, how one is kept aside, and how its files are exchanged for others so that
 * a crash at any instant leaves the old ones, the new ones, or a directory that says that it is neither.
 *
 * Everything happens inside the directory, since it may be a mount point, which cannot be renamed.
 */
import { constants } from 'node:fs'
import { copyFile, link, mkdir, open, readdir, readFile, rename, rm, rmdir, stat } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { corrupt, FORMAT_VERSION, LOSS } from '../format/format.ts'
import { StoreError } from '../store.ts'
import { directoryError } from './failure.ts'
import { keptFiles, moveKeptFiles } from './kept-files.ts'

/** Stands in a directory whose files are being exchanged. */
export const INCOMPLETE = 'INCOMPLETE'

const FRESH = '.godwit-new'

/**
 * Stands in a directory from its founding on. LevelDB drops a damaged block of its log without a word, and in a young
 * store everything may be in that block: a directory with this file and an empty database has lost something.
 */
export const MARKER = 'godwit.store'

/** LevelDB's files, and ours that say something about them. */
const STORE_FILE =
  /^(CURRENT|LOCK|LOG|LOG\.old|MANIFEST-\d+|\d+\.(ldb|sst|log|dbtmp)|INCOMPLETE|godwit\.store)$/

/** LevelDB's files that hold data. Others that end alike are somebody else's: a log of the broker, notes of the operator. */
const DATA_FILE = /^\d+\.(ldb|sst|log)$/

/** Whether a file of this name in a data directory is the store's, or would be taken for one and deleted. */
export function isStoreFile(name: string): boolean {
  return STORE_FILE.test(name)
}

/** Throws StoreError when what is left of a store has lost its CURRENT: LevelDB would begin a new database over it. */
export function refuseHeadless(directory: string, files: readonly string[]): void {
  if (files.includes('CURRENT') || !files.some((name) => DATA_FILE.test(name) || name === MARKER)) return
  throw corrupt(`${directory} belongs to a store that has lost its file CURRENT`, LOSS.session)
}

/** Names of the files in `directory` that make up its store; none when it does not exist. */
export async function storeFiles(directory: string): Promise<string[]> {
  try {
    return (await readdir(directory)).filter((name) => STORE_FILE.test(name)).sort()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}

/**
 * Makes the directory and those above it that are missing, and makes their names durable. Returns those, outermost first. Throws StoreError. Not by Node's own recursion, which tries for ever where an existing directory cannot take another
 * one and says that it does not exist, as /proc does.
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
    // Somebody else made it meanwhile, or it is a link to nowhere.
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

/** A directory in which we may make others is not always one that we may read. */
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

/** Whether the directory says that its store is of this format. Nothing depends on it: it is for people. */
export async function isMarkedAs(directory: string, format: number): Promise<boolean> {
  return (await readFile(join(directory, MARKER), 'utf8')) === markerText(format)
}

function markerText(format: number): string {
  return `Godwit store, format ${format}\n`
}

/** Says durably that the directory holds a store. To be called when its description is durable. */
export async function markStore(directory: string, format = FORMAT_VERSION): Promise<void> {
  const file = await open(join(directory, MARKER), 'w')
  try {
    await file.writeFile(markerText(format))
    await file.sync()
  } finally {
    await file.close()
  }
  await syncDirectory(directory)
}

/** Removes a store that was just founded, and the directories that were made for it unless somebody put something into them. */
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

/** Whether something is in it that an operator would miss. */
export async function holdsStore(directory: string): Promise<boolean> {
  return (await storeFiles(directory)).some((name) => name !== 'LOCK' && !name.startsWith('LOG'))
}

/** Throws StoreError when an exchange of its files was cut off. */
export function refuseIncomplete(directory: string, files: readonly string[]): void {
  if (!files.includes(INCOMPLETE)) return
  throw new StoreError(
    'format',
    `a restore, import or repair of ${directory} was cut off`,
    'Finish it with `godwit repair DIR`. What was there before is kept in a directory inside it.',
  )
}

/**
 * Puts the store's files into `target` under a second name each: a copy that costs no space where the file system has
 * hard links. LevelDB never changes a file in place, but for the log that it writes at the moment. LevelDB's lock goes with it: as long as
 * the copy is open, nobody else can open the original.
 */
export async function keepAside(directory: string, target: string): Promise<void> {
  await mkdir(target)
  for (const name of await storeFiles(directory)) {
    await linkOrCopy(join(directory, name), join(target, name))
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

/** What INCOMPLETE says: how far the exchange has come. */
interface Progress {
  /** Whose files the directory's are: those that were there, or the new ones. */
  readonly phase: 'old' | 'new'
  /** Name of the directory for the old files; null when they are kept already. */
  readonly aside: string | null
}

/** Where a store is built before it takes the place of what is in the directory. */
export function freshDirectory(directory: string): string {
  return join(directory, FRESH)
}

/**
 * Makes what is in `freshDirectory` the store of `directory`. What was there goes into the directory `aside` inside it;
 * null when it is kept already. A crash at any instant leaves the old store, the new one, or what `finishExchange` makes
 * the new one.
 */
export async function exchange(directory: string, aside: string | null): Promise<void> {
  await syncFiles(freshDirectory(directory))
  await mark(directory, { phase: 'old', aside })
  await finishExchange(directory)
}

/** Goes on where an exchange was cut off; does nothing when none was. */
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
  // Only what is replaced gives way: a backup without accounts leaves those that are there.
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

/** Replaces the mark as a whole, so that it always says something. */
async function mark(directory: string, progress: Progress): Promise<void> {
  const path = join(directory, INCOMPLETE)
  try {
    const file = await open(`${path}.new`, 'w')
    try {
      await file.writeFile(JSON.stringify(progress))
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(`${path}.new`, path)
  } catch (error) {
    await rm(`${path}.new`, { force: true })
    throw error
  }
  await syncDirectory(directory)
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
