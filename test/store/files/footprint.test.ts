import { expect, test } from 'vitest'
import { Footprint, mergeBytes } from '../../../src/store/files/footprint.ts'

const MIB = 1024 * 1024
const HEAD = `                               Compactions
Level  Files Size(MB) Time(sec) Read(MB) Write(MB)
--------------------------------------------------
`

test('a merge takes all of levels 0 and 1, or a few tables and those they overlap below', () => {
  expect(mergeBytes(HEAD)).toBe(0)
  expect(mergeBytes(`${HEAD}  0        4       30         1        0       30\n`)).toBe(31 * MIB)
  const both =
    '  0        4       30         1        0       30\n  1        2        9         1       40       40\n'
  expect(mergeBytes(HEAD + both)).toBe(41 * MIB)
  const deep = '  2       10       79         1        0        0\n'
  expect(mergeBytes(HEAD + both + deep)).toBe(90 * MIB)
  const deeper = '  3      100      799         1        0        0\n'
  expect(mergeBytes(HEAD + deep + deeper)).toBe((4 * 8 + 80 + 8) * MIB)
})

test('the log holds the memory table and the one before it', () => {
  const footprint = new Footprint(8 * MIB)
  footprint.wrote(7 * MIB)
  footprint.wrote(20 * MIB)
  expect(footprint.loggedBytes).toBe(27 * MIB)
  footprint.wrote(3 * MIB)
  expect(footprint.loggedBytes).toBe(30 * MIB)
  footprint.wrote(6 * MIB)
  footprint.wrote(MIB)
  expect(footprint.loggedBytes).toBe(10 * MIB)
  expect(footprint.neededBytes(HEAD)).toBe(20 * MIB)
})

test('data moved to a table is no longer in the log; data written meanwhile is', () => {
  const footprint = new Footprint(8 * MIB)
  footprint.wrote(10 * MIB)
  const before = footprint.loggedBytes
  footprint.wrote(2 * MIB)
  footprint.settled(before)
  expect(footprint.loggedBytes).toBe(2 * MIB)
  footprint.reset()
  expect(footprint.loggedBytes).toBe(0)
})
