import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { cleanUp, output, ROOT, temporaryDirectory } from './process.ts'

afterEach(cleanUp)

test('npm run bench: a row of the table has figures of every broker, ratios, Sessions and commits', async () => {
  const json = join(await temporaryDirectory(), 'reports.json')
  const script = join(ROOT, 'scripts', 'bench', 'bench.mjs')
  const words = ['--rounds', '1', '--secs', '0.2', '--only', 'fanin-q1,durable-q1', '--json', json]
  const table = await output(process.execPath, script, ...words)
  const reports = (await readFile(json, 'utf8'))
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  expect(reports.map(({ row, broker, error }) => [row, broker, error])).toEqual(
    ['fanin-q1', 'durable-q1'].flatMap((row) =>
      ['mosquitto', 'godwit', 'aedes'].map((broker) => [row, broker, undefined]),
    ),
  )
  const [fanIn, durable] = ['fanin-q1', 'durable-q1'].map(
    (name) => reports.find(({ row, broker }) => row === name && broker === 'godwit')!,
  )
  // Nothing of the first row is for a persistent Session: no commit but perhaps one.
  expect(fanIn.commits).toBeLessThanOrEqual(1)
  expect(durable.commits).toBeGreaterThan(10)
  expect([durable.lost, durable.dup, durable.ooo, durable.received]).toEqual([0, 0, 0, 50_000])
  expect(table).toMatch(
    /^\| fanin-q1 \| none \| .* \| CPU µs per message \| [\d.,]+ \| [\d.,]+ \([\d.]+\) \|/m,
  )
  expect(table).toMatch(/^\| durable-q1 \| 10 subscribers, offline \| \d+ \| queued\/s \|/m)
})
