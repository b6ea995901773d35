import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ReferenceCounts } from '../../../src/store/journal/reference-counts.ts'

describe('counts of references to the bodies of a page', () => {
  it('are those of a map', () => {
    const step = fc.record({
      offset: fc.integer({ min: 0, max: 40 }),
      count: fc.constantFrom(1, 2, 65_534, 70_000),
    })
    fc.assert(
      fc.property(fc.array(fc.tuple(step, fc.boolean()), { maxLength: 200 }), (steps) => {
        const references = new ReferenceCounts()
        const model = new Map<number, number>()
        for (const [{ offset, count }, adds] of steps) {
          const known = model.get(offset) ?? 0
          if (adds) {
            references.add(offset * 1600, count)
            model.set(offset, known + count)
          } else if (known >= count) {
            expect(references.take(offset * 1600, count)).toBe(known - count)
            if (known === count) model.delete(offset)
            else model.set(offset, known - count)
          } else {
            expect(() => references.take(offset * 1600, count)).toThrow(RangeError)
          }
          expect(references.count(offset * 1600)).toBe(model.get(offset) ?? 0)
          expect(references.size).toBe(model.size)
        }
        const offsets = Array.from({ length: references.size }, (_, index) => references.offsetAt(index))
        expect(offsets).toEqual([...model.keys()].map((offset) => offset * 1600).sort((a, b) => a - b))
      }),
    )
  })
})
