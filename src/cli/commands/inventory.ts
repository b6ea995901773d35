/** Defines `godwit client`, `session`, `subscription` and `retained`, for a running broker. */
import { type InventoryCommand, type InventoryKind, inventory } from '../actions/inventory-commands.ts'
import { writeFully } from '../actions/output.ts'
import { type Command, command } from '../grammar/command.ts'
import { ExitCode } from '../grammar/context.ts'
import { dataDirectory } from '../grammar/directories.ts'
import {
  locationOf,
  type OptionName,
  type OptionValues,
  PLACE,
  secondsOf,
  UsageError,
} from '../grammar/options.ts'

/** The options beside those that locate the broker, by verb. */
const VERB_OPTIONS: Readonly<Record<InventoryCommand['verb'], readonly OptionName[]>> = {
  list: ['json', 'limit', 'after'],
  show: ['json'],
  kick: ['json', 'dry-run', 'yes'],
  delete: ['json', 'dry-run', 'yes'],
}

/** Options that select the matching entries. */
const SELECTING = ['topic', 'client', 'user', 'older-than'] as const satisfies readonly OptionName[]

interface InventoryWords {
  readonly kind: InventoryKind
  readonly verb: InventoryCommand['verb']
  readonly words?: readonly string[]
  /** Its options that select the matching entries. */
  readonly options?: readonly (typeof SELECTING)[number][]
  readonly help?: string
  readonly optionsHelp?: string
}

export const commands = [
  inventoryCommand({
    kind: 'client',
    verb: 'list',
    options: ['client', 'user'],
    help: `  godwit client list         lists connected clients; also show, kick and delete
                             CLIENT
`,
    optionsHelp: `Options of list, kick and delete:
      --client PATTERN       * stands for any characters, ? for one
      --user NAME            '' for clients without credentials
      --topic FILTER         a topic filter
      --older-than 30d       Sessions whose clients have been away for so long
      --dry-run | --yes      kick and delete: only count matches, or do it
      --limit N              list: at most N rows, 100 by default
      --after CURSOR         list: begins where the last page ended
`,
  }),
  inventoryCommand({ kind: 'client', verb: 'show', words: ['CLIENT'] }),
  inventoryCommand({ kind: 'client', verb: 'kick', words: ['CLIENT'], options: ['client', 'user'] }),
  inventoryCommand({
    kind: 'client',
    verb: 'delete',
    words: ['CLIENT'],
    options: ['client', 'user', 'older-than'],
  }),
  inventoryCommand({
    kind: 'session',
    verb: 'list',
    options: ['client', 'user', 'older-than'],
    help: `  godwit session list        lists Sessions; also show and delete CLIENT
`,
  }),
  inventoryCommand({ kind: 'session', verb: 'show', words: ['CLIENT'] }),
  inventoryCommand({
    kind: 'session',
    verb: 'delete',
    words: ['CLIENT'],
    options: ['client', 'user', 'older-than'],
  }),
  inventoryCommand({
    kind: 'subscription',
    verb: 'list',
    options: ['topic', 'client', 'user'],
    help: `  godwit subscription list   lists Subscriptions; also show and delete CLIENT
                             FILTER
`,
  }),
  inventoryCommand({ kind: 'subscription', verb: 'show', words: ['CLIENT', 'FILTER'] }),
  inventoryCommand({
    kind: 'subscription',
    verb: 'delete',
    words: ['CLIENT', 'FILTER'],
    options: ['topic', 'client', 'user'],
  }),
  inventoryCommand({
    kind: 'retained',
    verb: 'list',
    options: ['topic', 'client'],
    help: `  godwit retained list       lists retained messages; also show and delete TOPIC
`,
  }),
  inventoryCommand({ kind: 'retained', verb: 'show', words: ['TOPIC'] }),
  inventoryCommand({ kind: 'retained', verb: 'delete', words: ['TOPIC'], options: ['topic', 'client'] }),
]

function inventoryCommand(of: InventoryWords): Command {
  const { kind, verb, words = [], options = [], help, optionsHelp } = of
  return command({
    name: `${kind} ${verb}`,
    words,
    areWordsOptional: verb === 'kick' || verb === 'delete',
    options: [...PLACE, ...VERB_OPTIONS[verb], ...options],
    ...(help !== undefined && { help }),
    ...(optionsHelp !== undefined && { optionsHelp }),
    parse: (given, values) => ({
      location: locationOf(values),
      request: inventoryRequest(of, given, values),
    }),
    run: async (context, { location, request }) => {
      const text = await inventory(dataDirectory(context, location), request)
      await writeFully(context.stdout, `${text}\n`)
      return ExitCode.CleanEnd
    },
  })
}

function inventoryRequest(
  of: InventoryWords,
  words: readonly string[],
  values: OptionValues,
): InventoryCommand {
  const { kind, verb } = of
  if (verb === 'delete' || verb === 'kick') checkSelection(of, words, values)
  const { json = false, topic, client, user, after } = values
  const limit = values.limit === undefined ? undefined : Number(values.limit)
  if (limit !== undefined && !(Number.isInteger(limit) && limit > 0)) {
    throw new UsageError(`--limit ${values.limit}: it must be a whole number of at least 1`)
  }
  const awaySeconds =
    values['older-than'] === undefined ? undefined : secondsOf('--older-than', values['older-than'])
  const dryRun = values['dry-run'] === true
  const which = { words, topic, client, user, awaySeconds }
  return { json, kind, verb, ...which, limit, after, dryRun }
}

/** Accepts one named entry, or a selection, which needs --dry-run or --yes. Throws UsageError. */
function checkSelection(
  { kind, verb, words: needed = [], options = [] }: InventoryWords,
  words: readonly string[],
  values: OptionValues,
): void {
  const name = `${kind} ${verb}`
  const allowed = SELECTING.filter((option) => options.includes(option))
  const selecting = allowed.filter((option) => values[option] !== undefined)
  const isNamed = words.length === needed.length
  if (selecting.length === 0 && isNamed && values['dry-run'] !== true) return
  const missing = needed[words.length]
  if (words.length > 0 && missing !== undefined) {
    throw new UsageError(`${name} needs a ${missing.toLowerCase()}: godwit ${name} ${needed.join(' ')}`)
  }
  const selection = allowed.map((option) => `--${option}`).join(' or ')
  if (words.length > 0 && selecting.length > 0) {
    throw new UsageError(`${name} takes ${needed.join(' and ')} or a selection by ${selection}, not both`)
  }
  if (selecting.length === 0) {
    throw new UsageError(`${name} needs ${needed.join(' and ')}, or a selection by ${selection}`)
  }
  if (values['dry-run'] === true && values.yes === true) {
    throw new UsageError(`${name} takes one of --dry-run and --yes`)
  }
  // `retained delete --topic` has never needed --yes, and scripts depend on that.
  const isMeant = name === 'retained delete' && values.topic !== undefined
  if (values['dry-run'] !== true && values.yes !== true && !isMeant) {
    const given = `--${selecting[0]}`
    throw new UsageError(`${name} with ${given} needs --dry-run (only count) or --yes (do it)`)
  }
}
