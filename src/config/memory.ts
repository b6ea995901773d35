/** Computes the default of `limits.memory_bytes_max` as a share of the available memory. */
import { readFileSync } from 'node:fs'
import { totalmem } from 'node:os'
import { heapBytesMax } from '../store/level/heap-guard.ts'

const MIB = 1024 * 1024

/** The memory that the process may use. */
export interface ProcessMemory {
  /** V8 ends the process if lasting objects take more than this. */
  readonly heapBytes: number
  /** The kernel ends the process beyond this size; Infinity without a control group. */
  readonly controlGroupBytes: number
  readonly machineBytes: number
}

/**
 * The shares for clients. Half of V8's heap: most of the counted memory is there, the broker itself takes
 * 20 MB, a garbage collector without room stalls everybody, and a restart must find room for all that was
 * accepted (`store/level/heap-guard.ts`). Two fifths of a control group: the kernel also counts code, stacks,
 * socket buffers, the page cache and garbage. A quarter of the machine: other programs run there.
 */
const SHARES = { heap: 0.5, controlGroup: 0.4, machine: 0.25 } as const

/** The broker cannot work with less. */
const LEAST_BYTES = 16 * MIB

/** Returns the value of `limits.memory_bytes_max: auto`, in whole MiB. */
export function memoryShare({ heapBytes, controlGroupBytes, machineBytes }: ProcessMemory): number {
  const share = Math.min(
    heapBytes * SHARES.heap,
    controlGroupBytes * SHARES.controlGroup,
    machineBytes * SHARES.machine,
  )
  return Math.max(LEAST_BYTES, Math.floor(share / MIB) * MIB)
}

/** Measures the memory of this process. */
export function processMemory(): ProcessMemory {
  return {
    heapBytes: heapBytesMax(),
    controlGroupBytes: controlGroupMemory(readText),
    machineBytes: totalmem(),
  }
}

/** Returns the value of `auto` for this process. */
export function automaticMemoryBytes(): number {
  return memoryShare(processMemory())
}

/**
 * Returns the lowest limit of the process's control groups, of version 1 and 2, and their parents; Infinity
 * without any. `read` returns null for a missing file.
 */
export function controlGroupMemory(read: (path: string) => string | null): number {
  let least = Number.POSITIVE_INFINITY
  for (const line of (read('/proc/self/cgroup') ?? '').split('\n')) {
    const [, controllers, ...rest] = line.split(':')
    if (controllers === undefined) continue
    const isUnified = controllers === ''
    if (!isUnified && !controllers.split(',').includes('memory')) continue
    const root = isUnified ? '/sys/fs/cgroup' : '/sys/fs/cgroup/memory'
    const file = isUnified ? 'memory.max' : 'memory.limit_in_bytes'
    // A container may see its own group as the root, not under the path that the kernel reports.
    for (let path = rest.join(':'); ; path = path.slice(0, path.lastIndexOf('/'))) {
      least = Math.min(least, limitIn(read(`${root}${path}/${file}`)))
      if (path === '' || path === '/') break
    }
    least = Math.min(least, limitIn(read(`${root}/${file}`)))
  }
  return least
}

/** Parses a limit. `max` means no limit, and so does 2^63 minus a page, which version 1 uses. */
function limitIn(found: string | null): number {
  const bytes = Number(found?.trim() || Number.NaN)
  return Number.isSafeInteger(bytes) && bytes > 0 ? bytes : Number.POSITIVE_INFINITY
}

function readText(path: string): string | null {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return null
  }
}
