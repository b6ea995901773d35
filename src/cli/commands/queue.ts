/** Defines `godwit queue`, for a running broker. */
import { plainScalar } from '../../config/sources.ts'
import { writeFully } from '../actions/output.ts'
import { type QueueCommand, type QueueVerb, queue } from '../actions/queue-commands.ts'
import { type Command, command } from '../grammar/command.ts'
import { ExitCode } from '../grammar/context.ts'
import { dataDirectory } from '../grammar/directories.ts'
import { locationOf, type OptionName, type OptionValues, PLACE, UsageError } from '../grammar/options.ts'

interface QueueWords {
  readonly verb: QueueVerb
  /** Absent for `list`, which names no queue. */
  readonly word?: 'QUEUE'
  readonly options: readonly OptionName[]
  readonly help?: string
  readonly optionsHelp?: string
}

const WORDS: readonly QueueWords[] = [
  {
    verb: 'list',
    options: ['limit', 'after'],
    help: `  godwit queue list          lists queues; also show, consumers, peek, declare,
                             change, delete, purge, pause, resume, move and
                             replay QUEUE
`,
    optionsHelp: `Options of queue:
      --filter FILTER        declare and change: takes messages of these topics;
                             as often as needed
      --set KEY=VALUE        declare and change: a property, such as
                             delivery_limit=5
      --force                delete and purge: also with messages and consumers;
                             change: disconnects consumers that no longer fit
      --state STATE          peek: only messages that are ready, waiting,
                             in-flight, held, deferred or moving
      --payload              peek: shows the payloads
      --to QUEUE             move and replay: the target; replay puts dead
                             letters back by default
      --topic FILTER         move and replay: only messages of these topics
      --limit N              list, consumers, peek, move and replay
`,
  },
  { verb: 'show', word: 'QUEUE', options: [] },
  { verb: 'consumers', word: 'QUEUE', options: ['limit', 'after'] },
  { verb: 'peek', word: 'QUEUE', options: ['limit', 'state', 'payload'] },
  { verb: 'declare', word: 'QUEUE', options: ['filter', 'set'] },
  { verb: 'change', word: 'QUEUE', options: ['filter', 'set', 'force'] },
  { verb: 'delete', word: 'QUEUE', options: ['force'] },
  { verb: 'purge', word: 'QUEUE', options: ['force'] },
  { verb: 'pause', word: 'QUEUE', options: [] },
  { verb: 'resume', word: 'QUEUE', options: [] },
  { verb: 'move', word: 'QUEUE', options: ['to', 'topic', 'limit'] },
  { verb: 'replay', word: 'QUEUE', options: ['to', 'topic', 'limit'] },
]

export const commands = WORDS.map(queueCommand)

function queueCommand({ verb, word, options, help, optionsHelp }: QueueWords): Command {
  return command({
    name: `queue ${verb}`,
    words: word === undefined ? [] : [word],
    options: [...PLACE, 'json', ...options],
    ...(help !== undefined && { help }),
    ...(optionsHelp !== undefined && { optionsHelp }),
    parse: (words, values) => ({ location: locationOf(values), request: queueRequest(verb, words, values) }),
    run: async (context, { location, request }) => {
      const text = await queue(dataDirectory(context, location), request)
      await writeFully(context.stdout, `${text}\n`)
      return ExitCode.CleanEnd
    },
  })
}

function queueRequest(verb: QueueVerb, words: readonly string[], values: OptionValues): QueueCommand {
  const { json = false, force = false, payload = false, after, state, to, topic } = values
  if (verb === 'move' && to === undefined) throw new UsageError('queue move needs a target: --to QUEUE')
  const properties = propertiesOf(values)
  if (verb === 'change' && Object.keys(properties).length === 0) {
    throw new UsageError('queue change needs a property: --set KEY=VALUE or --filter FILTER')
  }
  const limit = values.limit === undefined ? undefined : Number(values.limit)
  if (limit !== undefined && !(Number.isInteger(limit) && limit > 0)) {
    throw new UsageError(`--limit ${values.limit}: it must be a whole number of at least 1`)
  }
  return { verb, words, json, force, payload, after, state, to, topic, limit, properties }
}

/** Reads --filter and --set. The broker knows the properties and their values. */
function propertiesOf({ filter, set = [] }: OptionValues): Readonly<Record<string, unknown>> {
  const properties: Record<string, unknown> = filter === undefined ? {} : { filters: filter }
  for (const assignment of set) {
    const equals = assignment.indexOf('=')
    if (equals < 1) throw new UsageError(`--set ${assignment}: it must be KEY=VALUE`)
    const key = assignment.slice(0, equals)
    if (Object.hasOwn(properties, key)) throw new UsageError(`--set ${key}: it is given twice`)
    properties[key] = readValue(assignment.slice(equals + 1))
  }
  return properties
}

/** Reads a number, true or false, a list in brackets, or text. */
function readValue(text: string): unknown {
  if (text.startsWith('[') && text.endsWith(']')) {
    return text
      .slice(1, -1)
      .split(',')
      .map((item) => item.trim())
      .filter((item) => item !== '')
  }
  return /^\d+\.\d+$/.test(text) ? Number(text) : (plainScalar(text) ?? text)
}
