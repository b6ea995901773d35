/** The command line's words. */
import { parseArgs } from 'node:util'
import type { ConfigFlags } from '../config/sources.ts'
import { suggestion } from '../config/suggestion.ts'

export type Command =
  | { readonly name: 'start'; readonly file: string | undefined; readonly flags: ConfigFlags }
  | { readonly name: 'check'; readonly file: string }
  | { readonly name: 'help' }
  | { readonly name: 'version' }

/** The command line cannot be understood; the message says why. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

const COMMANDS = ['start', 'check']

const OPTIONS = {
  config: { type: 'string', short: 'c' },
  host: { type: 'string' },
  port: { type: 'string', short: 'p' },
  'ws-port': { type: 'string' },
  data: { type: 'string' },
  durability: { type: 'string' },
  'log-level': { type: 'string' },
  set: { type: 'string', multiple: true },
  version: { type: 'boolean', short: 'v' },
  help: { type: 'boolean', short: 'h' },
} as const

export const HELP = `Godwit is an MQTT broker: what it acknowledges is on the disk.

  godwit [start] [options]   starts the broker
  godwit check FILE          checks a configuration file

  -c, --config FILE          a configuration file (see config/godwit.example.yaml)
      --host ADDRESS         where to listen: 127.0.0.1 by default, 0.0.0.0 for all of IPv4, :: for all
  -p, --port PORT            listens for MQTT on this TCP port, and nowhere else; 0 takes a free one
      --ws-port PORT         the same for MQTT over WebSocket; both may be given
      --data DIR             where Sessions and messages are kept: ./godwit-data by default
      --durability KIND      what an acknowledgement promises: fsync (default), os or memory
      --log-level LEVEL      trace, debug, info (default), warn, error, fatal or silent
      --set KEY=VALUE        sets any configuration key, such as limits.queue_bytes_max=64MiB; repeatable
  -v, --version
  -h, --help

Every configuration key is also an environment variable, such as GODWIT_LIMITS_QUEUE_BYTES_MAX.
Exit codes: 0 clean end, 1 failure while running, 2 wrong usage or configuration.
`

/** Reads the words after the program's name. Throws UsageError. */
export function parseArguments(words: readonly string[]): Command {
  const { values, positionals } = parsed(words)
  if (values.help === true) return { name: 'help' }
  if (values.version === true) return { name: 'version' }
  const [name = 'start', ...rest] = positionals
  if (name === 'check') return check(rest, Object.keys(values))
  if (name !== 'start') throw new UsageError(`unknown command '${name}'${meant(name, COMMANDS)}`)
  if (rest.length > 0) throw new UsageError(`'${rest[0]}' is one word too many`)
  return {
    name,
    file: values.config,
    flags: {
      ...(values.host !== undefined && { host: values.host }),
      ...(values.port !== undefined && { port: values.port }),
      ...(values['ws-port'] !== undefined && { wsPort: values['ws-port'] }),
      ...(values.data !== undefined && { data: values.data }),
      ...(values.durability !== undefined && { durability: values.durability }),
      ...(values['log-level'] !== undefined && { logLevel: values['log-level'] }),
      ...(values.set !== undefined && { set: values.set }),
    },
  }
}

function check(files: readonly string[], options: readonly string[]): Command {
  const [file, ...rest] = files
  if (file === undefined) throw new UsageError('check needs a file: godwit check FILE')
  if (rest.length > 0) throw new UsageError(`'${rest[0]}' is one word too many`)
  if (options.length > 0) throw new UsageError(`check has no option --${options[0]}`)
  return { name: 'check', file }
}

function parsed(words: readonly string[]) {
  try {
    return parseArgs({ args: [...words], options: OPTIONS, allowPositionals: true, strict: true })
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    const unknown = /^Unknown option '--?([^']+)'/.exec(message)?.[1]
    if (unknown === undefined || code !== 'ERR_PARSE_ARGS_UNKNOWN_OPTION') throw new UsageError(message)
    const [option = ''] = unknown.split('=')
    throw new UsageError(`unknown option '${option}'${meant(option, Object.keys(OPTIONS), '--')}`)
  }
}

function meant(word: string, known: readonly string[], prefix = ''): string {
  const near = suggestion(word, known)
  return near === undefined ? '' : `; did you mean ${prefix}${near}?`
}
