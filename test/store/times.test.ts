/** Expiry of messages after time turned out not to have passed, however they are stored. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Message } from '../../src/mqtt/message.ts'
import { containerChunks } from '../../src/store/format/container.ts'
import { ByteReader } from '../../src/store/format/encoding.ts'
import { decodeTimes, encodeTimes, PageTimes } from '../../src/store/format/time-record.ts'
import { openDatabase, unpack } from '../../src/store/level/backup.ts'
import { LevelStore } from '../../src/store/level/level-store.ts'
import { RecordReader } from '../../src/store/records/record-reader.ts'
import { delivery, ModelServer, message, Random } from './model.ts'

const HOUR = 3_600_000

let root: string
let count = 0

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'godwit-times-'))
})

afterEach(async () => {
  await rm(root, { recursive: true, force: true })
})

function directory(): string {
  return join(root, String(++count))
}

/** Small bounds, so that bodies are evicted, parked, checkpointed and moved. */
async function opened(
  path: string,
  brokerTime: number,
  checkpointJournalBytes: number,
): Promise<ModelServer> {
  const store = new LevelStore({
    directory: path,
    sync: false,
    residentBytesMax: 4000,
    reserveBytes: 0,
    checkpointJournalBytes,
    writeBufferBytes: 65_536,
  })
  const server = new ModelServer(store)
  server.remember = false
  server.brokerTime = brokerTime
  await server.open()
  return server
}

async function killed(server: ModelServer): Promise<string> {
  const path = directory()
  await unpack(containerChunks((server.store as LevelStore).snapshot(), 0), path)
  await server.store.close()
  return path
}

/** Returns when each message expires that is queued or in flight, by its payload. */
async function expiries(server: ModelServer): Promise<Map<string, number>> {
  // The model is no use here, because its messages never change.
  const messages = server.messages()
  await server.store.restore(messages.filter(({ evicted }) => evicted))
  // Memory is short, so some are evicted again already.
  return new Map(
    messages.filter(({ evicted }) => !evicted).map((each) => [each.payload.toString(), each.expiresAt]),
  )
}

async function exported(path: string, wallOffset: number): Promise<Map<string, number>> {
  const db = await openDatabase(path)
  const found = new Map<string, number>()
  for await (const record of new RecordReader(db, path).records()) {
    if (record.type !== 'message') continue
    found.set(record.payload.toString(), (record.expiresAt ?? Number.POSITIVE_INFINITY) - wallOffset)
  }
  await db.close()
  return found
}

test('converts expiry times to stored ones, and back', () => {
  const times = new PageTimes()
  times.add({ before: 10, since: 1000, ms: 500 })
  times.add({ before: 20, since: 5000, ms: 100 })
  for (const page of [1, 9, 10, 15, 20, 30]) {
    for (const stored of [0, 999, 1000, 1001, 4499, 4500, 4501, 5000, 5001, 9000, Number.POSITIVE_INFINITY]) {
      expect(times.stored(page, times.expiry(page, stored)), `${page} ${stored}`).toBe(stored)
    }
  }
  expect([times.expiry(9, 1000), times.expiry(9, 1001), times.expiry(9, 4501)]).toEqual([1000, 1501, 5101])
  expect([times.expiry(15, 1001), times.expiry(15, 5001), times.expiry(20, 9000)]).toEqual([1001, 5101, 9000])
  const read = new PageTimes()
  const doubt = { ms: 7, since: 8, until: 9, before: 20 }
  expect(decodeTimes(new ByteReader(encodeTimes(doubt, times)), read)).toEqual(doubt)
  expect([...read]).toEqual([...times])
  expect(decodeTimes(new ByteReader(encodeTimes(null, new PageTimes())), new PageTimes())).toBeNull()
  read.prune(10)
  expect([...read]).toEqual([{ before: 20, since: 5000, ms: 100 }])
})

test.each([
  [1, 20_000],
  [2, 2 ** 25],
  [Math.floor(Math.random() * 2 ** 31), 20_000],
  [Math.floor(Math.random() * 2 ** 31), 2 ** 25],
])(
  'only messages from before the doubt expire later; seed %i, checkpoints after %i [field-A3]',
  async (seed, journalBytes) => {
    const random = new Random(seed)
    const wanted = new Map<string, number>()
    let number = 0
    const since = 1_000_000
    const fill = (server: ModelServer, from: number): void => {
      let previous: Message | null = null
      for (let index = 0; index < 150; index++) {
        const expires = random.chance(0.7)
        const payload = `${number++} `.repeat(1 + random.below(40))
        const expiresAt = expires ? from + (1 + random.below(4)) * HOUR : Number.POSITIVE_INFINITY
        wanted.set(payload, expiresAt)
        const one = message(
          random.chance(0.5) ? 'a' : 'b',
          payload,
          expires ? { qos: 1, expiresAt } : { qos: 1 },
        )
        const first = 1 + random.below(3)
        server.enqueue(first, delivery(one))
        // The body is of the same record, of an earlier one in the block, or of an earlier block.
        if (random.chance(0.3)) server.enqueue(first === 3 ? 1 : first + 1, delivery(one))
        if (previous !== null && random.chance(0.3)) server.enqueue(first, delivery(previous))
        previous = one
      }
    }
    const work = async (server: ModelServer): Promise<void> => {
      for (let round = 0; round < 30; round++) {
        const id = 1 + random.below(3)
        if (server.session(id).queueHead < server.session(id).queueTail && random.chance(0.6)) {
          if (random.chance(0.3)) server.send(id)
          else server.drop(id)
        }
        await server.commit()
      }
    }
    let server = await opened(directory(), since, journalBytes)
    for (const id of [1, 2, 3]) server.createSession(id)
    fill(server, since - 2 * HOUR)
    await server.commit()
    await work(server)
    let path = await killed(server)

    // After a start for which only the wall clock says that ten hours passed.
    const jump = 10 * HOUR
    server = await opened(path, since + jump, journalBytes)
    const before = new Map([...(await expiries(server))])
    if (!(server.store instanceof LevelStore)) throw new Error('not a LevelStore')
    server.store.putDoubt({ ms: jump, since, until: since + jump + 60_000 })
    fill(server, since + jump)
    await server.commit()
    await work(server)
    server.store.postpone(
      jump,
      since,
      [...server.sessions.values()].flatMap((session) => session.held()),
    )
    server.store.putDoubt(null)
    await server.commit()
    for (const [payload, expiresAt] of before) {
      if (expiresAt > since && expiresAt !== Number.POSITIVE_INFINITY) wanted.set(payload, expiresAt + jump)
    }
    const compare = (found: ReadonlyMap<string, number>): void => {
      expect(found.size).toBeGreaterThan(20)
      for (const [payload, expiresAt] of found)
        expect(expiresAt, payload.slice(0, 20)).toBe(wanted.get(payload))
    }
    compare(await expiries(server))
    await work(server)
    fill(server, since + jump)
    await work(server)
    compare(await expiries(server))

    // From the journal, and from checkpoints that a close writes. Twice, so that the second start reads what
    // the first one wrote.
    for (let round = 0; round < 2; round++) {
      path = await killed(server)
      compare(await exported(path, server.wallTime - server.brokerTime))
      server = await opened(path, since + jump + 60_000, journalBytes)
      compare(await expiries(server))
      await work(server)
      await server.commit()
      await server.store.close()
      server = await opened(path, since + jump + 60_000, journalBytes)
      compare(await expiries(server))
    }
    await server.store.close()
  },
)
