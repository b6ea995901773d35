import { expect, test } from 'vitest'
import { filterMatches, filtersOverlap, innerFilter } from '../../src/routing/filter.ts'
import { EXAMPLES, naiveMatches } from './naive.ts'

test.each(EXAMPLES)('section 4.7: %s and %s: %s', (filter, topic, matches) => {
  expect(filterMatches(filter, topic)).toBe(matches)
  expect(naiveMatches(filter, topic)).toBe(matches)
})

test('[MQTT-4.8.2-2] the part after the ShareName is the filter of a Shared Subscription', () => {
  expect(innerFilter('$share/group/a/b')).toBe('a/b')
  expect(innerFilter('$share/group//b')).toBe('/b')
  expect(innerFilter('$share/group/#')).toBe('#')
  expect(innerFilter('$share/group/$SYS/+')).toBe('$SYS/+')
  expect(innerFilter('share/group/a')).toBe('share/group/a')
  expect(innerFilter('$shared/group/a')).toBe('$shared/group/a')
})

test.each([
  ['a/b', 'a/b', true],
  ['a/b', 'a/c', false],
  ['a/b', 'a/+', true],
  ['a/b', 'a/#', true],
  ['a', 'a/#', true],
  ['a', 'a/+', false],
  ['+/b', 'a/+', true],
  ['+/b/+', 'a/+', false],
  ['+/c', 'a/b', false],
  ['#', '+/+/x', true],
  ['a/+/c', 'a/b/#', true],
  ['a/+/c/d', 'a/b/d/#', false],
  ['#', '$SYS/#', false],
  ['+/x', '$SYS/x', false],
  ['$SYS/+', '$SYS/x', true],
  ['', '+', true],
  ['/', '+/+', true],
])('section 4.7: whether a topic name can match both %s and %s: %s', (one, other, overlap) => {
  expect(filtersOverlap(one, other)).toBe(overlap)
  expect(filtersOverlap(other, one)).toBe(overlap)
})

test('a filter matches exactly the topic names that it overlaps', () => {
  for (const [filter, topic, matches] of EXAMPLES) expect(filtersOverlap(filter, topic)).toBe(matches)
})
