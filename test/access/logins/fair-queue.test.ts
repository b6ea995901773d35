import { describe, expect, test } from 'vitest'
import { FairQueue, type Place, type QueueLimits } from '../../../src/access/logins/fair-queue.ts'
import { Random } from '../../fuzz/random.ts'

const LIMITS: QueueLimits = {
  loginQueueMax: 1000,
  loginQueueBytesMax: 1_000_000,
  loginQueuePerAddressMax: 1000,
  loginQueuePerUserMax: 1000,
}

/** Entries are written as ADDRESS/USER NUMBER. */
class Waiting {
  readonly queue: FairQueue<string>
  readonly refused: string[] = []
  #count = 0

  constructor(limits: Partial<QueueLimits> = {}) {
    this.queue = new FairQueue({ ...LIMITS, ...limits })
  }

  push(address: string, userName: string, more: Partial<Place> = {}): string {
    const name = `${address}/${userName} ${++this.#count}`
    const place = { address, userName, bytes: 10, isSuspect: false, ...more }
    this.queue.push(place, name, (item, by) => this.refused.push(`${item} ${by}`))
    return name
  }

  all(): string[] {
    const names: string[] = []
    for (let name = this.queue.shift(); name !== undefined; name = this.queue.shift()) names.push(name)
    return names
  }
}

describe('the next one', () => {
  test('addresses take turns, and within an address its user names do', () => {
    const waiting = new Waiting()
    for (let i = 0; i < 3; i++) waiting.push('a', 'u')
    waiting.push('a', 'v')
    waiting.push('b', 'u')
    waiting.push('c', 'w')
    expect(waiting.all()).toEqual(['a/u 1', 'b/u 5', 'c/w 6', 'a/v 4', 'a/u 2', 'a/u 3'])
    expect([waiting.queue.length, waiting.queue.bytes]).toEqual([0, 0])
  })

  test('suspects wait for others, but one in four that are served is a suspect', () => {
    const waiting = new Waiting()
    for (let i = 0; i < 3; i++) waiting.push('s', 'u', { isSuspect: true })
    for (let i = 0; i < 5; i++) waiting.push(`t${i}`, 'u')
    const order = waiting.all().map((name) => name[0])
    expect(order.join('')).toBe('tttsttss')
  })

  test('a log-in that comes alone waits for one entry of each other address', () => {
    const waiting = new Waiting()
    for (let i = 0; i < 200; i++) waiting.push('attacker', `u${i}`)
    waiting.push('alone', 'u')
    expect(waiting.all().indexOf('alone/u 201')).toBe(1)
  })
})

describe('a full queue drops', () => {
  test('the newest entry of the address with the most, not the one that comes', () => {
    const waiting = new Waiting({ loginQueueMax: 4 })
    for (let i = 0; i < 4; i++) waiting.push('a', `u${i}`)
    waiting.push('b', 'v')
    expect(waiting.refused).toHaveLength(1)
    expect(waiting.refused[0]).toMatch(/^a.* loginQueueMax$/)
    waiting.push('a', 'u9')
    expect(waiting.refused[1]).toBe('a/u9 6 loginQueueMax')
    expect(waiting.all()).toContain('b/v 5')
  })

  test('the newest entry of the user name with the most, where no address has as many', () => {
    const waiting = new Waiting({ loginQueueMax: 4 })
    for (let i = 0; i < 4; i++) waiting.push(`a${i}`, 'admin')
    waiting.push('b', 'alice')
    expect(waiting.refused).toHaveLength(1)
    expect(waiting.refused[0]).toMatch(/admin/)
  })

  test('suspects before others, however few they are', () => {
    const waiting = new Waiting({ loginQueueMax: 4 })
    for (let i = 0; i < 3; i++) waiting.push('a', `u${i}`)
    waiting.push('s', 'u', { isSuspect: true })
    waiting.push('a', 'v')
    expect(waiting.refused).toEqual(['s/u 4 loginQueueMax'])
  })

  test('of a full address an entry of its largest user name, and the other way round', () => {
    const waiting = new Waiting({ loginQueuePerAddressMax: 3, loginQueuePerUserMax: 3 })
    for (let i = 0; i < 3; i++) waiting.push('a', 'guessed')
    waiting.push('a', 'other')
    expect(waiting.refused).toEqual(['a/guessed 3 loginQueuePerAddressMax'])
    waiting.push('b', 'guessed')
    waiting.push('c', 'guessed')
    expect(waiting.refused[1]).toBe('a/guessed 2 loginQueuePerUserMax')
  })

  test('entries by their bytes as well as by their number', () => {
    const waiting = new Waiting({ loginQueueBytesMax: 100 })
    waiting.push('a', 'u', { bytes: 60 })
    waiting.push('a', 'u', { bytes: 60 })
    expect(waiting.refused).toEqual(['a/u 2 loginQueueBytesMax'])
    expect(waiting.queue.bytes).toBe(60)
  })
})

test('no entry is lost or served twice, whatever comes and leaves', () => {
  const random = new Random(1)
  const queue = new FairQueue<number>({
    ...LIMITS,
    loginQueueMax: 40,
    loginQueuePerAddressMax: 15,
    loginQueuePerUserMax: 15,
  })
  const inside = new Map<number, ReturnType<typeof queue.push>>()
  for (let i = 0; i < 20_000; i++) {
    const kind = random.below(10)
    if (kind < 6) {
      const place = {
        address: `a${random.below(8)}`,
        userName: `u${random.below(8)}`,
        bytes: 1,
        isSuspect: random.below(3) === 0,
      }
      const gone: number[] = []
      inside.set(
        i,
        queue.push(place, i, (item) => gone.push(item)),
      )
      for (const item of gone) expect(inside.delete(item)).toBe(true)
    } else if (kind < 9) {
      const item = queue.shift()
      if (item === undefined) expect(inside.size).toBe(0)
      else expect(inside.delete(item)).toBe(true)
    } else {
      for (const [item, entry] of inside) {
        expect(queue.leave(entry)).toBe(true)
        expect(queue.leave(entry)).toBe(false)
        inside.delete(item)
        break
      }
    }
    expect([queue.length, queue.bytes]).toEqual([inside.size, inside.size])
    expect(queue.length).toBeLessThanOrEqual(40)
  }
})
