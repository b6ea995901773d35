import { expect, it } from 'vitest'
import { NewcomerPace } from '../../../src/broker/state/newcomer-pace.ts'

/** Lets in as many as may come in; how many these are. */
function letIn(pace: NewcomerPace, now: number, waiting: number, countMax: number): number {
  const count = pace.mayComeIn(now, waiting, countMax)
  for (let index = 0; index < count; index++) pace.cameIn()
  return count
}

/** How many ms a fleet of so many takes, with up to eight newcomers in each ms. */
function msFor(fleet: number): number {
  const pace = new NewcomerPace()
  let ms = 0
  for (let waiting = fleet; waiting > 0; ms++) waiting -= letIn(pace, ms, waiting, 8)
  return ms
}

it('a hundred newcomers come in at once, and then 500 a second', () => {
  expect(msFor(100)).toBe(13)
  expect(msFor(1100)).toBeGreaterThan(1950)
  expect(msFor(1100)).toBeLessThanOrEqual(2001)
})

it('a larger fleet has come in within ten seconds, whatever its size', () => {
  for (const fleet of [5000, 20_000, 70_000]) {
    expect(msFor(fleet)).toBeGreaterThan(8700)
    expect(msFor(fleet)).toBeLessThanOrEqual(10_001)
  }
})

it('what was not used for a long time does not add up', () => {
  const pace = new NewcomerPace()
  expect(letIn(pace, 0, 1000, 1000)).toBe(100)
  expect(letIn(pace, 60_000, 900, 1000)).toBe(100)
  expect(letIn(pace, 60_100, 800, 1000)).toBe(50)
  expect(letIn(pace, 60_107, 750, 8)).toBe(0)
  expect(letIn(pace, 60_108, 750, 8)).toBe(4)
  expect(letIn(pace, 60_109, 746, 8)).toBe(0)
  expect(letIn(pace, 60_116, 2, 8)).toBe(2)
})

it("a newcomer that may come in and sends nothing takes nobody's place", () => {
  const pace = new NewcomerPace()
  for (let turn = 0; turn < 1000; turn++) expect(pace.mayComeIn(0, 8000 - 8 * turn, 8)).toBe(8)
})

it('a newcomer that comes in without waiting counts for those that wait', () => {
  const pace = new NewcomerPace()
  for (let count = 0; count < 1000; count++) pace.cameIn()
  expect(pace.mayComeIn(199, 1000, 8)).toBe(0)
  expect(pace.mayComeIn(220, 1000, 8)).toBe(8)
})
