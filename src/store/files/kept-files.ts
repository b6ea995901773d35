/** Files of a data directory that belong to its data and are not LevelDB's: in every backup, and put back with it. */
import { type FileHandle, open, readdir, readFile, rename } from 'node:fs/promises'
import { join } from 'node:path'
import type { Entry } from '../format/container.ts'

/** Users and roles (`access/accounts-file.ts`). */
export const ACCOUNTS_FILE = 'accounts.json'

/** Bans (`access/bans/bans-file.ts`): of this broker, and in no backup. */
export const BANS_FILE = 'bans.json'

const KEPT_FILES: readonly string[] = [ACCOUNTS_FILE]

/** How the key of such a file begins in a backup; no key of the store begins so. */
const KEY_START = 'file:'

/** The files of `directory` in front of the slices of its store. */
export async function* withKeptFiles(
  directory: string,
  slices: AsyncIterable<readonly Entry[]>,
): AsyncGenerator<readonly Entry[]> {
  const files: Entry[] = []
  for (const name of await keptFiles(directory)) {
    files.push([Buffer.from(KEY_START + name, 'utf8'), await readFile(join(directory, name))])
  }
  if (files.length > 0) yield files
  yield* slices
}

/** The name of the file that an entry of a backup holds; null for an entry of the store. */
export function keptFileOf(key: Buffer): string | null {
  if (key.length < KEY_START.length || key.toString('latin1', 0, KEY_START.length) !== KEY_START) return null
  const name = key.toString('utf8', KEY_START.length)
  return KEPT_FILES.includes(name) ? name : null
}

/** Writes a file that a backup held, for its owner alone. It is not durable yet. */
export async function writeKeptFile(directory: string, name: string, content: Buffer): Promise<void> {
  const file: FileHandle = await open(join(directory, name), 'w', 0o600)
  try {
    await file.writeFile(content)
  } finally {
    await file.close()
  }
}

/** Those that are there; none when the directory does not exist. */
export async function keptFiles(directory: string): Promise<string[]> {
  try {
    const names = await readdir(directory)
    return KEPT_FILES.filter((name) => names.includes(name))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}

/** Moves those that are in `from` to the directory `to`. */
export async function moveKeptFiles(names: readonly string[], from: string, to: string): Promise<void> {
  for (const name of names) await rename(join(from, name), join(to, name))
}
