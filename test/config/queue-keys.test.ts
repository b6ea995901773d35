import { expect, test } from 'vitest'
import { changeLine, configChanges, reloadableConfig } from '../../src/config/changes.ts'
import { type Config, loadConfig } from '../../src/config/config.ts'
import { ConfigError } from '../../src/config/config-error.ts'
import { DEFAULT_PROPERTIES } from '../../src/queue/properties.ts'
import { DEFAULT_QUEUE_OPTIONS } from '../../src/queue/queue-options.ts'

function fromText(text: string): Config {
  return loadConfig({ file: 'godwit.yaml', text })
}

function problems(text: string): string[] {
  try {
    fromText(text)
  } catch (error) {
    if (error instanceof ConfigError) return error.message.split('\n')
    throw error
  }
  return []
}

test('without keys of queues, the defaults of the core hold', () => {
  const { filters: _, ...defaults } = DEFAULT_PROPERTIES
  expect(loadConfig().queues).toEqual({ ...DEFAULT_QUEUE_OPTIONS, defaults })
})

test('queues are declared with their properties', () => {
  const { queues } = fromText(`
queues:
  declare: operator
  idle_expiry_seconds: 2h
  defaults: { ack_timeout_seconds: 10m }
  patterns:
    - { name: 'bulk-*', bytes_max: 10GiB }
  declared:
    - { name: jobs, filters: ['jobs/#'], delivery_limit: unlimited, retry_delay_seconds: 0.1 }
    - name: jobs.dead
      ttl_seconds: 1d
`)
  expect(queues).toMatchObject({ declare: 'operator', idleExpirySeconds: 7200 })
  expect(queues.defaults.ackTimeoutSeconds).toBe(600)
  expect(queues.patterns).toEqual([{ name: 'bulk-*', properties: { bytesMax: 10 * 1024 ** 3 } }])
  expect(queues.declared).toEqual([
    {
      name: 'jobs',
      properties: {
        filters: ['jobs/#'],
        deliveryLimit: Number.POSITIVE_INFINITY,
        retryDelaySeconds: 0.1,
      },
    },
    { name: 'jobs.dead', properties: { ttlSeconds: 86_400 } },
  ])
})

test('a property of all queues can be an environment variable or an argument', () => {
  const config = loadConfig({
    environment: { GODWIT_QUEUES_DEFAULTS_DELIVERY_LIMIT: '3' },
    flags: { set: ['queues.declared=[{name: jobs}]', 'queues.enabled=false'] },
  })
  expect(config.queues).toMatchObject({
    enabled: false,
    defaults: { deliveryLimit: 3 },
    declared: [{ name: 'jobs', properties: {} }],
  })
})

test('every mistake is named with its line and the allowed values', () => {
  expect(
    problems(`queues:
  declared:
    - name: a/b
    - filters: [x]
    - { name: jobs, delivery_limit: 0 }
    - { name: jobs, deliverylimit: 5 }
    - { name: jobs, filters: ['$SYS/#'] }
    - { name: bad.dead, filters: [x] }
    - { name: reply.x }
    - { name: self, dead_letters: self }
    - jobs
  patterns: 7
  defaults: { filters: [x] }
  consumer_max: 5
`),
  ).toEqual([
    expect.stringMatching(
      /^godwit.yaml:3: queues.declared.0.name: found "a\/b", allowed: a name of 1 to 64 /,
    ),
    expect.stringMatching(/^godwit.yaml:4: queues.declared.1.name: found nothing, allowed: a name/),
    'godwit.yaml:5: queues.declared.2.delivery_limit: found 0, allowed: a whole number from 1 to 1000000, ' +
      'or unlimited',
    'godwit.yaml:6: queues.declared.3.deliverylimit: unknown key; did you mean ' +
      'queues.declared.3.delivery_limit?',
    'godwit.yaml:7: queues.declared.4.filters: found ["$SYS/#"], allowed: a list of up to 8 different ' +
      'topic filters that do not begin with $',
    'godwit.yaml:8: queues.declared.5.filters: found ["x"], allowed: [], since a dead letter queue has no ' +
      'filters',
    expect.stringMatching(/^godwit.yaml:9: queues.declared.6.name: found "reply.x", .*not beginning with/),
    'godwit.yaml:10: queues.declared.7.dead_letters: found "self", allowed: another queue, auto or none',
    expect.stringMatching(
      /^godwit.yaml:11: queues.declared.8: found "jobs", allowed: a group of keys: name, /,
    ),
    'godwit.yaml:12: queues.patterns: found 7, allowed: a list of queues, each with its name',
    expect.stringMatching(
      /^godwit.yaml:13: queues.defaults.filters: unknown key; .* lists all \d+ keys of queues.defaults$/,
    ),
    expect.stringMatching(/^godwit.yaml:14: queues.consumer_max: unknown key; allowed here: enabled, /),
  ])
})

test('the same name twice is a mistake', () => {
  expect(problems('queues: { declared: [{ name: a }, { name: b }, { name: a }] }')).toEqual([
    'godwit.yaml:1: queues.declared.2.name: found "a", allowed: each name only once',
  ])
})

test('a reload names what changes, and keeps what needs a restart', () => {
  const before = fromText('queues: { declared: [{ name: a, bytes_max: unlimited }] }')
  const after = fromText(
    'queues: { enabled: false, declared: [{ name: a }], defaults: { passed_over_seconds: 5 } }',
  )
  expect(configChanges(before, after).map(changeLine)).toEqual([
    'queues.enabled: true -> false, only after a restart',
    'queues.declared: [{"name":"a","properties":{"bytesMax":"unlimited"}}] -> ' +
      '[{"name":"a","properties":{}}], at once',
    'queues.defaults.passed_over_seconds: 30 -> 5, at once',
  ])
  const { queues } = reloadableConfig(before, after)
  expect(queues).toEqual({ ...after.queues, enabled: true })
})
