import { expect, test } from 'vitest'
import { PacketSlab } from '../../src/mqtt/slab.ts'

test('small packets follow each other until a slab is full; earlier ones stay unchanged', () => {
  const slab = new PacketSlab()
  const placed: { buffer: Buffer; start: number; end: number; byte: number }[] = []
  for (let count = 0; count < 10_000; count++) {
    const bytes = (count * 37) % 300
    slab.reserve(bytes)
    const { buffer, start, end } = slab
    expect(end - start).toBe(bytes)
    buffer.fill(count % 251, start, end)
    placed.push({ buffer, start, end, byte: count % 251 })
  }
  for (const [index, { buffer, start, end, byte }] of placed.entries()) {
    expect(buffer.subarray(start, end).every((value) => value === byte)).toBe(true)
    const next = placed[index + 1]
    if (next !== undefined && next.buffer === buffer) expect(next.start).toBe(end)
  }
  expect(new Set(placed.map(({ buffer }) => buffer)).size).toBeLessThan(120)
})

test('a large packet has memory of its own and leaves the slab in use', () => {
  const slab = new PacketSlab()
  slab.reserve(10)
  const { buffer } = slab
  slab.reserve(100_000)
  expect([slab.start, slab.end, slab.buffer === buffer]).toEqual([0, 100_000, false])
  slab.reserve(10)
  expect([slab.start, slab.buffer === buffer]).toEqual([10, true])
})
