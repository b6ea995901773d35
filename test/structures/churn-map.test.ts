import fc from 'fast-check'
import { expect, test } from 'vitest'
import { ChurnMap, SLOTS_MAX } from '../../src/structures/churn-map.ts'

test('it holds the same as a Map', () => {
  const change = fc.record({ set: fc.boolean(), from: fc.nat({ max: 300 }), count: fc.nat({ max: 200 }) })
  fc.assert(
    fc.property(fc.array(change, { maxLength: 30 }), (changes) => {
      const map = new ChurnMap<number, number>()
      const model = new Map<number, number>()
      for (const { set, from, count } of changes) {
        for (let key = from; key < from + count; key++) {
          if (set) {
            map.set(key, key + from)
            model.set(key, key + from)
          } else {
            map.delete(key)
            model.delete(key)
          }
        }
        expect(map.size).toBe(model.size)
        const held = [...map.slots()].filter(([, value]) => value !== null)
        expect(new Map<number, number | null>(held)).toEqual(model)
        expect(held.length).toBe(model.size)
        expect([...map.values()].sort()).toEqual([...model.values()].sort())
        expect([map.has(0), map.has(7)]).toEqual([model.has(0), model.has(7)])
        for (let key = 0; key < 500; key += 7) expect(map.get(key)).toBe(model.get(key))
      }
      for (const key of model.keys()) map.delete(key)
      expect([map.size, map.slotCount]).toEqual([0, 0])
    }),
    { numRuns: 200 },
  )
})

test('a key that comes back finds its slot, and slots without a value are bounded', () => {
  const map = new ChurnMap<string, number>()
  for (let index = 0; index < 10_000; index++) map.set(`${index}`, index)
  for (let round = 0; round < 1000; round++) {
    map.set('x', round)
    map.delete('x')
    expect(map.get('x')).toBeUndefined()
  }
  expect(map.slotCount).toBe(10_001)
  for (let index = 0; index < 5000; index++) {
    map.delete(`${index}`)
    expect(map.slotCount - map.size).toBeLessThanOrEqual(1024)
  }
  expect(map.size).toBe(5000)
})

test('a large one consists of pieces: V8 never rebuilds all of it at once', () => {
  const map = new ChurnMap<number, number>()
  const count = 2 * SLOTS_MAX + 1000
  const walked: number[] = []
  for (let key = 0; key < count; key++) map.set(key, key)
  expect(map.largestPart).toBe(SLOTS_MAX)
  expect([map.size, map.slotCount]).toEqual([count, count])
  const walk = map.slots()
  let { slotCount: left } = map
  const step = (steps: number): void => {
    for (; steps > 0 && left > 0; steps--, left--) {
      const { value, done } = walk.next()
      if (done === true) left = 0
      else if (value[1] !== null) walked.push(value[0])
    }
  }
  step(10)
  // Deleted keys make room for others in the first piece; these must not use up the count of the next piece.
  for (let key = 100; key < 100_000; key++) map.delete(key)
  for (let key = 0; key < 50_000; key++) map.set(-1 - key, key)
  for (let key = 100; key < 200; key++) map.set(key, 2 * key)
  step(count)
  const kept = walked.filter((key) => key < 100 || key >= 100_000).filter((key) => key >= 0)
  expect(kept.length).toBe(new Set(kept).size)
  expect(kept.length).toBe(count - 99_900)
  expect([map.get(-1), map.get(150), map.get(300), map.get(count - 1)]).toEqual([
    0,
    300,
    undefined,
    count - 1,
  ])
  expect(map.size).toBe(count - 99_900 + 50_000 + 100)
  const held = [...map.slots()].filter(([, value]) => value !== null)
  expect(new Set(held.map(([key]) => key)).size).toBe(held.length)
  expect(held.length).toBe(map.size)
  for (const [key] of held) map.delete(key)
  expect([map.size, map.slotCount]).toEqual([0, 0])
  map.set(1, 1)
  expect([...map.values()]).toEqual([1])
})
