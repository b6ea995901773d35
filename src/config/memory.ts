/** How much memory the broker takes for clients where nobody says: a share of what the process has. */
import { readFileSync } from 'node:fs'
import { totalmem } from 'node:os'
import { heapBytesMax } from '../store/level/heap-guard.ts'

const MIB = 1024 * 1024

/** What the process has, in bytes. */
export interface ProcessMemory {
  /** Of what lasts; beyond it V8 ends the process. */
  readonly heapBytes: number
  /** Beyond it the kernel ends the process; Infinity where no control group says. */
  readonly controlGroupBytes: number
  readonly machineBytes: number
}

/**
 * Of V8's heap one half: what is counted is mostly there, the broker itself takes some 20 MB of it, a collector that has no room
 * left stops everybody, and a start must find room for all that was taken in (`store/heap-guard.ts`). Of a control group two fifths: the kernel counts code, stacks, socket buffers and the disk's
 * cache to it as well, and the heap between two collections. Of the machine a quarter: others run there.
 */
const SHARES = { heap: 0.5, controlGroup: 0.4, machine: 0.25 } as const

/** Below it nothing works. */
const LEAST_BYTES = 16 * MIB

/** What `limits.memory_bytes_max: auto` is, in whole MiB. */
export function memoryShare({ heapBytes, controlGroupBytes, machineBytes }: ProcessMemory): number {
  const share = Math.min(
    heapBytes * SHARES.heap,
    controlGroupBytes * SHARES.controlGroup,
    machineBytes * SHARES.machine,
  )
  return Math.max(LEAST_BYTES, Math.floor(share / MIB) * MIB)
}

/** What this process has. */
export function processMemory(): ProcessMemory {
  return {
    heapBytes: heapBytesMax(),
    controlGroupBytes: controlGroupMemory(text),
    machineBytes: totalmem(),
  }
}

/** What `auto` is for this process. */
export function automaticMemoryBytes(): number {
  return memoryShare(processMemory())
}

/**
 * The least of all limits of the process's control groups, of version 1 and 2, and of those that these are in; Infinity without
 * any. `read` returns null for a file that is not there.
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
    // A container may see its own group as the root, under another path than the kernel tells.
    for (let path = rest.join(':'); ; path = path.slice(0, path.lastIndexOf('/'))) {
      least = Math.min(least, limitIn(read(`${root}${path}/${file}`)))
      if (path === '' || path === '/') break
    }
    least = Math.min(least, limitIn(read(`${root}/${file}`)))
  }
  return least
}

/** `max` is no limit; nor is what version 1 has instead, 2^63 less a page. */
function limitIn(found: string | null): number {
  const bytes = Number(found?.trim() || Number.NaN)
  return Number.isSafeInteger(bytes) && bytes > 0 ? bytes : Number.POSITIVE_INFINITY
}

function text(path: string): string | null {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return null
  }
}
