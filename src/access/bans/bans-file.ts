/** Reads and writes the file of bans in the data directory, through which bans outlive a restart. */

import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { BAN_KINDS, BAN_REASON_CHARACTERS_MAX, type Ban, banSubject } from '../../broker/boundary/bans.ts'
import type { ErrorCode } from '../../errors.ts'
import { BANS_FILE } from '../../store/files/kept-files.ts'
import { lockFile, replaceFile } from '../files/edited-file.ts'

/** The version of the file's format; a newer one is refused. */
const FORMAT = 1
const BYTES_MAX = 64 * 1024 * 1024

/** Bans beyond this many are refused to an operator. */
export const BANS_MAX = 100_000

/** A change of bans is refused, or their file cannot be used. */
export class BansError extends Error {
  override readonly name = 'BansError'
  readonly advice: string
  readonly code: ErrorCode

  constructor(message: string, advice: string, options: ErrorOptions & { readonly code?: ErrorCode } = {}) {
    super(message, options)
    this.advice = advice
    this.code = options.code ?? 'GODWIT_BANS_REFUSED'
  }
}

const FILE_PROBLEM = { code: 'GODWIT_BANS_FILE' } as const

/** Reads the file. A missing file has no bans. Throws BansError. */
export async function readBans(directory: string): Promise<Ban[]> {
  const path = join(directory, BANS_FILE)
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw bansError(error, `${path} cannot be read`)
  }
  return parseBans(text, path)
}

/** Returns a text that identifies the version of the file; null without a file. Throws BansError. */
export async function bansVersion(directory: string): Promise<string | null> {
  const path = join(directory, BANS_FILE)
  try {
    const { ino, mtimeMs, size } = await stat(path)
    return `${ino} ${mtimeMs} ${size}`
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw bansError(error, `${path} cannot be read`)
  }
}

/** Writes the file anew. The directory must exist. Throws BansError. */
export async function writeBans(directory: string, bans: readonly Ban[]): Promise<void> {
  const entries = bans.map(({ since, until, ...ban }) => ({
    ...ban,
    since: new Date(since).toISOString(),
    until: until === null ? null : new Date(until).toISOString(),
  }))
  const text = `${JSON.stringify({ format: FORMAT, bans: entries }, null, 2)}\n`
  try {
    await replaceFile(directory, BANS_FILE, text)
  } catch (error) {
    throw bansError(error, `${join(directory, BANS_FILE)} cannot be written`)
  }
}

/** Lets `edit` change the bans of the file, under a lock. Throws BansError, and what `edit` throws. */
export async function editBans(directory: string, edit: (bans: Ban[]) => readonly Ban[]): Promise<void> {
  const release = await lockFile(directory, BANS_FILE, (error, path) =>
    error === null
      ? new BansError(
          `another process is editing the bans in ${directory}`,
          `Try again. If no such process is running, remove ${path}.`,
          FILE_PROBLEM,
        )
      : bansError(error, `${path} cannot be made`),
  )
  try {
    await writeBans(directory, edit(await readBans(directory)))
  } finally {
    await release()
  }
}

/** Parses the file's text. Throws BansError that says which entry is wrong. */
export function parseBans(text: string, path: string): Ban[] {
  const wrong = (what: string): BansError =>
    new BansError(
      `${path}: ${what}`,
      'Correct the file by hand, or remove it; then nobody is banned.',
      FILE_PROBLEM,
    )
  if (text.length > BYTES_MAX) throw wrong(`it has more than ${BYTES_MAX} bytes`)
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw wrong('it is not JSON')
  }
  if (!isRecord(value) || !Array.isArray(value.bans)) throw wrong('it has no bans')
  if (value.format !== FORMAT)
    throw wrong(`its format is ${String(value.format)}, but this version of Godwit reads format ${FORMAT}`)
  return value.bans.map((entry, index) => {
    const ban = banOf(entry)
    if (ban === null) throw wrong(`bans[${index}] is not a ban`)
    return ban
  })
}

function banOf(entry: unknown): Ban | null {
  if (!isRecord(entry)) return null
  const { kind, subject, since, until, reason, by, isAutomatic } = entry
  const known = BAN_KINDS.find((each) => each === kind)
  if (known === undefined || typeof subject !== 'string') return null
  const kept = banSubject(known, subject)
  const [from, to] = [timeOf(since), until === null ? null : timeOf(until)]
  if (kept === null || from === undefined || from === null || to === undefined) return null
  if (typeof reason !== 'string' || typeof by !== 'string' || typeof isAutomatic !== 'boolean') return null
  const short = reason.slice(0, BAN_REASON_CHARACTERS_MAX)
  return { kind: known, subject: kept, since: from, until: to, reason: short, by, isAutomatic }
}

function timeOf(text: unknown): number | undefined {
  const time = typeof text === 'string' ? Date.parse(text) : Number.NaN
  return Number.isNaN(time) ? undefined : time
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function bansError(error: unknown, what: string): BansError {
  if (error instanceof BansError) return error
  const { code } = error as NodeJS.ErrnoException
  const advice =
    code === 'EACCES' || code === 'EPERM'
      ? 'Run this as the user that owns the data directory.'
      : 'Check the data directory, and the space on its disk.'
  return new BansError(`${what}: ${code ?? String(error)}`, advice, { ...FILE_PROBLEM, cause: error })
}
