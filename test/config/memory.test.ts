import { getHeapStatistics } from 'node:v8'
import { describe, expect, test } from 'vitest'
import { loadConfig } from '../../src/config/config.ts'
import {
  automaticMemoryBytes,
  controlGroupMemory,
  memoryShare,
  processMemory,
} from '../../src/config/memory.ts'
import { heapBytesMax } from '../../src/store/level/heap-guard.ts'

const MIB = 1024 ** 2
const GIB = 1024 ** 3
const NONE = Number.POSITIVE_INFINITY

describe('memory_bytes_max: auto', () => {
  test.each([
    ['a server', 4144 * MIB, NONE, 24 * GIB, 2072],
    ['a small server', 2096 * MIB, NONE, 4 * GIB, 1024],
    ['a container of 256 MiB', 128 * MIB, 256 * MIB, 24 * GIB, 64],
    ['one with a larger heap than it has memory', 2096 * MIB, 256 * MIB, 24 * GIB, 102],
    ['a board of 512 MiB', 256 * MIB, NONE, 512 * MIB, 128],
    ['a heap of 512 MiB', 512 * MIB, NONE, 24 * GIB, 256],
    ['next to nothing', 8 * MIB, NONE, 64 * MIB, 16],
  ])('%s', (_, heapBytes, controlGroupBytes, machineBytes, mebibytes) => {
    expect(memoryShare({ heapBytes, controlGroupBytes, machineBytes })).toBe(mebibytes * MIB)
  })

  test("counts the old generation of this process without V8's young generation", () => {
    expect(processMemory().heapBytes).toBe(heapBytesMax())
    expect(heapBytesMax()).toBeLessThan(getHeapStatistics().heap_size_limit)
  })

  test('is less than the heap and the memory of the machine', () => {
    const { heapBytes, machineBytes } = processMemory()
    expect(automaticMemoryBytes()).toBeLessThan(Math.min(heapBytes, machineBytes))
  })
})

test('the word auto is the default', () => {
  const { limits, ownLimits } = loadConfig({ environment: { GODWIT_LIMITS_MEMORY_BYTES_MAX: 'auto' } })
  expect(limits.memoryBytesMax).toBe(automaticMemoryBytes())
  expect(ownLimits).toEqual([])
})

describe('control groups', () => {
  const of = (files: Record<string, string>) => controlGroupMemory((path) => files[path] ?? null)

  test('version 2: the lowest limit of the group and its parents', () => {
    expect(
      of({
        '/proc/self/cgroup': '0::/system.slice/godwit.service\n',
        '/sys/fs/cgroup/system.slice/godwit.service/memory.max': 'max\n',
        '/sys/fs/cgroup/system.slice/memory.max': `${GIB}\n`,
      }),
    ).toBe(GIB)
  })

  test('version 2 in a container, which sees its own group as the root', () => {
    expect(of({ '/proc/self/cgroup': '0::/\n', '/sys/fs/cgroup/memory.max': '268435456\n' })).toBe(256 * MIB)
    const outer = { '/proc/self/cgroup': '0::/../../docker/7\n', '/sys/fs/cgroup/memory.max': '268435456\n' }
    expect(of(outer)).toBe(256 * MIB)
  })

  test('version 1', () => {
    const lines = '12:cpu,cpuacct:/a\n4:memory:/docker/7\n'
    const limits = {
      '/sys/fs/cgroup/memory/docker/7/memory.limit_in_bytes': '536870912\n',
      '/sys/fs/cgroup/memory/memory.limit_in_bytes': '9223372036854771712\n',
    }
    expect(of({ '/proc/self/cgroup': lines, ...limits })).toBe(512 * MIB)
  })

  test('none', () => {
    expect(of({})).toBe(NONE)
    expect(of({ '/proc/self/cgroup': '0::/\n', '/sys/fs/cgroup/memory.max': 'max\n' })).toBe(NONE)
    expect(of({ '/proc/self/cgroup': 'odd\n' })).toBe(NONE)
  })
})
