/** Stores with small bounds, each in a directory of its own, for tests that crash and damage them. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach } from 'vitest'
import type { LevelStoreOptions } from '../../src/store/level/level-options.ts'
import { LevelStore } from '../../src/store/level/level-store.ts'

/**
 * Returns a function that names a new directory each time. They are in one that begins with `prefix`, which
 * is made before each test of the file and removed after it.
 */
export function directories(prefix: string): () => string {
  let root: string
  let count = 0

  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), prefix))
  })

  afterEach(async () => {
    await rm(root, { recursive: true, force: true })
  })

  return () => join(root, String(++count))
}

/** Small bounds, so that a short run checkpoints, evicts, deletes and moves. */
export function busyStore(path: string, options: Partial<LevelStoreOptions> = {}): LevelStore {
  return new LevelStore({
    directory: path,
    sync: false,
    residentBytesMax: 4000,
    reserveBytes: 0,
    checkpointJournalBytes: 20_000,
    writeBufferBytes: 4096,
    ...options,
  })
}
