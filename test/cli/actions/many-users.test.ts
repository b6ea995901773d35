import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { Accounts } from '../../../src/access/accounts.ts'
import {
  isPassword,
  type PasswordHash,
  parsePasswordHash,
} from '../../../src/access/passwords/password-hash.ts'
import type { AccountsCommand } from '../../../src/cli/actions/account-commands.ts'
import { changeManyUsers } from '../../../src/cli/actions/many-users.ts'
import { parseCommandLine } from '../../../src/cli/command-line.ts'
import { createBroker } from '../../../src/godwit.ts'

let root: string
let data: string

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'godwit-many-'))
  data = join(root, 'data')
})

afterEach(() => rmSync(root, { recursive: true, force: true }))

async function run(text: string | Buffer, ...words: string[]): Promise<{ stdout: string; stderr: string }> {
  const said = { stdout: '', stderr: '' }
  const { request } = await parseCommandLine(['user', ...words, '--names', '-'])
  await changeManyUsers(data, (request as { readonly request: AccountsCommand }).request, {
    stdin: Readable.from([Buffer.from(text)]),
    askSecret: null,
    stdout: { write: (written: string) => (said.stdout += written) },
    stderr: { write: (written: string) => (said.stderr += written) },
  })
  return said
}

async function has(name: string, password: string): Promise<boolean> {
  const stored = (await Accounts.open(data)).user(name)!.password!
  return isPassword(parsePasswordHash(stored) as PasswordHash, Buffer.from(password))
}

test('a fleet is added from a list of names, and its passwords are printed as a table', async () => {
  const names = Array.from({ length: 1200 }, (_, i) => `pump-${i}`)
  const { stdout, stderr } = await run(
    `${names.join('\r\n')}\n\n"a,b"\n`,
    'add',
    '--generate',
    '--role',
    'admin',
  )
  const lines = stdout.trimEnd().split('\n')
  expect(lines).toHaveLength(1202)
  expect(lines[0]).toBe('user,password')
  expect(lines[1201]).toMatch(/^"""a,b""",[\w-]{24}$/)
  const [name, password] = lines[700]!.split(',')
  expect(name).toBe('pump-699')
  expect(await has('pump-699', password!)).toBe(true)
  expect((await Accounts.open(data)).user('pump-0')!.roles).toEqual(['admin'])
  expect(stderr).toContain('1201 users added with the role admin; their passwords are shown only once')
  expect(stderr.match(/from now on only listeners with allow_anonymous/g)).toHaveLength(1)
  expect(stderr).not.toContain(password)
  expect(readFileSync(join(data, 'accounts.json'), 'utf8')).not.toContain(password)
  const again = await run('pump-699\npump-1\n', 'password', '--generate', '--json')
  const [first] = again.stdout.split('\n').map((line) => (line === '' ? null : JSON.parse(line)))
  expect(first).toMatchObject({ name: 'pump-699' })
  expect(await has('pump-699', first.password)).toBe(true)
  expect(await has('pump-699', password!)).toBe(false)
})

test('a running broker does the same, and known users keep their Sessions', async () => {
  const broker = await createBroker({ dataDirectory: data, access: {}, controlSocket: true })
  const told: string[] = []
  broker.events.on('security', ({ kind, subject }) => told.push(`${kind} ${subject}`))
  const { stdout, stderr } = await run('a\nb\n', 'add', '--generate')
  const [, a] = /^a,(.*)$/m.exec(stdout) ?? []
  expect(await has('a', a!)).toBe(true)
  expect(stderr).toContain('2 users added with the role client')
  expect(told).toEqual(['user-added a', 'user-added b'])
  expect((await run('c\n', 'add', '--no-password')).stdout).toBe('')
  await broker.close()
  expect((await Accounts.open(data)).list().map(({ name }) => name)).toEqual(['a', 'b', 'c'])
})

test('one wrong name changes nothing, and its line is named', async () => {
  await run('a\n', 'add', '--no-password')
  const before = readFileSync(join(data, 'accounts.json'), 'utf8')
  for (const [text, message, ...words] of [
    ['b\na\n', "the user 'a' exists", 'add', '--generate'],
    ['b\nb\n', 'line 2: "b" occurs twice', 'add', '--generate'],
    ['b\nc\td\n', 'line 2: "c\\td" is not a valid user name', 'add', '--generate'],
    ['\n', 'has no names', 'add', '--generate'],
    [Buffer.from([0x62, 0xff, 0x0a]), 'is not UTF-8', 'add', '--generate'],
    ['a\nb\n', "there is no user 'b'", 'password', '--generate'],
  ] as const)
    await expect(run(text, ...words)).rejects.toThrow(message)
  expect(readFileSync(join(data, 'accounts.json'), 'utf8')).toBe(before)
  writeFileSync(join(root, 'names'), '')
  for (const [words, message] of [
    [['add', '--names', 'x'], '--generate or --no-password'],
    [['password', '--names', 'x', '--no-password'], 'needs --generate'],
    [['add', 'a', '--names', 'x', '--generate'], 'not both'],
    [['add'], 'needs a name'],
  ] as const)
    await expect(parseCommandLine(['user', ...words])).rejects.toThrow(message)
})
