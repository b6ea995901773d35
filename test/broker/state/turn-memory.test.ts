import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Stretch, TurnMemory } from '../../../src/broker/state/turn-memory.ts'

/** Places packets and fills each with a number of its own; returns a check that all still hold theirs. */
function writer(memory: TurnMemory, connections: number) {
  const stretches = Array.from({ length: connections }, () => new Stretch(memory))
  const placed: { buffer: Buffer; start: number; end: number; value: number }[] = []
  const write = (connection: number, bytes: number): Stretch => {
    const stretch = stretches[connection]!
    stretch.reserve(bytes)
    const { buffer, start, end } = stretch
    const value = (placed.length * 7 + 1) & 0xff
    buffer.fill(value, start, end)
    placed.push({ buffer, start, end, value })
    return stretch
  }
  const intact = () =>
    placed.every(({ buffer, start, end, value }) =>
      buffer.subarray(start, end).every((byte) => byte === value),
    )
  const end = () => {
    for (const stretch of stretches) stretch.leave()
    memory.turnEnded()
  }
  return { write, intact, end, placed }
}

test('packets of a turn never overlap, nor those of turns that wait, whoever writes what', () => {
  const step = fc.tuple(fc.nat(4), fc.oneof(fc.nat(100), fc.nat(5000)))
  const turn = fc.tuple(fc.array(step, { maxLength: 60 }), fc.boolean())
  fc.assert(
    fc.property(fc.array(turn, { maxLength: 8 }), (turns) => {
      const memory = new TurnMemory()
      const all = writer(memory, 5)
      for (const [steps, waits] of turns) {
        const before = all.placed.length
        for (const [connection, bytes] of steps) all.write(connection, bytes)
        expect(all.intact()).toBe(true)
        for (const { start, end, buffer } of all.placed) expect(end <= buffer.length && start >= 0).toBe(true)
        if (waits) memory.waits()
        else all.placed.length = before // the next turn may overwrite it
        all.end()
      }
      expect(all.intact()).toBe(true)
    }),
  )
})

test('the packets of one connection are neighbours, also where two write in turns, from the second turn on', () => {
  const memory = new TurnMemory()
  const { write, end, placed } = writer(memory, 2)
  const turn = () => {
    placed.length = 0
    for (let i = 0; i < 10; i++) for (const connection of [0, 1]) write(connection, 100)
    const own = placed.filter((_, index) => index % 2 === 0)
    const isAdjacent = own
      .slice(1)
      .map(({ start, buffer }, i) => start === own[i]!.end && buffer === own[i]!.buffer)
    end()
    return isAdjacent.every(Boolean)
  }
  expect([turn(), turn(), turn()]).toEqual([false, true, true])
})

test('a turn writes where the last one did, unless something of that waits: then behind it', () => {
  const memory = new TurnMemory()
  const { write, end } = writer(memory, 1)
  const turn = (waits: boolean) => {
    const { buffer, start } = write(0, 100)
    if (waits) memory.waits()
    end()
    return { buffer, start }
  }
  const first = turn(false)
  expect(turn(false)).toEqual(first)
  expect(turn(true).start).toBe(0)
  const behind = turn(false)
  expect([behind.buffer === first.buffer, behind.start > 0]).toEqual([true, true])
  expect(turn(false)).toEqual(behind)
  // Where every turn waits, a block is left when it is full.
  const blocks = new Set(Array.from({ length: 2000 }, () => turn(true).buffer))
  expect(blocks.size).toBeLessThanOrEqual(1 + (2000 * 100) / (16 * 1024 - 100))
})

test('what a large turn needed beyond a MiB is not kept', () => {
  const memory = new TurnMemory()
  const { write, end, placed } = writer(memory, 1)
  const blocks = () => {
    placed.length = 0
    for (let i = 0; i < 2000; i++) write(0, 1000)
    end()
    return new Set(placed.map(({ buffer }) => buffer))
  }
  const first = blocks()
  const second = blocks()
  expect([...second].filter((block) => first.has(block)).length).toBe(64)
})

test('a large packet has memory of its own, which nobody keeps', () => {
  const memory = new TurnMemory()
  const stretch = new Stretch(memory)
  stretch.reserve(2049)
  expect([stretch.start, stretch.end, stretch.buffer.length]).toEqual([0, 2049, 2049])
  stretch.leave()
  expect(stretch.buffer.length).toBe(0)
})
