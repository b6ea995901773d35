/**
 * The configuration keys of queues. Those of `defaults` and of a declared queue come from the table of
 * properties.
 */
import { z } from 'zod'
import { isDeadLetterName, isQueueName, isReplyName, NAME_FORM, PREFETCH_MAX } from '../mqtt/server-topics.ts'
import {
  type GivenProperties,
  PROPERTY_NAMES,
  propertyKey,
  QUEUE_PROPERTIES,
  type QueueProperties,
} from '../queue/properties.ts'
import {
  DEFAULT_QUEUE_OPTIONS as DEFAULTS,
  type DeclaredQueue,
  type QueuePattern,
} from '../queue/queue-options.ts'
import { type KeyRow, row } from './key-row.ts'
import { bytes, flag, integer, oneOf, seconds, value } from './value.ts'

/** The keys of one queue. */
export const QUEUE_KEYS: readonly string[] = ['name', ...PROPERTY_NAMES.map(propertyKey)]

/** The keys below `queues` whose entries have the keys of a queue. */
export const QUEUE_LISTS: readonly string[] = ['declared', 'patterns']

/** Properties that each queue has for itself. */
const OWN_PROPERTIES: ReadonlySet<string> = new Set(['filters'])

const PROPERTY_SCHEMAS = Object.fromEntries(
  PROPERTY_NAMES.map((name): [string, z.ZodType] => {
    const { allowed, read } = QUEUE_PROPERTIES[name]
    return [propertyKey(name), value<unknown>(allowed, read).optional()]
  }),
)

const NAME_TEXT = `${NAME_FORM}, not beginning with reply.`

const PATTERN_TEXT = 'a name, with * for any part of it'

/** Reads one entry, and gives its properties their names for programs. */
function entrySchema(name: z.ZodType<string>) {
  return z
    .strictObject({ name, ...PROPERTY_SCHEMAS })
    .transform(
      ({ name: found, ...rest }): DeclaredQueue => ({
        name: found,
        properties: Object.freeze(
          Object.fromEntries(
            PROPERTY_NAMES.flatMap((property) => {
              const given: unknown = (rest as Record<string, unknown>)[propertyKey(property)]
              return given === undefined ? [] : [[property, given]]
            }),
          ),
        ) as GivenProperties,
      }),
    )
    .superRefine(({ name: found, properties }, context) => {
      const refuse = (key: string, allowed: string): void =>
        context.addIssue({ code: 'custom', path: [key], message: allowed })
      if (isDeadLetterName(found) && (properties.filters?.length ?? 0) > 0) {
        refuse('filters', '[], since a dead letter queue has no filters')
      }
      if (properties.deadLetters === found) refuse('dead_letters', 'another queue, auto or none')
    })
}

const DECLARED = z
  .array(
    entrySchema(
      value(NAME_TEXT, (found) =>
        typeof found === 'string' && isQueueName(found) && !isReplyName(found) ? found : undefined,
      ),
    ),
  )
  .superRefine((entries, context) => {
    const names = new Set<string>()
    for (const [index, { name }] of entries.entries()) {
      if (names.has(name)) {
        context.addIssue({ code: 'custom', path: [index, 'name'], message: 'each name only once' })
      }
      names.add(name)
    }
  })

const PATTERNS = z.array(
  entrySchema(
    value(PATTERN_TEXT, (found) =>
      typeof found === 'string' && /^[A-Za-z0-9_.*-]{1,64}$/.test(found) ? found : undefined,
    ),
  ).superRefine(({ properties }, context) => {
    if (properties.filters === undefined) return
    context.addIssue({
      code: 'custom',
      path: ['filters'],
      message: 'no filters, which come from the Subscription',
    })
  }),
)

type Snake<Name extends string> = Name extends `${infer First}${infer Rest}`
  ? `${First extends Lowercase<First> ? First : `_${Lowercase<First>}`}${Snake<Rest>}`
  : Name

/** The rows of `queues.defaults`. */
type DefaultRows = {
  readonly [Name in Exclude<keyof QueueProperties, 'filters'> as Snake<Name>]: KeyRow<QueueProperties[Name]>
}

function defaultRows(): DefaultRows {
  const names = PROPERTY_NAMES.filter((name) => !OWN_PROPERTIES.has(name))
  return Object.fromEntries(
    names.map((name): [string, KeyRow<unknown>] => {
      const { allowed, read, default: initial, unit, says, ...rest } = QUEUE_PROPERTIES[name]
      const { note, counter = null } = rest as { readonly note?: string; readonly counter?: string }
      const schema = value<unknown>(allowed, read)
      return [
        propertyKey(name),
        row<unknown>({
          schema,
          default: initial,
          unit,
          effect: 'now',
          counter,
          says,
          ...(note !== undefined && { note }),
        }),
      ]
    }),
  ) as DefaultRows
}

/** The rows of `queues`. */
export const QUEUES = {
  enabled: row({
    schema: flag(),
    default: DEFAULTS.enabled,
    unit: '',
    effect: 'restart',
    counter: null,
    says: 'whether topics such as $queue/jobs are queues; false makes them topics as any other',
    note: 'The queues of an earlier start stay in the store.',
  }),
  declare: row({
    schema: oneOf(['auto', 'operator']),
    default: DEFAULTS.declare,
    unit: '',
    effect: 'now',
    counter: null,
    says: 'whether clients with the right `declare` make queues by using them: auto or operator',
    note: 'With operator, only this file and `godwit queue declare` make queues.',
  }),
  declared: row<readonly DeclaredQueue[]>({
    schema: DECLARED,
    default: DEFAULTS.declared,
    unit: '',
    effect: 'now',
    counter: null,
    says: 'the queues of this file: { name: jobs, filters: [jobs/#] }, and any key of defaults',
    note: 'A queue that is taken out of the file stays, with its messages, until `godwit queue delete`.',
  }),
  patterns: row<readonly QueuePattern[]>({
    schema: PATTERNS,
    default: DEFAULTS.patterns,
    unit: '',
    effect: 'now',
    counter: null,
    says: 'the properties of queues that clients make, by name: { name: bulk-*, bytes_max: 10GiB }',
    note: 'The first that fits counts. It holds for queues that are made from then on.',
  }),
  defaults: defaultRows(),
  queues_max: row({
    schema: integer({ min: 1, max: 1_000_000 }),
    default: DEFAULTS.queuesMax,
    unit: '',
    effect: 'now',
    counter: 'limits/refused/queues_max',
    says: 'queues, those for dead letters included',
  }),
  declared_by_use_max: row({
    schema: integer({ min: 0, max: 1_000_000 }),
    default: DEFAULTS.declaredByUseMax,
    unit: '',
    effect: 'now',
    counter: 'limits/refused/queues_max',
    says: 'queues that clients made by using them',
  }),
  declared_per_user_max: row({
    schema: integer({ min: 0, max: 1_000_000 }),
    default: DEFAULTS.declaredPerUserMax,
    unit: '',
    effect: 'now',
    counter: 'limits/refused/queues_per_user_max',
    says: 'the same for the clients of one user; clients without a user count by address',
  }),
  consumers_per_queue_max: row({
    schema: integer({ min: 1, max: 1_000_000 }),
    default: DEFAULTS.consumersPerQueueMax,
    unit: '',
    effect: 'now',
    counter: 'limits/refused/queue_consumers_max',
    says: 'Subscriptions to one queue',
  }),
  prefetch_max: row({
    schema: integer({ min: 1, max: PREFETCH_MAX }),
    default: DEFAULTS.prefetchMax,
    unit: 'messages',
    effect: 'now',
    counter: null,
    says: 'the most that a consumer can hold; a larger prefetch counts as this',
  }),
  unsettled_max: row({
    schema: integer({ min: 100, max: 10_000_000 }),
    default: DEFAULTS.unsettledMax,
    unit: 'messages',
    effect: 'now',
    counter: 'limits/refused/queue_unsettled_max',
    says: 'messages of one queue that are in flight or wait for a retry; then nothing more is handed out',
  }),
  lookahead_messages_max: row({
    schema: integer({ min: 1, max: 1_000_000 }),
    default: DEFAULTS.lookaheadMessagesMax,
    unit: 'messages',
    effect: 'now',
    counter: null,
    says: 'with dispatch key: messages that are looked at while the keys of earlier ones are busy',
  }),
  read_cache_bytes_max: row({
    schema: bytes({ min: 1024 ** 2 }),
    default: DEFAULTS.readCacheBytesMax,
    unit: 'bytes',
    effect: 'restart',
    counter: null,
    says: 'memory for parts of queues read from the disk; at most an eighth of memory_bytes_max',
  }),
  reply_open: row({
    schema: flag(),
    default: DEFAULTS.replyOpen,
    unit: '',
    effect: 'now',
    counter: null,
    says: 'whether any client may publish to reply queues, such as $queue/reply.ID',
    note: 'With false, that needs the right `publish`, as for other queues.',
  }),
  idle_expiry_seconds: row({
    schema: seconds({ min: 60, unlimited: true }),
    default: DEFAULTS.idleExpirySeconds,
    unit: 'seconds',
    effect: 'now',
    counter: null,
    says: 'the time after which an empty, unused queue that a client made is deleted',
    note: 'A reply queue is deleted so long after the Session of its client has ended.',
  }),
} as const
