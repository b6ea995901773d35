import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { Accounts } from '../../src/access/accounts.ts'
import { isPassword, type PasswordHash, parsePasswordHash } from '../../src/access/passwords/password-hash.ts'

let directory: string
const file = (): string => join(directory, 'accounts.json')

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'godwit-accounts-'))
})

afterEach(() => {
  rmSync(directory, { recursive: true, force: true })
})

test('an account is in a file that only its owner can read, without the password', async () => {
  const accounts = await Accounts.open(directory)
  await accounts.addUser('alice', 'correct horse', ['client'])
  expect(statSync(file()).mode & 0o777).toBe(0o600)
  expect(readFileSync(file(), 'utf8')).not.toContain('correct horse')
  expect(readdirSync(directory)).toEqual(['accounts.json'])
  const again = await Accounts.open(directory)
  expect(again.list()).toEqual([
    { name: 'alice', hasPassword: true, isPasswordGenerated: false, roles: ['client'], disabled: false },
  ])
  const stored = parsePasswordHash(again.user('alice')!.password!) as PasswordHash
  expect(await isPassword(stored, Buffer.from('correct horse'))).toBe(true)
  expect(await isPassword(stored, Buffer.from('correct horsf'))).toBe(false)
})

test('only generated passwords are stored as generated', async () => {
  const accounts = await Accounts.open(directory)
  const made = await accounts.addGenerated(['pump-1', 'pump-2'], ['client'])
  await accounts.addUser('alice', 'chosen', ['client'])
  // Of the form that Godwit makes, and yet somebody chose it.
  await accounts.addUser('bob', 'AAAAAAAAAAAAAAAAAAAAAAAA', ['client'])
  const text = readFileSync(file(), 'utf8')
  for (const { name, password } of made) {
    expect(password).toMatch(/^[A-Za-z0-9_-]{24}$/)
    expect(text).not.toContain(password)
    const { password: encoded, scram } = accounts.user(name)!
    expect(encoded).toMatch(/^\$godwit-generated\$v=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}$/)
    expect(scram?.iterations).toBe(4096)
    const stored = parsePasswordHash(encoded!) as PasswordHash
    expect(await isPassword(stored, Buffer.from(password))).toBe(true)
    expect(await isPassword(stored, Buffer.from(`${password.slice(0, -1)}!`))).toBe(false)
  }
  expect(new Set(made.map(({ password }) => password)).size).toBe(2)
  for (const name of ['alice', 'bob']) expect(accounts.user(name)!.password).toMatch(/^\$argon2id\$/)
  expect(accounts.list().map(({ isPasswordGenerated }) => isPasswordGenerated)).toEqual([
    false,
    false,
    true,
    true,
  ])
  await accounts.setPassword('pump-1', 'chosen')
  const [again] = await accounts.generatePasswords(['alice'])
  expect(accounts.user('pump-1')!.password).toMatch(/^\$argon2id\$/)
  expect(again).toMatchObject({ name: 'alice' })
  expect(accounts.user('alice')!.password).toMatch(/^\$godwit-generated\$/)
})

test('adds many users, or gives them passwords, all or none', async () => {
  const accounts = await Accounts.open(directory)
  await accounts.addUser('b', null)
  const before = readFileSync(file(), 'utf8')
  await expect(accounts.addGenerated(['a', 'b'])).rejects.toThrow("the user 'b' exists")
  await expect(accounts.addGenerated(['a', ''])).rejects.toThrow('is not a valid name')
  await expect(accounts.addGenerated(['a'], ['none'])).rejects.toThrow("no role 'none'")
  await expect(accounts.addWithoutPassword(['a', 'b'])).rejects.toThrow("the user 'b' exists")
  await expect(accounts.generatePasswords(['b', 'c'])).rejects.toThrow("there is no user 'c'")
  expect(readFileSync(file(), 'utf8')).toBe(before)
})

test('an earlier version refuses a file with generated passwords, and reads others', async () => {
  const accounts = await Accounts.open(directory)
  const format = (): unknown => (JSON.parse(readFileSync(file(), 'utf8')) as { format: unknown }).format
  await accounts.addUser('alice', 'chosen')
  expect(format()).toBe(1)
  await accounts.addGenerated(['pump'])
  expect(format()).toBe(2)
  await accounts.removeUser('pump')
  expect(format()).toBe(1)
})

test('removes permissions that let others read the file', async () => {
  const accounts = await Accounts.open(directory)
  await accounts.addUser('alice', null)
  chmodSync(file(), 0o644)
  await Accounts.open(directory)
  expect(statSync(file()).mode & 0o777).toBe(0o600)
})

test('many edits at once by two processes lose nothing', async () => {
  const [one, other] = [await Accounts.open(directory), await Accounts.open(directory)]
  const names = Array.from({ length: 10 }, (_, i) => `user${i}`)
  await Promise.all(names.map((name, i) => (i % 2 === 0 ? one : other).addUser(name, null)))
  expect((await Accounts.open(directory)).list().map(({ name }) => name)).toEqual(names)
  await one.reload()
  expect(one.list()).toHaveLength(10)
})

test('takes over what another process writes, unless it is broken', async () => {
  const accounts = await Accounts.open(directory)
  await accounts.addUser('alice', null)
  const sound = readFileSync(file(), 'utf8')
  expect(await accounts.reload()).toBe(false)
  writeFileSync(file(), sound.replaceAll('alice', 'bobby2'))
  expect(await accounts.reload()).toBe(true)
  expect(accounts.list().map(({ name }) => name)).toEqual(['bobby2'])
  writeFileSync(file(), sound.slice(0, 30))
  await expect(accounts.reload()).rejects.toThrow('it is not JSON')
  expect(accounts.list().map(({ name }) => name)).toEqual(['bobby2'])
})

test('does not take an own edit for one of another process, however often it looks meanwhile', async () => {
  const accounts = await Accounts.open(directory)
  await accounts.addUser('alice', null)
  const own: boolean[] = []
  accounts.onChange = (_before, _after, isOwn) => own.push(isOwn)
  for (let round = 0; round < 20; round++) {
    const looks: Promise<boolean>[] = []
    const look = setInterval(() => looks.push(accounts.reload()), 0)
    await accounts.setDisabled('alice', round % 2 === 0)
    clearInterval(look)
    expect(await Promise.all(looks)).not.toContain(true)
  }
  expect(own).toEqual(Array.from({ length: 20 }, () => true))
})

test('ignores a lock that a dead process left', async () => {
  writeFileSync(`${file()}.lock`, '999999999\n')
  const accounts = await Accounts.open(directory)
  await accounts.addUser('alice', null)
  expect(readdirSync(directory)).toEqual(['accounts.json'])
})

test('default roles are created when granted, others must exist; a removed role has no users', async () => {
  const accounts = await Accounts.open(directory)
  await expect(accounts.addUser('alice', null, ['sensors'])).rejects.toThrow("there is no role 'sensors'")
  await accounts.addRules('sensors', ['allow  publish sensors/%u/#', 'deny publish sensors/x qos 2'])
  await accounts.addUser('alice', null, ['sensors'])
  await accounts.grant('admin', 'alice')
  expect(accounts.roles()).toEqual([
    { name: 'admin', rules: ['allow all #', 'allow all $queue/#', 'allow all $SYS/#'] },
    { name: 'sensors', rules: ['allow publish sensors/%u/#', 'deny publish sensors/x qos 2'] },
  ])
  expect(accounts.user('alice')!.roles).toEqual(['sensors', 'admin'])
  await accounts.removeRules('sensors', ['deny publish sensors/x qos 2'])
  await expect(accounts.removeRules('sensors', ['deny publish sensors/x'])).rejects.toThrow('has no rule')
  await accounts.removeRole('sensors')
  expect(accounts.user('alice')!.roles).toEqual(['admin'])
  await accounts.revoke('admin', 'alice')
  await expect(accounts.revoke('admin', 'alice')).rejects.toThrow('does not have the role')
  await expect(accounts.addRules('x', ['allow publish a/#/b'])).rejects.toThrow('a # that is not')
})

test.each([
  ['removeUser', (accounts: Accounts) => accounts.removeUser('nobody')],
  ['setPassword', (accounts: Accounts) => accounts.setPassword('nobody', 'x')],
  ['setDisabled', (accounts: Accounts) => accounts.setDisabled('nobody', true)],
  ['grant', (accounts: Accounts) => accounts.grant('admin', 'nobody')],
])('%s reports a user that does not exist', async (_, edit) => {
  const accounts = await Accounts.open(directory)
  await expect(edit(accounts)).rejects.toThrow("there is no user 'nobody'")
})

test('refuses to add a user twice, with an unprintable name or with an empty password', async () => {
  const accounts = await Accounts.open(directory)
  await accounts.addUser('alice', null)
  await expect(accounts.addUser('alice', 'x')).rejects.toThrow("the user 'alice' exists")
  await expect(accounts.addUser('a\nb', 'x')).rejects.toThrow('is not a valid name')
  await expect(accounts.addUser('bob', '')).rejects.toThrow('a password has 1 to')
})
