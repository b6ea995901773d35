import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type Delivery, Message, NO_IDENTIFIERS, Topic } from '../../src/mqtt/message.ts'
import { DeliveryQueue } from '../../src/session/queue.ts'
import { MemoryStore } from '../../src/store/memory.ts'

const NOTHING_PARKED = new MemoryStore()

function delivery(bytes: number): Delivery {
  const message = new Message({
    topic: new Topic('t'),
    payload: Buffer.alloc(bytes - 1),
    qos: 1,
    retain: false,
    publisher: '',
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
})
