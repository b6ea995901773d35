/** Reads a store as records, writes them into another store, and repairs a damaged one. */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { secondsLeft } from '../../../src/broker/boundary/expiry.ts'
import { containerChunks } from '../../../src/store/format/container.ts'
import type { Damage } from '../../../src/store/format/damage.ts'
import { FORMAT_VERSION, META_KEY, Table, tableRange } from '../../../src/store/format/format.ts'
import { formatOf } from '../../../src/store/format/meta.ts'
import {
  checkEntry,
  fileChunks,
  openDatabase,
  snapshotSlices,
  unpack,
} from '../../../src/store/level/backup.ts'
import { LevelStore } from '../../../src/store/level/level-store.ts'
import { type ExportHeader, endLine, LineReader, lineOf } from '../../../src/store/records/jsonl.ts'
import { RecordReader } from '../../../src/store/records/record-reader.ts'
import { RecordWriter } from '../../../src/store/records/record-writer.ts'
import type { StoreRecord } from '../../../src/store/records/records.ts'
import { busyStore, directories } from '../busy-store.ts'
import { act, delivery, ModelServer, message, Random } from '../model.ts'
import { type Batch, recordingWriter, resealed, withRaw } from '../recorded.ts'

const FIXTURES = fileURLToPath(new URL('../../fixtures', import.meta.url))
/** The formats of released versions, and the one that is written now. */
const RELEASED = [1, 2]

const directory = directories('godwit-records-')

/** Broker time is wall time here, so that records and stores have the same times. */
function model(path: string): ModelServer {
  const server = new ModelServer(busyStore(path))
  server.brokerTime = server.wallTime
  server.remember = false
  return server
}

/** Copies the store to another directory as a kill would leave it. */
async function killed(server: ModelServer, path: string): Promise<void> {
  if (!(server.store instanceof LevelStore)) throw new Error('not a LevelStore')
  await unpack(containerChunks(server.store.snapshot(), 0), path)
}

/** A store that ends as a kill would leave it. */
async function randomStore(seed: number, steps: number): Promise<{ path: string; server: ModelServer }> {
  const open = directory()
  const server = model(open)
  const random = new Random(seed)
  await server.open()
  server.createSession(100)
  for (let step = 0; step < steps; step++) {
    act(server, random, step)
    if (random.chance(0.3)) server.enqueue(100, delivery(message('kept', `kept ${step} `.repeat(3))))
    if (random.chance(0.02)) await server.commit()
  }
  await server.commit()
  const path = directory()
  await killed(server, path)
  return { path, server }
}

async function recordsOf(path: string, report?: (damage: Damage) => void): Promise<StoreRecord[]> {
  const db = await openDatabase(path)
  try {
    const records: StoreRecord[] = []
    for await (const record of new RecordReader(db, path, report).records()) records.push(copied(record))
    return records
  } finally {
    await db.close()
  }
}

/** Buffers of records are views. */
function copied(record: StoreRecord): StoreRecord {
  if (!('payload' in record)) return record
  return { ...record, payload: Buffer.from(record.payload), properties: Buffer.from(record.properties) }
}

async function rebuilt(records: readonly StoreRecord[]): Promise<string> {
  const path = directory()
  await new RecordWriter(path).write(each(records))
  return path
}

async function* each<T>(items: readonly T[]): AsyncGenerator<T> {
  yield* items
}

/** The description without the Server's numbers of Sessions, and with times as records have them. */
function comparable(text: string): string[] {
  return text
    .replaceAll(/^session \d+ /gm, 'session ')
    .replaceAll(/(\d+)\.5\b/g, '$1')
    .split(/\n(?=session|retained|will)/)
    .sort()
}

async function described(path: string): Promise<string[]> {
  const server = model(path)
  await server.open()
  await server.restoreAll()
  const text = server.describe()
  await server.store.close()
  return comparable(text)
}

const seed = Number(process.env.GODWIT_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31))

describe('records', () => {
  test.each([1, 2, 3, seed])(
    'a store that is rebuilt from its records has the same content, seed %i',
    async (from) => {
      const { path, server } = await randomStore(from, 1500)
      await server.restoreAll()
      const wanted = comparable(server.describe())
      await server.store.close()
      const records = await recordsOf(path)
      const again = await rebuilt(records)
      expect(await described(again)).toEqual(wanted)
      expect(await recordsOf(again)).toEqual(records)
    },
  )

  test('records that contradict each other are refused, each with its reason', async () => {
    const { path, server } = await randomStore(5, 300)
    await server.store.close()
    const records = await recordsOf(path)
    const find = (type: StoreRecord['type']): StoreRecord => records.find((record) => record.type === type)!
    const cases: readonly (readonly [StoreRecord, RegExp])[] = [
      [find('session'), /second Session/],
      [find('message'), /repeats the message number 1/],
      [find('inFlight'), /repeats packet|follows queued messages/],
      [find('retained'), /second retained message/],
      [find('will'), /second Will/],
      [{ type: 'queued', clientId: 'nobody', delivery: deliveryOf(1) }, /no Session before it/],
      [{ type: 'queued', clientId: 'client-100', delivery: deliveryOf(999_999) }, /refers to message 999999/],
    ]
    for (const [record, reason] of cases) {
      await expect(rebuilt([...records, record]), record.type).rejects.toThrow(reason)
    }
  })
})

function deliveryOf(number: number) {
  return { message: number, qos: 1, retain: false, subscriptionIdentifiers: [], share: null } as const
}

describe('damage', () => {
  test('a flipped bit in any value is reported, and the sound part can be opened', async () => {
    const { path, server } = await randomStore(31, 700)
    await server.restoreAll()
    const wanted = comparable(server.describe())
    await server.store.close()
    const random = new Random(31)
    const entries = await withRaw(path, (db) => db.iterator().all())
    for (const [key, value] of entries) {
      const damaged = Buffer.from(value)
      const at = random.below(value.length)
      damaged[at] = damaged[at]! ^ (1 << random.below(8))
      const what = `key ${key.toString('hex')} byte ${at}`
      expect(() => checkEntry(key, damaged), what).toThrow()
      if (random.chance(0.7)) continue
      await withRaw(path, (db) => db.put(key, damaged))
      const damages: Damage[] = []
      const records = await recordsOf(path, (damage) => damages.push(damage))
      if (key[0] !== Table.PageIndex && !(await isBodiesOnly(path, key))) {
        expect(damages.length, what).toBeGreaterThan(0)
      }
      const left = await described(await rebuilt(records))
      if (damages.every(({ lost }) => lost === null)) expect(left, what).toEqual(wanted)
      await withRaw(path, (db) => db.put(key, value))
    }
  })

  /** True for pages below the scan, which are read only if one of their bodies is needed. */
  async function isBodiesOnly(path: string, key: Buffer): Promise<boolean> {
    if (key[0] !== Table.Journal) return false
    const db = await openDatabase(path)
    const found: Damage[] = []
    const reader = new RecordReader(db, path, (damage) => found.push(damage))
    await reader.checkRest()
    await db.close()
    return found.length === 1
  }

  test('a hole in the journal loses no other message, whatever was sent meanwhile', async () => {
    const path = directory()
    const server = model(path)
    await server.open()
    server.createSession(1)
    for (let round = 0; round < 60; round++) {
      for (let one = 0; one < 5; one++) server.enqueue(1, delivery(message('t', `${round}.${one}`)))
      await server.commit()
      server.send(1)
      server.send(1)
      const [oldest] = server.session(1).sent.keys()
      if (oldest !== undefined && round % 2 === 0) server.acknowledge(1, oldest)
      await server.commit()
    }
    const wanted = new Set(
      server
        .session(1)
        .messages()
        .map((held) => held.payload.toString()),
    )
    const copy = directory()
    await killed(server, copy)
    await server.store.close()
    const pages = await withRaw(copy, (db) => db.keys(tableRange(Table.Journal)).all())
    for (let index = 20; index < pages.length; index += 17) {
      const [value] = await withRaw(copy, (db) => db.getMany([pages[index]!]))
      await withRaw(copy, (db) => db.del(pages[index]!))
      const damages: Damage[] = []
      const records = await recordsOf(copy, (damage) => damages.push(damage))
      expect(damages.map(({ what }) => what)).toContainEqual(expect.stringContaining('missing'))
      const kept = new Set(
        records.flatMap((record) => (record.type === 'message' ? [record.payload.toString()] : [])),
      )
      const lost = [...wanted].filter((payload) => !kept.has(payload))
      // A page holds one commit here, of five messages at most.
      expect(lost.length, `page ${index}`).toBeLessThanOrEqual(5)
      expect(new Set(lost.map((payload) => payload.split('.')[0])).size).toBeLessThanOrEqual(1)
      await rebuilt(records)
      await withRaw(copy, (db) => db.put(pages[index]!, value!))
    }
  })

  test('a lost Session record, checkpoint or description is reported, and the rest is kept', async () => {
    const { path, server } = await randomStore(8, 400)
    await server.store.close()
    const [session] = await withRaw(path, (db) => db.keys(tableRange(Table.Session)).all())
    const [head] = await withRaw(path, (db) => db.keys(tableRange(Table.CheckpointHead)).all())
    for (const [key, what] of [
      [session!, /no sound record of Session/],
      [head!, /has no sound checkpoint/],
      [META_KEY, /description of the store is missing/],
    ] as const) {
      const [value] = await withRaw(path, (db) => db.getMany([key]))
      await withRaw(path, (db) => db.del(key))
      const damages: Damage[] = []
      const records = await recordsOf(path, (damage) => damages.push(damage))
      expect(damages.map((damage) => damage.what)).toContainEqual(expect.stringMatching(what))
      await described(await rebuilt(records))
      await withRaw(path, (db) => db.put(key, value!))
    }
  })

  test('export refuses a damaged store', async () => {
    const { path, server } = await randomStore(9, 300)
    await server.store.close()
    const [key] = await withRaw(path, (db) => db.keys(tableRange(Table.Session)).all())
    await withRaw(path, (db) => db.put(key!, Buffer.from('nothing')))
    await expect(recordsOf(path)).rejects.toMatchObject({
      kind: 'corrupt',
      advice: expect.stringContaining('godwit check-store'),
    })
  })
})

test('export and import do not prolong the time until a message expires [field-B9]', async () => {
  const open = directory()
  const server = model(open)
  await server.open()
  // As in a broker, broker time has a fraction, and wall time has none.
  server.brokerTime = 86_400_000.3
  const expiresAt = Math.floor(server.brokerTime) + 100_000
  server.retain(message('t', 'x', { retain: true, expiresAt }))
  await server.commit()
  const path = directory()
  await killed(server, path)
  await server.store.close()
  const records = await recordsOf(path)
  const start = records.find((record) => record.type === 'start')!
  const retained = records.find((record) => record.type === 'retained')!
  expect(retained.expiresAt! - start.time).toBeLessThanOrEqual(100_000)
  expect(secondsLeft(retained.expiresAt!, start.time)).toBe(100)
})

describe('every format that was released', () => {
  test.each(RELEASED)('store-v%i opens with its whole content', async (format) => {
    const path = await fixture(format)
    const wanted = await exported(format)
    // It is read as it is, then by the store itself, which upgrades it, and then once more.
    const lines = (records: readonly StoreRecord[]): string[] => linesAs(wanted, records)
    expect(lines(await recordsOf(path))).toEqual(wanted)
    const server = model(path)
    server.brokerTime = 86_400_000
    server.wallTime = Date.parse('2026-01-31T12:00:00.000Z')
    await server.open()
    await server.restoreAll()
    expect([...server.sessions.values()].map(({ record }) => record.clientId)).toEqual([
      'offline',
      'under way',
      'connected/ü',
      'long queue',
      'kept bodies',
    ])
    const underWay = [...server.sessions.values()][1]!
    expect(
      [...underWay.sent].map(([packetId, sent]) => [packetId, sent?.message.payload.toString()]),
    ).toEqual([
      [12, undefined],
      [13, 'sent since the checkpoint'],
      [14, 'under way at QoS 2'],
      [11, undefined],
    ])
    expect(server.retained.size).toBe(2)
    expect(server.wills.size).toBe(2)
    server.clearWill('nobody')
    await server.commit()
    await server.store.close()
    expect(lines(await recordsOf(path))).toEqual(wanted)
    expect(await formatIn(path)).toBe(FORMAT_VERSION)
  })

  test.each(RELEASED)('store-v%i survives repair, backup, and export with import', async (format) => {
    const path = await fixture(format)
    const wanted = await exported(format)
    const records = await recordsOf(path)
    const copy = directory()
    await withRaw(path, (db) =>
      unpack(containerChunks(snapshotSlices(db, path), 0, format), copy).then(() => undefined),
    )
    expect(linesAs(wanted, await recordsOf(copy))).toEqual(wanted)
    const rebuiltPath = await rebuilt(records)
    expect(await formatIn(rebuiltPath)).toBe(FORMAT_VERSION)
    expect(linesAs(wanted, await recordsOf(rebuiltPath))).toEqual(wanted)
    const reader = new LineReader()
    const read = wanted.slice(0, -1).map((line) => reader.read(line))
    const imported = await rebuilt(read.filter((record) => record !== null))
    expect(linesAs(wanted, await recordsOf(imported))).toEqual(wanted)
  })

  test('the first commit upgrades a store of format 1, and nothing else does', async () => {
    const path = await fixture(1)
    const batches: Batch[] = []
    const store = new LevelStore({
      directory: path,
      sync: false,
      residentBytesMax: 4000,
      reserveBytes: 0,
      openBatch: recordingWriter(batches),
    })
    const server = new ModelServer(store)
    server.remember = false
    await server.open()
    expect([store.format, batches.length]).toEqual([1, 0])
    // After a kill before that commit, 0.1.0 can still open it.
    const before = directory()
    await unpack(containerChunks(store.snapshot(), 0, store.format), before)
    expect(await formatIn(before)).toBe(1)
    server.createSession(99, 'first')
    await server.commit()
    expect(store.format).toBe(FORMAT_VERSION)
    // The mark is in one batch with the records that only a later version can read.
    const [first] = batches
    const described = first!.find(({ key }) => key.equals(META_KEY))
    expect(described?.type === 'put' && formatOf(described.value)).toBe(FORMAT_VERSION)
    expect(first!.some(({ key }) => key[0] === Table.Journal)).toBe(true)
    await server.store.close()
    await new LevelStore({ directory: path, sync: false, residentBytesMax: 0, reserveBytes: 0 })
      .open(new ModelServer(store))
      .then(() => undefined)
    expect(await readFile(join(path, 'godwit.store'), 'utf8')).toContain(`format ${FORMAT_VERSION}`)
  })

  test('each has a fixture', async () => {
    const found = (await readdir(FIXTURES)).filter((name) => name.startsWith('store-v'))
    expect(found.sort()).toEqual(RELEASED.map((format) => `store-v${format}`))
    expect(RELEASED.at(-1)).toBe(FORMAT_VERSION)
  })

  test('a newer format is refused with advice on how to go back', async () => {
    const path = await fixture(FORMAT_VERSION)
    await withRaw(path, async (db) => {
      const meta = Buffer.from((await db.get(META_KEY))!.subarray(0, -4))
      meta.writeUInt16LE(99, 6)
      await db.put(META_KEY, resealed(META_KEY, meta))
    })
    const refusal = {
      kind: 'format',
      message: expect.stringContaining('store format 99'),
      advice: expect.stringMatching(/godwit export.*godwit import/),
    }
    await expect(model(path).open()).rejects.toMatchObject(refusal)
    await expect(recordsOf(path)).rejects.toMatchObject(refusal)
  })
})

/** A store of this format as a directory. */
async function fixture(format: number): Promise<string> {
  const path = directory()
  await unpack(fileChunks(join(FIXTURES, `store-v${format}`, 'store.godwit-backup')), path)
  return path
}

/** The lines of an export of it. */
async function exported(format: number): Promise<string[]> {
  return (await readFile(join(FIXTURES, `store-v${format}`, 'export.jsonl'), 'utf8')).split('\n')
}

/** The lines of these records, with the header of other lines. */
function linesAs([start]: readonly string[], records: readonly StoreRecord[]): string[] {
  const header = JSON.parse(start!) as ExportHeader
  const texts = records.map((record) => lineOf(record, header))
  return [...texts, endLine(texts.length + 1), '']
}

/** Decodes the description of a closed store. */
async function formatIn(path: string): Promise<number | null> {
  return formatOf((await withRaw(path, (db) => db.get(META_KEY)))!)
}

describe('lines', () => {
  test.each(RELEASED)(
    'lines of format %i stay the same when they are read and written again',
    async (format) => {
      const lines = (await exported(format)).slice(0, -1)
      const header = JSON.parse(lines[0]!) as ExportHeader
      const reader = new LineReader()
      for (const line of lines) {
        const record = reader.read(line)
        if (record === null) continue
        const again = lineOf(record, header)
        expect(again).toBe(line)
      }
      reader.end()
    },
  )

  const START =
    '{"type":"start","format":"godwit-export","version":1,"godwit":"0.1.0","time":"2026-01-31T12:00:00Z"}'

  test.each([
    ['not JSON', 'line 2 is not JSON'],
    ['[]', 'line 2 is not a JSON object'],
    ['{"type":"nothing"}', 'line 2 has the unknown type "nothing"'],
    [
      '{"type":"queued","clientId":"a","message":1,"qos":3}',
      'line 2 has a qos that is not a number from 0 to 2',
    ],
    ['{"type":"queued","clientId":"a","message":1,"qos":1,"more":1}', 'line 2 has the unknown field "more"'],
    ['{"type":"queued","message":1,"qos":1}', 'line 2 has no clientId'],
    [
      '{"type":"message","message":1,"topicName":"a/+","qos":1,"payload":""}',
      'line 2 has a topicName that contains a wildcard',
    ],
    [
      '{"type":"message","message":1,"topicName":"a","qos":1,"payload":"?"}',
      'line 2 has a payload that is not base64',
    ],
    [
      '{"type":"retained","topicName":"a","qos":1,"payload":"","expiresAt":"today"}',
      'line 2 has a expiresAt that is not like 2026-01-31T12:00:00.000Z',
    ],
    ['{"type":"end","lines":9}', 'line 2 says that 9 lines were written; 2 are here'],
    [START, 'line 2 is a second start line'],
  ])('%s is refused', (line, reason) => {
    const reader = new LineReader()
    reader.read(START)
    expect(() => reader.read(line)).toThrow(reason)
  })

  test('a truncated export and one of a later version are refused', () => {
    const reader = new LineReader()
    reader.read(START)
    expect(() => reader.end()).toThrow('cut off after line 1')
    expect(() => new LineReader().read(START.replace('"version":1', '"version":4'))).toThrow(
      'export version 4',
    )
    expect(() => new LineReader().read('{"type":"end","lines":1}')).toThrow('line 1 is not a start line')
  })
})
