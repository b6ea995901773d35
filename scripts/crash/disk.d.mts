import type { Random } from './random.mjs'
import type { NameRule, TraceRecord } from './trace.mjs'

export function buildFaults(): { readonly library: string; remove(): void }

export class FaultyDisk {
  readonly data: string
  readonly records: TraceRecord[]
  constructor(options: {
    library: string
    directory: string
    random: Random
    powerCuts: boolean
    rules?: readonly NameRule[]
  })
  environment(): Record<string, string>
  fail(fault: { error: 'ENOSPC' | 'EIO'; countdown: number; torn: boolean }): void
  mend(): void
  cutPower(): void
}
