/**
 * Keeps root safe from other users: root trusts no configuration that another user can change, and writes
 * no file that another user can replace.
 */
import { lstatSync, readlinkSync, type Stats } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import type { Config } from '../../config/config.ts'
import { optionValues } from '../../transport/tls/tls.ts'
import { becomeUser, isRoot, SystemUserError } from './system-user.ts'

/** A user or group other than root that can change the content of a path. */
export interface UntrustedWriter {
  /** The file or parent directory that they own or may write. */
  readonly path: string
  /** Null for a group or everybody. */
  readonly user: { readonly uid: number; readonly gid: number } | null
}

const LINKS_MAX = 40

const STICKY = 0o1000

/**
 * Finds everybody but root who can write this path, or replace it or a directory above it. Follows symbolic
 * links. A path that does not exist yet is judged by its existing parent directories.
 */
export function untrustedWriters(path: string): UntrustedWriter[] {
  const found: UntrustedWriter[] = []
  // Below a directory that others may not enter, write permissions for others do not count.
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
      // The owner of a link may replace it, even in a sticky directory.
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
 * Makes root become the only other user who can change these paths, or `wanted`, before it reads or writes
 * them. Returns a note to print; null if nothing changed or `wanted` was given. Throws SystemUserError if
 * several users can change them.
 */
export function dropRootToOwner(paths: readonly string[], wanted?: string): string | null {
  if (!isRoot()) return null
  const writers = paths.flatMap(untrustedWriters)
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
      `root does not trust ${paths.join(' and ')}: ${who} can change ${first.path}`,
      'Let only root change it (chown root, chmod go-w), or name a user to run as: --user NAME',
      { code: 'GODWIT_ROOT_PATH' },
    )
  }
  const { path, user } = writers.find((writer) => writer.user !== null)!
  becomeUser(`${user!.uid}:${user!.gid}`)
  return `godwit note: now running as user ${user!.uid} instead of root, because that user can change ${path}`
}

/**
 * Checks a broker that stays root. Throws SystemUserError if it would write a file that another user can
 * replace.
 */
export function refuseUntrustedPaths(config: Config): void {
  const problem = untrustedWritePath(config)
  if (problem === null) return
  throw new SystemUserError(
    problem,
    'Name a directory that only root can change, or set a user to run as: user or --user NAME',
    { code: 'GODWIT_ROOT_PATH' },
  )
}

/**
 * Names the file that root would write and another user can replace; null if there is none, or without
 * root.
 */
export function untrustedWritePath({ log, listeners }: Config): string | null {
  if (!isRoot()) return null
  const places = [
    ...(log.securityFile === null ? [] : [['log.security_file', log.securityFile] as const]),
    ...listeners.flatMap(({ name, path }) =>
      path === undefined ? [] : [[`listener '${name}'`, path] as const],
    ),
  ]
  for (const [key, path] of places) {
    const [writer] = untrustedWriters(dirname(resolve(path)))
    if (writer === undefined) continue
    return `${key}: root does not write ${path}: ${writerName(writer)} can change ${writer.path}`
  }
  return null
}

/** Warns of files that root's configuration names and another user can change. */
export function untrustedFileNotices({ access, listeners, http }: Config): string[] {
  if (!isRoot()) return []
  const tls = listeners.flatMap(({ tls: options }) =>
    options === undefined ? [] : [options.cert, options.key, options.ca, options.crl].flatMap(optionValues),
  )
  const httpFiles = [http.tls.cert, http.tls.key].flatMap(optionValues)
  const files = [...access.passwordFiles, ...access.aclFiles, ...tls, ...httpFiles].filter(
    (path) => !path.includes('-----BEGIN '),
  )
  return [...new Set(files)].flatMap((path) => {
    const [writer] = untrustedWriters(path)
    return writer === undefined
      ? []
      : [
          `godwit note: root reads ${path}, but ${writerName(writer)} can change ${writer.path}; ` +
            'running as another user would be safer: --user NAME',
        ]
  })
}

/** Says who else can change a configuration file that root reads again; null for nobody. */
export function untrustedWriter(path: string): string | null {
  const [writer] = isRoot() ? untrustedWriters(path) : []
  return writer === undefined ? null : `${writerName(writer)} can change ${writer.path}`
}

function writerName({ user }: UntrustedWriter): string {
  return user === null ? 'others' : `user ${user.uid}`
}

function writersOf(path: string, stats: Stats, isPassable: boolean): UntrustedWriter[] {
  const { uid, gid, mode } = stats
  if (uid !== 0) return [{ path, user: { uid, gid } }]
  // In a sticky directory only the owner of an entry can replace it, and the entry is checked by itself.
  if (stats.isDirectory() && (mode & STICKY) !== 0) return []
  const isOpen = (mode & 0o002) !== 0 || ((mode & 0o020) !== 0 && gid !== 0)
  return isOpen && isPassable ? [{ path, user: null }] : []
}
