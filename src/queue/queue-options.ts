/** PURE. The part of the configuration that says which queues there are, and how many there can be. */
import { isDeadLetterName } from '../mqtt/server-topics.ts'
import {
  DEAD_LETTER_PROPERTIES,
  DEFAULT_PROPERTIES,
  type GivenProperties,
  propertiesOf,
  type QueueProperties,
  REPLY_PROPERTIES,
} from './properties.ts'

/** A queue that is declared by the operator's file, or a program. */
export interface DeclaredQueue {
  readonly name: string
  readonly properties: GivenProperties
}

/** The properties of queues whose names fit. */
export interface QueuePattern {
  /** `*` stands for any part of a name. */
  readonly name: string
  readonly properties: GivenProperties
}

/** The configuration of all queues. */
export interface QueueOptions {
  /** Without queues, topics such as `$queue/…` are as any other. */
  readonly enabled: boolean
  /** `operator`: clients cannot declare queues by using them. */
  readonly declare: 'auto' | 'operator'
  readonly defaults: GivenProperties
  /** For queues that are declared by use: the first one that fits counts. */
  readonly patterns: readonly QueuePattern[]
  readonly declared: readonly DeclaredQueue[]
  readonly queuesMax: number
  readonly declaredByUseMax: number
  /** The same for the clients of one user, or of one address without a user. */
  readonly declaredPerUserMax: number
  readonly consumersPerQueueMax: number
  /** A consumer that asks for more gets this. */
  readonly prefetchMax: number
  /** Messages of a queue that are in flight, deferred or waiting for their key. */
  readonly unsettledMax: number
  /** With `dispatch: key`: messages behind the first one that are looked at while keys are busy. */
  readonly lookaheadMessagesMax: number
  readonly readCacheBytesMax: number
  /** Whether any client may publish to reply queues, without the right `publish`. */
  readonly replyOpen: boolean
  /** A queue that was declared by use, is empty and unused for so long is deleted. */
  readonly idleExpirySeconds: number
}

export const DEFAULT_QUEUE_OPTIONS: QueueOptions = Object.freeze({
  enabled: true,
  declare: 'auto',
  defaults: DEFAULT_PROPERTIES,
  patterns: [],
  declared: [],
  queuesMax: 10_000,
  declaredByUseMax: 1000,
  declaredPerUserMax: 100,
  consumersPerQueueMax: 10_000,
  prefetchMax: 1000,
  unsettledMax: 100_000,
  lookaheadMessagesMax: 10_000,
  readCacheBytesMax: 64 * 1024 ** 2,
  replyOpen: true,
  idleExpirySeconds: 86_400,
})

/** Returns the properties of a queue that is declared by its use, with these filters. */
export function propertiesByUse(
  { defaults, patterns }: QueueOptions,
  name: string,
  filters: readonly string[],
): QueueProperties {
  return propertiesOf(defaults, ofPattern(patterns, name), { filters })
}

/** Returns the properties of the reply queue of this name. */
export function replyProperties({ defaults, patterns }: QueueOptions, name: string): QueueProperties {
  return propertiesOf(defaults, REPLY_PROPERTIES, ofPattern(patterns, name))
}

function ofPattern(patterns: readonly QueuePattern[], name: string): GivenProperties {
  return patterns.find((one) => fits(one.name, name))?.properties ?? {}
}

/** Returns the properties of a queue that is declared by name, or of the dead letter queue of that name. */
export function propertiesByName(
  { defaults }: QueueOptions,
  name: string,
  given: GivenProperties = {},
): QueueProperties {
  return isDeadLetterName(name)
    ? propertiesOf(defaults, DEAD_LETTER_PROPERTIES, given)
    : propertiesOf(defaults, given)
}

/** Whether a name fits a pattern, in which `*` stands for any part. */
function fits(pattern: string, name: string): boolean {
  const parts = pattern.split('*')
  const [first = ''] = parts
  const last = parts.at(-1)!
  if (parts.length === 1) return name === pattern
  if (name.length < first.length + last.length || !name.startsWith(first) || !name.endsWith(last))
    return false
  const end = name.length - last.length
  let at = first.length
  for (const part of parts.slice(1, -1)) {
    const found = name.indexOf(part, at)
    if (found === -1 || found + part.length > end) return false
    at = found + part.length
  }
  return true
}
