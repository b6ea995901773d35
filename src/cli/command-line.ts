/** All commands: finds the one that is meant, checks its words and options, and describes all of them. */
import { version } from '../runtime/version.ts'
import { type Command, command, done } from './grammar/command.ts'
import { ExitCode } from './grammar/context.ts'
import { parseOptions, suggestionText, UsageError } from './grammar/options.ts'

interface CommandFile {
  readonly commands: readonly Command[]
}

const accounts = (): Promise<CommandFile> => import('./commands/accounts.ts')
const inventory = (): Promise<CommandFile> => import('./commands/inventory.ts')

/**
 * The files of commands by their first word, in the order of the help. A file is loaded when it is needed,
 * so that a broker starts sooner.
 */
const FILES: Readonly<Record<string, () => Promise<CommandFile>>> = {
  start: () => import('./commands/start.ts'),
  setup: () => import('./commands/setup.ts'),
  check: () => import('./commands/check.ts'),
  reload: () => import('./commands/reload.ts'),
  status: () => import('./commands/status.ts'),
  user: accounts,
  role: accounts,
  explain: () => import('./commands/explain.ts'),
  ban: () => import('./commands/ban.ts'),
  client: inventory,
  session: inventory,
  subscription: inventory,
  retained: inventory,
  queue: () => import('./commands/queue.ts'),
  backup: () => import('./commands/backup.ts'),
  restore: () => import('./commands/restore.ts'),
  export: () => import('./commands/export.ts'),
  import: () => import('./commands/import.ts'),
  'check-store': () => import('./commands/check-store.ts'),
  repair: () => import('./commands/repair.ts'),
}

const HELP_HEAD = 'Godwit is an MQTT broker. It acknowledges a message once it is on disk.\n'

const HELP_TAIL = `      --force                restore and import: moves existing data aside
      --json                 output for programs
  -v, --version
  -h, --help

Every configuration key is also an environment variable, such as
GODWIT_LIMITS_QUEUE_BYTES_MAX. Exit codes: 0 clean end, 1 failure while
running, 2 wrong usage or configuration.
`

const HELP = command({
  name: 'help',
  words: [],
  options: [],
  parse: () => null,
  run: async ({ stdout }) => {
    stdout.write(await helpText())
    return ExitCode.CleanEnd
  },
})

const VERSION = command({
  name: 'version',
  words: [],
  options: [],
  parse: () => null,
  run: async (context) => done(context, version()),
})

/** A command with its parsed arguments. */
export interface ParsedCommand {
  readonly command: Command
  readonly request: unknown
}

/** Parses the arguments after the program's name. Rejects with UsageError. */
export async function parseCommandLine(words: readonly string[]): Promise<ParsedCommand> {
  const { values, positionals } = parseOptions(words)
  if (values.help === true) return { command: HELP, request: null }
  if (values.version === true) return { command: VERSION, request: null }
  const { found, given } = await findCommand(positionals)
  checkGrammar(found, given, Object.keys(values))
  return { command: found, request: found.parse(given, values) }
}

/** Returns the text of `godwit --help`. */
export async function helpText(): Promise<string> {
  const files = await Promise.all([...new Set(Object.values(FILES))].map((load) => load()))
  const commands = files.flatMap((file) => file.commands)
  const usages = commands.map(({ help = '' }) => help).join('')
  const sections = commands.flatMap(({ optionsHelp = [] }) => optionsHelp)
  return [HELP_HEAD, usages, ...sections, HELP_TAIL].join('\n')
}

/** Splits off the command, which is the first word or the first two. */
async function findCommand([first = 'start', second, ...rest]: readonly string[]): Promise<{
  readonly found: Command
  readonly given: readonly string[]
}> {
  const load = Object.hasOwn(FILES, first) ? FILES[first] : undefined
  if (load === undefined) {
    throw new UsageError(`unknown command '${first}'${suggestionText(first, Object.keys(FILES))}`)
  }
  const { commands } = await load()
  const single = commands.find(({ name }) => name === first)
  const others = second === undefined ? [] : [second, ...rest]
  if (single !== undefined) return { found: single, given: others }
  const found = commands.find(({ name }) => name === `${first} ${second}`)
  if (found !== undefined) return { found, given: rest }
  const verbs = commands
    .map(({ name }) => name.split(' '))
    .flatMap(([noun, verb]) => (noun === first ? [verb!] : []))
  const known = `${first} needs one of ${verbs.join(', ')}`
  if (second === undefined) throw new UsageError(known)
  const suggested = suggestionText(second, verbs)
  throw new UsageError(`unknown command '${first} ${second}'${suggested === '' ? `; ${known}` : suggested}`)
}

function checkGrammar(
  { name, words: needed, areWordsOptional = false, takesMore = false, options: allowed }: Command,
  words: readonly string[],
  options: readonly string[],
): void {
  const missing = needed[words.length]
  if (!areWordsOptional && missing !== undefined) {
    throw new UsageError(`${name} needs a ${missing.toLowerCase()}: godwit ${name} ${needed.join(' ')}`)
  }
  const extra = takesMore ? undefined : words[needed.length]
  if (extra !== undefined) throw new UsageError(`${name} does not expect '${extra}'`)
  const wrong = options.find((option) => !allowed.some((known) => known === option))
  if (wrong !== undefined) throw new UsageError(`${name} has no option --${wrong}`)
}
