import type { Random } from './random.mjs'

export interface TraceRecord {
  readonly type: string
  readonly file?: string
  readonly name?: string
  readonly to?: string
  readonly offset?: number
  readonly length?: number
  readonly bytes?: Buffer
  readonly sync?: string
}

/** Files by path; null for a directory. */
export type Files = Map<string, Buffer | null>

export type NameRule = 'ordered' | 'own' | 'strict'

export const NAME_RULES: readonly NameRule[]
export function readTrace(path: string): TraceRecord[]
export function withoutLastChange(records: readonly TraceRecord[]): TraceRecord[]
export function orderComplaint(
  records: readonly TraceRecord[],
  stored: string,
  sent: Uint8Array,
): string | null

export class History {
  constructor(before: Files, records: readonly TraceRecord[])
  whole(): Files
  survivors(rule: NameRule, random: Random): Files
}
