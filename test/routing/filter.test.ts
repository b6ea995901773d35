import { expect, test } from 'vitest'
import { filterMatches, innerFilter } from '../../src/routing/filter.ts'
import { EXAMPLES, naiveMatches } from './naive.ts'

test.each(EXAMPLES)('section 4.7: %s and %s: %s', (filter, topic, matches) => {
  expect(filterMatches(filter, topic)).toBe(matches)
  expect(naiveMatches(filter, topic)).toBe(matches)
})

test('[MQTT-4.8.2-2] what follows the ShareName is the filter of a Shared Subscription', () => {
  expect(innerFilter('$share/group/a/b')).toBe('a/b')
  expect(innerFilter('$share/group//b')).toBe('/b')
  expect(innerFilter('$share/group/#')).toBe('#')
  expect(innerFilter('$share/group/$SYS/+')).toBe('$SYS/+')
  expect(innerFilter('share/group/a')).toBe('share/group/a')
  expect(innerFilter('$shared/group/a')).toBe('$shared/group/a')
})
