/** Commits that were not synced one by one (`durability: interval`), after a crash of the machine. */
import { readFileSync } from 'node:fs'
import { cp, mkdtemp, open, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { checkStore } from '../../../src/cli/actions/store-commands.ts'
import { REDO_FILE } from '../../../src/store/files/data-directory.ts'
import { type BatchMaker, openBatch } from '../../../src/store/files/database.ts'
import { RedoLog } from '../../../src/store/files/redo-log.ts'
import { readRedo } from '../../../src/store/files/redo-replay.ts'
import { crc32c } from '../../../src/store/format/crc32c.ts'
import type { LevelStoreOptions } from '../../../src/store/level/level-options.ts'
import { LevelStore } from '../../../src/store/level/level-store.ts'
import { killedCopy } from '../killed-copy.ts'
import { act, delivery, ModelServer, message, Random } from '../model.ts'

let root: string
let count = 0

/** The disk of the store under test: at least so much of its files is durable. */
interface Durable {
  readonly path: string
  /** Bytes of each of LevelDB's logs. */
  readonly logs: Map<string, number>
  redo: Buffer | null
}

let durable: Durable | null = null

vi.mock('../../../src/store/files/log-sync.ts', async (original) => {
  const module = await original<typeof import('../../../src/store/files/log-sync.ts')>()
  const syncLogs = async (path: string): Promise<void> => {
    const sizes = await logSizes(path)
    await module.syncLogs(path)
    if (durable?.path !== path) return
    for (const [name, size] of sizes) durable.logs.set(name, size)
  }
  return { ...module, syncLogs }
})

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'godwit-log-end-'))
})

afterEach(async () => {
  durable = null
  vi.restoreAllMocks()
  await rm(root, { recursive: true, force: true })
})

/** Notes from now on how much of the store's files is durable. */
function watchDisk(path: string): Durable {
  const disk: Durable = { path, logs: new Map(), redo: null }
  durable = disk
  const { sync, mark } = RedoLog.prototype
  vi.spyOn(RedoLog.prototype, 'sync').mockImplementation(async function (this: RedoLog) {
    const bytes = readFileSync(join(path, REDO_FILE))
    await sync.call(this)
    disk.redo = bytes
  })
  vi.spyOn(RedoLog.prototype, 'mark').mockImplementation(async function (this: RedoLog, settled) {
    await mark.call(this, settled)
    disk.redo = readFileSync(join(path, REDO_FILE))
  })
  return disk
}

/** Notes what LevelDB syncs by itself. */
const watchedBatch: BatchMaker = (db) => {
  const batch = openBatch(db)
  const write = async (isSynced: boolean): Promise<void> => {
    await batch.write(isSynced)
    if (!isSynced || durable === null) return
    const [name, size] = [...(await logSizes(durable.path))].at(-1)!
    durable.logs.set(name, size)
  }
  return { add: (operations) => batch.add(operations), write }
}

async function logSizes(path: string): Promise<Map<string, number>> {
  const sizes = new Map<string, number>()
  for (const name of await logsIn(path)) {
    // LevelDB may have removed it.
    sizes.set(name, await sizeOf(join(path, name)).catch(() => 0))
  }
  return sizes
}

function directory(): string {
  return join(root, String(++count))
}

/** The store syncs by itself at intervals, or only in `close` if the interval is longer than the test. */
function storeOn(
  path: string,
  syncEverySeconds: number,
  options: Partial<LevelStoreOptions> = {},
): LevelStore {
  return new LevelStore({
    directory: path,
    sync: false,
    syncEverySeconds,
    residentBytesMax: 1_000_000,
    reserveBytes: 0,
    ...options,
  })
}

const NEVER = 1_000_000
const LASTING = 100
const SECTOR_BYTES = 512
const NEW_SEED = Number(process.env.GODWIT_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31))

function copied(path: string): string {
  const copy = directory()
  killedCopy(path, copy)
  return copy
}

async function logsIn(path: string): Promise<string[]> {
  const names = (await readdir(path)).filter((name) => /^\d+\.log$/.test(name))
  return names.sort((one, other) => Number.parseInt(one, 10) - Number.parseInt(other, 10))
}

async function sizeOf(path: string): Promise<number> {
  return (await stat(path)).size
}

/** Opens the store and returns the number of the commit whose state it has. */
async function recovered(
  path: string,
  server: ModelServer,
): Promise<{ commit: number; notice: string | undefined }> {
  const again = new ModelServer(storeOn(path, NEVER))
  const { notice } = await again.open()
  await again.restoreAll()
  const text = again.describe()
  const { committedSequence } = again.store
  await again.store.close()
  expect(text, `commit ${committedSequence}`).toBe(server.states.get(committedSequence) ?? '')
  return { commit: committedSequence, notice }
}

/** Leaves what a disk has after a power cut: parts of the unsynced data, with holes. */
async function losePower(path: string, { logs: synced, redo }: Durable, random: Random): Promise<string> {
  const told = [await loseRedo(join(path, REDO_FILE), redo!, random)]
  for (const name of await logsIn(path)) {
    const file = join(path, name)
    const bytes = await readFile(file)
    const from = synced.get(name) ?? 0
    const how = random.pick(['whole', 'cut', 'hole', 'gone'])
    if (how === 'cut') await truncate(file, from + random.below(bytes.length - from + 1))
    else if (how === 'gone' && from === 0) await rm(file)
    else if (how === 'hole' && bytes.length > from) {
      const at = from + random.below(bytes.length - from)
      const to = at + 1 + random.below(Math.min(bytes.length - at, 9000))
      bytes.fill(0, at, to)
      await writeFile(file, bytes)
      told.push(`zeros from ${at} to ${to}`)
    }
    told.push(`${name} ${how} of ${bytes.length}, ${from} synced`)
  }
  return told.join(', ')
}

/** Leaves the redo log with any of the sectors that were written and not synced. */
async function loseRedo(path: string, synced: Buffer, random: Random): Promise<string> {
  const written = await readFile(path)
  const share = random.pick([0, 0.5, 0.9, 1])
  let lost = 0
  for (let at = 0; at < written.length; at += SECTOR_BYTES) {
    const old = synced.subarray(at, at + SECTOR_BYTES)
    if (old.equals(written.subarray(at, at + SECTOR_BYTES)) || random.chance(share)) continue
    old.copy(written, at)
    lost++
  }
  await writeFile(path, written)
  return `${lost} sectors of the redo log`
}

describe('the CRC of LevelDB', () => {
  test('is that of RFC 3720', () => {
    expect(crc32c(Buffer.alloc(32))).toBe(0x8a9136aa)
    expect(crc32c(Buffer.alloc(32, 0xff))).toBe(0x62a8ab43)
    expect(crc32c(Buffer.from('123456789'))).toBe(0xe3069283)
  })
})

describe('commits that are synced together', () => {
  test('are synced one interval after the first, with all that came meanwhile [field-E30]', async () => {
    const server = new ModelServer(storeOn(directory(), 0.01))
    const store = server.store as LevelStore
    await server.open()
    server.createSession(1)
    for (let round = 0; round < 3; round++) {
      server.enqueue(1, delivery(message('t', `${round}`)))
      await server.commit()
      const { committedSequence } = store
      await expect.poll(() => store.syncedSequence).toBeGreaterThanOrEqual(committedSequence)
    }
    await store.close()
  })

  test.each([1, NEW_SEED])(
    'are a prefix that has everything synced, whatever a power cut leaves of the logs, seed %i [field-E30]',
    async (seed) => {
      const random = new Random(seed)
      const ways = new Set<string>()
      for (let round = 0; round < 12; round++) {
        const path = directory()
        const disk = watchDisk(path)
        // Small write buffers: the log changes again and again. Seldom synced, most commits go to LevelDB.
        const server = new ModelServer(
          storeOn(path, NEVER, {
            writeBufferBytes: random.pick([65_536, 8_388_608]),
            redoHalfBytes: random.pick([48 * 1024, 1024 * 1024]),
            openBatch: watchedBatch,
          }),
        )
        const syncs = random.pick([0.01, 0.1])
        const bytesMax = random.pick([200, 2000])
        const store = server.store as LevelStore
        await server.open()
        server.createSession(LASTING)
        const steps = 200 + random.below(600)
        for (let step = 0; step < steps; step++) {
          act(server, random, step)
          const text = 'x'.repeat(random.below(bytesMax))
          if (step % 5 === 0) server.enqueue(LASTING, delivery(message('t', text)))
          if (random.chance(0.2)) await server.commit()
          if (!random.chance(syncs)) continue
          await server.commit()
          await store.sync()
        }
        const { syncedSequence } = store
        await server.commit()
        const copy = copied(path)
        const what = `seed ${seed}, round ${round}: ${await losePower(copy, disk, random)}`
        durable = null
        vi.restoreAllMocks()
        ways.add(readRedo(await readFile(join(copy, REDO_FILE)))!.commits.length > 0 ? 'log' : 'LevelDB')
        await store.close()
        const sound = await checkStore(copy)
        expect(sound, `${what}: ${sound.text}`).toMatchObject({ isSound: true })
        const { commit } = await recovered(copy, server)
        expect(commit, what).toBeGreaterThanOrEqual(syncedSequence)
        await rm(copy, { recursive: true })
        await rm(path, { recursive: true })
      }
      // Makes sure that the run did what it is for.
      expect(ways).toEqual(new Set(['log', 'LevelDB']))
    },
  )

  interface HalfSynced {
    readonly server: ModelServer
    /** The latest commit that is certainly synced, and the latest one of all. */
    readonly synced: number
    readonly acknowledged: number
    readonly log: string
    readonly syncedBytes: number
  }

  /** Makes a store whose last commits are not synced. Its server knows the state after each commit. */
  async function halfSynced(path: string): Promise<HalfSynced> {
    const server = new ModelServer(storeOn(path, NEVER))
    const store = server.store as LevelStore
    await server.open()
    server.createSession(1)
    for (let index = 0; index < 50; index++) {
      server.enqueue(1, delivery(message('t', `${index} `.repeat(700))))
      await server.commit()
    }
    await store.sync()
    const { syncedSequence: synced } = store
    expect(synced).toBe(store.committedSequence)
    const [log] = await logsIn(path)
    const syncedBytes = await sizeOf(join(path, log!))
    for (let index = 50; index < 100; index++) {
      server.enqueue(1, delivery(message('t', `${index} `.repeat(700))))
      await server.commit()
    }
    const { committedSequence: acknowledged } = store
    const copy = copied(path)
    await store.close()
    await rm(path, { recursive: true })
    await cp(copy, path, { recursive: true })
    return { server, synced, acknowledged, syncedBytes, log: log! }
  }

  test('end at a hole in unsynced data, and the start reports it [field-E30]', async () => {
    const path = directory()
    const { server, synced, syncedBytes, log } = await halfSynced(path)
    const file = await open(join(path, log), 'r+')
    await file.write(Buffer.alloc(200), 0, 200, syncedBytes + 30_000)
    await file.close()
    expect(await checkStore(path)).toEqual({
      isSound: true,
      text: expect.stringContaining('nothing is damaged'),
    })
    const { commit, notice } = await recovered(path, server)
    expect(commit).toBeGreaterThan(synced)
    expect(commit).toBeLessThan(synced + 50)
    expect(notice).toContain('The machine had crashed')
    expect((await readdir(path)).filter((name) => name.endsWith('.cut'))).toEqual([])
  })

  test('are refused as damaged if the hole is in synced data [field-E30]', async () => {
    const path = directory()
    const { syncedBytes, log } = await halfSynced(path)
    const file = await open(join(path, log), 'r+')
    await file.write(Buffer.alloc(200), 0, 200, Math.floor(syncedBytes / 2))
    await file.close()
    expect(await checkStore(path)).toMatchObject({ isSound: false })
    const again = new ModelServer(storeOn(path, NEVER))
    await expect(again.open()).rejects.toMatchObject({ kind: 'corrupt' })
  })

  test('all survive a kill of the process [field-E30]', async () => {
    const path = directory()
    const { server, acknowledged } = await halfSynced(path)
    const { commit, notice } = await recovered(path, server)
    expect(notice).toBeUndefined()
    expect(commit).toBe(acknowledged)
  })
})

/** Makes a store whose commits were synced one by one, and a hole in the middle of LevelDB's log. */
async function holed(commits: number, textBytes: number): Promise<{ copy: string; wanted: string }> {
  const path = directory()
  const server = new ModelServer(storeOn(path, 0, { sync: true }))
  await server.open()
  server.createSession(1)
  for (let index = 0; index < commits; index++) {
    server.enqueue(1, delivery(message('t', `${index} `.padEnd(textBytes, '.'))))
    await server.commit()
  }
  const copy = copied(path)
  const wanted = server.describe()
  await server.store.close()
  const [log] = await logsIn(copy)
  const file = await open(join(copy, log!), 'r+')
  await file.write(Buffer.alloc(100), 0, 100, Math.floor((await sizeOf(join(copy, log!))) / 2))
  await file.close()
  return { copy, wanted }
}

describe('a hole after commits that were synced one by one', () => {
  test('is damage and never cut off if they are in LevelDB only [field-E30]', async () => {
    const { copy } = await holed(60, 100_000)
    await expect(new ModelServer(storeOn(copy, 0, { sync: true })).open()).rejects.toMatchObject({
      kind: 'corrupt',
    })
  })

  test('is filled if they are in the redo log', async () => {
    const { copy, wanted } = await holed(150, 2000)
    const again = new ModelServer(storeOn(copy, 0, { sync: true }))
    await again.open()
    await again.restoreAll()
    expect(again.describe()).toBe(wanted)
    await again.store.close()
  })
})
