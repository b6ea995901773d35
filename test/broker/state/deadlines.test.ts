import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type Deadline, Deadlines } from '../../../src/broker/state/deadlines.ts'

describe('Deadlines', () => {
  it('run once, in order of time, and not before their time', () => {
    const deadlines = new Deadlines()
    const ran: number[] = []
    for (const time of [30, 10, 20]) deadlines.at(time, () => ran.push(time))
    deadlines.advance(9)
    expect(ran).toEqual([])
    deadlines.advance(20)
    deadlines.advance(20)
    expect([ran, deadlines.size]).toEqual([[10, 20], 1])
    deadlines.advance(1000)
    expect([ran, deadlines.size]).toEqual([[10, 20, 30], 0])
  })

  it('an action may add and cancel others, and new ones that are due run, too', () => {
    const deadlines = new Deadlines()
    const ran: string[] = []
    const victim = deadlines.at(20, () => ran.push('victim'))
    deadlines.at(10, () => {
      deadlines.cancel(victim)
      deadlines.at(15, () => ran.push('child'))
      deadlines.at(50, () => ran.push('later'))
    })
    deadlines.advance(30)
    expect([ran, deadlines.size]).toEqual([['child'], 1])
  })

  it('cancel accepts null, a cancelled deadline, one that ran, and one that was cleared', () => {
    const deadlines = new Deadlines()
    const ran = deadlines.at(1, () => {})
    const cancelled = deadlines.at(2, () => {})
    const cleared = deadlines.at(3, () => {})
    deadlines.advance(1)
    for (const each of [null, ran, cancelled, cancelled]) deadlines.cancel(each)
    expect(deadlines.size).toBe(1)
    deadlines.clear()
    deadlines.cancel(cleared)
    expect(deadlines.size).toBe(0)
  })

  it('behaves like a sorted list, however many come and go', () => {
    const step = fc.oneof(
      { weight: 5, arbitrary: fc.record({ at: fc.integer({ min: 0, max: 1000 }) }) },
      { weight: 4, arbitrary: fc.record({ cancel: fc.nat() }) },
      { weight: 1, arbitrary: fc.record({ advance: fc.nat({ max: 200 }) }) },
    )
    fc.assert(
      fc.property(fc.array(step, { minLength: 200, maxLength: 600 }), (steps) => {
        const deadlines = new Deadlines()
        const expected = new Map<Deadline, number>()
        const all: Deadline[] = []
        let now = 0
        let ran: number[] = []
        for (const each of steps) {
          if ('at' in each) {
            const time = now + each.at
            const deadline = deadlines.at(time, () => {
              ran.push(time)
              expected.delete(deadline)
            })
            expected.set(deadline, time)
            all.push(deadline)
          } else if ('cancel' in each && all.length > 0) {
            const deadline = all[each.cancel % all.length]!
            deadlines.cancel(deadline)
            expected.delete(deadline)
          } else if ('advance' in each) {
            now += each.advance
            const due = [...expected.values()].filter((time) => time <= now).sort((a, b) => a - b)
            deadlines.advance(now)
            expect(ran).toEqual(due)
            ran = []
          }
          expect(deadlines.size).toBe(expected.size)
        }
      }),
      { numRuns: 50 },
    )
  })
})
