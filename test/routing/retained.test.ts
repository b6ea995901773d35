import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Message, Topic } from '../../src/mqtt/message.ts'
import { RetainedTree } from '../../src/routing/retained.ts'
import { EXAMPLES, naiveMatches } from './naive.ts'

function message(topic: string, payload = 'x'): Message {
  return Message.of({
    topic: new Topic(topic),
    payload: Buffer.from(payload),
    qos: 0,
    retain: true,
    publisher: 'p',
  })
}

function matched(tree: RetainedTree, filter: string): string[] {
  const topics: string[] = []
  for (const each of tree.match(filter)) if (each !== null) topics.push(each.topic.name)
  return topics.sort()
}

function stepsOf(tree: RetainedTree, filter: string): number {
  let steps = 0
  for (const _ of tree.match(filter)) steps++
  return steps
}

test('set, get and delete count messages and bytes', () => {
  const tree = new RetainedTree()
  const first = message('a/b', '12345')
  const second = message('a/b', '1')
  expect(tree.set(first)).toBeNull()
  expect(tree.bytes).toBe(8)
  expect(tree.set(second)).toBe(first)
  expect(tree.get('a/b')).toBe(second)
  expect(tree.set(message('a'))).toBeNull()
  expect([tree.count, tree.bytes]).toEqual([2, 6])
  expect([...tree].map((each) => each.topic.name).sort()).toEqual(['a', 'a/b'])
  expect(tree.delete('a/b')).toBe(second)
  expect(tree.delete('a/b')).toBeNull()
  expect(tree.delete('a/c')).toBeNull()
  expect(tree.delete('a')).not.toBeNull()
  expect([tree.count, tree.bytes, tree.nodeCount]).toEqual([0, 0, 0])
})

test('mayMatch tells that nothing can match', () => {
  const tree = new RetainedTree()
  tree.set(message('a/b'))
  tree.set(message('c'))
  for (const filter of ['a', 'a/c', 'b/+', 'b/#']) expect(tree.mayMatch(filter)).toBe(false)
  for (const filter of ['a/b', 'c', 'a/+', 'a/#', 'c/#', '+/b', '#']) expect(tree.mayMatch(filter)).toBe(true)
  tree.delete('a/b')
  expect(tree.mayMatch('a/+')).toBe(false)
})

test('an evicted message is still found', () => {
  const tree = new RetainedTree()
  const evicted = message('a/b')
  tree.set(evicted)
  evicted.evict()
  expect([...tree.match('a/+')]).toContain(evicted)
  tree.set(message('a/c'))
  expect(tree.delete('a/b')).toBe(evicted)
  expect(matched(tree, '#')).toEqual(['a/c'])
})

describe('matching', () => {
  test.each(EXAMPLES)('section 4.7: %s and %s: %s', (filter, topic, matches) => {
    const tree = new RetainedTree()
    tree.set(message(topic))
    expect(matched(tree, filter)).toEqual(matches ? [topic] : [])
    for (const other of [topic + topic, `${topic}/`, `${topic}/x/y`, '$SYS/other', 'z'])
      tree.set(message(other))
    expect(matched(tree, filter).includes(topic)).toBe(matches)
  })

  test('all topics of section 4.7 at once', () => {
    const tree = new RetainedTree()
    const topics = [...new Set(EXAMPLES.map(([, topic]) => topic))]
    for (const topic of topics) tree.set(message(topic))
    for (const [filter] of EXAMPLES) {
      expect(matched(tree, filter)).toEqual(topics.filter((topic) => naiveMatches(filter, topic)).sort())
    }
  })

  test('a topic of many levels is matched without recursion', () => {
    const tree = new RetainedTree()
    const levels = '/'.repeat(30_000)
    tree.set(message(`${levels}a`))
    tree.set(message(`${levels}b`))
    expect(matched(tree, '#').length).toBe(2)
    expect(matched(tree, `${levels}+`).length).toBe(2)
    tree.delete(`${levels}a`)
    tree.delete(`${levels}b`)
    expect(tree.nodeCount).toBe(0)
  })
})

describe('the cost of a match', () => {
  const tree = new RetainedTree()
  for (let device = 0; device < 5000; device++) {
    tree.set(message(`device/${device}/state`))
    tree.set(message(`device/${device}/alarm`))
    tree.set(message(`name${device}/state`))
  }

  test('a narrow filter visits only its branch', () => {
    for (const filter of [
      'device/7/state',
      'device/7/+',
      'device/7/#',
      'name7/+',
      'other/#',
      'device/9999/+',
    ]) {
      expect(stepsOf(tree, filter)).toBeLessThanOrEqual(2)
    }
  })

  test('a long search without a result yields null', () => {
    const steps = stepsOf(tree, '+/nothing')
    expect(steps).toBeGreaterThanOrEqual(Math.floor(5000 / 256))
    expect(steps).toBeLessThanOrEqual(1 + 5003 / 256)
    expect(stepsOf(tree, 'device/+/none')).toBeGreaterThanOrEqual(Math.floor(5000 / 256))
    expect(matched(tree, 'device/+/alarm').length).toBe(5000)
  })
})

test('a match ends even where each step adds a topic', () => {
  const tree = new RetainedTree()
  for (let index = 0; index < 50; index++) tree.set(message(`a/${index}`))
  let steps = 0
  for (const _ of tree.match('a/+')) tree.set(message(`a/new/${steps++}`))
  expect(steps).toBe(50)
  for (const _ of tree.match('#')) tree.set(message(`b${steps++}`))
  expect(steps).toBe(150)
  for (let index = 0; index < 150; index++) tree.delete(`b${index}`)
  // A topic that comes and goes.
  for (const found of tree.match('#')) {
    if (found === null) continue
    tree.delete(found.topic.name)
    tree.set(found)
    steps++
  }
  expect(steps).toBe(250)
})

describe('compared with the naive matcher', () => {
  const level = fc.constantFrom('', 'a', 'b', 'c', '$s', 'aa')
  // Many levels in common: `a/a/a/b/a`.
  const deep = fc.array(fc.constantFrom('a', 'a', 'a', 'b', ''), { minLength: 3, maxLength: 9 })
  const topicName = fc
    .oneof(fc.array(level, { minLength: 1, maxLength: 4 }), deep)
    .map((levels) => levels.join('/') || '/')
  const deepFilter = fc.array(fc.constantFrom('a', 'a', '+', 'b', ''), { minLength: 2, maxLength: 9 })
  const filter = fc
    .tuple(fc.oneof(fc.array(fc.oneof(level, fc.constant('+')), { maxLength: 4 }), deepFilter), fc.boolean())
    .map(([levels, multi]) => (multi ? [...levels.slice(0, -1), '#'] : levels).join('/') || '/')
  const change = fc.record({ set: fc.boolean(), topic: topicName })

  test('setting, deleting and matching in any order', () => {
    fc.assert(
      fc.property(
        fc.array(change, { maxLength: 60 }),
        fc.array(filter, { maxLength: 8 }),
        (changes, filters) => {
          const tree = new RetainedTree()
          const model = new Map<string, Message>()
          for (const { set, topic } of changes) {
            const previous = model.get(topic) ?? null
            if (set) {
              const next = message(topic)
              expect(tree.set(next)).toBe(previous)
              model.set(topic, next)
            } else {
              expect(tree.delete(topic)).toBe(previous)
              model.delete(topic)
            }
          }
          expect(tree.count).toBe(model.size)
          expect(new Set(tree)).toEqual(new Set(model.values()))
          for (const each of filters) {
            const expected = [...model.keys()].filter((topic) => naiveMatches(each, topic)).sort()
            expect(matched(tree, each)).toEqual(expected)
            if (expected.length > 0) expect(tree.mayMatch(each)).toBe(true)
          }
          for (const topic of model.keys()) tree.delete(topic)
          expect([tree.count, tree.bytes, tree.nodeCount]).toEqual([0, 0, 0])
        },
      ),
      { numRuns: 500 },
    )
  })

  test('a long match that pauses while topics come and go finds those that stay once', () => {
    const changes = fc.array(fc.nat({ max: 399 }), { minLength: 50, maxLength: 400, size: 'max' })
    fc.assert(
      fc.property(changes, fc.constantFrom('#', '+/+', 'a/#', 'a/+', '+/1/#'), (pauses, wanted) => {
        const topics = Array.from({ length: 400 }, (_, index) =>
          index < 200 ? `a/${index}` : `${index}/1${index % 2 === 0 ? '/x' : ''}`,
        )
        const tree = new RetainedTree()
        for (const topic of topics) tree.set(message(topic))
        const stayed = new Set(topics)
        const seen: string[] = []
        let pause = 0
        for (const found of tree.match(wanted)) {
          if (found !== null) seen.push(found.topic.name)
          for (let change = 0; change < 3; change++) {
            const topic = topics[pauses[pause++ % pauses.length]!]!
            if (tree.delete(topic) === null) tree.set(message(topic))
            stayed.delete(topic)
          }
        }
        for (const topic of stayed) {
          const times = seen.filter((each) => each === topic).length
          expect([topic, times]).toEqual([topic, naiveMatches(wanted, topic) ? 1 : 0])
        }
        for (const topic of topics) tree.delete(topic)
        expect([tree.count, tree.bytes, tree.nodeCount]).toEqual([0, 0, 0])
      }),
      { numRuns: 200 },
    )
  })

  test('a match that pauses while topics come and go finds those that stay once, and no removed one', () => {
    fc.assert(
      fc.property(
        fc.array(topicName, { maxLength: 40 }),
        filter,
        fc.array(fc.array(change, { maxLength: 6 }), { minLength: 1, maxLength: 40 }),
        (before, wanted, pauses) => {
          const tree = new RetainedTree()
          for (const topic of before) tree.set(message(topic))
          const stayed = new Set(before)
          const seen: string[] = []
          let pause = 0
          for (const found of tree.match(wanted)) {
            if (found !== null) {
              expect(tree.get(found.topic.name)).toBe(found)
              seen.push(found.topic.name)
            }
            for (const { set, topic } of pauses[pause++ % pauses.length]!) {
              if (set) {
                if (tree.get(topic) === undefined) tree.set(message(topic))
              } else if (tree.delete(topic) !== null) stayed.delete(topic)
            }
          }
          for (const topic of stayed) {
            const times = seen.filter((each) => each === topic).length
            expect([topic, times]).toEqual([topic, naiveMatches(wanted, topic) ? 1 : 0])
          }
          for (const topic of seen) expect(naiveMatches(wanted, topic)).toBe(true)
        },
      ),
      { numRuns: 2000 },
    )
  })
})
