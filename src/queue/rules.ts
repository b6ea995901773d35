/** PURE. What a queue's properties mean for its machine. */

import type { DeathReason } from './properties.ts'

/** The properties of a queue that its machine hears. */
export interface GroupRules {
  readonly dispatch: 'fair' | 'key' | 'exclusive'
  /** `topic`, `publisher`, `level:N` or `property:NAME`. */
  readonly key: string
  /** Messages of one key that may be under way at once. */
  readonly keyWindow: number
  readonly prefetch: 'auto' | number
  readonly ackTimeoutSeconds: number
  readonly passedOverSeconds: number
  /** Failures until a message is dead. */
  readonly deliveryLimit: number
  readonly retryDelaySeconds: number
  readonly retryDelayMaxSeconds: number
  /** False where dead messages are dropped. */
  readonly hasDeadLetters?: boolean
  /** Whether it is a dead letter queue itself: nothing is refused for good there. */
  readonly isDeadLetters?: boolean
  readonly deadLetterReasons: readonly DeathReason[]
  readonly messagesMax: number
  readonly bytesMax: number
  readonly overflow: 'auto' | 'drop-oldest' | 'drop-newest' | 'reject'
  readonly filters: readonly string[]
  /** Lanes. Cannot change. */
  readonly priorities?: number
  /** Messages of a higher lane in a row while a lower one waits; 0 without limit. */
  readonly priorityBurst?: number
  /** Whether a message replaces an older one of its key. */
  readonly lastValue?: boolean
  readonly keysMax?: number
  readonly deduplicateSeconds?: number
  readonly deduplicateIdsMax?: number
  /** Entries in memory. At the limit nothing new is handed out. */
  readonly unsettledMax?: number
  /** Messages that wait for their keys. */
  readonly lookaheadMessagesMax?: number
}

const DEFAULTS = {
  hasDeadLetters: true,
  isDeadLetters: false,
  priorities: 1,
  priorityBurst: 16,
  lastValue: false,
  keysMax: 100_000,
  deduplicateSeconds: 300,
  deduplicateIdsMax: 100_000,
  unsettledMax: 100_000,
  lookaheadMessagesMax: 10_000,
} as const satisfies Partial<GroupRules>

/** The rules, complete, with times in ms. */
export interface Rules extends Required<GroupRules> {
  readonly overflow: 'drop-oldest' | 'drop-newest' | 'reject'
  readonly ackTimeoutMs: number
  readonly passedOverMs: number
}

export function completeRules(rules: GroupRules): Rules {
  const overflow = rules.filters.length === 0 ? 'reject' : 'drop-oldest'
  return {
    ...DEFAULTS,
    ...rules,
    overflow: rules.overflow === 'auto' ? overflow : rules.overflow,
    ackTimeoutMs: 1000 * rules.ackTimeoutSeconds,
    passedOverMs: 1000 * Math.min(rules.passedOverSeconds, rules.ackTimeoutSeconds),
  }
}

/** Time in ms until a message that failed so often is handed out again. */
export function retryDelayMs(rules: Rules, failures: number): number {
  const doubled = rules.retryDelaySeconds * 2 ** Math.max(failures - 1, 0)
  return 1000 * Math.min(doubled, rules.retryDelayMaxSeconds)
}
