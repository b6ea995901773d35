/** Compares the table of costs with the heap. Run `npm run build` before. */
import { dirname, join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { MAIN, output } from '../../e2e/process.ts'

interface Measured {
  readonly heapBytes: number
  readonly countedBytes: number
}

/** The tolerated difference. Measured with Node 20; another V8 may lay out objects in another way. */
const TOLERANCE = process.version.startsWith('v20.') ? 0.25 : 0.5

const KINDS = [
  'Sessions',
  'Sessions with Client Identifiers of 64 KB',
  'Sessions with a Subscription each',
  'Subscriptions',
  'Subscriptions of long filters',
  'Subscriptions with 180 levels, in pairs',
  'Shared Subscriptions, a group each',
  'messages that wait for one Session',
  'messages of 10 KB that wait for one Session',
  'messages that wait for 100 groups',
  'messages that five clean Sessions do not acknowledge',
  'inbound QoS 2 identifiers',
  'retained messages',
  'retained messages of 2 KB',
  'retained messages with 180 levels, in pairs',
  'Sessions with Wills',
  'Sessions with Wills of 50 KB',
  'topic names that come once',
]

describe('counted bytes and the growth of the heap', () => {
  let measured: Record<string, Measured>

  beforeAll(async () => {
    const child = join(import.meta.dirname, 'costs-child.mjs')
    measured = JSON.parse(await output(process.execPath, '--expose-gc', child, dirname(MAIN)))
  })

  test.each(KINDS)('%s', (kind) => {
    const { heapBytes, countedBytes } = measured[kind]!
    expect(countedBytes / heapBytes).toBeGreaterThan(1 - TOLERANCE)
    expect(countedBytes / heapBytes).toBeLessThan(1 + TOLERANCE)
  })

  test('members of one Shared Subscription count as if each had its own group, which is not much', () => {
    const { heapBytes, countedBytes } = measured['Shared Subscriptions of one group']!
    expect(countedBytes).toBeGreaterThan(heapBytes)
    expect(countedBytes).toBeLessThan(heapBytes + 400)
  })

  test('filters and topics of many levels take a branch where they differ, not one for each level', () => {
    expect(measured['Subscriptions with 180 levels, in pairs']!.heapBytes).toBeLessThan(1500)
    expect(measured['retained messages with 180 levels, in pairs']!.heapBytes).toBeLessThan(2000)
  })
})
