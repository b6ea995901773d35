/** Opens the sources of users and rights, and finds the users that a change of one takes away. */
import type { AccessOptions, LoginLimits } from './access-options.ts'
import { Accounts } from './accounts.ts'
import type { AccountsContent } from './accounts-file.ts'
import { type AclFile, parseAclFile } from './acl-file.ts'
import { WatchedFile } from './files/watched-file.ts'
import { PasswordWork } from './logins/password-work.ts'
import { type PasswordFile, parsePasswordFile } from './passwords/password-file.ts'
import type { PasswordHash } from './passwords/password-hash.ts'

/** One of the sources; `path` names its file. */
export interface Source {
  readonly kind: 'accounts' | 'password-file' | 'acl-file'
  readonly path: string
  /** True if a command of this process changed it, false if somebody else changed its file. */
  readonly isOwn: boolean
}

/** The sources that the options name, and the queue for their slow hashes. */
export interface Sources {
  /** Null without a data directory, or if the options switch accounts off. */
  readonly accounts: Accounts | null
  readonly passwordFiles: readonly WatchedFile<PasswordFile>[]
  readonly aclFiles: readonly WatchedFile<AclFile>[]
  readonly work: PasswordWork
}

/** Reads every source; `directory` is the data directory. Throws AccountsError, LinesError and FileError. */
export async function readSources(
  options: AccessOptions,
  directory: string | null,
  limits: LoginLimits,
): Promise<Sources> {
  const work = new PasswordWork({ limits })
  const hasAccounts = options.accounts && directory !== null
  return {
    work,
    accounts: hasAccounts ? await Accounts.open(directory, { work }) : null,
    passwordFiles: await Promise.all(
      options.passwordFiles.map((path) => WatchedFile.open(path, parsePasswordFile)),
    ),
    aclFiles: await Promise.all(options.aclFiles.map((path) => WatchedFile.open(path, parseAclFile))),
  }
}

/** Returns the users whose log-in no longer holds after a change of the accounts. */
export function lostAccounts(before: AccountsContent, after: AccountsContent): ReadonlySet<string> {
  const lost = new Set<string>()
  for (const [name, user] of before.users) {
    const now = after.users.get(name)
    const isLost =
      now === undefined ||
      now.id !== user.id ||
      (now.disabled && !user.disabled) ||
      now.password !== user.password
    if (isLost) lost.add(name)
  }
  // A client that logged in under this name without an account comes back as the user of the new account.
  for (const [name, { id }] of after.users) if (id !== null && !before.users.has(name)) lost.add(name)
  return lost
}

/** Returns the users whose log-in no longer holds after a change of a password file. */
export function lostPasswords(before: PasswordFile, after: PasswordFile): ReadonlySet<string> {
  const lost = new Set<string>()
  for (const [name, stored] of before) {
    const now = after.get(name)
    if (now === undefined || !isSameHash(now, stored)) lost.add(name)
  }
  return lost
}

function isSameHash(one: PasswordHash, other: PasswordHash): boolean {
  return JSON.stringify(one) === JSON.stringify(other)
}
