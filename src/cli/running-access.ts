/** Users and rights of a running broker: what changes while it runs holds at once and is told. */

import { Access, type AccessOptions, DEFAULT_ACCESS, type Source } from '../access/access.ts'
import { ACCOUNT_COMMANDS, accountCommand, explainAccess } from '../access/account-commands.ts'
import { askedBy, type ControlCommand } from '../admin/control.ts'
import type { SecurityKind } from '../broker/security.ts'
import type { Server } from '../broker/server.ts'

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
 * Reads the sources. `server` is asked for once something changes, so it may be made afterwards, with the policy of what
 * this resolves with. Rejects as `Access.open` does.
 */
export async function openAccess(
  given: Partial<AccessOptions>,
  directory: string | null,
  server: () => Server,
): Promise<Access> {
  const tell = (kind: SecurityKind, { path: subject }: Source, detail: string): void => {
    server().state.events.emit('security', { kind, subject, by: 'broker', detail })
  }
  const access = await Access.open({ ...DEFAULT_ACCESS, ...given }, directory, {
    changed: (source, lost) => {
      server().usePolicy(access.policy, lost.includes)
      // Whoever changed them by a command is told of with the command.
      if (!source.isOwn) tell(LOADED[source.kind], source, '')
    },
    failed: (source, error) => tell(REFUSED[source.kind], source, error.message),
    busy: (clientId) => server().state.limited('passwordsWaitingMax', clientId, 'a password was not checked'),
  })
  return access
}

/** What the operator may ask about users and rights on the control socket. */
export function accessCommands(access: Access, server: Server): Readonly<Record<string, ControlCommand>> {
  const { accounts } = access
  const commands: Record<string, ControlCommand> = {
    'explain access': (parameters) => explainAccess(access, parameters),
  }
  for (const name of ACCOUNT_COMMANDS) {
    commands[name] = (parameters) => {
      if (accounts === null) throw new Error('the configuration of this broker has access.accounts: false')
      return accountCommand(accounts, name, parameters, (event) =>
        server.state.events.emit('security', { ...event, by: askedBy(parameters) }),
      )
    }
  }
  return commands
}
