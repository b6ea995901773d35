/**
 * Shows which statements of the standards are proven, and by which tests: `npm run conformance -- --help`.
 *
 * The title of a test names the statement that it proves: `[MQTT-3.1.2-1]` of MQTT 5.0, `[MQTT-3.1.2-1,
 * 3.1.1]` of MQTT 3.1.1. Statements that bind only clients, or cannot be tested, are in
 * test/conformance/not-applicable-*.tsv with the reason. All others are open.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const REGISTER = join(ROOT, 'test', 'conformance')
const VERSIONS = ['5.0', '3.1.1']

const HELP = `npm run conformance [-- OPTIONS]

Runs the tests that name a statement, and prints which statements are proven, not applicable and open.

  --report FILE          reads FILE, which vitest's JSON reporter wrote, instead of running the tests
  --titles               runs nothing: a statement counts as proven when a title names it
  --statement ID         shows the statement and its tests; ID like MQTT-3.1.2-1 or 'MQTT-3.1.2-1, 3.1.1'
  --help

Ends with 1 when a statement is open, a test that names one failed, or the register contradicts itself.
`

const { values: options } = parseArgs({
  options: {
    report: { type: 'string' },
    titles: { type: 'boolean', default: false },
    statement: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
})

if (options.help) console.log(HELP)
else process.exitCode = main()

function main() {
  const statements = readStatements()
  const problems = readReasons(statements)
  const sources = readTitles()
  for (const { file, id } of sources) {
    if (!statements.has(id)) problems.push(`${file} names [${id}], which is no statement`)
  }
  const results = options.titles
    ? sources.map((source) => ({ ...source, title: '', status: 'named' }))
    : readReport(options.report ?? null, sources)
  for (const result of results) {
    const statement = statements.get(result.id)
    if (statement !== undefined) statement.tests.push(result)
    else if (!options.titles) problems.push(`${result.file}: no statement [${result.id}]: ${result.title}`)
  }
  for (const [id, { reason, tests }] of statements) {
    if (reason !== null && tests.length > 0) {
      problems.push(`${id} is not applicable, and yet ${tests[0].file} proves it`)
    }
  }
  if (options.statement !== undefined) return show(statements, options.statement)
  const open = VERSIONS.flatMap((version) => report(statements, version))
  for (const { id, summary, tests } of open) {
    const failed = tests.map(({ file, title, status }) => `\n      ${status}: ${file}: ${title}`)
    console.log(`open: [${id}] ${summary}${failed.join('')}`)
  }
  for (const problem of problems) console.log(`wrong: ${problem}`)
  return open.length === 0 && problems.length === 0 ? 0 : 1
}

/** Returns the statements by their ids as titles have them: `MQTT-3.1.2-1`, or `MQTT-3.1.2-1, 3.1.1`. */
function readStatements() {
  const statements = new Map()
  for (const version of VERSIONS) {
    for (const [id, section, summary] of readTable(`statements-${version}.tsv`)) {
      const titled = version === '5.0' ? id : `${id}, ${version}`
      if (statements.has(titled)) throw new Error(`${titled} is listed twice`)
      statements.set(titled, { id: titled, version, section, summary, reason: null, tests: [] })
    }
  }
  return statements
}

/** Sets the reason of each statement that is not applicable. Returns the problems. */
function readReasons(statements) {
  const problems = []
  for (const version of VERSIONS) {
    const file = `not-applicable-${version}.tsv`
    for (const [id, reason = ''] of readTable(file)) {
      const statement = statements.get(version === '5.0' ? id : `${id}, ${version}`)
      if (statement === undefined) problems.push(`${file} names ${id}, which is no statement`)
      else if (reason.trim().length < 20) problems.push(`${file} gives no reason for ${id}`)
      else if (statement.reason !== null) problems.push(`${file} has ${id} twice`)
      else statement.reason = reason
    }
  }
  return problems
}

function readTable(name) {
  const [, ...lines] = readFileSync(join(REGISTER, name), 'utf8').trimEnd().split('\n')
  return lines.map((line) => line.split('\t'))
}

/** Returns every id that the source of a test names outside its comments. */
function readTitles() {
  const files = readdirSync(join(ROOT, 'test'), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.test.ts'))
    .sort()
  return files.flatMap((name) => {
    const file = join('test', name)
    return idsIn(withoutComments(readFileSync(join(ROOT, file), 'utf8'))).map((id) => ({ file, id }))
  })
}

function idsIn(text) {
  return [...new Set([...text.matchAll(/\[(MQTT-[^\]]*)\]/g)].map(([, id]) => id))]
}

function withoutComments(text) {
  const stringOrComment =
    /'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`|\/\/[^\n]*|\/\*[\s\S]*?\*\//g
  return text.replace(stringOrComment, (found) => (found.startsWith('/') ? ' ' : found))
}

/**
 * Returns a result for each test and id, from a report or, without one, from a run of the files in `sources`.
 */
function readReport(path, sources) {
  const json = path === null ? run([...new Set(sources.map(({ file }) => file))]) : readFileSync(path, 'utf8')
  return JSON.parse(json).testResults.flatMap(({ name, assertionResults }) =>
    assertionResults.flatMap(({ fullName, status }) =>
      idsIn(fullName).map((id) => ({ file: relative(ROOT, name), id, title: fullName, status })),
    ),
  )
}

function run(files) {
  const directory = mkdtempSync(join(tmpdir(), 'godwit-conformance-'))
  const report = join(directory, 'report.json')
  try {
    const words = ['vitest', 'run', '--reporter=json', `--outputFile=${report}`, ...files]
    spawnSync('npx', words, { cwd: ROOT, stdio: ['ignore', 'ignore', 'inherit'] })
    return readFileSync(report, 'utf8')
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

/** Tells whether a statement is proven: tests name it, and all of them passed. */
function isProven({ tests }) {
  return tests.length > 0 && tests.every(({ status }) => status === 'passed' || status === 'named')
}

/** Prints the line of a version. Returns the open statements. */
function report(statements, version) {
  const all = [...statements.values()].filter((statement) => statement.version === version)
  const proven = all.filter(isProven)
  const notApplicable = all.filter((statement) => statement.reason !== null && !isProven(statement))
  const open = all.filter((statement) => statement.reason === null && !isProven(statement))
  const word = options.titles ? 'named by a test' : 'proven'
  console.log(
    `MQTT ${version}: ${all.length} statements, ${proven.length} ${word}, ` +
      `${notApplicable.length} not applicable, ${open.length} open`,
  )
  return open
}

function show(statements, asked) {
  const statement = statements.get(asked)
  if (statement === undefined) {
    console.error(`${asked} is no statement of the register`)
    return 1
  }
  const { id, section, summary, reason, tests } = statement
  const state = isProven(statement) ? 'proven' : reason === null ? 'open' : `not applicable: ${reason}`
  console.log(`[${id}] section ${section}: ${summary}\n  ${state}`)
  for (const { file, title, status } of tests) console.log(`  ${status}: ${file}: ${title}`)
  return isProven(statement) || reason !== null ? 0 : 1
}
