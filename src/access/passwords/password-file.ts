/** Parses Mosquitto's `password_file`, with one `name:hash` per line as `mosquitto_passwd` writes it. */

import { LinesError } from '../files/watched-file.ts'
import { type ChosenHash, parseChosenHash } from './password-hash.ts'

/** Password hashes by user name. */
export type PasswordFile = ReadonlyMap<string, ChosenHash>

const NAME_BYTES_MAX = 65_535

/** Parses the file's text. Throws LinesError with the number of every wrong line, and nothing of its text. */
export function parsePasswordFile(text: string, path: string): PasswordFile {
  const users = new Map<string, ChosenHash>()
  const problems: { line: number; message: string }[] = []
  for (const [index, written] of text.split('\n').entries()) {
    const line = index + 1
    const trimmed = written.trim()
    if (trimmed === '' || written.startsWith('#')) continue
    const colon = trimmed.indexOf(':')
    const name = trimmed.slice(0, Math.max(0, colon)).trim()
    if (colon === -1 || name === '' || Buffer.byteLength(name) > NAME_BYTES_MAX) {
      problems.push({ line, message: 'it is not a user name, a colon and a hashed password' })
      continue
    }
    const parsed = parseChosenHash(trimmed.slice(colon + 1).trim())
    if (typeof parsed === 'string') problems.push({ line, message: parsed })
    else if (users.has(name)) problems.push({ line, message: 'the user is in the file already' })
    else users.set(name, parsed)
  }
  if (problems.length > 0) throw new LinesError(path, problems)
  return users
}
