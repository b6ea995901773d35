/** PURE. Compares two configurations: what changes, when it takes effect, and which clients it cuts off. */
import { configKey, type Effect } from '../broker/boundary/limit-row.ts'
import { LIMIT_NAMES, LIMIT_TABLE, type LimitName } from '../broker/boundary/limits.ts'
import type { LinkInfo } from '../broker/boundary/link.ts'
import { canReconfigure, type ListenerOptions } from '../transport/listener/listener.ts'
import type { Config } from './config.ts'
import { isSecret, redact } from './display.ts'
import { rowsOf } from './key-row.ts'
import { KEY_TABLE } from './keys.ts'

/** One changed key. */
export interface ConfigChange {
  /** The key in the configuration, with listeners by name: `listeners.mqtts.tls.cert`. */
  readonly key: string
  readonly from: string
  readonly to: string
  readonly effect: Effect
  /** The profile that sets the new value; absent if the key itself is set. */
  readonly profile?: string
}

/** A client that the new configuration no longer accepts. */
export interface CutOff {
  readonly clientId: string
  readonly listener: string
  readonly reason: string
}

/** When keys outside `listeners` take effect. */
const EFFECTS: ReadonlyMap<string, Effect> = new Map<string, Effect>([
  ...LIMIT_NAMES.map((name) => [limitPath(name), LIMIT_TABLE[name].effect] as const),
  ...rowsOf(KEY_TABLE).map(([key, { effect }]) => [key, effect] as const),
])

function effectOf(key: string): Effect {
  const effect = EFFECTS.get(key)
  if (effect === undefined) throw new Error(`no table has the key ${key}`)
  return effect
}

/** The keys of limits, which a profile can set. */
const LIMIT_PATHS: ReadonlySet<string> = new Set(LIMIT_NAMES.map(limitPath))

/** Keys of Config that have another name in the configuration; null for those that follow from other keys. */
const NAMES: Readonly<Record<string, string | null>> = {
  sysIntervalSeconds: 'sys.interval_seconds',
  deniedBefore5: 'denied_before_5',
  deniedSubscription: 'denied_subscription_code',
  loopbackOnly: null,
  listeners: null,
  ownLimits: null,
}

/** Options of a listener that have another name in the configuration. */
const LISTENER_NAMES: Readonly<Record<string, string>> = {
  webSocketPath: 'websocket_path',
  minimumVersion: 'minimum_version',
  clientIdRule: 'client_id',
}

/** Returns all differences in the order of the keys. */
export function configChanges(before: Config, after: Config): ConfigChange[] {
  const [from, to] = [flat(before), flat(after)]
  const keys = [...new Set([...from.keys(), ...to.keys()])]
  const own = new Set(after.ownLimits.map(limitPath))
  const { profile } = after.limits
  const changes = keys
    .flatMap((key) => change(key, from.get(key), to.get(key), effectOf(key)))
    .map((one) => (LIMIT_PATHS.has(one.key) && !own.has(one.key) ? { ...one, profile } : one))
  return [...changes, ...listenerChanges(before.listeners, after.listeners)]
}

function limitPath(name: LimitName): string {
  return `limits.${configKey(name)}`
}

/** Returns the configuration of a reload: keys that need a restart keep their values of `before`. */
export function reloadableConfig(before: Config, after: Config): Config {
  return reloadable(before, after, '') as Config
}

function reloadable(before: object, after: object, prefix: string): object {
  const values = Object.entries(after).map(([name, value]): [string, unknown] => {
    const key = keyOf(name, NAMES)
    // Listeners have effects of their own, and other values follow from them.
    if (key === null) return [name, value]
    const old: unknown = Reflect.get(before, name)
    if (isGroup(value) && isGroup(old)) return [name, reloadable(old, value, `${prefix}${key}.`)]
    return [name, effectOf(prefix + key) === 'restart' ? old : value]
  })
  return Object.freeze(Object.fromEntries(values))
}

/**
 * Returns the reason why these listeners would refuse a connected client; null if they accept it.
 * `acceptsAnonymous` tells whether such a link accepts a client without credentials.
 */
export function cutOffReason(
  link: LinkInfo,
  userName: string | null,
  listeners: readonly ListenerOptions[],
  acceptsAnonymous: (link: LinkInfo) => boolean = ({ allowAnonymous }) => allowAnonymous,
): string | null {
  // Links within this process belong to no listener.
  if (link.transport === 'memory') return null
  const options = listeners.find(({ name }) => name === link.listener)
  if (options === undefined) return `listener '${link.listener}' no longer exists`
  if (options.type !== link.transport) return `listener '${link.listener}' now has another type`
  if (userName === null && !acceptsAnonymous(linkUnder(link, options))) {
    return `listener '${link.listener}' no longer accepts clients without credentials`
  }
  if (options.tls?.clientCertificate === 'require' && link.certificate === undefined) {
    return `listener '${link.listener}' now requires a client certificate`
  }
  return null
}

/** Returns the link as these options would make it now; the rules for anonymous clients may have changed. */
export function linkUnder(
  { anonymousUnlessUsers: _, ...link }: LinkInfo,
  { allowAnonymous, anonymousUnlessUsers = false }: ListenerOptions,
): LinkInfo {
  return { ...link, allowAnonymous, ...(anonymousUnlessUsers && { anonymousUnlessUsers }) }
}

/** Describes a change in a line for the operator. */
export function changeLine({ key, from, to, effect, profile }: ConfigChange): string {
  const when = {
    now: 'at once',
    connections: 'for new connections',
    restart: 'only after a restart',
  }
  const by = profile === undefined || key === 'limits.profile' ? '' : ` (of limits.profile ${profile})`
  return `${key}: ${from} -> ${to}${by}, ${when[effect]}`
}

function listenerChanges(
  before: readonly ListenerOptions[],
  after: readonly ListenerOptions[],
): ConfigChange[] {
  const names = [...new Set([...before, ...after].map(({ name }) => name))]
  return names.flatMap((name): ConfigChange[] => {
    const from = before.find((one) => one.name === name)
    const to = after.find((one) => one.name === name)
    const key = `listeners.${name}`
    if (from === undefined || to === undefined) {
      return [{ key, from: listenerAddress(from), to: listenerAddress(to), effect: 'now' }]
    }
    const effect = canReconfigure(from, to) ? 'connections' : 'now'
    const [old, young] = [flatListener(from), flatListener(to)]
    return [...new Set([...old.keys(), ...young.keys()])].flatMap((inner) =>
      change(`${key}.${inner}`, old.get(inner), young.get(inner), effect),
    )
  })
}

function listenerAddress(options: ListenerOptions | undefined): string {
  if (options === undefined) return 'none'
  return options.type === 'unix'
    ? `unix:${options.path}`
    : `${options.type} ${options.host} port ${options.port}`
}

function change(key: string, from: unknown, to: unknown, effect: Effect): ConfigChange[] {
  if (inWords(from) === inWords(to)) return []
  if (isSecret(key.split('.'))) return [{ key, from: '(secret)', to: '(another one)', effect }]
  return [{ key, from: shown(from), to: shown(to), effect }]
}

function shown(value: unknown): string {
  return inWords(redact(value))
}

function inWords(value: unknown): string {
  if (value === undefined || value === null) return 'none'
  if (value === Number.POSITIVE_INFINITY) return 'unlimited'
  return typeof value === 'string' ? value : JSON.stringify(value, unlimitedInWords)
}

/** JSON has no Infinity, which a list of queues may have. */
function unlimitedInWords(_name: string, value: unknown): unknown {
  return value === Number.POSITIVE_INFINITY ? 'unlimited' : value
}

/** Returns the leaves by their keys in the configuration; lists are leaves. */
function flat(config: Config): Map<string, unknown> {
  return leaves(Object.entries(config), '', NAMES)
}

function flatListener({
  name: _name,
  optional: _optional,
  anonymousUnlessUsers = false,
  allowAnonymous,
  clientIdRule,
  ...options
}: ListenerOptions): Map<string, unknown> {
  // The values as the configuration writes them.
  const given = {
    allowAnonymous: allowAnonymous && anonymousUnlessUsers ? 'loopback' : allowAnonymous,
    clientIdRule: clientIdRule ?? 'free',
  }
  return leaves(Object.entries({ ...options, ...given }), '', LISTENER_NAMES)
}

function leaves(
  entries: readonly (readonly [string, unknown])[],
  prefix: string,
  names: Readonly<Record<string, string | null>>,
): Map<string, unknown> {
  const found = new Map<string, unknown>()
  for (const [name, value] of entries) {
    const named = keyOf(name, names)
    if (named === null) continue
    const key = `${prefix}${named}`
    if (isGroup(value)) {
      for (const [inner, leaf] of leaves(Object.entries(value), `${key}.`, names)) found.set(inner, leaf)
    } else found.set(key, value)
  }
  return found
}

/** Returns the name in the configuration; null for values that follow from other keys. */
function keyOf(name: string, names: Readonly<Record<string, string | null>>): string | null {
  return Object.hasOwn(names, name) ? names[name]! : configKey(name)
}

function isGroup(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
