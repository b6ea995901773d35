/**
 * Carries out the operator's commands for users, roles and rights, in a running broker or on the file of
 * accounts.
 */
import type { SecurityEvent } from '../broker/boundary/security.ts'
import type { QoS } from '../mqtt/packet.ts'
import { parseAddress, parseSubscription } from '../mqtt/server-topics.ts'
import { topicFilterError, topicNameError } from '../mqtt/topics.ts'
import type { Access } from './access.ts'
import type { Accounts, GeneratedFor, UserView } from './accounts.ts'
import { AccountsError, type Role } from './accounts-file.ts'
import type { Decision, Request } from './decision.ts'
import { decideReply, type ReplyRules } from './reply-rights.ts'

/** The commands that need only the accounts. */
export const ACCOUNT_COMMANDS = [
  'user add',
  'user list',
  'user remove',
  'user password',
  'user disable',
  'user enable',
  'role add',
  'role list',
  'role remove',
  'role grant',
  'role revoke',
] as const

/** A command that needs only the accounts. */
export type AccountCommand = (typeof ACCOUNT_COMMANDS)[number]

/** The parameters of a command, as parsed from JSON: nothing about them is checked yet. */
export type Parameters = Readonly<Record<string, unknown>>

/** A change, for the security log. */
export type AccountEvent = Omit<SecurityEvent, 'by'>

/** The answer to `user list`. */
export interface UserList {
  readonly users: readonly UserView[]
}

/** The answer to `role list`. */
export interface RoleList {
  readonly roles: readonly (Role & { readonly users: readonly string[] })[]
}

/** The answer to `user password`. */
export interface Generated {
  /** The generated passwords, which are shown only once; empty if the operator chose one. */
  readonly generated: readonly GeneratedFor[]
}

/** The answer to `user add`. */
export interface Added extends Generated {
  /** Whether there was no user and no role before, so that the first user may have ended anonymous access. */
  readonly isFirst: boolean
}

/**
 * Carries out a command. Its parameter `words` names users or roles. `user add` and `user password` take
 * several users if `generate` asks for a new password for each, and `user add` also if `password` is null
 * for none; `roles` are those of new users. Calls `tell` for each change. Throws AccountsError and RuleError.
 */
export async function accountCommand(
  accounts: Accounts,
  command: AccountCommand,
  parameters: Parameters,
  tell: (event: AccountEvent) => void,
): Promise<UserList | RoleList | Added | Generated | Record<string, never>> {
  const words = wordsOf(parameters)
  const [first = '', second = ''] = words
  const done = (kind: AccountEvent['kind'], subject: string, detail = ''): Record<string, never> => {
    tell({ kind, subject, detail })
    return {}
  }
  switch (command) {
    case 'user list':
      return { users: accounts.list() }
    case 'role list':
      return { roles: rolesWithUsers(accounts) }
    case 'user add': {
      const roles = textsOf(parameters.roles)
      const isFirst = accounts.isEmpty
      const generated = await add(accounts, words, roles, parameters)
      const detail = roles.length === 0 ? 'without a role' : `roles ${roles.join(', ')}`
      for (const name of words) done('user-added', name, detail)
      return { isFirst, generated }
    }
    case 'user remove':
      await accounts.removeUser(first)
      return done('user-removed', first)
    case 'user password': {
      const generated = await setPasswords(accounts, words, parameters)
      for (const name of words) done('password-changed', name)
      return { generated }
    }
    case 'user disable':
      await accounts.setDisabled(first, true)
      return done('user-disabled', first)
    case 'user enable':
      await accounts.setDisabled(first, false)
      return done('user-enabled', first)
    case 'role add': {
      const isNew = accounts.role(first) === undefined
      await accounts.addRules(first, words.slice(1))
      return done(isNew ? 'role-added' : 'role-changed', first, added(words.slice(1)))
    }
    case 'role remove':
      if (words.length === 1) {
        await accounts.removeRole(first)
        return done('role-removed', first)
      }
      await accounts.removeRules(first, words.slice(1))
      return done('role-changed', first, `removed ${words.slice(1).join('; ')}`)
    case 'role grant':
      await accounts.grant(first, second)
      return done('role-granted', second, `role ${first}`)
    case 'role revoke':
      await accounts.revoke(first, second)
      return done('role-revoked', second, `role ${first}`)
  }
}

async function add(
  accounts: Accounts,
  names: readonly string[],
  roles: readonly string[],
  parameters: Parameters,
): Promise<GeneratedFor[]> {
  if (parameters.generate === true) return accounts.addGenerated(names, roles)
  const password = passwordOf(parameters)
  if (password === null) await accounts.addWithoutPassword(names, roles)
  else await accounts.addUser(onlyOne(names), password, roles)
  return []
}

async function setPasswords(
  accounts: Accounts,
  names: readonly string[],
  parameters: Parameters,
): Promise<GeneratedFor[]> {
  if (parameters.generate === true) return accounts.generatePasswords(names)
  await accounts.setPassword(onlyOne(names), passwordOf(parameters))
  return []
}

/** Returns the only name. Throws AccountsError for several: one password must not be set for all of them. */
function onlyOne([name = '', ...others]: readonly string[]): string {
  if (others.length === 0) return name
  throw new AccountsError(
    'one password cannot be set for several users',
    'Use --generate to create one for each.',
  )
}

/**
 * Answers `explain access` with the rule that decides. `queues` is null without queues. Throws AccountsError
 * for an invalid question.
 */
export function explainAccess(access: Access, queues: ReplyRules | null, parameters: Parameters): Decision {
  const { user, client } = parameters
  const identity = {
    userName: typeof user === 'string' ? user : null,
    clientId: typeof client === 'string' ? client : '',
  }
  const request = requestOf(parameters)
  const isDisabled = access.accounts?.user(identity.userName ?? '')?.disabled === true
  const ofReply = isDisabled ? null : decideReply(queues, identity, request)
  return ofReply ?? access.explain(identity, request)
}

function requestOf({ action, topic, qos, retain }: Parameters): Request {
  if (typeof topic !== 'string') throw invalidQuestion('a topic is missing')
  const level: QoS = qos === 1 || qos === 2 ? qos : 0
  const error = action === 'subscribe' ? topicFilterError(topic) : topicNameError(topic)
  if (error !== null)
    throw invalidQuestion(`the topic ${action === 'subscribe' ? 'filter' : 'name'} '${topic}' ${error}`)
  switch (action) {
    case 'publish':
      return publishRequest(topic, level, retain === true)
    case 'subscribe':
      return { action, filter: canonicalFilter(topic), qos: level }
    case 'receive':
      return { action, topic }
    case 'declare': {
      const address = parseAddress(topic)
      if (address?.kind !== 'queue' || address.topic !== null) {
        throw invalidQuestion(`'${topic}' is not $queue/NAME`)
      }
      return { action, topic: address.canonical }
    }
    default:
      throw invalidQuestion('the question is not one of publish, subscribe, receive and declare')
  }
}

/** Asks as the broker does: an acknowledgement needs the right to consume the queue. */
function publishRequest(topic: string, qos: QoS, retain: boolean): Request {
  const address = parseAddress(topic)
  switch (address?.kind) {
    case undefined:
      return { action: 'publish', topic, qos, retain }
    case 'queue':
      return { action: 'publish', topic: address.canonical, qos, retain }
    case 'ack':
      return { action: 'subscribe', filter: `$queue/${address.name}`, qos }
    case 'invalid':
      throw invalidQuestion(`'${topic}': ${address.sentence}`)
  }
}

/** Returns the filter that the broker asks about: a Subscription to a queue has many spellings. */
function canonicalFilter(filter: string): string {
  const subscription = parseSubscription(filter)
  if (subscription?.kind === 'invalid') throw invalidQuestion(`'${filter}': ${subscription.sentence}`)
  return subscription?.canonical ?? filter
}

function invalidQuestion(what: string): AccountsError {
  return new AccountsError(
    what,
    'Ask with --publish TOPIC, --subscribe FILTER, --receive TOPIC or --declare $queue/NAME.',
  )
}

function rolesWithUsers(accounts: Accounts): RoleList['roles'] {
  const users = accounts.list()
  return accounts.roles().map((role) => ({
    ...role,
    users: users.filter(({ roles }) => roles.includes(role.name)).map(({ name }) => name),
  }))
}

function added(rules: readonly string[]): string {
  return rules.length === 0 ? 'without a rule' : `added ${rules.join('; ')}`
}

function wordsOf({ words }: Parameters): string[] {
  return textsOf(words)
}

function textsOf(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((item) => typeof item === 'string') : []
}

/** Returns the chosen password; null for none. Throws AccountsError if the parameter is absent. */
function passwordOf({ password }: Parameters): string | null {
  if (password === null || typeof password === 'string') return password
  throw new AccountsError(
    'a password is missing',
    'Send one, or null for a user who logs in with a certificate.',
  )
}
