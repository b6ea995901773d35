import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { LoginCrowd } from '../../../src/access/logins/login-crowd.ts'
import { atOnce, PasswordWork } from '../../../src/access/logins/password-work.ts'

beforeEach(() => vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] }))

afterEach(() => vi.useRealTimers())

test('a crowd that waits long is reported once, with its size by then and its longest wait', async () => {
  const work = new PasswordWork({ atOnceMax: 2 })
  const told: (readonly number[])[] = []
  const crowd = new LoginCrowd(work, (...figures) => told.push(figures))
  const ends: (() => void)[] = []
  const come = (count: number): void => {
    for (let i = 0; i < count; i++) {
      const place = { address: `10.0.0.${i}`, userName: 'u', bytes: 1, isSuspect: false }
      const hashed = (): Promise<void> => new Promise((resolve) => ends.push(resolve))
      void work.login(place, hashed, { queued: () => crowd.grew(), served() {} })
    }
  }
  const leave = async (): Promise<void> => {
    while (work.running > 0) {
      for (const end of ends.splice(0)) end()
      await Promise.resolve()
    }
  }
  come(300)
  vi.advanceTimersByTime(10_000)
  expect(told).toEqual([]) // 298 at 50 ms on two threads: 7.45 s
  come(200)
  vi.advanceTimersByTime(2_000)
  come(1_502)
  expect(told).toEqual([])
  vi.advanceTimersByTime(1_000)
  expect(told).toEqual([[2000, 50, 50]])
  come(5)
  vi.advanceTimersByTime(10_000)
  expect(told).toHaveLength(1)
  await leave()
  come(1_002)
  vi.advanceTimersByTime(3_000)
  expect(told).toHaveLength(2)
  crowd.close()
  await leave()
})

test('hashes as many passwords at once as threads and processors allow, without those of the disk', () => {
  const rows = [
    [1, 8],
    [2, 8],
    [3, 8],
    [4, 1],
    [4, 2],
    [4, 64],
    [10, 2],
    [10, 4],
    [10, 64],
    [Number.NaN, 8],
  ] as const
  expect(rows.map(([threads, processors]) => atOnce(threads, processors))).toEqual([
    1, 1, 2, 2, 2, 2, 2, 3, 8, 2,
  ])
})
