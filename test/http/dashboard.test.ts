/** The dashboard and the alerts in `config/` ask only for metrics that there are. */
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { PAGE_ROWS } from '../../src/http/metric-table.ts'

const DASHBOARD = new URL('../../config/grafana-dashboard.json', import.meta.url)
const ALERTS = new URL('../../config/prometheus-alerts.yaml', import.meta.url)

interface Dashboard {
  readonly panels: readonly { readonly id: number; readonly targets: readonly { readonly expr: string }[] }[]
  readonly templating: { readonly list: readonly { readonly query: string }[] }
}

interface Alerts {
  readonly groups: readonly { readonly rules: readonly { readonly expr: string }[] }[]
}

const dashboard = JSON.parse(readFileSync(DASHBOARD, 'utf8')) as Dashboard
const alerts = parse(readFileSync(ALERTS, 'utf8')) as Alerts

const asked = {
  dashboard: [
    ...dashboard.panels.flatMap(({ targets }) => targets.map(({ expr }) => expr)),
    ...dashboard.templating.list.map(({ query }) => query),
  ],
  alerts: alerts.groups.flatMap(({ rules }) => rules.map(({ expr }) => expr)),
}

/** The names of all series that a scrape can have. */
const SERIES = new Set(
  PAGE_ROWS.flatMap(({ name, kind }) =>
    kind === 'histogram' ? [`${name}_bucket`, `${name}_sum`, `${name}_count`] : [name],
  ),
)

describe.each(Object.entries(asked))('the %s', (_, expressions) => {
  test('asks only for metrics that there are', () => {
    const names = expressions.flatMap((text) => text.match(/godwit_\w+/g) ?? [])
    expect(names.length).toBeGreaterThan(5)
    expect(names.filter((name) => !SERIES.has(name))).toEqual([])
  })
})

test('panels have ids of their own', () => {
  expect(new Set(dashboard.panels.map(({ id }) => id)).size).toBe(dashboard.panels.length)
})
