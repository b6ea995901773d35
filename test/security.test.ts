/** The threat model (SECURITY.md): each threat that is defended against names a test that exists. */
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'

const TEXT = readFileSync(new URL('../SECURITY.md', import.meta.url), 'utf8')

const ROWS = TEXT.split('\n')
  .filter((line) => line.startsWith('| ') && !/^\| (who tries|---)/.test(line))
  .map((line) => line.slice(2, -2).split(' | '))

test('the model has lines, and each has a defence and a test', () => {
  expect(ROWS.length).toBeGreaterThan(30)
  for (const row of ROWS) expect(row, row.join(' | ')).toHaveLength(3)
})

test.each(ROWS)('%s: %s', (_threat, _defence, proof) => {
  const [, file, title] = /^`([\w/-]+\.test\.ts)`: (.+)$/.exec(proof!)!
  const code = readFileSync(new URL(file!, import.meta.url), 'utf8').replaceAll("\\'", "'")
  const titles = [...code.matchAll(/\b(?:test|it|describe)\b[^'"`]*?\(\s*(['"`])(.+?)\1,/g)].map(
    ([, , name]) => name,
  )
  const rows = [...code.matchAll(/\]\)\(\s*(['"`])(.+?)\1,/g)].map(([, , name]) => name)
  expect(
    [...titles, ...rows].some((name) => name!.includes(title!)),
    title,
  ).toBe(true)
})
