/** The state of one message, as others see it. */
import type { Lane } from './lane.ts'

/** By `State`. */
const STATE_NAMES = [
  'ready',
  'waiting',
  'in-flight',
  'in-flight',
  'in-flight',
  'held',
  'deferred',
  'moving',
  'gone',
] as const

/** The state of one message. */
export interface Look {
  readonly state: (typeof STATE_NAMES)[number]
  readonly failures: number
  /** Hand-outs. */
  readonly attempts: number
}

/** Returns null for a message that is settled or not there. */
export function look(lanes: readonly Lane[], lane: number, sequence: number): Look | null {
  const found = lanes[lane]
  const entry = found?.find(sequence) ?? null
  if (entry === null) {
    return found?.isUnread(sequence) === true ? { state: 'ready', failures: 0, attempts: 0 } : null
  }
  return { state: STATE_NAMES[entry.state], failures: entry.failures, attempts: entry.attempts }
}
