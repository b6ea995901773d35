/** Bodies above the budget are on disk only, both in a running store and after a start. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { Table } from '../../src/store/format/format.ts'
import { LevelStore } from '../../src/store/level/level-store.ts'
import { delivery, ModelServer, message } from './model.ts'
import { type Batch, recordingWriter } from './recorded.ts'

const MESSAGES = 3000
const BUDGET_BYTES = 100_000

test('a long queue stays within the budget, is recovered within it, and drains in order', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'godwit-budget-'))
  const options = { directory, sync: false, residentBytesMax: BUDGET_BYTES, reserveBytes: 0 }
  const server = new ModelServer(new LevelStore(options))
  server.remember = false
  await server.open()
  server.createSession(1)
  for (let index = 0; index < MESSAGES; index++) {
    server.enqueue(1, delivery(message('topic', `${index} ${'.'.repeat(200)}`)))
    if (index % 100 === 99) {
      await server.commit()
      expect(server.store.figures.residentBytes).toBeLessThan(BUDGET_BYTES + 1000)
    }
  }
  const { storedBytes } = server.store.figures
  await server.store.close()

  const again = new ModelServer(new LevelStore(options))
  again.remember = false
  await again.open()
  const { figures } = again.store
  expect(figures.storedBytes).toBe(storedBytes)
  expect(figures.residentBytes).toBeLessThan(BUDGET_BYTES + 1000)
  const { deliveries } = again.session(1)
  for (let expected = 0; expected < MESSAGES; ) {
    deliveries.unpark(100)
    const { head } = deliveries
    await again.store.restore(Array.from({ length: 100 }, (_, index) => deliveries.at(head + index).message))
    for (let count = 0; count < 100; count++, expected++) {
      expect(deliveries.peek()!.message.payload.toString()).toBe(`${expected} ${'.'.repeat(200)}`)
      again.drop(1)
    }
    await again.commit()
    expect(again.store.figures.residentBytes).toBeLessThan(BUDGET_BYTES + 100_000)
  }
  expect(again.store.figures).toMatchObject({ storedBytes: 0, residentBytes: 0 })
  await again.store.close()
  await rm(directory, { recursive: true })
})

test('restored messages that nobody sends are evicted again when memory is short', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'godwit-budget-'))
  const server = new ModelServer(
    new LevelStore({ directory, sync: false, residentBytesMax: 10_000, reserveBytes: 0 }),
  )
  server.remember = false
  await server.open()
  for (let id = 1; id <= 20; id++) server.createSession(id)
  for (let index = 0; index < 2000; index++) {
    server.enqueue(1 + (index % 20), delivery(message('topic', '.'.repeat(100))))
    if (index % 50 === 0) await server.commit()
  }
  await server.commit()
  for (let id = 1; id <= 20; id++) {
    await server.store.restore(server.session(id).messages())
    server.addInbound(id, 1)
    await server.commit()
  }
  for (let round = 0; round < 20; round++) {
    server.addInbound(1, 2 + round)
    await server.commit()
  }
  expect(server.store.figures.residentBytes).toBeLessThan(25_000)
  await server.store.close()
  await rm(directory, { recursive: true })
})

test('entries that an ended Session parked are released in slices; their pages need no commit', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'godwit-budget-'))
  const batches: Batch[] = []
  const server = new ModelServer(
    new LevelStore({
      directory,
      sync: false,
      residentBytesMax: BUDGET_BYTES,
      reserveBytes: 0,
      checkpointJournalBytes: 100_000,
      writeBufferBytes: 64 * 1024,
      openBatch: recordingWriter(batches),
    }),
  )
  server.remember = false
  await server.open()
  server.createSession(1)
  server.createSession(2)
  for (let index = 0; index < 30_000; index++) {
    const one = message('topic', `${index} ${'.'.repeat(200)}`)
    server.enqueue(1, delivery(one))
    // Some messages wait for another Session, too.
    if (index % 1000 === 0) server.enqueue(2, delivery(one))
    if (index % 100 === 99) await server.commit()
  }
  let parked = 0
  for (const part of server.session(1).deliveries.parts()) if (!('message' in part)) parked += part.length
  expect(parked).toBeGreaterThan(20_000)
  const before = batches.length
  server.deleteSession(1)
  const left = server.store.figures.storedBytes
  await server.commit()
  expect(left).toBeGreaterThan(1_000_000)
  const deleted = (): number =>
    batches
      .slice(before)
      .flat()
      .filter(({ type, key }) => type === 'del' && key[0] === Table.Journal).length
  while (server.store.figures.storedBytes > 10_000 || deleted() < 200) {
    await new Promise((resolve) => setImmediate(resolve))
  }
  await server.restoreAll()
  const texts = server.session(2).queue.map((entry) => Number.parseInt(entry.message.payload.toString(), 10))
  expect(texts).toEqual(Array.from({ length: 30 }, (_, index) => index * 1000))
  await server.store.close()
  await rm(directory, { recursive: true })
})

test('a message that a queue in memory also holds is not evicted', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'godwit-budget-'))
  const server = new ModelServer(
    new LevelStore({ directory, sync: false, residentBytesMax: 0, reserveBytes: 0 }),
  )
  await server.open()
  server.createSession(1)
  const [held, free] = [message('a', 'held'), message('a', 'free')]
  held.holders++
  server.enqueue(1, delivery(held))
  server.enqueue(1, delivery(free))
  await server.commit()
  await server.commit()
  expect([held.evicted, free.evicted]).toEqual([false, true])
  await server.store.close()
  await rm(directory, { recursive: true })
})

test('a body that died and was stored again is not evicted before it is on disk', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'godwit-budget-'))
  const server = new ModelServer(
    new LevelStore({ directory, sync: false, residentBytesMax: 0, reserveBytes: 0 }),
  )
  await server.open()
  server.createSession(1)
  server.createSession(2)
  await server.commit()
  const passedOn = message('a', 'passed on')
  const committed = server.committed.bind(server)
  server.committed = (sequence) => {
    // Its first body was collected with the block that was sealed just before.
    if (server.session(2).queue.length === 0) server.enqueue(2, delivery(passedOn))
    committed(sequence)
  }
  server.enqueue(1, delivery(passedOn))
  const first = server.commit()
  server.drop(1)
  // Much more than the first commit carries, so that the second does not wait.
  server.enqueue(1, delivery(message('b', 'more'.repeat(100))))
  server.store.commit()
  await first
  expect(passedOn.evicted).toBe(false)
  await server.restoreAll()
  await server.commit()
  await server.commit()
  expect(passedOn.evicted).toBe(true)
  await server.restoreAll()
  await server.store.close()
  await rm(directory, { recursive: true })
})
