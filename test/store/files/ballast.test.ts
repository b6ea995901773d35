import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { BALLAST, Ballast } from '../../../src/store/files/ballast.ts'

const MIB = 1024 * 1024
let root: string

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'godwit-ballast-'))
})

afterEach(async () => {
  await rm(root, { recursive: true, force: true })
})

test('the ballast takes the given space, and gives it back', async () => {
  const ballast = new Ballast(root, 2.5 * MIB)
  expect(ballast.isWanted).toBe(true)
  await ballast.fill()
  expect(ballast.isWanted).toBe(false)
  const { size, blocks } = await stat(join(root, BALLAST))
  expect(size).toBe(2.5 * MIB)
  expect(blocks * 512).toBeGreaterThanOrEqual(2.5 * MIB)
  expect(ballast.bytes).toBe(2.5 * MIB)
  expect(await ballast.release()).toBe(true)
  expect(await readdir(root)).toEqual([])
  expect(ballast.bytes).toBe(0)
  expect(await ballast.release()).toBe(false)
})

test('an unfinished ballast is filled again, and a missing one is noticed', async () => {
  await writeFile(join(root, BALLAST), 'cut off')
  const ballast = new Ballast(root, MIB)
  await ballast.measure()
  expect(ballast.bytes).toBe(7)
  expect(ballast.isWanted).toBe(true)
  await ballast.fill()
  await rm(join(root, BALLAST))
  await ballast.measure()
  expect(ballast.bytes).toBe(0)
})

test('stopping ends filling and leaves no file', async () => {
  const ballast = new Ballast(root, 64 * MIB)
  const filling = ballast.fill()
  await ballast.stop()
  await filling
  expect(await readdir(root)).toEqual([])
  expect(ballast.isWanted).toBe(false)
  ballast.start()
  expect(ballast.isWanted).toBe(true)
})

test('a ballast that cannot be written is not tried again and again', async () => {
  const ballast = new Ballast(join(root, 'missing'), MIB)
  await ballast.fill()
  expect(ballast.isWanted).toBe(false)
  expect(ballast.bytes).toBe(0)
})
