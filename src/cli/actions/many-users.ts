/**
 * Runs `godwit user add|password --names FILE` for many users at once and writes their passwords as a
 * table.
 */
import type { Generated, UserList } from '../../access/account-commands.ts'
import { CLIENT_ROLE, type GeneratedFor } from '../../access/accounts.ts'
import { isName } from '../../access/accounts-file.ts'
import { printable } from '../../observe/printable.ts'
import type { AccountChange } from '../../runtime/running-access.ts'
import {
  type AccountsCommand,
  carryOut,
  effectLines,
  FIRST_USER_NOTE,
  inputFrom,
  type SecretSource,
  usesBroker,
} from './account-commands.ts'
import { type Output, writeFully } from './output.ts'
import { InputError } from './store-commands.ts'

/** The users of one request. Requests are kept small so that a running broker can work in between. */
const BATCH_USERS = 500
/**
 * The characters of their names: the control socket takes lines of 192 KiB, and JSON may need 12 bytes for
 * one.
 */
const BATCH_CHARACTERS = 16_000

const NAMES_BYTES_MAX = 64 * 1024 * 1024

/** The outputs: passwords go to stdout, everything else to stderr. */
export interface BulkOutput extends SecretSource {
  readonly stdout: Output
  readonly stderr: Output
}

/**
 * Adds the users in the file `command.names`, or gives them new passwords. Writes each `user,password` line
 * to stdout once it is in force. A wrong name changes nothing. Throws AccountsError, ControlError and
 * InputError.
 */
export async function changeManyUsers(
  directory: string,
  command: AccountsCommand,
  { stdin, stdout, stderr }: BulkOutput,
): Promise<void> {
  const { command: name, json, generate, keepSessions } = command
  const path = command.names!
  const isForBroker = await usesBroker(directory, command)
  const names = userNamesOf(await inputFrom(path, stdin, NAMES_BYTES_MAX), path)
  const known = (await carryOut(directory, isForBroker, 'user list', { words: [] })) as UserList
  expectNames(name, names, new Set(known.users.map((user) => user.name)))
  const roles = command.roles.length === 0 ? [CLIENT_ROLE] : command.roles
  if (generate && !json) await writeFully(stdout, 'user,password\n')
  let done = 0
  const told = new Set<string>()
  for (const words of batches(names)) {
    const parameters = { words, roles, keepSessions, ...(generate ? { generate } : { password: null }) }
    const result = (await carryOut(directory, isForBroker, name, parameters).catch((error: unknown) => {
      const note = done === 0 ? 'Nothing was changed.' : `The first ${done} of ${names.length} were done.`
      throw error instanceof Error ? new InputError(error.message, note, { cause: error }) : error
    })) as Partial<AccountChange & Generated & { readonly isFirst: boolean }>
    done += words.length
    await writeFully(stdout, (result.generated ?? []).map(json ? jsonLine : csvLine).join(''))
    const effects = result.effects === undefined ? [] : effectLines(words[0]!, name, result.effects)
    for (const line of result.isFirst === true ? [FIRST_USER_NOTE, ...effects] : effects) told.add(line)
  }
  const what =
    name === 'user add'
      ? `added with the role ${roles.map((role) => printable(role)).join(', ')}`
      : 'given new passwords'
  for (const line of told) stderr.write(`${line}\n`)
  stderr.write(`${names.length} users ${what}${generate ? '; their passwords are shown only once' : ''}\n`)
}

/** Reads one name per line and skips empty lines. Throws InputError. */
function userNamesOf(content: Buffer, path: string): string[] {
  const where = path === '-' ? 'the standard input' : path
  const text = content.toString('utf8')
  if (!Buffer.from(text, 'utf8').equals(content))
    throw new InputError(`${where} is not UTF-8`, 'It must hold one name per line.')
  const names = new Set<string>()
  for (const [index, line] of text
    .replace(/^\ufeff/, '')
    .split('\n')
    .entries()) {
    const name = line.replace(/\r$/, '')
    if (name === '') continue
    const problem = isName(name) ? (names.has(name) ? 'occurs twice' : null) : 'is not a valid user name'
    if (problem !== null) {
      const advice = 'Nothing was changed. A name has 1 to 256 printable characters.'
      throw new InputError(`${where}, line ${index + 1}: ${JSON.stringify(name)} ${problem}`, advice)
    }
    names.add(name)
  }
  if (names.size === 0) throw new InputError(`${where} has no names`, 'It must hold one name per line.')
  return [...names]
}

function expectNames(command: string, names: readonly string[], known: ReadonlySet<string>): void {
  const wrong = names.filter((name) => known.has(name) === (command === 'user add'))
  const [first] = wrong
  if (first === undefined) return
  const others = wrong.length === 1 ? '' : ` (and ${wrong.length - 1} more)`
  const what = command === 'user add' ? `the user '${first}' exists` : `there is no user '${first}'`
  throw new InputError(`${what}${others}`, 'Nothing was changed. Leave these names out: `godwit user list`.')
}

function* batches(names: readonly string[]): Generator<string[]> {
  let batch: string[] = []
  let characters = 0
  for (const name of names) {
    if (batch.length === BATCH_USERS || characters + name.length > BATCH_CHARACTERS) {
      yield batch
      batch = []
      characters = 0
    }
    batch.push(name)
    characters += name.length
  }
  yield batch
}

/** Writes a line by RFC 4180; a password never needs quotes. */
function csvLine({ name, password }: GeneratedFor): string {
  const field = /[",]|^\s|\s$/.test(name) ? `"${name.replaceAll('"', '""')}"` : name
  return `${field},${password}\n`
}

function jsonLine({ name, password }: GeneratedFor): string {
  return `${JSON.stringify({ name, password })}\n`
}
