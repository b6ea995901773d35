import { once } from 'node:events'
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { backup as backUp, checkStore, repair, restore } from '../../../src/cli/actions/store-commands.ts'
import { createBroker } from '../../../src/godwit.ts'
import { MARKER, makeDirectory, storeFiles } from '../../../src/store/files/data-directory.ts'
import { type BatchMaker, openBatch } from '../../../src/store/files/database.ts'
import { directoryError } from '../../../src/store/files/failure.ts'
import { containerChunks } from '../../../src/store/format/container.ts'
import { FORMAT_VERSION, META_KEY } from '../../../src/store/format/format.ts'
import { unpack } from '../../../src/store/level/backup.ts'
import { LevelStore } from '../../../src/store/level/level-store.ts'
import { delivery, ModelServer, message } from '../model.ts'
import { withRaw } from '../recorded.ts'

const MIB = 1024 * 1024
let root: string

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'godwit-directory-'))
})

afterEach(async () => {
  await rm(root, { recursive: true, force: true })
})

function serverOn(directory: string): ModelServer {
  return new ModelServer(new LevelStore({ directory, sync: false, residentBytesMax: MIB, reserveBytes: 0 }))
}

test('missing directories are made, and existing ones are left alone', async () => {
  const directory = join(root, 'a', 'b', 'c')
  await makeDirectory(directory)
  await makeDirectory(directory)
  expect(await readdir(directory)).toEqual([])
})

test.runIf(process.platform === 'linux')(
  'a data directory that its file system cannot hold is refused at once',
  async () => {
    await expect(serverOn('/proc/godwit').open()).rejects.toMatchObject({
      kind: 'access',
      message: '/proc/godwit does not exist and cannot be made: its file system takes no directories',
    })
  },
)

test('a data directory below a read-only mount is refused, with advice', () => {
  const error = directoryError(Object.assign(new Error('EROFS: mkdir'), { code: 'EROFS' }), '/mnt/data')
  expect(error.kind).toBe('access')
  expect(error.message).toContain('mounted read-only')
  expect(error.advice).toContain('Mount it writable')
})

test('a young store whose first log lost its description is refused, not founded again', async () => {
  const server = serverOn(root)
  await server.open()
  server.createSession(1)
  server.enqueue(1, delivery(message('t', 'kept')))
  await server.commit()
  await server.store.close()
  const log = (await readdir(root)).find((file) => file.endsWith('.log'))!
  const bytes = await readFile(join(root, log))
  for (const at of [0, 3, 7, 40]) {
    const copy = join(root, String(at))
    await mkdir(copy)
    for (const file of await storeFiles(root)) await copyFile(join(root, file), join(copy, file))
    const damaged = Buffer.from(bytes)
    damaged[at] = damaged[at]! ^ 0x10
    await writeFile(join(copy, log), damaged)
    await expect(serverOn(copy).open(), `byte ${at}`).rejects.toMatchObject({ kind: 'corrupt' })
  }
})

test('a store without a description, or without files, is refused, not founded again', async () => {
  const server = serverOn(root)
  await server.open()
  await server.store.close()
  await withRaw(root, (db) => db.del(META_KEY))
  await expect(serverOn(root).open()).rejects.toMatchObject({ kind: 'corrupt' })
  for (const file of await readdir(root)) if (file !== MARKER) await rm(join(root, file))
  await expect(serverOn(root).open()).rejects.toMatchObject({ kind: 'corrupt' })
})

test('a store of an older version gets its marker when it is opened', async () => {
  const server = serverOn(root)
  await server.open()
  await server.store.close()
  await rm(join(root, MARKER))
  const again = serverOn(root)
  await again.open()
  await again.store.close()
  expect(await readFile(join(root, MARKER), 'utf8')).toBe(`Godwit store, format ${FORMAT_VERSION}\n`)
})

test('a restored store has its marker, which moves with the store', async () => {
  const server = serverOn(join(root, 'original'))
  await server.open()
  const store = server.store as LevelStore
  await unpack(containerChunks(store.snapshot(), 0), join(root, 'restored'))
  await store.close()
  expect(await storeFiles(join(root, 'restored'))).toContain(MARKER)
})

test('foreign files in the data directory are left alone, whatever their names [field-A2]', async () => {
  const others = [
    'security.log',
    'broker.log',
    'audit-2026.log',
    'notes.ldb',
    'old.sst',
    'LOG.txt',
    'godwit.yaml',
  ]
  for (const name of others) await writeFile(join(root, name), `of ${name}`)
  await mkdir(join(root, 'tls'))
  const server = serverOn(root)
  await server.open()
  server.createSession(1)
  server.enqueue(1, delivery(message('t', 'kept')))
  await server.commit()
  await server.store.close()
  expect(await storeFiles(root)).not.toEqual(expect.arrayContaining(others))
  await expect(checkStore(root)).resolves.toMatchObject({ isSound: true })
  const backup = join(root, 'b.godwit-backup')
  await backUp(root, backup)
  await restore(backup, root, true)
  await expect(repair(root)).resolves.toMatch('repaired nothing')
  const again = serverOn(root)
  await again.open()
  expect(again.session(1).queue).toHaveLength(1)
  await again.store.close()
  for (const name of others) expect(await readFile(join(root, name), 'utf8')).toBe(`of ${name}`)
})

test('a store without its CURRENT is refused, also beside foreign files', async () => {
  const server = serverOn(root)
  await server.open()
  await server.store.close()
  await writeFile(join(root, 'security.log'), '')
  await rm(join(root, 'CURRENT'))
  await rm(join(root, MARKER))
  await expect(serverOn(root).open()).rejects.toMatchObject({
    kind: 'corrupt',
    message: expect.stringContaining('lost its file CURRENT'),
  })
})

test('a start that fails on a full disk before it founds a store leaves nothing [field-D25]', async () => {
  const directory = join(root, 'a', 'b')
  let isFull = true
  const failing: BatchMaker = (db) => {
    const batch = openBatch(db)
    const full = new Error('IO error: 000003.log: No space left on device')
    return { add: batch.add, write: (sync) => (isFull ? Promise.reject(full) : batch.write(sync)) }
  }
  const store = new LevelStore({
    directory,
    sync: false,
    residentBytesMax: MIB,
    reserveBytes: MIB,
    openBatch: failing,
  })
  await expect(new ModelServer(store).open()).rejects.toMatchObject({ kind: 'full' })
  expect(await readdir(root)).toEqual([])
  isFull = false
  const server = new ModelServer(store)
  await server.open()
  await store.close()
  expect(await storeFiles(directory)).toContain(MARKER)
})

test('a start whose listeners fail removes a store it founded, keeps an older one [field-D25]', async () => {
  const blocker = createServer().listen(0, '127.0.0.1')
  await once(blocker, 'listening')
  const { port } = blocker.address() as AddressInfo
  const listeners = [{ type: 'tcp', host: '127.0.0.1', port }] as const
  const directory = join(root, 'data')
  const start = (): Promise<unknown> =>
    createBroker({ dataDirectory: directory, listeners, controlSocket: true })
  await expect(start()).rejects.toThrow('in use')
  expect(await readdir(root)).toEqual([])
  await mkdir(directory)
  await writeFile(join(directory, 'security.log'), 'of others')
  await expect(start()).rejects.toThrow('in use')
  expect(await readdir(directory)).toEqual(['security.log'])
  const server = serverOn(directory)
  await server.open()
  server.createSession(1)
  await server.commit()
  await server.store.close()
  await expect(start()).rejects.toThrow('in use')
  const again = serverOn(directory)
  await again.open()
  expect(again.sessions.size).toBe(1)
  await again.store.close()
  blocker.close()
})

test('a start that meets another broker in its first moments removes none of its files', async () => {
  const server = serverOn(root)
  await server.open()
  await expect(serverOn(root).open()).rejects.toMatchObject({ kind: 'locked' })
  expect(await storeFiles(root)).toContain('CURRENT')
  await server.store.close()
})
