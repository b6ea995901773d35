/** The owners of Sessions when accounts are added: in a store without user ids, and without accounts. */
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { connect, type IConnackPacket, type MqttClient } from 'mqtt'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { AccessOptions } from '../../src/access/access-options.ts'
import { Accounts } from '../../src/access/accounts.ts'
import { ask } from '../../src/admin/control-client.ts'
import type { SessionEntry } from '../../src/broker/inventory.ts'
import { type AccountsCommand, changeAccounts } from '../../src/cli/actions/account-commands.ts'
import { restore } from '../../src/cli/actions/store-commands.ts'
import { parseCommandLine } from '../../src/cli/command-line.ts'
import { type Broker, createBroker } from '../../src/godwit.ts'

const FIXTURE = fileURLToPath(new URL('../fixtures/store-v1/store.godwit-backup', import.meta.url))

let data: string
let broker: Broker | null = null
const clients: MqttClient[] = []

beforeEach(() => {
  data = join(mkdtempSync(join(tmpdir(), 'godwit-kept-')), 'data')
})

afterEach(async () => {
  for (const client of clients.splice(0)) client.end(true)
  await broker?.close()
  broker = null
  rmSync(join(data, '..'), { recursive: true, force: true })
})

async function start(access: Partial<AccessOptions> = {}): Promise<Broker> {
  await broker?.close()
  const listeners = [{ type: 'tcp', port: 0, allowAnonymous: true }] as const
  broker = await createBroker({
    dataDirectory: data,
    durability: 'os',
    access,
    listeners,
    controlSocket: true,
  })
  return broker
}

async function run(...words: string[]): Promise<string> {
  const secrets = { stdin: (async function* () {})(), askSecret: null }
  const { request } = await parseCommandLine(words)
  return changeAccounts(data, (request as { readonly request: AccountsCommand }).request, secrets)
}

async function arrive(
  username: string,
  password: string,
): Promise<{ client: MqttClient; connack: IConnackPacket; messages: string[] }> {
  const url = `mqtt://127.0.0.1:${broker!.listeners[0]!.port}`
  const client = connect(url, { clientId: 'c', clean: false, reconnectPeriod: 0, username, password })
  clients.push(client)
  // Messages may arrive together with CONNACK.
  const messages: string[] = []
  client.on('message', (_, payload) => messages.push(payload.toString()))
  const [connack] = (await once(client as never, 'connect')) as [IConnackPacket]
  return { client, connack, messages }
}

async function leave(client: MqttClient): Promise<void> {
  await client.endAsync()
}

async function owners(): Promise<Record<string, [string | null, boolean]>> {
  const { rows } = (await ask(data, 'session list', { limit: 1000 })) as { rows: SessionEntry[] }
  return Object.fromEntries(
    rows.map(({ clientId, userName, isFormerUsers }) => [clientId, [userName, isFormerUsers]]),
  )
}

test('accounts own the Sessions of the same names in a store of 0.1.0 [field-C12]', async () => {
  for (const hasId of [true, false]) {
    await broker?.close()
    broker = null
    rmSync(data, { recursive: true, force: true })
    await restore(FIXTURE, data, false)
    await (await Accounts.open(data)).addUser('alice', 'x', ['client'])
    const path = join(data, 'accounts.json')
    const accounts = JSON.parse(readFileSync(path, 'utf8'))
    if (!hasId) accounts.users[0].id = undefined
    writeFileSync(path, JSON.stringify(accounts))
    await start()
    expect((await owners()).offline).toEqual(['alice', false])
    // The owner is on the disk, too.
    await start()
    expect((await owners()).offline).toEqual(['alice', false])
    await run('user', 'remove', 'alice')
    await run('user', 'add', 'alice', '--no-password')
    expect((await owners()).offline).toEqual(['alice', true])
  }
})

test('a user of a password file keeps its Sessions with an account of that name [field-C12]', async () => {
  const file = join(data, '..', 'passwd')
  execFileSync('mosquitto_passwd', ['-c', '-b', file, 'alice', 'x'], { stdio: 'ignore' })
  await start({ passwordFiles: [file] })
  const first = await arrive('alice', 'x')
  await first.client.subscribeAsync('a', { qos: 1 })
  await leave(first.client)
  await broker!.publish({ topic: 'a', payload: 'waiting', qos: 1 })
  const text = await run('user', 'add', 'alice', '--no-password')
  expect(text).toContain('1 Session of alice (c; 1 message waiting) kept by this user')
  await start({ passwordFiles: [file] })
  const again = await arrive('alice', 'x')
  expect(again.connack).toMatchObject({ sessionPresent: true })
  while (again.messages.length === 0) await once(again.client as never, 'message')
  expect(again.messages).toEqual(['waiting'])
})

test('after a loss of accounts, --keep-sessions restores retained messages [field-C20]', async () => {
  await start()
  const password = (await run('user', 'add', 'alice', '--generate')).split('\n').at(-1)!
  const { client } = await arrive('alice', password)
  await client.publishAsync('state', 'on', { qos: 1, retain: true })
  await leave(client)
  await broker!.close()
  broker = null
  rmSync(join(data, 'accounts.json'))
  await start()
  await run('user', 'add', 'bob', '--generate')
  const retained = async (): Promise<string[]> => {
    const got: string[] = []
    const anyone = connect(`mqtt://127.0.0.1:${broker!.listeners[0]!.port}`, { reconnectPeriod: 0 })
    clients.push(anyone)
    const last = new Promise<void>((resolve) => {
      anyone.on('message', (topic, payload) => (topic === 'last' ? resolve() : got.push(`${payload}`)))
    })
    await anyone.subscribeAsync(['state', 'last'], { qos: 1 })
    await anyone.publishAsync('last', '', { qos: 1 })
    await last
    await anyone.endAsync()
    return got
  }
  expect(await retained()).toEqual([])
  await run('user', 'add', 'alice', '--generate', '--keep-sessions')
  expect(await retained()).toEqual(['on'])
  await start()
  expect(await retained()).toEqual(['on'])
  await run('user', 'remove', 'alice')
  expect(await retained()).toEqual([])
})

test('after a loss of accounts, --keep-sessions restores the Sessions of the name [field-C12]', async () => {
  await start()
  const password = (await run('user', 'add', 'alice', '--generate')).split('\n').at(-1)!
  await leave((await arrive('alice', password)).client)
  await broker!.close()
  broker = null
  rmSync(join(data, 'accounts.json'))
  await expect(run('user', 'add', 'alice', '--generate', '--keep-sessions')).rejects.toThrow(
    'no broker answers',
  )
  await start()
  const text = await run('user', 'add', 'alice', '--generate', '--keep-sessions')
  expect(text).toContain('1 Session of alice (c) kept by this user')
  const again = await arrive('alice', text.split('\n').at(-1)!)
  expect(again.connack).toMatchObject({ sessionPresent: true })
})
