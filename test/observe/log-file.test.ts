import { chmod, mkdtemp, readFile, rename, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { LogFile } from '../../src/observe/log-file.ts'

let directory: string
let path: string
let lost: string[]
let found: number[]

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'godwit-log-'))
  path = join(directory, 'security.log')
  lost = []
  found = []
})

afterEach(() => rm(directory, { recursive: true, force: true }))

const opened = (at = path, waitingBytesMax = 1024 * 1024): LogFile =>
  new LogFile(at, waitingBytesMax, {
    lost: (reason) => lost.push(reason),
    found: (count) => found.push(count),
  })

test('lines are appended to a file that only its owner can read', async () => {
  await writeFile(path, 'before\n')
  await chmod(path, 0o644)
  const file = opened()
  file.write('one\n')
  file.write('two\n')
  await file.close()
  expect(await readFile(path, 'utf8')).toBe('before\none\ntwo\n')
  expect((await stat(path)).mode & 0o777).toBe(0o600)
})

test('a new file replaces one that was renamed', async () => {
  const file = opened()
  file.write('one\n')
  await rename(path, `${path}.1`)
  await file.check()
  file.write('two\n')
  await file.check()
  file.write('three\n')
  await file.close()
  expect(await readFile(`${path}.1`, 'utf8')).toBe('one\n')
  expect(await readFile(path, 'utf8')).toBe('two\nthree\n')
  expect((await stat(path)).mode & 0o777).toBe(0o600)
})

test('an error tells what to do if the file cannot be created', async () => {
  expect(() => opened(join(directory, 'none', 'security.log'))).toThrow(
    expect.objectContaining({
      message: expect.stringContaining('cannot be written'),
      advice: "Name a file in a directory that the broker's user can write.",
    }),
  )
  await symlink('/dev/null', path)
  expect(() => opened()).toThrow(
    expect.objectContaining({ advice: 'It is a symbolic link: name the file itself.' }),
  )
})

test('lines that the disk does not take are lost, reported once, and the broker continues', async () => {
  const file = opened('/dev/full')
  for (let line = 0; line < 3; line++) {
    file.write('one\n')
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  expect(lost).toEqual([expect.stringContaining('ENOSPC')])
  await file.close()
})

test('the file tells how many lines were lost once it takes lines again [field-D24]', async () => {
  const file = opened(path, 10)
  for (let line = 0; line < 1000; line++) file.write(`line ${line}\n`)
  expect(lost).toEqual(['the disk does not take more'])
  await expect.poll(() => file.check().then(() => found)).toHaveLength(1)
  file.write('last\n')
  await file.close()
  const lines = (await readFile(path, 'utf8')).trimEnd().split('\n')
  const written = lines.filter((line) => line.startsWith('line ')).length
  expect(found).toEqual([1000 - written])
  expect(lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line))).toMatchObject([
    { level: 'warn', count: 1000 - written },
  ])
  expect(lines.at(-1)).toBe('last')
})

test('a full disk is reported once, however many attempts fail [field-D24]', async () => {
  const file = opened('/dev/full')
  for (let round = 0; round < 3; round++) {
    file.write('one\n')
    await expect.poll(() => lost.length).toBe(1)
    await file.check()
  }
  expect([lost.length, found]).toEqual([1, []])
  await file.close()
})
