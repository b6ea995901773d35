import { describe, expect, test } from 'vitest'
import { exposition } from '../../src/http/exposition.ts'
import { METRIC_NAMES } from '../../src/http/metric-names.ts'
import { PAGE_ROWS } from '../../src/http/metric-table.ts'
import { METRICS } from '../../src/observe/metrics.ts'
import { Histogram } from '../../src/structures/histogram.ts'
import { parseExposition } from './exposition-parser.ts'

describe('the text format', () => {
  test('escapes labels and help texts, and writes unlimited as +Inf', () => {
    const value = { 'a"b\\c\nd': 2, __proto__x: 1 }
    const text = exposition([
      { name: 'a', kind: 'gauge', help: 'Back\\slash\nline', label: 'x', value },
      { name: 'b', kind: 'gauge', help: 'Limit', label: null, value: null },
    ])
    expect(text).toContain('# HELP a Back\\\\slash\\nline.\n# TYPE a gauge\na{x="a\\"b\\\\c\\nd"} 2\n')
    expect(parseExposition(text).get('a')?.samples[0]?.labels).toEqual({ x: 'a"b\\c\nd' })
    expect(parseExposition(text).get('b')?.samples[0]?.value).toBe(Number.POSITIVE_INFINITY)
  })

  test('counts in a histogram what is at most as long as its bucket, in seconds', () => {
    const histogram = new Histogram()
    for (const ms of [0.001, 1, 1.1, 16_384, 60_000]) histogram.add(ms)
    const text = exposition([{ name: 'h', kind: 'histogram', help: 'Times', label: null, value: histogram }])
    const samples = parseExposition(text).get('h')!.samples
    const at = (le: string): number | undefined => samples.find(({ labels }) => labels.le === le)?.value
    expect([at('0.001'), at('0.002'), at('8.192'), at('+Inf')]).toEqual([2, 3, 3, 5])
    expect(samples.find(({ name }) => name === 'h_sum')?.value).toBeCloseTo(76.386101)
    expect(samples.filter(({ name }) => name === 'h_bucket').length).toBeLessThan(25)
  })
})

describe('names', () => {
  test('follow the conventions of Prometheus', () => {
    const names = PAGE_ROWS.map(({ name }) => name)
    expect(new Set(names).size).toBe(names.length)
    for (const { name, kind, help } of PAGE_ROWS) {
      expect(name).toMatch(/^godwit(_[a-z]+)+$/)
      expect(name.endsWith('_total'), name).toBe(kind === 'counter')
      expect(name).not.toMatch(/_(count|sum|bucket|milliseconds|ms|kb|counter|gauge|histogram)$/)
      expect(help).toMatch(/^[A-Z0-9].*[^.]$/)
    }
  })

  test('end with the units of their metrics', () => {
    for (const [name, { unit }] of Object.entries(METRICS)) {
      const shown = METRIC_NAMES[name as keyof typeof METRICS]
      const isTime = unit === 'seconds' || unit === 'ms' || unit === 'days'
      expect(/_seconds(_total)?$/.test(shown), shown).toBe(isTime)
      expect(/_bytes(_total)?$/.test(shown), shown).toBe(unit === 'bytes')
    }
  })

  test('have only labels whose values the code or the operator chooses', () => {
    const labels = PAGE_ROWS.flatMap(({ label }) => label ?? [])
    expect([...new Set(labels)].sort()).toEqual([
      'limit',
      'listener',
      'mode',
      'queue',
      'reason',
      'rule',
      'step',
      'version',
    ])
  })
})
