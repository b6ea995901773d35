/** The statement register: tests name statements that exist, and none of them is listed as not applicable. */
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** The register as the titles of all tests fill it; whether those tests pass is for `npm run conformance`. */
function register(...words: string[]): { status: number | null; lines: string[] } {
  const script = join(ROOT, 'scripts', 'conformance.mjs')
  const { status, stdout } = spawnSync(process.execPath, [script, '--titles', ...words], { encoding: 'utf8' })
  return { status, lines: stdout.trimEnd().split('\n') }
}

test('every id in a title is a statement, and none of them is listed as not applicable', () => {
  const { lines } = register()
  expect(lines.filter((line) => line.startsWith('wrong:'))).toEqual([])
  expect(lines.filter((line) => /^MQTT (5\.0: 251|3\.1\.1: 141) statements, /.test(line))).toHaveLength(2)
})

test(
  'no statement is open: each is named by a test, or listed with the reason why no test can prove ' + 'it',
  () => {
    const { status, lines } = register()
    expect(lines.filter((line) => line.startsWith('open:'))).toEqual([])
    expect(status).toBe(0)
  },
)

test('a statement is shown with its tests', () => {
  const { status, lines } = register('--statement', 'MQTT-3.1.0-2')
  expect(status).toBe(0)
  expect(lines[0]).toContain('MQTT-3.1.0-2] section 3.1: ')
  expect(lines).toContainEqual(
    expect.stringMatching(/^ {2}named: test\/broker\/connection\/connect\.test\.ts/),
  )
  expect(register('--statement', 'MQTT-3.1.0-9').status).toBe(1)
})

test('the faults that test the register still find the texts that they change', () => {
  const script = join(ROOT, 'scripts', 'conformance-faults.mjs')
  const { status, stdout } = spawnSync(process.execPath, [script, '--check'], { encoding: 'utf8' })
  expect(stdout).toBe('')
  expect(status).toBe(0)
})
