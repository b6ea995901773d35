/** Reads and changes the file of accounts. A crash leaves the old file or the new one. */

import { constants } from 'node:fs'
import { type FileHandle, open, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { ErrorCode } from '../errors.ts'
import { ACCOUNTS_FILE } from '../store/files/kept-files.ts'
import { lockFile, replaceFile } from './files/edited-file.ts'
import { isGeneratedHash } from './passwords/generated-password.ts'
import { parsePasswordHash, type ScramVerifier } from './passwords/password-hash.ts'
import { parseRule } from './rule.ts'

/** The version of the file's format; a newer one is refused. */
const FORMAT = 2
/** The version that 0.1 and 0.2 can read, written while no user has a generated password. */
const FORMAT_WITHOUT_GENERATED = 1
const BYTES_MAX = 64 * 1024 * 1024

/** An account. */
export interface User {
  readonly name: string
  /**
   * Random, so that a later account of the same name is another user. Null for an account made by 0.1.0,
   * which only its name identifies.
   */
  readonly id: string | null
  /**
   * The hash: `$argon2id$…`, or `$godwit-generated$…` for a generated password. Null for a user without a
   * password, who logs in with a certificate.
   */
  readonly password: string | null
  readonly scram: ScramVerifier | null
  /** Names of roles, in the order in which they were granted. */
  readonly roles: readonly string[]
  readonly disabled: boolean
}

/** A role with its rules. */
export interface Role {
  readonly name: string
  /** In the syntax of `parseRule`. */
  readonly rules: readonly string[]
}

/** The content of the file. */
export interface AccountsContent {
  readonly users: ReadonlyMap<string, User>
  readonly roles: ReadonlyMap<string, Role>
}

/** A change of accounts is refused, or their file cannot be used. Never contains a password. */
export class AccountsError extends Error {
  override readonly name = 'AccountsError'
  readonly advice: string
  readonly code: ErrorCode

  constructor(message: string, advice: string, options: ErrorOptions & { readonly code?: ErrorCode } = {}) {
    super(message, options)
    this.advice = advice
    this.code = options.code ?? 'GODWIT_ACCOUNTS_REFUSED'
  }
}

const FILE_PROBLEM = { code: 'GODWIT_ACCOUNTS_FILE' } as const

/** Identifies a version of the file; null when there is none. */
export type FileVersion = string | null

/** Reads the file. A missing file has no users and no roles. Throws AccountsError. */
export async function readAccounts(
  directory: string,
): Promise<{ readonly content: AccountsContent; readonly version: FileVersion }> {
  const path = join(directory, ACCOUNTS_FILE)
  let file: FileHandle
  try {
    file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT')
      return { content: { users: new Map(), roles: new Map() }, version: null }
    throw accountsError(error, `${path} cannot be read`)
  }
  try {
    const { mode, size, ino, mtimeMs } = await file.stat()
    if (size > BYTES_MAX)
      throw new AccountsError(
        `${path} has ${size} bytes, more than the ${BYTES_MAX} that are read`,
        'Restore the file from a backup.',
        FILE_PROBLEM,
      )
    // Anybody who can read the hashes can try passwords against them unnoticed.
    if ((mode & 0o077) !== 0) await file.chmod(0o600)
    return { content: parseAccounts(await file.readFile('utf8'), path), version: `${ino} ${mtimeMs} ${size}` }
  } catch (error) {
    throw accountsError(error, `${path} cannot be read, or its permissions cannot be set to 0600`)
  } finally {
    await file.close()
  }
}

/** Returns the version that `readAccounts` would return now. */
export async function accountsVersion(directory: string): Promise<FileVersion> {
  try {
    const { ino, mtimeMs, size } = await stat(join(directory, ACCOUNTS_FILE))
    return `${ino} ${mtimeMs} ${size}`
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw accountsError(error, `${join(directory, ACCOUNTS_FILE)} cannot be read`)
  }
}

/**
 * Reads the file, lets `edit` change the content, and writes the result. A lock keeps other processes out
 * meanwhile. The directory must exist. Throws AccountsError, and what `edit` throws.
 */
export async function editAccounts(
  directory: string,
  edit: (content: AccountsContent) => AccountsContent,
): Promise<{ readonly content: AccountsContent; readonly version: FileVersion }> {
  const release = await lockFile(directory, ACCOUNTS_FILE, (error, what) =>
    error === null
      ? new AccountsError(
          `another process is editing the accounts in ${directory}`,
          `Try again. If no such process is running, remove ${what}.`,
          FILE_PROBLEM,
        )
      : accountsError(error, `${what} cannot be made`),
  )
  try {
    const before = await readAccounts(directory)
    const content = edit(before.content)
    if (content === before.content) return before
    await replaceFile(directory, ACCOUNTS_FILE, textOf(content)).catch((error: unknown) => {
      throw accountsError(error, `${join(directory, ACCOUNTS_FILE)} cannot be written`)
    })
    return { content, version: await accountsVersion(directory) }
  } finally {
    await release()
  }
}

function textOf({ users, roles }: AccountsContent): string {
  const hasGenerated = [...users.values()].some(
    ({ password }) => password !== null && isGeneratedHash(password),
  )
  const format = hasGenerated ? FORMAT : FORMAT_WITHOUT_GENERATED
  return `${JSON.stringify({ format, users: [...users.values()], roles: [...roles.values()] }, null, 2)}\n`
}

/** Reads the file's text. Throws AccountsError that says which entry is wrong. */
export function parseAccounts(text: string, path: string): AccountsContent {
  const wrong = (what: string): AccountsError =>
    new AccountsError(
      `${path}: ${what}`,
      'Restore the file from a backup, or correct it by hand.',
      FILE_PROBLEM,
    )
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw wrong('it is not JSON')
  }
  if (!isRecord(value) || !Array.isArray(value.users) || !Array.isArray(value.roles))
    throw wrong('it has no users and roles')
  if (value.format !== FORMAT && value.format !== FORMAT_WITHOUT_GENERATED)
    throw wrong(
      `its format is ${String(value.format)}, but this version of Godwit reads formats up to ${FORMAT}`,
    )
  const users = new Map<string, User>()
  const roles = new Map<string, Role>()
  for (const [index, entry] of value.roles.entries()) {
    const role = roleOf(entry)
    if (role === null || roles.has(role.name)) throw wrong(`roles[${index}] is not a role, or occurs twice`)
    roles.set(role.name, role)
  }
  for (const [index, entry] of value.users.entries()) {
    const user = userOf(entry)
    if (user === null || users.has(user.name)) throw wrong(`users[${index}] is not a user, or occurs twice`)
    users.set(user.name, user)
  }
  return { users, roles }
}

/** The id of an account: printable, since it stands in exports. */
const ID = /^[\w-]{1,64}$/

function userOf(entry: unknown): User | null {
  if (!isRecord(entry)) return null
  const { name, id = null, password, scram, roles, disabled } = entry
  const isUser =
    typeof name === 'string' &&
    isName(name) &&
    (id === null || (typeof id === 'string' && ID.test(id))) &&
    (password === null ||
      (typeof password === 'string' && typeof parsePasswordHash(password) !== 'string')) &&
    isTexts(roles) &&
    typeof disabled === 'boolean'
  if (!isUser) return null
  const verifier = scram === null ? null : scramOf(scram)
  return verifier === undefined ? null : { name, id, password, scram: verifier, roles, disabled }
}

function scramOf(entry: unknown): ScramVerifier | undefined {
  if (!isRecord(entry)) return undefined
  const { iterations, salt, storedKey, serverKey } = entry
  const isVerifier =
    typeof iterations === 'number' &&
    typeof salt === 'string' &&
    typeof storedKey === 'string' &&
    typeof serverKey === 'string'
  return isVerifier ? { iterations, salt, storedKey, serverKey } : undefined
}

function roleOf(entry: unknown): Role | null {
  if (!isRecord(entry)) return null
  const { name, rules } = entry
  if (typeof name !== 'string' || !isName(name) || !isTexts(rules)) return null
  try {
    for (const rule of rules) parseRule(rule)
  } catch {
    return null
  }
  return { name, rules }
}

/** Whether this is a valid name of a user or role: 1 to 256 printable characters. */
export function isName(name: string): boolean {
  return name.length > 0 && name.length <= 256 && !/[\p{Cc}\p{Cs}\p{Zl}\p{Zp}]/u.test(name)
}

function isTexts(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((item) => typeof item === 'string')
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function accountsError(error: unknown, what: string): AccountsError {
  if (error instanceof AccountsError) return error
  const { code } = error as NodeJS.ErrnoException
  const advice =
    code === 'EACCES' || code === 'EPERM'
      ? 'Run this as the user that owns the data directory.'
      : 'Check the data directory, and the space on its disk.'
  return new AccountsError(`${what}: ${code ?? String(error)}`, advice, { ...FILE_PROBLEM, cause: error })
}
