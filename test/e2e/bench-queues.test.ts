/** The benchmarks of queues, with few messages: they have to run, and their counts have to be right. */
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { cleanUp, output, ROOT } from './process.ts'

const QUEUES = join(ROOT, 'scripts', 'bench', 'queues')

afterEach(cleanUp)

test('40: a backlog is drained over kills of the broker and of consumers', async () => {
  const words = ['--count', '100000', '--kills', '3', '--seed', '7', '--counts-only']
  const text = await output(process.execPath, join(QUEUES, 'waiting.mjs'), ...words)
  expect(text).toContain('100000 messages wait')
  expect(text).toContain('in order')
  expect(text).toContain('100000 different messages came')
  expect(text).toContain('0 came twice without a kill')
  expect(text).not.toMatch(/^!/m)
}, 600_000)

test('the benchmark runs without other brokers', async () => {
  const words = ['--brokers', 'godwit-memory', '--count', '1000', '--rounds', '1', '--only', 'fill,live']
  const text = await output(process.execPath, join(QUEUES, 'queues.mjs'), ...words)
  for (const row of ['in 1', 'out 10', 'live 10'])
    expect(text).toMatch(new RegExp(`^\\| ${row} \\| \\d`, 'm'))
})
