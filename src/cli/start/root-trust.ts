/** Root takes no orders from a file that another user can write, and writes nothing where another user can put something else. */
import { lstatSync, readlinkSync, type Stats } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import type { Config } from '../../config/config.ts'
import { sources } from '../../transport/tls/tls.ts'
import { becomeUser, isRoot, SystemUserError } from './system-user.ts'

/** Somebody other than root who can change what stands at a path. */
export interface OtherWriter {
  /** What is theirs, or open to them: the file, or a directory above it. */
  readonly path: string
  /** Null for a group or for everybody. */
  readonly user: { readonly uid: number; readonly gid: number } | null
}

const LINKS_MAX = 40

const STICKY = 0o1000

/**
 * Everybody but root who can change what is at this path, or what will be: by writing it, or by exchanging it or a directory above it, on
 * each way that symbolic links lead. What does not exist yet is judged by the directories that do.
 */
export function otherWriters(path: string): OtherWriter[] {
  const found: OtherWriter[] = []
  // Directories that others may not pass are no way for them to what lies below, whoever may write that.
  let isPassable = true
  let links = 0
  let at = '/'
  let rest = resolve(path).split('/').filter(Boolean)
  found.push(...writersOf(at, lstatSync(at), isPassable))
  while (rest.length > 0) {
    const [name, ...further] = rest
    const next = join(at, name!)
    const stats = lstatSync(next, { throwIfNoEntry: false })
    if (stats === undefined) return found
    if (stats.isSymbolicLink()) {
      links++
      // In a sticky directory its owner may exchange it.
      if (stats.uid !== 0) found.push({ path: next, user: { uid: stats.uid, gid: stats.gid } })
      if (links > LINKS_MAX) return [...found, { path: next, user: null }]
      const target = readlinkSync(next)
      rest = [...resolve(at, target).split('/').filter(Boolean), ...further]
      at = '/'
      isPassable = true
      continue
    }
    found.push(...writersOf(next, stats, isPassable))
    if (stats.isDirectory()) isPassable &&= (stats.mode & 0o011) !== 0
    at = next
    rest = further
  }
  return found
}

/**
 * For root, before it reads the configuration at these paths or writes into these directories: goes on as the only user who can change
 * them, or as `wanted`, and returns what to tell. Null where nobody else can. Throws SystemUserError where it is not one user.
 */
export function yieldToOwner(paths: readonly string[], wanted?: string): string | null {
  if (!isRoot()) return null
  const writers = paths.flatMap(otherWriters)
  const [first] = writers
  if (first === undefined) return null
  if (wanted !== undefined) {
    becomeUser(wanted)
    return null
  }
  const owners = new Map(writers.flatMap(({ user }) => (user === null ? [] : [[user.uid, user] as const])))
  const [owner] = owners.values()
  if (owner === undefined || owners.size > 1) {
    const who = owner === undefined ? 'others' : `users ${[...owners.keys()].join(' and ')}`
    throw new SystemUserError(
      `root takes no orders from ${paths.join(' and ')}: ${who} can change ${first.path}`,
      'Let only root change it (chown root, chmod go-w), or name a user to run as: --user NAME',
    )
  }
  const { path, user } = writers.find((writer) => writer.user !== null)!
  becomeUser(`${user!.uid}:${user!.gid}`)
  return `godwit note: runs as user ${user!.uid} from here on, who can change ${path}: root takes no orders from there`
}

/** For root that stays root. Throws SystemUserError for a file that it would write where another user can put something else. */
export function refuseForeignPlaces(config: Config): void {
  const problem = foreignPlace(config)
  if (problem === null) return
  throw new SystemUserError(
    problem,
    'Name a directory that only root can change, or a user to run as: user in the configuration, or --user NAME',
  )
}

/** Which file root would write where another user can put something else; null for none, and for everybody but root. */
export function foreignPlace({ log, listeners }: Config): string | null {
  if (!isRoot()) return null
  const places = [
    ...(log.securityFile === null ? [] : [['log.security_file', log.securityFile] as const]),
    ...listeners.flatMap(({ name, path }) =>
      path === undefined ? [] : [[`listener '${name}'`, path] as const],
    ),
  ]
  for (const [key, path] of places) {
    const [writer] = otherWriters(dirname(resolve(path)))
    if (writer === undefined) continue
    return `${key}: root writes nothing to ${path}: ${shownWriter(writer)} can change ${writer.path}`
  }
  return null
}

/** What root reads by the word of its own configuration, though somebody else can change it. */
export function foreignFileNotices({ access, listeners }: Config): string[] {
  if (!isRoot()) return []
  const tls = listeners.flatMap(({ tls: options }) =>
    options === undefined ? [] : [options.cert, options.key, options.ca, options.crl].flatMap(sources),
  )
  const files = [...access.passwordFiles, ...access.aclFiles, ...tls].filter(
    (path) => !path.includes('-----BEGIN '),
  )
  return [...new Set(files)].flatMap((path) => {
    const [writer] = otherWriters(path)
    return writer === undefined
      ? []
      : [
          `godwit note: root reads ${path}, and ${shownWriter(writer)} can change ${writer.path}; a user to run as would be safer: --user NAME`,
        ]
  })
}

/** Who can change a configuration file that root has read before; null for nobody else. */
export function foreignWriter(path: string): string | null {
  const [writer] = isRoot() ? otherWriters(path) : []
  return writer === undefined ? null : `${shownWriter(writer)} can change ${writer.path}`
}

function shownWriter({ user }: OtherWriter): string {
  return user === null ? 'others' : `user ${user.uid}`
}

function writersOf(path: string, stats: Stats, isPassable: boolean): OtherWriter[] {
  const { uid, gid, mode } = stats
  if (uid !== 0) return [{ path, user: { uid, gid } }]
  // Of a sticky directory others cannot take away what is not theirs: whose that is, is looked at by itself.
  if (stats.isDirectory() && (mode & STICKY) !== 0) return []
  const isOpen = (mode & 0o002) !== 0 || ((mode & 0o020) !== 0 && gid !== 0)
  return isOpen && isPassable ? [{ path, user: null }] : []
}
