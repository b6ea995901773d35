import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { EntryFields } from '../../../src/store/format/entry.ts'
import { EntrySlots } from '../../../src/store/journal/entry-slots.ts'
import { Extensions } from '../../../src/store/journal/extensions.ts'
import { PARKED_MAX, ParkedEntries } from '../../../src/store/journal/parked-entries.ts'

interface Plain {
  readonly page: number
  readonly offset: number
  readonly flags: number
  readonly size: number
  readonly expiresAt: number
  readonly extension: { subscriptionIdentifiers: readonly number[]; share: string | null } | null
}

const plain: fc.Arbitrary<Plain> = fc.record({
  page: fc.oneof(fc.integer({ min: 1, max: 1000 }), fc.integer({ min: 1, max: 2 ** 48 - 1 })),
  offset: fc.integer({ min: 0, max: 0xffff }),
  flags: fc.integer({ min: 0, max: 0x3f }),
  size: fc.integer({ min: 0, max: 0x10000000 }),
  expiresAt: fc.oneof(fc.constant(Number.POSITIVE_INFINITY), fc.double({ min: 0, max: 1e15, noNaN: true })),
  extension: fc.option(
    fc.record({
      subscriptionIdentifiers: fc.array(fc.integer({ min: 1, max: 268_435_455 }), { maxLength: 2 }),
      share: fc.option(fc.constantFrom('$share/a/b', '$share/a/c')),
    }),
  ),
})

function fields(of: Plain): EntryFields {
  return Object.assign(new EntryFields(), of)
}

describe('parked entries', () => {
  it('come out as they were parked, in order, wherever reading begins', () => {
    fc.assert(
      fc.property(fc.array(plain, { maxLength: 100 }), fc.nat(), (list, removed) => {
        const entries = new ParkedEntries()
        for (const each of list) entries.add(fields(each))
        const gone = list.length === 0 ? 0 : removed % list.length
        entries.remove(gone)
        const left = list.slice(gone)
        expect([entries.length, entries.bytes]).toEqual([
          left.length,
          left.reduce((sum, { size }) => sum + size, 0),
        ])
        expect(entries.shared).toBe(list.some(({ extension }) => (extension?.share ?? null) !== null))
        const read = new EntryFields()
        for (const [index, each] of left.entries()) {
          entries.read(index, read)
          expect({ ...read }).toEqual({ ...each })
        }
        expect(() => entries.read(left.length, read)).toThrow(RangeError)
      }),
    )
  })

  it('are full at the length of a segment, even after some were taken out', () => {
    const entries = new ParkedEntries()
    for (let count = 0; count < PARKED_MAX; count++) {
      expect(entries.full).toBe(false)
      entries.add(new EntryFields())
      if (count % 2 === 0) entries.remove(1)
    }
    expect([entries.full, entries.length]).toEqual([true, PARKED_MAX / 2])
  })
})

describe('an extension of entries', () => {
  it('is kept once for all entries that have it, and freed with the last', () => {
    const extensions = new Extensions()
    const chunks = [new ParkedEntries(extensions), new ParkedEntries(extensions)]
    const read = new EntryFields()
    const extensionOf = (n: number) => ({
      subscriptionIdentifiers: n % 3 === 0 ? [] : [n % 5, 7],
      share: n % 3 === 1 ? null : `$share/${n % 100}/t`,
    })
    for (let n = 0; n < 1800; n++) {
      const entry = new EntryFields()
      entry.extension = extensionOf(n)
      chunks[n % 2]!.add(entry)
    }
    expect(extensions.size).toBeLessThan(5 + 100 + 500)
    for (let n = 0; n < 1800; n++) {
      chunks[n % 2]!.read(Math.floor(n / 2), read)
      expect(read.extension).toEqual(extensionOf(n))
    }
    chunks[0]!.remove(900)
    expect(extensions.size).toBeGreaterThan(0)
    const again = new EntryFields()
    again.extension = { subscriptionIdentifiers: [], share: '$share/new/t' }
    chunks[1]!.add(again)
    chunks[1]!.read(900, read)
    expect(read.extension).toEqual(again.extension)
    chunks[1]!.remove(901)
    expect(extensions.size).toBe(0)
  })

  it('is kept with entries in slots that come and go', () => {
    const extensions = new Extensions()
    const slots = new EntrySlots(extensions)
    const model = new Map<number, Plain>()
    fc.assert(
      fc.property(fc.array(fc.tuple(plain, fc.nat({ max: 3 })), { maxLength: 200 }), (steps) => {
        const read = new EntryFields()
        for (const [each, kind] of steps) {
          const first = model.keys().next()
          if (kind === 0 && first.done !== true) {
            slots.free(first.value)
            model.delete(first.value)
          } else model.set(slots.put(fields(each)), each)
        }
        for (const [slot, each] of model) {
          slots.read(slot, read)
          expect({ ...read }).toEqual({ ...each })
        }
      }),
    )
    for (const slot of model.keys()) slots.free(slot)
    expect(extensions.size).toBe(0)
  })
})
