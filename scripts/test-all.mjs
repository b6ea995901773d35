/**
 * Runs every check and every test, on a machine that has nothing but Node. The last line is `N passed, N
 * failed`, and the exit code is 0 only if nothing failed and nothing was left out.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { install, installLine, mayInstall, missingPackages } from './needs.mjs'

const ROOT = fileURLToPath(new URL('..', import.meta.url))

let passed = 0
let failed = 0

provide()
check('format and lint', 'npx', 'biome', 'check', '.')
check('types', 'npx', 'tsc', '--noEmit')
check('types of the scripts', 'npx', 'tsc', '-p', 'scripts')
check('build', 'npm', 'run', 'build')
test()
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 ? 0 : 1)

/** Installs missing packages, or prints how to install them and ends. */
function provide() {
  const missing = missingPackages()
  if (missing.length === 0) return
  if (!mayInstall()) {
    console.error(`The tests need ${missing.join(', ')}. Install what is missing with:`)
    console.error(`\n    ${installLine(missing)}\n`)
    process.exit(1)
  }
  console.log(`Installing what the tests need: ${missing.join(', ')}`)
  install(missing)
  const still = missingPackages()
  if (still.length === 0) return
  console.error(`Installed, and yet not usable: ${still.join(', ')}`)
  process.exit(1)
}

/** Runs a check. A failed one counts as a failure; a passed one does not count as a test. */
function check(name, program, ...args) {
  if (run(program, ...args) === 0) return
  failed++
  console.error(`\nFAILED: ${name} (${[program, ...args].join(' ')})\n`)
}

function test() {
  const directory = mkdtempSync(join(tmpdir(), 'godwit-tests-'))
  const report = join(directory, 'report.json')
  try {
    const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`]
    const status = run('npx', 'vitest', 'run', ...reporters)
    count(JSON.parse(readFileSync(report, 'utf8')), status)
    check('every statement is proven', 'node', 'scripts/conformance.mjs', '--report', report)
  } catch (error) {
    failed++
    console.error(`\nFAILED: the tests left no report: ${error instanceof Error ? error.message : error}\n`)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

/** Counts the tests. One that was left out counts as failed, and so does a file that could not be loaded. */
function count(report, status) {
  passed += report.numPassedTests
  failed += report.numFailedTests
  for (const file of report.testResults) {
    const leftOut = file.assertionResults.filter(({ status }) => status !== 'passed' && status !== 'failed')
    for (const { fullName } of leftOut) console.error(`LEFT OUT: ${file.name}: ${fullName}`)
    failed += leftOut.length
    if (file.status === 'failed' && file.assertionResults.length === 0) {
      console.error(`NOT LOADED: ${file.name}: ${file.message}`)
      failed++
    }
  }
  if (status !== 0 && failed === 0) {
    console.error(`FAILED: vitest ended with ${status}`)
    failed++
  }
}

function run(program, ...args) {
  console.log(`\n> ${[program, ...args].join(' ')}`)
  const { status, error } = spawnSync(program, args, { cwd: ROOT, stdio: 'inherit' })
  if (error) console.error(error.message)
  return status
}
