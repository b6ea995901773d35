import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import AsyncLevelPersistence from 'aedes-persistence-level/asyncPersistence.js'
import { Level } from 'level'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { Message, Topic } from '../../../src/mqtt/message.ts'
import type { QoS } from '../../../src/mqtt/packet.ts'
import { type BatchMaker, openBatch } from '../../../src/store/files/database.ts'
import { Table, unsealed } from '../../../src/store/format/format.ts'
import { decodeMsgpack } from '../../../src/store/format/msgpack.ts'
import type { LevelStoreOptions } from '../../../src/store/level/level-options.ts'
import { LevelStore } from '../../../src/store/level/level-store.ts'
import { delivery, ModelServer, message } from '../model.ts'
import { type Batch, recordingWriter } from '../recorded.ts'

let directory: string

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'godwit-retained-'))
})

afterEach(async () => {
  await rm(directory, { recursive: true, force: true })
})

function model(options: Partial<LevelStoreOptions> = {}): ModelServer {
  return new ModelServer(
    new LevelStore({ directory, sync: false, residentBytesMax: 1_000_000, reserveBytes: 0, ...options }),
  )
}

const RECORD = { qos: 1, noLocal: false, retainAsPublished: false, retainHandling: 0, identifier: 0 } as const

const WILL = {
  topic: 'last/words',
  payload: Buffer.from('bye'),
  qos: 1,
  retain: true,
  properties: Buffer.from([1, 1]),
  expirySeconds: 60,
  delaySeconds: 5,
} as const

test('a retained message and a Will are in the atomic batch with the records of their turn', async () => {
  const batches: Batch[] = []
  const server = model({ openBatch: recordingWriter(batches) })
  await server.open()
  server.createSession(1)
  await server.commit()
  batches.length = 0
  const both = message('a/b', 'payload', { retain: true })
  server.enqueue(1, delivery(both))
  server.retain(both)
  server.setWill('client/ä', { will: WILL, owner: 'owner', dueAt: 7 })
  server.addInbound(1, 9)
  await server.commit()
  expect(batches).toHaveLength(1)
  const keys = batches[0]!.map(({ key }) => (key[0] === Table.Journal ? 'journal' : key.toString()))
  expect(keys.sort()).toEqual(['journal', 'retained:a/b', 'will:client%2F%C3%A4'])
  await server.store.close()
})

test('many retained messages go in pieces into one atomic batch; the latest of a topic counts', async () => {
  const pieces: number[][] = []
  const counting: BatchMaker = (db) => {
    const batch = openBatch(db)
    const added: number[] = []
    const add: typeof batch.add = (operations) => {
      added.push(operations.length)
      batch.add(operations)
    }
    const write: typeof batch.write = (sync) => {
      pieces.push(added)
      return batch.write(sync)
    }
    return { add, write }
  }
  const server = model({ openBatch: counting })
  server.remember = false
  await server.open()
  server.createSession(1)
  await server.commit()
  pieces.length = 0
  for (const round of [1, 2]) {
    for (let n = 0; n < 4000; n++) {
      server.retain(message(`r/${n}`, `${round}`, { retain: true }))
      server.subscribe(1, `f/${n}`, { ...RECORD, identifier: round })
    }
    for (let n = 0; n < 4000; n += 2) {
      server.clearRetained(`r/${n}`)
      server.unsubscribe(1, `f/${n}`)
    }
  }
  await server.commit()
  expect(pieces).toHaveLength(1)
  expect(Math.max(...pieces[0]!)).toBeLessThanOrEqual(2048)
  // The others are the meta, the journal's page and the Session's checkpoint.
  expect(pieces[0]!.at(-1)).toBeLessThanOrEqual(2048)
  await server.store.close()
  const again = model()
  again.remember = false
  const { retained } = await again.open()
  expect(retained.map(({ topic, payload }) => `${topic.name} ${payload}`).sort()).toEqual(
    Array.from({ length: 2000 }, (_, half) => `r/${2 * half + 1} 2`).sort(),
  )
  const { subscriptions } = again.session(1)
  expect(subscriptions.size).toBe(2000)
  for (const [filter, { identifier }] of subscriptions) {
    expect([Number(filter.slice(2)) % 2, identifier]).toEqual([1, 2])
  }
  await again.store.close()
})

test('Aedes can read stored retained messages and Wills', async () => {
  const server = model()
  await server.open()
  server.retain(message('a/b', 'payload', { retain: true, qos: 2, properties: Buffer.from([1, 0]) }))
  server.setWill('client', { will: WILL, owner: null, dueAt: 0 })
  await server.store.close()
  const db = new Level<string, Buffer>(directory, { valueEncoding: 'buffer' })
  const persistence = new AsyncLevelPersistence(db)
  const retained = []
  for await (const packet of persistence.createRetainedStream('a/#')) retained.push(packet)
  expect(retained).toMatchObject([{ topic: 'a/b', payload: Buffer.from('payload'), qos: 2, retain: true }])
  expect(await persistence.getWill({ id: 'client' })).toMatchObject({
    topic: 'last/words',
    payload: Buffer.from('bye'),
    clientId: 'client',
  })
  await db.close()
})

test('a retained message is stored with the same bytes as by aedes-persistence-level', async () => {
  const theirs = new Map<string, string>()
  const persistence = new AsyncLevelPersistence({
    put: async (key, value) => void theirs.set(key, value.toString('hex')),
  })
  const batches: Batch[] = []
  const server = model({ openBatch: recordingWriter(batches) })
  await server.open()
  batches.length = 0
  let made = 0
  const retain = async (bytes: number, name: string, qos: QoS, expiresAt: number, publisher: string) => {
    const topic = `${made++}/${name}`
    const payload = Buffer.alloc(bytes, made)
    const properties = Buffer.alloc(made % 3 === 0 ? bytes : 0, 1)
    const given = { topic: new Topic(topic), payload, properties, qos, expiresAt, publisher }
    // A message that a Will left may be retained without RETAIN.
    const retained = Message.of({ ...given, retain: made % 7 > 0 })
    server.store.putRetained(retained, 0)
    await persistence.storeRetained({
      ...{ cmd: 'publish', topic, payload, qos, retain: retained.retain, dup: false, raw: properties },
      ...{ expiresAt: Number.isFinite(expiresAt) ? expiresAt : null, publisher },
    })
  }
  const names = [
    'a',
    'é'.repeat(14),
    'é'.repeat(15),
    '\u{1f40c}'.repeat(40),
    'x'.repeat(250),
    'y'.repeat(65_000),
  ]
  const times = [0, 127, 128, 255, 256, 65_535, 65_536, 2 ** 31 - 1, 2 ** 31, 1.5, 2 ** 50]
  for (const name of names) await retain(5, name, 1, Number.POSITIVE_INFINITY, name.slice(0, 1000))
  for (const time of times) await retain(5, 'time', 2, time, 'client')
  for (const bytes of [1, 31, 32, 255, 256, 65_535, 65_536, 1_000_000]) await retain(bytes, 'b', 0, 1, '')
  server.store.putRetained(message('gone', 'x', { retain: true }), 0)
  server.store.deleteRetained('gone')
  await server.commit()
  const ours = new Map<string, string>()
  for (const operation of batches[0]!) {
    if (operation.key[0]! <= Table.Journal) continue
    const key = operation.key.toString()
    if (operation.type === 'del') expect(key).toBe('retained:gone')
    else ours.set(key, unsealed(operation.key, operation.value).toString('hex'))
  }
  expect([...ours.keys()].sort()).toEqual([...theirs.keys()].sort())
  for (const [key, value] of theirs) expect(ours.get(key), key.slice(0, 40)).toBe(value)
  await server.store.close()
})

test('the memory of written retained messages is freed once LevelDB has the batch', async () => {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const arrayBytes = (): number => {
    collect()
    return process.memoryUsage().arrayBuffers
  }
  const server = model()
  await server.open()
  const before = arrayBytes()
  server.store.putRetained(message('a', 'x'.repeat(20_000_000), { retain: true }), 0)
  await server.commit()
  // V8 frees the memory of collected buffers on another thread, which may take a while on a busy machine.
  await vi.waitFor(() => expect(arrayBytes() - before).toBeLessThan(2_000_000), { timeout: 60_000 })
  await server.store.close()
})

test('a directory of Aedes is imported with its retained messages and Wills, with a notice', async () => {
  const db = new Level<string, Buffer>(directory, { valueEncoding: 'buffer' })
  const persistence = new AsyncLevelPersistence(db)
  for (let index = 0; index < 1500; index++) {
    const packet = {
      cmd: 'publish',
      topic: `t/${index}/é`,
      payload: Buffer.from(`p${index}`),
      qos: 1,
      retain: true,
    }
    await persistence.storeRetained(packet)
  }
  await persistence.putWill({ id: 'client:1' }, { topic: 'w', payload: 'text', qos: 2, retain: false })
  await db.put('outgoing:client:1:0000000000000001', Buffer.from([0x80]))
  await db.close()
  for (const start of ['first', 'second']) {
    const server = model()
    const recovered = await server.open()
    expect(server.retained.size).toBe(1500)
    expect(server.retained.get('t/7/é')).toMatchObject({ payload: Buffer.from('p7'), qos: 1, retain: true })
    expect(server.wills.get('client:1')).toMatchObject({
      will: { topic: 'w', payload: Buffer.from('text'), qos: 2, retain: false, delaySeconds: 0 },
      owner: null,
      dueAt: 0,
    })
    const notice = '1500 retained messages and 1 Wills were taken over; 1 entries of Sessions were not'
    if (start === 'first') expect(recovered.notice).toContain(notice)
    else expect(recovered.notice).toBeUndefined()
    await server.store.close()
  }
})

test('a retained message stays in memory, even when its queued deliveries could be evicted', async () => {
  const server = model({ residentBytesMax: 0 })
  await server.open()
  server.createSession(1)
  const retained = message('a', 'kept', { retain: true })
  const other = message('a', 'evicted')
  server.retain(retained)
  server.enqueue(1, delivery(retained))
  server.enqueue(1, delivery(other))
  await server.commit()
  expect(retained.evicted).toBe(false)
  expect(other.evicted).toBe(true)
  await server.store.close()
})

test.each([
  ['c0', null],
  ['c3', true],
  ['7f', 127],
  ['ff', -1],
  ['cd0100', 256],
  ['ce00010000', 65_536],
  ['cf0000010000000000', 2 ** 40],
  ['d3ffffff0000000000', -(2 ** 40)],
  ['cb3ff8000000000000', 1.5],
  ['a161', 'a'],
  ['d90161', 'a'],
  ['93010203', [1, 2, 3]],
])('MessagePack %s', (hex, value) => {
  const bytes = Buffer.from(hex, 'hex')
  expect(decodeMsgpack(bytes)).toEqual({ value, bytes: bytes.length })
})

test('MessagePack: binary, maps, trailing bytes, and truncated values', () => {
  const bytes = Buffer.from('82a16ba176c40261c40201ff', 'hex')
  expect(() => decodeMsgpack(bytes.subarray(0, 6))).toThrow('too early')
  expect(decodeMsgpack(Buffer.from('82a16ba176a162c4020102ffff', 'hex'))).toEqual({
    value: new Map<string, unknown>([
      ['k', 'v'],
      ['b', Buffer.from([1, 2])],
    ]),
    bytes: 11,
  })
  expect(() => decodeMsgpack(Buffer.from('c1', 'hex'))).toThrow('not known')
})

test('the time of the latest live message and the start of a pending Subscription are stored', async () => {
  const server = model()
  await server.open()
  const record = { clientId: 'sub', owner: null, ownerId: null, expirySeconds: 1000, disconnectedAt: 0 }
  const subscription = {
    qos: 1,
    noLocal: false,
    retainAsPublished: false,
    retainHandling: 0,
    identifier: 3,
  } as const
  server.store.putSession(1, record)
  server.store.putSubscription(1, '#', { ...subscription, retainedPending: true, retainedSince: 1234.5 })
  server.store.putSubscription(1, 'plain', subscription)
  for (const [name, liveAt] of [
    ['a', 2000.25],
    ['b', 0],
    ['c', 5],
    ['d', 7],
  ] as const) {
    server.store.putRetained(message(name, 'x', { retain: true }), liveAt)
  }
  server.store.putRetained(message('c', 'y', { retain: true }), 0)
  server.store.deleteRetained('d')
  await server.commit()
  await server.store.close()
  const { retained, retainedLive, sessions } = await server.store.open(server)
  expect(retained.map(({ topic }) => topic.name).sort()).toEqual(['a', 'b', 'c'])
  expect(retainedLive).toEqual([['a', 2000.25]])
  expect(Object.fromEntries([...sessions][0]!.subscriptions)).toEqual({
    '#': { ...subscription, retainedPending: true, retainedSince: 1234.5 },
    plain: subscription,
  })
  await server.store.close()
})

test('the author of a retained message is stored, and Aedes can still read the message', async () => {
  const server = model()
  await server.open()
  const authors = [
    ['a', null],
    ['b', { userName: null, userId: null }],
    ['c', { userName: 'alice', userId: null }],
    ['d', { userName: '\u{1f40c}'.repeat(60), userId: 'i'.repeat(300) }],
    ['e', { userName: 'alice', userId: null }],
  ] as const
  for (const [name, author] of authors) {
    const retained = message(name, 'x', { retain: true })
    retained.author = author
    server.store.putRetained(retained, name === 'e' ? 5.5 : 0)
  }
  await server.commit()
  await server.store.close()
  const recovered = await server.store.open(server)
  expect(recovered.retained.map(({ topic, author }) => [topic.name, author])).toEqual(authors)
  await server.store.close()
})
