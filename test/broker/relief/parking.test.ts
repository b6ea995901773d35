/**
 * Once memory is short, queue entries of absent clients take a few bytes each, however short the queue is.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { LevelStore } from '../../../src/store/level/level-store.ts'
import { connectPacket, lasting, type TestClient, textsOf, World } from '../harness.ts'

const BUDGET_BYTES = 40_000
const CLIENTS = 60
const EACH = 40
/** The length of a queue that does not park by itself. */
const FEW = 10

let directory: string
let store: LevelStore
let world: World

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'godwit-parking-'))
  store = new LevelStore({ directory, sync: false, residentBytesMax: BUDGET_BYTES, reserveBytes: 0 })
  world = await World.make({ store })
})

afterEach(async () => {
  await store.close()
  rmSync(directory, { recursive: true, force: true })
})

/** Waits for a condition, since commits are real. */
async function until(condition: () => boolean): Promise<void> {
  for (;;) {
    await world.settle()
    if (condition()) return
    await new Promise((resolve) => setImmediate(resolve))
  }
}

const committed = (): Promise<void> => until(() => store.committedSequence >= store.recordedSequence)

async function connected(clientId: string): Promise<TestClient> {
  const client = world.open()
  await client.send({ ...connectPacket(clientId), ...lasting(100_000) })
  await until(() => client.link.packets.length > 0)
  client.link.packets.shift()
  return client
}

/** Publishes messages to all, with a turn and a commit for each. */
async function publish(count: number): Promise<void> {
  for (let n = 0; n < count; n++) {
    void world.server.publish({
      topic: 't',
      payload: Buffer.from(`${n}`),
      qos: 1,
      retain: false,
      publisher: '',
    })
    await committed()
  }
}

async function received(client: TestClient, count: number): Promise<string[]> {
  const texts: string[] = []
  while (texts.length < count) {
    await until(() => client.link.packets.length > 0)
    const packets = client.got()
    texts.push(...textsOf(packets))
    const acknowledged = packets.filter(({ cmd }) => cmd === 'publish')
    client.link.packets.push(
      ...(await client.send(...acknowledged.map((p) => ({ cmd: 'puback', messageId: p.messageId })))),
    )
  }
  return texts
}

const parked = (): number =>
  [...world.server.state.sessions.values()].reduce((sum, each) => sum + each.parkedCount, 0)

test('queues of many absent clients that are too short to park by themselves are parked', async () => {
  for (let index = 0; index < CLIENTS; index++) {
    const client = await connected(`c${index}`)
    // One group each, so that each has a delivery of its own.
    void client.subscribe(`$share/${index}/t`, 1)
    await until(() => client.link.packets.length > 0)
    await client.vanish()
  }
  await publish(FEW)
  const before = parked()
  expect(store.isMemoryShort).toBe(true)
  await world.pass(3)
  expect(store.isMemoryShort).toBe(false)
  expect(parked()).toBeGreaterThan(before)
  const expected = Array.from({ length: FEW }, (_, index) => `${index}`)
  for (const index of [0, 30, CLIENTS - 1]) {
    expect(await received(await connected(`c${index}`), FEW)).toEqual(expected)
  }
})

test('messages in flight to absent clients are parked, and sent again in order', async () => {
  for (let index = 0; index < CLIENTS; index++) {
    const client = await connected(`c${index}`)
    void client.subscribe(`$share/${index}/t`, 1)
    await until(() => client.link.packets.length > 0)
    client.link.packets.length = 0
  }
  await publish(EACH)
  for (const connection of [...world.server.state.connected.values()]) connection.destroy()
  await world.settle()
  await world.pass(3)
  expect(parked()).toBeGreaterThan((CLIENTS * EACH) / 2)
  expect(store.isMemoryShort).toBe(false)
  const expected = Array.from({ length: EACH }, (_, index) => `${index}`)
  expect(await received(await connected('c7'), EACH)).toEqual(expected)
  await committed()
  await store.close()

  store = new LevelStore({ directory, sync: false, residentBytesMax: BUDGET_BYTES, reserveBytes: 0 })
  world = await World.make({ store })
  expect(parked()).toBe((CLIENTS - 1) * EACH)
  expect(store.figures.entryBytes).toBe(0)
  expect(await received(await connected('c8'), EACH)).toEqual(expected)
  expect(
    [...world.server.state.sessions.values()].find(({ clientId }) => clientId === 'c7')?.inFlightCount,
  ).toBe(0)
})

test('the counts are 0 once the Sessions have ended', async () => {
  for (let index = 0; index < CLIENTS; index++) {
    const client = await connected(`c${index}`)
    void client.subscribe(index % 2 === 0 ? 't' : `$share/${index}/t`, 1)
    await until(() => client.link.packets.length > 0)
    if (index % 3 === 0) await client.vanish()
  }
  await publish(EACH)
  await world.pass(1)
  for (const session of [...world.server.state.sessions.values()])
    void world.server.inventory.deleteSession(session.clientId)
  await committed()
  await world.pass(1)
  await committed()
  expect(world.server.state.sessions.size).toBe(0)
  expect(store.figures).toMatchObject({ entryBytes: 0, residentBytes: 0, storedBytes: 0 })
})

test('a long queue is parked in steps, which count as work', async () => {
  await store.close()
  store = new LevelStore({ directory, sync: false, residentBytesMax: 100_000_000, reserveBytes: 0 })
  world = await World.make({ store })
  const client = await connected('c')
  void client.subscribe('$share/g/t', 1)
  await until(() => client.link.packets.length > 0)
  await client.vanish()
  for (let n = 0; n < 6000; n++) {
    void world.server.publish({
      topic: 't',
      payload: Buffer.from(`${n}`),
      qos: 1,
      retain: false,
      publisher: '',
    })
  }
  await committed()
  const session = world.server.state.sessions.get('c')!
  const steps: number[] = []
  const park = session.park.bind(session)
  session.park = (most) => {
    const count = park(most)
    steps.push(count)
    return count
  }
  expect(parked()).toBe(0)
  store.countEntries(1e9)
  const before = world.server.state.work.units
  await world.pass(2)
  expect(parked()).toBe(6000)
  expect(Math.max(...steps)).toBeLessThanOrEqual(2048)
  expect(world.server.state.work.units - before).toBeGreaterThan(4 * 6000)
  store.countEntries(-1e9)
})
