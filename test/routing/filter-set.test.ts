import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { FilterSet } from '../../src/routing/filter-set.ts'
import { naiveMatches } from './naive.ts'

interface Leaf {
  readonly filter: string
}

function matched(set: FilterSet<Leaf>, topic: string): string[] {
  const found: Leaf[] = []
  set.match(topic, found)
  return found.map(({ filter }) => filter).sort()
}

const level = fc.constantFrom('', 'a', 'b', '$x', 'ö')
const filter = fc
  .tuple(fc.array(fc.oneof(level, fc.constant('+')), { maxLength: 5 }), fc.boolean())
  .map(([levels, hash]) => (hash ? [...levels, '#'] : levels).join('/'))
  .filter((text) => text !== '')
/** Behind so many levels that they are more than the table takes. */
const deep = filter.map((text) => `${'d/'.repeat(30)}${text}`)
const name = fc.array(level, { minLength: 1, maxLength: 6 }).map((levels) => levels.join('/'))
const topic = fc.oneof(
  name,
  name.map((text) => `${'d/'.repeat(30)}${text}`),
)

describe.each([0, 2, 32])('with %i shapes in the table', (shapes) => {
  test('it holds and matches what a list would', () => {
    const change = fc.record({ set: fc.boolean(), filter: fc.oneof({ weight: 5, arbitrary: filter }, deep) })
    const property = fc.property(
      fc.array(change, { maxLength: 80 }),
      fc.array(topic, { minLength: 1, maxLength: 20 }),
      (changes, topics) => {
        const set = new FilterSet<Leaf>(shapes)
        const model = new Map<string, Leaf>()
        for (const step of changes) {
          if (step.set) {
            const leaf = { filter: step.filter }
            set.set(leaf)
            model.set(step.filter, leaf)
          } else {
            set.delete(step.filter)
            model.delete(step.filter)
          }
          expect(set.get(step.filter)).toBe(model.get(step.filter))
        }
        for (const [text, leaf] of model) expect(set.get(text)).toBe(leaf)
        for (const text of topics) {
          const expected = [...model.keys()].filter((each) => naiveMatches(each, text)).sort()
          expect(matched(set, text)).toEqual(expected)
        }
        for (const text of model.keys()) set.delete(text)
        expect(set.nodeCount).toBe(0)
      },
    )
    fc.assert(property, { numRuns: 300 })
  })
})

test('a shape that nobody needs any more makes room for another', () => {
  const set = new FilterSet<Leaf>(1)
  for (let round = 0; round < 3; round++) {
    for (const text of ['a/+', '+/b', 'a/b']) set.set({ filter: text })
    expect(matched(set, 'a/b')).toEqual(['+/b', 'a/+', 'a/b'])
    for (const text of ['a/+', 'a/b', '+/b']) {
      set.delete(text)
      expect(set.get(text)).toBeUndefined()
    }
    expect(set.nodeCount).toBe(0)
  }
})

test('it grows and shrinks and loses nothing', () => {
  const set = new FilterSet<Leaf>()
  const text = (index: number): string => (index % 3 === 0 ? `s/${index}/+/x` : `s/${index}/y/x`)
  for (let index = 0; index < 50_000; index++) set.set({ filter: text(index) })
  expect(set.nodeCount).toBe(50_000)
  for (let index = 0; index < 50_000; index++) if (index % 100 !== 0) set.delete(text(index))
  for (let index = 0; index < 50_000; index++) {
    expect(matched(set, `s/${index}/y/x`)).toEqual(index % 100 === 0 ? [text(index)] : [])
  }
  for (let index = 0; index < 50_000; index += 100) set.delete(text(index))
  expect(set.nodeCount).toBe(0)
})

/** As many different levels of the same FNV-1a hash as an attacker likes: each pair of blocks doubles them. */
function collidingLevels(pairs: number): string[] {
  let hash = 0x811c9dc5
  let levels = ['']
  const hashOf = (from: number, block: string): number => {
    let mixed = from
    for (let at = 0; at < block.length; at++) mixed = Math.imul(mixed ^ block.charCodeAt(at), 0x01000193)
    return mixed
  }
  for (let pair = 0; pair < pairs; pair++) {
    const seen = new Map<number, string>()
    for (let count = 0; ; count++) {
      const block = count.toString(36).padStart(5, '_')
      const next = hashOf(hash, block)
      const other = seen.get(next)
      seen.set(next, block)
      if (other === undefined) continue
      levels = levels.flatMap((before) => [before + other, before + block])
      hash = next
      break
    }
  }
  return levels
}

test('filters whose hashes were made to collide cost a bounded look each', () => {
  let reads = 0
  const counted = (text: string): Leaf => ({
    get filter() {
      reads++
      return text
    },
  })
  const colliding = collidingLevels(8).map((each) => `x/${each}/y`)
  expect(new Set(colliding).size).toBe(256)
  const absent = colliding.pop()!
  const set = new FilterSet<Leaf>()
  for (const text of colliding) set.set(counted(text))
  expect(set.nodeCount).toBeGreaterThanOrEqual(colliding.length)
  for (const text of colliding) expect(matched(set, text)).toEqual([text])
  reads = 0
  expect(set.get(absent)).toBeUndefined()
  expect(matched(set, absent)).toEqual([])
  expect(reads).toBeGreaterThan(100)
  expect(reads).toBeLessThan(600)
  for (const text of colliding) set.delete(text)
  expect(set.nodeCount).toBe(0)
})
