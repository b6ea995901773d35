/** The state of one message, as others see it. */
import { State } from './consumer.ts'
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
  /** Of one that is held; null otherwise. */
  readonly lease: Lease | null
}

export interface Lease {
  /** Client Identifier of the consumer. */
  readonly clientId: string
  /** Broker time in ms at which it ends. */
  readonly until: number
}

/** Returns null for a message that is settled or not there. */
export function look(lanes: readonly Lane[], lane: number, sequence: number): Look | null {
  const found = lanes[lane]
  const entry = found?.find(sequence) ?? null
  if (entry === null) {
    const isReady = found?.isUnread(sequence) === true
    return isReady ? { state: 'ready', failures: 0, attempts: 0, lease: null } : null
  }
  const { state, failures, attempts, at, handle } = entry
  const isHeld = state === State.Held && handle !== null
  const lease = isHeld ? { clientId: handle.member.consumer.clientId, until: at } : null
  return { state: STATE_NAMES[state], failures, attempts, lease }
}
