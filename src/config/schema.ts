/** Defines the keys of the configuration with their types and defaults. */
import { z } from 'zod'
import { DEFAULT_ACCESS } from '../access/access-options.ts'
import { isName } from '../access/accounts-file.ts'
import type { ListedCertificate } from '../access/certificate-users.ts'
import { configKey, type Kind } from '../broker/boundary/limit-row.ts'
import {
  LIMIT_NAMES,
  LIMIT_TABLE,
  type LimitName,
  type RefusedSubscription,
} from '../broker/boundary/limits.ts'
import { LENIENCE_NAMES, type Lenience } from '../mqtt/lenience.ts'
import { Reason, SUBACK_REFUSALS } from '../mqtt/reason.ts'
import { topicFilterError } from '../mqtt/topics.ts'
import { DEFAULT_LOG_BOUNDS, WAITING_BYTES_MAX } from '../observe/log-bounds.ts'
import { EVERY_ORIGIN } from '../transport/listener/page-origin.ts'
import { bytes, bytesOrAutomatic, flag, integer, oneOf, seconds, text, value } from './value.ts'

/** The default Reason Code of a refused subscription. */
const DEFAULT_REFUSAL = Reason.NotAuthorized

/** The names of limits by their keys in the configuration. */
export const LIMIT_KEYS: ReadonlyMap<string, LimitName> = new Map(
  LIMIT_NAMES.map((name) => [configKey(name), name]),
)

const ORIGINS = 'a list of origins such as https://example.org, or ["*"] for every page'

/** The rules for Client Identifiers. */
const CLIENT_ID_RULES = ['free', 'user', 'certificate'] as const

const PEM_FILES = 'the path of a PEM file, or a list of paths'

const LISTENER = z.strictObject({
  name: text('text that is not empty').optional(),
  type: oneOf(['tcp', 'tls', 'ws', 'wss', 'unix']),
  host: text('an IP address or host name of this machine').optional(),
  port: integer({ min: 0, max: 65_535 }).optional(),
  path: text("a socket file's path").optional(),
  mode: text('permission bits in quotes, such as "0660"', /^0?[0-7]{3}$/).optional(),
  websocket_path: text('a path that begins with /', /^\/[^\s?#]*$/).optional(),
  allowed_origins: value(ORIGINS, originList).optional(),
  server_keep_alive_seconds: seconds({ min: 0, max: 65_535 }, 'whole').optional(),
  in_flight_max: integer({ min: 1, max: 65_535 }).optional(),
  tls: z
    .strictObject({
      cert: value(PEM_FILES, pemFiles),
      key: value(PEM_FILES, pemFiles),
      passphrase: text('text that is not empty, in quotes where it is a number').optional(),
      ca: text('the path of a PEM file').optional(),
      crl: text('the path of a PEM file').optional(),
      client_certificate: oneOf(['none', 'request', 'require']).default('none'),
      minimum_version: oneOf(['TLSv1.2', 'TLSv1.3']).default('TLSv1.2'),
    })
    .optional(),
  allow_anonymous: flag().optional(),
  client_id: oneOf(CLIENT_ID_RULES).optional(),
  lenient: value(`a list of ${LENIENCE_NAMES.join(', ')}`, lenienceList).default([]),
  optional: flag().default(false),
})

/** The settings of one listener. */
export type ListenerSettings = z.infer<typeof LISTENER>

/** The seconds between two `$SYS` updates, as in Mosquitto. */
const SYS_INTERVAL_SECONDS = 10

/** The free disk space that is reserved for acknowledgements, deletions and the checkpoint. */
const RESERVE_BYTES = 64 * 1024 ** 2

/** The stored messages that stay in memory, in bytes; others are read from disk when needed. */
const RESIDENT_BYTES_MAX = 128 * 1024 ** 2

/**
 * `durability: interval` may lose one second, about as much as a crash loses of what is still on the
 * network.
 */
const SYNC_SECONDS = 1

/** Long enough to tell all clients and commit, and shorter than supervisors wait before they kill. */
const SHUTDOWN_SECONDS = 5

/** The default data directory. */
export const DEFAULT_DIRECTORY = './godwit-data'

/**
 * The schema of the configuration. Every key is optional; without `listeners` the broker serves loopback
 * only.
 */
export const SCHEMA = z.strictObject({
  allow_anonymous: oneOf(['loopback', true, false]).default('loopback'),
  client_id: oneOf(CLIENT_ID_RULES).default('free'),
  allowed_origins: value(ORIGINS, originList).optional(),
  data: z
    .strictObject({
      directory: text("a directory's path").default(DEFAULT_DIRECTORY),
      durability: oneOf(['fsync', 'interval', 'os', 'memory']).default('fsync'),
      durability_interval_seconds: seconds({ min: 0.1, max: 3600 }).default(SYNC_SECONDS),
      reserve_bytes: bytes({ min: 0 }).default(RESERVE_BYTES),
      resident_bytes_max: bytes({ min: 1024 ** 2 }).default(RESIDENT_BYTES_MAX),
    })
    .prefault({}),
  access: z
    .strictObject({
      accounts: flag().default(true),
      password_files: value('a list of paths', textList).default([]),
      acl_files: value('a list of paths', textList).default([]),
      default: oneOf(['auto', 'allow', 'deny']).default(DEFAULT_ACCESS.default),
      certificate_user: oneOf(['common_name', 'alternative_name', 'fingerprint', 'none']).default(
        DEFAULT_ACCESS.certificateUser,
      ),
      certificates: value(
        'a list of { fingerprint, user }, where fingerprint is SHA-256 in hexadecimal digits',
        certificateList,
      ).default([]),
      denied_before_5: oneOf(['ignore', 'disconnect']).default(DEFAULT_ACCESS.deniedBefore5),
      check_retained_author: flag().default(DEFAULT_ACCESS.checkRetainedAuthor),
      denied_subscription_code: value(
        `one of ${[...SUBACK_REFUSALS].map(hexadecimal).join(', ')}`,
        subackRefusal,
      ).default(DEFAULT_ACCESS.deniedSubscription),
    })
    .prefault({}),
  listeners: z.array(LISTENER).min(1).optional(),
  limits: z.strictObject(limitShape()).prefault({}),
  log: z
    .strictObject({
      level: oneOf(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']).default('info'),
      format: oneOf(['auto', 'json', 'pretty']).default('auto'),
      security_file: text("a file's path").optional(),
      repeat_seconds: seconds({ min: 1, max: 3600 }).default(DEFAULT_LOG_BOUNDS.repeatSeconds),
      lines_per_second_max: integer({ min: 1, unlimited: true }).default(
        DEFAULT_LOG_BOUNDS.linesPerSecondMax,
      ),
      waiting_bytes_max: bytes({ min: 65_536 }).default(WAITING_BYTES_MAX),
    })
    .prefault({}),
  sys: z
    .strictObject({
      interval_seconds: value('seconds, as a number or like 30s, 5m, from 1 to 86400, or off', (found) => {
        if (found === 'off') return 0
        const read = seconds({ min: 1, max: 86_400 }).safeParse(found)
        return read.success ? read.data : undefined
      }).default(SYS_INTERVAL_SECONDS),
    })
    .prefault({}),
  shutdown_seconds: seconds({ min: 0, max: 3600 }).default(SHUTDOWN_SECONDS),
  user: text("a user's name").optional(),
})

/**
 * Keys whose values are paths. In a file they are relative to its directory. `*` stands for each item of a
 * list.
 */
export const PATH_KEYS: readonly string[] = [
  'access.password_files.*',
  'access.acl_files.*',
  'data.directory',
  'listeners.*.path',
  'listeners.*.tls.cert',
  'listeners.*.tls.key',
  'listeners.*.tls.ca',
  'listeners.*.tls.crl',
  'log.security_file',
]

/** A parsed configuration under its own keys. */
export type Settings = z.infer<typeof SCHEMA>

/** The keys of a listener, `tls.…` included. */
export const LISTENER_KEYS: readonly string[] = keysOf(LISTENER)

/** Every key that can be set by itself, such as `limits.queue_bytes_max`; `listeners` is one key. */
export const KEYS: readonly string[] = keysOf(SCHEMA)

/** Returns the schema of the limits. They have no defaults here, because the profile sets them. */
function limitShape(): Record<string, z.ZodOptional<z.ZodType>> {
  return Object.fromEntries([...LIMIT_KEYS].map(([key, name]) => [key, limitType(name).optional()]))
}

function limitType(name: LimitName): z.ZodType {
  const kind: Kind<unknown> = LIMIT_TABLE[name].kind
  const { min, max, unlimited } = kind
  // Error messages leave out a maximum that limits nothing.
  const range = { min, unlimited, ...(max < Number.MAX_SAFE_INTEGER && { max }) }
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
          `and reason_code one of ${[...SUBACK_REFUSALS].map(hexadecimal).join(', ')}`,
        refusedSubscriptionList,
      )
  }
}

function subackRefusal(found: unknown): Reason | undefined {
  return typeof found === 'number' && SUBACK_REFUSALS.has(found) ? (found as Reason) : undefined
}

function textList(found: unknown): string[] | undefined {
  const isText = (item: unknown): item is string => typeof item === 'string' && item !== ''
  return Array.isArray(found) && found.every(isText) ? found : undefined
}

function pemFiles(found: unknown): string | string[] | undefined {
  if (typeof found === 'string') return found === '' ? undefined : found
  const list = textList(found)
  return list?.length === 0 ? undefined : list
}

function certificateList(found: unknown): ListedCertificate[] | undefined {
  if (!Array.isArray(found)) return undefined
  const entries = found.map((entry: unknown): ListedCertificate | undefined => {
    if (typeof entry !== 'object' || entry === null) return undefined
    const { fingerprint, user, ...rest } = entry as Record<string, unknown>
    const isEntry =
      typeof fingerprint === 'string' &&
      /^([0-9A-Fa-f]{2}:?){31}[0-9A-Fa-f]{2}$/.test(fingerprint) &&
      typeof user === 'string' &&
      isName(user) &&
      Object.keys(rest).length === 0
    return isEntry ? { fingerprint, user } : undefined
  })
  return entries.every((entry) => entry !== undefined) ? entries : undefined
}

function lenienceList(found: unknown): Lenience[] | undefined {
  const isName = (name: unknown): name is Lenience => LENIENCE_NAMES.some((known) => known === name)
  return Array.isArray(found) && found.every(isName) ? found : undefined
}

function refusedSubscriptionList(found: unknown): RefusedSubscription[] | undefined {
  if (!Array.isArray(found)) return undefined
  const entries = found.map(refusedSubscription)
  return entries.every((entry) => entry !== undefined) ? entries : undefined
}

function refusedSubscription(found: unknown): RefusedSubscription | undefined {
  if (typeof found !== 'object' || found === null) return undefined
  const { filter, reason_code: reasonCode = DEFAULT_REFUSAL, ...others } = found as Record<string, unknown>
  if (Object.keys(others).length > 0 || typeof reasonCode !== 'number') return undefined
  if (typeof filter !== 'string' || topicFilterError(filter) !== null || filter.startsWith('$share/')) {
    return undefined
  }
  return SUBACK_REFUSALS.has(reasonCode) ? { filter, reasonCode: reasonCode as Reason } : undefined
}

function hexadecimal(code: number): string {
  return `0x${code.toString(16).toUpperCase()}`
}

function originList(found: unknown): string[] | undefined {
  if (!Array.isArray(found) || found.length === 0) return undefined
  return found.every(
    (origin) =>
      typeof origin === 'string' &&
      (origin === EVERY_ORIGIN || /^(?:file:\/\/|[a-z][a-z0-9+.-]*:\/\/[^/\s]+)$/i.test(origin)),
  )
    ? found
    : undefined
}

/** Returns the paths of the leaves of an object schema; lists are leaves. */
function keysOf(schema: z.ZodObject): string[] {
  return Object.entries(schema.shape).flatMap(([key, type]) => {
    const inner = unwrap(type as z.ZodType)
    return inner instanceof z.ZodObject ? keysOf(inner).map((rest) => `${key}.${rest}`) : [key]
  })
}

function unwrap(type: z.ZodType): z.ZodType {
  if (type instanceof z.ZodOptional || type instanceof z.ZodDefault || type instanceof z.ZodPrefault) {
    return unwrap(type.unwrap() as z.ZodType)
  }
  return type
}
