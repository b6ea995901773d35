/** Users of the operating system: whose files are, and whom root goes on as. */
import { execFileSync } from 'node:child_process'
import { statSync } from 'node:fs'

/** By number. */
export interface SystemUser {
  readonly uid: number
  readonly gid: number
}

/** What the types of Node lack. */
type WithGroups = NodeJS.Process & { readonly initgroups?: (user: string, extraGroup: number) => void }

/** A user that does not exist, or that this process cannot become. */
export class SystemUserError extends Error {
  override readonly name = 'SystemUserError'
  readonly advice: string

  constructor(message: string, advice: string, options?: ErrorOptions) {
    super(message, options)
    this.advice = advice
  }
}

/** Whether this process is root's. */
export function isRoot(): boolean {
  return process.getuid?.() === 0
}

/** A user by name, or by numbers like `1000` or `1000:1000`. Throws SystemUserError. */
export function systemUser(name: string): SystemUser {
  const numbers = /^(\d+)(?::(\d+))?$/.exec(name)
  if (numbers !== null) return { uid: Number(numbers[1]), gid: Number(numbers[2] ?? numbers[1]) }
  // Names may come from elsewhere than /etc/passwd; `id` knows.
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
    const advice = 'Make one, such as by: useradd --system --no-create-home NAME'
    throw new SystemUserError(`there is no user '${name}' on this machine`, advice, { cause: error })
  }
}

/** Whose a directory is. */
export function ownerOf(directory: string): SystemUser {
  const { uid, gid } = statSync(directory)
  return { uid, gid }
}

/** This process goes on as another user, for good. Does nothing when it is that user's already. Throws SystemUserError. */
export function becomeUser(name: string): void {
  const { uid, gid } = systemUser(name)
  if (process.getuid?.() === uid) return
  if (!isRoot()) {
    throw new SystemUserError(
      `only root can go on as '${name}'`,
      `Start godwit as root or as '${name}', or take user from the configuration.`,
    )
  }
  const { initgroups } = process as WithGroups
  try {
    // A number need not be anybody's whom the system knows: then there is just the one group.
    if (initgroups === undefined || /^\d/.test(name)) process.setgroups!([gid])
    else initgroups(name, gid)
    process.setgid!(gid)
    process.setuid!(uid)
  } catch (error) {
    // Containers can take that right away from root.
    const advice = `Start godwit as that user, such as by: docker run --user ${uid}:${gid}`
    throw new SystemUserError(`root may not go on as '${name}': ${(error as Error).message}`, advice, {
      cause: error,
    })
  }
}
