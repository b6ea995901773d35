/**
 * Replaces text files of the data directory as a whole, and locks them against other processes. A crash
 * leaves the old file or the new one.
 */
import { type FileHandle, open, readFile, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

const LOCK_WAIT_MS = 10_000
/** Locks are held for milliseconds: an older one was left behind by a process that is gone. */
const LOCK_STALE_MS = 5_000

/**
 * Writes the file as a whole, readable by its owner only. Rejects with the error of the file system and keeps
 * the old file.
 */
export async function replaceFile(directory: string, name: string, text: string): Promise<void> {
  const path = join(directory, name)
  const partial = `${path}.${process.pid}.partial`
  try {
    await rm(partial, { force: true })
    const file = await open(partial, 'wx', 0o600)
    try {
      await file.chmod(0o600)
      await keepOwner(file, path, directory)
      await file.writeFile(text)
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(partial, path)
    await syncNames(directory)
  } catch (error) {
    await rm(partial, { force: true })
    throw error
  }
}

/**
 * Keeps the owner if root edits the file of another user's broker. A new file gets the owner of its
 * directory.
 */
async function keepOwner(file: FileHandle, path: string, directory: string): Promise<void> {
  if (process.getuid?.() !== 0) return
  const { uid, gid } = await stat(path).catch(() => stat(directory))
  await file.chown(uid, gid)
}

async function syncNames(directory: string): Promise<void> {
  const names = await open(directory, 'r')
  try {
    await names.sync()
  } finally {
    await names.close()
  }
}

/**
 * Locks a file by creating another one beside it, with the process id; resolves with a function that unlocks
 * it. Rejects with `failed(error, path)`, where `path` is that of the lock, and `error` is null if another
 * process holds it too long.
 */
export async function lockFile(
  directory: string,
  name: string,
  failed: (error: unknown, path: string) => Error,
): Promise<() => Promise<void>> {
  const path = join(directory, `${name}.lock`)
  const until = performance.now() + LOCK_WAIT_MS
  for (;;) {
    try {
      const file = await open(path, 'wx', 0o600)
      await file.writeFile(`${process.pid}\n`)
      await file.close()
      return () => rm(path, { force: true })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw failed(error, path)
    }
    if (await isStale(path)) await rm(path, { force: true })
    else if (performance.now() > until) throw failed(null, path)
    else await sleep(20)
  }
}

async function isStale(path: string): Promise<boolean> {
  try {
    const { mtimeMs } = await stat(path)
    if (Date.now() - mtimeMs > LOCK_STALE_MS) return true
    const processId = Number(await readFile(path, 'utf8'))
    return processId > 0 && !isRunning(processId)
  } catch {
    // The lock is gone.
    return false
  }
}

function isRunning(processId: number): boolean {
  try {
    process.kill(processId, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH'
  }
}
