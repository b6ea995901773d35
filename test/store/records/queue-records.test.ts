/** Queues in exports, imports, checks and repairs. */
import { describe, expect, test } from 'vitest'
import { checkStore, repair } from '../../../src/cli/actions/store-commands.ts'
import type { Damage } from '../../../src/store/format/damage.ts'
import { keyNumber, keyPosition, Table, tableRange } from '../../../src/store/format/format.ts'
import { openDatabase } from '../../../src/store/level/backup.ts'
import { type ExportHeader, endLine, isIn, LineReader, lineOf } from '../../../src/store/records/jsonl.ts'
import { RecordReader } from '../../../src/store/records/record-reader.ts'
import { RecordWriter } from '../../../src/store/records/record-writer.ts'
import type { StoreRecord } from '../../../src/store/records/records.ts'
import { busyStore, directories } from '../busy-store.ts'
import { killedCopy } from '../killed-copy.ts'
import { actOnLogs, entry, LogModel } from '../log-model.ts'
import { Random } from '../model.ts'
import { withRaw } from '../recorded.ts'

const HEADER: ExportHeader = { godwit: 'test', version: 3 }

const directory = directories('godwit-queue-records-')

/** Broker time is wall time here, so that records and stores have the same times. */
function model(path: string): LogModel {
  const made = new LogModel(busyStore(path))
  made.brokerTime = made.wallTime
  made.remember = false
  return made
}

/** Makes a store that ends as a kill would leave it, and says what is in it. */
async function randomStore(seed: number): Promise<{ path: string; text: string }> {
  const open = directory()
  const made = model(open)
  const random = new Random(seed)
  await made.open()
  made.createSession()
  for (let step = 0; step < 500; step++) {
    actOnLogs(made, random)
    // Its wall clock is never set here, so that times of broker and records stay the same.
    made.wallTime = made.brokerTime
    if (random.chance(0.1)) await made.commit()
  }
  await made.commit()
  const path = directory()
  killedCopy(open, path)
  const text = comparable(made)
  await made.store.close()
  return { path, text }
}

/** The description without the store's numbers. */
function comparable(made: LogModel): string {
  const { queues } = JSON.parse(made.describe()) as { queues: { record: { logs: number[] } }[] }
  for (const { record } of queues) record.logs = record.logs.map(() => 0)
  const names = new Map([...made.queues.values()].map(({ group, record }) => [group, record.name]))
  const flights = [...made.flights].map(([packetId, source]) => {
    return [packetId, source === null ? null : { ...source, group: names.get(source.group) }]
  })
  return JSON.stringify({ queues, flights }, null, 1)
}

async function contentOf(path: string): Promise<string> {
  const found = model(path)
  await found.open()
  const text = comparable(found)
  await found.store.close()
  return text
}

async function recordsOf(path: string, report?: (damage: Damage) => void): Promise<StoreRecord[]> {
  const db = await openDatabase(path)
  try {
    const records: StoreRecord[] = []
    for await (const record of new RecordReader(db, path, report).records()) records.push(record)
    return records
  } finally {
    await db.close()
  }
}

async function rebuilt(records: readonly StoreRecord[]): Promise<string> {
  const path = directory()
  await new RecordWriter(path).write(each(records))
  return path
}

async function* each<T>(items: readonly T[]): AsyncGenerator<T> {
  yield* items
}

describe('an export', () => {
  test.each([1, 2, 3])('brings everything back by way of lines, seed %i', async (seed) => {
    const { path, text } = await randomStore(seed)
    const records = await recordsOf(path)
    const lines = records.map((record) => lineOf(record, HEADER))
    const reader = new LineReader()
    const read = [...lines, endLine(lines.length + 1)].map((line) => reader.read(line))
    reader.end()
    const copy = await rebuilt(read.filter((record) => record !== null))
    expect(await contentOf(copy)).toBe(text)
    // And once more: what was filled from records is a store like any other.
    expect(await contentOf(await rebuilt(await recordsOf(copy)))).toBe(text)
  })

  test('without queues is of version 2, and for an earlier version has no queues', async () => {
    const path = directory()
    const made = model(path)
    await made.open()
    made.createSession()
    await made.commit()
    await made.store.close()
    const [start] = await recordsOf(path)
    expect(JSON.parse(lineOf(start!, HEADER))).toMatchObject({ version: 2 })
    const { path: withQueues } = await randomStore(4)
    const records = await recordsOf(withQueues)
    expect(JSON.parse(lineOf(records[0]!, HEADER))).toMatchObject({ version: 3 })
    const earlier = records.filter((record) => isIn(2, record)).map(({ type }) => type)
    expect(new Set(earlier)).toEqual(new Set(['start', 'session']))
  })
})

describe('check and repair', () => {
  /** Makes a store with 5,000 messages in queue jobs, of which 1,000 in the middle are settled. */
  async function filled(): Promise<string> {
    const path = directory()
    const made = model(path)
    await made.open()
    made.createSession()
    const queue = made.declare('jobs')
    for (let number = 0; number < 5000; number++) {
      made.append(queue, 0, entry(`message ${number}`))
      if (number % 700 === 0) await made.commit()
    }
    made.settle(queue, 0, 2000, 3000)
    made.send(queue, 0, 1, 1)
    await made.commit()
    await made.store.close()
    return path
  }

  async function keys(path: string, table: Table): Promise<Buffer[]> {
    const found = await withRaw(path, (db) => db.keys(tableRange(table)).all())
    return found.sort((a, b) => keyNumber(a) - keyNumber(b) || keyPosition(a) - keyPosition(b))
  }

  test('a sound store is sound', async () => {
    const path = await filled()
    const { damages, text } = await checked(path)
    expect(damages, text).toBe(false)
    expect(text).toContain('1 queues with 4000 messages')
  })

  test.each(['missing', 'damaged'])(
    'a %s segment costs its messages, told with queue, first and last sequence',
    async (how) => {
      const path = await filled()
      const [first, second] = await keys(path, Table.Log)
      await withRaw(path, async (db) => {
        if (how === 'missing') return db.del(first!)
        const value = Buffer.from((await db.get(first!))!)
        value[1000]! ^= 1
        return db.put(first!, value)
      })
      const last = keyPosition(second!) - 1
      const { text } = await checked(path)
      expect(text).toContain(`messages 1 to ${last} of queue jobs are missing or damaged`)
      await repair(path)
      const found = model(path)
      await found.open()
      const queue = found.queues.get('jobs')!
      expect(queue.live[0]!.size).toBe(4000 - last)
      expect(queue.lanes[0]!.floor).toBe(last + 1)
      // The message that was in flight is lost with its segment.
      expect(found.flights.size).toBe(0)
      await found.store.close()
      expect((await checked(path)).damages).toBe(false)
    },
  )

  test('a lost checkpoint of a group leaves all that is still stored', async () => {
    const path = await filled()
    const [head] = await keys(path, Table.GroupCheckpoint)
    await withRaw(path, (db) => db.del(head!))
    expect((await checked(path)).text).toContain('queue jobs has no sound checkpoint')
    await repair(path)
    const found = model(path)
    await found.open()
    expect(found.queues.get('jobs')!.live[0]!.size).toBeGreaterThanOrEqual(4000)
    await found.store.close()
  })

  test('a part that nothing needs is told', async () => {
    const path = await filled()
    const [first] = await keys(path, Table.Log)
    const repeated = Buffer.from(first!)
    repeated.writeUIntBE(2, 7, 6)
    await withRaw(path, async (db) => db.put(repeated, (await db.get(first!))!))
    expect((await checked(path)).text).toContain('from entry 2 on is stored without being needed')
  })

  async function checked(path: string): Promise<{ damages: boolean; text: string }> {
    const { isSound, text } = await checkStore(path)
    return { damages: !isSound, text }
  }
})
