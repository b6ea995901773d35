/**
 * PURE. The properties of a queue: one table with a row for each, from which the configuration, the command
 * line and the control socket take their checks and their texts.
 */
import { isDeadLetterName, isQueueName, isReplyName, NAME_FORM, PREFETCH_MAX } from '../mqtt/server-topics.ts'
import { topicFilterError } from '../mqtt/topics.ts'
import {
  bytesInWords,
  integersInWords,
  type Range,
  readBytes,
  readInteger,
  readSeconds,
  secondsInWords,
  UNLIMITED,
} from '../structures/quantity.ts'
import { DEFAULT_PRIORITY, PRIORITY_MAX, type PriorityRule } from './dispatch/priority.ts'
import { isResultsTemplate } from './explicit/results.ts'

/** The reasons for which a message can go to the dead letters. */
export const DEATH_REASONS = [
  'refused',
  'delivery-limit',
  'too-large',
  'in-doubt',
  'expired',
  'overflow',
  'purged',
] as const

export type DeathReason = (typeof DEATH_REASONS)[number]

/** The most topic filters of one queue. */
const FILTERS_MAX = 8

/** The most rules for priorities of one queue. */
const PRIORITY_RULES_MAX = 32

const MIB = 1024 ** 2
const GIB = 1024 * MIB
const DAY = 86_400

const FILTERS_TEXT = `a list of up to ${FILTERS_MAX} different topic filters that do not begin with $`

const PRIORITY_RULES_TEXT =
  `a list of up to ${PRIORITY_RULES_MAX} rules such as { filter: jobs/urgent/#, priority: 9 }, or in text ` +
  'jobs/urgent/#=9'

const RESULTS_TEXT = 'none, or a topic name in which {topic}, {queue} and {1} to {9} are replaced'

/** One property. */
interface PropertyRow<T> {
  readonly default: T
  readonly unit: 'bytes' | 'seconds' | 'messages' | 'ids' | ''
  /** The allowed values, for the sentence that refuses another one. */
  readonly allowed: string
  /** Returns undefined for a value that is not allowed. */
  readonly read: (found: unknown) => T | undefined
  /** One line of documentation, in lower case and without a full stop. */
  readonly says: string
  readonly note?: string
  /** The topic below `$SYS/broker` that counts what it refuses. */
  readonly counter?: string
}

function row<T>(of: PropertyRow<T>): PropertyRow<T> {
  return of
}

function choice<const T extends string>(choices: readonly T[]) {
  return {
    allowed: choices.join(', ').replace(/, ([^,]*)$/, ' or $1'),
    read: (found: unknown): T | undefined => choices.find((one) => one === found),
  }
}

function secondsOf(range: Range) {
  return {
    unit: 'seconds' as const,
    allowed: secondsInWords(range),
    read: (found: unknown): number | undefined => readSeconds(found, range),
  }
}

function messagesOf(range: Range) {
  return integersOf(range, 'messages')
}

function integersOf<const Unit extends string>(range: Range, unit: Unit) {
  return {
    unit,
    allowed: integersInWords(range),
    read: (found: unknown): number | undefined => readInteger(found, range),
  }
}

/** The table. The names in the configuration are written `like_this`. */
export const QUEUE_PROPERTIES = {
  filters: row<readonly string[]>({
    default: [],
    unit: '',
    allowed: FILTERS_TEXT,
    read: readFilters,
    says: 'the topic filters whose messages the queue takes; none for what is published to $queue/NAME',
  }),
  dispatch: row<'fair' | 'key' | 'exclusive'>({
    default: 'fair',
    unit: '',
    ...choice(['fair', 'key', 'exclusive']),
    says: 'the consumer that gets the next message: fair, key or exclusive',
    note:
      '- fair: the one that holds the fewest\n' +
      '- key: messages of one key go one after the other, in order\n' +
      '- exclusive: the one that joined first; the others stand by',
  }),
  key: row({
    default: 'topic',
    unit: '',
    allowed: 'topic, publisher, level:N (from 1) or property:NAME',
    read: (found) => (typeof found === 'string' && parseKey(found) !== null ? found : undefined),
    says: 'with dispatch key: the key of a message',
    note:
      'topic, publisher (its Client Identifier), level:N (the Nth level of the topic, from 1) or ' +
      'property:NAME (a User Property).',
  }),
  keyWindow: row({
    default: 1,
    ...messagesOf({ min: 1, max: 1000 }),
    says: 'with dispatch key: messages of one key that one consumer may hold at once',
  }),
  prefetch: row<'auto' | number>({
    default: 'auto',
    unit: 'messages',
    allowed: `auto or a whole number from 1 to ${PREFETCH_MAX}`,
    read: (found) => (found === 'auto' ? found : readInteger(found, { min: 1, max: PREFETCH_MAX })),
    says: 'unacknowledged messages that one consumer may hold; auto learns it, from 1 to 100',
    note: 'auto is about 0.3 s of work, as measured by the acknowledgements of the consumer.',
  }),
  ackTimeoutSeconds: row({
    default: 300,
    ...secondsOf({ min: 1, max: 7 * DAY, unlimited: true }),
    says: 'the time after which an unacknowledged message at QoS 1 goes to another consumer',
  }),
  passedOverSeconds: row({
    default: 30,
    ...secondsOf({ min: 1, max: 7 * DAY }),
    says: 'the same for a message of which its consumer acknowledged a later one',
  }),
  deliveryLimit: row({
    default: 10,
    unit: '',
    allowed: integersInWords({ min: 1, max: 1_000_000, unlimited: true }),
    read: (found) => readInteger(found, { min: 1, max: 1_000_000, unlimited: true }),
    says: 'failures after which a message goes to the dead letters; or unlimited',
  }),
  retryDelaySeconds: row({
    default: 1,
    ...secondsOf({ min: 0, max: DAY }),
    says: 'the time until a refused message is handed out again; it doubles with each failure',
  }),
  retryDelayMaxSeconds: row({
    default: 60,
    ...secondsOf({ min: 0, max: DAY }),
    says: 'the longest such time',
  }),
  deadLetters: row({
    default: 'auto',
    unit: '',
    allowed: `auto, none or ${NAME_FORM}`,
    read: (found) =>
      typeof found === 'string' && isQueueName(found) && !isReplyName(found) ? found : undefined,
    says: 'the queue for messages that failed; auto is NAME.dead, and none drops them',
  }),
  deadLetterReasons: row<readonly DeathReason[]>({
    default: ['refused', 'delivery-limit', 'too-large', 'in-doubt'],
    unit: '',
    allowed: `a list of ${DEATH_REASONS.join(', ')}`,
    read: readReasons,
    says: 'the reasons for which a message goes to the dead letters; for others it is dropped',
    note: `They are ${DEATH_REASONS.join(', ')}.`,
  }),
  messagesMax: row({
    default: Number.POSITIVE_INFINITY,
    ...messagesOf({ min: 1, unlimited: true }),
    says: 'messages in the queue; or unlimited',
  }),
  bytesMax: row({
    default: GIB,
    unit: 'bytes',
    allowed: bytesInWords({ min: 1024, unlimited: true }),
    read: (found) => readBytes(found, { min: 1024, unlimited: true }),
    says: 'bytes of all messages in the queue; or unlimited',
  }),
  ttlSeconds: row({
    default: Number.POSITIVE_INFINITY,
    ...secondsOf({ min: 1, unlimited: true }),
    says: 'the time after which a message expires; its own expiry holds if it is earlier',
  }),
  overflow: row<'auto' | 'drop-oldest' | 'drop-newest' | 'reject'>({
    default: 'auto',
    unit: '',
    ...choice(['auto', 'drop-oldest', 'drop-newest', 'reject']),
    says: 'the answer to a message for a full queue: auto, drop-oldest, drop-newest or reject',
    note:
      'reject answers the publisher with 0x97, and closes the connection of one before 5.0. auto is ' +
      'drop-oldest for a queue with filters, so that it never hurts the publishers of these topics, ' +
      'and reject for one without.',
  }),
  priorities: row({
    default: 1,
    ...integersOf({ min: 1, max: PRIORITY_MAX + 1 }, ''),
    says: 'levels of priority, each with its own order; 1 for a queue without priorities',
    note:
      `The User Property priority of a message, from 0 to ${PRIORITY_MAX}, says how urgent it is; without ` +
      `it priority_rules, or else ${DEFAULT_PRIORITY}. It can change while the queue is empty.`,
  }),
  priorityRules: row<readonly PriorityRule[]>({
    default: [],
    unit: '',
    allowed: PRIORITY_RULES_TEXT,
    read: readPriorityRules,
    says: 'the priorities of messages that name none, by topic: { filter: jobs/urgent/#, priority: 9 }',
    note: 'The first whose filter matches counts. A rule can be text as well: jobs/urgent/#=9.',
  }),
  priorityBurst: row({
    default: 16,
    ...messagesOf({ min: 0, max: 1_000_000 }),
    says: 'messages of higher levels in a row after which the lowest that waits is served once; 0 never',
  }),
  deduplicateSeconds: row({
    default: 300,
    ...secondsOf({ min: 0, max: 7 * DAY }),
    says: 'the time for which a message with the same message-id is not taken again; 0 for never',
  }),
  deduplicateIdsMax: row({
    default: 100_000,
    ...integersOf({ min: 1, max: 1_000_000 }, 'ids'),
    counter: 'limits/refused/queue_ids_max',
    says: 'ids that a queue remembers; with more, the oldest is forgotten early',
  }),
  results: row({
    default: 'none',
    unit: '',
    allowed: RESULTS_TEXT,
    read: (found) =>
      found === 'none' || (typeof found === 'string' && isResultsTemplate(found)) ? found : undefined,
    says: 'the topic for results of messages without a Response Topic; or none',
    note:
      'With ack=explicit the payload of the acknowledgement is a result. {topic} is the topic of the ' +
      'message, {1} to {9} are its levels, and {queue} is the name of the queue.',
  }),
  share: row({
    default: true,
    unit: '',
    allowed: 'true or false',
    read: (found) => (typeof found === 'boolean' ? found : undefined),
    says: 'whether $share/NAME/FILTER consumes the queue if FILTER is its only filter',
  }),
} as const

type Table = typeof QUEUE_PROPERTIES

/** All properties of a queue. `Infinity` is `unlimited`, and times are seconds. */
export type QueueProperties = {
  readonly [Name in keyof Table]: Table[Name] extends PropertyRow<infer T> ? T : never
}

/** The properties that a declaration names; others come from the defaults. */
export type GivenProperties = { readonly [Name in keyof QueueProperties]?: QueueProperties[Name] | undefined }

export type PropertyName = keyof QueueProperties

export const PROPERTY_NAMES: readonly PropertyName[] = Object.freeze(
  Object.keys(QUEUE_PROPERTIES) as PropertyName[],
)

/** The properties of a queue for which nobody says otherwise. */
export const DEFAULT_PROPERTIES: QueueProperties = Object.freeze(
  Object.fromEntries(Object.entries(QUEUE_PROPERTIES).map(([name, { default: value }]) => [name, value])),
) as QueueProperties

/** A dead letter queue is made with these; a declaration of its name can say otherwise. */
export const DEAD_LETTER_PROPERTIES: GivenProperties = Object.freeze({
  bytesMax: 256 * MIB,
  overflow: 'drop-oldest',
  ttlSeconds: 30 * DAY,
  deadLetters: 'none',
  deliveryLimit: Number.POSITIVE_INFINITY,
})

/** A reply queue is made with these; `queues.patterns` can say otherwise. */
export const REPLY_PROPERTIES: GivenProperties = Object.freeze({
  bytesMax: 16 * MIB,
  overflow: 'reject',
  deadLetters: 'none',
})

/** The key of a message, for `dispatch: key`. */
export type KeyRule =
  | { readonly by: 'topic' }
  | { readonly by: 'publisher' }
  | { readonly by: 'level'; readonly level: number }
  | { readonly by: 'property'; readonly name: string }

/** Reads the property `key`; null if it is none. */
export function parseKey(text: string): KeyRule | null {
  if (text === 'topic' || text === 'publisher') return { by: text }
  const level = /^level:([1-9]\d{0,4})$/.exec(text)?.[1]
  if (level !== undefined) return { by: 'level', level: Number(level) }
  const name = /^property:(.{1,256})$/.exec(text)?.[1]
  return name === undefined ? null : { by: 'property', name }
}

/** Joins declarations; of a property that several name, the last one counts. */
export function propertiesOf(...given: readonly GivenProperties[]): QueueProperties {
  const joined: Record<string, unknown> = { ...DEFAULT_PROPERTIES }
  for (const one of given) {
    for (const name of PROPERTY_NAMES) if (one[name] !== undefined) joined[name] = one[name]
  }
  return Object.freeze(joined) as QueueProperties
}

/** Returns the queue for dead letters of the queue `name`; null without one. */
export function deadLetterQueue(name: string, { deadLetters }: QueueProperties): string | null {
  if (deadLetters === 'none') return null
  if (deadLetters !== 'auto') return deadLetters === name ? null : deadLetters
  return isDeadLetterName(name) ? null : `${name}.dead`
}

/** A declaration that cannot be; the message is a sentence without a full stop. */
export class PropertyError extends Error {
  override readonly name = 'PropertyError'
}

/**
 * Checks properties that come from outside, under the names of the configuration. Throws PropertyError with
 * the first that is wrong.
 */
export function checkedProperties(found: Readonly<Record<string, unknown>>): GivenProperties {
  const given: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(found)) {
    const name = PROPERTY_NAMES.find((one) => propertyKey(one) === key)
    if (name === undefined) throw new PropertyError(`${key} is no property of a queue`)
    const { allowed, read } = QUEUE_PROPERTIES[name]
    const checked = read(value)
    if (checked === undefined) throw new PropertyError(`${key} is ${allowed}`)
    given[name] = checked
  }
  return given
}

/** Returns why nobody can declare a queue of this name with these properties; null if that can be. */
export function declarationError(name: string, properties: GivenProperties): string | null {
  if (!isQueueName(name)) return `the name of a queue is ${NAME_FORM}`
  if (isReplyName(name)) return 'names that begin with reply. belong to reply queues'
  return propertiesError(name, properties)
}

/** Returns why a queue of this name cannot have these properties, as a sentence; null if it can. */
export function propertiesError(name: string, { filters, deadLetters }: GivenProperties): string | null {
  const hasFilters = filters !== undefined && filters.length > 0
  if (isDeadLetterName(name) && hasFilters) return 'a dead letter queue has no filters'
  if (isReplyName(name) && hasFilters) return 'a reply queue has no filters'
  const isOwn = deadLetters === name && deadLetters !== 'auto' && deadLetters !== 'none'
  return isOwn ? `${name} cannot be its own dead letter queue` : null
}

/** Returns a property, besides `filters`, that would change and can do so only in an empty queue; or null. */
export function fixedProperty(before: QueueProperties, after: QueueProperties): PropertyName | null {
  return before.priorities === after.priorities ? null : 'priorities'
}

/** Returns properties as they are written outside: `Infinity` as `unlimited`, names `like_this`. */
export function writtenProperties(properties: GivenProperties): Record<string, unknown> {
  const entries = PROPERTY_NAMES.filter((name) => properties[name] !== undefined).map((name) => {
    const value = properties[name]
    return [propertyKey(name), value === Number.POSITIVE_INFINITY ? UNLIMITED : value] as const
  })
  return Object.fromEntries(entries)
}

/** Returns the name of a property in the configuration: `bytes_max` for `bytesMax`. */
export function propertyKey(name: PropertyName): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
}

function readFilters(found: unknown): readonly string[] | undefined {
  if (!Array.isArray(found) || found.length > FILTERS_MAX || new Set(found).size < found.length) {
    return undefined
  }
  const isFilter = (one: unknown): one is string =>
    typeof one === 'string' && !one.startsWith('$') && topicFilterError(one) === null
  return found.every(isFilter) ? found : undefined
}

function readPriorityRules(found: unknown): readonly PriorityRule[] | undefined {
  if (!Array.isArray(found) || found.length > PRIORITY_RULES_MAX) return undefined
  const rules = found.map(readPriorityRule)
  return rules.every((rule) => rule !== undefined) ? rules : undefined
}

function readPriorityRule(found: unknown): PriorityRule | undefined {
  if (typeof found === 'string') {
    const equals = found.lastIndexOf('=')
    const priority = found.slice(equals + 1)
    if (equals < 1 || !/^\d$/.test(priority)) return undefined
    return readPriorityRule({ filter: found.slice(0, equals), priority: Number(priority) })
  }
  if (typeof found !== 'object' || found === null) return undefined
  const { filter, priority: given, ...rest } = found as Readonly<Record<string, unknown>>
  const priority = readInteger(given, { min: 0, max: PRIORITY_MAX })
  const isFilter = typeof filter === 'string' && !filter.startsWith('$') && topicFilterError(filter) === null
  if (!isFilter || priority === undefined || Object.keys(rest).length > 0) return undefined
  return { filter, priority }
}

function readReasons(found: unknown): readonly DeathReason[] | undefined {
  if (!Array.isArray(found)) return undefined
  const isReason = (one: unknown): one is DeathReason => DEATH_REASONS.some((known) => known === one)
  return found.every(isReason) ? [...new Set(found)] : undefined
}
