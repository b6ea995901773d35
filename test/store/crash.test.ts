/** The state after a crash at every commit, and the effect of a damaged or lost value. */
import { readdir, readFile, rm, unlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { ByteReader } from '../../src/store/format/encoding.ts'
import {
  FORMAT_MAX,
  INDEXED_PAGES,
  keyNumber,
  META_KEY,
  Table,
  tableRange,
  unsealed,
} from '../../src/store/format/format.ts'
import { decodeMeta } from '../../src/store/format/meta.ts'
import type { LevelStoreOptions } from '../../src/store/level/level-options.ts'
import { StoreError } from '../../src/store/store.ts'
import { busyStore, directories } from './busy-store.ts'
import { killedCopy } from './killed-copy.ts'
import { act, delivery, ModelServer, message, Random } from './model.ts'
import { type Batch, hookedWriter, recordingWriter, replay, resealed, withRaw } from './recorded.ts'

const directory = directories('godwit-crash-')

/** Does random operations. Returns the batches, and the state that each must bring back. */
async function recordedRun(
  seed: number,
  steps: number,
  path: string,
  options: Partial<LevelStoreOptions> = {},
): Promise<{ server: ModelServer; batches: Batch[] }> {
  const batches: Batch[] = []
  const server = new ModelServer(busyStore(path, { openBatch: recordingWriter(batches), ...options }))
  const random = new Random(seed)
  await server.open()
  await sediment(server)
  for (let step = 0; step < steps; step++) {
    act(server, random, step)
    if (random.chance(0.05)) server.store.commit()
    if (random.chance(0.02)) await server.commit()
    if (random.chance(0.005)) await server.restoreAll()
    // Gives background work of the store a turn.
    if (random.chance(0.02)) await new Promise((resolve) => setImmediate(resolve))
  }
  await server.commit()
  return { server, batches }
}

/** Makes nearly empty pages: Session 100 keeps one message of forty, and the others are soon gone. */
async function sediment(server: ModelServer): Promise<void> {
  server.createSession(100)
  server.createSession(101)
  for (let index = 0; index < 2000; index++) {
    const kept = index % 40 === 0
    server.enqueue(kept ? 100 : 101, delivery(message('sediment', `${index} `.repeat(40))))
    if (!kept) server.drop(101)
    if (index % 100 === 99) await server.commit()
  }
}

/**
 * Expects the page index to name exactly the pages that exist below the scan. Returns the number of all
 * pages.
 */
async function auditPages(path: string): Promise<number> {
  return withRaw(path, async (db) => {
    const meta = decodeMeta(await db.get(META_KEY), path)
    const pages = (await db.keys(tableRange(Table.Journal)).all()).map(keyNumber)
    const listed: number[] = []
    for (const [key, value] of await db.iterator(tableRange(Table.PageIndex)).all()) {
      const reader = new ByteReader(unsealed(key, value))
      for (let number = keyNumber(key) * INDEXED_PAGES; !reader.atEnd; number++) {
        if (reader.varint() > 0) listed.push(number)
      }
    }
    expect(listed).toEqual(pages.filter((number) => number < meta.scanFromPage))
    return pages.length
  })
}

function has(batch: Batch, type: 'put' | 'del', table: number): boolean {
  return batch.some((operation) => operation.type === type && operation.key[0] === table)
}

/** Checkpoints taken early, so that LevelDB's log bounds the scan; and late, so that dirty Sessions do. */
const EARLY = { checkpointJournalBytes: 20_000, writeBufferBytes: 4096 }
const LATE = { checkpointJournalBytes: 400_000, writeBufferBytes: 1024 }
const NEW_SEED = Math.floor(Math.random() * 0x7fffffff)

test.each([
  [11, 'early', EARLY],
  [12, 'late', LATE],
  [266785055, 'early', EARLY],
  [NEW_SEED, 'early', EARLY],
  [NEW_SEED, 'late', LATE],
])(
  'every prefix of the commits is a consistent state, seed %i, checkpoints %s',
  async (seed, _when, options) => {
    const { server, batches } = await recordedRun(seed, 5000, directory(), options)
    await server.store.close()
    // Makes sure that the run did what it is for.
    expect(batches.some((batch) => has(batch, 'put', Table.CheckpointSegment))).toBe(true)
    expect(batches.some((batch) => has(batch, 'del', Table.Journal))).toBe(true)
    expect(batches.some((batch) => has(batch, 'put', Table.Forward))).toBe(true)
    const random = new Random(seed)
    for (let length = 1; length <= batches.length; length++) {
      if (batches.length > 40 && !random.chance(40 / batches.length) && length < batches.length - 5) continue
      const path = directory()
      await replay(path, batches.slice(0, length))
      const again = new ModelServer(busyStore(path, options))
      await again.open()
      await again.restoreAll()
      expect(again.describe(), `seed ${seed}, after commit ${length}`).toBe(server.states.get(length) ?? '')
      // The store also works from there on.
      for (let step = 0; step < 60; step++) act(again, random, 10_000 + step)
      await again.commit()
      const before = again.describe()
      await again.store.close()
      const third = new ModelServer(busyStore(path))
      await third.open()
      await third.restoreAll()
      expect(third.describe(), `seed ${seed}, after commit ${length}, reopened`).toBe(before)
      await third.store.close()
      await auditPages(path)
      await rm(path, { recursive: true })
    }
  },
)

test('a queue that is checkpointed over several commits is complete after each of them', async () => {
  const batches: Batch[] = []
  const options = { checkpointJournalBytes: 700_000, writeBufferBytes: 1024 }
  const server = new ModelServer(busyStore(directory(), { ...options, openBatch: recordingWriter(batches) }))
  await server.open()
  server.createSession(1)
  server.createSession(2)
  for (let count = 0; count < 3; count++) server.deliver(1, delivery(message('t', 'sent at once')))
  for (let index = 0; index < 30_000; index++) {
    server.enqueue(1, delivery(message('t', String(index))))
    if (index % 300 === 0) server.send(1)
    if (index === 19_000) for (let count = 0; count < 3000; count++) server.drop(1)
    if (index % 500 === 0) server.acknowledge(1, 1 + index / 1000)
    // Small commits in between: they checkpoint, too, but less than a long queue needs.
    if (index % 1000 > 990 || index % 1000 === 0) await server.commit()
  }
  await server.store.close()
  const checkpoints = batches.map((batch) => ({
    segments: batch.some(
      ({ type, key }) => type === 'put' && key[0] === Table.CheckpointSegment && keyNumber(key) === 1,
    ),
    head: batch.some(
      ({ type, key }) => type === 'put' && key[0] === Table.CheckpointHead && keyNumber(key) === 1,
    ),
  }))
  const ahead = checkpoints.map(({ segments, head }) => segments && !head)
  expect(ahead).toContain(true)
  for (let length = 2; length <= batches.length; length++) {
    if (!ahead[length - 1] && length % 41 !== 0) continue
    const path = directory()
    await replay(path, batches.slice(0, length))
    const again = new ModelServer(busyStore(path, options))
    await again.open()
    await again.restoreAll()
    expect(again.describe(), `after commit ${length}`).toBe(server.states.get(length))
    await again.store.close()
    const third = new ModelServer(busyStore(path, options))
    await third.open()
    await third.restoreAll()
    expect(third.describe(), `after commit ${length}, reopened`).toBe(server.states.get(length))
    await third.store.close()
    await rm(path, { recursive: true })
  }
})

test('a commit that LevelDB lost from its log is noticed', async () => {
  const { server, batches } = await recordedRun(21, 600, directory(), { writeBufferBytes: 1024 * 1024 })
  await server.store.close()
  for (let lost = 1; lost < batches.length - 1; lost++) {
    const path = directory()
    await replay(path, [...batches.slice(0, lost), ...batches.slice(lost + 1)])
    await expect(open(path), `without commit ${lost}`).rejects.toMatchObject({ kind: 'corrupt' })
  }
})

test('a lost commit is noticed while it may be in LevelDB’s log; older pages leave the scan', async () => {
  const writeBufferBytes = 20_000
  const { server, batches } = await recordedRun(23, 4000, directory(), { writeBufferBytes })
  await server.store.close()
  const bytes = batches.map((batch) =>
    batch.reduce((sum, entry) => sum + (entry.type === 'put' ? entry.value.length : 0), 0),
  )
  for (let length = 10; length <= batches.length; length += 5) {
    // The oldest commit that two write buffers still hold.
    let lost = length - 1
    for (let after = bytes[lost]!; lost > 1 && after + bytes[lost - 1]! < 2 * writeBufferBytes; lost--) {
      after += bytes[lost - 1]!
    }
    if (lost === length - 1) continue
    const path = directory()
    await replay(path, [...batches.slice(0, lost), ...batches.slice(lost + 1, length)])
    await expect(open(path), `${length} commits without ${lost}`).rejects.toMatchObject({ kind: 'corrupt' })
    await rm(path, { recursive: true })
  }
  expect(batches.some((batch) => has(batch, 'del', Table.Journal))).toBe(true)
})

test('a store that was closed cleanly does not accept a shorter journal', async () => {
  const { server, batches } = await recordedRun(22, 300, directory())
  await server.store.close()
  const path = directory()
  const clean = batches.at(-1)!.filter((operation) => operation.key[0] === Table.Meta)
  expect(clean).toHaveLength(1)
  await replay(path, [...batches.slice(0, -1), clean])
  await expect(open(path)).rejects.toMatchObject({ kind: 'corrupt' })
})

test('a damaged byte in any stored value is noticed at open or when it is read back', async () => {
  const path = directory()
  const { server } = await recordedRun(31, 500, path)
  await server.store.close()
  const random = new Random(31)
  const entries = await withRaw(path, (db) => db.iterator().all())
  const tables = new Set(entries.map(([key]) => key[0]))
  expect(tables).toContain(Table.Forward)
  expect(tables).toContain(Table.PageIndex)
  const noticed = { atOpen: 0, onRestore: 0 }
  for (const [key, value] of entries) {
    const damaged = Buffer.from(value)
    const at = random.below(value.length)
    damaged[at] = damaged[at]! ^ (1 << random.below(8))
    await withRaw(path, (db) => db.put(key, damaged))
    const again = new ModelServer(busyStore(path))
    const what = `key ${key.toString('hex')} byte ${at}`
    try {
      await again.store.open(again).then(
        () => {
          noticed.onRestore++
        },
        (error: unknown) => {
          expect(error, what).toMatchObject({ kind: 'corrupt' })
          expect((error as StoreError).advice).toContain('backup')
          noticed.atOpen++
        },
      )
      if (again.store.committedSequence > 0) {
        await again.store.close()
        const third = new ModelServer(busyStore(path))
        await third.open()
        const dead = await isDeadPage(third, key)
        const restored = third.restoreAll()
        if (dead) await restored
        else await expect(restored, what).rejects.toMatchObject({ kind: 'corrupt' })
        await third.store.close()
      }
    } finally {
      await withRaw(path, (db) => db.put(key, value))
    }
  }
  expect(noticed.atOpen).toBeGreaterThan(20)
})

/**
 * Returns whether no message of the Server lies in the page with this key, so that damage there costs
 * nothing.
 */
async function isDeadPage(server: ModelServer, key: Buffer): Promise<boolean> {
  const number = key.readUIntBE(1, 6)
  return !server.messages().some((held) => {
    const stored = held.stored as { page: { number: number } } | null
    return held.evicted && stored?.page.number === number
  })
}

async function open(path: string): Promise<void> {
  const store = busyStore(path)
  await store.open(new ModelServer(store))
  await store.close()
}

test('a failed commit is reported once, nothing more is acknowledged, the store opens again', async () => {
  for (let failing = 2; failing < 30; failing += 3) {
    for (const applied of [false, true]) {
      const path = directory()
      let batches = 0
      const openBatch = hookedWriter(async (_operations, commit) => {
        const fails = ++batches === failing
        if (!fails || applied) await commit()
        if (fails) throw new Error('IO error: 000003.log: Input/output error')
      })
      const server = new ModelServer(busyStore(path, { openBatch }))
      const random = new Random(failing)
      await server.open()
      for (let step = 0; step < 3000 && server.failures.length === 0; step++) {
        act(server, random, step)
        if (random.chance(0.05)) await server.commit()
      }
      expect(server.failures.map(({ kind }) => kind)).toEqual(['io'])
      expect(server.committedSequences).toEqual(range(2, failing - 1))
      expect(server.store.committedSequence).toBe(failing - 1)
      // Records and commits after the failure change nothing.
      for (let step = 0; step < 20; step++) act(server, random, 5000 + step)
      server.store.commit()
      expect(server.store.committedSequence).toBe(failing - 1)
      await server.open()
      await server.restoreAll()
      expect(server.describe()).toBe(server.states.get(applied ? failing : failing - 1) ?? '')
      expect(server.failures).toHaveLength(1)
      await server.store.close()
    }
  }
})

function range(from: number, to: number): number[] {
  return Array.from({ length: Math.max(to - from + 1, 0) }, (_, index) => from + index)
}

test('closing reports a commit that fails', async () => {
  let fails = false
  const openBatch = hookedWriter((_operations, commit) =>
    fails ? Promise.reject(new Error('IO error: No space left on device')) : commit(),
  )
  const server = new ModelServer(busyStore(directory(), { openBatch }))
  await server.open()
  server.createSession(1)
  fails = true
  await expect(server.store.close()).rejects.toMatchObject({ kind: 'full' })
  expect(server.failures).toHaveLength(1)
})

test('a second store on the same directory is refused', async () => {
  const path = directory()
  const server = new ModelServer(busyStore(path))
  await server.open()
  await expect(open(path)).rejects.toMatchObject({
    kind: 'locked',
    message: expect.stringContaining(`another broker runs on ${path}`),
  })
  await server.store.close()
  await open(path)
})

test('a newer format is refused, and a damaged version number is not taken for a newer format', async () => {
  const path = directory()
  await open(path)
  const meta = await withRaw(path, (db) => db.get(META_KEY))
  const newer = Buffer.from(meta.subarray(0, -4))
  newer.writeUInt16LE(FORMAT_MAX + 1, 6)
  await withRaw(path, (db) => db.put(META_KEY, resealed(META_KEY, newer)))
  await expect(open(path)).rejects.toMatchObject({
    kind: 'format',
    advice: expect.stringContaining('version'),
  })
  const damaged = Buffer.from(meta)
  damaged.writeUInt16LE(FORMAT_MAX + 1, 6)
  await withRaw(path, (db) => db.put(META_KEY, damaged))
  await expect(open(path)).rejects.toMatchObject({ kind: 'corrupt' })
})

test('a database of another program is refused', async () => {
  const path = directory()
  await withRaw(path, (db) => db.put(Buffer.from('something'), Buffer.from('else')))
  await expect(open(path)).rejects.toMatchObject({ kind: 'format' })
})

test('a directory that lost its CURRENT is refused, not founded again', async () => {
  const path = directory()
  await open(path)
  await unlink(join(path, 'CURRENT'))
  await expect(open(path)).rejects.toMatchObject({ kind: 'corrupt' })
})

test('a file in place of the directory is refused', async () => {
  const path = directory()
  await writeFile(path, '')
  await expect(open(path)).rejects.toMatchObject({ kind: 'access' })
})

test('disk space is freed while the store runs: dead pages go, nearly empty ones are moved', async () => {
  const path = directory()
  const batches: Batch[] = []
  const server = new ModelServer(busyStore(path, { openBatch: recordingWriter(batches) }))
  server.remember = false
  await server.open()
  server.createSession(1)
  server.createSession(2)
  // Session 1 keeps one message of fifty. Session 2 takes all the others.
  for (let index = 0; index < 20_000; index++) {
    const kept = index % 50 === 0
    server.enqueue(kept ? 1 : 2, delivery(message('t', `${index} `.repeat(40))))
    if (!kept) server.drop(2)
    if (index % 100 === 99) await server.commit()
    if (index % 500 === 499) await new Promise((resolve) => setTimeout(resolve, 2))
  }
  await server.store.close()
  const pages = await auditPages(path)
  const written = batches.flat().filter(({ type, key }) => type === 'put' && key[0] === Table.Journal).length
  expect(written).toBeGreaterThan(200)
  expect(pages).toBeLessThan(written / 4)
  const again = new ModelServer(busyStore(path))
  await again.open()
  await again.restoreAll()
  expect(
    again.session(1).queue.map((entry) => Number.parseInt(entry.message.payload.toString(), 10)),
  ).toEqual(Array.from({ length: 400 }, (_, index) => index * 50))
  await again.store.close()
})

test('a StoreError says what the operator can do', () => {
  expect(new StoreError('io', 'message', 'advice').advice).toBe('advice')
})

test('a byte flipped in LevelDB’s own log is noticed, or costs only the unfinished end', async () => {
  const path = directory()
  // Less than one write buffer: everything is still in the log.
  const server = new ModelServer(busyStore(path, { writeBufferBytes: 8 * 1024 * 1024 }))
  const random = new Random(41)
  await server.open()
  for (let step = 0; step < 3000; step++) {
    act(server, random, step)
    if (step % 10 === 0) await server.commit()
  }
  await server.commit()
  const states = new Set(server.states.values())
  const log = (await readdir(path)).find((file) => file.endsWith('.log'))!
  const { length } = await readFile(join(path, log))
  let noticed = 0
  for (let round = 0; round < 30; round++) {
    const copy = directory()
    killedCopy(path, copy)
    const bytes = await readFile(join(copy, log))
    const at = Math.floor((length * round) / 30) + random.below(Math.floor(length / 30))
    bytes[at] = bytes[at]! ^ 0x10
    await writeFile(join(copy, log), bytes)
    const damaged = new ModelServer(busyStore(copy))
    try {
      await damaged.open()
      await damaged.restoreAll()
      expect(states, `byte ${at} of ${length}`).toContain(damaged.describe())
      await damaged.store.close()
    } catch (error) {
      expect(error, `byte ${at} of ${length}`).toMatchObject({ kind: 'corrupt' })
      noticed++
    }
    await rm(copy, { recursive: true })
  }
  expect(noticed).toBeGreaterThan(20)
  await server.store.close()
})
