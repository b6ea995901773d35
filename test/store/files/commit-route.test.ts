import { describe, expect, test } from 'vitest'
import { SharedSyncRoute, SingleSyncRoute } from '../../../src/store/files/commit-route.ts'
import type { BatchOperation } from '../../../src/store/format/format.ts'

const KIB = 1024
const HALF_BYTES = 2 * KIB * KIB

function commit(bytes: number): BatchOperation[] {
  return [{ type: 'put', key: Buffer.from('key'), value: Buffer.alloc(bytes) }]
}

describe('where each commit is synced by itself', () => {
  test('a large commit and the sixteen after it go to the database', () => {
    const route = new SingleSyncRoute(HALF_BYTES)
    expect(route.isDirect(commit(100))).toBe(false)
    expect(route.isDirect(commit(65 * KIB))).toBe(true)
    const after = Array.from({ length: 20 }, () => route.isDirect(commit(100)))
    expect(after.filter((isDirect) => isDirect)).toHaveLength(16)
    expect(after.at(-1)).toBe(false)
  })

  test('a commit that was handed over in parts does, too, and one that the log has no room for', () => {
    expect(new SingleSyncRoute(HALF_BYTES).isDirect(null)).toBe(true)
    expect(new SingleSyncRoute(8 * KIB).isDirect(commit(9 * KIB))).toBe(true)
  })
})

describe('where the commits of an interval are synced together', () => {
  test('they go to the log until there are 64 KiB in an interval', () => {
    const route = new SharedSyncRoute(HALF_BYTES)
    for (let interval = 0; interval < 100; interval++) {
      for (let count = 0; count < 15; count++) expect(route.isDirect(commit(4 * KIB))).toBe(false)
      route.synced()
    }
    for (let count = 0; count < 15; count++) route.isDirect(commit(4 * KIB))
    expect(route.isDirect(commit(4 * KIB))).toBe(true)
  })

  test('they go to the log again after eight quiet intervals, and a busy one begins the count anew', () => {
    const route = new SharedSyncRoute(HALF_BYTES)
    expect(route.isDirect(null)).toBe(true)
    route.synced()
    for (const count of [7, 8]) {
      for (let interval = 0; interval < count; interval++) {
        expect(route.isDirect(commit(100))).toBe(true)
        route.synced()
      }
      if (count === 7) {
        expect(route.isDirect(commit(65 * KIB))).toBe(true)
        route.synced()
      }
    }
    expect(route.isDirect(commit(100))).toBe(false)
  })

  test('an interval that is not quiet and not busy changes nothing', () => {
    const route = new SharedSyncRoute(HALF_BYTES)
    route.isDirect(null)
    for (let interval = 0; interval < 20; interval++) {
      expect(route.isDirect(commit(40 * KIB))).toBe(true)
      route.synced()
    }
  })
})
