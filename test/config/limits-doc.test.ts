/** docs/limits.md: a line for each limit, with what the table in the code says. */
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { configKey, type LimitRow } from '../../src/broker/boundary/limit-row.ts'
import { LIMIT_TABLE } from '../../src/broker/boundary/limits.ts'

const TEXT = readFileSync(new URL('../../docs/limits.md', import.meta.url), 'utf8')

const LINES = TEXT.split('\n').filter((line) => line.startsWith('| `'))

const UNITS = [
  ['GiB', 1024 ** 3],
  ['MiB', 1024 ** 2],
  ['KiB', 1024],
] as const

/** As it would stand in the configuration. */
function written({ kind }: LimitRow<unknown>, value: unknown): string {
  if (value === Number.POSITIVE_INFINITY) return 'unlimited'
  if (kind.type !== 'bytes' || typeof value !== 'number') return Array.isArray(value) ? '[]' : String(value)
  const [unit, bytes] = UNITS.find(([, size]) => value >= size && value % size === 0) ?? ['', 1]
  return `${value / bytes}${unit}`
}

const ROWS: readonly (readonly [string, LimitRow<unknown>])[] = Object.entries(LIMIT_TABLE)

test.each(ROWS)('%s in docs/limits.md matches the table', (name, row) => {
  const { kind, open, fleet, internet, says } = row
  const values = [open, fleet, internet].map((value) =>
    kind.automatic === true ? 'auto' : written(row, value),
  )
  const cells = [`\`${configKey(name)}\``, says, kind.unit, ...values]
  // The columns of other brokers follow.
  expect(LINES.filter((line) => line.startsWith(`| ${cells.join(' | ')} | `))).toHaveLength(1)
})

test('docs/limits.md has no other rows', () => {
  expect(LINES).toHaveLength(ROWS.length)
  for (const line of LINES) expect(line.split(' | ')).toHaveLength(11)
})
