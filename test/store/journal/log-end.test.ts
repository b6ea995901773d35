/** Commits that were not synced one by one (`durability: interval`), after a crash of the machine. */
import { cp, mkdtemp, open, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { checkStore } from '../../../src/cli/actions/store-commands.ts'
import { crc32c } from '../../../src/store/format/crc32c.ts'
import type { LevelStoreOptions } from '../../../src/store/level/level-options.ts'
import { LevelStore } from '../../../src/store/level/level-store.ts'
import { killedCopy } from '../killed-copy.ts'
import { act, delivery, ModelServer, message, Random } from '../model.ts'

let root: string
let count = 0

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'godwit-log-end-'))
})

afterEach(async () => {
  await rm(root, { recursive: true, force: true })
})

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
async function losePower(path: string, synced: ReadonlyMap<string, number>, random: Random): Promise<string> {
  const told: string[] = []
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
      await expect
        .poll(() => store.syncedSequence, { timeout: 30_000 })
        .toBeGreaterThanOrEqual(committedSequence)
    }
    await store.close()
  })

  test.each([1, NEW_SEED])(
    'are a prefix that has everything synced, whatever a power cut leaves of the logs, seed %i [field-E30]',
    async (seed) => {
      const random = new Random(seed)
      for (let round = 0; round < 12; round++) {
        const path = directory()
        // Small write buffers: the log changes again and again.
        const server = new ModelServer(
          storeOn(path, NEVER, { writeBufferBytes: random.pick([65_536, 8_388_608]) }),
        )
        const store = server.store as LevelStore
        await server.open()
        // The first values of a new store are always synced.
        const [founded] = await logsIn(path)
        const synced = new Map([[founded!, await sizeOf(join(path, founded!))]])
        server.createSession(LASTING)
        const steps = 200 + random.below(600)
        for (let step = 0; step < steps; step++) {
          act(server, random, step)
          if (step % 5 === 0) server.enqueue(LASTING, delivery(message('t', 'x'.repeat(random.below(2000)))))
          if (random.chance(0.2)) await server.commit()
          if (!random.chance(0.01)) continue
          await server.commit()
          await store.sync()
          for (const name of await logsIn(path)) {
            const size = await sizeOf(join(path, name)).catch(() => 0)
            synced.set(name, size)
          }
        }
        const { syncedSequence } = store
        await server.commit()
        const copy = copied(path)
        const what = `seed ${seed}, round ${round}: ${await losePower(copy, synced, random)}`
        await store.close()
        const sound = await checkStore(copy)
        expect(sound, `${what}: ${sound.text}`).toMatchObject({ isSound: true })
        const { commit } = await recovered(copy, server)
        expect(commit, what).toBeGreaterThanOrEqual(syncedSequence)
        await rm(copy, { recursive: true })
        await rm(path, { recursive: true })
      }
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
