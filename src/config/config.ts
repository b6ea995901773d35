/** Combines file, environment and flags into one frozen, validated Config. */
import { existsSync, readFileSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import type { z } from 'zod'
import type { AccessOptions } from '../access/access-options.ts'
import { parseAclFile } from '../access/acl-file.ts'
import { LinesError } from '../access/files/watched-file.ts'
import { parsePasswordFile } from '../access/passwords/password-file.ts'
import { configKey } from '../broker/boundary/limit-row.ts'
import { type LimitName, type Limits, limitsWith } from '../broker/boundary/limits.ts'
import { HTTP_NAME } from '../http/http-options.ts'
import type { QueueOptions } from '../queue/queue-options.ts'
import { BALLAST } from '../store/files/ballast.ts'
import { isStoreFile } from '../store/files/data-directory.ts'
import { ACCOUNTS_FILE, BANS_FILE } from '../store/files/kept-files.ts'
import type { ListenerOptions } from '../transport/listener/listener.ts'
import { type TlsOptions, tlsProblems } from '../transport/tls/tls.ts'
import { ConfigError, type ConfigProblem } from './config-error.ts'
import { display, isSecret, SECRET, truncate } from './display.ts'
import { type CamelCased, camelCased, expectNothing } from './key-row.ts'
import { KEY_TABLE } from './keys.ts'
import {
  defaultListeners,
  flagListeners,
  type HttpConfig,
  httpConfig,
  httpOptions,
  httpProblems,
  isLoopbackOnly,
  listenerOptions,
  listenerProblems,
} from './listeners.ts'
import { automaticMemoryBytes } from './memory.ts'
import { QUEUE_KEYS, QUEUE_LISTS } from './queue-keys.ts'
import { KEYS, LIMIT_KEYS, LISTENER_KEYS, SCHEMA, type Settings } from './schema.ts'
import { type ConfigFlags, FILE_VARIABLE, Sources } from './sources.ts'
import { suggestion } from './suggestion.ts'
import { AUTOMATIC } from './value.ts'

/** The whole configuration. */
export interface Config {
  readonly data: CamelCased<Settings['data']>
  readonly listeners: readonly ListenerOptions[]
  /** The sources of users and rights; accounts are in the data directory. */
  readonly access: Readonly<AccessOptions>
  readonly limits: Readonly<Limits>
  /** The limits that are set by themselves; the others follow `limits.profile`. */
  readonly ownLimits: readonly LimitName[]
  readonly queues: QueueOptions
  readonly log: CamelCased<Settings['log']>
  readonly http: HttpConfig
  /** 0 publishes nothing. */
  readonly sysIntervalSeconds: number
  readonly shutdownSeconds: number
  /** No listener can be reached from another machine. */
  readonly loopbackOnly: boolean
  /** The user whom the process becomes when root starts it; null to stay root. */
  readonly user: string | null
}

/** The configuration file in a data directory, which is used if no other is named. */
export const DIRECTORY_FILE = 'godwit.yaml'

/** The sources of a configuration. */
export interface ConfigSources {
  /** The path of the YAML file. */
  readonly file?: string
  /** Replaces the content of the file. */
  readonly text?: string
  readonly environment?: Readonly<Record<string, string | undefined>>
  readonly flags?: ConfigFlags
}

/**
 * Loads the configuration. Later sources win: defaults, file, environment, `--set`, other flags. The file
 * is `file` or that of GODWIT_CONFIG. Throws ConfigError with all problems.
 */
export function loadConfig(from: ConfigSources = {}): Config {
  return loadSources(from).config
}

/** Finds the configuration file: the named one, or that in the data directory; undefined without any. */
export function configFile({ file, environment = {}, flags = {} }: ConfigSources): string | undefined {
  const named = file ?? environment[FILE_VARIABLE]
  if (named !== undefined) return named
  const sources = new Sources()
  sources.addEnvironment(environment)
  addFlags(sources, flags)
  const directory = sources.at(['data', 'directory']) ?? KEY_TABLE.data.directory.default
  if (typeof directory !== 'string') return undefined
  const found = join(directory, DIRECTORY_FILE)
  return existsSync(found) ? found : undefined
}

/**
 * Loads the configuration and checks its certificates, keys, password and ACL files. With `nowMs`, in wall
 * time, certificates that are not valid then are problems, too: a broker starts with them, but clients
 * refuse them. Throws ConfigError with all problems.
 */
export function checkConfig(from: ConfigSources, nowMs?: number): Config {
  const { config, sources } = loadSources(from)
  const problems = config.listeners.flatMap(({ name, tls }, i) =>
    tlsFileProblems(sources, ['listeners', i], name, tls, nowMs),
  )
  const http = httpOptions(config.http)
  if (http !== null) problems.push(...tlsFileProblems(sources, ['http'], HTTP_NAME, http.tls, nowMs))
  problems.push(
    ...config.access.passwordFiles.flatMap((path, i) =>
      fileProblems(sources, ['access', 'password_files', i], path, parsePasswordFile),
    ),
    ...config.access.aclFiles.flatMap((path, i) =>
      fileProblems(sources, ['access', 'acl_files', i], path, parseAclFile),
    ),
  )
  if (problems.length > 0) throw new ConfigError(problems)
  return config
}

/** Returns the problems of the certificates and keys of a listener, whose keys begin with `at`. */
function tlsFileProblems(
  sources: Sources,
  at: readonly (string | number)[],
  listener: string,
  tls: TlsOptions | undefined,
  nowMs: number | undefined,
): ConfigProblem[] {
  if (tls === undefined) return []
  return tlsProblems(listener, tls, nowMs).map((error) => {
    const path = [...at, ...(error.key?.split('.') ?? [])]
    // The problem itself names the key; the message begins with the name of the listener.
    const message = error.key === undefined ? error.message : error.message.replace(`${error.key}: `, '')
    return { where: sources.where(path), key: path.join('.'), message: `${message}. ${error.advice}` }
  })
}

/** Returns the problems of a file that the configuration names, line by line. */
function fileProblems(
  sources: Sources,
  key: readonly (string | number)[],
  path: string,
  parse: (text: string, path: string) => unknown,
): ConfigProblem[] {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    const message = `${path} cannot be read: ${(error as NodeJS.ErrnoException).code}`
    return [{ where: sources.where(key), key: key.join('.'), message }]
  }
  try {
    parse(text, path)
    return []
  } catch (error) {
    if (!(error instanceof LinesError)) throw error
    return error.problems.map(({ line, message }) => ({ where: `${path}:${line}`, key: '', message }))
  }
}

function loadSources({ file, text, environment = {}, flags = {} }: ConfigSources): {
  config: Config
  sources: Sources
} {
  const sources = new Sources()
  const name = file ?? environment[FILE_VARIABLE]
  if (name !== undefined) sources.addFile(name, text ?? readConfigFile(name))
  sources.addEnvironment(environment)
  addFlags(sources, flags)

  const parsed = SCHEMA.safeParse(sources.tree)
  const problems = [
    ...sources.problems,
    ...(parsed.error?.issues.flatMap((issue) => problemsOf(sources, issue)) ?? []),
    ...listenerProblems(sources),
    ...httpProblems(sources),
  ]
  if (problems.length > 0 || parsed.data === undefined) throw new ConfigError(problems.toSorted(byLine))
  const config = toConfig(parsed.data)
  const taken = securityLogProblems(config, sources)
  if (taken.length > 0) throw new ConfigError(taken)
  return { config, sources }
}

/** Refuses a security log in the data directory under the name of one of the store's own files. */
function securityLogProblems({ data, log }: Config, sources: Sources): ConfigProblem[] {
  const path = log.securityFile
  if (path === null || data.durability === 'memory') return []
  if (dirname(resolve(path)) !== resolve(data.directory)) return []
  const name = basename(path)
  if (!isStoreFile(name) && name !== ACCOUNTS_FILE && name !== BANS_FILE && name !== BALLAST) return []
  const key = ['log', 'security_file']
  const message = `the store owns '${name}' in the data directory: choose another name, such as security.log`
  return [{ where: sources.where(key), key: key.join('.'), message }]
}

/** Reads a configuration file. Throws ConfigError. */
export function readConfigFile(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    const message = code === 'ENOENT' ? 'there is no such file' : `cannot be read: ${code}`
    throw new ConfigError([{ where: file, key: '', message }], 'GODWIT_CONFIG_UNREADABLE')
  }
}

function addFlags(sources: Sources, flags: ConfigFlags): void {
  for (const assignment of flags.set ?? []) sources.addAssignment('--set', assignment)
  if (flags.data !== undefined) sources.put('--data', ['data', 'directory'], flags.data)
  if (flags.durability !== undefined) sources.put('--durability', ['data', 'durability'], flags.durability)
  if (flags.user !== undefined) sources.put('--user', ['user'], flags.user)
  if (flags.logLevel !== undefined) sources.put('--log-level', ['log', 'level'], flags.logLevel)
  flagListeners(sources, flags)
}

function toConfig(settings: Settings): Config {
  // A key that is added to the table and forgotten here does not compile.
  const {
    data,
    access,
    queues,
    log,
    sys,
    http,
    user,
    shutdown_seconds: shutdownSeconds,
    ...others
  } = settings
  const { allow_anonymous, client_id, allowed_origins, listeners: given, limits, ...rest } = others
  expectNothing(rest)
  const { interval_seconds: sysIntervalSeconds, ...restOfSys } = sys
  expectNothing(restOfSys)
  const { denied_subscription_code: deniedSubscription, ...restOfAccess } = access
  const defaults = { allow_anonymous, client_id, allowed_origins }
  const listeners =
    given === undefined ? defaultListeners(defaults) : given.map((one) => listenerOptions(one, defaults))
  const ownLimits = [...LIMIT_KEYS].flatMap(([key, name]) =>
    limits[key] === undefined || limits[key] === AUTOMATIC ? [] : [name],
  )
  const ownValues = Object.fromEntries(ownLimits.map((name) => [name, limits[configKey(name)]]))
  return deepFreeze({
    data: camelCased(data),
    listeners,
    access: { ...camelCased(restOfAccess), deniedSubscription },
    limits: limitsWith({ memoryBytesMax: automaticMemoryBytes(), ...(ownValues as Partial<Limits>) }),
    ownLimits,
    queues: { ...camelCased(queues), defaults: camelCased(queues.defaults) },
    log: camelCased(log),
    http: httpConfig(http),
    sysIntervalSeconds,
    shutdownSeconds,
    loopbackOnly: listeners.every(isLoopbackOnly),
    user,
  })
}

/** At most so many unknown keys of a group are reported; more must have one common cause. */
const UNKNOWN_KEYS_MAX = 20

/** If a group has more keys, an error does not list all of them. */
const LISTED_KEYS_MAX = 20

/** Describes an issue of zod in terms of the configuration. */
function problemsOf(sources: Sources, issue: z.core.$ZodIssue): ConfigProblem[] {
  const path = issue.path as (string | number)[]
  const key = path.join('.')
  if (issue.code === 'unrecognized_keys') {
    const problems = issue.keys.slice(0, UNKNOWN_KEYS_MAX).map((unknown) => ({
      where: sources.where([...path, unknown]),
      key: truncate([...path, unknown].join('.')),
      message: unknownKey(path, unknown),
    }))
    const next = issue.keys[UNKNOWN_KEYS_MAX]
    if (next === undefined) return problems
    const message = `${issue.keys.length - problems.length} more unknown keys follow`
    return [...problems, { where: sources.where([...path, next]), key, message }]
  }
  const found = isSecret(path) ? SECRET : display(sources.at(path))
  return [{ where: sources.where(path), key, message: `found ${found}, allowed: ${allowed(issue, path)}` }]
}

function allowed(issue: z.core.$ZodIssue, path: readonly (string | number)[]): string {
  if (issue.code === 'custom') return issue.message
  if (path.length === 1 && path[0] === 'listeners') return 'a list with at least one listener'
  if (path.length === 2 && isQueueList(path)) return 'a list of queues, each with its name'
  return `a group of keys: ${keysBelow(path).join(', ')}`
}

function unknownKey(path: readonly (string | number)[], unknown: string): string {
  const siblings = keysBelow(path)
  const near = suggestion(unknown, siblings)
  if (near !== undefined) return `unknown key; did you mean ${[...path, near].join('.')}?`
  const elsewhere = KEYS.filter((key) => key.split('.').at(-1) === unknown)
  if (elsewhere.length > 0) return `unknown key here; did you mean ${elsewhere.join(' or ')}?`
  if (siblings.length <= LISTED_KEYS_MAX) return `unknown key; allowed here: ${siblings.join(', ')}`
  const similar = siblings.filter((key) => key.includes(unknown))
  if (similar.length === 0 || similar.length > LISTED_KEYS_MAX) {
    return `unknown key; config/godwit.example.yaml lists all ${siblings.length} keys of ${path.join('.')}`
  }
  return `unknown key; did you mean one of ${similar.join(', ')}?`
}

/** Returns the keys that are allowed directly under this path. */
function keysBelow(path: readonly (string | number)[]): string[] {
  if (path.length === 3 && isQueueList(path)) return [...QUEUE_KEYS]
  const inListener = path[0] === 'listeners' && typeof path[1] === 'number'
  const prefix = (inListener ? path.slice(2) : path).map((part) => `${part}.`).join('')
  const keys = (inListener ? LISTENER_KEYS : KEYS).filter((key) => key.startsWith(prefix))
  return [...new Set(keys.map((key) => key.slice(prefix.length).split('.', 1)[0]!))]
}

/** Whether a path begins with a key whose value is a list of queues. */
function isQueueList([section, key]: readonly (string | number)[]): boolean {
  return section === 'queues' && QUEUE_LISTS.includes(String(key))
}

/** Orders problems of the file by line, before all others. */
function byLine(one: ConfigProblem, other: ConfigProblem): number {
  return lineOf(one) - lineOf(other)
}

function lineOf({ where }: ConfigProblem): number {
  return Number(/:(\d+)$/.exec(where)?.[1] ?? Number.MAX_SAFE_INTEGER)
}

function deepFreeze<T extends object>(value: T): T {
  for (const inner of Object.values(value)) if (typeof inner === 'object' && inner !== null) deepFreeze(inner)
  return Object.freeze(value)
}
