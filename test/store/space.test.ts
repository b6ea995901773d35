import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { storeError } from '../../src/store/failure.ts'
import { LevelStore } from '../../src/store/level.ts'
import { freeSpace, SpaceGuard } from '../../src/store/space.ts'
import { delivery, ModelServer, message } from './model.ts'

const MIB = 1024 * 1024

test('new work is refused below the reserve, and accepted again above 1.25 times of it', async () => {
  let free = 100 * MIB
  const guard = new SpaceGuard('/data', 64 * MIB, () => Promise.resolve(free))
  await guard.check()
  expect(guard.refusal).toBeNull()
  free = 12.5 * MIB
  await guard.check()
  expect(guard.refusal).toBe('disk nearly full: 12 MiB free on /data, reserve is 64 MiB')
  free = 79 * MIB
  await guard.check()
  expect(guard.refusal).toContain('79 MiB free')
  free = 80 * MIB
  await guard.check()
  expect(guard.refusal).toBeNull()
})

test('much that is written asks for the free space early', async () => {
  let probes = 0
  const guard = new SpaceGuard('/data', 64 * MIB, () => {
    probes++
    return Promise.resolve(100 * MIB)
  })
  guard.wrote(MIB)
  expect(probes).toBe(0)
  guard.wrote(8 * MIB)
  expect(probes).toBe(1)
})

test('a probe that fails changes nothing', async () => {
  let fails = false
  const guard = new SpaceGuard('/data', MIB, () =>
    fails ? Promise.reject(new Error('gone')) : Promise.resolve(0),
  )
  await guard.check()
  fails = true
  await guard.check()
  expect(guard.refusal).toContain('nearly full')
})

test('the real probe answers', async () => {
  expect(await freeSpace(tmpdir())).toBeGreaterThan(0)
})

test('a store that refuses new work still commits what ends old work', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'godwit-space-'))
  const store = new LevelStore({
    directory,
    sync: false,
    residentBytesMax: MIB,
    reserveBytes: MIB,
    freeSpace: () => Promise.resolve(0),
  })
  const server = new ModelServer(store)
  await server.open()
  expect(store.refusal).toContain('disk nearly full')
  server.createSession(1)
  server.enqueue(1, delivery(message('a', 'b')))
  await server.commit()
  server.drop(1)
  await server.commit()
  expect(store.committedSequence).toBe(3)
  await store.close()
  await rm(directory, { recursive: true })
})

test.each([
  ['locked', Object.assign(new Error('lock'), { code: 'LEVEL_LOCKED' })],
  ['full', Object.assign(new Error('write'), { code: 'ENOSPC' })],
  ['full', new Error('IO error: /d/000012.log: No space left on device')],
  ['access', Object.assign(new Error('mkdir'), { code: 'EACCES' })],
  ['access', new Error('IO error: /d/LOCK: Permission denied')],
  ['access', Object.assign(new Error('open'), { code: 'EROFS' })],
  ['corrupt', Object.assign(new Error('Corruption: bad block'), { code: 'LEVEL_CORRUPTION' })],
  ['io', new Error('IO error: /d/000012.log: Input/output error')],
])('what the disk answers becomes a StoreError: %s', (kind, cause) => {
  const error = storeError(new Error('Database failed to open', { cause }), '/d', 'opening it')
  expect(error.kind).toBe(kind)
  expect(error.advice.length).toBeGreaterThan(20)
})
