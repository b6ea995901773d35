import { expect, test } from 'vitest'
import { FLAPPING_MIN, FlappingDetector } from '../../src/observe/flapping.ts'

test('connects of a client are counted for a minute', () => {
  let now = 0
  const flapping = new FlappingDetector(() => now)
  for (let i = 1; i <= 100; i++) expect(flapping.connected('c')).toBe(i)
  expect(flapping.connected('other')).toBe(1)
  now = 60_000
  expect(flapping.connected('c')).toBe(1)
})

test('a radio link that fails every other second is not called flapping', () => {
  let now = 0
  const flapping = new FlappingDetector(() => now)
  for (let i = 0; i < 1000; i++) {
    expect(flapping.connected('radio')).toBeLessThan(FLAPPING_MIN)
    now += 2000
  }
})

test('a crowd of others neither hides a flapping client nor fills the memory', () => {
  const flapping = new FlappingDetector(() => 0)
  let most = 0
  for (let i = 0; i < 100_000; i++) {
    flapping.connected(`c${i}`)
    if (i % 100 === 0) most = flapping.connected('flaps')
  }
  // As many as 100,000 connects in a minute hide nothing; they may share its hash.
  expect(most).toBeGreaterThanOrEqual(1000)
  expect(most).toBeLessThan(1010)
})
