/** Applies and reports changes of users and rights in a running broker. */
import { Access, type AccessListener } from '../access/access.ts'
import { type AccessOptions, DEFAULT_ACCESS } from '../access/access-options.ts'
import {
  ACCOUNT_COMMANDS,
  type AccountEvent,
  accountCommand,
  explainAccess,
} from '../access/account-commands.ts'
import { LoginFile, LoginFileError } from '../access/files/login-file.ts'
import type { Source } from '../access/sources.ts'
import { type ControlCommand, requestedBy } from '../admin/control.ts'
import { type Match, type Matches, processMatches } from '../admin/matches.ts'
import type { Limits } from '../broker/boundary/limits.ts'
import type { ClientView } from '../broker/boundary/policy.ts'
import type { SecurityKind } from '../broker/boundary/security.ts'
import type { InventoryQuery, SessionEntry } from '../broker/inventory.ts'
import type { Server } from '../broker/server.ts'
import type { Reauthorized } from '../broker/sessions/reauthorization.ts'
import { linkUnder } from '../config/changes.ts'
import type { ListenerOptions } from '../transport/listener/listener.ts'
import type { BanGuard } from './ban-guard.ts'

const LOADED = {
  accounts: 'accounts-loaded',
  'password-file': 'password-file-loaded',
  'acl-file': 'acl-file-loaded',
} as const satisfies Record<Source['kind'], SecurityKind>

const REFUSED = {
  accounts: 'accounts-refused',
  'password-file': 'password-file-refused',
  'acl-file': 'acl-file-refused',
} as const satisfies Record<Source['kind'], SecurityKind>

/**
 * Reads the sources of users and rights. `server` and `listeners` are called when something changes, so
 * both may be made later. Users in `keeping` take over the Sessions under their names when they get an
 * account. Rejects as `Access.open` does.
 */
export async function openAccess(
  given: Partial<AccessOptions>,
  directory: string | null,
  server: () => Server,
  listeners: () => readonly ListenerOptions[],
  keeping: ReadonlySet<string>,
  limits: Limits,
  guard: () => BanGuard,
): Promise<Access> {
  const tell = (kind: SecurityKind, { path: subject }: Source, detail: string): void => {
    server().state.events.emit('security', { kind, subject, by: 'broker', detail })
  }
  const listener: AccessListener = {
    changed: (source, lost) => {
      // Adopt the Sessions first: a client that came back in between would find them without an owner.
      const ids = new Map<string, string>()
      for (const name of keeping) {
        const id = access.accounts?.user(name)?.id ?? null
        if (id !== null) ids.set(name, id)
      }
      if (ids.size > 0) server().adopt(ids)
      // A reload may have changed which clients a listener accepts.
      const isLost = (client: ClientView): boolean => {
        const options = listeners().find(({ name }) => name === client.link.listener)
        return lost.includes(
          options === undefined ? client : { ...client, link: linkUnder(client.link, options) },
        )
      }
      server().usePolicy(access.policy, isLost)
      if (hadUsers !== access.hasUsers) tellAnonymous(access.hasUsers, listeners(), server())
      hadUsers = access.hasUsers
      // A change by a command is reported with the command and its sender.
      if (!source.isOwn) tell(LOADED[source.kind], source, '')
    },
    takesCertificates: () =>
      listeners().some(({ tls }) => tls !== undefined && tls.clientCertificate !== 'none'),
    failed: (source, error) => tell(REFUSED[source.kind], source, error.message),
    crowded: (waiting, seconds, hashMs) => {
      const subject = `${waiting} log-ins`
      const detail =
        `the last one waits about ${Math.ceil(seconds)} s, because checking a chosen password takes ` +
        `${Math.round(hashMs)} ms; generated passwords (godwit user password --names FILE --generate) ` +
        'and client certificates do not wait'
      server().state.events.emit('security', { kind: 'logins-waiting', subject, by: 'broker', detail })
    },
    busy: (clientId, limit, detail) => server().state.limited(limit, clientId, detail),
    guesses: (address, count) => guard().guesses(address, count),
  }
  const access = await Access.open({ ...DEFAULT_ACCESS, ...given }, directory, listener, limits)
  let { hasUsers: hadUsers } = access
  return access
}

/**
 * Remembers log-ins over a restart in `runtimeDirectory`, which should be in memory. Returns the reason if
 * that fails, otherwise null. The data directory must exist.
 */
export function rememberLogins(
  access: Access,
  server: Server,
  runtimeDirectory: string,
  dataDirectory: string,
): string | null {
  const failed = ({ message: detail }: Error): void => {
    const subject = runtimeDirectory
    server.state.events.emit('security', { kind: 'logins-not-kept', subject, by: 'broker', detail })
  }
  try {
    access.rememberIn(LoginFile.open(runtimeDirectory, dataDirectory, { failed }))
    return null
  } catch (error) {
    if (!(error instanceof LoginFileError)) throw error
    return `log-ins are not remembered over a restart: ${error.message}`
  }
}

/** Reports that the first user came or the last one went, which changes the default of anonymous access. */
function tellAnonymous(hasUsers: boolean, listeners: readonly ListenerOptions[], server: Server): void {
  const { events } = server.state
  const names = listeners
    .filter(({ allowAnonymous, anonymousUnlessUsers }) => allowAnonymous && anonymousUnlessUsers === true)
    .map(({ name }) => name)
  if (names.length === 0) return
  if (!hasUsers) {
    const detail = 'there are no more users'
    for (const subject of names)
      events.emit('security', { kind: 'anonymous-allowed', subject, by: 'broker', detail })
    return
  }
  const subject = names.join(', ')
  void server.reauthorized().then(({ anonymousEnded }) => {
    const ended = `${anonymousEnded} connection${anonymousEnded === 1 ? '' : 's'} ended`
    const detail = `there are users now; ${ended}`
    events.emit('security', { kind: 'anonymous-ended', subject, by: 'broker', detail })
  })
}

/** The effects of a change of users or rights on clients and Sessions of the running broker. */
export interface AccountEffects extends Reauthorized {
  /** Sessions of the removed user, or of an earlier user with the name that was added. */
  readonly formerSessions: Matches
  /** Sessions that the added user takes over. */
  readonly keptSessions: Matches
  /** Sessions of clients without credentials, when a user was added. */
  readonly anonymousSessions: Matches
  /** Whether `formerSessions` were deleted. */
  readonly isDeleted: boolean
}

/** The answer to a command that changed users or rights. */
export interface AccountChange {
  readonly effects: AccountEffects
}

/** Returns the commands for users and rights on the control socket. */
export function accessCommands(
  access: Access,
  server: Server,
  keeping: Set<string>,
): Readonly<Record<string, ControlCommand>> {
  const { accounts } = access
  const commands: Record<string, ControlCommand> = {
    'explain access': (parameters) =>
      explainAccess(access, server.queues?.definitions.options ?? null, parameters),
  }
  for (const name of ACCOUNT_COMMANDS) {
    commands[name] = async (parameters) => {
      if (accounts === null) throw new Error('the configuration of this broker has access.accounts: false')
      const { words } = parameters
      const names = (Array.isArray(words) ? (words as unknown[]) : []).filter(
        (word) => typeof word === 'string',
      )
      const [first] = names
      const userName = name.startsWith('user ') && first !== undefined ? first : null
      const same =
        name === 'user add'
          ? usersKeepingSessions(access, server, names, parameters.keepSessions === true)
          : []
      const tell = (event: AccountEvent): void =>
        server.state.events.emit('security', { ...event, by: requestedBy(parameters) })
      for (const known of same) keeping.add(known)
      const result = await accountCommand(accounts, name, parameters, tell).finally(() => {
        for (const known of same) keeping.delete(known)
      })
      if (name === 'user list' || name === 'role list') return result
      const done = await server.reauthorized()
      if (same.length > 0) await server.inventory.settled()
      // For many users, each would cost a pass over all Sessions.
      const concerned = names.length > 1 ? null : userName
      const sessions = await sessionsConcerned(server, name, concerned, parameters.deleteSessions === true)
      if (sessions.isDeleted && sessions.formerSessions.count > 0) {
        const detail = `${sessions.formerSessions.count} Sessions`
        tell({ kind: 'session-deleted', subject: `--user ${userName}`, detail })
      }
      return { ...result, effects: { ...done, ...sessions } } satisfies AccountChange
    }
  }
  return commands
}

/**
 * Returns the names that a client already uses or a password file knows, or all: these users keep their
 * Sessions.
 */
function usersKeepingSessions(
  access: Access,
  server: Server,
  names: readonly string[],
  areAll: boolean,
): string[] {
  if (areAll) return [...names]
  const connected = new Set([...server.state.connected.values()].map(({ view }) => view.userName))
  return names.filter(
    (name) => access.accounts?.user(name) === undefined && (access.knowsByName(name) || connected.has(name)),
  )
}

const NONE: Matches = Object.freeze({ count: 0, names: [], connected: 0, messages: 0 })

/** Counts the Sessions that a change concerns. `deletes` also deletes those of a removed user. */
async function sessionsConcerned(
  server: Server,
  command: string,
  userName: string | null,
  deletes: boolean,
): Promise<Pick<AccountEffects, 'formerSessions' | 'keptSessions' | 'anonymousSessions' | 'isDeleted'>> {
  const { inventory } = server
  const through = (
    wanted: InventoryQuery,
    take: ((entry: SessionEntry) => boolean) | null,
  ): Promise<Matches> => {
    const found = (entry: SessionEntry): Match => ({ ...entry, name: entry.clientId, mayComeBack: true })
    const expectAvailable = (): void => {
      const { unavailable } = inventory
      if (unavailable !== null) throw new Error(`some Sessions were not deleted: ${unavailable}`)
    }
    return processMatches(inventory, inventory.sessions(wanted), found, take, expectAvailable)
  }
  const isAdded = command === 'user add'
  const isRemoved = command === 'user remove'
  const isDeleted = isRemoved && deletes
  const take = isDeleted ? ({ clientId }: SessionEntry): boolean => inventory.endSession(clientId) : null
  const isConcerned = userName !== null && (isAdded || isRemoved)
  return {
    formerSessions: isConcerned ? await through({ userName, isFormerUsers: true }, take) : NONE,
    keptSessions:
      isAdded && userName !== null ? await through({ userName, isFormerUsers: false }, null) : NONE,
    anonymousSessions: isAdded ? await through({ userName: null }, null) : NONE,
    isDeleted,
  }
}
