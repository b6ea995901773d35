import { chmod, mkdtemp, readFile, rename, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { LogFile } from '../../src/observe/log-file.ts'

let directory: string
let path: string
let lost: string[]

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'godwit-log-'))
  path = join(directory, 'security.log')
  lost = []
})

afterEach(() => rm(directory, { recursive: true, force: true }))

const opened = (at = path): LogFile => new LogFile(at, (reason) => lost.push(reason))

test('lines are appended, in a file for its owner alone', async () => {
  await writeFile(path, 'before\n')
  await chmod(path, 0o644)
  const file = opened()
  file.write('one\n')
  file.write('two\n')
  await file.close()
  expect(await readFile(path, 'utf8')).toBe('before\none\ntwo\n')
  expect((await stat(path)).mode & 0o777).toBe(0o600)
})

test('a file that was renamed is followed by a new one', async () => {
  const file = opened()
  file.write('one\n')
  await rename(path, `${path}.1`)
  await file.look()
  file.write('two\n')
  await file.look()
  file.write('three\n')
  await file.close()
  expect(await readFile(`${path}.1`, 'utf8')).toBe('one\n')
  expect(await readFile(path, 'utf8')).toBe('two\nthree\n')
  expect((await stat(path)).mode & 0o777).toBe(0o600)
})

test('where no file can be made, it says what to do', async () => {
  expect(() => opened(join(directory, 'none', 'security.log'))).toThrow(
    expect.objectContaining({
      message: expect.stringContaining('cannot be written'),
      advice: 'Name a file in a directory that the user who runs the broker can write.',
    }),
  )
  await symlink('/dev/null', path)
  expect(() => opened()).toThrow(
    expect.objectContaining({ advice: 'It is a symbolic link: name the file itself.' }),
  )
})

test('what the disk does not take is lost, told once, and the broker goes on', async () => {
  const file = opened('/dev/full')
  for (let line = 0; line < 3; line++) {
    file.write('one\n')
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  expect(lost).toEqual([expect.stringContaining('ENOSPC')])
  await file.close()
})
