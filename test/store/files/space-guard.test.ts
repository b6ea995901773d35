import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { storeError } from '../../../src/store/files/failure.ts'
import { freeSpace, SpaceGuard } from '../../../src/store/files/space-guard.ts'
import { LevelStore } from '../../../src/store/level/level-store.ts'
import { delivery, ModelServer, message } from '../model.ts'

const MIB = 1024 * 1024

test('new work is refused below the reserve, and accepted again above 1.25 times the reserve', async () => {
  let free = 100 * MIB
  const guard = new SpaceGuard('/data', 64 * MIB, () => Promise.resolve(free))
  await guard.check()
  expect(guard.refusalFor(0)).toBeNull()
  free = 12.5 * MIB
  await guard.check()
  expect(guard.refusalFor(0)).toBe('disk nearly full: 12 MiB free on /data, reserve is 64 MiB')
  free = 79 * MIB
  await guard.check()
  expect(guard.refusalFor(0)).toContain('79 MiB free')
  free = 80 * MIB
  await guard.check()
  expect(guard.refusalFor(0)).toBeNull()
})

test('writing much probes the free space early', async () => {
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
  expect(guard.refusalFor(0)).toContain('nearly full')
})

test('bytes written, waiting or coming count at once, three times, until a probe includes them', async () => {
  let free = 200 * MIB
  const guard = new SpaceGuard('/data', 64 * MIB, () => Promise.resolve(free))
  await guard.check()
  expect(guard.refusalFor(45 * MIB)).toBeNull()
  expect(guard.refusalFor(46 * MIB)).toBe(
    'disk nearly full: 200 MiB free on /data, reserve is 64 MiB; ' +
      '138 MiB of it may be needed for what is being written and merged',
  )
  // Only this message is too large: smaller ones are still accepted.
  expect(guard.refusalFor(0)).toBeNull()
  guard.wrote(20 * MIB)
  guard.wrote(5 * MIB)
  expect(guard.refusalFor(21 * MIB)).not.toBeNull()
  await Promise.resolve()
  await guard.check()
  expect(guard.refusalFor(45 * MIB)).toBeNull()
  free = 63 * MIB
  await guard.check()
  expect(guard.refusalFor(0)).not.toBeNull()
})

test('space for the store’s own copies is not offered, and the store is asked to tidy up', async () => {
  let settled = 0
  const user = { neededBytes: () => 100 * MIB, settle: () => void settled++ }
  let free = 1000 * MIB
  const guard = new SpaceGuard('/data', 64 * MIB, () => Promise.resolve(free), user)
  await guard.check()
  expect(guard.refusalFor(0)).toBeNull()
  expect(settled).toBe(0)
  free = 163 * MIB
  await guard.check()
  expect(guard.refusalFor(0)).toContain('100 MiB of it may be needed')
  expect(settled).toBe(1)
})

test('deleted pages are freed even if only a large message was refused', async () => {
  const roomy: boolean[] = []
  const user = { neededBytes: () => 94 * MIB, settle: (isRoomy: boolean) => void roomy.push(isRoomy) }
  const guard = new SpaceGuard('/data', 64 * MIB, () => Promise.resolve(205 * MIB), user)
  await guard.check()
  expect(guard.refusalFor(0)).toBeNull()
  await guard.check()
  expect(guard.refusalFor(20 * MIB)).not.toBeNull()
  await guard.check()
  await guard.check()
  expect(roomy).toEqual([false, false, true, false])
})

test('without a reserve nothing is refused', async () => {
  const guard = new SpaceGuard('/data', 0, () => Promise.resolve(0))
  await guard.check()
  expect(guard.refusalFor(MIB)).toBeNull()
})

test('the real probe answers', async () => {
  expect(await freeSpace(tmpdir())).toBeGreaterThan(0)
})

test('a store that refuses new work still commits the end of old work', async () => {
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
