import fc from 'fast-check'
import { expect, test } from 'vitest'
import { TurnBuffer, TurnMemory } from '../../../src/broker/state/turn-memory.ts'

/** Writes packets, each filled with its own number; `intact` checks that all of them still have theirs. */
function writer(memory: TurnMemory, connections: number) {
  const buffers = Array.from({ length: connections }, () => new TurnBuffer(memory))
  const placed: { buffer: Buffer; start: number; end: number; value: number }[] = []
  const write = (connection: number, bytes: number): TurnBuffer => {
    const turnBuffer = buffers[connection]!
    turnBuffer.reserve(bytes)
    const { buffer, start, end } = turnBuffer
    const value = (placed.length * 7 + 1) & 0xff
    buffer.fill(value, start, end)
    placed.push({ buffer, start, end, value })
    return turnBuffer
  }
  const intact = () =>
    placed.every(({ buffer, start, end, value }) =>
      buffer.subarray(start, end).every((byte) => byte === value),
    )
  const end = () => {
    for (const turnBuffer of buffers) turnBuffer.release()
    memory.turnEnded()
  }
  return { write, intact, end, placed }
}

test('packets never overlap with others of their turn, nor with earlier ones that still wait', () => {
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
        if (waits) memory.keepBlocks()
        else all.placed.length = before // the next turn may overwrite it
        all.end()
      }
      expect(all.intact()).toBe(true)
    }),
  )
})

test('packets of one connection lie side by side from the second turn on, even if two alternate', () => {
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

test('a turn writes where the last one did, or behind its packets if some of them wait', () => {
  const memory = new TurnMemory()
  const { write, end } = writer(memory, 1)
  const turn = (waits: boolean) => {
    const { buffer, start } = write(0, 100)
    if (waits) memory.keepBlocks()
    end()
    return { buffer, start }
  }
  const first = turn(false)
  expect(turn(false)).toEqual(first)
  expect(turn(true).start).toBe(0)
  const behind = turn(false)
  expect([behind.buffer === first.buffer, behind.start > 0]).toEqual([true, true])
  expect(turn(false)).toEqual(behind)
  // If every turn waits, a block is given up when it is full.
  const blocks = new Set(Array.from({ length: 2000 }, () => turn(true).buffer))
  expect(blocks.size).toBeLessThanOrEqual(1 + (2000 * 100) / (16 * 1024 - 100))
})

test('blocks beyond a MiB that a large turn needed are not kept', () => {
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

test('a large packet has memory of its own, which is not kept', () => {
  const memory = new TurnMemory()
  const turnBuffer = new TurnBuffer(memory)
  turnBuffer.reserve(2049)
  expect([turnBuffer.start, turnBuffer.end, turnBuffer.buffer.length]).toEqual([0, 2049, 2049])
  turnBuffer.release()
  expect(turnBuffer.buffer.length).toBe(0)
})
