import { expect, test } from 'vitest'
import { parseCommandLine } from '../../src/cli/command-line.ts'

async function parsed(...words: string[]): Promise<unknown> {
  const { request } = await parseCommandLine(['queue', ...words])
  return (request as { request: unknown }).request
}

const NOTHING = { json: false, force: false, payload: false, properties: {} }

test.each([
  [['list'], { verb: 'list', words: [] }],
  [['list', '--limit', '5', '--after', 'x', '--json'], { verb: 'list', json: true, limit: 5, after: 'x' }],
  [['show', 'jobs'], { verb: 'show', words: ['jobs'] }],
  [['consumers', 'jobs'], { verb: 'consumers', words: ['jobs'] }],
  [
    ['peek', 'jobs', '--state', 'ready', '--payload', '--limit', '3'],
    { verb: 'peek', state: 'ready', payload: true, limit: 3 },
  ],
  [['purge', 'jobs', '--force'], { verb: 'purge', force: true }],
  [['delete', 'jobs'], { verb: 'delete', force: false }],
  [['move', 'a', '--to', 'b', '--topic', 'x/#'], { verb: 'move', words: ['a'], to: 'b', topic: 'x/#' }],
  [['replay', 'jobs.dead'], { verb: 'replay', words: ['jobs.dead'], to: undefined }],
])('queue %j', async (words, request) => {
  expect(await parsed(...words)).toMatchObject({ ...NOTHING, ...request })
})

test('properties are numbers, words, lists, true and false', async () => {
  const words = ['--filter', 'a/#', '--filter', 'b', '--set', 'delivery_limit=5', '--set', 'share=false']
  const more = ['--set', 'bytes_max=10GiB', '--set', 'dead_letter_reasons=[expired, refused]']
  const key = ['--set', 'key=property:a=b', '--set', 'retry_delay_seconds=0.5']
  expect(await parsed('declare', 'jobs', ...words, ...more, ...key)).toMatchObject({
    properties: {
      filters: ['a/#', 'b'],
      delivery_limit: 5,
      share: false,
      bytes_max: '10GiB',
      dead_letter_reasons: ['expired', 'refused'],
      key: 'property:a=b',
      retry_delay_seconds: 0.5,
    },
  })
})

test.each([
  [['list', 'jobs'], "queue list does not expect 'jobs'"],
  [['show'], 'queue show needs a queue: godwit queue show QUEUE'],
  [['shwo', 'jobs'], "unknown command 'queue shwo'; did you mean show?"],
  [['move', 'a'], 'queue move needs a target: --to QUEUE'],
  [['change', 'a'], 'queue change needs a property: --set KEY=VALUE or --filter FILTER'],
  [['change', 'a', '--set', 'prefetch'], '--set prefetch: it must be KEY=VALUE'],
  [['change', 'a', '--set', 'prefetch=1', '--set', 'prefetch=2'], '--set prefetch: it is given twice'],
  [['peek', 'a', '--limit', '0'], '--limit 0: it must be a whole number of at least 1'],
  [['pause', 'a', '--force'], 'queue pause has no option --force'],
])('queue %j is refused', async (words, message) => {
  await expect(parsed(...words)).rejects.toThrow(message)
})
