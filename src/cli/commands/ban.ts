/** Defines `godwit ban`. */
import type { BanCommand } from '../../access/bans/ban-commands.ts'
import { type BansCommand, changeBans } from '../actions/ban-commands.ts'
import { type Command, command, done } from '../grammar/command.ts'
import { dataDirectory } from '../grammar/directories.ts'
import {
  locationOf,
  type OptionName,
  type OptionValues,
  PLACE,
  secondsOf,
  UsageError,
} from '../grammar/options.ts'

export const commands = [
  banCommand({
    name: 'ban add',
    words: ['ADDRESS'],
    areWordsOptional: true,
    options: ['client', 'user', 'for', 'reason'],
    help: `  godwit ban add ADDRESS     bans an address, a network such as 203.0.113.0/24,
                             --client ID or --user NAME; also list and remove
`,
    optionsHelp: `Options of ban add:
      --for 1h               how long; without it the ban has no end
      --reason TEXT          shown in ban list and the log, not to clients
`,
  }),
  banCommand({ name: 'ban list', words: [], options: [] }),
  banCommand({ name: 'ban remove', words: ['ADDRESS'], areWordsOptional: true, options: ['client', 'user'] }),
]

interface BanWords {
  readonly name: BanCommand
  readonly words: readonly string[]
  readonly areWordsOptional?: boolean
  /** Its options beside those that all have. */
  readonly options: readonly OptionName[]
  readonly help?: string
  readonly optionsHelp?: string
}

function banCommand(of: BanWords): Command {
  return command({
    ...of,
    options: [...PLACE, 'json', ...of.options],
    parse: (words, values) => ({
      location: locationOf(values),
      request: bansRequest(of.name, words, values),
    }),
    run: async (context, { location, request }) =>
      done(context, await changeBans(dataDirectory(context, location), request)),
  })
}

function bansRequest(name: BanCommand, [address]: readonly string[], values: OptionValues): BansCommand {
  const { json = false, client, user, reason = '' } = values
  const named = (
    [
      ['address', address],
      ['client', client],
      ['user', user],
    ] as const
  ).flatMap(([kind, subject]) => (subject === undefined ? [] : [{ kind, subject }]))
  if (name !== 'ban list' && named.length !== 1) {
    throw new UsageError(`${name} needs one of ADDRESS, --client ID and --user NAME`)
  }
  const { kind = null, subject = null } = named[0] ?? {}
  const seconds = values.for === undefined ? null : secondsOf('--for', values.for)
  if (seconds === 0) throw new UsageError('--for 0: a ban must last at least a second')
  return { command: name, json, kind, subject, seconds, reason }
}
