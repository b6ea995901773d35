/** Stores with a redo log after kills and power cuts, whatever those leave of the log and of LevelDB. */
import { readFileSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { backup, checkStore, repair, restore } from '../../src/cli/actions/store-commands.ts'
import { keepAside, markedFormat, markStore, REDO_FILE } from '../../src/store/files/data-directory.ts'
import { type BatchMaker, openBatch } from '../../src/store/files/database.ts'
import { RedoLog } from '../../src/store/files/redo-log.ts'
import { readRedo } from '../../src/store/files/redo-replay.ts'
import { FORMAT_VERSION, liveFormat, META_KEY, put, Table, unsealed } from '../../src/store/format/format.ts'
import { headerOf } from '../../src/store/format/journal-page.ts'
import { formatOf, withFormat } from '../../src/store/format/meta.ts'
import {
  newestState,
  REDO_BLOCK_BYTES,
  type RedoRecord,
  redoRecords,
} from '../../src/store/format/redo-record.ts'
import { openDatabase } from '../../src/store/level/backup.ts'
import type { LevelStoreOptions } from '../../src/store/level/level-options.ts'
import { LevelStore } from '../../src/store/level/level-store.ts'
import { killedCopy } from './killed-copy.ts'
import { act, delivery, ModelServer, message, Random } from './model.ts'
import { type Batch, hookedWriter, replay, withRaw } from './recorded.ts'

let root: string
let count = 0

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'godwit-redo-'))
})

afterEach(async () => {
  vi.restoreAllMocks()
  await rm(root, { recursive: true, force: true })
})

function directory(): string {
  return join(root, String(++count))
}

const NEW_SEED = Number(process.env.GODWIT_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31))

/** The log is so small that it is used again and again. */
function storeOn(path: string, options: Partial<LevelStoreOptions> = {}): LevelStore {
  return new LevelStore({
    directory: path,
    sync: true,
    residentBytesMax: 4000,
    reserveBytes: 0,
    checkpointJournalBytes: 100_000,
    redoHalfBytes: 48 * 1024,
    ...options,
  })
}

function redoOf(path: string): Buffer {
  return readFileSync(join(path, REDO_FILE))
}

function changedBlocks(before: Buffer, after: Buffer): number {
  let blocks = 0
  for (let at = 0; at < after.length; at += REDO_BLOCK_BYTES) {
    const [one, other] = [before, after].map((file) => file.subarray(at, at + REDO_BLOCK_BYTES))
    if (!one!.equals(other!)) blocks++
  }
  return blocks
}

/** Returns a directory with what a kill of the store would leave now. */
function killed(live: string): string {
  const path = directory()
  killedCopy(live, path)
  return path
}

/** A batch that LevelDB got. */
interface Given {
  readonly operations: Batch
  readonly isSynced: boolean
  /** The newest commit in it. */
  readonly sequence: number
}

/** Keeps what LevelDB gets. `giving` is called before it gets anything. */
function watchedWriter(
  given: Given[],
  giving: (batch: Given) => Promise<void> | void = () => {},
): BatchMaker {
  return (db) => {
    const batch = openBatch(db)
    const operations: Batch[number][] = []
    return {
      add: (added) => {
        for (const operation of added) operations.push(structuredCopy(operation))
        batch.add(added)
      },
      write: async (isSynced) => {
        const one = { operations, isSynced, sequence: newestIn(operations) }
        await giving(one)
        await batch.write(isSynced)
        given.push(one)
      },
    }
  }
}

function structuredCopy(operation: Batch[number]): Batch[number] {
  const key = Buffer.from(operation.key)
  return operation.type === 'put'
    ? { type: 'put', key, value: Buffer.from(operation.value) }
    : { type: 'del', key }
}

function newestIn(operations: Batch): number {
  let newest = 0
  for (const operation of operations) {
    if (operation.type !== 'put' || operation.key[0] !== Table.Journal) continue
    newest = Math.max(newest, headerOf(operation.value).sequence)
  }
  return newest
}

const SYNCED_MIN = 5

/** The disk at one moment. */
interface Moment {
  readonly redo: Buffer
  /** How many batches LevelDB has. */
  readonly given: number
  readonly acknowledged: number
}

interface History {
  readonly server: ModelServer
  readonly given: readonly Given[]
  readonly moments: readonly Moment[]
}

/** Does random operations with commits of all sizes, at least until LevelDB has synced a few batches. */
async function history(seed: number, path: string, commits: number): Promise<History> {
  const given: Given[] = []
  const moments: Moment[] = []
  const server = new ModelServer(storeOn(path, { openBatch: watchedWriter(given) }))
  const random = new Random(seed)
  await server.open()
  const isEnough = (): boolean => given.filter(({ isSynced }) => isSynced).length > SYNCED_MIN
  for (let commit = 0; commit < commits || !isEnough(); commit++) {
    for (let count = random.below(6); count >= 0; count--) act(server, random, commit * 10 + count)
    if (random.chance(0.02)) {
      server.createSession(1000 + commit)
      server.enqueue(1000 + commit, delivery(message('large', 'x'.repeat(70_000))))
    }
    if (random.chance(0.02)) await server.restoreAll()
    await server.commit()
    const acknowledged = server.store.committedSequence
    moments.push({ redo: redoOf(path), given: given.length, acknowledged })
  }
  return { server, given, moments }
}

/** Makes the directory after a power cut: LevelDB has any of the batches that were not synced. */
async function makeCut(path: string, batches: readonly Given[], redo: Buffer, random: Random): Promise<void> {
  const synced = batches.findLastIndex(({ isSynced }) => isSynced)
  const records = redoRecords(redo, newestState(redo)!.salt)
  const settled = Math.max(newestState(redo)!.settled, ...records.map((record) => record.settled))
  const share = random.pick([0, 0.5, 1])
  const kept = batches.filter(
    ({ sequence }, index) => index <= synced || sequence <= settled || random.chance(share),
  )
  await replay(
    path,
    kept.map(({ operations }) => operations),
  )
  await writeFile(join(path, REDO_FILE), redo)
  await markStore(path)
}

/**
 * Opens the store, and returns the number of its newest commit. It must have the state of the commit
 * `wanted`, or of that one.
 */
async function recovered(path: string, server: ModelServer, what: string, wanted?: number): Promise<number> {
  const again = new ModelServer(storeOn(path, { sync: false }))
  await again.open()
  await again.restoreAll()
  const { committedSequence } = again.store
  const text = again.describe()
  await again.store.close()
  if (text !== (server.states.get(wanted ?? committedSequence) ?? '')) expect.fail(`${what}: another state`)
  return committedSequence
}

describe('after a power cut', () => {
  test.each([1, NEW_SEED])(
    'everything acknowledged is there, whatever LevelDB kept of what was not synced, seed %i',
    async (seed) => {
      const { server, given, moments } = await history(seed, directory(), 300)
      await server.store.close()
      // Makes sure that the run did what it is for.
      const turns = new Set(moments.map(({ redo }) => newestState(redo)!.turn))
      expect(turns.size).toBeGreaterThan(10)
      expect(given.some(({ isSynced }) => !isSynced)).toBe(true)
      const random = new Random(seed)
      for (const [index, moment] of moments.entries()) {
        if (!random.chance(25 / moments.length)) continue
        const path = directory()
        await makeCut(path, given.slice(0, moment.given), moment.redo, random)
        const what = `seed ${seed}, after commit ${moment.acknowledged}`
        const { isSound, text } = await checkStore(path)
        expect(isSound, `${what}: ${text}`).toBe(true)
        expect(await recovered(path, server, what), what).toBe(moment.acknowledged)
        // A store that was opened needs its redo log no longer.
        await writeFile(join(path, REDO_FILE), moments[Math.max(0, index - 40)]!.redo)
        await recovered(path, server, `${what}, opened again`, moment.acknowledged)
        await rm(path, { recursive: true })
      }
    },
  )

  test.each([2, NEW_SEED])(
    'a write to the redo log that was torn anywhere is not applied, and nothing else is lost, seed %i',
    async (seed) => {
      const { server, given, moments } = await history(seed, directory(), 300)
      await server.store.close()
      const random = new Random(seed)
      let torn = 0
      let changes = 0
      const first = random.below(10)
      for (let index = 1; index < moments.length; index++) {
        const [before, after] = [moments[index - 1]!, moments[index]!]
        const isTurn = newestState(before.redo)!.turn !== newestState(after.redo)!.turn
        if (before.redo.equals(after.redo)) continue
        const isTenth = changes++ % 10 === first
        if (!isTenth && !(isTurn && random.chance(0.5))) continue
        const path = directory()
        const differs = [...after.redo.keys()].filter((at) => before.redo[at] !== after.redo[at])
        const end = random.chance(0.3) ? 1 + random.below(Math.min(40, differs.length)) : differs.length
        const until = differs[random.below(end)]!
        const redo = Buffer.concat([after.redo.subarray(0, until), before.redo.subarray(until)])
        const known = given
          .slice(0, after.given)
          .filter(
            ({ sequence, isSynced }, at) =>
              at < before.given || (!isSynced && sequence <= before.acknowledged),
          )
        await makeCut(path, known, redo, random)
        const what = `seed ${seed}, commit ${after.acknowledged} torn at ${until}`
        const { isSound, text } = await checkStore(path)
        expect(isSound, `${what}: ${text}`).toBe(true)
        const found = await recovered(path, server, what)
        expect([before.acknowledged, after.acknowledged], what).toContain(found)
        await rm(path, { recursive: true })
        torn++
      }
      expect(torn).toBeGreaterThan(20)
    },
  )

  test('LevelDB never gets a commit before the redo log has it', async () => {
    const path = directory()
    const given: Given[] = []
    let checked = 0
    const openBatch = watchedWriter(given, ({ operations, isSynced }) => {
      if (isSynced) return
      const redo = redoOf(path)
      const whole = new Set(redoRecords(redo, newestState(redo)!.salt).map(({ last }) => last))
      expect(whole).toContain(newestIn(operations))
      checked++
    })
    const server = new ModelServer(storeOn(path, { openBatch, redoHalfBytes: 1024 * 1024 }))
    server.remember = false
    await server.open()
    server.createSession(1)
    for (let commit = 0; commit < 300; commit++) {
      server.enqueue(1, delivery(message('t', `${commit}`)))
      const done = server.commit()
      // The next commit is under way while LevelDB gets the ones before it.
      server.enqueue(1, delivery(message('t', `${commit} again`)))
      server.store.commit()
      await done
    }
    await server.commit()
    expect(server.failures).toEqual([])
    await server.store.close()
    expect(checked).toBeGreaterThan(2)
  })
})

/** Its commits are synced together when `store.sync()` is called. */
function sharedStoreOn(path: string, options: Partial<LevelStoreOptions> = {}): LevelStore {
  return storeOn(path, { sync: false, syncEverySeconds: 1_000_000, redoHalfBytes: 1024 * 1024, ...options })
}

describe('commits that are synced together', () => {
  test('reach LevelDB only after their sync, also when somebody needs them there', async () => {
    const path = directory()
    const given: Given[] = []
    const syncs: number[] = []
    const { sync } = RedoLog.prototype
    vi.spyOn(RedoLog.prototype, 'sync').mockImplementation(async function (this: RedoLog) {
      const redo = redoOf(path)
      await sync.call(this)
      syncs.push(redoRecords(redo, newestState(redo)!.salt).at(-1)!.last)
    })
    const openBatch = watchedWriter(given, ({ isSynced, sequence }) => {
      if (!isSynced) expect(syncs.at(-1)).toBeGreaterThanOrEqual(sequence)
    })
    const server = new ModelServer(sharedStoreOn(path, { openBatch }))
    const store = server.store as LevelStore
    server.remember = false
    await server.open()
    server.createSession(1)
    for (let commit = 0; commit < 2000; commit++) {
      server.enqueue(1, delivery(message('t', `${commit}`.padEnd(300))))
      await server.commit()
      if (commit % 50 === 0) await store.sync()
    }
    const before = given.length
    expect(before).toBeGreaterThan(2)
    for await (const _ of store.snapshot()) break
    expect(given.length).toBe(before + 1)
    expect(given.at(-1)!.sequence).toBe(store.committedSequence)
    expect(server.failures).toEqual([])
    await store.close()
  })

  test('take one block of the redo log, and LevelDB gets the latest value of each key', async () => {
    const path = directory()
    const given: Given[] = []
    const server = new ModelServer(sharedStoreOn(path, { openBatch: watchedWriter(given) }))
    const store = server.store as LevelStore
    await server.open()
    for (let interval = 0; interval < 20; interval++) {
      const before = redoOf(path)
      for (let commit = 0; commit < 10; commit++) {
        server.retain(message('state', `${interval}.${commit}`, { retain: true }))
        await server.commit()
      }
      await store.sync()
      expect(changedBlocks(before, redoOf(path))).toBeLessThanOrEqual(1)
    }
    for await (const _ of store.snapshot()) break
    const { operations } = given.at(-1)!
    expect(operations.filter(({ key }) => key[0] !== Table.Journal)).toHaveLength(1)
    expect(operations.filter(({ key }) => key[0] === Table.Journal)).toHaveLength(199)
    await store.close()
  })

  test('go to LevelDB where they are many, and to the log again later; a kill loses none', async () => {
    const live = directory()
    const given: Given[] = []
    const server = new ModelServer(sharedStoreOn(live, { openBatch: watchedWriter(given) }))
    const store = server.store as LevelStore
    await server.open()
    server.createSession(1)
    const payload = 'x'.repeat(5000)
    for (let burst = 0; burst < 3; burst++) {
      for (let commit = 0; commit < 20; commit++) {
        server.enqueue(1, delivery(message('t', payload)))
        await server.commit()
      }
      const direct = given.length
      expect(given.at(-1)).toMatchObject({ isSynced: false, sequence: store.committedSequence })
      expect(await recovered(killed(live), server, `burst ${burst}`)).toBe(store.committedSequence)
      for (let interval = 0; interval < 10; interval++) {
        await store.sync()
        server.enqueue(1, delivery(message('t', `${burst} ${interval}`)))
        await server.commit()
      }
      expect(given.length).toBe(direct + 8)
      expect(await recovered(killed(live), server, `after burst ${burst}`)).toBe(store.committedSequence)
    }
    await store.close()
  })

  /** Makes a killed store with this many synced and unsynced commits in its redo log. */
  async function killedShared(
    synced: number,
    unsynced: number,
  ): Promise<{ path: string; server: ModelServer; synced: number; commits: ReturnType<typeof commitsOf> }> {
    const live = directory()
    const server = new ModelServer(sharedStoreOn(live))
    const store = server.store as LevelStore
    await server.open()
    server.createSession(1)
    for (let commit = 0; commit < synced + unsynced; commit++) {
      if (commit === synced) await store.sync()
      server.enqueue(1, delivery(message('t', `${commit}`)))
      await server.commit()
    }
    const path = killed(live)
    await store.close()
    return { path, server, synced: store.syncedSequence, commits: commitsOf(path) }
  }

  function commitsOf(path: string): readonly RedoRecord[] {
    return readRedo(redoOf(path))!.commits
  }

  async function damage(path: string, { operations }: RedoRecord): Promise<void> {
    const redo = redoOf(path)
    const { commits } = readRedo(redo)!
    const same = commits.find((commit) => commit.operations[0]!.key.equals(operations[0]!.key))!
    redo[same.operations[0]!.key.byteOffset - redo.byteOffset]! ^= 1
    await writeFile(join(path, REDO_FILE), redo)
  }

  test('end at a hole among those that were not synced, and the start reports it', async () => {
    const { path, server, commits } = await killedShared(20, 20)
    const hole = commits[30]!
    await damage(path, hole)
    expect(await checkStore(path)).toMatchObject({ isSound: true })
    const again = new ModelServer(sharedStoreOn(path))
    const { notice } = await again.open()
    expect(notice).toContain(`including ${commits.length - 31} after a hole`)
    await again.restoreAll()
    expect(again.store.committedSequence).toBe(hole.last - 1)
    expect(again.describe()).toBe(server.states.get(hole.last - 1))
    await again.store.close()
  })

  test('are refused as damaged if a synced one is', async () => {
    const { path, commits } = await killedShared(20, 20)
    await damage(path, commits[10]!)
    const what = `commit ${commits[10]!.last} in its file ${REDO_FILE} is damaged`
    expect(await checkStore(path)).toMatchObject({ isSound: false, text: expect.stringContaining(what) })
    await expect(new ModelServer(sharedStoreOn(path)).open()).rejects.toMatchObject({ kind: 'corrupt' })
  })
})

const COMMITS = 20

test('the log says that LevelDB has a commit only when that is so, however slow LevelDB is', async () => {
  const path = directory()
  const given: Given[] = []
  const openBatch = watchedWriter(given, async ({ isSynced }) => {
    for (let pass = 0; !isSynced && pass < 200; pass++) await new Promise((resolve) => setImmediate(resolve))
  })
  const server = new ModelServer(storeOn(path, { openBatch }))
  server.remember = false
  await server.open()
  server.createSession(1)
  const turns = new Set<number>()
  for (let commit = 0; commit < 150; commit++) {
    server.enqueue(1, delivery(message('t', `${commit}`)))
    await server.commit()
    const { turn, salt, settled } = newestState(redoOf(path))!
    turns.add(turn)
    const noted = redoRecords(redoOf(path), salt).map((record) => record.settled)
    const newest = Math.max(...given.map(({ sequence }) => sequence))
    expect(Math.max(settled, ...noted)).toBeLessThanOrEqual(newest)
  }
  expect(turns.size).toBeGreaterThan(5)
  await server.store.close()
})

describe('a killed store', () => {
  /** Makes one whose commits are in its redo log, and if `flushed`, unsynced in LevelDB, too. */
  async function killedStore(
    flushed = false,
  ): Promise<{ path: string; server: ModelServer; acknowledged: number }> {
    const live = directory()
    const server = new ModelServer(storeOn(live, { redoHalfBytes: 1024 * 1024 }))
    await server.open()
    server.createSession(1)
    for (let commit = 0; commit < COMMITS; commit++) {
      server.enqueue(1, delivery(message('t', `${commit}`)))
      server.retain(message('state', `state ${commit}`, { retain: true }))
      await server.commit()
    }
    // A backup makes LevelDB get everything.
    if (flushed) for await (const _ of (server.store as LevelStore).snapshot()) break
    const acknowledged = server.store.committedSequence
    const path = directory()
    killedCopy(live, path)
    await server.store.close()
    return { path, server, acknowledged }
  }

  function restarted(path: string): Promise<unknown> {
    return new ModelServer(storeOn(path)).open()
  }

  test('is in a format that older versions refuse; one that was closed is not', async () => {
    const { path, server, acknowledged } = await killedStore()
    expect(formatOf((await withRaw(path, (db) => db.get(META_KEY)))!)).toBe(liveFormat(FORMAT_VERSION))
    expect(await recovered(path, server, 'killed')).toBe(acknowledged)
    expect(formatOf((await withRaw(path, (db) => db.get(META_KEY)))!)).toBe(FORMAT_VERSION)
  })

  test('is read in full by backup and check, and check changes nothing', async () => {
    const { path, server, acknowledged } = await killedStore()
    const before = redoOf(path)
    expect(await checkStore(path)).toMatchObject({
      isSound: true,
      text: expect.stringContaining('20 queued'),
    })
    expect(redoOf(path).equals(before)).toBe(true)
    expect(formatOf((await withRaw(path, (db) => db.get(META_KEY)))!)).toBe(liveFormat(FORMAT_VERSION))
    const [target, restored] = [directory(), directory()]
    await backup(path, target)
    await restore(target, restored, false)
    expect(await readdir(restored)).not.toContain(REDO_FILE)
    expect(await recovered(restored, server, 'restored')).toBe(acknowledged)
  })

  test('is refused without its redo log, check says so, and repair keeps the rest', async () => {
    const { path } = await killedStore()
    await rm(join(path, REDO_FILE))
    for (let start = 0; start < 2; start++) {
      await expect(restarted(path)).rejects.toMatchObject({
        kind: 'corrupt',
        message: expect.stringContaining(`${REDO_FILE} is missing`),
      })
    }
    expect(await checkStore(path)).toMatchObject({
      isSound: false,
      text: expect.stringContaining(`${REDO_FILE} is missing; lost: the last acknowledged messages`),
    })
    expect(await repair(path)).toContain(`${REDO_FILE} is missing`)
    await restarted(path)
  })

  test.each([
    { flushed: false, kept: 'what is before it' },
    { flushed: true, kept: 'all, which LevelDB has' },
  ])('is refused if a record before the last one is damaged; repair keeps $kept', async ({ flushed }) => {
    const { path } = await killedStore(flushed)
    const redo = redoOf(path)
    const { commits } = readRedo(redo)!
    const broken = commits[10]!
    redo[broken.operations[0]!.key.byteOffset - redo.byteOffset]! ^= 1
    await writeFile(join(path, REDO_FILE), redo)
    const what = `commit ${broken.last} in its file ${REDO_FILE} is damaged`
    // A reader that was told of it does not make the store look sound.
    await (await openDatabase(path, false, () => {})).close()
    for (let start = 0; start < 2; start++) {
      const refusal = { kind: 'corrupt', message: expect.stringContaining(what) }
      await expect(restarted(path)).rejects.toMatchObject(refusal)
    }
    expect(await checkStore(path)).toMatchObject({ isSound: false, text: expect.stringContaining(what) })
    expect(await repair(path)).toContain(what)
    const again = new ModelServer(storeOn(path))
    await again.open()
    await again.restoreAll()
    // The first commit has the first message, and number 2.
    const kept = flushed ? COMMITS : broken.last - 2
    const payloads = again.session(1).queue.map(({ message }) => message.payload.toString())
    expect(payloads).toEqual(Array.from({ length: kept }, (_, index) => `${index}`))
    expect(again.retained.get('state')?.payload.toString()).toBe(`state ${kept - 1}`)
    await again.store.close()
  })

  test('is refused if LevelDB lost the commit that says that the redo log is in use', async () => {
    const { path } = await killedStore()
    const [log] = (await readdir(path)).filter((name) => name.endsWith('.log'))
    const bytes = await readFile(join(path, log!))
    bytes[bytes.length - 20]! ^= 1
    await writeFile(join(path, log!), bytes)
    const what = `its description is older than its file ${REDO_FILE}`
    for (let start = 0; start < 2; start++) {
      const refusal = { kind: 'corrupt', message: expect.stringContaining(what) }
      await expect(restarted(path)).rejects.toMatchObject(refusal)
    }
    expect(await checkStore(path)).toMatchObject({ isSound: false, text: expect.stringContaining(what) })
    expect(await repair(path)).toContain(what)
    const again = new ModelServer(storeOn(path))
    await again.open()
    // The log has what came after the lost commit.
    expect(again.retained.get('state')?.payload.toString()).toBe(`state ${COMMITS - 1}`)
    await again.store.close()
  })

  test('that was in format 1 before says in its marker, too, that its redo log is in use', async () => {
    const live = directory()
    const founded = new ModelServer(storeOn(live))
    await founded.open()
    await founded.store.close()
    await withRaw(live, async (db) => {
      const meta = withFormat(unsealed(META_KEY, (await db.get(META_KEY))!), 1)
      await db.batch([put(META_KEY, meta)])
    })
    await markStore(live, 1)
    const server = new ModelServer(storeOn(live))
    await server.open()
    server.createSession(1)
    await server.commit()
    const path = directory()
    killedCopy(live, path)
    await server.store.close()
    expect(await markedFormat(path)).toBe(liveFormat(FORMAT_VERSION))
  })

  test('that is kept aside has a redo log of its own, which a broker does not write to', async () => {
    const { path, server, acknowledged } = await killedStore()
    const aside = directory()
    await keepAside(path, aside)
    const again = new ModelServer(storeOn(path))
    await again.open()
    again.drop(1)
    await again.commit()
    await again.store.close()
    // Its files do not change when those of the other one do.
    await rm(path, { recursive: true })
    expect(await recovered(aside, server, 'aside')).toBe(acknowledged)
  })

  test('does not take the redo log of an earlier run for its own', async () => {
    const { path, server, acknowledged } = await killedStore()
    const stale = redoOf(path)
    expect(await recovered(path, server, 'opened')).toBe(acknowledged)
    const again = new ModelServer(storeOn(path))
    await again.open()
    await again.restoreAll()
    for (let index = 0; index < 20; index++) again.drop(1)
    await again.commit()
    await again.store.close()
    await writeFile(join(path, REDO_FILE), stale)
    const third = new ModelServer(storeOn(path))
    await third.open()
    expect(third.session(1).queue).toEqual([])
    await third.store.close()
  })
})

test('a small commit takes one block of the log, and LevelDB gets 64 at once without a sync', async () => {
  const path = directory()
  const given: Given[] = []
  const server = new ModelServer(
    storeOn(path, { openBatch: watchedWriter(given), redoHalfBytes: 1024 * 1024 }),
  )
  await server.open()
  server.createSession(1)
  await server.commit()
  const before = redoOf(path)
  for (let commit = 0; commit < 130; commit++) {
    server.enqueue(1, delivery(message('t', `${commit}`)))
    await server.commit()
  }
  const after = redoOf(path)
  expect(changedBlocks(before, after)).toBe(130)
  // The founding commit, the first one, and two times 64.
  expect(given.map(({ isSynced }) => isSynced)).toEqual([true, true, false, false])
  await server.store.close()
})

describe('a store that fails', () => {
  test('keeps what was acknowledged when LevelDB refuses a batch, and opens again', async () => {
    const path = directory()
    let fails = false
    const openBatch = hookedWriter((_operations, commit) =>
      fails ? Promise.reject(new Error('IO error: 000003.log: Input/output error')) : commit(),
    )
    const server = new ModelServer(storeOn(path, { openBatch, redoHalfBytes: 1024 * 1024 }))
    await server.open()
    server.createSession(1)
    await server.commit()
    fails = true
    for (let commit = 0; commit < 200 && server.failures.length === 0; commit++) {
      server.enqueue(1, delivery(message('t', `${commit}`)))
      await server.commit()
      await new Promise((resolve) => setImmediate(resolve))
    }
    expect(server.failures.map(({ kind }) => kind)).toEqual(['io'])
    const acknowledged = server.committedSequences.at(-1)!
    expect(acknowledged).toBeGreaterThan(50)
    fails = false
    await server.open()
    await server.restoreAll()
    expect(server.store.committedSequence).toBe(acknowledged)
    expect(server.describe()).toBe(server.states.get(acknowledged))
    await server.store.close()
  })
})

test('a large commit is synced in LevelDB, and the redo log does not undo it after a crash', async () => {
  const live = directory()
  const given: Given[] = []
  const server = new ModelServer(
    storeOn(live, {
      openBatch: watchedWriter(given),
      redoHalfBytes: 1024 * 1024,
      residentBytesMax: 10_000_000,
    }),
  )
  await server.open()
  server.createSession(1)
  for (let commit = 0; commit < 10; commit++) {
    server.enqueue(1, delivery(message('t', `${commit}`)))
    await server.commit()
  }
  // Undoes what the log says.
  for (let index = 0; index < 10; index++) server.drop(1)
  server.enqueue(1, delivery(message('t', 'x'.repeat(200_000))))
  await server.commit()
  const acknowledged = server.store.committedSequence
  expect(given.at(-1)).toMatchObject({ isSynced: true, sequence: acknowledged })
  const path = directory()
  killedCopy(live, path)
  await server.store.close()
  expect(readRedo(redoOf(path))).toMatchObject({ commits: [], damaged: null })
  expect(await recovered(path, server, 'after the large one')).toBe(acknowledged)
})
