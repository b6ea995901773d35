import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Accounts } from '../../src/access/accounts.ts'
import { backup, checkStore, repair, restore } from '../../src/cli/actions/store-commands.ts'
import { createBroker } from '../../src/godwit.ts'

let root: string
let data: string

beforeEach(async () => {
  root = mkdtempSync(join(tmpdir(), 'godwit-backup-'))
  data = join(root, 'data')
  const broker = await createBroker({ dataDirectory: data, access: {}, controlSocket: true })
  const accounts = await Accounts.open(data)
  await accounts.addUser('alice', null, ['client'])
  await backup(data, join(root, 'running.godwit-backup'))
  await broker.close()
})

afterEach(() => rmSync(root, { recursive: true, force: true }))

const users = async (directory: string): Promise<string[]> =>
  (await Accounts.open(directory)).list().map(({ name }) => name)

describe('a restore', () => {
  test.each(['file.godwit-backup', 'directory', 'running.godwit-backup'])(
    'of %s has the accounts',
    async (name) => {
      if (!name.startsWith('running')) await backup(data, join(root, name))
      expect((await checkStore(join(root, name))).isSound).toBe(true)
      const restored = join(root, 'restored')
      await restore(join(root, name), restored, false)
      expect(await users(restored)).toEqual(['alice'])
      expect(statSync(join(restored, 'accounts.json')).mode & 0o777).toBe(0o600)
      expect(readFileSync(join(restored, 'accounts.json'))).toEqual(readFileSync(join(data, 'accounts.json')))
    },
  )

  test('puts aside the accounts that were there', async () => {
    await backup(data, join(root, 'directory'))
    const other = join(root, 'other')
    await (await createBroker({ dataDirectory: other })).close()
    await (await Accounts.open(other)).addUser('bob', null)
    await restore(join(root, 'directory'), other, true)
    expect(await users(other)).toEqual(['alice'])
    const aside = readdirSync(other).find((name) => name.startsWith('replaced-'))!
    expect(await users(join(other, aside))).toEqual(['bob'])
  })

  test('has the accounts of a backup without a store', async () => {
    await backup(data, join(root, 'directory'))
    const young = mkdtempSync(join(root, 'young-'))
    await (await Accounts.open(young)).addUser('bob', null)
    await restore(join(root, 'directory'), young, false)
    expect(await users(young)).toEqual(['alice'])
    const aside = readdirSync(young).find((name) => name.startsWith('replaced-'))!
    expect(await users(join(young, aside))).toEqual(['bob'])
  })

  test('of a backup without accounts, and a repair, leave the accounts alone', async () => {
    const bare = join(root, 'bare')
    await (await createBroker({ dataDirectory: bare })).close()
    await backup(bare, join(root, 'bare.godwit-backup'))
    await restore(join(root, 'bare.godwit-backup'), data, true)
    expect(await users(data)).toEqual(['alice'])
    rmSync(join(data, 'CURRENT'))
    await repair(data)
    expect(await users(data)).toEqual(['alice'])
  })
})
