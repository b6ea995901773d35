import { describe, expect, test } from 'vitest'
import { COSTS, retainedBytes } from '../../../src/broker/accounts/costs.ts'
import { LIMITS } from '../../../src/broker/boundary/events.ts'
import type { LimitRow } from '../../../src/broker/boundary/limit-row.ts'
import {
  COUNTED_LIMITS,
  DEFAULT_LIMITS,
  LIMIT_NAMES,
  LIMIT_TABLE,
  limitChanges,
  limitsBesideProfile,
  limitsWith,
  PROFILES,
} from '../../../src/broker/boundary/limits.ts'

const ROWS: readonly (readonly [string, LimitRow<unknown>])[] = Object.entries(LIMIT_TABLE)

describe('the table of limits', () => {
  test.each(ROWS)('%s has values that its key allows, and a line of documentation', (_, each) => {
    const { kind, says } = each
    expect(says).toMatch(/^[a-z\d]|^[A-Z]+\w* \d/i)
    expect(says).not.toMatch(/\.$/)
    for (const value of [each.open, each.fleet, each.internet]) {
      if (kind.type === 'truth') expect(value).toBeTypeOf('boolean')
      else if (kind.type === 'one of') expect(kind.choices).toContain(value)
      else if (kind.type === 'refused filters') expect(value).toEqual([])
      else if (value === Number.POSITIVE_INFINITY) expect(kind.unlimited).toBe(true)
      else {
        expect(value).toBeGreaterThanOrEqual(kind.min)
        expect(value).toBeLessThanOrEqual(kind.max)
      }
    }
  })

  test.each(ROWS)('%s is no stricter in a profile that trusts more', (_, { kind, open, fleet, internet }) => {
    if (kind.type === 'one of' || kind.type === 'truth' || kind.type === 'refused filters') return
    expect(open).toBeGreaterThanOrEqual(fleet as number)
    expect(fleet).toBeGreaterThanOrEqual(internet as number)
  })

  test('counts refusals under the names of limits', () => {
    expect(LIMITS).toEqual(expect.arrayContaining([...COUNTED_LIMITS]))
    expect(new Set(LIMITS).size).toBe(LIMITS.length)
  })
})

describe('fleet', () => {
  // Names of 30 bytes, payloads of 200.
  test.each([
    ['Wills', 'willsPerUserMax', 'willsBytesPerUserMax', COSTS.will + 230],
    ['Wills in all', 'willsMax', 'willsBytesMax', COSTS.will + 230],
    ['retained messages', 'retainedMessagesPerUserMax', 'retainedBytesPerUserMax', retainedBytes(230)],
  ] as const)('%s: as many as are allowed in number are in bytes, too', (_, number, bytes, each) => {
    for (const limits of [PROFILES.fleet, PROFILES.internet]) {
      expect(limits[number] * each).toBeLessThan(limits[bytes])
    }
  })
})

describe('a profile', () => {
  test('is fleet by default', () => {
    expect(DEFAULT_LIMITS).toBe(PROFILES.fleet)
    expect(limitsWith()).toEqual(PROFILES.fleet)
    expect(limitsWith({ inFlightMax: 3 })).toEqual({ ...PROFILES.fleet, inFlightMax: 3 })
  })

  test('gives way to keys that are set', () => {
    const limits = limitsWith({ profile: 'open', inFlightMax: 3 })
    expect(limits).toEqual({ ...PROFILES.open, inFlightMax: 3 })
    expect(limitsBesideProfile(limits)).toEqual(['inFlightMax'])
    expect(limitsBesideProfile(PROFILES.internet)).toEqual([])
  })

  test('that is changed leaves alone keys that are set, and limits that need a restart', () => {
    const given = { inFlightMax: 3 }
    const changes = limitChanges(given, { profile: 'internet', queueMessagesMax: 5 })
    const needRestart = LIMIT_NAMES.filter((name) => LIMIT_TABLE[name].effect === 'restart')
    const taken = Object.fromEntries(
      Object.entries(PROFILES.internet).filter(([name]) => !needRestart.some((other) => other === name)),
    )
    expect(changes).toEqual({ ...taken, inFlightMax: 3, queueMessagesMax: 5 })
    expect(limitChanges(given, { queueMessagesMax: 5 })).toEqual({ queueMessagesMax: 5 })
  })
})
