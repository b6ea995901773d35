import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { LevelStore } from '../../../src/store/level/level-store.ts'
import { delivery, ModelServer, message } from '../model.ts'
import { hookedWriter } from '../recorded.ts'

/** Longer than any test. */
const FOR_EVER_MS = 1_000_000

let directory: string
let writes = 0

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'godwit-pace-'))
})

afterEach(async () => {
  await rm(directory, { recursive: true, force: true })
})

/** Makes a Server with a Session, whose store expects company for its next commit. */
async function inCompany(commitPaceMs: number): Promise<ModelServer> {
  const openBatch = hookedWriter((_operations, commit) => {
    writes++
    return commit()
  })
  const server = new ModelServer(
    new LevelStore({
      ...{ directory, sync: false, residentBytesMax: 1_000_000, reserveBytes: 0 },
      ...{ commitPaceMs, openBatch },
    }),
  )
  await server.open()
  server.createSession(1)
  await server.commit()
  server.enqueue(1, delivery(message('a', 'first')))
  server.store.commit(1_000_000)
  await server.commit()
  writes = 0
  return server
}

function publish(server: ModelServer, payload: string): void {
  server.enqueue(1, delivery(message('a', payload)))
  server.store.commit(1)
}

test('a block waits for company, and a store that closes meanwhile writes it', async () => {
  const server = await inCompany(FOR_EVER_MS)
  publish(server, 'waits')
  publish(server, 'company')
  expect(writes).toBe(0)
  const last = server.store.openSequence
  await server.store.close()
  expect(server.store.committedSequence).toBeGreaterThanOrEqual(last)
  await server.open()
  await server.restoreAll()
  expect(server.queue(1)).toHaveLength(3)
  await server.store.close()
})

test('a block that has grown large does not wait any longer', async () => {
  const server = await inCompany(FOR_EVER_MS)
  publish(server, 'small')
  expect(writes).toBe(0)
  publish(server, 'x'.repeat(300_000))
  expect(writes).toBe(1)
  await server.store.close()
})

test('records that waited for company are one commit', async () => {
  const server = await inCompany(20)
  publish(server, 'one')
  publish(server, 'two')
  publish(server, 'three')
  const last = server.store.openSequence
  while (server.store.committedSequence < last) await new Promise((resolve) => setTimeout(resolve, 1))
  expect(writes).toBe(1)
  await server.store.close()
})

test('without a pace every block is committed at once', async () => {
  const server = await inCompany(0)
  publish(server, 'alone')
  expect(writes).toBe(1)
  await server.store.close()
})
