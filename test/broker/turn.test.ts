import { describe, expect, it } from 'vitest'
import { Turn } from '../../src/broker/turn.ts'
import { Stretch } from '../../src/broker/turn-memory.ts'

function made() {
  const log: string[] = []
  const deferred: (() => void)[] = []
  let clock = 0
  const turn = new Turn(
    () => ++clock,
    (callback) => deferred.push(callback),
    () => log.push('commit'),
  )
  const next = () => deferred.shift()!()
  return { turn, log, deferred, next }
}

describe('Turn', () => {
  it('reads the clock once, ends once, and commits before anything is written', () => {
    const { turn, log, deferred, next } = made()
    turn.begin()
    const { now } = turn
    turn.begin()
    expect([turn.now, deferred.length]).toEqual([now, 1])
    for (const name of ['a', 'b']) turn.touch({ flush: () => log.push(name) })
    next()
    turn.end()
    expect(log).toEqual(['commit', 'a', 'b'])
    turn.begin()
    expect(turn.now).toBe(now + 1)
    next()
    expect(log).toEqual(['commit', 'a', 'b', 'commit'])
  })

  it('work in slices runs in a later turn, that ends as any other', () => {
    const { turn, log, deferred, next } = made()
    turn.begin()
    turn.continueLater(() => {
      log.push('slice')
      turn.continueLater(() => log.push('next slice'))
      turn.touch({ flush: () => log.push('flush') })
    })
    next()
    expect(log).toEqual(['commit', 'slice'])
    next()
    expect(log).toEqual(['commit', 'slice', 'commit', 'flush', 'next slice'])
    next()
    expect([log.at(-1), deferred]).toEqual(['commit', []])
  })

  it('what is asked for outside of a turn begins one', () => {
    const { turn, log, deferred, next } = made()
    turn.continueLater(() => log.push('slice'))
    expect(deferred).toHaveLength(1)
    next()
    expect(log).toEqual(['commit', 'slice'])
  })

  it('what a flush touches is flushed in a turn of its own', () => {
    const { turn, log, deferred, next } = made()
    turn.begin()
    turn.touch({
      flush: () => {
        log.push('a')
        turn.begin()
        turn.touch({ flush: () => log.push('b') })
      },
    })
    next()
    expect(log).toEqual(['commit', 'a'])
    next()
    expect([log, deferred]).toEqual([['commit', 'a', 'commit', 'b'], []])
  })

  it('what the next turn wrote while this one ended is not overwritten', () => {
    const { turn, next } = made()
    const [first, second, third] = Array.from({ length: 3 }, () => new Stretch(turn.memory)) as [
      Stretch,
      Stretch,
      Stretch,
    ]
    turn.begin()
    first.place(8)
    turn.touch({
      flush: () => {
        first.leave()
        turn.begin() // a write failed, and a Will is published
        second.place(8)
        second.buffer.fill(2, second.start, second.end)
      },
    })
    next()
    for (const other of [first, third]) {
      other.place(8)
      other.buffer.fill(1, other.start, other.end)
    }
    expect(second.buffer.subarray(second.start, second.end)).toEqual(Buffer.alloc(8, 2))
  })
})
