/** Builds the schema of the configuration from the tables of its keys. */
import { z } from 'zod'
import { configKey, type Kind } from '../broker/boundary/limit-row.ts'
import { LIMIT_NAMES, LIMIT_TABLE, type LimitName } from '../broker/boundary/limits.ts'
import type { Range } from '../structures/quantity.ts'
import { type Parsed, rowsOf, shapeOf } from './key-row.ts'
import { KEY_TABLE } from './keys.ts'
import { LISTENER_TABLE, TLS_TABLE } from './listener-keys.ts'
import { refusedSubscriptionList, SUBACK_REFUSALS_TEXT } from './lists.ts'
import { bytes, bytesOrAutomatic, flag, integer, oneOf, seconds, value } from './value.ts'

/** The names of limits by their keys in the configuration. */
export const LIMIT_KEYS: ReadonlyMap<string, LimitName> = new Map(
  LIMIT_NAMES.map((name) => [configKey(name), name]),
)

/** The settings of one listener. */
export type ListenerSettings = Parsed<typeof LISTENER_TABLE> & {
  readonly tls?: Parsed<typeof TLS_TABLE> | undefined
}

/** A parsed configuration under its own keys. */
export type Settings = Parsed<typeof KEY_TABLE> & {
  readonly listeners?: readonly ListenerSettings[] | undefined
  readonly limits: Readonly<Record<string, unknown>>
}

const LISTENER = z.strictObject({
  ...shapeOf(LISTENER_TABLE),
  tls: z.strictObject(shapeOf(TLS_TABLE)).optional(),
})

/**
 * The schema of the configuration. Every key is optional; without `listeners` the broker serves loopback
 * only.
 */
export const SCHEMA: z.ZodType<Settings> = z.strictObject({
  ...shapeOf(KEY_TABLE),
  listeners: z.array(LISTENER).min(1).optional(),
  limits: z.strictObject(limitShape()).prefault({}),
})

const ROWS = rowsOf(KEY_TABLE)

const LISTENER_ROWS = [...rowsOf(LISTENER_TABLE), ...rowsOf(TLS_TABLE, 'tls.')]

/** The keys of a listener, `tls.…` included. */
export const LISTENER_KEYS: readonly string[] = LISTENER_ROWS.map(([key]) => key)

/** Every key that can be set by itself, such as `limits.queue_bytes_max`; `listeners` is one key. */
export const KEYS: readonly string[] = [
  ...ROWS.map(([key]) => key),
  'listeners',
  ...[...LIMIT_KEYS.keys()].map((key) => `limits.${key}`),
]

/**
 * Keys whose values are paths or lists of paths. In a file they are relative to its directory. `*` stands
 * for each item of a list.
 */
export const PATH_KEYS: readonly string[] = [
  ...ROWS.flatMap(([key, { isPath = false }]) => (isPath ? [key] : [])),
  ...LISTENER_ROWS.flatMap(([key, { isPath = false }]) => (isPath ? [`listeners.*.${key}`] : [])),
]

/** Returns the schema of the limits. They have no defaults here, because the profile sets them. */
function limitShape(): Record<string, z.ZodOptional<z.ZodType>> {
  return Object.fromEntries([...LIMIT_KEYS].map(([key, name]) => [key, limitType(name).optional()]))
}

function limitType(name: LimitName): z.ZodType {
  const kind: Kind<unknown> = LIMIT_TABLE[name].kind
  const { min, max, unlimited } = kind
  // Error messages leave out a maximum that limits nothing.
  const range: Range = { min, unlimited, ...(max < Number.MAX_SAFE_INTEGER && { max }) }
  switch (kind.type) {
    case 'whole':
      return integer(range)
    case 'bytes':
      return kind.automatic === true ? bytesOrAutomatic(range) : bytes(range)
    case 'seconds':
      return seconds(range, 'whole')
    case 'fractional seconds':
      return seconds(range)
    case 'truth':
      return flag()
    case 'one of':
      return oneOf(kind.choices as readonly (string | number)[])
    case 'refused filters':
      return value(
        'a list of { filter, reason_code }, where filter is a topic filter without $share/… ' +
          `and reason_code one of ${SUBACK_REFUSALS_TEXT}`,
        refusedSubscriptionList,
      )
  }
}
