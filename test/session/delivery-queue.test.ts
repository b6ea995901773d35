import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type Delivery, Message, NO_IDENTIFIERS, Topic } from '../../src/mqtt/message.ts'
import { DeliveryQueue } from '../../src/session/delivery-queue.ts'
import { MemoryStore } from '../../src/store/memory/memory-store.ts'
import type { Parked } from '../../src/store/store.ts'
import { entriesOf, TestParking } from './parking.ts'

const NOTHING_PARKED = new MemoryStore()

function delivery(bytes: number, expiresAt = Number.POSITIVE_INFINITY): Delivery {
  const message = Message.of({
    topic: new Topic('t'),
    payload: Buffer.alloc(bytes - 1),
    qos: 1,
    retain: false,
    publisher: '',
    expiresAt,
  })
  return { message, qos: 1, retain: false, subscriptionIdentifiers: NO_IDENTIFIERS, share: null }
}

describe('DeliveryQueue', () => {
  it('is empty at first, wherever it begins', () => {
    const queue = new DeliveryQueue(NOTHING_PARKED, 7)
    expect([queue.head, queue.tail, queue.length, queue.bytes]).toEqual([7, 7, 0, 0])
    expect([queue.peek(), queue.shift()]).toEqual([undefined, undefined])
    expect(queue.head).toBe(7)
  })

  it('has no entry before its head and from its tail on', () => {
    const queue = new DeliveryQueue(NOTHING_PARKED)
    queue.push(delivery(1))
    queue.push(delivery(2))
    queue.shift()
    expect(() => queue.at(0)).toThrow(RangeError)
    expect(queue.at(1).message.size).toBe(2)
    expect(() => queue.at(2)).toThrow(RangeError)
  })

  it('behaves like a list, with positions that only grow', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: -400, max: 400 }), { maxLength: 20 }), (moves) => {
        const queue = new DeliveryQueue(NOTHING_PARKED)
        const list: Delivery[] = []
        let head = 0
        for (const move of moves) {
          for (let n = 0; n < move; n++) {
            const pushed = delivery(1 + (n % 5))
            queue.push(pushed)
            list.push(pushed)
          }
          for (let n = 0; n < -move; n++) {
            expect(queue.peek()).toBe(list[0])
            const shifted = list.shift()
            if (shifted !== undefined) head++
            expect(queue.shift()).toBe(shifted)
          }
          expect([queue.head, queue.length, queue.tail]).toEqual([head, list.length, head + list.length])
          expect(queue.bytes).toBe(list.reduce((sum, { message }) => sum + message.size, 0))
          const middle = Math.floor(list.length / 2)
          if (list.length > 0) expect(queue.at(head + middle)).toBe(list[middle])
          expect([...queue].every((entry, index) => entry === list[index])).toBe(true)
        }
      }),
      { numRuns: 50 },
    )
  })

  it('knows how much of it has expired, parked or not, whatever came and went [field-B8]', () => {
    const steps = fc.array(
      fc.record({
        pushed: fc.array(fc.oneof(fc.constant(Number.POSITIVE_INFINITY), fc.nat({ max: 3000 })), {
          maxLength: 600,
        }),
        shifted: fc.nat({ max: 500 }),
        passed: fc.nat({ max: 700 }),
        evicted: fc.boolean(),
      }),
      { maxLength: 12 },
    )
    fc.assert(
      fc.property(steps, fc.constantFrom(7, 100, 700), fc.nat({ max: 600 }), (moves, max, from) => {
        const queue = new DeliveryQueue(new TestParking(max), from)
        const list: Delivery[] = []
        let now = 0
        for (const { pushed, shifted, passed, evicted } of moves) {
          for (const [n, expiresAt] of pushed.entries()) {
            const entry = delivery(1 + (n % 5), expiresAt)
            if (evicted) entry.message.evict()
            queue.push(entry)
            list.push(entry)
          }
          for (let n = 0; n < shifted; n++) expect(queue.shift()).toBe(list.shift())
          now += passed
          // In bounded steps first, then all of it.
          queue.sweep(now, 1)
          expect(queue.expired).toBeLessThanOrEqual(
            list.filter(({ message }) => message.expiresAt <= now).length,
          )
          queue.sweep(now)
          const gone = list.filter(({ message }) => message.expiresAt <= now)
          const bytes = gone.reduce((sum, { message }) => sum + message.size, 0)
          expect([queue.expired, queue.expiredBytes]).toEqual([gone.length, bytes])
          const next = Math.min(...list.map(({ message }) => message.expiresAt).filter((at) => at > now))
          // Never later: nothing is overlooked.
          expect(queue.nextExpiry).toBeLessThanOrEqual(next)
        }
      }),
      { numRuns: 100 },
    )
  })

  it('behaves like a list when memory is short and most of it is parked', () => {
    const steps = fc.array(
      fc.record({
        move: fc.integer({ min: -500, max: 900 }),
        /** Of the entries of this step, and whether what was pushed is on disk now. */
        evicted: fc.boolean(),
        durable: fc.boolean(),
        short: fc.boolean(),
        parks: fc.boolean(),
      }),
      { maxLength: 12 },
    )
    let parkedInAll = 0
    fc.assert(
      fc.property(steps, fc.constantFrom(7, 100, 700), (moves, max) => {
        const parking = new TestParking(max)
        const queue = new DeliveryQueue(parking, 5)
        const list: Delivery[] = []
        let head = 5
        for (const { move, evicted, durable, short, parks } of moves) {
          parking.durable = durable
          parking.isMemoryShort = short
          if (parks) {
            queue.park(300)
            if (durable) queue.park(10_000)
          }
          for (let n = 0; n < move; n++) {
            const pushed = delivery(1 + (n % 5))
            if (evicted) pushed.message.evict()
            queue.push(pushed)
            list.push(pushed)
          }
          for (let n = 0; n < -move; n++) {
            expect(queue.peek()).toBe(list[0])
            const shifted = list.shift()
            if (shifted !== undefined) head++
            expect(queue.shift()).toBe(shifted)
          }
          expect([queue.head, queue.length, queue.tail]).toEqual([head, list.length, head + list.length])
          expect(queue.bytes).toBe(list.reduce((sum, { message }) => sum + message.size, 0))
          expect(parking.entryBytes).toBe((queue.length - queue.parked) * 16)
          expect(isSame([...queue], list)).toBe(true)
          expect(isSame(partsOf(queue), list)).toBe(true)
          const from = Math.floor(list.length / 3)
          const to = Math.floor((list.length * 3) / 4)
          expect(isSame(rangeOf(queue, head + from, head + to), list.slice(from, to))).toBe(true)
          expect(isSame(rangeOf(queue, head, head + list.length), list)).toBe(true)
        }
        parkedInAll += parking.parked
      }),
      { numRuns: 60 },
    )
    expect(parkedInAll).toBeGreaterThan(1000)
  })

  it('a long queue that is on disk keeps few objects, and gives them back in slices', () => {
    const parking = new TestParking(1024)
    const queue = new DeliveryQueue(parking)
    for (let n = 0; n < 10_000; n++) {
      queue.push(delivery(10))
      // A commit makes the latest hundred durable, and evicts them.
      if (n % 100 === 99) for (let back = 0; back < 100; back++) queue.at(n - back).message.evict()
    }
    expect(parking.parked).toBeGreaterThan(9800)
    const parts = [...queue.parts()]
    expect(parts.length).toBeLessThan(10 + 200)
    queue.unpark(300)
    const objects = [...queue.parts()].filter((part) => 'message' in part)
    expect(objects.length).toBeLessThan(512 + 200)
    expect(queue.length).toBe(10_000)
  })

  it('entries in memory are parked, too, when the bodies of those behind them are on disk only', () => {
    const parking = new TestParking(1024)
    const queue = new DeliveryQueue(parking)
    queue.push(delivery(1))
    for (let n = 0; n < 1000; n++) {
      const pushed = delivery(1)
      pushed.message.evict()
      queue.push(pushed)
    }
    expect(parking.parked).toBeGreaterThan(990)
  })

  it('a short queue whose messages are in memory is not parked', () => {
    const parking = new TestParking(1024)
    const queue = new DeliveryQueue(parking)
    for (let n = 0; n < 1000; n++) queue.push(delivery(1))
    expect(parking.parked).toBe(0)
  })

  it('a long queue is parked as it grows when memory is short, but for those that may be sent soon', () => {
    const parking = new TestParking(1024)
    const queue = new DeliveryQueue(parking)
    for (let n = 0; n < 500; n++) queue.push(delivery(1))
    expect(parking.parked).toBe(0)
    parking.isMemoryShort = true
    for (let n = 0; n < 500; n++) queue.push(delivery(1))
    expect([queue.parked, queue.length]).toEqual([936, 1000])
    for (let n = 0; n < 10; n++) queue.push(delivery(1))
    expect(queue.parked).toBe(946)
  })

  it('counts what its entries take as long as they are not parked', () => {
    const parking = new TestParking(100)
    const queue = new DeliveryQueue(parking)
    const plain = delivery(1)
    const shared: Delivery = { ...delivery(1), share: '$share/g/t' }
    const list = Array.from({ length: 300 }, (_, n) => (n % 2 === 0 ? plain : shared))
    for (const each of list) queue.push(each)
    const all = 150 * (16 + 80)
    expect([queue.entryBytes, parking.entryBytes]).toEqual([all, all])
    for (let n = 0; n < 100; n++) queue.shift()
    expect(parking.entryBytes).toBe(100 * (16 + 80))
    expect(queue.park(50)).toBe(200) // the front, as a whole
    expect([queue.parked, parking.entryBytes]).toEqual([200, 0])
    queue.unpark(7)
    expect(parking.entryBytes).toBeGreaterThan(7 * 16)
    expect([...queue]).toEqual(list.slice(100))
    queue.release()
    expect([queue.entryBytes, parking.entryBytes]).toEqual([0, 0])
  })

  it('is parked as a whole, or not at all if a part of its front is not on disk', () => {
    const parking = new TestParking(3)
    const queue = new DeliveryQueue(parking, 9)
    const list = Array.from({ length: 20 }, () => delivery(1))
    for (const each of list) queue.push(each)
    expect(queue.peek()).toBe(list[0])
    parking.durable = false
    expect([queue.park(100), queue.parked]).toEqual([0, 0])
    parking.durable = true
    parking.undurable = list[15]!
    expect([queue.park(100), queue.parked, isSame([...queue], list)]).toEqual([0, 0, true])
    parking.undurable = null
    expect([queue.park(100), queue.parked, isSame(partsOf(queue), list)]).toEqual([20, 20, true])
    expect(isSame(rangeOf(queue, 12, 25), list.slice(3, 16))).toBe(true)
    for (const each of list) expect(queue.shift()).toBe(each)
    for (const each of list.slice(0, 3)) queue.push(each)
    expect([queue.park(100), queue.parked]).toEqual([0, 0])
  })

  it('a recovered queue begins with parked entries', () => {
    const parking = new TestParking(2)
    const list = [1, 2, 3, 4, 5].map(delivery)
    const parts: (Delivery | Parked)[] = []
    for (const each of list.slice(0, 3)) {
      const parked = parking.park(each, (parts.at(-1) as Parked | undefined) ?? null)!
      if (parts.at(-1) !== parked) parts.push(parked)
    }
    const queue = new DeliveryQueue(parking, 40, [...parts, ...list.slice(3)])
    expect([queue.head, queue.tail, queue.bytes]).toEqual([40, 45, 15])
    expect(queue.at(42)).toBe(list[2])
    expect(() => rangeOf(queue, 39, 41)).toThrow(RangeError)
    expect(Array.from({ length: 5 }, () => queue.shift())).toEqual(list)
  })
})

function isSame(one: readonly Delivery[], other: readonly Delivery[]): boolean {
  return one.length === other.length && one.every((each, index) => each === other[index])
}

function partsOf(queue: DeliveryQueue): Delivery[] {
  return [...queue.parts()].flatMap((part) => ('message' in part ? [part] : entriesOf(part).deliveries))
}

function rangeOf(queue: DeliveryQueue, from: number, to: number): Delivery[] {
  const read: Delivery[] = []
  queue.read(from, to, {
    delivery: (each) => {
      read.push(each)
    },
    parked: (parked, start, end) => {
      read.push(...entriesOf(parked).deliveries.slice(start, end))
    },
  })
  return read
}
