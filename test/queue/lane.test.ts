/** The steps that a lane takes to find entries and to get them back, counted, not timed. */
import { afterEach, describe, expect, it, vi } from 'vitest'
import type { Entry } from '../../src/queue/state/consumer.ts'
import { Lane } from '../../src/queue/state/lane.ts'
import { Stage } from './stage.ts'

const MESSAGES = 10_000
/** More than a search of so many takes, and far less than a walk. */
const STEPS = 100

afterEach(() => {
  vi.restoreAllMocks()
})

/** Numbers below `count`, each once, in an order like that of interleaved Sessions. */
function interleaved(count: number): number[] {
  return Array.from({ length: count }, (_, at) => (at * 7919) % count)
}

/** A lane with unread messages, and the count of reads of the sequences of its entries. */
class Counted {
  readonly lane = new Lane(0, () => null)
  steps = 0

  constructor() {
    this.lane.recover(1, [], MESSAGES + 1, MESSAGES, MESSAGES)
  }

  restore(sequence: number): Entry {
    const entry = this.lane.restore(sequence, 1)
    Object.defineProperty(entry, 'sequence', {
      get: () => {
        this.steps++
        return sequence
      },
    })
    return entry
  }
}

describe('a lane after a restart', () => {
  it('gets each entry back in few steps, in any order', () => {
    const counted = new Counted()
    for (const at of interleaved(MESSAGES / 2)) counted.restore(2 * at + 1)
    expect(counted.lane.count).toBe(MESSAGES / 2)
    expect(counted.steps).toBeLessThan((MESSAGES / 2) * STEPS)
  })

  it('finds an entry, or that there is none, in few steps', () => {
    const counted = new Counted()
    const { lane } = counted
    for (let sequence = 2; sequence < MESSAGES; sequence += 2) counted.restore(sequence)
    counted.steps = 0
    for (const at of interleaved(1000)) {
      const sequence = 1 + at * 9
      expect(lane.find(sequence)?.sequence ?? null).toBe(sequence % 2 === 0 ? sequence : null)
      expect(lane.isUnread(sequence)).toBe(sequence % 2 === 1 && sequence >= lane.cursor)
    }
    expect(counted.steps).toBeLessThan(1000 * STEPS)
  })

  it('knows its entries, their order and what is unread as a plain list does', () => {
    const lane = new Lane(0, () => null)
    lane.recover(1, [], 2001, 2000, 2000)
    const entries = new Map<number, Entry>()
    const settled = new Set<number>()
    let seed = 11
    const random = (below: number): number => {
      seed = (seed * 1103515245 + 12345) % 2147483648
      return seed % below
    }
    for (let step = 0; step < 6000; step++) {
      const sequence = 1 + random(2000)
      const entry = entries.get(sequence)
      if (entry !== undefined && random(3) === 0) {
        lane.remove(entry)
        entries.delete(sequence)
        settled.add(sequence)
      } else if (random(4) === 0 && lane.hasFresh) {
        const made = lane.enter(1)
        entries.set(made.sequence, made)
      } else if (lane.isUnread(sequence)) entries.set(sequence, lane.restore(sequence, 1))
      expect(lane.find(sequence)).toBe(entries.get(sequence) ?? null)
      expect(lane.isUnread(sequence)).toBe(!entries.has(sequence) && !settled.has(sequence))
      if (step % 100 !== 0) continue
      const order: number[] = []
      for (let one = lane.first; one !== null; one = one.next) order.push(one.sequence)
      expect(order).toEqual([...entries.keys()].sort((one, other) => one - other))
      expect(lane.count).toBe(entries.size)
    }
  })
})

describe('consumers that come back after a restart', () => {
  it('have the entries of a queue by key looked through once, not once for each message', () => {
    const stage = new Stage({ dispatch: 'key' })
    const consumers = Array.from({ length: 50 }, (_, at) => stage.join(`c${at}`, {}, false))
    stage.put(...Array.from({ length: 500 }, (_, at) => `${at}`))
    const walks = vi.spyOn(Lane.prototype, 'first', 'get')
    interleaved(500).forEach((at, packetId) => {
      const place = { lane: 0, sequence: at + 1, attempt: 1, qos: 1, packetId } as const
      expect(stage.group.adopt(consumers[at % 50]!.member!, place)).not.toBeNull()
    })
    expect(walks.mock.calls.length).toBeLessThan(10)
  })
})
