/**
 * The decision notes (docs/decisions) have one form and one index; every note and file that is mentioned
 * exists.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const FOLDER = join(ROOT, 'docs/decisions')

const FORM = new RegExp(
  [
    /^# (?<number>\d{4}): (?<title>\S.*)\n\n/,
    /- Date: (?<date>\d{4}-\d\d-\d\d)\n/,
    /- Status: (?<status>in force|superseded by \d{4})\n/,
    /(?:- Supersedes: (?<supersedes>\d{4}(?:, \d{4})*)\n)?/,
    /(?:- Amended by: (?<amended>[^\n]+(?:\n {2}[^\n]+)*)\n)?/,
    /- Question: (?<question>[^\n]+(?:\n {2}[^\n]+)*)\n\n/,
    /(?<text>## [\s\S]+)$/,
  ]
    .map(({ source }) => source)
    .join(''),
)

const NAMES = readdirSync(FOLDER).filter((name) => name !== 'README.md')
const INDEX = readFileSync(join(FOLDER, 'README.md'), 'utf8')

interface Note {
  readonly name: string
  readonly number: string
  readonly title: string
  readonly status: string
  readonly question: string
  readonly supersedes: readonly string[]
  readonly amendedBy: readonly string[]
  readonly text: string
}

const NOTES = NAMES.map(note)
const NUMBERS = new Set(NOTES.map(({ number }) => number))

function note(name: string): Note {
  const head = FORM.exec(readFileSync(join(FOLDER, name), 'utf8'))?.groups
  if (head === undefined) throw new Error(`${name} does not have the head of a note`)
  const { number, title, status, question, supersedes, amended, text } = head
  return {
    name,
    number: number!,
    title: title!,
    status: status!,
    question: question!,
    supersedes: numbersIn(supersedes),
    amendedBy: numbersIn(amended),
    text: text!,
  }
}

function numbersIn(text = ''): string[] {
  return text.match(/\b\d{4}\b/g) ?? []
}

/** Paths below the repository's root of everything that may mention a note or be mentioned by one. */
const FILES = ['src', 'test', 'scripts', 'config', 'docs', '.github']
  .flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' }).map((file) => join(folder, file)),
  )
  .concat(readdirSync(ROOT).filter((file) => file.endsWith('.md')))
  .map((file) => file.replaceAll('\\', '/'))

const TEXTS = FILES.filter((file) => /\.(?:md|ts|mts|mjs|cjs|c|ya?ml|service)$/.test(file))

describe('a decision note', () => {
  test.each(NOTES)('$name has its number and its parts in order', ({ name, number, question, text }) => {
    expect(name).toMatch(/^\d{4}-[\da-z-]+\.md$/)
    expect(name.slice(0, 4)).toBe(number)
    expect(question).toMatch(/\?$/)
    const parts = [...text.matchAll(/^## (.+)$/gm)].map(([, part]) => part)
    const form = ['Choice', 'Refused', 'Measured', 'Wrong if']
    expect(parts).toEqual(form.filter((part) => part !== 'Measured' || parts.includes(part)))
    expect(text).not.toMatch(/\n## [^\n]+\n\n(?:##|$)/)
  })

  test('has a number of its own', () => {
    expect(NUMBERS.size).toBe(NOTES.length)
  })

  test.each(NOTES)('$name, when superseded, names a note that says so, too', (old) => {
    for (const { number } of NOTES.filter(({ supersedes }) => supersedes.includes(old.number))) {
      expect(old.status).toBe(`superseded by ${number}`)
    }
    const [successor] = numbersIn(old.status)
    if (successor === undefined) return
    expect(NOTES.find(({ number }) => number === successor)?.supersedes).toContain(old.number)
  })

  test.each(NOTES)('$name names notes and files that exist', ({ status, amendedBy, text }) => {
    const named = [...amendedBy, ...(text.match(/\b0\d{3}\b/g) ?? [])].filter((number) => number !== '0000')
    expect(named.filter((number) => !NUMBERS.has(number))).toEqual([])
    if (status !== 'in force') return
    const files = [...text.matchAll(/`([\w./-]+\.(?:ts|mjs|md))`/g)].map(([, file]) => file!)
    expect(files.filter((file) => !FILES.some((one) => `/${one}`.endsWith(`/${file}`)))).toEqual([])
  })
})

describe('the index of decisions', () => {
  test('has a line for each note, and no other', () => {
    const lines = INDEX.split('\n').filter((line) => line.startsWith('| ['))
    const expected = NOTES.map(({ name, number, title, status, amendedBy }) => {
      const amended = amendedBy.length === 0 ? '' : `, amended by ${amendedBy.join(', ')}`
      return `| [${number}](${name}) | ${title} | ${status}${amended} |`
    })
    expect(lines.sort()).toEqual(expected.sort())
  })

  test('names the numbers that were never used', () => {
    const last = Math.max(...[...NUMBERS].map(Number))
    const unused = Array.from({ length: last }, (_, index) => String(index + 1).padStart(4, '0')).filter(
      (number) => !NUMBERS.has(number),
    )
    const sentence = /The numbers ([^.]+?)\s+were\s+never\s+used/.exec(INDEX)?.[1]
    expect(numbersIn(sentence)).toEqual(unused)
  })
})

test.each(['CONTRIBUTING.md', 'src/ARCHITECTURE.md'])('%s names files and folders that exist', (document) => {
  const named = [...readFileSync(join(ROOT, document), 'utf8').matchAll(/`([\w./-]+(?:\.\w+|\/))`/g)]
    .map(([, path]) => path!.replace(/\/$/, ''))
    .filter((path) => !path.startsWith('dist/') && /\/|\.(?:ts|mjs|c|md)$/.test(path))
  expect(named.length).toBeGreaterThan(20)
  expect(named.filter((path) => !FILES.some((one) => `/${one}`.endsWith(`/${path}`)))).toEqual([])
})

test('every note that code, tests and documents mention exists', () => {
  const wrong = TEXTS.flatMap((file) => {
    const text = readFileSync(join(ROOT, file), 'utf8')
    const byNumber = [...text.matchAll(/\b(?:note|decision)s? (\d{1,4})\b(?! of\b)/gi)].map(([, number]) =>
      number!.padStart(4, '0'),
    )
    const byFile = [...text.matchAll(/\bdecisions\/(\d{4}-[\w-]+\.md)/g)].map(([, name]) => name!)
    return [
      ...byNumber.filter((number) => !NUMBERS.has(number)),
      ...byFile.filter((name) => !NAMES.includes(name)),
    ].map((one) => `${file}: ${one}`)
  })
  expect(wrong).toEqual([])
})
