/** Turns errors of LevelDB and the file system into StoreErrors that tell the operator what to do. */
import { corrupt, LOSS } from '../format/format.ts'
import { StoreError, type StoreErrorKind } from '../store.ts'

const ADVICE: Record<Exclude<StoreErrorKind, 'corrupt' | 'format' | 'memory'>, string> = {
  locked: 'Stop the other broker first, or give this one its own data directory.',
  access: 'Let the user that runs Godwit own the directory, or name another one.',
  full: 'Make room on the disk and start again. Acknowledged messages are kept.',
  io:
    'Check the disk and the system log, then start again. ' +
    'Acknowledged messages are kept if the disk keeps them.',
}

const ACCESS_CODES = new Set(['EACCES', 'EPERM', 'EROFS', 'ENOTDIR', 'EEXIST', 'ELOOP', 'ENAMETOOLONG'])

/** Explains why a directory cannot be made. File systems such as /proc answer ENOENT. */
export function directoryError(error: unknown, directory: string): StoreError {
  const code = error instanceof Error && 'code' in error ? error.code : ''
  if (code === 'EROFS') {
    return new StoreError(
      'access',
      `${directory} does not exist and cannot be made: its file system is mounted read-only`,
      'Mount it writable, or name another data directory.',
      { cause: error },
    )
  }
  if (code === 'ENOENT') {
    return new StoreError(
      'access',
      `${directory} does not exist and cannot be made: its file system takes no directories`,
      'Name a data directory on a disk.',
      { cause: error },
    )
  }
  return storeError(error, directory, 'making it')
}

/** Returns the error as a StoreError. Never throws. `doing` completes "while ...". */
export function storeError(error: unknown, directory: string, doing: string): StoreError {
  if (error instanceof StoreError) return error
  const chain = causes(error)
  const text = chain.map((cause) => cause.message).join(': ')
  const codes = chain.map((cause) => ('code' in cause ? String(cause.code) : ''))
  if (codes.includes('LEVEL_LOCKED')) {
    return made('locked', `another broker runs on ${directory}`, error)
  }
  if (codes.includes('ENOSPC') || codes.includes('EDQUOT') || /No space left|quota exceeded/i.test(text)) {
    return made('full', `no space left in ${directory} while ${doing}`, error)
  }
  if (
    codes.some((code) => ACCESS_CODES.has(code)) ||
    /Permission denied|Read-only file system|Not a directory|Operation not permitted/.test(text)
  ) {
    return made('access', `${directory} cannot be used while ${doing}: ${text}`, error)
  }
  if (codes.includes('LEVEL_CORRUPTION') || /Corruption:/.test(text)) {
    return corrupt(text, LOSS.messages, error)
  }
  // LevelDB maps its tables. It answers like this when a table is shorter than it should be.
  if (/\.(ldb|sst): Invalid argument/.test(text)) return corrupt(text, LOSS.messages, error)
  // One of LevelDB's files names another one that does not exist.
  const isOpening = codes.includes('LEVEL_DATABASE_NOT_OPEN') && codes.includes('LEVEL_IO_ERROR')
  if (isOpening && /No such file or directory|Is a directory/.test(text)) {
    return corrupt(`a file of its database is missing: ${text}`, LOSS.session, error)
  }
  return made('io', `the disk failed in ${directory} while ${doing}: ${text}`, error)
}

function made(kind: keyof typeof ADVICE, message: string, cause: unknown): StoreError {
  return new StoreError(kind, message, ADVICE[kind], { cause })
}

function causes(error: unknown): Error[] {
  const chain: Error[] = []
  let cause = error
  while (cause instanceof Error && chain.length < 8) {
    chain.push(cause)
    cause = cause.cause
  }
  return chain
}
