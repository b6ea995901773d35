/**
 * Messages that wait on the disk keep an entry in memory. Users with very many get no more, and others come
 * in.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { LevelStore } from '../../../src/store/level/level-store.ts'
import { connectPacket, type Given, lasting, type TestClient, World } from '../harness.ts'

const MIB = 1024 * 1024
const CLIENTS = 50
/** Parked entries take 24 bytes each: these are 90 % of a MiB. */
const EACH = 800

const policy = {
  authenticate: ({ userName }: { userName: string | null | undefined }) =>
    ({ allow: true, userName: userName ?? null }) as const,
}
const limits = { profile: 'open', memoryBytesMax: MIB, inFlightMax: 10 } as const

let directory: string
let store: LevelStore
let world: World

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'godwit-caps-'))
})

afterEach(async () => {
  await store.close()
  rmSync(directory, { recursive: true, force: true })
})

async function start(): Promise<void> {
  store = new LevelStore({ directory, sync: false, residentBytesMax: 40_000, reserveBytes: 0 })
  world = await World.make({ store, limits, policy })
}

/** Waits for a condition, since commits are real. */
async function until(condition: () => boolean): Promise<void> {
  for (;;) {
    await world.settle()
    if (condition()) return
    await new Promise((resolve) => setImmediate(resolve))
  }
}

async function connected(
  clientId: string,
  given: Given,
): Promise<{ client: TestClient; reasonCode: number | undefined }> {
  const client = world.open()
  const { packets } = client.link
  packets.push(...(await client.send({ ...connectPacket(clientId), properties: {}, ...given })))
  await until(() => packets.length > 0)
  const connack = packets.shift()
  return { client, reasonCode: connack?.cmd === 'connack' ? connack.reasonCode : undefined }
}

async function publish(count: number): Promise<void> {
  const payload = Buffer.from('message')
  for (let n = 0; n < count; n++) {
    void world.server.publish({ topic: 't', payload, qos: 1, retain: false, publisher: '' })
    if (n % 50 === 0) await until(() => store.committedSequence >= store.recordedSequence)
  }
  await until(() => store.committedSequence >= store.recordedSequence)
}

const lengths = (): number[] =>
  [...world.server.state.sessionsById.values()].map(({ queueLength }) => queueLength)

test('queues that fill the memory with entries stop growing, so that new clients come in', async () => {
  await start()
  for (let index = 0; index < CLIENTS; index++) {
    const { client } = await connected(`greedy${index}`, { ...lasting(100_000), username: 'greedy' })
    void client.subscribe('t', 1)
    await until(() => client.link.packets.length > 0)
    await client.vanish()
  }
  const relieved = world.record('relieved')
  await publish(EACH)
  await world.pass(3)
  expect(relieved.length).toBeGreaterThanOrEqual(CLIENTS)
  expect(relieved[0]).toMatchObject({ userName: 'greedy', step: 'capped', of: 'memory' })
  const held = lengths()
  expect(Math.min(...held)).toBeGreaterThan(EACH / 2)
  await publish(100)
  expect(lengths()).toEqual(held)
  expect((await connected('new', { username: 'small' })).reasonCode).toBe(0)
  expect((await connected('stored', { ...lasting(1000), username: 'greedy' })).reasonCode).toBe(0x97)
  await store.close()

  await start()
  await world.pass(3)
  expect(lengths()).toEqual(held)
  expect((await connected('new', { username: 'small' })).reasonCode).toBe(0)
  for (let index = 0; index < CLIENTS / 2; index++) {
    await connected(`greedy${index}`, { username: 'greedy', clean: true })
  }
  await world.pass(3)
  expect([...world.server.state.sessionsById.values()].filter(({ queue }) => queue.isCapped)).toEqual([])
  const left = lengths()
  await publish(10)
  expect(lengths()).toEqual(left.map((length) => length + 10))
})
