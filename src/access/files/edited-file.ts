/** Text files of the data directory that several processes may change: one at a time, and a crash leaves the old one or the new one. */
import { type FileHandle, open, readFile, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

const LOCK_WAIT_MS = 10_000
/** A lock is held for milliseconds: one that is so old was left by a process that is gone. */
const LOCK_STALE_MS = 5_000

/** Writes the file as a whole, for its owner alone. Rejects with what the file system says; then the old one is there. */
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

/** Root may edit what another user's broker reads: the file goes on belonging to that user, as its directory does. */
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
 * Takes the lock of a file, another file with the number of the process; resolves with what gives it back. Rejects with what
 * `failed` makes of the error and the lock's path; of null where somebody else has it for too long.
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
    // It is gone.
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
