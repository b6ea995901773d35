/** Parses the arguments of the command line. */

import { parseArgs } from 'node:util'
import { ACCOUNT_COMMANDS, type AccountCommand } from '../../access/account-commands.ts'
import { BAN_COMMANDS, type BanCommand } from '../../access/bans/ban-commands.ts'
import type { BanKind } from '../../broker/boundary/bans.ts'
import type { ConfigFlags } from '../../config/sources.ts'
import { suggestion } from '../../config/suggestion.ts'
import type { ErrorCode } from '../../errors.ts'
import type { ExportVersion } from '../../store/records/jsonl.ts'

export type Command =
  | { readonly name: 'start'; readonly file: string | undefined; readonly flags: ConfigFlags }
  | CheckCommand
  | SetupCommand
  | { readonly name: 'reload'; readonly location: DataLocation; readonly json: boolean }
  | { readonly name: 'help' }
  | { readonly name: 'version' }
  | StoreCommand
  | InventoryCommand
  | AccountsCommand
  | BansCommand
  | ExplainCommand

/** The options that locate the data directory, as for `start`. */
export interface DataLocation {
  readonly file: string | undefined
  readonly data: string | undefined
}

export interface CheckCommand {
  readonly name: 'check'
  readonly file: string
  /** Also asks the running broker what it would do with the file. */
  readonly againstRunning: boolean
  readonly data: string | undefined
  readonly json: boolean
}

export interface SetupCommand {
  readonly name: 'setup'
  readonly location: DataLocation
  readonly names: readonly string[]
  readonly addresses: readonly string[]
  readonly port: number | undefined
  readonly webSocketPort: number | undefined
  readonly user: string | undefined
  readonly renew: boolean
  readonly newKey: boolean
  readonly rsa: boolean
}

/** A command that works on a data directory. */
export type StoreCommand =
  | { readonly name: 'status'; readonly location: DataLocation; readonly json: boolean }
  | { readonly name: 'backup'; readonly location: DataLocation; readonly target: string }
  | {
      readonly name: 'restore'
      readonly location: DataLocation
      readonly source: string
      readonly force: boolean
    }
  /** `path` is `-` for stdout. */
  | {
      readonly name: 'export'
      readonly location: DataLocation
      readonly path: string
      /** The format of the lines; the newest when undefined. */
      readonly exportVersion: ExportVersion | undefined
    }
  /** `path` is `-` for stdin. */
  | {
      readonly name: 'import'
      readonly location: DataLocation
      readonly path: string
      readonly force: boolean
    }
  /** `directory` replaces `location` unless it is null. */
  | { readonly name: 'check-store'; readonly location: DataLocation; readonly directory: string | null }
  | { readonly name: 'repair'; readonly location: DataLocation; readonly directory: string | null }

/** The kinds of entries that commands list, show and delete in a running broker. */
export const INVENTORY_KINDS = ['client', 'session', 'subscription', 'retained'] as const

export type InventoryKind = (typeof INVENTORY_KINDS)[number]

/** A command for one kind of entries in a running broker. */
export interface InventoryCommand {
  readonly name: 'inventory'
  readonly location: DataLocation
  readonly json: boolean
  readonly kind: InventoryKind
  readonly verb: 'list' | 'show' | 'delete' | 'kick'
  /** A Client Identifier, perhaps with a topic filter, or a topic name; empty for `list`. */
  readonly words: readonly string[]
  readonly topic: string | undefined
  readonly client: string | undefined
  readonly user: string | undefined
  /** The number of lines; the command's default when undefined. */
  readonly limit: number | undefined
  /** The cursor at which an earlier page ended. */
  readonly after: string | undefined
  /** Selects Sessions whose clients have been away for at least so long. */
  readonly awaySeconds: number | undefined
  /** Only counts the matching entries. */
  readonly dryRun: boolean
}

/** A command for users and roles. */
export interface AccountsCommand {
  readonly name: 'accounts'
  readonly command: AccountCommand
  readonly location: DataLocation
  readonly json: boolean
  /** Names of users and roles, or a role and its rules. */
  readonly words: readonly string[]
  /** A file with many user names, one per line; `-` for stdin. */
  readonly names: string | undefined
  /** The roles of a new user. */
  readonly roles: readonly string[]
  readonly generate: boolean
  /** `-` for stdin. */
  readonly passwordFile: string | undefined
  readonly withoutPassword: boolean
  /** The new user takes over the Sessions under its name. */
  readonly keepSessions: boolean
  /** The Sessions of the removed user are deleted. */
  readonly deleteSessions: boolean
}

/** A command that lists, adds or removes bans. */
export interface BansCommand {
  readonly name: 'bans'
  readonly command: BanCommand
  readonly location: DataLocation
  readonly json: boolean
  /** Null for `list`. */
  readonly kind: BanKind | null
  readonly subject: string | null
  /** Null for a ban without end. */
  readonly seconds: number | null
  readonly reason: string
}

/** A command that asks which rule allows or denies an action. */
export interface ExplainCommand {
  readonly name: 'explain'
  readonly location: DataLocation
  readonly json: boolean
  readonly user: string | undefined
  readonly client: string | undefined
  readonly action: 'publish' | 'subscribe' | 'receive'
  /** A topic name; a topic filter for `subscribe`. */
  readonly topic: string
  readonly qos: 0 | 1 | 2
  readonly retain: boolean
}

/** The command line cannot be understood; the message says why. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
  readonly code: ErrorCode = 'GODWIT_USAGE'
  readonly advice = 'Try: godwit --help'
}

const OPTIONS = {
  config: { type: 'string', short: 'c' },
  host: { type: 'string' },
  port: { type: 'string', short: 'p' },
  'ws-port': { type: 'string' },
  data: { type: 'string' },
  durability: { type: 'string' },
  'log-level': { type: 'string' },
  set: { type: 'string', multiple: true },
  json: { type: 'boolean' },
  force: { type: 'boolean' },
  for: { type: 'string' },
  reason: { type: 'string' },
  topic: { type: 'string' },
  client: { type: 'string' },
  user: { type: 'string' },
  name: { type: 'string', multiple: true },
  address: { type: 'string', multiple: true },
  renew: { type: 'boolean' },
  'new-key': { type: 'boolean' },
  rsa: { type: 'boolean' },
  'against-running': { type: 'boolean' },
  role: { type: 'string', multiple: true },
  generate: { type: 'boolean' },
  'password-file': { type: 'string' },
  'no-password': { type: 'boolean' },
  names: { type: 'string' },
  'keep-sessions': { type: 'boolean' },
  'delete-sessions': { type: 'boolean' },
  publish: { type: 'string' },
  subscribe: { type: 'string' },
  receive: { type: 'string' },
  qos: { type: 'string' },
  retain: { type: 'boolean' },
  'older-than': { type: 'string' },
  'dry-run': { type: 'boolean' },
  yes: { type: 'boolean' },
  limit: { type: 'string' },
  after: { type: 'string' },
  version: { type: 'boolean', short: 'v' },
  help: { type: 'boolean', short: 'h' },
} as const

type OptionName = keyof typeof OPTIONS

const PLACE: readonly OptionName[] = ['config', 'data']

interface Grammar {
  /** The names of its positional arguments, as errors show them. */
  readonly words: readonly string[]
  readonly areWordsOptional?: boolean
  /** Whether any number of further words may follow. */
  readonly takesMore?: boolean
  readonly options: readonly OptionName[]
}

const LIST: readonly OptionName[] = [...PLACE, 'json', 'limit', 'after']

/** Options of commands that change one named entry or all that match. */
const MANY: readonly OptionName[] = [...PLACE, 'json', 'dry-run', 'yes']

/** Options that select the matching entries. */
const SELECTING = ['topic', 'client', 'user', 'older-than'] as const satisfies readonly OptionName[]

const SECOND_UNITS: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 86_400 }

const PASSWORD: readonly OptionName[] = ['generate', 'password-file', 'no-password']

/** The grammar of each command, which is one word or two. */
const GRAMMAR: Readonly<Record<string, Grammar>> = {
  start: {
    words: [],
    options: ['config', 'host', 'port', 'ws-port', 'data', 'durability', 'log-level', 'set', 'user'],
  },
  setup: {
    words: [],
    options: ['data', 'name', 'address', 'port', 'ws-port', 'user', 'renew', 'new-key', 'rsa'],
  },
  reload: { words: [], options: [...PLACE, 'json'] },
  check: { words: ['FILE'], options: ['against-running', 'data', 'json'] },
  status: { words: [], options: [...PLACE, 'json'] },
  backup: { words: ['TARGET'], options: PLACE },
  restore: { words: ['SOURCE'], options: [...PLACE, 'force'] },
  export: { words: ['FILE'], areWordsOptional: true, options: [...PLACE, 'for'] },
  import: { words: ['FILE'], areWordsOptional: true, options: [...PLACE, 'force'] },
  'check-store': { words: ['DIR'], areWordsOptional: true, options: PLACE },
  repair: { words: ['DIR'], areWordsOptional: true, options: PLACE },
  'user add': {
    words: ['NAME'],
    areWordsOptional: true,
    options: [...PLACE, 'json', 'role', 'keep-sessions', 'names', ...PASSWORD],
  },
  'user list': { words: [], options: [...PLACE, 'json'] },
  'user remove': { words: ['NAME'], options: [...PLACE, 'json', 'delete-sessions'] },
  'user password': {
    words: ['NAME'],
    areWordsOptional: true,
    options: [...PLACE, 'json', 'names', ...PASSWORD],
  },
  'user disable': { words: ['NAME'], options: [...PLACE, 'json'] },
  'user enable': { words: ['NAME'], options: [...PLACE, 'json'] },
  'role add': { words: ['ROLE'], takesMore: true, options: [...PLACE, 'json'] },
  'role list': { words: [], options: [...PLACE, 'json'] },
  'role remove': { words: ['ROLE'], takesMore: true, options: [...PLACE, 'json'] },
  'role grant': { words: ['ROLE', 'USER'], options: [...PLACE, 'json'] },
  'role revoke': { words: ['ROLE', 'USER'], options: [...PLACE, 'json'] },
  'ban add': {
    words: ['ADDRESS'],
    areWordsOptional: true,
    options: [...PLACE, 'json', 'client', 'user', 'for', 'reason'],
  },
  'ban list': { words: [], options: [...PLACE, 'json'] },
  'ban remove': {
    words: ['ADDRESS'],
    areWordsOptional: true,
    options: [...PLACE, 'json', 'client', 'user'],
  },
  'explain access': {
    words: [],
    options: [...PLACE, 'json', 'user', 'client', 'publish', 'subscribe', 'receive', 'qos', 'retain'],
  },
  'client list': { words: [], options: [...LIST, 'client', 'user'] },
  'client show': { words: ['CLIENT'], options: [...PLACE, 'json'] },
  'client kick': { words: ['CLIENT'], areWordsOptional: true, options: [...MANY, 'client', 'user'] },
  'client delete': {
    words: ['CLIENT'],
    areWordsOptional: true,
    options: [...MANY, 'client', 'user', 'older-than'],
  },
  'session list': { words: [], options: [...LIST, 'client', 'user', 'older-than'] },
  'session show': { words: ['CLIENT'], options: [...PLACE, 'json'] },
  'session delete': {
    words: ['CLIENT'],
    areWordsOptional: true,
    options: [...MANY, 'client', 'user', 'older-than'],
  },
  'subscription list': { words: [], options: [...LIST, 'topic', 'client', 'user'] },
  'subscription show': { words: ['CLIENT', 'FILTER'], options: [...PLACE, 'json'] },
  'subscription delete': {
    words: ['CLIENT', 'FILTER'],
    areWordsOptional: true,
    options: [...MANY, 'topic', 'client', 'user'],
  },
  'retained list': { words: [], options: [...LIST, 'topic', 'client'] },
  'retained show': { words: ['TOPIC'], options: [...PLACE, 'json'] },
  'retained delete': { words: ['TOPIC'], areWordsOptional: true, options: [...MANY, 'topic', 'client'] },
}

/** The text of `godwit --help`. */
export const HELP = `Godwit is an MQTT broker. It acknowledges a message once it is on disk.

  godwit [start] [options]   starts the broker
  godwit setup               creates certificates, an administrator and a
                             configuration in --data DIR; keeps existing files
  godwit check FILE          checks a configuration file; --against-running also
                             shows how it would change the running broker
  godwit reload              makes the running broker reread its configuration
                             and files; clients stay connected
  godwit status              shows the state of the running broker
  godwit user add NAME       adds a user and asks for a password; --generate
                             creates a password and shows it
  godwit user list           lists users; also remove, disable, enable and
                             password NAME
  godwit role add ROLE RULE  adds a rule to a role, such as
                             'allow publish sensors/%u/#'
  godwit role list           lists roles, their rules and users; also grant and
                             revoke ROLE USER, remove ROLE [RULE]
  godwit explain access      shows which rule allows or denies --publish,
                             --subscribe or --receive TOPIC for --user NAME
                             --client ID
  godwit ban add ADDRESS     bans an address, a network such as 203.0.113.0/24,
                             --client ID or --user NAME; also list and remove
  godwit client list         lists connected clients; also show, kick and delete
                             CLIENT
  godwit session list        lists Sessions; also show and delete CLIENT
  godwit subscription list   lists Subscriptions; also show and delete CLIENT
                             FILTER
  godwit retained list       lists retained messages; also show and delete TOPIC
  godwit backup TARGET       backs up the data, even while the broker runs, to a
                             file NAME.godwit-backup or to a directory
  godwit restore SOURCE      fills an empty data directory from a backup
  godwit export [FILE]       writes Sessions, queues, retained messages and
                             Wills as JSON lines; --for 0.1 for Godwit 0.1
  godwit import [FILE]       fills an empty data directory from such lines
  godwit check-store [DIR]   verifies all stored data; DIR may be a backup
  godwit repair [DIR]        rebuilds a damaged data directory from its sound
                             parts; keeps a copy of the old one

Options of start (-c and --data also apply to other commands):
  -c, --config FILE          configuration file (config/godwit.example.yaml)
      --data DIR             directory of Sessions and messages; ./godwit-data
                             by default
      --host ADDRESS         address to listen on; 127.0.0.1 by default, 0.0.0.0
                             for all of IPv4, :: for all
  -p, --port PORT            listens for MQTT on this TCP port only; 0 takes a
                             free one
      --ws-port PORT         the same for MQTT over WebSocket; both may be given
      --durability KIND      what acknowledged messages survive: fsync
                             (default), interval, os or memory
      --log-level LEVEL      trace, debug, info (default), warn, error, fatal
                             or silent
      --set KEY=VALUE        sets any configuration key, repeatable, such as
                             limits.queue_bytes_max=64MiB
      --user NAME            runs as this user when started by root; setup makes
                             this user the owner of the data directory

Options of setup:
      --name NAME --address ADDRESS
                             further names and addresses for the certificate;
                             repeatable
      --renew                creates new server certificates for the same keys
      --new-key              the same with new keys
      --rsa                  adds RSA if an earlier setup created only ECDSA

Options of user add, remove and password:
      --role ROLE            role of a new user; repeatable. Default 'client':
                             everything except $SYS; 'admin' is unrestricted
      --generate | --password-file FILE | --no-password
                             - as FILE is the standard input; a user without
                             password needs a client certificate
      --names FILE           many users, one name per line; - is the standard
                             input. With --generate the output is CSV, with
                             --json one object per line
      --keep-sessions        the new user takes over the Sessions under its name
      --delete-sessions      deletes the Sessions of the removed user

Options of ban add:
      --for 1h               how long; without it the ban has no end
      --reason TEXT          shown in ban list and the log, not to clients

Options of list, kick and delete:
      --client PATTERN       * stands for any characters, ? for one
      --user NAME            '' for clients without credentials
      --topic FILTER         a topic filter
      --older-than 30d       Sessions whose clients have been away for so long
      --dry-run | --yes      kick and delete: count all that match, or do it
      --limit N --after CURSOR
                             list: number of rows; where the last page ended

      --force                restore and import: moves existing data aside
      --json                 output for programs
  -v, --version
  -h, --help

Every configuration key is also an environment variable, such as
GODWIT_LIMITS_QUEUE_BYTES_MAX. Exit codes: 0 clean end, 1 failure while
running, 2 wrong usage or configuration.
`

/** Parses the arguments after the program's name. Throws UsageError. */
export function parseArguments(words: readonly string[]): Command {
  const { values, positionals } = parseOptions(words)
  if (values.help === true) return { name: 'help' }
  if (values.version === true) return { name: 'version' }
  const { name, words: given } = commandOf(positionals)
  checkGrammar(name, given, Object.keys(values))
  const [word] = given
  const location = { file: values.config, data: values.data }
  const force = values.force === true
  const [kind, verb] = name.split(' ')
  if (isInventoryKind(kind)) {
    return inventoryCommand(kind, verb as InventoryCommand['verb'], given, values)
  }
  const account = ACCOUNT_COMMANDS.find((known) => known === name)
  if (account !== undefined) return accountsCommand(account, given, values)
  const ban = BAN_COMMANDS.find((known) => known === name)
  if (ban !== undefined) return bansCommand(ban, given, values)
  switch (name) {
    case 'explain access':
      return explainCommand(values)
    case 'check':
      if (values['against-running'] !== true && values.data !== undefined) {
        throw new UsageError('check has --data only with --against-running')
      }
      return {
        name,
        file: word!,
        againstRunning: values['against-running'] === true,
        data: values.data,
        json: values.json === true,
      }
    case 'setup':
      return {
        name,
        location,
        names: values.name ?? [],
        addresses: values.address ?? [],
        port: portOf('--port', values.port),
        webSocketPort: portOf('--ws-port', values['ws-port']),
        user: values.user,
        renew: values.renew === true || values['new-key'] === true,
        newKey: values['new-key'] === true,
        rsa: values.rsa === true,
      }
    case 'reload':
      return { name, location, json: values.json === true }
    case 'status':
      return { name, location, json: values.json === true }
    case 'backup':
      return { name, location, target: word! }
    case 'restore':
      return { name, location, source: word!, force }
    case 'export':
      return { name, location, path: word ?? '-', exportVersion: exportVersionFor(values.for) }
    case 'import':
      return { name, location, path: word ?? '-', force }
    case 'check-store':
    case 'repair':
      if (word !== undefined && values.data !== undefined) {
        throw new UsageError(`${name} takes one directory: ${word}, or --data ${values.data}`)
      }
      return { name, location, directory: word ?? null }
    default:
      return { name: 'start', file: values.config, flags: startFlags(values) }
  }
}

/** Returns the export version that this version of Godwit reads. */
function exportVersionFor(godwit: string | undefined): ExportVersion | undefined {
  if (godwit === undefined) return undefined
  if (/^0\.1(\.\d+)?$/.test(godwit)) return 1
  throw new UsageError(`--for ${godwit}: the only earlier version with an export of its own is 0.1`)
}

function portOf(flag: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const port = Number(text)
  if (Number.isInteger(port) && port >= 1 && port <= 65_535) return port
  throw new UsageError(`${flag} ${text}: a number from 1 to 65535 is needed`)
}

function accountsCommand(
  command: AccountCommand,
  words: readonly string[],
  values: ReturnType<typeof parseOptions>['values'],
): AccountsCommand {
  const { generate = false, 'password-file': passwordFile, 'no-password': withoutPassword = false } = values
  if (Number(generate) + Number(passwordFile !== undefined) + Number(withoutPassword) > 1) {
    throw new UsageError(`${command} takes one of --generate, --password-file and --no-password`)
  }
  const { json = false, role: roles = [], names } = values
  checkNames(command, words, values)
  const location = { file: values.config, data: values.data }
  const secret = { generate, passwordFile, withoutPassword }
  const { 'keep-sessions': keepSessions = false, 'delete-sessions': deleteSessions = false } = values
  return {
    name: 'accounts',
    command,
    location,
    json,
    words,
    names,
    roles,
    ...secret,
    keepSessions,
    deleteSessions,
  }
}

/** Accepts one named user, or a file of users, who must not all get the same password. Throws UsageError. */
function checkNames(
  command: AccountCommand,
  words: readonly string[],
  { names, generate, 'no-password': withoutPassword }: ReturnType<typeof parseOptions>['values'],
): void {
  if (command !== 'user add' && command !== 'user password') return
  if (names === undefined) {
    if (words.length === 0) throw new UsageError(`${command} needs a name: godwit ${command} NAME`)
    return
  }
  if (words.length > 0) throw new UsageError(`${command} takes NAME, or --names FILE, not both`)
  const isEnough = generate === true || (command === 'user add' && withoutPassword === true)
  if (isEnough) return
  const how = command === 'user add' ? '--generate or --no-password' : '--generate'
  throw new UsageError(`${command} with --names needs ${how}`)
}

function bansCommand(
  command: BanCommand,
  [address]: readonly string[],
  values: ReturnType<typeof parseOptions>['values'],
): BansCommand {
  const { json = false, client, user, reason = '' } = values
  const named = (
    [
      ['address', address],
      ['client', client],
      ['user', user],
    ] as const
  ).flatMap(([kind, subject]) => (subject === undefined ? [] : [{ kind, subject }]))
  if (command !== 'ban list' && named.length !== 1) {
    throw new UsageError(`${command} needs one of ADDRESS, --client ID and --user NAME`)
  }
  const { kind = null, subject = null } = named[0] ?? {}
  const seconds = values.for === undefined ? null : secondsOf('--for', values.for)
  if (seconds === 0) throw new UsageError('--for 0: a ban must last at least a second')
  const location = { file: values.config, data: values.data }
  return { name: 'bans', command, location, json, kind, subject, seconds, reason }
}

function explainCommand(values: ReturnType<typeof parseOptions>['values']): ExplainCommand {
  const { json = false, user, client, retain = false } = values
  const asked = (['publish', 'subscribe', 'receive'] as const).filter(
    (action) => values[action] !== undefined,
  )
  const [action] = asked
  if (action === undefined || asked.length > 1) {
    throw new UsageError('explain access needs one of --publish TOPIC, --subscribe FILTER, --receive TOPIC')
  }
  const qos = ([0, 1, 2] as const).find((level) => String(level) === (values.qos ?? '0'))
  if (qos === undefined) throw new UsageError(`--qos ${values.qos}: 0, 1 or 2 is needed`)
  const location = { file: values.config, data: values.data }
  return { name: 'explain', location, json, user, client, action, topic: values[action]!, qos, retain }
}

function isInventoryKind(word: string | undefined): word is InventoryKind {
  return INVENTORY_KINDS.some((kind) => kind === word)
}

function inventoryCommand(
  kind: InventoryKind,
  verb: InventoryCommand['verb'],
  words: readonly string[],
  values: ReturnType<typeof parseOptions>['values'],
): InventoryCommand {
  if (verb === 'delete' || verb === 'kick') checkSelection(`${kind} ${verb}`, words, values)
  const { json = false, topic, client, user, after } = values
  const location = { file: values.config, data: values.data }
  const limit = values.limit === undefined ? undefined : Number(values.limit)
  if (limit !== undefined && !(Number.isInteger(limit) && limit > 0)) {
    throw new UsageError(`--limit ${values.limit}: a number from 1 is needed`)
  }
  const awaySeconds =
    values['older-than'] === undefined ? undefined : secondsOf('--older-than', values['older-than'])
  const dryRun = values['dry-run'] === true
  const which = { words, topic, client, user, awaySeconds }
  return { name: 'inventory', location, json, kind, verb, ...which, limit, after, dryRun }
}

/** Accepts one named entry, or a selection, which needs --dry-run or --yes. Throws UsageError. */
function checkSelection(
  command: string,
  words: readonly string[],
  values: ReturnType<typeof parseOptions>['values'],
): void {
  const { words: needed, options } = GRAMMAR[command]!
  const allowed = SELECTING.filter((option) => options.includes(option))
  const selecting = allowed.filter((option) => values[option] !== undefined)
  const isNamed = words.length === needed.length
  if (selecting.length === 0 && isNamed && values['dry-run'] !== true) return
  const missing = needed[words.length]
  if (words.length > 0 && missing !== undefined) {
    throw new UsageError(`${command} needs a ${missing.toLowerCase()}: godwit ${command} ${needed.join(' ')}`)
  }
  const selection = allowed.map((option) => `--${option}`).join(', ')
  if (words.length > 0 && selecting.length > 0) {
    throw new UsageError(`${command} takes ${needed.join(' and ')}, or what matches ${selection}, not both`)
  }
  if (selecting.length === 0) {
    throw new UsageError(`${command} needs ${needed.join(' and ')}, or one of ${selection} to say which`)
  }
  if (values['dry-run'] === true && values.yes === true) {
    throw new UsageError(`${command} takes one of --dry-run and --yes`)
  }
  // `retained delete --topic` has never needed --yes, and scripts depend on that.
  const isMeant = command === 'retained delete' && values.topic !== undefined
  if (values['dry-run'] !== true && values.yes !== true && !isMeant) {
    const given = `--${selecting[0]}`
    throw new UsageError(`${command} with ${given} needs --dry-run to count them, or --yes to do it`)
  }
}

function secondsOf(option: string, text: string): number {
  const [, number, unit = 's'] = /^(\d+)([smhd])?$/.exec(text) ?? []
  if (number !== undefined) return Number(number) * SECOND_UNITS[unit]!
  throw new UsageError(`${option} ${text}: give a number of seconds, or a time such as 90s, 5m, 2h or 30d`)
}

/** Splits off the command, which is the first word or the first two. */
function commandOf([first = 'start', second, ...rest]: readonly string[]): {
  readonly name: string
  readonly words: readonly string[]
} {
  const others = second === undefined ? [] : [second, ...rest]
  const verbs = Object.keys(GRAMMAR).flatMap((name) => {
    const [noun, verb] = name.split(' ')
    return noun === first && verb !== undefined ? [verb] : []
  })
  if (verbs.length === 0) return { name: first, words: others }
  if (second !== undefined && verbs.includes(second)) return { name: `${first} ${second}`, words: rest }
  const known = `one of ${verbs.join(', ')}`
  if (second === undefined) throw new UsageError(`${first} needs ${known}: godwit ${first} ${verbs[0]}`)
  throw new UsageError(`${first} has no '${second}'${suggestionText(second, verbs)}; it needs ${known}`)
}

function startFlags(values: ReturnType<typeof parseOptions>['values']): ConfigFlags {
  return {
    ...(values.host !== undefined && { host: values.host }),
    ...(values.port !== undefined && { port: values.port }),
    ...(values['ws-port'] !== undefined && { wsPort: values['ws-port'] }),
    ...(values.data !== undefined && { data: values.data }),
    ...(values.durability !== undefined && { durability: values.durability }),
    ...(values['log-level'] !== undefined && { logLevel: values['log-level'] }),
    ...(values.set !== undefined && { set: values.set }),
    ...(values.user !== undefined && { user: values.user }),
  }
}

function checkGrammar(name: string, words: readonly string[], options: readonly string[]): void {
  const grammar = Object.hasOwn(GRAMMAR, name) ? GRAMMAR[name] : undefined
  if (grammar === undefined) {
    const known = Object.keys(GRAMMAR).map((command) => command.split(' ')[0]!)
    throw new UsageError(`unknown command '${name}'${suggestionText(name, known)}`)
  }
  const { words: needed, areWordsOptional = false, takesMore = false, options: allowed } = grammar
  const missing = needed[words.length]
  if (!areWordsOptional && missing !== undefined) {
    throw new UsageError(`${name} needs a ${missing.toLowerCase()}: godwit ${name} ${needed.join(' ')}`)
  }
  const extra = takesMore ? undefined : words[needed.length]
  if (extra !== undefined) throw new UsageError(`'${extra}' is one word too many`)
  const wrong = options.find((option) => !allowed.some((known) => known === option))
  if (wrong !== undefined) throw new UsageError(`${name} has no option --${wrong}`)
}

function parseOptions(words: readonly string[]) {
  try {
    return parseArgs({ args: [...words], options: OPTIONS, allowPositionals: true, strict: true })
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    const unknown = /^Unknown option '--?([^']+)'/.exec(message)?.[1]
    if (unknown === undefined || code !== 'ERR_PARSE_ARGS_UNKNOWN_OPTION') throw new UsageError(message)
    const [option = ''] = unknown.split('=')
    throw new UsageError(`unknown option '${option}'${suggestionText(option, Object.keys(OPTIONS), '--')}`)
  }
}

function suggestionText(word: string, known: readonly string[], prefix = ''): string {
  const near = suggestion(word, known)
  return near === undefined ? '' : `; did you mean ${prefix}${near}?`
}
