import fc from 'fast-check'
import { expect, test } from 'vitest'
import { SmallMap } from '../../src/structures/small-map.ts'

test('it holds the same as a Map, in the same order', () => {
  const key = fc.constantFrom('a', 'b', 'c')
  const step = fc.oneof(
    fc.record({ type: fc.constant('set' as const), key, value: fc.nat() }),
    fc.record({ type: fc.constant('delete' as const), key }),
    { weight: 1, arbitrary: fc.record({ type: fc.constant('clear' as const) }) },
  )
  const property = fc.property(fc.array(step, { maxLength: 12 }), (steps) => {
    const map = new SmallMap<string, number>()
    const model = new Map<string, number>()
    for (const each of steps) {
      if (each.type === 'clear') {
        map.clear()
        model.clear()
      } else if (each.type === 'delete') {
        expect(map.delete(each.key)).toBe(model.delete(each.key))
      } else {
        map.set(each.key, each.value)
        model.set(each.key, each.value)
      }
      expect(map.size).toBe(model.size)
      expect([...map]).toEqual([...model])
      expect([...map.keys()]).toEqual([...model.keys()])
      for (const one of ['a', 'b', 'c']) {
        expect(map.get(one)).toBe(model.get(one))
        expect(map.has(one)).toBe(model.has(one))
      }
    }
  })
  fc.assert(property, { numRuns: 1000 })
})

test('iteration skips deleted entries and visits the others once', () => {
  const map = new SmallMap<string, number>()
  map.set('a', 1)
  for (const [key] of map) {
    expect(key).toBe('a')
    map.set('b', 2)
  }
  const seen: string[] = []
  for (const [key] of map) {
    seen.push(key)
    map.delete('b')
    map.delete('a')
  }
  expect(seen).toEqual(['a'])
})

test('iteration ends after clear', () => {
  const map = new SmallMap<string, number>()
  for (const key of ['a', 'b', 'c']) map.set(key, 1)
  const entries = map[Symbol.iterator]()
  expect(entries.next().value).toEqual(['a', 1])
  map.clear()
  expect(entries.next().done).toBe(true)
})

test('with very many entries it has no Map that V8 would double all at once', () => {
  const count = 300_000
  const map = new SmallMap<string, number>()
  for (let index = 0; index < count; index++) map.set(`${index}`, index)
  expect(map.largestPart).toBeLessThanOrEqual(131_072)
  expect(map.size).toBe(count)
  for (const [key, value] of map) if (key !== `${value}`) throw new Error(`${key} has the value ${value}`)
  expect(new Set(map.keys()).size).toBe(count)

  // A further one goes where there is room; the others are found and changed where they are.
  for (const key of ['0', '70000', '299999']) {
    expect([map.has(key), map.get(key), map.delete(key), map.delete(key)]).toEqual([
      true,
      Number(key),
      true,
      false,
    ])
  }
  map.set('again', 1)
  map.set('100000', -1)
  expect([map.size, map.get('again'), map.get('100000'), map.get('70000')]).toEqual([
    count - 2,
    1,
    -1,
    undefined,
  ])
  expect([...map.keys()].filter((key) => key === '100000')).toHaveLength(1)

  // As an ended Session is taken apart: each entry is deleted as soon as it was seen.
  let seen = 0
  for (const key of map.keys()) {
    seen++
    map.delete(key)
  }
  expect([seen, map.size, [...map]]).toEqual([count - 2, 0, []])
})
