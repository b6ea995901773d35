/** The table of errors, docs/errors.md and the use of codes. `WRITE_DOCS=1` writes the document. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { ERRORS, errorCode } from '../src/errors.ts'
import { StoreError } from '../src/store/store.ts'

const SRC = fileURLToPath(new URL('../src', import.meta.url))

const DOCUMENT = fileURLToPath(new URL('../docs/errors.md', import.meta.url))

const CODES = Object.keys(ERRORS) as (keyof typeof ERRORS)[]

function document(): string {
  const sections = CODES.map((code) => `## ${code}\n\n${ERRORS[code].meaning}\n\n${ERRORS[code].next}\n`)
  return `# Errors

The command line ends each error with its code, such as \`Code: GODWIT_STORE_LOCKED\`, after a message and the
next step. In a program, the code is the property \`code\` of the error, and the package exports this table
as \`ERRORS\`. A code never changes its meaning.

${sections.join('\n')}`
}

test('docs/errors.md is the table', () => {
  if (process.env.WRITE_DOCS === '1') writeFileSync(DOCUMENT, document())
  expect(readFileSync(DOCUMENT, 'utf8')).toBe(document())
})

test('every code is used by the source', () => {
  const code = readdirSync(SRC, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts') && file !== 'errors.ts')
    .map((file) => readFileSync(join(SRC, file), 'utf8'))
    .join('\n')
  expect(CODES.filter((one) => !new RegExp(`\\b${one}\\b`).test(code))).toEqual([])
})

test('meanings and next steps are sentences', () => {
  for (const { meaning, next } of Object.values(ERRORS)) {
    expect(meaning).toMatch(/^[`A-Z].*\.$/)
    expect(next).toMatch(/^[`A-Z].*\.$/)
  }
})

test('only errors of the table have a code', () => {
  expect(errorCode(new StoreError('locked', 'message', 'advice'))).toBe('GODWIT_STORE_LOCKED')
  expect(errorCode(Object.assign(new Error('no entry'), { code: 'ENOENT' }))).toBe(null)
  expect(errorCode('GODWIT_USAGE')).toBe(null)
})
