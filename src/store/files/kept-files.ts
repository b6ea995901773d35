/** The files of a data directory, besides LevelDB's, that backups hold and restores bring back. */
import { type FileHandle, open, readdir, readFile, rename } from 'node:fs/promises'
import { join } from 'node:path'
import type { Entry } from '../format/container.ts'

/** Users and roles (`access/accounts-file.ts`). */
export const ACCOUNTS_FILE = 'accounts.json'

/** Bans (`access/bans/bans-file.ts`). They belong to this broker, so no backup holds them. */
export const BANS_FILE = 'bans.json'

const KEPT_FILES: readonly string[] = [ACCOUNTS_FILE]

/** Begins the key of such a file in a backup; no key of the store begins like this. */
const KEY_START = 'file:'

/** Yields the kept files of `directory`, then the slices of its store. */
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

/** Returns the name of the file that an entry of a backup holds; null for an entry of the store. */
export function keptFileOf(key: Buffer): string | null {
  if (key.length < KEY_START.length || key.toString('latin1', 0, KEY_START.length) !== KEY_START) return null
  const name = key.toString('utf8', KEY_START.length)
  return KEPT_FILES.includes(name) ? name : null
}

/** Writes a file from a backup, readable by its owner only. It is not durable yet. */
export async function writeKeptFile(directory: string, name: string, content: Buffer): Promise<void> {
  const file: FileHandle = await open(join(directory, name), 'w', 0o600)
  try {
    await file.writeFile(content)
  } finally {
    await file.close()
  }
}

/** Returns the names of the kept files in a directory; none if it does not exist. */
export async function keptFiles(directory: string): Promise<string[]> {
  try {
    const names = await readdir(directory)
    return KEPT_FILES.filter((name) => names.includes(name))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}

/** Moves these files from one directory to another. */
export async function moveKeptFiles(names: readonly string[], from: string, to: string): Promise<void> {
  for (const name of names) await rename(join(from, name), join(to, name))
}
