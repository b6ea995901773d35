/** Merges settings from file, environment and flags, and remembers the origin of each for error messages. */
import { createRequire } from 'node:module'
import { dirname, resolve } from 'node:path'
import type { Document, LineCounter } from 'yaml'
import type { ConfigProblem } from './config-error.ts'
import { display, isSecret, truncate } from './display.ts'
import { KEYS, LISTENER_KEYS, PATH_KEYS } from './schema.ts'
import { suggestion } from './suggestion.ts'

/** The flags of the command line, as text. */
export interface ConfigFlags {
  readonly host?: string
  readonly port?: string
  readonly wsPort?: string
  readonly data?: string
  readonly durability?: string
  readonly logLevel?: string
  readonly user?: string
  /** `key.path=value`, in order. */
  readonly set?: readonly string[]
}

const load = createRequire(import.meta.url)

/**
 * Loads the parser when it is first needed. It takes 27 ms of processor time, and flags alone do not need
 * it.
 */
function yaml(): typeof import('yaml') {
  return load('yaml') as typeof import('yaml')
}

type Path = readonly (string | number)[]

const PREFIX = 'GODWIT_'

/** The environment variable that names the configuration file. */
export const FILE_VARIABLE = 'GODWIT_CONFIG'

const SECTIONS = ['access', 'data', 'http', 'listeners', 'limits', 'log', 'queues', 'sys']

const VARIABLES: ReadonlyMap<string, string> = new Map(KEYS.map((key) => [environmentVariable(key), key]))

/** Returns the environment variable of a key. */
export function environmentVariable(key: string): string {
  return PREFIX + key.replaceAll('.', '_').toUpperCase()
}

/** Merges all sources into one tree, which is not validated yet. Collects problems instead of throwing. */
export class Sources {
  readonly tree: Record<string, unknown> = {}
  readonly problems: ConfigProblem[] = []
  readonly #origins = new Map<string, string>()
  #fileName = ''
  #document: Document | undefined
  #lines: LineCounter | undefined

  /** Adds the text of a file. Call this first. */
  addFile(name: string, content: string): void {
    this.#fileName = name
    const { LineCounter, parseDocument } = yaml()
    const lines = new LineCounter()
    // `#expectUniqueKeys` looks for duplicate keys, because the parser compares each key with all others.
    const document = parseDocument(content, { lineCounter: lines, uniqueKeys: false })
    this.#lines = lines
    this.#document = document
    const text = content.split('\n')
    for (const error of [...document.errors, ...document.warnings]) {
      const line = error.linePos?.[0].line
      this.#problem(
        line === undefined ? name : `${name}:${line}`,
        '',
        notYaml(error.message, text[(line ?? 1) - 1] ?? ''),
      )
    }
    this.#expectUniqueKeys(document)
    if (this.problems.length > 0) return
    const root = this.#plain(document, name)
    if (root === null || root === undefined) return
    if (typeof root !== 'object' || Array.isArray(root)) {
      this.#problem(
        `${name}:1`,
        '',
        `found ${display(root)}, allowed: keys such as "data:", "listeners:", "limits:"`,
      )
      return
    }
    for (const [key, value] of Object.entries(root)) {
      // In an empty section all keys are commented out.
      if (value === null && SECTIONS.includes(key)) continue
      this.tree[key] = value
    }
    for (const key of PATH_KEYS) resolvePaths(this.tree, key.split('.'), dirname(name))
  }

  addEnvironment(environment: Readonly<Record<string, string | undefined>>): void {
    for (const [name, text] of Object.entries(environment)) {
      if (!name.startsWith(PREFIX) || name === FILE_VARIABLE || text === undefined) continue
      const where = `environment ${name}`
      const path = variablePath(name)
      if (path !== undefined) {
        this.set(where, path, text)
        continue
      }
      const meant = suggestion(name, [...VARIABLES.keys(), FILE_VARIABLE])
      this.#problem(where, '', `unknown variable${meant === undefined ? '' : `; did you mean ${meant}?`}`)
    }
  }

  /** Adds an assignment `key.path=value`. */
  addAssignment(flag: string, assignment: string): void {
    const equals = assignment.indexOf('=')
    if (equals < 1) {
      const found = isSecret([assignment]) ? '' : `found ${display(assignment)}, `
      this.#problem(flag, '', `${found}allowed: key.path=value`)
      return
    }
    const path = assignment.slice(0, equals).split('.').map(segment)
    this.set(`${flag} ${assignment.slice(0, equals)}`, path, assignment.slice(equals + 1))
  }

  /** Sets one key to a value in YAML. */
  set(where: string, path: Path, text: string): void {
    try {
      this.put(where, path, plainScalar(text) ?? yaml().parse(text, { logLevel: 'error' }))
    } catch (error) {
      const said = isSecret(path)
        ? 'the value is not YAML; put it in quotes'
        : `${display(text)} is not YAML: ${(error as Error).message.split('\n')[0]}`
      this.#problem(where, path.join('.'), said)
    }
  }

  /** Sets one key to a value. */
  put(where: string, path: Path, value: unknown): void {
    const key = path.join('.')
    let node: object = this.tree
    for (const [depth, part] of path.entries()) {
      // A list can grow by one item at most. Any other missing node becomes a group of keys.
      const missing = Array.isArray(node) && (typeof part !== 'number' || part > node.length)
      if (missing || part === '__proto__') {
        this.#problem(where, key, `there is no ${path.slice(0, depth + 1).join('.')} to set`)
        return
      }
      if (depth === path.length - 1) Reflect.set(node, part, value)
      else {
        let next: unknown = Object.hasOwn(node, part) ? Reflect.get(node, part) : undefined
        if (typeof next !== 'object' || next === null) {
          next = {}
          Reflect.set(node, part, next)
        }
        node = next as object
      }
    }
    for (const known of this.#origins.keys()) if (known.startsWith(`${key}.`)) this.#origins.delete(known)
    this.#origins.set(key, where)
  }

  /** Returns the origin of the value at this path, or of the nearest node around it. */
  where(path: Path): string {
    for (let length = path.length; length > 0; length--) {
      const origin = this.#origins.get(path.slice(0, length).join('.'))
      if (origin !== undefined) return origin
    }
    for (let length = path.length; length > 0; length--) {
      const around = path.slice(0, length)
      const line = this.#line(around)
      if (line !== undefined) return `${this.#fileName}:${line}`
      const inner = `${around.join('.')}.`
      for (const [key, origin] of this.#origins) if (key.startsWith(inner)) return origin
    }
    return this.#fileName === '' ? 'configuration' : this.#fileName
  }

  /** Returns the value at this path; undefined if there is none. */
  at(path: Path): unknown {
    let node: unknown = this.tree
    for (const key of path) {
      if (typeof node !== 'object' || node === null) return undefined
      node = (node as Record<string | number, unknown>)[key]
    }
    return node
  }

  /** Reports duplicate keys, since it is unclear which of them counts. */
  #expectUniqueKeys(document: Document): void {
    const { isNode, isScalar, visit } = yaml()
    visit(document, {
      Map: (_, map) => {
        const seen = new Set<string>()
        for (const { key } of map.items) {
          const name = isScalar(key) ? String(key.value) : null
          if (name === null) continue
          if (seen.has(name)) {
            const line = isNode(key) && key.range ? this.#lines?.linePos(key.range[0]).line : undefined
            const where = line === undefined ? this.#fileName : `${this.#fileName}:${line}`
            this.#problem(where, '', `Map keys must be unique: ${truncate(name)} occurs twice`)
          }
          seen.add(name)
        }
      },
    })
  }

  #plain(document: Document, name: string): unknown {
    try {
      return document.toJS()
    } catch (error) {
      // The text after the colon may quote a secret that begins with *.
      const [said = ''] = (error as Error).message.split(':', 1)
      this.#problem(name, '', `${said}; put a value that begins with * in quotes`)
      return undefined
    }
  }

  #line(path: Path): number | undefined {
    const lines = this.#lines
    if (lines === undefined) return undefined
    const { isMap, isNode, isSeq } = yaml()
    const parent =
      path.length === 1 ? this.#document?.contents : this.#document?.getIn(path.slice(0, -1), true)
    const last = path.at(-1)!
    let node: unknown
    if (isMap(parent)) node = parent.items.find((pair) => String(pair.key) === String(last))?.key
    else if (isSeq(parent)) node = parent.items[Number(last)]
    return isNode(node) && node.range ? lines.linePos(node.range[0]).line : undefined
  }

  #problem(where: string, key: string, message: string): void {
    this.problems.push({ where, key, message })
  }
}

/** Parses integers, booleans, words and paths without the YAML parser; undefined for any other text. */
export function plainScalar(text: string): number | boolean | string | undefined {
  if (/^(?:0|[1-9]\d{0,14})$/.test(text)) return Number(text)
  if (/^(?:true|false)$/.test(text)) return text === 'true'
  return /^[A-Za-z/][\w./-]*$/.test(text) && !/^(?:null|true|false)$/i.test(text) ? text : undefined
}

/**
 * Returns the path of a variable. `GODWIT_LISTENERS_0_…` reaches into the list; every other variable is a
 * key.
 */
function variablePath(name: string): Path | undefined {
  const key = VARIABLES.get(name)
  if (key !== undefined) return key.split('.')
  const match = /^GODWIT_LISTENERS_(\d+)_(.+)$/.exec(name)
  if (match === null) return undefined
  const inner = LISTENER_KEYS.find((candidate) => environmentVariable(candidate) === PREFIX + match[2])
  return inner === undefined ? undefined : ['listeners', Number(match[1]), ...inner.split('.')]
}

function segment(text: string): string | number {
  return /^\d+$/.test(text) ? Number(text) : text
}

/** Resolves the relative paths at these keys against `directory`. */
function resolvePaths(node: unknown, [key, ...rest]: readonly string[], directory: string): void {
  if (typeof node !== 'object' || node === null || key === undefined) return
  const names = key === '*' ? Object.keys(node) : Object.hasOwn(node, key) ? [key] : []
  for (const name of names) {
    const found: unknown = Reflect.get(node, name)
    if (rest.length > 0) resolvePaths(found, rest, directory)
    else if (Array.isArray(found)) resolvePaths(found, ['*'], directory)
    // The value may be PEM text instead of a path.
    else if (typeof found === 'string' && found !== '' && !found.includes('-----BEGIN ')) {
      Reflect.set(node, name, resolve(directory, found))
    }
  }
}

/** Returns the parser's message about a line, without quoting a secret. */
function notYaml(message: string, line: string): string {
  const [first = ''] = message.split('\n', 1)
  return isSecret([line]) ? 'this line is not YAML; put the value in quotes' : first.trim()
}
