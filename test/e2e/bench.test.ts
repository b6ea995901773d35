import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { cleanUp, output, ROOT, temporaryDirectory } from './process.ts'

afterEach(cleanUp)

test('npm run bench: a row has figures of every broker, ratios, Sessions and commits', async () => {
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

test(
  'npm run bench: WebSocket, retained messages and a start; kept results are printed and drawn ' + 'again',
  async () => {
    const directory = await temporaryDirectory()
    const [json, svg] = [join(directory, 'reports.json'), join(directory, 'chart.svg')]
    const script = join(ROOT, 'scripts', 'bench', 'bench.mjs')
    const rows = ['retained', 'ws-pairs-q0', 'start']
    const run = ['--rounds', '1', '--secs', '0.2', '--only', rows.join(','), '--brokers', 'mosquitto,godwit']
    const table = await output(process.execPath, script, ...run, '--json', json)
    const reports = (await readFile(json, 'utf8'))
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    expect(reports.map(({ row, broker, error }) => [row, broker, error])).toEqual(
      rows.flatMap((row) => ['mosquitto', 'godwit'].map((broker) => [row, broker, undefined])),
    )
    const of = (name: string) => reports.find(({ row, broker }) => row === name && broker === 'godwit')!
    expect(of('ws-pairs-q0')).toMatchObject({ ws: true, lost: 0, dup: 0, ooo: 0, disconnects: 0 })
    expect(of('ws-pairs-q0').syscalls_per_msg).toBeGreaterThan(0)
    expect(of('retained')).toMatchObject({ lost: 0, dup: 0, received: 20_000 })
    expect(of('start').start_ms).toBeGreaterThan(0)
    expect(of('start').dependencies).toBeGreaterThan(10)
    const again = ['--from', json, '--svg', svg, '--brokers', 'mosquitto,godwit']
    const lines = (text: string) => text.split('\n').filter((line) => line.startsWith('|'))
    expect(lines(await output(process.execPath, script, ...again))).toEqual(lines(table))
    expect(await readFile(svg, 'utf8')).toMatch(/^<svg [\s\S]*50 pairs, QoS 0[\s\S]*<title>godwit: [\d.]+</)
  },
)

test('npm run bench: the bare relay loses, doubles and misorders nothing, and is in the aims', async () => {
  const json = join(await temporaryDirectory(), 'reports.json')
  const script = join(ROOT, 'scripts', 'bench', 'bench.mjs')
  const rows = ['fanin-q2', 'fanout-q1', 'pairs-q0-8k', 'durable-q1']
  const run = ['--rounds', '1', '--secs', '0.3', '--only', rows.join(','), '--json', json]
  const table = await output(process.execPath, script, ...run, '--brokers', 'bare-node,godwit')
  const reports = (await readFile(json, 'utf8'))
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
    .filter(({ broker }) => broker === 'bare-node')
  // The relay keeps nothing, so it does not run the durable rows.
  expect(reports.map(({ row, error }) => [row, error])).toEqual(
    rows.slice(0, -1).map((row) => [row, undefined]),
  )
  for (const { scenario, ...report } of reports) {
    const faults = { lost: 0, dup: 0, ooo: 0, misrouted: 0, disconnects: 0 }
    expect(report, scenario).toMatchObject(faults)
    expect(report.received, scenario).toBeGreaterThan(100)
  }
  expect(table).toMatch(
    /^\| fanout-q1 \| CPU µs per message \| [\d.]+ \| ratio 0.09 \| – \| [\d.]+ \| [\d.]+ \| ratio 0.06 \|$/m,
  )
  expect(table).toMatch(/^\| durable-q1 \| .* \| ratio 0.3 \| – \| – \| – \| – \|$/m)
})

test('npm run bench:mixed: pauses by cause, the longest ones, and latencies of clients', async () => {
  const json = join(await temporaryDirectory(), 'mixed.json')
  const script = join(ROOT, 'scripts', 'bench', 'mixed.mjs')
  const table = await output(process.execPath, script, '--secs', '2', '--profile', '--json', json)
  const { held, worst, steady } = JSON.parse(await readFile(json, 'utf8'))
  expect(Object.keys(held)).toEqual(
    expect.arrayContaining([
      'event loop',
      'event loop, without waiting for a CPU',
      'scavenge',
      'an idle process beside',
    ]),
  )
  for (const { count, p50Ms, maxMs } of Object.values<{ count: number; p50Ms: number; maxMs: number }>(
    held,
  )) {
    expect(count).toBeGreaterThan(0)
    expect(maxMs).toBeGreaterThanOrEqual(p50Ms)
  }
  expect(worst.length).toBeGreaterThan(0)
  for (const { heldMs, ownMs } of worst) expect(ownMs).toBeLessThanOrEqual(heldMs)
  // The profile of the last seconds is taken before the figures are.
  expect(worst.some(({ functions }: { functions?: [string, number][] }) => functions!.length > 0)).toBe(true)
  for (const report of steady) expect(report).toMatchObject({ lost: 0, dup: 0, ooo: 0, disconnects: 0 })
  expect(table).toMatch(/^\| godwit \| latency QoS 2, 500\/s \| [\d,]+ \| [\d.]+ \|/m)
  expect(table).not.toContain('**')
})
