import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { DEFAULT_ACCESS } from '../../../src/access/access-options.ts'
import { Accounts } from '../../../src/access/accounts.ts'
import {
  isPassword,
  type PasswordHash,
  parsePasswordHash,
} from '../../../src/access/passwords/password-hash.ts'
import {
  type AccountsCommand,
  changeAccounts,
  type ExplainCommand,
  explain,
  type SecretSource,
} from '../../../src/cli/actions/account-commands.ts'
import { parseCommandLine } from '../../../src/cli/command-line.ts'
import { createBroker } from '../../../src/godwit.ts'
import { DEFAULT_QUEUE_OPTIONS } from '../../../src/queue/queue-options.ts'

let root: string
let data: string

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'godwit-cli-'))
  data = join(root, 'data')
})

afterEach(() => rmSync(root, { recursive: true, force: true }))

const nobody: SecretSource = { stdin: Readable.from([]), askSecret: null }

async function run(words: readonly string[], secrets: SecretSource = nobody): Promise<string> {
  const { command, request: parsed } = await parseCommandLine(words)
  const { request } = parsed as { readonly request: AccountsCommand | ExplainCommand }
  if (command.name === 'explain access')
    return explain(data, DEFAULT_ACCESS, DEFAULT_QUEUE_OPTIONS, request as ExplainCommand)
  return changeAccounts(data, request as AccountsCommand, secrets)
}

async function has(name: string, password: string): Promise<boolean> {
  const stored = (await Accounts.open(data)).user(name)!.password
  return stored !== null && isPassword(parsePasswordHash(stored) as PasswordHash, Buffer.from(password))
}

describe('a password', () => {
  test('is generated and printed as the last line', async () => {
    const text = await run(['user', 'add', 'alice', '--generate'])
    const password = text.split('\n').at(-1)!
    expect(password).toMatch(/^[A-Za-z0-9_-]{24}$/)
    expect(await has('alice', password)).toBe(true)
    expect(readFileSync(join(data, 'accounts.json'), 'utf8')).not.toContain(password)
    expect(statSync(data).mode & 0o777).toBe(0o700)
    const asJson = JSON.parse(await run(['user', 'password', 'alice', '--generate', '--json'])) as {
      password: string
    }
    expect(await has('alice', asJson.password)).toBe(true)
  })

  test('is asked twice', async () => {
    const asked: string[] = []
    const answers = ['one', 'one', 'one', 'other']
    const askSecret = async (prompt: string): Promise<string> => {
      asked.push(prompt)
      return answers.shift()!
    }
    await run(['user', 'add', 'alice'], { ...nobody, askSecret })
    expect(await has('alice', 'one')).toBe(true)
    expect(asked).toEqual(['Password for alice: ', 'Again: '])
    await expect(run(['user', 'password', 'alice'], { ...nobody, askSecret })).rejects.toThrow('differ')
    expect(await has('alice', 'one')).toBe(true)
  })

  test('comes from one line of a file or of the standard input', async () => {
    writeFileSync(join(root, 'secret'), 'pass wörd\n')
    await run(['user', 'add', 'alice', '--password-file', join(root, 'secret')])
    expect(await has('alice', 'pass wörd')).toBe(true)
    const stdin = Readable.from([Buffer.from('from '), Buffer.from('stdin\r\n')])
    await run(['user', 'add', 'bob', '--password-file', '-'], { ...nobody, stdin })
    expect(await has('bob', 'from stdin')).toBe(true)
    for (const wrong of ['', '\n', 'a\nb\n', Buffer.from([0xff, 0x0a])]) {
      writeFileSync(join(root, 'secret'), wrong)
      const adding = run(['user', 'add', 'carol', '--password-file', join(root, 'secret')])
      await expect(adding).rejects.toThrow('is not one line of UTF-8')
    }
    await expect(run(['user', 'add', 'carol', '--password-file', join(root, 'none')])).rejects.toThrow(
      'ENOENT',
    )
  })

  test('is not asked without a terminal, and can be left out', async () => {
    await expect(run(['user', 'add', 'alice'])).rejects.toThrow('there is no terminal')
    await run(['user', 'add', 'alice', '--no-password', '--role', 'admin'])
    expect((await Accounts.open(data)).list()).toEqual([
      { name: 'alice', hasPassword: false, isPasswordGenerated: false, roles: ['admin'], disabled: false },
    ])
  })
})

describe('with a broker and without one', () => {
  const words: readonly (readonly string[])[] = [
    ['user', 'add', 'alice', '--no-password'],
    ['role', 'add', 'sensor', 'allow', 'publish', 'sensors/%u/#', 'qos', '0-1'],
    ['role', 'add', 'sensor', 'allow subscribe commands/%u', 'deny receive x'],
    ['role', 'remove', 'sensor', 'deny receive x'],
    ['role', 'grant', 'sensor', 'alice'],
    ['role', 'revoke', 'client', 'alice'],
    ['user', 'disable', 'alice'],
    ['user', 'enable', 'alice'],
    ['user', 'list'],
    ['role', 'list'],
    ['explain', 'access', '--user', 'alice', '--publish', 'sensors/alice/x', '--qos', '1'],
    ['explain', 'access', '--user', 'alice', '--subscribe', '#'],
    ['explain', 'access', '--user', 'bob', '--receive', 'a'],
    ['explain', 'access', '--publish', 'a'],
    ['explain', 'access', '--declare', '$q/jobs'],
    ['explain', 'access', '--user', 'alice', '--publish', '$ack/jobs/0a.1.tag'],
    ['explain', 'access', '--user', 'alice', '--client', 'c1', '--subscribe', '$q/reply.c1;prefetch=5/#'],
    ['explain', 'access', '--user', 'alice', '--client', 'c2', '--subscribe', '$queue/reply.c1'],
    ['explain', 'access', '--user', 'alice', '--publish', '$queue/reply.c1/x', '--qos', '1'],
    ['explain', 'access', '--user', 'alice', '--publish', '$ack/reply.c1/0a.1.tag'],
    ['explain', 'access', '--user', 'alice', '--client', 'c1', '--declare', '$queue/reply.c1'],
    ['user', 'remove', 'alice'],
    ['role', 'remove', 'sensor'],
  ]

  test('every command gives the same output and result', async () => {
    const without: string[] = []
    for (const command of words) without.push(await run(command))
    rmSync(data, { recursive: true })
    const broker = await createBroker({ dataDirectory: data, access: {}, controlSocket: true })
    const told: string[] = []
    broker.events.on('security', ({ kind, subject, detail }) => told.push(`${kind} ${subject}: ${detail}`))
    const through: string[] = []
    for (const command of words) through.push(await run(command))
    await broker.close()
    expect(through).toEqual(without)
    expect(without).toEqual([
      'user alice added with the role client\n' +
        'from now on only listeners with allow_anonymous accept clients without credentials',
      'role sensor: added allow publish sensors/%u/# qos 0-1',
      'role sensor: added allow subscribe commands/%u; deny receive x',
      'role sensor: removed deny receive x',
      'role sensor granted to alice',
      'role client taken from alice',
      'user alice disabled',
      'user alice enabled',
      'USER   PASSWORD  STATE    ROLES\nalice  no        enabled  sensor',
      [
        'ROLE    RULE                                           USERS',
        'client  allow all #',
        '        allow all $queue/#',
        '        allow publish $SYS/broker/connection/%c/state',
        'sensor  allow publish sensors/%u/# qos 0-1             alice',
        '        allow subscribe commands/%u',
      ].join('\n'),
      "allowed: user 'alice' may publish sensors/alice/x\n" +
        'decided by role sensor: allow publish sensors/%u/# qos 0-1',
      "denied: user 'alice' may not subscribe #\n" +
        'decided by access.default: auto: there are rules, and none allows it',
      "denied: user 'bob' may not receive a\n" +
        'decided by access.default: auto: the accounts do not know this user',
      'allowed: an anonymous client may publish a\n' +
        'decided by access.default: auto: without credentials as role client: allow all #\n' +
        'if allow_anonymous of the listener accepts it',
      'allowed: an anonymous client may declare $q/jobs\n' +
        'decided by access.default: auto: without credentials as role client: allow all $queue/#\n' +
        'if allow_anonymous of the listener accepts it',
      "denied: user 'alice' may not publish $ack/jobs/0a.1.tag\n" +
        'decided by access.default: auto: there are rules, and none allows it',
      "allowed: user 'alice' may subscribe $q/reply.c1;prefetch=5/#\n" +
        "decided by the broker: a reply queue is consumed by the client 'c1' alone, without any right",
      "denied: user 'alice' may not subscribe $queue/reply.c1\n" +
        "decided by the broker: a reply queue is consumed by the client 'c1' alone, without any right",
      "allowed: user 'alice' may publish $queue/reply.c1/x\n" +
        'decided by queues.reply_open: every client may publish to reply queues',
      "denied: user 'alice' may not publish $ack/reply.c1/0a.1.tag\n" +
        "decided by the broker: a reply queue is consumed by the client 'c1' alone, without any right",
      "allowed: user 'alice' may declare $queue/reply.c1\n" +
        "decided by the broker: a reply queue is made for the client 'c1' alone, without the right declare",
      'user alice removed',
      'role sensor removed',
    ])
    expect(told.slice(0, 2)).toEqual([
      'user-added alice: roles client',
      'role-added sensor: added allow publish sensors/%u/# qos 0-1',
    ])
    expect(told).toHaveLength(words.length - 13)
  })

  test('refusals come with advice', async () => {
    const broker = await createBroker({ dataDirectory: data, access: {}, controlSocket: true })
    try {
      await expect(run(['user', 'remove', 'nobody'])).rejects.toMatchObject({
        message: "there is no user 'nobody'",
        advice: 'See `godwit user list`.',
      })
      await expect(run(['role', 'add', 'r', 'allow everything'])).rejects.toMatchObject({
        advice: expect.stringContaining('A rule is:'),
      })
    } finally {
      await broker.close()
    }
  })

  test('a broker without accounts says so', async () => {
    const broker = await createBroker({
      dataDirectory: data,
      access: { accounts: false },
      controlSocket: true,
    })
    try {
      await expect(run(['user', 'add', 'a', '--no-password'])).rejects.toThrow('access.accounts: false')
    } finally {
      await broker.close()
    }
  })
})

test.each<[readonly string[], string]>([
  [['user'], 'user needs one of add, list'],
  [['user', 'ad', 'x'], 'did you mean add?'],
  [['user', 'add'], 'user add needs a name'],
  [['user', 'add', 'a', 'b'], "user add does not expect 'b'"],
  [['user', 'add', 'a', '--generate', '--no-password'], 'takes one of'],
  [['role', 'grant', 'r'], 'role grant needs a user'],
  [['explain', 'access'], 'needs one of --publish'],
  [['explain', 'access', '--publish', 'a', '--receive', 'b'], 'needs one of --publish'],
  [['explain', 'access', '--publish', 'a', '--qos', '3'], 'it must be 0, 1 or 2'],
])('godwit %s: %s', async (words, message) => {
  await expect(parseCommandLine(words)).rejects.toThrow(message)
})
