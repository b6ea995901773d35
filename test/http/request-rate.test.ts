import { expect, test } from 'vitest'
import { REQUESTS_AT_ONCE, REQUESTS_PER_SECOND, RequestRate } from '../../src/http/request-rate.ts'

/** Takes as many tokens as there are. */
function takeAll(rate: RequestRate, nowMs: number): number {
  let taken = 0
  while (rate.take(nowMs)) taken++
  return taken
}

test('a rate allows a burst, then so many requests a second, and saves no more than a burst', () => {
  const rate = new RequestRate(0)
  expect(takeAll(rate, 0)).toBe(REQUESTS_AT_ONCE)
  expect(takeAll(rate, 1000)).toBe(REQUESTS_PER_SECOND)
  expect(takeAll(rate, 1000)).toBe(0)
  expect(takeAll(rate, 3_600_000)).toBe(REQUESTS_AT_ONCE)
})
