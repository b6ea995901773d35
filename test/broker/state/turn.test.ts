import { describe, expect, it } from 'vitest'
import { Turn } from '../../../src/broker/state/turn.ts'
import { TurnBuffer } from '../../../src/broker/state/turn-memory.ts'
import { SLICE_UNITS, Work } from '../../../src/broker/state/work.ts'

function made(ending = () => {}) {
  const log: string[] = []
  const deferred: (() => void)[] = []
  let clock = 0
  const work = new Work()
  const turn = new Turn(
    () => ++clock,
    (callback) => deferred.push(callback),
    ending,
    () => log.push('commit'),
    work,
  )
  const next = () => deferred.shift()!()
  return { turn, work, log, deferred, next }
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

  it('a continuation runs in a later turn, which ends like any other', () => {
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

  it('a continuation added at the end of a turn runs after the commit', () => {
    const asked: string[] = []
    const { turn, log, next } = made(() => {
      asked.push(log.join())
      turn.continueLater(() => log.push('continued'))
    })
    turn.begin()
    next()
    expect(asked).toEqual([''])
    expect(log).toEqual(['commit', 'continued'])
  })

  it('continuations run in order, once a turn and as far as there is time; the first one always', () => {
    const { turn, work, log, deferred, next } = made()
    const slices = (name: string, count: number, units: number) => () => {
      log.push(name)
      work.units += units
      if (count > 1) turn.continueLater(slices(name, count - 1, units))
    }
    for (const name of ['a', 'b', 'c']) turn.continueLater(slices(name, 3, 3 * SLICE_UNITS))
    turn.continueLater(slices('d', 2, 100 * SLICE_UNITS))
    const turns: string[] = []
    while (deferred.length > 0) {
      log.length = 0
      next()
      turns.push(log.filter((name) => name !== 'commit').join(''))
    }
    expect(turns).toEqual(['ab', 'cd', 'ab', 'cd', 'ab', 'c', ''])
  })

  it('output that a turn has no time for is written in the next ones, once and before newer output', () => {
    const { turn, work, log, deferred, next } = made()
    turn.begin()
    for (let at = 0; at < 25; at++) {
      turn.touch({
        flush: () => {
          log.push(`${at}`)
          work.units += SLICE_UNITS
        },
      })
    }
    const turns: number[] = []
    while (deferred.length > 0) {
      const before = log.length
      next()
      turns.push(log.length - before - 1)
    }
    expect(turns).toEqual([6, 5, 5, 5, 4])
    expect(log.filter((line) => line !== 'commit')).toEqual(Array.from({ length: 25 }, (_, at) => `${at}`))
  })

  it('memory of packets that wait to be written is not overwritten', () => {
    const { turn, work, next } = made()
    const [late, other] = [new TurnBuffer(turn.memory), new TurnBuffer(turn.memory)]
    turn.begin()
    turn.touch({ flush: () => (work.units += 10 * SLICE_UNITS) })
    late.reserve(8)
    late.buffer.fill(2, late.start, late.end)
    turn.touch({ flush: () => late.release() })
    const { buffer, start, end } = late
    next()
    other.reserve(8)
    other.buffer.fill(1, other.start, other.end)
    expect(buffer.subarray(start, end)).toEqual(Buffer.alloc(8, 2))
  })

  it('if several clients are active, output of continuations is written after that of others', () => {
    const { turn, work, log, next } = made()
    const output = (name: string) => ({ flush: () => log.push(name) })
    turn.begin()
    turn.active({})
    turn.active({})
    expect([turn.isShared, turn.sliceFor({})]).toEqual([true, SLICE_UNITS])
    turn.continueLater(() => {
      work.units += SLICE_UNITS
      turn.touch(output('noise'))
    })
    next()
    turn.touch(output('quiet'))
    next()
    expect(log).toEqual(['commit', 'commit', 'quiet', 'noise'])
  })

  it('a client that was active with others is not alone for a second, whichever was last', () => {
    const { turn, next } = made()
    const [a, b, c] = [{}, {}, {}]
    turn.begin()
    for (const client of [a, b, c]) turn.active(client)
    next()
    const from = turn.now
    turn.begin()
    turn.active(b)
    for (const client of [a, b, c]) expect(turn.isSharedWith(client)).toBe(true)
    for (; turn.now - from < 1000; next()) {
      turn.begin()
      turn.active(b)
    }
    expect(turn.isSharedWith(b)).toBe(false)
    for (const client of [a, c]) expect(turn.isSharedWith(client)).toBe(true)
  })

  it('a continuation asked for outside of a turn begins one', () => {
    const { turn, log, deferred, next } = made()
    turn.continueLater(() => log.push('slice'))
    expect(deferred).toHaveLength(1)
    next()
    expect(log).toEqual(['commit', 'slice'])
  })

  it('output that a flush touches is flushed in another turn', () => {
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

  it('packets that the next turn wrote while this one ended are not overwritten', () => {
    const { turn, next } = made()
    const [first, second, third] = Array.from({ length: 3 }, () => new TurnBuffer(turn.memory)) as [
      TurnBuffer,
      TurnBuffer,
      TurnBuffer,
    ]
    turn.begin()
    first.reserve(8)
    turn.touch({
      flush: () => {
        first.release()
        turn.begin() // a write failed, and a Will is published
        second.reserve(8)
        second.buffer.fill(2, second.start, second.end)
      },
    })
    next()
    for (const other of [first, third]) {
      other.reserve(8)
      other.buffer.fill(1, other.start, other.end)
    }
    expect(second.buffer.subarray(second.start, second.end)).toEqual(Buffer.alloc(8, 2))
  })
})
