import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { cleanUp, output, ROOT, temporaryDirectory } from './process.ts'

afterEach(cleanUp)

const SCRIPT = join(ROOT, 'scripts', 'bench', 'fleet.mjs')

async function reportsOf(json: string) {
  return (await readFile(json, 'utf8'))
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
}

test('bench:fleet: a fleet loses, doubles and misorders nothing, and every broker has figures', async () => {
  const json = join(await temporaryDirectory(), 'reports.json')
  const size = ['--devices', '800', '--rate', '400', '--rounds', '1', '--secs', '1.5', '--warmup', '0.5']
  const svg = join(await temporaryDirectory(), 'fleet.svg')
  const rest = ['--brokers', 'mosquitto,godwit', '--json', json, '--svg', svg]
  const table = await output(process.execPath, SCRIPT, '--only', 'fleet', ...size, ...rest)
  const reports = await reportsOf(json)
  expect(reports.map(({ broker }) => broker)).toEqual(['mosquitto', 'godwit'])
  for (const report of reports) {
    expect(report).toMatchObject({
      lost: 0,
      dup: 0,
      ooo: 0,
      alien: 0,
      wills_missing: 0,
      refused: 0,
      disconnects: 0,
    })
    expect(report.in_per_s).toBeGreaterThan(0)
    expect(report.out_per_s).toBeGreaterThan(report.in_per_s)
    expect(report.wills_due).toBeGreaterThan(0)
  }
  expect(table).toMatch(/^## A fleet of 800 devices$/m)
  expect(table).toMatch(/^\| CPU µs per message \| [\d.]+ \| [\d.]+ \([\d.]+\) \|$/m)
  expect(table).toMatch(/^\| commits\/s \| – \| [\d.]+ \|$/m)
  expect(table).toMatch(/^\| godwit \| PUBACK p50 µs \| [\d.,]+ \| at most 3,000 \| (yes|\*\*no\*\*) \|$/m)
  expect(await readFile(svg, 'utf8')).toContain('<title>godwit: ')
})

test('bench:fleet: one durable publisher stands beside a write that waits for the disk', async () => {
  const json = join(await temporaryDirectory(), 'reports.json')
  const short = ['--rounds', '1', '--secs', '0.3', '--sync-ms', '2', '--json', json]
  const table = await output(process.execPath, SCRIPT, '--only', 'alone', ...short)
  const [, godwit] = await reportsOf(json)
  // Every commit of one publisher waits for a sync, which takes 2 ms here.
  expect(godwit.p50_us).toBeGreaterThan(2000)
  expect(table).toMatch(/^godwit takes [\d.]+ of it\.$/m)
})
