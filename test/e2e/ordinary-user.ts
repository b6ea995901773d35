/** Runs Godwit as another user than the one of the tests, from a place that this user can read. */
import { spawnSync } from 'node:child_process'
import { chmodSync, chownSync, cpSync, existsSync, mkdirSync, statSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { MAIN, output, ROOT, temporaryDirectory } from './process.ts'

/** A user of every Unix who owns nothing. */
export const NOBODY = { uid: 65_534, gid: 65_534 } as const

export const IS_ROOT = process.getuid?.() === 0

/** The user that runs a program: that of the tests, or one without rights that root can become. */
export interface Runner {
  readonly title: string
  readonly uid: number
  /** The words that start `godwit`. */
  readonly godwit: readonly string[]
  /** The words before any other program. */
  readonly before: readonly string[]
  /** A directory of this user's, with nothing in it. */
  home(): Promise<string>
}

/** The user of the tests. */
export function ourselves(): Runner {
  return {
    title: IS_ROOT ? 'root' : 'an ordinary user',
    uid: process.getuid!(),
    godwit: [process.execPath, MAIN],
    before: [],
    home: temporaryDirectory,
  }
}

/** Nobody. Only root can become that. */
export async function nobody(): Promise<Runner> {
  const before = ['setpriv', `--reuid=${NOBODY.uid}`, `--regid=${NOBODY.gid}`, '--clear-groups', '--']
  return {
    title: 'an ordinary user',
    uid: NOBODY.uid,
    godwit: [...before, ...(await readableGodwit(before))],
    before,
    home: async () => {
      const directory = await temporaryDirectory()
      chownSync(directory, NOBODY.uid, NOBODY.gid)
      return directory
    },
  }
}

/** Where the checkout or Node is closed to others, as in root's home, a copy. */
async function readableGodwit(before: readonly string[]): Promise<string[]> {
  const [name, ...args] = [...before, process.execPath, MAIN, '--version']
  if (spawnSync(name!, args).status === 0) return [process.execPath, MAIN]
  const copy = await temporaryDirectory()
  chmodSync(copy, 0o755)
  const node = join(copy, 'node')
  cpSync(process.execPath, node)
  const listed = await output('npm', 'ls', '--prefix', ROOT, '--omit=dev', '--all', '--parseable')
  const packages = listed.split('\n').filter((path) => path.includes('node_modules') && existsSync(path))
  const main = join(copy, relative(ROOT, MAIN))
  for (const path of [join(ROOT, 'package.json'), dirname(MAIN), ...packages]) {
    const target = join(copy, relative(ROOT, path))
    mkdirSync(dirname(target), { recursive: true })
    cpSync(path, target, { recursive: statSync(path).isDirectory() })
  }
  return [node, main]
}
