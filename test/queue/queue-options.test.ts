import { expect, test } from 'vitest'
import { DEFAULT_PROPERTIES } from '../../src/queue/properties.ts'
import { DEFAULT_QUEUE_OPTIONS, propertiesByName, propertiesByUse } from '../../src/queue/queue-options.ts'

test.each([
  ['bulk-*', 'bulk-', true],
  ['bulk-*', 'bulk-a', true],
  ['bulk-*', 'bulk', false],
  ['*-bulk', 'a-bulk', true],
  ['*-bulk', '-bulks', false],
  ['a*b', 'ab', true],
  ['a*b', 'acb', true],
  ['aba*aba', 'aba', false],
  ['aba*aba', 'ababa', false],
  ['a*b*c', 'a-b-c', true],
  ['a*b*c', 'abc', true],
  ['a*bb*b', 'abb', false],
  ['a*c*c', 'ac', false],
  ['*', 'anything', true],
  ['jobs', 'jobs', true],
  ['jobs', 'jobs2', false],
  ['a.b', 'axb', false],
])('whether the pattern %s fits %s: %s', (pattern, name, fits) => {
  const patterns = [{ name: pattern, properties: { messagesMax: 7 } }]
  const { messagesMax } = propertiesByUse({ ...DEFAULT_QUEUE_OPTIONS, patterns }, name, [])
  expect(messagesMax).toBe(fits ? 7 : Number.POSITIVE_INFINITY)
})

test('a queue by use has the filter of its Subscription, the first fitting pattern, and the defaults', () => {
  const options = {
    ...DEFAULT_QUEUE_OPTIONS,
    defaults: { messagesMax: 1, keyWindow: 2 },
    patterns: [
      { name: 'a*', properties: { messagesMax: 3 } },
      { name: '*', properties: { messagesMax: 4, share: false } },
    ],
  }
  expect(propertiesByUse(options, 'ab', ['x/#'])).toEqual({
    ...DEFAULT_PROPERTIES,
    filters: ['x/#'],
    messagesMax: 3,
    keyWindow: 2,
  })
})

test('a dead letter queue drops its oldest, and has no dead letters, unless it is declared otherwise', () => {
  expect(propertiesByName(DEFAULT_QUEUE_OPTIONS, 'jobs.dead')).toMatchObject({
    overflow: 'drop-oldest',
    deadLetters: 'none',
    deliveryLimit: Number.POSITIVE_INFINITY,
    bytesMax: 256 * 1024 ** 2,
    ttlSeconds: 30 * 86_400,
  })
  expect(propertiesByName(DEFAULT_QUEUE_OPTIONS, 'jobs.dead', { ttlSeconds: 5 })).toMatchObject({
    ttlSeconds: 5,
    overflow: 'drop-oldest',
  })
  expect(propertiesByName(DEFAULT_QUEUE_OPTIONS, 'jobs', { ttlSeconds: 5 })).toEqual({
    ...DEFAULT_PROPERTIES,
    ttlSeconds: 5,
  })
})
