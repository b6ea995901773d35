/** Root trusts no file that another user can change, and writes none where another user can put a link. */
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { untrustedWriter, untrustedWriters } from '../../src/cli/start/root-trust.ts'
import { IS_ROOT, NOBODY } from './ordinary-user.ts'
import { cleanUp, type Ended, MAIN, Program, temporaryDirectory } from './process.ts'

afterEach(cleanUp)

function started(...words: string[]): Program {
  return new Program(process.execPath, [MAIN, ...words])
}

function ran(...words: string[]): Promise<Ended> {
  return started(...words).ended
}

/** A directory that NOBODY reaches, and whose it is. */
async function home(): Promise<string> {
  const directory = await temporaryDirectory()
  chmodSync(directory, 0o755)
  return directory
}

function give(...paths: string[]): void {
  for (const path of paths) chownSync(path, NOBODY.uid, NOBODY.gid)
}

const LISTENERS = 'data: {directory: .}\nlisteners: [{name: plain, type: tcp, port: 0}]\n'

function uidOf({ pid }: Program): number {
  return Number(/^Uid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1])
}

const isUp = (stdout: string): boolean => /^godwit (listener|serves)/m.test(stdout)

// Only root can show what root does; `setup.test.ts` warns if the tests run as another user.
describe.runIf(IS_ROOT)('root, started on the directory of another user', () => {
  /** Set up for NOBODY by root. */
  async function made(): Promise<{ top: string; directory: string; config: string }> {
    const top = await home()
    const directory = join(top, 'data')
    const config = join(directory, 'godwit.yaml')
    expect((await ran('setup', '--data', directory, '--user', `${NOBODY.uid}:${NOBODY.gid}`)).code).toBe(0)
    expect(statSync(directory).uid).toBe(NOBODY.uid)
    return { top, directory, config }
  }

  test('is not made to write elsewhere by a configuration that names no user [field-D23]', async () => {
    const { top, directory, config } = await made()
    const target = join(top, 'root-only')
    mkdirSync(target, { mode: 0o700 })
    writeFileSync(config, `${LISTENERS}log: {security_file: ${join(target, 'log')}}\n`)
    give(config)
    const refused = await ran('--data', directory)
    expect([refused.code, refused.stderr]).toEqual([1, expect.stringContaining('cannot be written')])
    expect(existsSync(join(target, 'log'))).toBe(false)
    writeFileSync(config, LISTENERS)
    const broker = started('--data', directory)
    await broker.until(isUp)
    expect(uidOf(broker)).toBe(NOBODY.uid)
    await broker.until((stdout) =>
      stdout.includes(
        `godwit note: now running as user ${NOBODY.uid} instead of root, ` +
          `because that user can change ${directory}`,
      ),
    )
    for (const name of ['CURRENT', 'control.sock'])
      expect(statSync(join(directory, name)).uid).toBe(NOBODY.uid)
  })

  test('does not become another user because a directory says so [field-D23]', async () => {
    const { directory, config } = await made()
    writeFileSync(config, `${LISTENERS}user: root\n`)
    const { code, stderr } = await ran('--data', directory)
    expect([code, stderr]).toEqual([1, expect.stringContaining("only root can run godwit as 'root'")])
  })

  test('runs as the user that the command line names [field-D23]', async () => {
    const { directory, config } = await made()
    writeFileSync(config, LISTENERS)
    const broker = started('--data', directory, '--user', `${NOBODY.uid}:${NOBODY.gid}`)
    await broker.until(isUp)
    expect(uidOf(broker)).toBe(NOBODY.uid)
    expect(broker.stdout).not.toContain('godwit note: goes on as')
  })

  test('changes users, renews and repairs as the owner of the directory [field-D23]', async () => {
    const { top, directory } = await made()
    const target = join(top, 'target')
    writeFileSync(target, 'of root', { mode: 0o600 })
    // A program of root that follows links would overwrite this file.
    symlinkSync(target, join(directory, 'LOG'))
    symlinkSync(target, join(directory, 'accounts.json.lock'))
    for (const words of [['setup', '--renew'], ['user', 'list'], ['check-store'], ['repair']]) {
      await ran(...words, '--data', directory)
      expect([words, readFileSync(target, 'utf8'), statSync(target).uid]).toEqual([words, 'of root', 0])
    }
    expect(statSync(join(directory, 'server.crt')).uid).toBe(NOBODY.uid)
  })

  test('repairs a named directory as its owner [field-D23]', async () => {
    const { directory, config } = await made()
    writeFileSync(config, LISTENERS)
    const broker = started('--data', directory)
    await broker.until(isUp)
    broker.signal('SIGTERM')
    expect((await broker.ended).code).toBe(0)
    rmSync(join(directory, 'CURRENT'))
    // The directory counts that is named, and not the one of `start`.
    for (const command of ['check-store', 'repair']) await ran(command, directory)
    const names = readdirSync(directory)
    expect(names).toContain('CURRENT')
    const ofRoot = names.filter((name) => lstatSync(join(directory, name)).uid !== NOBODY.uid)
    expect(ofRoot).toEqual([])
  })

  test('names the user that it runs as if that user may not read the files [field-D23]', async () => {
    const directory = join(await home(), 'data')
    const before = started('--data', directory, '--port', '0')
    await before.until(isUp)
    before.signal('SIGTERM')
    await before.ended
    // As an earlier version left it, which went on as root.
    give(directory)
    const { code, stderr } = await ran('--data', directory, '--port', '0')
    expect([code, stderr]).toEqual([
      1,
      expect.stringMatching(/^godwit note: now running as user 65534 .* can change .*\ngodwit: .*EACCES/),
    ])
  })

  test('accepts no configuration that others can write, or replace by a link [field-D23]', async () => {
    const top = await home()
    const config = join(top, 'godwit.yaml')
    writeFileSync(config, LISTENERS)
    chmodSync(config, 0o666)
    const open = await ran('--config', config)
    expect([open.code, open.stderr]).toEqual([
      1,
      `godwit: root does not trust ${config}: others can change ${config}\n` +
        'Let only root change it (chown root, chmod go-w), or name a user to run as: --user NAME\n' +
        'Code: GODWIT_ROOT_PATH\n',
    ])
    chmodSync(config, 0o644)
    const theirs = join(top, 'theirs')
    mkdirSync(theirs)
    give(theirs)
    symlinkSync(config, join(theirs, 'link.yaml'))
    const broker = started(
      '--config',
      join(theirs, 'link.yaml'),
      '--set',
      `data.directory=${join(theirs, 'data')}`,
    )
    await broker.until(isUp)
    expect(uidOf(broker)).toBe(NOBODY.uid)
  })

  test('writes no log and no socket file where another user can put a link [field-D23]', async () => {
    const top = await home()
    const theirs = join(top, 'theirs')
    mkdirSync(theirs)
    give(theirs)
    const data = ['--data', join(top, 'data'), '--port', '0']
    const log = await ran(...data, '--set', `log.security_file=${join(theirs, 'log')}`)
    expect([log.code, log.stderr]).toEqual([
      1,
      expect.stringMatching(
        new RegExp(
          String.raw`^godwit: log\.security_file: root does not write .*theirs/log: ` +
            String.raw`user 65534 can change .*theirs\n.*--user NAME\nCode: GODWIT_ROOT_PATH\n$`,
        ),
      ),
    ])
    const socket = await ran(
      ...data.slice(0, 2),
      ...['--set', `listeners=[{name: local, type: unix, path: ${join(theirs, 'sock')}}]`],
    )
    expect([socket.code, socket.stderr]).toEqual([
      1,
      expect.stringContaining("listener 'local': root does not write"),
    ])
  })

  test('reloads no configuration that was given to another user [field-D23]', async () => {
    const top = await home()
    const config = join(top, 'godwit.yaml')
    writeFileSync(config, `${LISTENERS.replace('.}', './data}')}`)
    const broker = started('--config', config)
    await broker.until(isUp)
    expect(uidOf(broker)).toBe(0)
    const theirs = join(top, 'theirs')
    mkdirSync(theirs)
    give(theirs)
    const before = readFileSync(config, 'utf8')
    writeFileSync(
      config,
      before.replace('}]', `}, {name: local, type: unix, path: ${join(theirs, 'sock')}}]`),
    )
    const socket = await ran('reload', '--data', join(top, 'data'))
    expect([socket.code, socket.stderr]).toEqual([
      1,
      expect.stringContaining("listener 'local': root does not write"),
    ])
    writeFileSync(config, before)
    give(config)
    const { code, stderr } = await ran('reload', '--data', join(top, 'data'))
    expect([code, stderr]).toEqual([1, expect.stringContaining('root no longer trusts this file')])
  })
})

describe.runIf(IS_ROOT)('who can change what is at a path', () => {
  test('is the owner of it or of a directory above it, and everybody if it is open [field-D23]', async () => {
    const top = await home()
    const path = (name: string): string => join(top, name)
    mkdirSync(path('plain'))
    writeFileSync(path('plain/file'), '')
    expect(untrustedWriters(path('plain/file'))).toEqual([])
    expect(untrustedWriter(path('plain/not-there/yet'))).toBeNull()
    chmodSync(path('plain'), 0o777)
    expect(untrustedWriters(path('plain/file'))).toEqual([{ path: path('plain'), user: null }])
    // As in /tmp: only what is there already and belongs to root is safe.
    chmodSync(path('plain'), 0o1777)
    expect(untrustedWriters(path('plain/file'))).toEqual([])
    give(path('plain/file'))
    expect(untrustedWriters(path('plain/file'))).toEqual([{ path: path('plain/file'), user: NOBODY }])
    // A loop of links, and a directory that nobody else can enter.
    symlinkSync('loop', path('loop'))
    expect(untrustedWriters(path('loop')).at(-1)).toEqual({ path: path('loop'), user: null })
    mkdirSync(path('closed'), { mode: 0o700 })
    mkdirSync(path('closed/open'))
    chmodSync(path('closed/open'), 0o777)
    expect(untrustedWriters(path('closed/open'))).toEqual([])
  })
})
