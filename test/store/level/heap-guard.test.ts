import { expect, test } from 'vitest'
import { HeapGuard, heapBytesMax } from '../../../src/store/level/heap-guard.ts'
import { StoreError } from '../../../src/store/store.ts'

const MIB = 1024 * 1024

/** Makes a heap of 100 MiB with garbage in it. */
function heap(live: number, garbage: number) {
  return {
    limit: 100 * MIB,
    live: live * MIB,
    garbage: garbage * MIB,
    collections: 0,
    used(): number {
      return this.live + this.garbage
    },
    collectGarbage(): void {
      this.garbage = 0
      this.collections++
    },
  }
}

function refusal(guard: HeapGuard): StoreError | null {
  try {
    guard.check()
    return null
  } catch (error) {
    if (error instanceof StoreError) return error
    throw error
  }
}

test('a heap with room is left alone; near its limit, garbage is collected before a refusal', () => {
  const roomy = heap(30, 30)
  expect([refusal(new HeapGuard('d', roomy)), roomy.collections]).toEqual([null, 0])
  const full = heap(60, 35)
  const guard = new HeapGuard('d', full)
  expect([refusal(guard), full.collections]).toEqual([null, 1])
  full.garbage = 5 * MIB
  expect([refusal(guard), full.collections]).toEqual([null, 1])
  full.garbage = 20 * MIB
  expect([refusal(guard), full.collections]).toEqual([null, 2])
})

test('memory for objects to come counts, and a refusal says how many there are and what to do', () => {
  const small = heap(30, 0)
  const guard = new HeapGuard('/data', small)
  guard.sessions = 1000
  guard.subscriptions = 900_000
  guard.retainedMessages = 20_000
  const error = refusal(guard)!
  expect([error.kind, small.collections]).toEqual(['memory', 1])
  expect(error.message).toContain('1000 Sessions, 900000 Subscriptions and 20000 retained messages')
  expect(error.message).toContain('may use 100 MiB')
  expect(error.advice).toMatch(/--max-old-space-size=2\d\d /)
})

test('the heap is checked while Sessions are handed over, and those still to come count', () => {
  const filling = heap(50, 0)
  const guard = new HeapGuard('d', filling)
  guard.sessions = 20_000
  guard.subscriptions = 20_000
  expect(refusal(guard)).toBeNull()
  let handed = 0
  expect(() => {
    for (; handed < 20_000; handed++) {
      guard.handOver(1)
      filling.live += 3000
    }
  }).toThrow('does not fit into memory')
  expect(handed).toBeLessThan(16_000)
  expect(filling.live).toBeLessThan(90 * MIB)
})

test('the heap limit of this process is known', () => {
  expect(heapBytesMax()).toBeGreaterThan(32 * MIB)
})
