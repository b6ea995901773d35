import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { cleanUp, output, ROOT, temporaryDirectory } from './process.ts'

afterEach(cleanUp)

test('npm run bench:durable: every broker has latencies and commits of offline Sessions', async () => {
  const json = join(await temporaryDirectory(), 'reports.json')
  const script = join(ROOT, 'scripts', 'bench', 'durable.mjs')
  const words = ['--rounds', '1', '--secs', '0.2', '--publishers', '10', '--window', '1', '--json', json]
  const table = await output(process.execPath, script, ...words)
  const reports = (await readFile(json, 'utf8'))
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  const brokers = 'mosquitto,mosquitto-safest,godwit,godwit-os,godwit-memory,aedes-level'.split(',')
  expect(reports.map(({ qos, broker, error }) => [qos, broker, error])).toEqual(
    ['1', '2'].flatMap((qos) => brokers.map((broker) => [qos, broker, undefined])),
  )
  for (const report of reports) {
    expect(report).toMatchObject({ publishers: 10, sessions: 10, window: 1, disconnects: 0 })
    expect(report.unacked).toBeUndefined()
    expect(report.sent).toBeGreaterThanOrEqual(10)
    // Where the disk is waited for, a stall may take up the whole of so short a window.
    if (/^(mosquitto|godwit-memory)$/.test(report.broker)) expect(report.samples).toBeGreaterThan(0)
    expect(report.p50_us).toBeLessThanOrEqual(report.p99_us)
    expect(report.p99_us).toBeLessThanOrEqual(report.p999_us)
  }
  // A closed loop of ten publishers: a commit carries ten messages at most.
  for (const { commits, sent } of reports.filter(({ broker }) => broker === 'godwit')) {
    expect(commits).toBeGreaterThanOrEqual(sent / 10)
  }
  expect(table).toMatch(/^\| 1 \| 1 \| 10 \| acknowledged\/s \| [\d.,]+ \| [\d.,]+ \([\d.]+\) \|/m)
  expect(table).toMatch(
    /^\| 2 \| 1 \| 10 \| commits per run \| – \| – \| [\d,]+ \| [\d,]+ \| [\d,]+ \| – \|$/m,
  )
})
