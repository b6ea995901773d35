import { describe, expect, test } from 'vitest'
import { parseFilter, topicFilterError, topicLevels, topicNameError } from '../../src/mqtt/topics.ts'

test.each([
  ['a', null],
  ['/', null],
  ['$SYS/x', null],
  ['x'.repeat(65_535), null],
  ['', 'is empty'],
  ['a+', 'contains a wildcard'],
  ['#', 'contains a wildcard'],
  ['a\u0000', 'contains U+0000'],
  ['a\udc00b', 'contains half of a surrogate pair'],
  ['x'.repeat(65_536), 'is longer than 65,535 bytes'],
  ['ö'.repeat(32_768), 'is longer than 65,535 bytes'],
])('topic name %.10s: %s', (name, error) => {
  expect(topicNameError(name)).toBe(error)
})

describe('topic filters', () => {
  test.each([
    ...[
      '#',
      '+',
      '/',
      '//',
      'a',
      'a/#',
      '/#',
      '+/#',
      '+/a/+',
      'a//b',
      '+/',
      '/+',
      ' ',
      '$SYS/#',
      '$share',
      '$shared/#',
    ],
    ...[
      '$share/g/a',
      '$share/g/#',
      '$share/g/+',
      '$share/g//',
      '$share/g/$share/g/a',
      '$share/a b/c',
      '$SHARE//a',
    ],
    'x'.repeat(65_535),
  ])('%.30s is valid', (filter) => {
    expect(topicFilterError(filter)).toBeNull()
  })

  test.each([
    ['[MQTT-4.7.3-1]', ''],
    ...['a#', '#a', '##', 'a/#/b', '#/', '+#', '#+', 'a/b#'].map(
      (filter) => ['[MQTT-4.7.1-1]', filter] as const,
    ),
    ...['a+', '+a', '++', 'a/+b', 'a/b+/c', 'a/++/c'].map((filter) => ['[MQTT-4.7.1-2]', filter] as const),
    ...['$share/', '$share//a', '$share//'].map((filter) => ['[MQTT-4.8.2-1]', filter] as const),
    ...['$share/g', '$share/g/', '$share/+/a', '$share/#/a', '$share/a+/b', '$share/#'].map(
      (filter) => ['[MQTT-4.8.2-2]', filter] as const,
    ),
    ['[MQTT-4.7.1-1]', '$share/g/a#'],
    ['[MQTT-4.7.1-2]', '$share/g/+a'],
    ['[MQTT-4.7.3-2]', 'a\u0000'],
    ['[MQTT-4.7.3-3]', 'x'.repeat(65_536)],
    ['[MQTT-1.5.4-1]', 'a\ud800'],
  ] as const)('%s %.30s is invalid', (_, filter) => {
    expect(topicFilterError(filter)).toEqual(expect.any(String))
  })

  test('parseFilter splits the filter of a Shared Subscription', () => {
    expect(parseFilter('a/#')).toEqual({ share: null, filter: 'a/#' })
    expect(parseFilter('$share')).toEqual({ share: null, filter: '$share' })
    expect(parseFilter('$share/g/a/#')).toEqual({ share: 'g', filter: 'a/#' })
    expect(parseFilter('$share/g//')).toEqual({ share: 'g', filter: '/' })
  })

  test('topicLevels counts all levels, including empty ones', () => {
    expect(['a', 'a/b', '/', '//', 'a/b/c/'].map(topicLevels)).toEqual([1, 2, 2, 3, 4])
  })
})
