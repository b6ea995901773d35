/** Copies the directory of a store that is open, as `kill -9` would leave it. */
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'

/** A compaction ends at some time: a directory that changes during this many copies is another fault. */
const TRIES_MAX = 1000

/**
 * Copies `from`, in which LevelDB may compact meanwhile, to the new directory `to`. The copy has every file
 * of one version of the database: LevelDB appends to its MANIFEST before it deletes files, so the copy is
 * made again if the MANIFEST has changed, or if a file that was listed is gone. It blocks this thread, so the
 * broker records nothing meanwhile. `copying` is called before each file.
 */
export function killedCopy(from: string, to: string, copying: (name: string) => void = () => {}): void {
  for (let tries = 0; tries < TRIES_MAX; tries++) {
    const version = versionOf(from)
    if (isCopied(from, to, copying) && versionOf(from) === version) return
    rmSync(to, { recursive: true })
  }
  throw new Error(`${from} has changed during each of ${TRIES_MAX} copies`)
}

/** Returns text that differs after each change of the database's set of files. */
function versionOf(directory: string): string {
  const current = readFileSync(join(directory, 'CURRENT'), 'latin1').trim()
  return `${current} ${statSync(join(directory, current)).size}`
}

/** Copies each file except LOCK. False if one was deleted before its turn. */
function isCopied(from: string, to: string, copying: (name: string) => void): boolean {
  mkdirSync(to)
  try {
    for (const name of readdirSync(from)) {
      if (name === 'LOCK') continue
      copying(name)
      copyFileSync(join(from, name), join(to, name))
    }
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    return false
  }
}
