/** Looks up users of the operating system and lets root become one of them. */

import { execFileSync } from 'node:child_process'
import { statSync } from 'node:fs'
import type { ErrorCode } from '../../errors.ts'

/** A user and group of the operating system, by number. */
export interface SystemUser {
  readonly uid: number
  readonly gid: number
}

/** Adds a function that the types of Node lack. */
type WithGroups = NodeJS.Process & { readonly initgroups?: (user: string, extraGroup: number) => void }

/** The user does not exist, or this process cannot become it. */
export class SystemUserError extends Error {
  override readonly name = 'SystemUserError'
  readonly advice: string
  readonly code: ErrorCode

  constructor(message: string, advice: string, options: ErrorOptions & { readonly code?: ErrorCode } = {}) {
    super(message, options)
    this.advice = advice
    this.code = options.code ?? 'GODWIT_SYSTEM_USER'
  }
}

/** Whether this process runs as root. */
export function isRoot(): boolean {
  return process.getuid?.() === 0
}

/** Finds a user by name, or by numbers such as `1000` or `1000:1000`. Throws SystemUserError. */
export function systemUser(name: string): SystemUser {
  const numbers = /^(\d+)(?::(\d+))?$/.exec(name)
  if (numbers !== null) return { uid: Number(numbers[1]), gid: Number(numbers[2] ?? numbers[1]) }
  // Names may come from sources other than /etc/passwd; `id` knows them all.
  const number = (flag: string): number => {
    const answer = execFileSync('id', [flag, '--', name], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    return Number(answer)
  }
  try {
    return { uid: number('-u'), gid: number('-g') }
  } catch (error) {
    const advice = 'Create one, for example: useradd --system --no-create-home NAME'
    throw new SystemUserError(`there is no user '${name}' on this machine`, advice, { cause: error })
  }
}

/** Returns the owner of a directory. */
export function ownerOf(directory: string): SystemUser {
  const { uid, gid } = statSync(directory)
  return { uid, gid }
}

/**
 * Makes this process run as another user for good. Does nothing if it already does. Throws SystemUserError.
 */
export function becomeUser(name: string): void {
  const { uid, gid } = systemUser(name)
  if (process.getuid?.() === uid) return
  if (!isRoot()) {
    throw new SystemUserError(
      `only root can run godwit as '${name}'`,
      `Start godwit as root or as '${name}', or remove user from the configuration.`,
    )
  }
  const { initgroups } = process as WithGroups
  try {
    // A number need not belong to a known user, so it has only the one group.
    if (initgroups === undefined || /^\d/.test(name)) process.setgroups!([gid])
    else initgroups(name, gid)
    process.setgid!(gid)
    process.setuid!(uid)
  } catch (error) {
    // Containers can take this right away from root.
    const advice = `Start godwit as that user, for example: docker run --user ${uid}:${gid}`
    throw new SystemUserError(`root may not become '${name}': ${(error as Error).message}`, advice, {
      cause: error,
    })
  }
}
