/** Memory of the logs of queues: it counts, and leaves room for clients. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { limitsWith } from '../../src/broker/boundary/limits.ts'
import type { QueueOptions } from '../../src/queue/queue-options.ts'
import { DEFAULT_QUEUE_OPTIONS } from '../../src/queue/queue-options.ts'
import { startCore } from '../../src/runtime/broker-core.ts'

const MIB = 1024 * 1024
const MESSAGES = 400
const PAYLOAD = Buffer.alloc(20_000, 'x')
/** The broker with nothing in it, and the parts of the log that grow. */
const OTHER_BYTES = MIB

/** Puts 8 MB into a queue, reads all of it, and returns the memory that is counted. */
async function readBack(given: Partial<QueueOptions>, memoryBytesMax: number): Promise<number> {
  const dataDirectory = await mkdtemp(join(tmpdir(), 'godwit-log-memory-'))
  onTestFinished(() => rm(dataDirectory, { recursive: true, force: true }))
  const queues = { ...DEFAULT_QUEUE_OPTIONS, ...given }
  const limits = limitsWith({ memoryBytesMax })
  const { server, store } = await startCore(
    { dataDirectory, durability: 'interval', queues },
    limits,
    () => [],
  )
  onTestFinished(() => store.close())
  await server.queueOperator!.declare('jobs', { filters: ['jobs'] }, 'test')
  const published: Promise<void>[] = []
  for (let index = 0; index < MESSAGES; index++) {
    published.push(server.publish({ topic: 'jobs', payload: PAYLOAD, qos: 1, retain: false, publisher: '' }))
  }
  await Promise.all(published)
  const log = server.queues!.definitions.byName.get('jobs')!.numbers.logs[0]!
  for (let at = 1; at <= MESSAGES; ) at = (await store.logs.load(log, at))!.end
  expect(server.memoryBytes()).toBeGreaterThan(store.logs.memoryBytes)
  return server.memoryBytes()
}

test('what was read of queues counts, up to queues.read_cache_bytes_max', async () => {
  expect(await readBack({}, Number.POSITIVE_INFINITY)).toBeGreaterThan(MESSAGES * PAYLOAD.length)
  expect(await readBack({ readCacheBytesMax: 2 * MIB }, Number.POSITIVE_INFINITY)).toBeLessThan(
    2 * MIB + OTHER_BYTES,
  )
})

test('… and up to an eighth of limits.memory_bytes_max', async () => {
  expect(await readBack({}, 24 * MIB)).toBeLessThan(3 * MIB + OTHER_BYTES)
})
