import { describe, expect, it } from 'vitest'
import { type Holder, largestOfGroups, plan } from '../../../src/broker/accounts/relief-plan.ts'

const MIB = 1024 * 1024
/** The high mark is 800 MiB of 1,000. */
const marks = { lowBytes: 640 * MIB, highBytes: 800 * MIB, maxBytes: 1000 * MIB }

function holder(clientId: string, mebibytes: number, user = clientId, step = 0): Holder {
  return { clientId, user, bytes: mebibytes * MIB, step }
}

function paid(bytes: number, holders: readonly Holder[]): Record<string, number> {
  const { payments } = plan({ ...marks, bytes: bytes * MIB }, holders)
  return Object.fromEntries(payments.map((payment) => [payment.holder.clientId, payment.step]))
}

describe('who pays', () => {
  it('the largest clients, until the excess is covered', () => {
    expect(paid(810, [holder('a', 100), holder('b', 90), holder('c', 300)])).toEqual({ c: 1 })
    expect(paid(810, [holder('a', 100), holder('b', 90), holder('c', 20)])).toEqual({ a: 1, b: 1 })
  })

  it('one step harder each time, and harder the nearer memory is to its end', () => {
    const large = (step: number) => [holder('a', 400, 'a', step)]
    expect([0, 1, 2, 3].map((step) => paid(810, large(step)).a)).toEqual([1, 2, 3, 3])
    expect(paid(905, large(0))).toEqual({ a: 2 })
    expect(paid(1000, large(0))).toEqual({ a: 3 })
  })

  it('among clients of about the same size, those that paid before', () => {
    expect(paid(810, [holder('a', 171), holder('b', 170, 'b', 1)])).toEqual({ b: 2 })
    expect(paid(810, [holder('a', 600), holder('b', 170, 'b', 1)])).toEqual({ a: 1 })
  })

  it('large clients before the many small ones of a user, however much these hold together', () => {
    const many = Array.from({ length: 800 }, (_, index) => holder(`m${index}`, 0.5, 'many'))
    expect(paid(810, [...many, holder('large', 300)])).toEqual({ large: 1 })
  })

  it('the largest users if no client is large: each gives up what it has above the next', () => {
    const of = (user: string, count: number) =>
      Array.from({ length: count }, (_, index) => holder(`${user}${index}`, 0.5, user))
    const result = plan({ ...marks, bytes: 810 * MIB }, [...of('x', 800), ...of('y', 700), ...of('z', 60)])
    const sums = { x: 0, y: 0, z: 0 }
    for (const payment of result.payments) sums[payment.holder.user as 'x' | 'y' | 'z'] += 0.5
    expect(sums).toEqual({ x: 110, y: 60, z: 0 })
    expect([...result.users].sort()).toEqual(['x', 'y'])
    expect(result.uncoveredBytes).toBe(0)
  })

  it('nobody if all are small: the excess is left uncovered', () => {
    const small = Array.from({ length: 1000 }, (_, index) => holder(`s${index}`, 0.5))
    const result = plan({ ...marks, bytes: 810 * MIB }, small)
    expect(result.payments).toEqual([])
    expect(result.uncoveredBytes).toBe(170 * MIB)
  })
})

describe('the largest of the largest groups', () => {
  it('have the excess together, and no group is left with less than others have', () => {
    const items = [5, 4, 3, 2].map((bytes) => ({ group: 'a', bytes }))
    const others = [6, 1].map((bytes) => ({ group: 'b', bytes }))
    const chosen = (excess: number) =>
      largestOfGroups([...items, ...others], ({ group }) => group, excess, 0).map(
        ({ group, bytes }) => `${group}${bytes}`,
      )
    expect(chosen(0)).toEqual([])
    expect(chosen(3)).toEqual(['a5'])
    expect(chosen(9)).toEqual(['a5', 'a4', 'b6'])
    expect(chosen(100)).toEqual(['a5', 'a4', 'a3', 'a2', 'b6', 'b1'])
  })

  it('are found among very many to within a factor of two', () => {
    const items = Array.from({ length: 20_000 }, (_, index) => ({ bytes: 1 + (index % 1000) }))
    const found = largestOfGroups(items, () => '', 1_000_000, 0)
    const least = Math.min(...found.map(({ bytes }) => bytes))
    const sum = found.reduce((total, { bytes }) => total + bytes, 0)
    expect(sum).toBeGreaterThanOrEqual(1_000_000)
    expect(sum).toBeLessThan(1_001_000)
    expect(least).toBeGreaterThanOrEqual(512)
    const alike = Array.from({ length: 20_000 }, () => ({ bytes: 100 }))
    expect(largestOfGroups(alike, () => '', 1000, 0).length).toBe(10)
  })

  it('leave each group the floor', () => {
    const items = [5, 4, 3].map((bytes) => ({ group: 'a', bytes }))
    expect(largestOfGroups(items, ({ group }) => group, 100, 8).map(({ bytes }) => bytes)).toEqual([5])
  })
})
