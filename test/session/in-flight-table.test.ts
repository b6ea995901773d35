import fc from 'fast-check'
import { expect, test } from 'vitest'
import { InFlightEntry, InFlightTable } from '../../src/session/in-flight-table.ts'

const ids = (table: InFlightTable): number[] => [...table].map(({ packetId }) => packetId)

test('finds, forgets and lists what was added, in order, whatever identifiers and however many', () => {
  // Few identifiers that fall into the same slots, and the ends of the range.
  const id = fc.oneof(
    fc.nat(40),
    fc.nat(7).map((step) => step * 64),
    fc.constantFrom(65_535, 65_534),
  )
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.constantFrom('add', 'delete', 'again'), id), { maxLength: 400 }),
      (steps) => {
        const table = new InFlightTable()
        const model = new Map<number, InFlightEntry>()
        for (const [step, packetId] of steps) {
          const entry = model.get(packetId)
          expect(table.get(packetId)).toBe(entry ?? null)
          if (step !== 'add' && entry !== undefined) {
            table.delete(entry)
            model.delete(packetId)
          }
          if (step === 'again' ? entry === undefined : step === 'delete' || entry !== undefined) continue
          const added = entry ?? new InFlightEntry(packetId, null, true)
          table.add(added)
          model.set(packetId, added)
        }
        expect(ids(table)).toEqual([...model.keys()])
        expect(table.size).toBe(model.size)
      },
    ),
  )
})

test('an entry that was taken out points to no other', () => {
  const table = new InFlightTable()
  const entries = [1, 9, 17].map((packetId) => new InFlightEntry(packetId, null, true))
  for (const entry of entries) table.add(entry)
  for (const entry of [entries[1]!, entries[0]!, entries[2]!]) {
    table.delete(entry)
    expect([entry.older, entry.newer, entry.sibling]).toEqual([null, null, null])
  }
  expect([ids(table), table.size, table.get(9)]).toEqual([[], 0, null])
})

test('a table holds all 65,535 identifiers, and then none', () => {
  const table = new InFlightTable()
  for (let packetId = 1; packetId <= 65_535; packetId++) table.add(new InFlightEntry(packetId, null, true))
  expect(ids(table)).toEqual(Array.from({ length: 65_535 }, (_, index) => index + 1))
  for (const entry of [...table]) table.delete(entry)
  expect([table.size, table.get(1)]).toEqual([0, null])
})
