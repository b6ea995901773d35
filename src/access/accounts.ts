/**
 * The broker's own users, passwords and roles. They are kept in one file of the data directory. Every change
 * goes through that file, under a lock, so both a running broker and the command line may make changes.
 */
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { ACCOUNTS_FILE } from '../store/files/kept-files.ts'
import {
  type AccountsContent,
  AccountsError,
  accountsVersion,
  editAccounts,
  type FileVersion,
  isName,
  type Role,
  readAccounts,
  type User,
} from './accounts-file.ts'
import { PasswordWork } from './logins/password-work.ts'
import { generatePassword, isGeneratedHash } from './passwords/generated-password.ts'
import { generatedScramVerifier, hashPassword, scramVerifier } from './passwords/password-hash.ts'
import { parseRule } from './rule.ts'

/** Allows everything, `$SYS` included. */
export const ADMINISTRATOR_ROLE = 'admin'

/**
 * The role of new users unless another is named. Allows everything except `$SYS`, where a bridge may publish
 * its state.
 */
export const CLIENT_ROLE = 'client'

/** The role of clients without credentials, if a role of this name exists. */
export const ANONYMOUS_ROLE = 'anonymous'

/** Roles that are created when they are first granted; they can be changed like any other. */
export const GIVEN_ROLES: ReadonlyMap<string, Role> = new Map(
  [
    { name: ADMINISTRATOR_ROLE, rules: ['allow all #', 'allow all $queue/#', 'allow all $SYS/#'] },
    {
      name: CLIENT_ROLE,
      rules: ['allow all #', 'allow all $queue/#', 'allow publish $SYS/broker/connection/%c/state'],
    },
  ].map((role) => [role.name, role]),
)

/** The random bytes of an account's id, which is written in base64url. */
const ID_BYTES = 12

/** The longest password: MQTT cannot carry more. */
const PASSWORD_BYTES_MAX = 65_535

/** A user as the commands show it, without secrets. */
export interface UserView {
  readonly name: string
  readonly hasPassword: boolean
  /** Whether Godwit generated the password, so that checking it costs next to nothing. */
  readonly isPasswordGenerated: boolean
  readonly roles: readonly string[]
  readonly disabled: boolean
}

/** A user and its generated password, which is not stored anywhere. */
export interface GeneratedFor {
  readonly name: string
  readonly password: string
}

/** Gets the content before and after a change; `isOwn` is false if another process made it. */
export type AccountsListener = (before: AccountsContent, after: AccountsContent, isOwn: boolean) => void

/** The options of accounts. */
export interface AccountsOptions {
  /** Runs the slow hashes; a new one if absent. */
  readonly work?: PasswordWork
}

/** The users and roles of one data directory. */
export class Accounts {
  readonly #directory: string
  readonly #work: PasswordWork
  #content: AccountsContent
  #version: FileVersion
  /** The version that could not be read, which is reported once; null for a file that vanished. */
  #rejected: FileVersion | undefined
  #onChange: AccountsListener | null = null
  /** Settles when the edit or the reading that was asked for last has ended. Never rejects. */
  #turn: Promise<unknown> = Promise.resolve()

  private constructor(directory: string, work: PasswordWork, content: AccountsContent, version: FileVersion) {
    this.#directory = directory
    this.#work = work
    this.#content = content
    this.#version = version
  }

  /** Opens the accounts of this data directory; there are none without a file. Throws AccountsError. */
  static async open(directory: string, { work }: AccountsOptions = {}): Promise<Accounts> {
    const { content, version } = await readAccounts(directory)
    return new Accounts(directory, work ?? new PasswordWork(), content, version)
  }

  /** The path of the file. */
  get path(): string {
    return join(this.#directory, ACCOUNTS_FILE)
  }

  /** Sets the function to call after each change, whether this process made it or `reload` found it. */
  set onChange(callback: AccountsListener) {
    this.#onChange = callback
  }

  /** True when there is neither a user nor a role. */
  get isEmpty(): boolean {
    return this.#content.users.size === 0 && this.#content.roles.size === 0
  }

  user(name: string): User | undefined {
    return this.#content.users.get(name)
  }

  role(name: string): Role | undefined {
    return this.#content.roles.get(name)
  }

  /** All users, by name. */
  list(): UserView[] {
    return [...this.#content.users.values()]
      .map(({ name, password, roles, disabled }) => ({
        name,
        hasPassword: password !== null,
        isPasswordGenerated: password !== null && isGeneratedHash(password),
        roles,
        disabled,
      }))
      .sort(byName)
  }

  /** All roles, by name. */
  roles(): Role[] {
    return [...this.#content.roles.values()].sort(byName)
  }

  /**
   * Adds a user with these roles; `password` is null for one that logs in with a certificate only. Missing
   * roles `admin` and `client` are created, other roles must exist. Throws AccountsError, also when the user
   * exists.
   */
  async addUser(name: string, password: string | null, roles: readonly string[] = []): Promise<void> {
    this.#expectNew([name])
    await this.#addAll(new Map([[name, await this.#secrets(password)]]), roles)
  }

  /**
   * Adds users with these roles and generated passwords, all of them or none, and resolves with the
   * passwords. Throws AccountsError as `addUser` does.
   */
  async addGenerated(names: readonly string[], roles: readonly string[] = []): Promise<GeneratedFor[]> {
    this.#expectNew(names)
    const made = await this.#generated(names)
    await this.#addAll(secretsByName(made), roles)
    return made.map(({ name, password }) => ({ name, password }))
  }

  /** Adds users that log in with a certificate only, all or none. Throws AccountsError as `addUser` does. */
  async addWithoutPassword(names: readonly string[], roles: readonly string[] = []): Promise<void> {
    this.#expectNew(names)
    await this.#addAll(new Map(names.map((name) => [name, NO_PASSWORD])), roles)
  }

  #expectNew(names: readonly string[]): void {
    for (const name of names) {
      expectName(name, 'user')
      if (this.#content.users.has(name)) throw userExists(name)
    }
  }

  async #addAll(secrets: ReadonlyMap<string, Secrets>, roles: readonly string[]): Promise<void> {
    await this.#edit((content) => {
      const known = withRoles(content, roles)
      const users = new Map(known.users)
      for (const [name, secret] of secrets) {
        if (users.has(name)) throw userExists(name)
        const id = randomBytes(ID_BYTES).toString('base64url')
        users.set(name, { name, id, ...secret, roles: [...new Set(roles)], disabled: false })
      }
      return { ...known, users }
    })
  }

  /** Removes a user. Throws AccountsError if there is no such user. */
  async removeUser(name: string): Promise<void> {
    await this.#edit((content) => {
      const users = new Map(content.users)
      if (!users.delete(name)) throw noUser(name)
      return { ...content, users }
    })
  }

  /** Sets the password of a user; null removes it. Throws AccountsError if there is no such user. */
  async setPassword(name: string, password: string | null): Promise<void> {
    if (!this.#content.users.has(name)) throw noUser(name)
    const secrets = await this.#secrets(password)
    await this.#editUser(name, (user) => ({ ...user, ...secrets }))
  }

  /**
   * Gives these users new passwords, all of them or none, and resolves with the passwords. Throws
   * AccountsError if there is no such user.
   */
  async generatePasswords(names: readonly string[]): Promise<GeneratedFor[]> {
    const unknown = names.find((name) => !this.#content.users.has(name))
    if (unknown !== undefined) throw noUser(unknown)
    const made = await this.#generated(names)
    await this.#edit((content) => {
      const users = new Map(content.users)
      for (const [name, secret] of secretsByName(made)) {
        const user = users.get(name)
        if (user === undefined) throw noUser(name)
        users.set(name, { ...user, ...secret })
      }
      return { ...content, users }
    })
    return made.map(({ name, password }) => ({ name, password }))
  }

  /**
   * Disables a user, so that it cannot log in, or enables it again. Throws AccountsError if there is no such
   * user.
   */
  async setDisabled(name: string, disabled: boolean): Promise<void> {
    await this.#editUser(name, (user) => ({ ...user, disabled }))
  }

  /** Adds rules to a role, which is created when it is missing. Throws AccountsError and RuleError. */
  async addRules(role: string, rules: readonly string[]): Promise<void> {
    expectName(role, 'role')
    const texts = rules.map((rule) => parseRule(rule).text)
    await this.#edit((content) => {
      const before = content.roles.get(role)?.rules ?? []
      const added = { name: role, rules: [...new Set([...before, ...texts])] }
      return { ...content, roles: new Map(content.roles).set(role, added) }
    })
  }

  /** Removes rules of a role. Throws RuleError, and AccountsError when there is no such role or rule. */
  async removeRules(role: string, rules: readonly string[]): Promise<void> {
    const texts = rules.map((rule) => parseRule(rule).text)
    await this.#edit((content) => {
      const before = content.roles.get(role)
      if (before === undefined) throw noRole(role)
      const missing = texts.find((text) => !before.rules.includes(text))
      if (missing !== undefined) {
        throw new AccountsError(`the role '${role}' has no rule '${missing}'`, 'See `godwit role list`.')
      }
      const left = { name: role, rules: before.rules.filter((rule) => !texts.includes(rule)) }
      return { ...content, roles: new Map(content.roles).set(role, left) }
    })
  }

  /** Removes a role, and takes it from its users. Throws AccountsError when it does not exist. */
  async removeRole(role: string): Promise<void> {
    await this.#edit((content) => {
      const roles = new Map(content.roles)
      if (!roles.delete(role)) throw noRole(role)
      const users = new Map(content.users)
      for (const [name, user] of users) {
        if (user.roles.includes(role)) users.set(name, withoutRole(user, role))
      }
      return { users, roles }
    })
  }

  /**
   * Grants a role, creating `admin` or `client` when it is missing. Throws AccountsError when there is no
   * such user or other role.
   */
  async grant(role: string, userName: string): Promise<void> {
    await this.#edit((content) => {
      const known = withRoles(content, [role])
      const user = known.users.get(userName)
      if (user === undefined) throw noUser(userName)
      if (user.roles.includes(role)) return content
      const granted = { ...user, roles: [...user.roles, role] }
      return { ...known, users: new Map(known.users).set(userName, granted) }
    })
  }

  /** Takes a role from a user. Throws AccountsError if the user does not exist or does not have the role. */
  async revoke(role: string, userName: string): Promise<void> {
    await this.#editUser(userName, (user) => {
      if (!user.roles.includes(role)) {
        throw new AccountsError(
          `the user '${userName}' does not have the role '${role}'`,
          'See `godwit user list`.',
        )
      }
      return withoutRole(user, role)
    })
  }

  /**
   * Reads the file again if another process has changed it, and resolves with whether it has. Throws
   * AccountsError, once per version, for a file that cannot be read or is gone; the old content stays in
   * force.
   */
  reload(): Promise<boolean> {
    return this.#inTurn(() => this.#reload())
  }

  async #reload(): Promise<boolean> {
    const seen = await accountsVersion(this.#directory)
    if (seen === this.#version || seen === this.#rejected) return false
    this.#rejected = seen
    if (seen === null) {
      throw new AccountsError(
        `the accounts of ${this.#directory} are gone`,
        'Restore accounts.json. Until then the users and roles that were read last stay in force.',
        { code: 'GODWIT_ACCOUNTS_FILE' },
      )
    }
    const { content, version } = await readAccounts(this.#directory)
    this.#take(content, version, false)
    return true
  }

  #editUser(name: string, edit: (user: User) => User): Promise<void> {
    return this.#edit((content) => {
      const user = content.users.get(name)
      if (user === undefined) throw noUser(name)
      return { ...content, users: new Map(content.users).set(name, edit(user)) }
    })
  }

  #edit(edit: (content: AccountsContent) => AccountsContent): Promise<void> {
    return this.#inTurn(async () => {
      const { content, version } = await editAccounts(this.#directory, edit)
      this.#take(content, version, true)
    })
  }

  /** Runs edits and readings one after another: a reading must not take an own edit for one of others. */
  #inTurn<T>(run: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(run)
    this.#turn = done.catch(() => {})
    return done
  }

  #take(content: AccountsContent, version: FileVersion, isOwn: boolean): void {
    const before = this.#content
    this.#content = content
    this.#version = version
    this.#rejected = undefined
    this.#onChange?.(before, content, isOwn)
  }

  /** Generates passwords one after another, since log-ins need the threads as well. */
  async #generated(names: readonly string[]): Promise<(GeneratedFor & { readonly secrets: Secrets })[]> {
    const made: (GeneratedFor & { readonly secrets: Secrets })[] = []
    for (const name of new Set(names)) {
      const { password, encoded } = generatePassword()
      const scram = await generatedScramVerifier(password)
      made.push({ name, password, secrets: { password: encoded, scram } })
    }
    return made
  }

  async #secrets(password: string | null): Promise<Secrets> {
    if (password === null) return NO_PASSWORD
    const bytes = Buffer.from(password, 'utf8')
    if (bytes.length === 0 || bytes.length > PASSWORD_BYTES_MAX) {
      throw new AccountsError(
        `a password has 1 to ${PASSWORD_BYTES_MAX} bytes`,
        'Choose another one, or use --generate.',
      )
    }
    const [hash, scram] = await Promise.all([
      this.#work.run(() => hashPassword(bytes)),
      this.#work.run(() => scramVerifier(password)),
    ])
    return { password: hash, scram }
  }
}

type Secrets = Pick<User, 'password' | 'scram'>

const NO_PASSWORD: Secrets = Object.freeze({ password: null, scram: null })

function secretsByName(
  made: readonly { readonly name: string; readonly secrets: Secrets }[],
): Map<string, Secrets> {
  return new Map(made.map(({ name, secrets }) => [name, secrets]))
}

/** Adds the given roles that are missing. Throws AccountsError for one that cannot be created. */
function withRoles(content: AccountsContent, names: readonly string[]): AccountsContent {
  const missing = names.filter((name) => !content.roles.has(name))
  if (missing.length === 0) return content
  const roles = new Map(content.roles)
  for (const name of missing) {
    const given = GIVEN_ROLES.get(name)
    if (given === undefined) throw noRole(name)
    roles.set(name, given)
  }
  return { ...content, roles }
}

function withoutRole(user: User, role: string): User {
  return { ...user, roles: user.roles.filter((name) => name !== role) }
}

function expectName(name: string, kind: 'user' | 'role'): void {
  if (isName(name)) return
  throw new AccountsError(
    `${JSON.stringify(name)} is not a valid name for a ${kind}`,
    'A name has 1 to 256 printable characters.',
  )
}

function userExists(name: string): AccountsError {
  return new AccountsError(
    `the user '${name}' exists`,
    'To change its password: `godwit user password NAME`.',
  )
}

function noUser(name: string): AccountsError {
  return new AccountsError(`there is no user '${name}'`, 'See `godwit user list`.')
}

function noRole(name: string): AccountsError {
  return new AccountsError(`there is no role '${name}'`, 'Create it: `godwit role add NAME RULE...`.')
}

function byName(one: { readonly name: string }, other: { readonly name: string }): number {
  return one.name < other.name ? -1 : 1
}
