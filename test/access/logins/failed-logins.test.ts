import { describe, expect, test } from 'vitest'
import { FailedLogins } from '../../../src/access/logins/failed-logins.ts'

const A = '192.0.2.1'
const B = '192.0.2.2'

function made(limits = {}, max?: number) {
  const clock = { ms: 0 }
  const all = { failedLoginsMax: 3, failedLoginDelaySecondsMax: 60, failedLoginsBanned: 100, ...limits }
  return { clock, failures: new FailedLogins(all, () => clock.ms, max) }
}

describe('wrong passwords', () => {
  test('delay log-ins of the same user from the same address more and more, and no others', () => {
    const { clock, failures } = made()
    const delays: number[] = []
    for (let i = 0; i < 12; i++) {
      failures.failed(A, 'alice')
      const seconds = failures.secondsToWait(A, 'alice')
      delays.push(seconds)
      clock.ms += seconds * 1000
      expect(failures.secondsToWait(A, 'alice')).toBe(0)
    }
    expect(delays).toEqual([0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60])
    failures.failed(A, 'alice')
    expect(failures.secondsToWait(A, 'bob')).toBe(0)
    expect(failures.secondsToWait(B, 'alice')).toBe(0)
    expect([failures.isSuspect(A, 'alice'), failures.isSuspect(A, 'bob')]).toEqual([true, false])
  })

  test('are forgotten after a quarter of an hour, and after the right password', () => {
    const { clock, failures } = made()
    for (let i = 0; i < 5; i++) failures.failed(A, 'alice')
    failures.succeeded(A, 'alice')
    expect(failures.secondsToWait(A, 'alice')).toBe(0)
    for (let i = 0; i < 9; i++) failures.failed(A, 'bob')
    clock.ms += 16 * 60_000
    expect([failures.secondsToWait(A, 'bob'), failures.isSuspect(A, 'bob')]).toEqual([0, false])
  })

  test('do not lock a user out for long where it showed the right one before', () => {
    const { failures } = made()
    failures.succeeded(A, 'alice')
    for (let i = 0; i < 30; i++) failures.failed(A, 'alice')
    expect(failures.secondsToWait(A, 'alice')).toBe(5)
    expect(failures.isSuspect(A, 'alice')).toBe(false)
  })

  test('for many names, or from many addresses, leave fewer tries to the next name or address', () => {
    const { failures } = made()
    for (let i = 0; i < 50; i++) failures.failed(A, `name ${i}`)
    failures.failed(A, 'fresh')
    expect(failures.secondsToWait(A, 'fresh')).toBe(1)
    expect(failures.isSuspect(A, 'another')).toBe(true)
    for (let i = 0; i < 50; i++) failures.failed(`198.51.100.${i}`, 'admin')
    failures.failed(B, 'admin')
    expect(failures.secondsToWait(B, 'admin')).toBe(1)
    failures.failed(B, 'alice')
    expect(failures.secondsToWait(B, 'alice')).toBe(0)
  })

  test('of one device do not delay or distrust many good ones at the same address', () => {
    const { failures } = made()
    for (let i = 0; i < 3; i++) failures.succeeded(A, `device ${i}`)
    for (let i = 0; i < 500; i++) failures.failed(A, 'bad device')
    expect(failures.isSuspect(A, 'device 7')).toBe(false)
    failures.failed(A, 'device 7')
    expect(failures.secondsToWait(A, 'device 7')).toBe(0)
    expect(failures.countForBan(A)).toBe(0)
  })

  test('cause no delay where their number is unlimited', () => {
    const { failures } = made({ failedLoginsMax: Number.POSITIVE_INFINITY })
    for (let i = 0; i < 200; i++) failures.failed(A, `u${i}`)
    for (let i = 0; i < 200; i++) failures.failed(A, 'alice')
    expect([failures.secondsToWait(A, 'alice'), failures.secondsToWait(A, 'u199')]).toEqual([0, 0])
    // Others go first all the same.
    expect(failures.isSuspect(A, 'alice')).toBe(true)
  })

  test('take bounded memory, and do not push out those who failed most', () => {
    const { failures } = made({}, 100)
    for (let i = 0; i < 20; i++) failures.failed(A, 'admin')
    for (let i = 0; i < 5000; i++) failures.failed(`10.0.${i >> 8}.${i & 255}`, 'x'.repeat(60_000))
    expect(failures.size).toBe(100)
    expect(failures.secondsToWait(A, 'admin')).toBe(60)
  })
})

describe('an address is to be banned', () => {
  test('after so many wrong passwords in ten minutes, delayed ones included', () => {
    const { failures } = made()
    for (let i = 0; i < 60; i++) failures.failed(A, `name ${i}`)
    for (let i = 0; i < 39; i++) failures.delayed(A)
    expect(failures.countForBan(A)).toBe(0)
    failures.delayed(A)
    expect(failures.countForBan(A)).toBe(100)
    expect(failures.countForBan(A)).toBe(0)
  })

  test('not where they come slowly', () => {
    const { clock, failures } = made()
    for (let i = 0; i < 300; i++) {
      failures.failed(A, 'forgetful')
      clock.ms += 10_000
    }
    expect(failures.countForBan(A)).toBe(0)
  })

  test('after ten times as many where one user has the right one, however often that is shown', () => {
    const { failures } = made()
    for (let i = 0; i < 999; i++) {
      failures.succeeded(A, 'alice')
      failures.failed(A, 'guessed')
    }
    expect(failures.countForBan(A)).toBe(0)
    failures.failed(A, 'guessed')
    expect(failures.countForBan(A)).toBe(1000)
  })
})
