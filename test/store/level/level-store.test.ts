import { mkdtemp, readdir, rename, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { LevelStoreOptions } from '../../../src/store/level/level-options.ts'
import { LevelStore } from '../../../src/store/level/level-store.ts'
import { storeContract } from '../contract.ts'
import { logsContract } from '../logs-contract.ts'
import { delivery, ModelServer, message } from '../model.ts'
import { hookedWriter } from '../recorded.ts'

const MIB = 1024 * 1024

function levelStore(directory: string, options: Partial<LevelStoreOptions> = {}): LevelStore {
  return new LevelStore({ directory, sync: false, residentBytesMax: 64 * MIB, reserveBytes: 0, ...options })
}

storeContract('LevelStore', levelStore, { durable: true })

storeContract(
  'LevelStore that checkpoints, evicts and deletes all the time',
  (directory) =>
    levelStore(directory, { residentBytesMax: 4000, checkpointJournalBytes: 40_000, writeBufferBytes: 4096 }),
  { durable: true },
)

logsContract('LevelStore', levelStore, { durable: true })

logsContract(
  'LevelStore that checkpoints and reads back all the time',
  (directory) =>
    levelStore(directory, {
      ...{ residentBytesMax: 4000, checkpointJournalBytes: 40_000, writeBufferBytes: 4096 },
      ...{ logCacheBytesMax: 100_000, openLogBytesMax: 20_000 },
    }),
  { durable: true },
)

storeContract(
  'LevelStore with a redo log',
  (directory) =>
    levelStore(directory, {
      ...{ sync: true, redoHalfBytes: 64 * 1024 },
      ...{ residentBytesMax: 4000, checkpointJournalBytes: 40_000, writeBufferBytes: 65_536 },
    }),
  { durable: true },
)

describe('a store that this process founded', () => {
  let directory: string

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'godwit-level-'))
  })

  afterEach(async () => {
    await rm(directory, { recursive: true, force: true })
  })

  test('is kept when it is opened again and refused', async () => {
    const server = new ModelServer(levelStore(directory))
    await server.open()
    server.createSession(1)
    server.enqueue(1, delivery(message('a', 'kept')))
    await server.commit()
    await server.store.close()
    const before = server.describe()
    await rename(join(directory, 'CURRENT'), join(directory, 'moved away'))
    const files = (await readdir(directory)).sort()
    await expect(server.open()).rejects.toThrow('has lost its file CURRENT')
    expect((await readdir(directory)).sort()).toEqual(files)
    await rename(join(directory, 'moved away'), join(directory, 'CURRENT'))
    await server.open()
    await server.restoreAll()
    expect(server.describe()).toBe(before)
    await server.store.close()
  })

  test('reports a failure once, although the commit in flight fails after it', async () => {
    let fail: () => void = () => {}
    const held = new Promise<void>((_resolve, reject) => {
      fail = () => reject(new Error('IO error: the commit in flight'))
    })
    let isHeld = false
    const openBatch = hookedWriter((_operations, commit) => (isHeld ? commit().then(() => held) : commit()))
    const store = levelStore(directory, { openBatch, syncEverySeconds: 3600 })
    const server = new ModelServer(store)
    await server.open()
    server.createSession(1)
    await server.commit()
    // Large commits go to LevelDB.
    const large = 'x'.repeat(100_000)
    server.enqueue(1, delivery(message('a', large)))
    await server.commit()
    isHeld = true
    server.enqueue(1, delivery(message('a', large)))
    store.commit()
    await rename(directory, `${directory} moved away`)
    await store.sync()
    await rename(`${directory} moved away`, directory)
    fail()
    await held.catch(() => {})
    await store.close()
    expect(server.failures.map(({ message: text }) => text)).toHaveLength(1)
  })
})
