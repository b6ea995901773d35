/** The house's rules (src/ARCHITECTURE.md): an import goes down or stays in its room; the core is pure. */
import { readdirSync, readFileSync } from 'node:fs'
import { basename, dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'

const SRC = fileURLToPath(new URL('../src', import.meta.url))

/** The floors, by the folder right below `src`: an import goes down a floor or stays in its folder. */
const FLOORS: Readonly<Record<string, number>> = {
  'errors.ts': 1,
  mqtt: 1,
  structures: 1,
  routing: 2,
  store: 2,
  session: 3,
  queue: 3,
  broker: 4,
  transport: 5,
  access: 5,
  observe: 5,
  admin: 5,
  http: 6,
  config: 7,
  runtime: 8,
  'godwit.ts': 9,
  cli: 10,
  'main.ts': 11,
}

/**
 * The rooms of each folder that has several, from the bottom up: an import goes down within a folder, too.
 */
const ROOMS: Readonly<Record<string, readonly string[]>> = {
  mqtt: ['mqtt', 'mqtt/properties', 'mqtt/codec'],
  store: [
    'store',
    'store/format',
    'store/files',
    'store/journal',
    'store/logs',
    'store/commit',
    'store/memory',
    'store/level',
    'store/records',
  ],
  queue: ['queue/explicit', 'queue/state', 'queue/dispatch', 'queue'],
  broker: [
    'broker/boundary',
    'broker/accounts',
    'broker/state',
    'broker/queues',
    'broker/relief',
    'broker/messages',
    'broker/sessions',
    'broker/connection/output',
    'broker/connection',
    'broker',
  ],
  runtime: ['runtime/certificates', 'runtime'],
  transport: ['transport/tls', 'transport/listener', 'transport/sockets', 'transport/websocket', 'transport'],
  access: ['access/files', 'access/passwords', 'access/bans', 'access/logins', 'access'],
  cli: ['cli/start', 'cli/actions', 'cli/grammar', 'cli/commands', 'cli'],
}

/** A folder with more files is not a room but a hall. */
const FILES_IN_A_ROOM_MAX = 16

const CORE = new Set(['mqtt', 'structures', 'routing', 'session', 'queue', 'broker'])

/** Modules that the core may import: none of them waits or logs, and `node:module` opens mqtt-packet only. */
const CORE_PACKAGES = new Set(['mqtt-packet', 'node:assert', 'node:buffer', 'node:module'])

const IMPURE = new RegExp(
  String.raw`\b(?:Date\.now|new Date\(\)|performance\.|setTimeout|setInterval|setImmediate|queueMicrotask|` +
    String.raw`process\.|console\.|Math\.random|fetch\()`,
  'g',
)

const VAGUE = /^(?:utils?|helpers?|common|managers?|services?|base|misc|shared|index)\.ts$/

interface Source {
  /** Path below src. */
  readonly file: string
  readonly code: string
  /** As written: relative, `node:…` or a package's. */
  readonly imports: readonly string[]
}

const sources = readdirSync(SRC, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .sort()
  .map(read)

function read(file: string): Source {
  const code = withoutComments(readFileSync(join(SRC, file), 'utf8'))
  return { file, code, imports: importsOf(code) }
}

function withoutComments(text: string): string {
  const stringOrComment =
    /'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`|\/\/[^\n]*|\/\*[\s\S]*?\*\//g
  return text.replace(stringOrComment, (found) => (found.startsWith('/') ? ' ' : found))
}

/** Type imports, re-exports and `import('…')` included. */
function importsOf(code: string): string[] {
  const statement = /\b(?:import|export)\s(?:[^'";]*?\sfrom\s)?\s*'([^']+)'|\bimport\(\s*'([^']+)'\s*\)/g
  return [...code.matchAll(statement)].map((match) => (match[1] ?? match[2])!)
}

/** Returns the imports that are loaded with the file: neither types nor what it imports later. */
function loadedBy(code: string): string[] {
  const statement = /\b(?:import|export)\s(?!type\b)(?:[^'";]*?\sfrom\s)?\s*'([^']+)'/g
  return [...code.matchAll(statement)].map((match) => match[1]!)
}

function folderOf(file: string): string {
  return file.split('/')[0]!
}

function roomOf(file: string): string {
  return file.includes('/') ? dirname(file) : file
}

/** The file below src that a relative import means. */
function target(source: Source, imported: string): string {
  return relative(SRC, join(SRC, dirname(source.file), imported))
}

function isRelative(imported: string): boolean {
  return imported.startsWith('.')
}

describe('the house', () => {
  test('files are found', () => {
    expect(sources.length).toBeGreaterThan(20)
    expect(sources.find(({ file }) => file === 'broker/store-recovery.ts')!.imports).toContain(
      '../session/session.ts',
    )
  })

  test('every file is in a room that has a floor', () => {
    const homeless = sources.filter(({ file }) => {
      const [folder, room] = [folderOf(file), roomOf(file)]
      return FLOORS[folder] === undefined || !(ROOMS[folder] ?? [folder]).includes(room)
    })
    expect(homeless.map(({ file }) => file)).toEqual([])
  })

  test('a room has few files', () => {
    const files = new Map<string, number>()
    for (const { file } of sources) files.set(roomOf(file), (files.get(roomOf(file)) ?? 0) + 1)
    expect([...files].filter(([, count]) => count > FILES_IN_A_ROOM_MAX)).toEqual([])
  })

  test('an import goes down a floor, or down within its folder, or stays in its room', () => {
    const wrong = sources.flatMap((source) =>
      source.imports
        .filter((imported) => isRelative(imported) && !mayImport(source.file, target(source, imported)))
        .map((imported) => `${source.file} imports ${imported}`),
    )
    expect(wrong).toEqual([])
  })

  test('the core knows the store by its port alone', () => {
    const wrong = sources
      .filter(({ file }) => CORE.has(folderOf(file)))
      .flatMap((source) =>
        source.imports
          .filter((imported) => isRelative(imported) && roomOf(target(source, imported)).startsWith('store/'))
          .map((imported) => `${source.file} imports ${imported}`),
      )
    expect(wrong).toEqual([])
  })

  test('a relative import names a file that is there, with its ending', () => {
    const files = new Set(sources.map(({ file }) => file))
    const wrong = sources.flatMap((source) =>
      source.imports
        .filter((imported) => isRelative(imported) && !files.has(target(source, imported)))
        .map((imported) => `${source.file} imports ${imported}`),
    )
    expect(wrong).toEqual([])
  })

  test('imports make no circle, type imports included', () => {
    const below = new Map(
      sources.map((source) => [
        source.file,
        source.imports.filter(isRelative).map((imported) => target(source, imported)),
      ]),
    )
    expect(circles(below)).toEqual([])
  })

  test('the core has no sockets, timers, clock, files or logger', () => {
    const core = sources.filter(({ file }) => CORE.has(folderOf(file)))
    const packages = core.flatMap(({ file, imports }) =>
      imports
        .filter((imported) => !isRelative(imported) && !CORE_PACKAGES.has(imported))
        .map((imported) => `${file} imports ${imported}`),
    )
    const uses = core.flatMap(({ file, code }) =>
      [...code.matchAll(IMPURE)].map(([found]) => `${file} uses ${found}`),
    )
    expect([...packages, ...uses]).toEqual([])
  })

  test('modules that only some brokers need are not loaded by a start', () => {
    const loaded = new Set<string>()
    const visit = (file: string): void => {
      if (loaded.has(file)) return
      loaded.add(file)
      const source = sources.find((one) => one.file === file)
      if (source === undefined) return
      for (const imported of loadedBy(source.code)) {
        visit(isRelative(imported) ? target(source, imported) : imported)
      }
    }
    visit('main.ts')
    expect(loaded).toContain('broker/server.ts')
    const late = [
      'mqtt-packet',
      'aedes-persistence-level/asyncPersistence.js',
      'yaml',
      'ws',
      'hono',
      '@hono/node-server',
      'http/http-server.ts',
      '@node-rs/argon2',
      '@peculiar/x509',
      'cli/actions/store-commands.ts',
    ]
    expect(late.filter((one) => loaded.has(one))).toEqual([])
  })

  test('no file has a name without meaning', () => {
    const vague = sources.filter(
      ({ file }) => VAGUE.test(basename(file)) || VAGUE.test(`${dirname(file)}.ts`),
    )
    expect(vague.map(({ file }) => file)).toEqual([])
  })
})

function mayImport(file: string, imported: string): boolean {
  const [from, to] = [folderOf(file), folderOf(imported)]
  if (from !== to) return FLOORS[to]! < FLOORS[from]!
  const rooms = ROOMS[from] ?? [from]
  return rooms.indexOf(roomOf(imported)) <= rooms.indexOf(roomOf(file))
}

/** Every circle once, as `a > b > a`. */
function circles(below: ReadonlyMap<string, readonly string[]>): string[] {
  const found: string[] = []
  const done = new Set<string>()
  const path: string[] = []
  const visit = (file: string): void => {
    const start = path.indexOf(file)
    if (start >= 0) found.push([...path.slice(start), file].join(' > '))
    if (start >= 0 || done.has(file)) return
    path.push(file)
    for (const next of below.get(file) ?? []) visit(next)
    path.pop()
    done.add(file)
  }
  for (const file of below.keys()) visit(file)
  return found
}
