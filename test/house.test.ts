/**
 * The form of files: their lengths, their lines, how their comments begin, and the project that a test is in.
 * The form of documents: their lines and their links.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const ROOT = fileURLToPath(new URL('..', import.meta.url))

const COLUMNS_MAX = 110
const LINES_MAX = 500

interface File {
  /** Path below the root. */
  readonly path: string
  readonly lines: readonly string[]
}

const files = ['src', 'test', 'scripts'].flatMap((folder) =>
  readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => /\.(?:ts|mts|mjs|cjs)$/.test(name))
    .map((name) => join(folder, name))
    .filter((path) => !path.startsWith('scripts/bench/build/'))
    .sort()
    .map(read),
)

function read(path: string): File {
  return { path, lines: readFileSync(join(ROOT, path), 'utf8').trimEnd().split('\n') }
}

/** Expects that no file of these folders breaks a rule. `breaks` returns the fault of a file, or null. */
function expectNone(folders: readonly string[], breaks: (file: File) => string | null): void {
  const problems: string[] = []
  for (const file of files) {
    if (!folders.includes(file.path.split('/')[0]!)) continue
    const found = breaks(file)
    if (found !== null) problems.push(`${file.path}${found}`)
  }
  expect(problems).toEqual([])
}

/** Adds the number of the first line that is wrong. */
function firstLine({ lines }: File, isWrong: (line: string) => boolean): string | null {
  const at = lines.findIndex(isWrong)
  return at === -1 ? null : `:${at + 1}: ${lines[at]!.trim()}`
}

test('no line is longer than 110 columns, except for addresses', () => {
  expectNone(['src', 'test', 'scripts'], (file) =>
    firstLine(file, (line) => [...line].length > COLUMNS_MAX && !/https?:\/\//.test(line)),
  )
})

test('no file of src is longer than 500 lines', () => {
  expectNone(['src'], ({ lines }) =>
    lines.length > LINES_MAX ? ` has ${lines.length} lines, more than ${LINES_MAX}` : null,
  )
})

test('no comment opens with What, Who, Whose, Whom, That or Which', () => {
  expectNone(['src', 'scripts'], ({ lines }) => {
    const at = lines.findIndex((line, index) => opensWithRiddle(line, lines[index - 1] ?? ''))
    return at === -1 ? null : `:${at + 1}: ${lines[at]!.trim()}`
  })
})

/** A line after `/**` opens a comment, too; one after a `//` line goes on with it. */
function opensWithRiddle(line: string, before: string): boolean {
  if (/\/\*\*?\s+(?:What|Who|Whose|Whom|That|Which)\b/.test(line)) return true
  if (/^\s*\*\s+(?:What|Who|Whose|Whom|That|Which)\b/.test(line)) return /^\s*\/\*\*?\s*$/.test(before)
  return /(?:^|\s)\/\/\s+(?:What|Who|Whose|Whom|That|Which)\b/.test(line) && !/^\s*\/\//.test(before)
}

test('a test that starts the built broker is in the project that needs a build, and no other is', () => {
  const [, list] = /const BUILT = \[([^\]]*)\]/.exec(readFileSync(join(ROOT, 'vitest.config.ts'), 'utf8'))!
  const places = [...list!.matchAll(/'([^']+)'/g)].map(([, glob]) => glob!.replace('**/*.test.ts', ''))
  const tests = files.filter(({ path }) => path.endsWith('.test.ts') && path !== 'test/house.test.ts')
  const wrong = tests.filter((file) => {
    const isListed = places.some((place) =>
      place.endsWith('/') ? file.path.startsWith(place) : file.path === place,
    )
    return isListed !== needsBuild(file)
  })
  expect(wrong.map(({ path }) => path)).toEqual([])
})

/** True when it, or a file of `test` that it imports, starts processes of the build. */
function needsBuild({ path, lines }: File): boolean {
  if (path === 'test/e2e/process.ts') return true
  const text = lines.join('\n')
  if (text.includes("'../../dist/'")) return true
  const imports = [...text.matchAll(/from\s+'(\.[^']+\.ts)'/g)].map(([, name]) => join(dirname(path), name!))
  return files.some(
    (file) => imports.includes(file.path) && file.path.startsWith('test/') && needsBuild(file),
  )
}

test('the glossary of ARCHITECTURE has at most twenty words', () => {
  const { lines } = read('src/ARCHITECTURE.md')
  const words = lines.slice(lines.indexOf('## Our words')).filter((line) => /^\| (?!word |---)/.test(line))
  expect(words.length).toBeGreaterThan(10)
  expect(words.length).toBeLessThanOrEqual(20)
})

const documents = readdirSync(ROOT)
  .concat(
    ['src', 'test', 'scripts', 'config', 'docs', '.github'].flatMap((folder) =>
      readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' }).map((name) =>
        join(folder, name),
      ),
    ),
  )
  .filter((path) => path.endsWith('.md'))
  .sort()
  .map(read)

/** Documents that tests write from tables in `src`, with a line for each row. */
const WRITTEN = ['docs/configuration.md', 'docs/errors.md']

test('no line of a document is longer than 110 columns, except for tables, examples and addresses', () => {
  const problems: string[] = []
  for (const { path, lines } of documents) {
    if (WRITTEN.includes(path)) continue
    let isExample = false
    for (const [index, line] of lines.entries()) {
      if (line.startsWith('```')) isExample = !isExample
      if (isExample || /^(?:\||```| {4})|https?:\/\//.test(line)) continue
      if ([...line].length > COLUMNS_MAX) problems.push(`${path}:${index + 1}: ${line}`)
    }
  }
  expect(problems).toEqual([])
})

test('every link from a document to a file or a heading of the repository has a target', () => {
  const problems: string[] = []
  for (const file of documents) {
    for (const [, target] of prose(file).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target!)) continue
      const [name, heading] = target!.split('#')
      const path = name === '' ? file.path : join(dirname(file.path), name!)
      const isThere = existsSync(join(ROOT, path)) && (heading === undefined || hasHeading(path, heading))
      if (!isThere) problems.push(`${file.path}: ${target}`)
    }
  }
  expect(problems).toEqual([])
})

/** Returns the text of a document without examples and code. */
function prose({ lines }: File): string {
  const text = lines.join('\n').replaceAll(/^```[\s\S]*?^```/gm, '')
  return text.replaceAll(/`[^`\n]*`/g, '')
}

/** True when a document has a heading whose anchor, as GitHub makes it, is `anchor`. */
function hasHeading(path: string, anchor: string): boolean {
  const text = read(path)
    .lines.join('\n')
    .replaceAll(/^```[\s\S]*?^```/gm, '')
  const headings = [...text.matchAll(/^#+ (.+)$/gm)].map(([, heading]) => heading!.toLowerCase())
  return headings.some(
    (heading) =>
      heading
        .replaceAll(/[^\p{L}\p{N}\s_-]/gu, '')
        .trim()
        .replaceAll(/\s/g, '-') === anchor,
  )
}
