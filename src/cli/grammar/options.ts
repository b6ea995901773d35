/** The options of all commands, and the kinds of their values. */
import { parseArgs } from 'node:util'
import { suggestion } from '../../config/suggestion.ts'
import type { ErrorCode } from '../../errors.ts'

/** The command line cannot be understood; the message says why. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
  readonly code: ErrorCode = 'GODWIT_USAGE'
  readonly advice = 'Try: godwit --help'
}

/** The options that locate the data directory, as for `start`. */
export interface DataLocation {
  readonly file: string | undefined
  readonly data: string | undefined
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
  declare: { type: 'string' },
  filter: { type: 'string', multiple: true },
  state: { type: 'string' },
  payload: { type: 'boolean' },
  to: { type: 'string' },
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

export type OptionName = keyof typeof OPTIONS

/** The given options of a command line. */
export type OptionValues = ReturnType<typeof parseOptions>['values']

/** The options that locate the data directory. */
export const PLACE = ['config', 'data'] as const satisfies readonly OptionName[]

const SECOND_UNITS: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 86_400 }

/** Separates options and positional arguments. Throws UsageError. */
export function parseOptions(words: readonly string[]) {
  try {
    return parseArgs({ args: [...words], options: OPTIONS, allowPositionals: true, strict: true })
  } catch (error) {
    throw new UsageError(wrongOption(error as NodeJS.ErrnoException))
  }
}

/** Says what is wrong with an option. The messages of `parseArgs` are for programmers. */
function wrongOption({ code, message }: NodeJS.ErrnoException): string {
  // An option is quoted as '--name', '-n, --name' or '--name <value>'.
  const [, quoted = '', dashes = '', found = ''] = /'((?:-\w, )?(--?)([^' ]+))/.exec(message) ?? []
  const named = quoted.split(', ').at(-1)!
  if (code === 'ERR_PARSE_ARGS_UNKNOWN_OPTION') {
    const [option = ''] = found.split('=')
    return `unknown option ${dashes}${option}${suggestionText(option, Object.keys(OPTIONS), '--')}`
  }
  if (code !== 'ERR_PARSE_ARGS_INVALID_OPTION_VALUE') return message
  if (message.includes('does not take an argument')) return `${named} takes no value`
  // A value that begins with a dash could be the next option.
  const dashed = message.includes('ambiguous') ? '; one that begins with - is written --option=VALUE' : ''
  return `${named} needs a value${dashed}`
}

/** Returns the options that locate the data directory. */
export function locationOf({ config, data }: OptionValues): DataLocation {
  return { file: config, data }
}

/** Reads a port. Throws UsageError. */
export function portOf(flag: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const port = Number(text)
  if (Number.isInteger(port) && port >= 1 && port <= 65_535) return port
  throw new UsageError(`${flag} ${text}: it must be a whole number from 1 to 65535`)
}

/** Reads a time such as `90s`. Throws UsageError. */
export function secondsOf(option: string, text: string): number {
  const [, number, unit = 's'] = /^(\d+)([smhd])?$/.exec(text) ?? []
  if (number !== undefined) return Number(number) * SECOND_UNITS[unit]!
  throw new UsageError(
    `${option} ${text}: it must be a number of seconds, or a time such as 90s, 5m, 2h or 30d`,
  )
}

/** Returns `; did you mean …?` if a known word is near. */
export function suggestionText(word: string, known: readonly string[], prefix = ''): string {
  const near = suggestion(word, known)
  return near === undefined ? '' : `; did you mean ${prefix}${near}?`
}
