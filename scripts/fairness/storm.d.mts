export interface StormOptions {
  readonly broker?: 'godwit' | 'mosquitto'
  readonly clients?: number
  readonly passwords?: 'generated' | 'chosen' | 'mixed'
  readonly retries?: boolean
  readonly tls?: boolean
  readonly remembers?: boolean
  readonly settings?: readonly string[]
  readonly pairs?: number
  readonly perSecond?: number
  readonly quietMs?: number
  readonly version?: 4 | 5
  readonly main?: string
  readonly log?: (text: string) => void
}

export interface Latency {
  readonly count: number
  readonly p50: number
  readonly p99: number
  readonly max: number
}

export interface PairsLatency extends Latency {
  /** Without what the pairs' process and the broker waited for a CPU meanwhile. */
  readonly own: Latency
}

export interface Storm {
  readonly broker: string
  readonly clients: number
  readonly passwords: string
  readonly retries: boolean
  readonly isIn: number
  readonly attempts: number
  readonly neverIn: number
  readonly sessionsPresent: number
  readonly refused: number
  readonly refusals: Readonly<Record<string, number>>
  readonly willsPublished: number
  readonly halfMs: number
  readonly lastMs: number
  readonly cpuMs: number
  readonly heldMs: number
  readonly before: PairsLatency
  readonly during: PairsLatency
}

export function storm(options?: StormOptions): Promise<Storm>
export function stormText(seen: Storm): string
export function printStorm(options?: StormOptions): Promise<void>
