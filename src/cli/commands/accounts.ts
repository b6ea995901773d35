/** Defines `godwit user` and `godwit role`. */
import type { AccountCommand } from '../../access/account-commands.ts'
import { type AccountsCommand, changeAccounts } from '../actions/account-commands.ts'
import { changeManyUsers } from '../actions/many-users.ts'
import { type Command, command, done } from '../grammar/command.ts'
import { ExitCode } from '../grammar/context.ts'
import { dataDirectory } from '../grammar/directories.ts'
import { locationOf, type OptionName, type OptionValues, PLACE, UsageError } from '../grammar/options.ts'

const PASSWORD: readonly OptionName[] = ['names', 'generate', 'password-file', 'no-password']

export const commands = [
  accountsCommand({
    name: 'user add',
    words: ['NAME'],
    areWordsOptional: true,
    options: ['role', 'keep-sessions', ...PASSWORD],
    help: `  godwit user add NAME       adds a user and asks for a password; --generate
                             creates a password and shows it
`,
    optionsHelp: `Options of user add, remove and password:
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
`,
  }),
  accountsCommand({
    name: 'user list',
    words: [],
    help: `  godwit user list           lists users; also remove, disable, enable and
                             password NAME
`,
  }),
  accountsCommand({ name: 'user remove', words: ['NAME'], options: ['delete-sessions'] }),
  accountsCommand({ name: 'user password', words: ['NAME'], areWordsOptional: true, options: PASSWORD }),
  accountsCommand({ name: 'user disable', words: ['NAME'] }),
  accountsCommand({ name: 'user enable', words: ['NAME'] }),
  accountsCommand({
    name: 'role add',
    words: ['ROLE'],
    takesMore: true,
    help: `  godwit role add ROLE RULE  adds a rule to a role, such as
                             'allow publish sensors/%u/#'
`,
  }),
  accountsCommand({
    name: 'role list',
    words: [],
    help: `  godwit role list           lists roles, their rules and users; also grant and
                             revoke ROLE USER, remove ROLE [RULE]
`,
  }),
  accountsCommand({ name: 'role remove', words: ['ROLE'], takesMore: true }),
  accountsCommand({ name: 'role grant', words: ['ROLE', 'USER'] }),
  accountsCommand({ name: 'role revoke', words: ['ROLE', 'USER'] }),
]

interface AccountsWords {
  readonly name: AccountCommand
  readonly words: readonly string[]
  readonly areWordsOptional?: boolean
  readonly takesMore?: boolean
  /** Its options beside those that all have. */
  readonly options?: readonly OptionName[]
  readonly help?: string
  readonly optionsHelp?: string
}

function accountsCommand({ options = [], ...of }: AccountsWords): Command {
  return command({
    ...of,
    options: [...PLACE, 'json', ...options],
    parse: (words, values) => ({
      location: locationOf(values),
      request: accountsRequest(of.name, words, values),
    }),
    run: async (context, { location, request }) => {
      const directory = dataDirectory(context, location)
      if (request.names === undefined) return done(context, await changeAccounts(directory, request, context))
      await changeManyUsers(directory, request, context)
      return ExitCode.CleanEnd
    },
  })
}

function accountsRequest(
  command: AccountCommand,
  words: readonly string[],
  values: OptionValues,
): AccountsCommand {
  const { generate = false, 'password-file': passwordFile, 'no-password': withoutPassword = false } = values
  if (Number(generate) + Number(passwordFile !== undefined) + Number(withoutPassword) > 1) {
    throw new UsageError(`${command} takes one of --generate, --password-file and --no-password`)
  }
  const { json = false, role: roles = [], names } = values
  checkNames(command, words, values)
  const secret = { generate, passwordFile, withoutPassword }
  const { 'keep-sessions': keepSessions = false, 'delete-sessions': deleteSessions = false } = values
  return {
    command,
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
  { names, generate, 'no-password': withoutPassword }: OptionValues,
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
