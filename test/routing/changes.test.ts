import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Changes } from '../../src/routing/changes.ts'
import { EXAMPLES, naiveMatches } from './naive.ts'

function touchedBy(filter: string, topic: string): boolean {
  const changes = new Changes()
  changes.record('something/else/before')
  const since = changes.count
  changes.record(filter)
  expect(changes.touched(topic, changes.count)).toBe(false)
  return changes.touched(topic, since)
}

test.each(EXAMPLES.filter(([, , matches]) => matches))('a change of %s touches %s', (filter, topic) => {
  expect(touchedBy(filter, topic)).toBe(true)
})

test('a change touches every topic that the filter matches', () => {
  const level = fc.constantFrom('', 'a', 'b', 'cc', '$s')
  const topicName = fc.array(level, { minLength: 1, maxLength: 5 }).map((levels) => levels.join('/') || '/')
  // A topic's own levels, some of them as wildcards: most such filters match.
  const hidden = fc.array(fc.boolean(), { minLength: 5, maxLength: 5 })
  fc.assert(
    fc.property(topicName, hidden, fc.nat({ max: 6 }), (topic, plus, end) => {
      const levels = topic.split('/').map((each, index) => (plus[index] ? '+' : each))
      const filter = end > levels.length ? levels.join('/') : [...levels.slice(0, end), '#'].join('/')
      if (naiveMatches(filter, topic)) expect(touchedBy(filter, topic)).toBe(true)
    }),
    { numRuns: 3000 },
  )
})

test('a change does not touch topics with another literal beginning', () => {
  for (const filter of ['a/b', 'a/b/#', 'a/b/+', 'a/b/+/+', 'a/+/c', 'a/+/c/#', '+/c', '+/c/+']) {
    for (const topic of ['x', 'b/a', 'a/x', 'a', 'c', 'a/x/y', 'aa/b']) {
      expect([filter, topic, touchedBy(filter, topic)]).toEqual([filter, topic, false])
    }
  }
})
