/**
 * The image without an engine: the Dockerfile's commands are run, and its files copied, in a directory; then
 * what the image would start is started there, by a user that can write nothing but the data.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { chmod, chown, cp, mkdir, readdir, readFile, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { cleanUp, ROOT, temporaryDirectory } from './process.ts'

afterEach(cleanUp)

interface Instruction {
  readonly name: string
  readonly text: string
}

interface Image {
  /** Stands for `/` of the last stage. */
  readonly root: string
  readonly settings: ReadonlyMap<string, string>
}

interface Ended {
  readonly code: number | null
  readonly output: string
}

function instructions(text: string): Instruction[] {
  return text
    .replaceAll(/^#.*\n/gm, '')
    .replaceAll('\\\n', ' ')
    .split('\n')
    .filter((line) => line.trim() !== '')
    .map((line) => {
      const [, name, rest] = /^([A-Z]+) +(.*)$/.exec(line)!
      return { name: name!, text: rest! }
    })
}

/** Runs a program as the given user; `seen` may end it when its output is enough. */
function run(
  words: readonly string[],
  cwd: string,
  user?: number,
  seen?: (output: string, child: ChildProcess) => void,
): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(words[0]!, words.slice(1), {
      cwd,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { PATH: process.env.PATH, HOME: process.env.HOME, npm_config_prefer_offline: 'true' },
      ...(user !== undefined && { uid: user, gid: user }),
    })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        output += text
        seen?.(output, child)
      })
    }
    child.on('error', reject)
    child.on('close', (code) => resolve({ code, output }))
  })
}

/** Builds the image in directories below `directory`, one per stage. */
async function build(directory: string, text: string): Promise<Image> {
  const stages = new Map<string, string>()
  let root = ''
  let work = '/'
  let settings = new Map<string, string>()
  const inside = (path: string): string => join(root, path.startsWith('/') ? path : join(work, path))
  for (const { name, text: rest } of instructions(text)) {
    if (name === 'FROM') {
      const [, stage = 'last'] = / AS (\S+)$/.exec(rest) ?? []
      root = join(directory, stage)
      work = '/'
      settings = new Map()
      stages.set(stage, root)
      await mkdir(root)
    } else if (name === 'WORKDIR') {
      work = rest
      await mkdir(inside('.'), { recursive: true })
    } else if (name === 'RUN') {
      const { code, output } = await run(['sh', '-c', rest], inside('.'))
      expect(code, `RUN ${rest}\n${output}`).toBe(0)
    } else if (name === 'COPY') {
      const words = rest.split(/ +/)
      const flags = new Map(words.filter((word) => word.startsWith('--')).map(pairOf))
      const paths = words.filter((word) => !word.startsWith('--'))
      const target = paths.pop()!
      const from = stages.get(flags.get('--from') ?? '') ?? ROOT
      for (const path of paths) {
        const source = join(from, path)
        const isDirectory = (await stat(source)).isDirectory()
        const to =
          isDirectory || !target.endsWith('/') ? inside(target) : join(inside(target), basename(path))
        await cp(source, to, { recursive: true })
        if (flags.has('--chmod')) await chmod(to, Number.parseInt(flags.get('--chmod')!, 8))
        if (flags.has('--chown') && process.getuid?.() === 0) {
          const [user, group] = flags.get('--chown')!.split(':').map(Number)
          await chown(to, user!, group!)
        }
      }
    } else {
      settings.set(name, rest)
    }
  }
  return { root, settings }
}

function pairOf(flag: string): [string, string] {
  const [name = '', value = ''] = flag.split('=')
  return [name, value]
}

/** The words of an exec form, with paths as they are here. */
function words(root: string, form: string): string[] {
  return (JSON.parse(form) as string[]).map((word) => {
    if (word === '/nodejs/bin/node') return process.execPath
    return word.startsWith('/') ? join(root, word) : word
  })
}

async function bytesBelow(directory: string): Promise<number> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true })
  const files = entries.filter((entry) => entry.isFile())
  const sizes = await Promise.all(files.map(({ parentPath, name }) => stat(join(parentPath, name))))
  return sizes.reduce((sum, { size }) => sum + size, 0)
}

test('the image builds, has only what it needs, and runs without rights on a read-only root', async () => {
  const text = await readFile(join(ROOT, 'config', 'Dockerfile'), 'utf8')
  const directory = await temporaryDirectory()
  await chmod(directory, 0o755)
  const { root, settings } = await build(directory, text)

  const user = Number(settings.get('USER')!.split(':')[0])
  expect(user).toBeGreaterThan(0)
  expect(settings.get('VOLUME')).toBe('/data')
  expect((await readdir(join(root, 'app'))).sort()).toEqual([
    'LICENSE',
    'dist',
    'node_modules',
    'package.json',
  ])
  const modules = await readdir(join(root, 'app', 'node_modules'))
  expect(modules).not.toContain('typescript')
  expect(modules).not.toContain('vitest')
  expect(await bytesBelow(join(root, 'app'))).toBeLessThan(60_000_000)

  const isRoot = process.getuid?.() === 0
  if (!isRoot) await run(['chmod', '-R', 'a-w', join(root, 'app')], root)
  const as = isRoot ? user : undefined
  const entry = words(root, settings.get('ENTRYPOINT')!)
  const command = words(root, settings.get('CMD')!)
  const health = words(root, settings.get('HEALTHCHECK')!.replace(/^.* CMD /, ''))
  const cwd = join(root, 'app')

  const before = await run(health, cwd, as)
  expect(before.code, before.output).toBe(1)
  let whileRunning: Promise<Ended> | undefined
  const broker = await run([...entry, ...command, '--port', '0'], cwd, as, (output, child) => {
    if (whileRunning !== undefined || !output.includes('godwit try:')) return
    whileRunning = run(health, cwd, as)
    void whileRunning.then(() => child.kill('SIGTERM'))
  })
  expect(await whileRunning, broker.output).toMatchObject({ code: 0 })
  expect(broker).toMatchObject({ code: 0, output: expect.stringContaining('godwit stopped') })
  if (!isRoot) await run(['chmod', '-R', 'u+w', join(root, 'app')], root)
})

test('the context has only what is copied from it', async () => {
  const dockerfile = await readFile(join(ROOT, 'config', 'Dockerfile'), 'utf8')
  const ignore = await readFile(join(ROOT, 'config', 'Dockerfile.dockerignore'), 'utf8')
  const [all, ...kept] = ignore.trimEnd().split('\n')
  expect(all).toBe('*')
  const copied = instructions(dockerfile)
    .filter(({ name, text }) => name === 'COPY' && !text.startsWith('--from'))
    .flatMap(({ text }) => text.split(/ +/).slice(0, -1))
  expect(kept.map((line) => line.replace(/^!/, '')).sort()).toEqual(copied.sort())
})
