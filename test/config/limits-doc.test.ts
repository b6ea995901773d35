/**
 * docs/limits.md has a line for each limit, with the text of the table in the code. `WRITE_DOCS=1` writes
 * these lines; the columns of other brokers stay.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { configKey, type LimitRow } from '../../src/broker/boundary/limit-row.ts'
import { LIMIT_TABLE } from '../../src/broker/boundary/limits.ts'

const DOCUMENT = new URL('../../docs/limits.md', import.meta.url)

/** The columns that come from the table: key, meaning, unit, and three profiles. */
const COLUMNS = 6

const OTHER_COLUMNS = 5

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

function cellsOf([name, row]: (typeof ROWS)[number]): string[] {
  const { kind, open, fleet, internet, says } = row
  const values = [open, fleet, internet].map((value) =>
    kind.automatic === true ? 'auto' : written(row, value),
  )
  return [`\`${configKey(name)}\``, says, kind.unit, ...values]
}

/** The document with lines for all limits. A new limit is unknown to the other brokers. */
function documented(text: string): string {
  const lines = text.split('\n')
  const isRow = (line: string): boolean => line.startsWith('| `')
  const others = new Map(
    lines.filter(isRow).map((line) => {
      const cells = line.slice(2, -2).split(' | ')
      return [cells[0]!, cells.slice(COLUMNS)]
    }),
  )
  const rows = ROWS.map((row) => {
    const cells = cellsOf(row)
    const more = others.get(cells[0]!) ?? Array.from({ length: OTHER_COLUMNS }, () => '—')
    return `| ${[...cells, ...more].join(' | ')} |`
  })
  const first = lines.findIndex(isRow)
  const rest = lines.slice(first).filter((line) => !isRow(line))
  return [...lines.slice(0, first), ...rows, ...rest].join('\n')
}

test('docs/limits.md has the rows of the table', () => {
  const text = readFileSync(DOCUMENT, 'utf8')
  if (process.env.WRITE_DOCS === '1') writeFileSync(DOCUMENT, documented(text))
  expect(readFileSync(DOCUMENT, 'utf8')).toBe(documented(text))
})

test('docs/limits.md has a cell for each column', () => {
  const lines = readFileSync(DOCUMENT, 'utf8').split('\n')
  for (const line of lines.filter((one) => one.startsWith('| `'))) {
    expect(line.split(' | ')).toHaveLength(COLUMNS + OTHER_COLUMNS)
  }
})
