/** Memory of a long log is that of its directory, whatever is in it. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test, vi } from 'vitest'
import { LevelStore } from '../../src/store/level/level-store.ts'
import type { GroupState } from '../../src/store/log-store.ts'
import { LogTimes } from '../../src/store/logs/log-times.ts'
import { detachedLogs } from '../../src/store/logs/stored-logs.ts'
import { entry, LogModel } from './log-model.ts'

const MESSAGES = 1_000_000
const COMMIT = 1000
const MIB = 1024 * 1024
/** The read cache of this test. */
const CACHE_BYTES = 2 * MIB
/** Memory of the growing segment, of one that is not durable yet, and of the log itself. */
const OTHER_BYTES = 512 * 1024

/** Knows its floor alone: a model of a million entries would be larger than the store. */
class Drain implements GroupState {
  floor = 1
  readonly rememberedHead = 0
  readonly rememberedTail = 0
  readonly counters = []
  get lanes(): GroupState['lanes'] {
    return [{ floor: this.floor, runs: [] }]
  }
  returned = (): [] => []
  held = (): [] => []
  remembered = (): [] => []
}

test('a million entries take the memory of their directory, and none when they are settled', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'godwit-logs-bound-'))
  const make = (): LevelStore =>
    new LevelStore({
      ...{ directory, sync: false, residentBytesMax: MIB, reserveBytes: 0 },
      logCacheBytesMax: CACHE_BYTES,
    })
  const model = new LogModel(make())
  model.remember = false
  await model.open()
  const { logs } = model.store
  const queue = model.declare('jobs')
  const [log] = queue.record.logs
  const message = entry('x'.repeat(128))
  for (let index = 0; index < MESSAGES; index++) {
    logs.append(log!, message, message.expiresAt)
    if (index % COMMIT === COMMIT - 1) await model.commit()
  }
  const { segments, messages } = logs.log(log!)
  expect(messages).toBe(MESSAGES)
  const directoryBytes = segments * 64
  expect(logs.memoryBytes).toBeLessThan(directoryBytes + OTHER_BYTES)
  model.queues.clear()
  const drain = new Drain()
  Object.assign(model, { groups: { state: () => drain } })
  await model.store.close()

  Object.assign(model, { store: make() })
  await model.store.open(model)
  const again = model.store.logs
  expect(again.memoryBytes).toBeLessThan(directoryBytes + OTHER_BYTES)
  for (let from = 1; ; ) {
    const segment = again.segment(log!, from) ?? (await again.load(log!, from))
    if (segment === null) break
    const cursor = segment.from(from)
    while (cursor.next()) if (cursor.size !== message.size) throw new Error(`entry ${cursor.sequence}`)
    expect(again.memoryBytes).toBeLessThan(directoryBytes + OTHER_BYTES + CACHE_BYTES)
    from = segment.end
    again.settled(queue.group, 0, drain.floor, from, (from - drain.floor) * message.size)
    drain.floor = from
    if (again.log(log!).segments % 16 === 0) await model.commit()
  }
  await model.commit()
  expect(again.log(log!)).toMatchObject({ messages: 0, bytes: 0, segments: 0, next: MESSAGES + 1 })
  expect(again.memoryBytes).toBeLessThan(OTHER_BYTES)
  await model.store.close()
  await rm(directory, { recursive: true })
})

test('finding all segments with expired entries takes about as many steps as there are segments', () => {
  const logs = detachedLogs(new LogTimes())
  const { directory } = logs.made(1, 1)
  const [segments, entries] = [2000, 1024]
  for (let each = 0; each < segments; each++) {
    const first = 1 + each * entries
    const times = { wall: 0, time: 0, expiry: 1000 }
    directory.add({ first, end: first + entries, count: entries, bytes: 1, ...times }, entries)
  }
  const { part } = directory.find(0)!
  const steps = vi.spyOn(Object.getPrototypeOf(part) as typeof part, 'end')
  let found = 0
  for (let from = 0; ; found++) {
    from = logs.expiring(1, from, 1000)
    if (from < 0) break
    from += entries
  }
  expect(found).toBe(segments)
  expect(steps.mock.calls.length).toBeLessThan(10 * segments)
  steps.mockRestore()
})
