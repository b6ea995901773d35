import fc from 'fast-check'
import { expect, test } from 'vitest'
import { ChurnMap } from '../../src/structures/churn-map.ts'

test('it holds what a Map would hold', () => {
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
