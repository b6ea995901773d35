/**
 * Start, check and repair agree about every store: sound ones at every commit, and all kinds of damaged ones.
 */
import { cp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { checkStore, repair } from '../../src/cli/actions/store-commands.ts'
import { markStore } from '../../src/store/files/data-directory.ts'
import {
  keyNumber,
  META_KEY,
  numberKey,
  segmentKey,
  Table,
  tableRange,
} from '../../src/store/format/format.ts'
import type { LevelStoreOptions } from '../../src/store/level/level-options.ts'
import type { LevelStore } from '../../src/store/level/level-store.ts'
import type { StoreError } from '../../src/store/store.ts'
import { busyStore, directories } from './busy-store.ts'
import { act, delivery, ModelServer, message, Random } from './model.ts'
import { type Batch, recordingWriter, replay, withRaw } from './recorded.ts'

const directory = directories('godwit-agreement-')

/** Checkpoints are rare, so that damage finds long journals. */
function rareCheckpoints(path: string, options: Partial<LevelStoreOptions> = {}): LevelStore {
  return busyStore(path, { checkpointJournalBytes: 400_000, ...options })
}

/**
 * Entries so large that one commit checkpoints one segment of them, and a longer queue takes several commits.
 */
const IDENTIFIERS = Array.from({ length: 20 }, (_, index) => 268_435_455 - index)

const LONG = 100

/** The queue of Session LONG moves at both ends by so many entries. */
function moveLongQueue(server: ModelServer, step: number, added: number, gone: number): void {
  for (let index = 0; index < added; index++) {
    const one = message('long', `${step}.${index}`)
    server.enqueue(LONG, delivery(one, { subscriptionIdentifiers: IDENTIFIERS }))
  }
  for (let index = 0; index < gone; index++) {
    if (index % 3 === 0) server.drop(LONG)
    else server.send(LONG)
  }
  // A few stay in flight.
  const sent = [...server.session(LONG).sent.keys()]
  for (const packetId of sent.slice(0, Math.max(0, sent.length - 20))) server.acknowledge(LONG, packetId)
}

/**
 * Does random operations beside a long queue. Returns the batches, and the state that each must bring back.
 */
async function recordedHistory(
  seed: number,
  steps: number,
): Promise<{ server: ModelServer; batches: Batch[] }> {
  const batches: Batch[] = []
  const server = new ModelServer(rareCheckpoints(directory(), { openBatch: recordingWriter(batches) }))
  const random = new Random(seed)
  await server.open()
  server.createSession(LONG)
  moveLongQueue(server, -1, 3000, 0)
  for (let step = 0; step < steps; step++) {
    act(server, random, step)
    if (random.chance(0.3)) moveLongQueue(server, step, random.below(500), random.below(500))
    if (random.chance(0.2)) await server.commit()
  }
  await server.commit()
  await server.store.close()
  return { server, batches }
}

/** Returns why a start refuses the store; null if it does not. Leaves the store as it is. */
async function startRefusal(path: string): Promise<StoreError | null> {
  const copy = directory()
  await cp(path, copy, { recursive: true })
  const server = new ModelServer(rareCheckpoints(copy))
  try {
    await server.open()
    await server.store.close()
    return null
  } catch (error) {
    return error as StoreError
  } finally {
    await rm(copy, { recursive: true })
  }
}

/** Expects that check and start agree, and that both find nothing after a repair. */
async function expectAgreement(path: string, what: string): Promise<void> {
  const refusal = await startRefusal(path)
  const { isSound, text } = await checkStore(path)
  if (refusal !== null)
    expect(isSound, `${what}: a start says: ${refusal.message}; check says: ${text}`).toBe(false)
  const repaired = await repair(path)
  expect(repaired.startsWith('repaired nothing'), `${what}: ${repaired}; check says: ${text}`).toBe(isSound)
  expect(await startRefusal(path), `${what}: ${repaired}`).toBeNull()
  expect(await checkStore(path), `${what}: ${repaired}`).toMatchObject({ isSound: true })
}

/** Compares long texts, and shows where they differ. */
function expectSame(text: string, wanted: string | undefined, what: string): void {
  if (text === wanted) return
  const [lines, wantedLines] = [text.split('\n'), wanted?.split('\n') ?? []]
  const at = lines.findIndex((line, index) => line !== wantedLines[index])
  expect({ at, line: lines[at] }, what).toEqual({ at: -1, line: wantedLines[at] })
}

const NEW_SEED = Number(process.env.GODWIT_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31))

function isSplit(batch: Batch): boolean {
  const puts = batch.filter(({ type, key }) => type === 'put' && key.length >= 7 && keyNumber(key) === 1)
  return (
    puts.some(({ key }) => key[0] === Table.CheckpointSegment) &&
    !puts.some(({ key }) => key[0] === Table.CheckpointHead)
  )
}

describe('whole stores', () => {
  test.each([1, NEW_SEED])(
    'a queue that moves at both ends is complete after every commit of its checkpoint, seed %i [field-A1]',
    async (seed) => {
      const { server, batches } = await recordedHistory(seed, 500)
      const split = batches.map(isSplit)
      expect(split.filter(Boolean).length).toBeGreaterThan(5)
      const random = new Random(seed)
      for (let length = 2; length <= batches.length; length++) {
        if (!random.chance(split[length - 1] ? 30 / split.filter(Boolean).length : 15 / batches.length))
          continue
        const path = directory()
        await replay(path, batches.slice(0, length))
        await markStore(path)
        const what = `seed ${seed}, after commit ${length}`
        expect(await checkStore(path), what).toMatchObject({ isSound: true })
        const again = new ModelServer(rareCheckpoints(path))
        await again.open()
        await again.restoreAll()
        expectSame(again.describe(), server.states.get(length), what)
        await again.store.close()
        expect(await checkStore(path), `${what}, closed`).toMatchObject({ isSound: true })
        await rm(path, { recursive: true })
      }
    },
  )
})

describe('damaged stores', () => {
  /** Makes a store that was killed in the middle of a checkpoint. */
  async function killedStores(seed: number, stores: number): Promise<{ paths: string[]; random: Random }> {
    const { batches } = await recordedHistory(seed, 250)
    const random = new Random(seed)
    const paths: string[] = []
    for (let index = 0; index < stores; index++) {
      const path = directory()
      await replay(path, batches.slice(0, 2 + random.below(batches.length - 2)))
      await markStore(path)
      paths.push(path)
    }
    return { paths, random }
  }

  test.each([2, NEW_SEED])(
    'start, check and repair agree whatever values are lost or changed, seed %i [field-A1]',
    async (seed) => {
      const { paths, random } = await killedStores(seed, 15)
      for (const [index, path] of paths.entries()) {
        const what = await withRaw(path, async (db) => {
          const entries = await db.iterator().all()
          const table = random.pick([...new Set(entries.map(([key]) => key[0]!))])
          const ofTable = entries.filter(([key]) => key[0] === table)
          const [key, value] = random.pick(ofTable)
          const how = random.pick(['lost', 'changed', 'several lost', 'table lost'])
          if (how === 'changed') {
            const damaged = Buffer.from(value)
            damaged[random.below(value.length)]! ^= 1 << random.below(8)
            await db.put(key, damaged)
          } else {
            const gone =
              how === 'lost'
                ? [key]
                : ofTable.map(([one]) => one).filter(() => how !== 'several lost' || random.chance(0.3))
            await db.batch(gone.map((one) => ({ type: 'del', key: one })))
          }
          return `${how}: ${key.toString('hex')}`
        })
        await expectAgreement(path, `seed ${seed}, store ${index}, ${what}`)
        await rm(path, { recursive: true })
      }
    },
  )

  test.each([3, NEW_SEED])(
    'start, check and repair agree whatever commits are lost, seed %i [field-A1]',
    async (seed) => {
      const { batches } = await recordedHistory(seed, 250)
      const random = new Random(seed)
      for (let index = 0; index < 15; index++) {
        const path = directory()
        const lost = random.below(batches.length)
        await replay(path, [...batches.slice(0, lost), ...batches.slice(lost + 1 + random.below(3))])
        if (random.chance(0.9)) await markStore(path)
        await expectAgreement(path, `seed ${seed}, without commit ${lost}`)
        await rm(path, { recursive: true })
      }
    },
  )

  test.each([4, NEW_SEED])(
    'start, check and repair agree whatever happens to the files, seed %i [field-A1]',
    async (seed) => {
      const { paths, random } = await killedStores(seed, 15)
      for (const [index, path] of paths.entries()) {
        const files = (await readdir(path)).filter((name) => name !== 'LOCK').sort()
        const name = random.pick(files)
        const file = join(path, name)
        const bytes = await readFile(file)
        const how = random.pick(['lost', 'cut', 'changed'])
        if (how === 'lost') await rm(file)
        else if (how === 'cut') await truncate(file, random.below(bytes.length + 1))
        else if (bytes.length > 0) {
          bytes[random.below(bytes.length)]! ^= 1 << random.below(8)
          await writeFile(file, bytes)
        }
        await expectAgreement(path, `seed ${seed}, store ${index}, ${name} ${how}`)
        await rm(path, { recursive: true })
      }
    },
  )
})

describe('a store of 0.1.0 that lost segments of a queue below what the journal says is gone', () => {
  /**
   * The head value names 3,000 entries. The journal says that the oldest 2,500 were dropped or sent since.
   */
  async function oldStore(inFlight: boolean): Promise<{ path: string; wanted: string }> {
    const batches: Batch[] = []
    const options = { checkpointJournalBytes: 1_000_000, openBatch: recordingWriter(batches) }
    const server = new ModelServer(rareCheckpoints(directory(), options))
    await server.open()
    server.createSession(LONG)
    moveLongQueue(server, 0, 3000, 0)
    await server.commit()
    await server.store.close()
    await server.open()
    await server.restoreAll()
    for (let step = 0; step < 25; step++) {
      for (let index = 0; index < 100; index++) {
        if (inFlight && step < 5 && index === 0) server.send(LONG)
        else server.drop(LONG)
      }
      await server.commit()
    }
    const path = directory()
    await replay(path, batches)
    await markStore(path)
    const wanted = server.describe()
    await server.store.close()
    const lost = await withRaw(path, async (db) => {
      const keys = await db.keys(tableRange(Table.CheckpointSegment)).all()
      const gone = keys.slice(0, 2)
      await db.batch(gone.map((key) => ({ type: 'del', key })))
      return gone
    })
    expect(lost).toEqual([segmentKey(1, 0), segmentKey(1, 1024)])
    expect(await withRaw(path, (db) => db.get(numberKey(Table.CheckpointHead, 1)))).toBeDefined()
    expect(await withRaw(path, (db) => db.get(META_KEY))).toBeDefined()
    return { path, wanted }
  }

  test('opens complete when none of the lost entries is needed [field-A1]', async () => {
    const { path, wanted } = await oldStore(false)
    expect(await checkStore(path)).toMatchObject({ isSound: true })
    const server = new ModelServer(rareCheckpoints(path))
    await server.open()
    await server.restoreAll()
    expectSame(server.describe(), wanted, 'opened')
    // The store also works from there on, over its next checkpoints.
    for (let step = 0; step < 20; step++) {
      moveLongQueue(server, step, 200, 150)
      await server.commit()
    }
    const before = server.describe()
    await server.store.close()
    const again = new ModelServer(rareCheckpoints(path))
    await again.open()
    await again.restoreAll()
    expectSame(again.describe(), before, 'opened again')
    await again.store.close()
  })

  test('is refused while a lost message is in flight; check agrees, repair mends it [field-A1]', async () => {
    const { path } = await oldStore(true)
    expect((await startRefusal(path))?.message).toContain('part of the queue of Session 1 is missing')
    const { isSound, text } = await checkStore(path)
    expect(isSound).toBe(false)
    expect(text).toContain('5 of its messages')
    await expectAgreement(path, 'five messages in flight')
  })
})
