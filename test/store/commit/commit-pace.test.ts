import { describe, expect, test } from 'vitest'
import { CommitPace } from '../../../src/store/commit/commit-pace.ts'

/** Seals a commit every `everyMs` for a second, with so many clients in company each; returns the time. */
function rhythm(pace: CommitPace, everyMs: number, company: number): number {
  let now = 1000
  for (; now < 2000; now += everyMs) {
    pace.came(company)
    pace.sealed(now)
  }
  return now - everyMs
}

describe('how long a commit waits for company', () => {
  test('a client that is alone never waits: it is nobody’s company', () => {
    const pace = new CommitPace(4)
    const last = rhythm(pace, 0.3, 0)
    expect(pace.waitMs(last + 0.3, 100)).toBe(0)
  })

  test('clients that come back with every commit do not wait, however many they are', () => {
    const pace = new CommitPace(4)
    pace.came(1000)
    pace.sealed(0)
    const last = rhythm(pace, 0.5, 0)
    expect(pace.waitMs(last + 0.5, 10_000)).toBe(0)
  })

  test('while many clients publish now and then, commits begin a pace apart', () => {
    const pace = new CommitPace(4)
    const last = rhythm(pace, 1, 2)
    expect(pace.waitMs(last + 1, 100)).toBeCloseTo(3)
    // The disk took longer than the pace: nothing is left to wait for.
    expect(pace.waitMs(last + 5, 100)).toBeLessThanOrEqual(0)
  })

  test('company that is too rare is not waited for', () => {
    const pace = new CommitPace(4)
    const last = rhythm(pace, 10, 1)
    expect(pace.waitMs(last + 1, 100)).toBe(0)
  })

  test('once company stays away, nobody waits for it', () => {
    const pace = new CommitPace(4)
    const last = rhythm(pace, 1, 3)
    expect(pace.waitMs(last + 1, 100)).toBeGreaterThan(0)
    pace.sealed(last + 500)
    expect(pace.waitMs(last + 501, 100)).toBe(0)
  })

  test('a large block does not wait', () => {
    const pace = new CommitPace(4)
    const last = rhythm(pace, 1, 2)
    expect(pace.waitMs(last + 1, 256 * 1024)).toBe(0)
  })

  test('a pace of 0 means that nothing waits', () => {
    const pace = new CommitPace(0)
    const last = rhythm(pace, 1, 50)
    expect(pace.waitMs(last + 1, 100)).toBe(0)
  })

  test('the first commit does not wait', () => {
    expect(new CommitPace(4).waitMs(5, 100)).toBe(0)
  })
})
