/** Logs after a crash at every commit, and what is told of damaged, missing and repeated parts of them. */
import { rm } from 'node:fs/promises'
import { describe, expect, test } from 'vitest'
import {
  FORMAT_VERSION,
  keyNumber,
  keyPosition,
  META_KEY,
  QUEUE_FORMAT,
  Table,
  tableRange,
} from '../../src/store/format/format.ts'
import { formatOf } from '../../src/store/format/meta.ts'
import type { LevelStoreOptions } from '../../src/store/level/level-options.ts'
import { LevelStore } from '../../src/store/level/level-store.ts'
import { busyStore, directories } from './busy-store.ts'
import { killedCopy } from './killed-copy.ts'
import { actOnLogs, entry, LogModel } from './log-model.ts'
import { Random } from './model.ts'
import { type Batch, hookedWriter, recordingWriter, replay, withRaw } from './recorded.ts'

const directory = directories('godwit-logs-crash-')

function logStore(path: string, options: Partial<LevelStoreOptions> = {}): LevelStore {
  return busyStore(path, { openLogBytesMax: 30_000, ...options })
}

/** Does random operations. Returns the batches, and the model, which knows the state of each. */
async function recordedRun(seed: number, steps: number): Promise<{ model: LogModel; batches: Batch[] }> {
  const batches: Batch[] = []
  const model = new LogModel(logStore(directory(), { openBatch: recordingWriter(batches) }))
  const random = new Random(seed)
  await model.open()
  model.createSession()
  for (let step = 0; step < steps; step++) {
    actOnLogs(model, random, seed % 2 === 0 ? 300 : 6000)
    if (random.chance(0.1)) model.store.commit()
    if (random.chance(0.1)) await model.commit()
    if (random.chance(0.05)) await new Promise((resolve) => setImmediate(resolve))
  }
  await model.commit()
  return { model, batches }
}

/** Opens the store, and returns the model that took it over. */
async function opened(path: string): Promise<LogModel> {
  const model = new LogModel(logStore(path))
  await model.open()
  return model
}

describe('a crash after any commit', () => {
  test.each([1, 2, 3, 4])('leaves the state of that commit, seed %i', async (seed) => {
    const { model, batches } = await recordedRun(seed, 500)
    await model.store.close()
    let compared = 0
    for (let commits = 2; commits <= batches.length; commits += 1 + (commits % 3)) {
      const path = directory()
      await replay(path, batches.slice(0, commits))
      const again = await opened(path)
      const sequence = again.store.committedSequence
      const state = model.states.get(sequence)
      if (state !== undefined) expect(again.describe(), `after commit ${commits}`).toBe(state)
      if (state !== undefined) compared++
      await again.store.close()
      const once = await opened(path)
      if (state !== undefined) expect(once.describe()).toBe(state)
      await once.store.close()
      await rm(path, { recursive: true })
    }
    expect(compared).toBeGreaterThan(batches.length / 4)
  })

  test('leaves a sound store when several definitions are being deleted', async () => {
    const path = directory()
    const model = await opened(path)
    model.createSession()
    const [small, large] = [model.declare('small'), model.declare('large')]
    for (let each = 0; each < 300; each++) model.append(large, 0, entry('x'.repeat(66_000)))
    await model.commit()
    // Its first segment is completed in the commit of its deletion, which deletes segments of the other one.
    for (let each = 0; each < 1500; each++) model.append(small, 0, entry('y'))
    model.delete('small')
    model.delete('large')
    await model.commit()
    const copy = directory()
    killedCopy(path, copy)
    await model.store.close()
    const again = await opened(copy)
    expect(again.queues.size).toBe(0)
    await again.store.close()
  })

  test('leaves nothing of a definition that is being deleted', async () => {
    const path = directory()
    const model = await opened(path)
    model.createSession()
    const queue = model.declare('jobs')
    for (let each = 0; each < 200; each++) model.append(queue, 0, entry('x'.repeat(60_000)))
    await model.commit()
    model.delete('jobs')
    await model.commit()
    const copy = directory()
    await killedCopy(path, copy)
    await model.store.close()
    const again = await opened(copy)
    expect(again.queues.size).toBe(0)
    for (let commits = 0; commits < 4; commits++) {
      again.store.recordTime()
      await again.commit()
    }
    await again.store.close()
    expect(await keysOf(copy, Table.Log)).toEqual([])
    expect(await keysOf(copy, Table.LogDirectory)).toEqual([])
    expect(await keysOf(copy, Table.Definition)).toEqual([])
  })
})

test('nothing is left on disk of a log that is settled', async () => {
  const path = directory()
  const model = await opened(path)
  model.createSession()
  const random = new Random(5)
  for (let step = 0; step < 600; step++) {
    actOnLogs(model, random)
    if (random.chance(0.1)) await model.commit()
  }
  for (const queue of model.queues.values())
    for (const lane of queue.live.keys()) model.settle(queue, lane, 1, queue.nexts[lane]!)
  await model.commit()
  for (let commits = 0; commits < 9; commits++) {
    model.store.recordTime()
    await model.commit()
  }
  await model.store.close()
  expect(await keysOf(path, Table.Log)).toEqual([])
  expect(await keysOf(path, Table.LogDirectory)).toEqual([])
})

test('a queue that is consumed as it fills is never written as a segment', async () => {
  const batches: Batch[] = []
  const model = new LogModel(logStore(directory(), { openBatch: recordingWriter(batches) }))
  await model.open()
  model.createSession()
  const queue = model.declare('jobs')
  for (let each = 0; each < 3000; each++) {
    const sequence = model.append(queue, 0, entry('x'.repeat(200)))
    if (each >= 10) model.settle(queue, 0, sequence - 10, sequence - 9)
    await model.commit()
  }
  const puts = batches.flat().filter(({ type, key }) => type === 'put' && key[0] === Table.LogDirectory)
  expect(puts).toEqual([])
  expect(model.store.logs.memoryBytes).toBeLessThan(300_000)
  await model.store.close()
})

test('a commit that cannot be written when a segment is read is a failure of the store', async () => {
  const path = directory()
  const error = new Error('IO error: 000003.log: Input/output error')
  let fails = false
  const openBatch = hookedWriter((_operations, commit) => (fails ? Promise.reject(error) : commit()))
  const model = new LogModel(
    new LevelStore({
      directory: path,
      sync: true,
      reserveBytes: 0,
      residentBytesMax: 64_000_000,
      redoHalfBytes: 1024 * 1024,
      openBatch,
    }),
  )
  await model.open()
  const queue = model.declare('jobs')
  for (let each = 0; each < 2100; each++) model.append(queue, 0, entry('x'.repeat(200)))
  await model.commit()
  const { store } = model
  const [log] = queue.record.logs
  // It reads segments that are written.
  expect((await store.logs.load(log!, 1))?.first).toBe(1)
  store.logs.forget(log!)
  // Small commits go to the redo log, and to LevelDB behind it.
  for (let each = 0; each < 20; each++) {
    model.append(queue, 0, entry('late'))
    await model.commit()
  }
  fails = true
  model.append(queue, 0, entry('last'))
  await model.commit()
  expect(model.failures).toEqual([])
  await expect(store.logs.load(log!, 1)).rejects.toMatchObject({ kind: 'io' })
  expect(model.failures.map((failure) => failure.kind)).toEqual(['io'])
})

describe('damage', () => {
  /** Makes a store with 5,000 messages in queue jobs, of which 1,000 in the middle are settled. */
  async function filled(): Promise<string> {
    const path = directory()
    const model = await opened(path)
    model.createSession()
    const queue = model.declare('jobs')
    for (let each = 0; each < 5000; each++) {
      model.append(queue, 0, entry(`message ${each}`))
      if (each % 700 === 0) await model.commit()
    }
    model.settle(queue, 0, 2000, 3000)
    await model.commit()
    for (let each = 0; each < 3; each++) {
      model.append(queue, 0, entry('late'))
      await model.commit()
    }
    await model.store.close()
    return path
  }

  test('a missing fragment is told with its queue, first and last sequence', async () => {
    const path = await filled()
    const keys = await keysOf(path, Table.Log)
    await withRaw(path, (db) => db.del(keys.at(-2)!))
    const first = keyPosition(keys.at(-2)!)
    await expect(opened(path)).rejects.toThrow(`messages ${first} to ${first} of queue jobs are missing`)
  })

  test('a missing last fragment is told, too', async () => {
    const path = await filled()
    const keys = await keysOf(path, Table.Log)
    await withRaw(path, (db) => db.del(keys.at(-1)!))
    await expect(opened(path)).rejects.toThrow(/messages 5003 to 5003 of queue jobs are missing/)
  })

  test('a missing segment of which a part is settled is told when the store is opened', async () => {
    const path = await filled()
    const keys = await keysOf(path, Table.Log)
    const partly = keys.findLast((key) => keyPosition(key) <= 2000)!
    await withRaw(path, (db) => db.del(partly))
    await expect(opened(path)).rejects.toThrow(/messages \d+ to \d+ of queue jobs are missing or damaged/)
  })

  test('a missing segment is told when it is read', async () => {
    const path = await filled()
    const keys = await keysOf(path, Table.Log)
    await withRaw(path, (db) => db.del(keys[0]!))
    await expect(opened(path)).rejects.toMatchObject({ kind: 'corrupt' })
  })

  test('a damaged value of each table is told', async () => {
    for (const table of [
      Table.Definition,
      Table.LogDirectory,
      Table.Group,
      Table.GroupCheckpoint,
      Table.Log,
    ]) {
      const path = await filled()
      const key = (await keysOf(path, table)).at(-1)!
      await withRaw(path, async (db) => {
        const value = Buffer.from((await db.get(key))!)
        value[value.length >>> 1]! ^= 0x10
        await db.put(key, value)
      })
      await expect(opened(path), `table ${table}`).rejects.toMatchObject({ kind: 'corrupt' })
    }
  })

  test('a directory that begins too late is told', async () => {
    const path = await filled()
    const [first] = await keysOf(path, Table.LogDirectory)
    await withRaw(path, (db) => db.del(first!))
    await expect(opened(path)).rejects.toMatchObject({ kind: 'corrupt' })
  })

  test('a repeated fragment is told', async () => {
    const path = await filled()
    const key = (await keysOf(path, Table.Log)).at(-1)!
    const repeated = Buffer.from(key)
    repeated.writeUIntBE(keyPosition(key) + 1, 7, 6)
    await withRaw(path, async (db) => db.put(repeated, (await db.get(key))!))
    await expect(opened(path)).rejects.toMatchObject({ kind: 'corrupt' })
  })
})

describe('the format', () => {
  test('rises with the first definition, not before', async () => {
    const path = directory()
    const model = await opened(path)
    model.createSession()
    await model.commit()
    expect(await formatIn(path, model)).toBe(FORMAT_VERSION)
    const again = await opened(path)
    again.declare('jobs')
    await again.commit()
    const copy = directory()
    await killedCopy(path, copy)
    expect(await withRaw(copy, async (db) => formatOf((await db.get(META_KEY))!))).toBe(QUEUE_FORMAT)
    await again.store.close()
    const last = await opened(path)
    expect((last.store as LevelStore).format).toBe(QUEUE_FORMAT)
    await last.commit()
    expect(await formatIn(path, last)).toBe(QUEUE_FORMAT)
  })
})

async function formatIn(path: string, model: LogModel): Promise<number | null> {
  await model.store.close()
  return withRaw(path, async (db) => formatOf((await db.get(META_KEY))!))
}

async function keysOf(path: string, table: Table): Promise<Buffer[]> {
  const keys = await withRaw(path, (db) => db.keys(tableRange(table)).all())
  return keys.sort((a, b) => keyNumber(a) - keyNumber(b) || keyPosition(a) - keyPosition(b))
}
