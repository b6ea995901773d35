import { expect, test } from 'vitest'
import {
  checkedProperties,
  DEFAULT_PROPERTIES,
  deadLetterQueue,
  declarationError,
  parseKey,
  propertiesOf,
  QUEUE_PROPERTIES,
  writtenProperties,
} from '../../src/queue/properties.ts'

test('every default is allowed, and is written as it is read', () => {
  const written = writtenProperties(DEFAULT_PROPERTIES)
  expect(checkedProperties(written)).toEqual(DEFAULT_PROPERTIES)
  expect(Object.keys(written)).toHaveLength(Object.keys(QUEUE_PROPERTIES).length)
  expect(JSON.parse(JSON.stringify(written))).toEqual(written)
})

test('the last declaration that names a property counts', () => {
  const properties = propertiesOf({ messagesMax: 5, share: false }, { messagesMax: 7, share: undefined })
  expect(properties).toEqual({ ...DEFAULT_PROPERTIES, messagesMax: 7, share: false })
})

test.each([
  ['filters', ['jobs/#'], ['jobs/#']],
  ['bytes_max', '10GiB', 10 * 1024 ** 3],
  ['bytes_max', 'unlimited', Number.POSITIVE_INFINITY],
  ['ttl_seconds', '7d', 604_800],
  ['retry_delay_seconds', 0.1, 0.1],
  ['ack_timeout_seconds', 'unlimited', Number.POSITIVE_INFINITY],
  ['delivery_limit', 'unlimited', Number.POSITIVE_INFINITY],
  ['prefetch', 1000, 1000],
  ['dead_letters', 'bad.jobs', 'bad.jobs'],
  ['dead_letter_reasons', ['expired', 'expired'], ['expired']],
  ['key', 'property:customer id', 'property:customer id'],
  ['priorities', 10, 10],
  [
    'priority_rules',
    [{ filter: 'a/#', priority: 9 }, 'b=c/+=0'],
    [
      { filter: 'a/#', priority: 9 },
      { filter: 'b=c/+', priority: 0 },
    ],
  ],
  ['priority_burst', 0, 0],
])('%s can be %j', (key, value, read) => {
  expect(Object.values(checkedProperties({ [key]: value }))).toEqual([read])
})

test.each([
  ['filters', 'jobs/#', 'filters is a list of up to 8 different topic filters'],
  ['filters', ['a', 'a'], 'filters is a list of up to 8 different topic filters'],
  ['filters', ['$SYS/#'], 'filters is a list of up to 8 different topic filters'],
  ['filters', ['a#'], 'filters is a list of up to 8 different topic filters'],
  ['filters', [...'abcdefghi'], 'filters is a list of up to 8 different topic filters'],
  ['dispatch', 'random', 'dispatch is fair, key or exclusive'],
  ['key', 'level:0', 'key is topic, publisher, level:N'],
  ['prefetch', 0, 'prefetch is auto or a whole number from 1 to 1000'],
  ['prefetch', 1001, 'prefetch is auto or a whole number from 1 to 1000'],
  ['delivery_limit', 0, 'delivery_limit is a whole number from 1 to 1000000, or unlimited'],
  ['dead_letters', 'reply.x', 'dead_letters is auto, none or a name'],
  ['dead_letter_reasons', ['lost'], 'dead_letter_reasons is a list of refused, delivery-limit'],
  ['bytes_max', '10 GB', 'bytes_max is bytes, as a number or like 64KiB'],
  ['priorities', 11, 'priorities is a whole number from 1 to 10'],
  ['priority_rules', [{ filter: 'a', priority: 10 }], 'priority_rules is a list of up to 32 rules such as'],
  ['priority_rules', [{ filter: '$SYS/#', priority: 1 }], 'priority_rules is a list of up to 32 rules'],
  ['priority_rules', [{ filter: 'a' }], 'priority_rules is a list of up to 32 rules such as'],
  ['priority_rules', [{ filter: 'a', priority: 1, lane: 1 }], 'priority_rules is a list of up to 32 rules'],
  ['priority_rules', ['a'], 'priority_rules is a list of up to 32 rules such as'],
  ['priority_rules', ['=1'], 'priority_rules is a list of up to 32 rules such as'],
  ['priority_rules', Array.from({ length: 33 }, () => 'a=1'), 'priority_rules is a list of up to 32 rules'],
  ['share', 'yes', 'share is true or false'],
  ['last_value', true, 'last_value is no property of a queue'],
  ['bytesMax', 5000, 'bytesMax is no property of a queue'],
])('%s cannot be %j', (key, value, sentence) => {
  expect(() => checkedProperties({ [key]: value })).toThrow(sentence)
})

test('keys of messages', () => {
  expect(parseKey('topic')).toEqual({ by: 'topic' })
  expect(parseKey('publisher')).toEqual({ by: 'publisher' })
  expect(parseKey('level:2')).toEqual({ by: 'level', level: 2 })
  expect(parseKey('property:a:b')).toEqual({ by: 'property', name: 'a:b' })
  for (const wrong of ['', 'level:', 'level:1.5', 'property:', 'payload']) expect(parseKey(wrong)).toBeNull()
})

test('a queue has dead letters of its own name, or another one, or none', () => {
  expect(deadLetterQueue('jobs', propertiesOf())).toBe('jobs.dead')
  expect(deadLetterQueue('jobs.dead', propertiesOf())).toBeNull()
  expect(deadLetterQueue('jobs', propertiesOf({ deadLetters: 'none' }))).toBeNull()
  expect(deadLetterQueue('jobs', propertiesOf({ deadLetters: 'bad' }))).toBe('bad')
  expect(deadLetterQueue('bad', propertiesOf({ deadLetters: 'bad' }))).toBeNull()
})

test('a declaration that cannot be says why', () => {
  expect(declarationError('jobs', { filters: ['a'] })).toBeNull()
  expect(declarationError('jobs.dead', {})).toBeNull()
  expect(declarationError('a/b', {})).toContain('the name of a queue is a name of 1 to 64 letters')
  expect(declarationError('reply.x', {})).toBe('names that begin with reply. belong to reply queues')
  expect(declarationError('jobs.dead', { filters: ['a'] })).toBe('a dead letter queue has no filters')
  expect(declarationError('a', { deadLetters: 'a' })).toBe('a cannot be its own dead letter queue')
  // The words for a target are names of queues as any other.
  expect(declarationError('auto', { deadLetters: 'auto' })).toBeNull()
  expect(deadLetterQueue('auto', propertiesOf())).toBe('auto.dead')
  expect(declarationError('none', { deadLetters: 'none' })).toBeNull()
})
