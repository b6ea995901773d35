/**
 * Runs `godwit user`, `godwit role` and `godwit explain access`, on the running broker or on the accounts
 * file.
 */
import { readFile } from 'node:fs/promises'
import { Access } from '../../access/access.ts'
import type { AccessOptions } from '../../access/access-options.ts'
import {
  type AccountCommand,
  type Added,
  accountCommand,
  explainAccess,
  type Generated,
  type RoleList,
  type UserList,
} from '../../access/account-commands.ts'
import { Accounts, CLIENT_ROLE, type UserView } from '../../access/accounts.ts'
import type { Decision } from '../../access/decision.ts'
import type { ReplyRules } from '../../access/reply-rights.ts'
import { ask, brokerAnswers } from '../../admin/control-client.ts'
import type { Matches } from '../../admin/matches.ts'
import { printable } from '../../observe/printable.ts'
import type { AccountChange, AccountEffects } from '../../runtime/running-access.ts'
import { makeDirectory } from '../../store/files/data-directory.ts'
import { shellWord } from '../../transport/tls/shell-word.ts'
import { InputError } from './store-commands.ts'
import { table } from './table.ts'

const PASSWORD_BYTES_MAX = 65_535

/** A command for users and roles. */
export interface AccountsCommand {
  readonly command: AccountCommand
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

/** A command that asks which rule allows or denies an action. */
export interface ExplainCommand {
  readonly json: boolean
  readonly user: string | undefined
  readonly client: string | undefined
  readonly action: 'publish' | 'subscribe' | 'receive' | 'declare'
  /** A topic name; a topic filter for `subscribe`. */
  readonly topic: string
  readonly qos: 0 | 1 | 2
  readonly retain: boolean
}

/** The sources of passwords other than files. */
export interface SecretSource {
  readonly stdin: AsyncIterable<Uint8Array>
  /** Asks on the terminal without echoing; null without a terminal. */
  readonly askSecret: ((prompt: string) => Promise<string>) | null
}

/** Runs the command and returns its output. Throws AccountsError, RuleError, ControlError and InputError. */
export async function changeAccounts(
  directory: string,
  command: AccountsCommand,
  secrets: SecretSource,
): Promise<string> {
  const { command: name, words, keepSessions, deleteSessions } = command
  const isForBroker = await usesBroker(directory, command)
  const needsPassword = name === 'user add' || name === 'user password'
  const password = needsPassword ? await readPassword(command, secrets) : null
  const roles = command.roles.length === 0 ? [CLIENT_ROLE] : command.roles
  const { generate } = command
  const secret = generate ? { generate } : { password }
  const parameters = { words: joinRules(name, words), roles, ...secret, keepSessions, deleteSessions }
  const result = await carryOut(directory, isForBroker, name, parameters)
  if (name === 'user list') return userTable(result as UserList, command.json)
  if (name === 'role list') return roleTable(result as RoleList, command.json)
  const text = done(name, parameters.words, roles)
  const { effects, isFirst = false, generated = [] } = result as Partial<AccountChange & Added & Generated>
  const made = generated[0]?.password
  if (command.json)
    return JSON.stringify({ done: text, ...(made !== undefined && { password: made }), effects })
  const lines = [
    ...(isFirst ? [FIRST_USER_NOTE] : []),
    ...(effects === undefined ? [] : effectLines(words[0] ?? '', name, effects)),
  ]
  const shown = [text, ...lines].join('\n')
  // The last line is the password alone, for `$(godwit user add … | tail -1)`.
  if (made === undefined) return shown
  return `${shown}${lines.length === 0 ? '; ' : '\n'}its password is shown only once:\n${made}`
}

/**
 * Whether a running broker carries out the command. Throws InputError if none runs and an option needs one.
 */
export async function usesBroker(
  directory: string,
  { keepSessions, deleteSessions }: AccountsCommand,
): Promise<boolean> {
  const isForBroker = await brokerAnswers(directory)
  if (isForBroker || (!deleteSessions && !keepSessions)) return isForBroker
  const option = deleteSessions ? '--delete-sessions' : '--keep-sessions'
  throw new InputError(
    `no broker answers for ${directory}, and ${option} needs a running broker`,
    'Nothing was changed. Start the broker first, or leave the option out.',
  )
}

/** Lets the running broker carry out a command, or changes the files here. */
export function carryOut(
  directory: string,
  isForBroker: boolean,
  name: AccountCommand,
  parameters: Readonly<Record<string, unknown>>,
): Promise<unknown> {
  return isForBroker ? ask(directory, name, parameters) : changeFiles(directory, name, parameters)
}

/** The notice after the first user was added. */
export const FIRST_USER_NOTE =
  'from now on only listeners with allow_anonymous accept clients without credentials'

/** Describes the effects of a change on connections, Wills, Subscriptions and Sessions, a line for each. */
export function effectLines(given: string, command: AccountCommand, effects: AccountEffects): string[] {
  const name = printable(given)
  const { connectionsEnded, anonymousEnded, willsPublished, willsDenied } = effects
  const { subscriptionsSuspended, sessionsSuspended, subscriptionsResumed } = effects
  const { formerSessions, keptSessions, anonymousSessions, isDeleted } = effects
  const anonymous = anonymousEnded === 0 ? '' : ` (${anonymousEnded} without credentials)`
  const suspended =
    `${counted(subscriptionsSuspended, 'Subscription')} of ` +
    `${counted(sessionsSuspended, 'Session')} suspended until they are allowed again`
  const told: (string | false)[] = [
    connectionsEnded > 0 && `${counted(connectionsEnded, 'connection')} ended${anonymous}`,
    willsPublished > 0 && `${counted(willsPublished, 'Will')} of ended connections published`,
    willsDenied > 0 &&
      `${counted(willsDenied, 'Will')} of ended connections not published: no longer allowed`,
    // Subscriptions of a removed user never resume; lines about its Sessions follow below.
    command !== 'user remove' && subscriptionsSuspended > 0 && suspended,
    subscriptionsResumed > 0 && `${counted(subscriptionsResumed, 'Subscription')} active again`,
    keptSessions.count > 0 && `${sessionsText(keptSessions, `of ${name}`)} kept by this user`,
    command === 'user add' &&
      formerSessions.count > 0 &&
      `${sessionsText(formerSessions, `of an earlier user ${name}`)}: ` +
        'not given to this user; each ends when its client connects',
    command === 'user remove' &&
      formerSessions.count > 0 &&
      leftSessionsText(name, formerSessions, isDeleted),
    anonymousSessions.count > 0 &&
      `${sessionsText(anonymousSessions, 'of clients without credentials')}: ` +
        'each ends when a user takes its Client Identifier',
    anonymousSessions.count > 0 && "to delete all of these now: godwit session delete --user '' --yes",
  ]
  return told.filter((line) => line !== false)
}

function leftSessionsText(name: string, sessions: Matches, isDeleted: boolean): string {
  if (isDeleted) return `${sessionsText(sessions, `of ${name}`)} deleted`
  const how = `godwit session delete --user ${shellWord(name)} --yes`
  const left = `${sessionsText(sessions, `of ${name}`)} left; no other user gets them`
  return `${left}\nto delete all of them now: ${how}`
}

function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`
}

/** Describes Sessions as in `2 Sessions of alice (a, b; 3 messages waiting)`. */
function sessionsText({ count, names, messages }: Matches, whose: string): string {
  const such = `${names.map((name) => printable(name)).join(', ')}${count > names.length ? ', …' : ''}`
  const waiting = messages === 0 ? '' : `; ${counted(messages, 'message')} waiting`
  return `${counted(count, 'Session')} ${whose} (${such}${waiting})`
}

/** Tells which rule allows or denies an action. Throws as `changeAccounts` does. */
export async function explain(
  directory: string,
  options: AccessOptions,
  queues: ReplyRules,
  command: ExplainCommand,
): Promise<string> {
  const { user, client, action, topic, qos, retain } = command
  const parameters = { user: user ?? null, client: client ?? '', action, topic, qos, retain }
  const decision = (
    (await brokerAnswers(directory))
      ? await ask(directory, 'explain access', parameters)
      : await explainHere(directory, options, queues, parameters)
  ) as Decision
  if (command.json) return JSON.stringify(decision)
  const who = user === undefined ? 'an anonymous client' : `user '${printable(user)}'`
  const what = `${action} ${printable(topic)}`
  return [
    `${decision.allow ? 'allowed' : 'denied'}: ${who} ${decision.allow ? 'may' : 'may not'} ${what}`,
    `decided by ${printable(decision.source)}: ${printable(decision.rule)}`,
    ...(user === undefined && decision.allow ? ['if allow_anonymous of the listener accepts it'] : []),
  ].join('\n')
}

async function changeFiles(
  directory: string,
  name: AccountCommand,
  parameters: Readonly<Record<string, unknown>>,
): Promise<unknown> {
  await makeDirectory(directory, 0o700)
  return accountCommand(await Accounts.open(directory), name, parameters, () => {})
}

async function explainHere(
  directory: string,
  options: AccessOptions,
  queues: ReplyRules,
  parameters: Readonly<Record<string, unknown>>,
): Promise<Decision> {
  const access = await Access.open(options, directory, { changed() {}, failed() {}, busy() {}, guesses() {} })
  return explainAccess(access, queues, parameters)
}

/** Joins the words of a rule, which may be given as one word or as several. */
function joinRules(name: AccountCommand, words: readonly string[]): readonly string[] {
  const [role, verb, ...rest] = words
  const isSplit = (name === 'role add' || name === 'role remove') && (verb === 'allow' || verb === 'deny')
  return isSplit ? [role!, [verb, ...rest].join(' ')] : words
}

async function readPassword(
  { generate, passwordFile, withoutPassword, words }: AccountsCommand,
  { stdin, askSecret }: SecretSource,
): Promise<string | null> {
  if (withoutPassword || generate) return null
  if (passwordFile !== undefined)
    return singleLine(await inputFrom(passwordFile, stdin, PASSWORD_BYTES_MAX + 2), passwordFile)
  if (askSecret === null) {
    throw new InputError(
      'there is no terminal to ask for a password',
      'Use --generate, or --password-file FILE; - as FILE is the standard input.',
    )
  }
  const name = printable(words[0] ?? '')
  const password = await askSecret(`Password for ${name}: `)
  if (password !== (await askSecret('Again: '))) {
    throw new InputError('the passwords differ', 'Nothing was changed. Try again.')
  }
  return password
}

/**
 * Returns the only line without its line end. Throws InputError for several lines, which must be a mistake.
 */
function singleLine(content: Buffer, path: string): string {
  const text = content.toString('utf8').replace(/\r?\n$/, '')
  if (
    text === '' ||
    /[\r\n]/.test(text) ||
    !Buffer.from(text, 'utf8').equals(content.subarray(0, Buffer.byteLength(text)))
  ) {
    const name = path === '-' ? 'the standard input' : path
    throw new InputError(`${name} is not one line of UTF-8`, 'It must hold the password and nothing else.')
  }
  return text
}

/**
 * Reads a file, or for `-` the standard input up to `bytesMax` and the rest of a chunk. Throws InputError.
 */
export async function inputFrom(
  path: string,
  stdin: AsyncIterable<Uint8Array>,
  bytesMax: number,
): Promise<Buffer> {
  if (path !== '-') {
    try {
      return await readFile(path)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      throw new InputError(`${path} cannot be read: ${code}`, 'Name a file that can be read.')
    }
  }
  const chunks: Uint8Array[] = []
  let bytes = 0
  for await (const chunk of stdin) {
    chunks.push(chunk)
    bytes += chunk.length
    if (bytes > bytesMax) break
  }
  return Buffer.concat(chunks)
}

function userTable({ users: all }: UserList, asJson: boolean): string {
  if (asJson) return JSON.stringify(all)
  if (all.length === 0) return 'there are no users; to add one: godwit user add NAME --generate'
  return table(
    [
      { title: 'USER', value: ({ name }) => name },
      { title: 'PASSWORD', value: passwordText },
      { title: 'STATE', value: ({ disabled }) => (disabled ? 'disabled' : 'enabled') },
      { title: 'ROLES', value: ({ roles }) => roles.join(', ') },
    ],
    all,
  ).join('\n')
}

function passwordText({ hasPassword, isPasswordGenerated }: UserView): string {
  if (!hasPassword) return 'no'
  return isPasswordGenerated ? 'generated' : 'chosen'
}

function roleTable({ roles }: RoleList, asJson: boolean): string {
  if (asJson) return JSON.stringify(roles)
  if (roles.length === 0) return "there are no roles; to make one: godwit role add NAME 'allow publish a/#'"
  const rows = roles.flatMap(({ name, rules, users: granted }) => {
    const [first = '(no rule)', ...others] = rules
    return [
      { name, rule: first, granted: granted.join(', ') },
      ...others.map((rule) => ({ name: '', rule, granted: '' })),
    ]
  })
  return table(
    [
      { title: 'ROLE', value: ({ name }) => name },
      { title: 'RULE', value: ({ rule }) => rule },
      { title: 'USERS', value: ({ granted }) => granted },
    ],
    rows,
  ).join('\n')
}

function done(name: AccountCommand, words: readonly string[], roles: readonly string[]): string {
  const [first = '', second = '', ...rest] = words.map(printable)
  switch (name) {
    case 'user add':
      return `user ${first} added with the role ${roles.map(printable).join(', ')}`
    case 'user remove':
      return `user ${first} removed`
    case 'user password':
      return `password of user ${first} changed`
    case 'user disable':
      return `user ${first} disabled`
    case 'user enable':
      return `user ${first} enabled`
    case 'role add':
    case 'role remove': {
      const count = words.length - 1
      if (count === 0) return `role ${first} ${name === 'role add' ? 'added' : 'removed'}`
      const rules = [second, ...rest].join('; ')
      return `role ${first}: ${name === 'role add' ? 'added' : 'removed'} ${rules}`
    }
    case 'role grant':
      return `role ${first} granted to ${second}`
    case 'role revoke':
      return `role ${first} taken from ${second}`
    case 'user list':
    case 'role list':
      return ''
  }
}
