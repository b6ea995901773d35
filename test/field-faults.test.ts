/**
 * The faults found in the field (docs/field-faults.md): tests name each of them, in the files of its line.
 */
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'

const TEXT = readFileSync(new URL('../docs/field-faults.md', import.meta.url), 'utf8')

const ROWS = TEXT.split('\n')
  .filter((line) => /^\| [A-E]\d+ \|/.test(line))
  .map((line) => line.slice(2, -2).split(' | '))

const GROUPS = [
  ['A', 1, 4],
  ['B', 5, 11],
  ['C', 12, 20],
  ['D', 21, 25],
  ['E', 26, 30],
] as const

test('each number is there once, in order', () => {
  const numbers = GROUPS.flatMap(([group, first, last]) =>
    Array.from({ length: last - first + 1 }, (_, index) => `${group}${first + index}`),
  )
  expect(ROWS.map(([number]) => number)).toEqual(numbers)
})

test.each(ROWS)('%s: %s', (number, _fault, _kind, proofs) => {
  const files = [...proofs!.matchAll(/`([\w/-]+\.test\.ts)`/g)].map(([, file]) => file!)
  expect(files.length).toBeGreaterThan(0)
  for (const file of files) {
    expect(readFileSync(new URL(file, import.meta.url), 'utf8'), file).toContain(`[field-${number}]`)
  }
})
