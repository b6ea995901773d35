import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Access, type AccessListener } from '../../src/access/access.ts'
import { type AccessOptions, DEFAULT_ACCESS } from '../../src/access/access-options.ts'
import { Accounts } from '../../src/access/accounts.ts'
import type { Source } from '../../src/access/sources.ts'
import { type Limits, limitsWith } from '../../src/broker/boundary/limits.ts'
import type { LinkInfo } from '../../src/broker/boundary/link.ts'
import { absentClient } from '../../src/broker/boundary/policy.ts'
import { Reason } from '../../src/mqtt/reason.ts'
import { connectPacket, lasting, type TestClient, textsOf, World } from '../broker/harness.ts'

let directory: string
let world: World
let access: Access
/** What Access told. */
let told: string[]

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'godwit-access-'))
  told = []
})

afterEach(() => {
  rmSync(directory, { recursive: true, force: true })
})

const path = (name: string): string => join(directory, name)

/** A world whose policy is that of these sources. */
async function start(options: Partial<AccessOptions> = {}, limits: Partial<Limits> = {}): Promise<void> {
  const listener: AccessListener = {
    changed: ({ kind }: Source, lost) => {
      told.push(`${kind} changed, lost: ${[...lost.users].join(' ')}`)
      world.server.usePolicy(access.policy, lost.includes)
    },
    failed: (_, error) => told.push(error.message),
    busy: (clientId) => told.push(`busy: ${clientId}`),
    guesses: (address, count) => told.push(`guesses: ${address} ${count}`),
  }
  access = await Access.open({ ...DEFAULT_ACCESS, ...options }, directory, listener, limitsWith(limits))
  world = await World.make({ policy: access.policy })
}

interface Given {
  readonly user?: string
  readonly password?: string
  readonly link?: Partial<LinkInfo>
  readonly clientId?: string
  readonly version?: 3 | 4 | 5
  readonly more?: object
}

/** Connects; waits for the password to be checked, on real threads. */
async function connect({
  user,
  password,
  link,
  clientId = 'c',
  version = 5,
  more,
}: Given): Promise<TestClient> {
  const client = world.open(version, { allowAnonymous: false, ...link })
  const packets = await client.send({
    ...connectPacket(clientId, version),
    ...(version === 5 && { properties: {} }),
    ...(user !== undefined && { username: user }),
    ...(password !== undefined && { password: Buffer.from(password) }),
    ...more,
  })
  client.link.packets.unshift(...packets)
  while (client.link.packets.length === 0 && !client.closed) {
    await new Promise((resolve) => setTimeout(resolve, 1))
    await world.settle()
    await world.commit()
  }
  client.connack = client.link.packets.shift() ?? null
  return client
}

/** The Reason Code of CONNACK. */
async function code(given: Given): Promise<number | undefined> {
  const client = await connect(given)
  const connack = client.connack as { reasonCode?: number; returnCode?: number } | null
  await client.vanish()
  return connack?.reasonCode ?? connack?.returnCode
}

const CERTIFICATE = {
  subjectCommonName: 'device-7',
  subjectAltNames: ['URI:urn:device:7'],
  fingerprint256: `AB:${'CD:'.repeat(30)}EF`,
}

describe('a log-in', () => {
  test('succeeds for users of the accounts with their password only; 3.1.1 has its own codes', async () => {
    await start()
    await access.accounts!.addUser('alice', 'right', ['client'])
    await access.accounts!.addUser('certified', null, ['client'])
    const cases: [Given, number][] = [
      [{ user: 'alice', password: 'right' }, 0],
      [{ user: 'alice', password: 'wrong' }, Reason.BadUserNameOrPassword],
      [{ user: 'alice', password: '' }, Reason.BadUserNameOrPassword],
      [{ user: 'alice' }, Reason.BadUserNameOrPassword],
      [{ user: 'Alice', password: 'right' }, Reason.BadUserNameOrPassword],
      [{ user: 'bob', password: 'right' }, Reason.BadUserNameOrPassword],
      [{ user: '', password: 'right' }, Reason.BadUserNameOrPassword],
      [{ user: 'certified', password: '' }, Reason.BadUserNameOrPassword],
      [{ user: 'certified' }, Reason.BadUserNameOrPassword],
      [{}, Reason.NotAuthorized],
      [{ version: 4, user: 'alice', password: 'right' }, 0],
      [{ version: 4, user: 'alice', password: 'wrong' }, 4],
      [{ version: 4 }, 5],
      [{ version: 3, user: 'alice', password: 'wrong' }, 4],
      // Who shows credentials is not let in as nobody where they are wrong.
      [{ user: 'alice', password: 'wrong', link: { allowAnonymous: true } }, Reason.BadUserNameOrPassword],
      [{ link: { allowAnonymous: true } }, 0],
    ]
    for (const [given, expected] of cases) expect([given, await code(given)]).toEqual([given, expected])
  })

  test('succeeds for users of password files; users of the accounts are not looked up there', async () => {
    execFileSync('mosquitto_passwd', ['-c', '-b', path('passwd'), 'alice', 'in the file'], {
      stdio: 'ignore',
    })
    execFileSync('mosquitto_passwd', ['-b', path('passwd'), 'bob', 'in the file'], { stdio: 'ignore' })
    await start({ passwordFiles: [path('passwd')] })
    expect(await code({ user: 'alice', password: 'in the file' })).toBe(0)
    await access.accounts!.addUser('alice', 'in the accounts')
    expect(await code({ user: 'alice', password: 'in the file' })).toBe(Reason.BadUserNameOrPassword)
    expect(await code({ user: 'alice', password: 'in the accounts' })).toBe(0)
    expect(await code({ user: 'bob', password: 'in the file' })).toBe(0)
    await access.accounts!.addUser('bob', null)
    await access.accounts!.setDisabled('bob', true)
    expect(await code({ user: 'bob', password: 'in the file' })).toBe(Reason.NotAuthorized)
  })

  test.each<[string, Partial<AccessOptions>, string | null]>([
    ['the Common Name', {}, 'device-7'],
    ['the only alternative name', { certificateUser: 'alternative_name' }, 'urn:device:7'],
    ['the fingerprint', { certificateUser: 'fingerprint' }, `ab${'cd'.repeat(30)}ef`],
    ['the list', { certificates: [{ fingerprint: `ab${'cd'.repeat(30)}ef`, user: 'listed' }] }, 'listed'],
    ['nothing', { certificateUser: 'none' }, null],
  ])(
    'a verified certificate, without a password and anonymous access: %s names the user',
    async (_, options, userName) => {
      await start(options)
      const client = await connect({ link: { certificate: CERTIFICATE } })
      expect(client.connack).toMatchObject({ reasonCode: 0 })
      expect(world.server.state.sessions.get('c')!.owner).toBe(userName)
    },
  )

  test('fails with a certificate without a name, and with one of a disabled user', async () => {
    await start()
    const nameless = { ...CERTIFICATE, subjectCommonName: null }
    expect(await code({ link: { certificate: nameless } })).toBe(Reason.NotAuthorized)
    await access.accounts!.addUser('device-7', null)
    expect(await code({ link: { certificate: CERTIFICATE } })).toBe(0)
    await access.accounts!.setDisabled('device-7', true)
    expect(await code({ link: { certificate: CERTIFICATE } })).toBe(Reason.NotAuthorized)
    await access.accounts!.addUser('alice', 'x')
    expect(await code({ user: 'alice', password: 'x', link: { certificate: nameless } })).toBe(0)
  })

  test('gives no user name to a client whose password nobody checks', async () => {
    await start()
    const client = await connect({ user: 'alice', link: { allowAnonymous: true } })
    expect(client.connack).toMatchObject({ reasonCode: 0 })
    expect(world.server.state.sessions.get('c')!.owner).toBeNull()
    expect(await code({ user: 'alice', password: 'x' })).toBe(Reason.NotAuthorized)
    expect(access.policy.authorizeReceive).toBeUndefined()
  })

  test('is refused with a reason, and counted, where the queue is full', async () => {
    await start({}, { loginQueueMax: 40, loginQueuePerUserMax: 20 })
    await access.accounts!.addUser('alice', 'right')
    const ask = async (username: string, i: number): Promise<TestClient> => {
      const client = world.open(5, { allowAnonymous: false })
      const packet = { ...connectPacket(`${username} ${i}`), properties: {}, username }
      client.link.packets.unshift(...(await client.send({ ...packet, password: Buffer.from(`wrong ${i}`) })))
      return client
    }
    const clients: TestClient[] = []
    for (let i = 0; i < 30; i++) clients.push(await ask('alice', i))
    for (let i = 0; i < 60; i++) clients.push(await ask(`user ${i}`, i))
    await world.settle()
    const isWrong = (packet: object): boolean =>
      (packet as { reasonCode?: number }).reasonCode === Reason.BadUserNameOrPassword
    const refused = clients.flatMap((client) => client.got()).filter((packet) => !isWrong(packet))
    const codes = refused.map((packet) => (packet as { reasonCode?: number }).reasonCode)
    expect(codes.filter((reason) => reason === Reason.QuotaExceeded).length).toBeGreaterThanOrEqual(5)
    expect(codes.filter((reason) => reason === Reason.ServerBusy).length).toBeGreaterThanOrEqual(5)
    expect(JSON.stringify(refused)).toContain('too many log-ins of this user wait: try again later')
    expect(access.passwordFigures.refused).toBe(refused.length)
    expect(told.filter((line) => line.startsWith('busy'))).toHaveLength(refused.length)
    for (const client of clients) client.link.destroy()
    await world.settle()
    expect(access.passwordFigures.left).toBeGreaterThan(20)
    expect(world.server.state.loginQueue.length).toBe(0)
  })

  test('with a certificate or a generated password does not wait behind chosen passwords', async () => {
    await start({}, { loginQueueMax: 50 })
    await access.accounts!.addUser('alice', 'right')
    const [made] = await access.accounts!.addGenerated(['pump'])
    const crowd: TestClient[] = []
    for (let i = 0; i < 60; i++) {
      const client = world.open(5, { allowAnonymous: false })
      await client.send({
        ...connectPacket(`crowd ${i}`),
        properties: {},
        username: 'alice',
        password: Buffer.from(`wrong ${i}`),
      })
      crowd.push(client)
    }
    const { done } = access.passwordFigures
    const ask = async (clientId: string, more: object, link: Partial<LinkInfo>): Promise<unknown> => {
      const client = world.open(5, { allowAnonymous: false, ...link })
      const packets = await client.send({ ...connectPacket(clientId), properties: {}, ...more })
      return (packets[0] as { reasonCode?: number } | undefined)?.reasonCode
    }
    // One has a wrong password beside its certificate, which nobody asks for.
    expect(
      await ask('a', { username: 'alice', password: Buffer.from('wrong') }, { certificate: CERTIFICATE }),
    ).toBe(0)
    expect(await ask('b', { username: 'pump', password: Buffer.from(made!.password) }, {})).toBe(0)
    expect(access.passwordFigures.done).toBe(done)
    expect(world.server.state.loginQueue.length).toBeGreaterThan(0)
    for (const client of crowd) client.link.destroy()
    await world.settle()
  })

  test('fails for a user who is removed while the password is checked', async () => {
    await start()
    await access.accounts!.addUser('alice', 'right')
    await access.accounts!.addUser('bob', 'right')
    const client = world.open(5, { allowAnonymous: false })
    await client.send({
      ...connectPacket('c'),
      properties: {},
      username: 'alice',
      password: Buffer.from('right'),
    })
    await access.accounts!.removeUser('alice')
    while (client.link.packets.length === 0) {
      await new Promise((resolve) => setTimeout(resolve, 1))
      await world.settle()
    }
    // Whichever came first: it is not let in, or not for long.
    await world.settle()
    expect(client.closed).toBe(true)
    expect(client.got().at(-1)).toMatchObject({
      reasonCode: expect.toBeOneOf([Reason.BadUserNameOrPassword, Reason.NotAuthorized]),
    })
    expect(world.server.state.connected.size).toBe(0)
  })
})

describe('a change takes effect at once', () => {
  test('retained messages are withheld while their author may not publish them [field-C20]', async () => {
    await start()
    const accounts = access.accounts!
    await accounts.addRules('r', ['allow all a/#'])
    await accounts.addRules('watch', ['allow subscribe #'])
    await accounts.addUser('author', 'x', ['r'])
    await accounts.addUser('reader', 'x', ['watch'])
    await accounts.addUser('gone', 'x', ['r'])
    const properties = { sessionExpiryInterval: 1000 }
    const author = await connect({ user: 'author', password: 'x', clientId: 'author', more: { properties } })
    const gone = await connect({ user: 'gone', password: 'x', clientId: 'gone' })
    await author.publish('a/1', 'mine', 1, { retain: true })
    await gone.publish('a/2', 'of one who is gone', 1, { retain: true })
    void world.server.publish({
      topic: 'a/3',
      payload: Buffer.from('of the program'),
      qos: 0,
      retain: true,
      publisher: '',
    })
    const dropped = world.record('dropped')
    const seen = async (): Promise<string[]> => {
      const reader = await connect({ user: 'reader', password: 'x', clientId: 'reader' })
      await reader.subscribe('#', 1)
      const texts = reader.texts().sort()
      await reader.vanish()
      return texts
    }
    expect(await seen()).toEqual(['mine', 'of one who is gone', 'of the program'])
    await accounts.revoke('r', 'author')
    expect(await seen()).toEqual(['of one who is gone', 'of the program'])
    expect(dropped.filter(({ reason }) => reason !== 'session-ended')).toMatchObject([
      { clientId: 'reader', reason: 'not-authorized' },
    ])
    await accounts.grant('r', 'author')
    await accounts.removeUser('gone')
    expect(await seen()).toEqual(['mine', 'of the program'])
    await accounts.addUser('gone', 'x', ['r'])
    // Another user of the same name.
    expect(await seen()).toEqual(['mine', 'of the program'])
    expect(world.server.state.retained.count).toBe(3)
  })

  test('check_retained_author: false delivers them whoever published them [field-C20]', async () => {
    await start({ checkRetainedAuthor: false })
    const accounts = access.accounts!
    await accounts.addRules('r', ['allow all a/#'])
    await accounts.addUser('author', 'x', ['r'])
    await accounts.addUser('reader', 'x', ['r'])
    await (await connect({ user: 'author', password: 'x', clientId: 'author' })).publish('a/1', 'x', 1, {
      retain: true,
    })
    await accounts.removeUser('author')
    const reader = await connect({ user: 'reader', password: 'x' })
    await reader.subscribe('a/#', 1)
    expect(reader.texts()).toEqual(['x'])
  })

  test('a user whose password changes, or who is disabled or removed, loses the connections', async () => {
    await start()
    for (const name of ['a', 'b', 'c', 'd']) await access.accounts!.addUser(name, name)
    const clients = new Map<string, TestClient>()
    for (const name of ['a', 'b', 'c', 'd']) {
      clients.set(name, await connect({ user: name, password: name, clientId: name }))
    }
    await access.accounts!.setPassword('a', 'new')
    await access.accounts!.setDisabled('b', true)
    await access.accounts!.removeUser('c')
    await world.settle()
    expect([...clients.values()].map(({ closed }) => closed)).toEqual([true, true, true, false])
    expect(clients.get('a')!.got()).toMatchObject([{ cmd: 'disconnect', reasonCode: Reason.NotAuthorized }])
    expect(await code({ user: 'a', password: 'a' })).toBe(Reason.BadUserNameOrPassword)
    expect(await code({ user: 'a', password: 'new' })).toBe(0)
  })

  test('revoking a role ends publishing, deliveries and Wills, and suspends Subscriptions', async () => {
    await start()
    const accounts = access.accounts!
    await accounts.addRules('r', ['allow all a/#'])
    await accounts.addRules('watch', ['allow all #'])
    await accounts.addUser('u', 'x', ['r'])
    await accounts.addUser('w', 'x', ['watch'])
    const will = { topic: 'a/will', payload: Buffer.from('gone'), qos: 0, retain: false, properties: {} }
    const client = await connect({ user: 'u', password: 'x', more: { ...lasting(), will } })
    const watcher = await connect({ user: 'w', password: 'x', clientId: 'w' })
    await watcher.subscribe('#')
    await client.subscribe('a/#')
    while (await world.commit());
    expect(await client.publish('a/1', 'x', 1)).toMatchObject([
      { cmd: 'publish' },
      { cmd: 'puback', reasonCode: 0 },
    ])
    expect(watcher.texts()).toEqual(['x'])
    await accounts.revoke('r', 'u')
    // In the same turn, before the Subscription is looked at.
    const echoed = textsOf(await watcher.publish('a/2', 'y'))
    await world.settle()
    expect(client.got()).toMatchObject([{ cmd: 'disconnect', reasonCode: Reason.NotAuthorized }])
    // The connection was closed by the Server, so its Will is due; its user may not publish it any more.
    expect([...echoed, ...watcher.texts()]).toEqual(['y'])
    const again = await connect({ user: 'u', password: 'x', more: lasting() })
    expect(await again.publish('a/3', 'z', 1)).toMatchObject([
      { cmd: 'puback', reasonCode: Reason.NotAuthorized },
    ])
    expect(await again.subscribe('a/1')).toBe(Reason.NotAuthorized)
    const unable = await connect({ user: 'u', password: 'x', clientId: 'other', more: { will } })
    expect(unable.connack).toMatchObject({ reasonCode: Reason.NotAuthorized })
  })

  test('a client that may not receive every message of a filter declares no queue with it', async () => {
    await start()
    await access.accounts!.addUser('u', null, ['client'])
    await access.accounts!.addUser('v', null, ['client'])
    await access.accounts!.addRules('limited', ['deny receive private/#'])
    await access.accounts!.grant('limited', 'v')
    const may = (userName: string, ...filters: string[]) =>
      access.policy.authorizeDeclare?.(
        absentClient('c', { userName, userId: access.accounts!.user(userName)!.id }),
        '$queue/jobs',
        filters,
      )
    expect([may('u'), may('u', '+/x'), may('v'), may('v', 'a/#')]).toEqual([true, true, true, true])
    expect([may('v', 'private/x'), may('v', 'a/#', '+/x')]).toEqual([false, false])
    await access.accounts!.addRules('limited', ['deny declare $queue/#'])
    expect([may('u'), may('v')]).toEqual([true, false])
  })

  test('files are read again once they have stopped changing; a bad one changes nothing', async () => {
    const aclFile = path('acl')
    writeFileSync(aclFile, 'topic write a\n')
    execFileSync('mosquitto_passwd', ['-c', '-b', path('passwd'), 'alice', 'x'], { stdio: 'ignore' })
    await start({ aclFiles: [aclFile], passwordFiles: [path('passwd')] })
    const may = (topic: string): boolean =>
      access.explain({ clientId: 'c', userName: null }, { action: 'publish', topic, qos: 0, retain: false })
        .allow
    expect([may('a'), may('b')]).toEqual([true, false])
    const alice = await connect({ user: 'alice', password: 'x' })

    writeFileSync(path('acl.new'), 'topic write b\n')
    renameSync(path('acl.new'), aclFile)
    await access.reload('settled')
    expect(may('b')).toBe(false)
    await access.reload('settled')
    expect([may('a'), may('b')]).toEqual([false, true])

    writeFileSync(aclFile, 'topic write a\ntopic what ever\n')
    await access.reload()
    await access.reload()
    expect([may('a'), may('b')]).toEqual([false, true])
    expect(told).toEqual([
      'acl-file changed, lost: ',
      `${aclFile}:2: 'what' is not read, write, readwrite or deny`,
    ])

    told.length = 0
    const hashes = readFileSync(path('passwd'), 'utf8')
    writeFileSync(path('passwd'), `${hashes}broken\n`)
    await access.reload()
    expect(alice.closed).toBe(false)
    writeFileSync(path('passwd'), '')
    await access.reload()
    await world.settle()
    expect(alice.closed).toBe(true)
    expect(told).toEqual([expect.stringContaining('passwd:2: '), 'password-file changed, lost: alice'])
    rmSync(aclFile)
    await access.reload()
    await access.reload()
    expect(may('b')).toBe(true)
    expect(told.filter((line) => line.includes('ENOENT'))).toHaveLength(1)
  })

  test('changes of the accounts by another process are taken over', async () => {
    await start()
    await access.accounts!.addUser('alice', 'x', ['client'])
    const alice = await connect({ user: 'alice', password: 'x' })
    const other = await Accounts.open(directory)
    await other.setDisabled('alice', true)
    await access.reload('settled')
    await world.settle()
    expect(alice.closed).toBe(true)
    rmSync(path('accounts.json'))
    await access.reload()
    expect(await code({ user: 'alice', password: 'x' })).toBe(Reason.NotAuthorized)
    expect(told.at(-1)).toContain('are gone')
  })
})

test('anonymous access by default ends with the first user', async () => {
  await start()
  const byDefault = { allowAnonymous: true, anonymousUnlessUsers: true }
  expect(await code({ link: byDefault })).toBe(Reason.Success)
  await access.accounts!.addUser('alice', 'a password')
  expect(await code({ link: byDefault })).toBe(Reason.NotAuthorized)
  expect(await code({ link: { allowAnonymous: true } })).toBe(Reason.Success)
  expect(await code({ user: 'alice', password: 'a password', link: byDefault })).toBe(Reason.Success)
})

test('the first user ends anonymous connections, unless the listener allows them [field-C15]', async () => {
  await start()
  const byDefault = { allowAnonymous: true, anonymousUnlessUsers: true }
  const ended = await connect({ clientId: 'ended', link: byDefault, version: 4 })
  const told = await connect({ clientId: 'told', link: byDefault })
  const wanted = await connect({ clientId: 'wanted', link: { allowAnonymous: true } })
  await access.accounts!.addUser('alice', 'a password')
  await world.settle()
  expect([ended.closed, told.closed, wanted.closed]).toEqual([true, true, false])
  expect(told.got()).toMatchObject([{ cmd: 'disconnect', reasonCode: Reason.NotAuthorized }])
  expect(await world.server.reauthorized()).toMatchObject({ connectionsEnded: 2, anonymousEnded: 2 })
  await access.accounts!.addUser('bob', 'a password')
  await world.settle()
  expect(wanted.closed).toBe(false)
})

describe('where there are users, anonymous clients', () => {
  const anonymous = { clientId: 'c', userName: null }
  const topics = ['a', 'b', '$SYS/broker/uptime', '$other'] as const
  const rights = (who: { clientId: string; userName: string | null }): boolean[] =>
    topics.flatMap((topic) => [
      access.explain(who, { action: 'publish', topic, qos: 0, retain: true }).allow,
      access.explain(who, { action: 'receive', topic }).allow,
      access.explain(who, { action: 'subscribe', filter: topic, qos: 0 }).allow,
    ])

  test('have the rights of the default role, which do not include $SYS [field-C15]', async () => {
    await start()
    await access.accounts!.addUser('alice', null, ['client'])
    expect(rights(anonymous)).toEqual([...Array(6).fill(true), ...Array(6).fill(false)])
    await access.accounts!.addRules('client', ['deny all b'])
    expect(rights(anonymous)).toEqual(rights({ clientId: 'c', userName: 'alice' }))
    await access.accounts!.removeRules('client', ['allow all #'])
    expect(rights(anonymous)).not.toContain(true)
    const client = await connect({ link: { allowAnonymous: true } })
    expect(await client.subscribe('$SYS/#')).toBe(Reason.NotAuthorized)
  })

  test('may read $SYS where the role anonymous allows it [field-C15]', async () => {
    await start()
    await access.accounts!.addUser('alice', null, ['client'])
    await access.accounts!.addRules('anonymous', ['allow subscribe $SYS/#'])
    expect(rights(anonymous).slice(6, 9)).toEqual([false, true, true])
  })
})

describe('Sessions and accounts', () => {
  const stays = { ...lasting(), properties: { sessionExpiryInterval: 1000 } }

  test('a new account does not get the Session of a removed one of the same name [field-C12]', async () => {
    await start()
    const accounts = access.accounts!
    await accounts.addUser('alice', 'x', ['client'])
    const first = await connect({ user: 'alice', password: 'x', more: stays })
    await first.subscribe('a', 1)
    await first.vanish()
    const back = await connect({ user: 'alice', password: 'x', more: stays })
    expect(back.connack).toMatchObject({ sessionPresent: true })
    await accounts.removeUser('alice')
    await world.settle()
    expect(back.closed).toBe(true)
    await accounts.addUser('alice', 'x', ['client'])
    // Nothing is queued on the rights of the one who came after.
    await world.server.publish({
      topic: 'a',
      payload: Buffer.from('x'),
      qos: 1,
      retain: false,
      publisher: '',
    })
    expect(world.server.state.sessions.get('c')!.queueLength).toBe(0)
    const next = await connect({ user: 'alice', password: 'x', more: stays })
    expect(next.connack).toMatchObject({ reasonCode: 0, sessionPresent: false })
    expect([...world.server.state.sessions.get('c')!.subscriptions]).toEqual([])
  })

  test('other users may use the Client Identifier once its user was removed [field-C12]', async () => {
    await start()
    const accounts = access.accounts!
    for (const name of ['alice', 'bob']) await accounts.addUser(name, name, ['client'])
    await (await connect({ user: 'alice', password: 'alice', more: stays })).vanish()
    expect(await code({ user: 'bob', password: 'bob' })).toBe(Reason.NotAuthorized)
    await accounts.setDisabled('alice', true)
    expect(await code({ user: 'bob', password: 'bob' })).toBe(Reason.NotAuthorized)
    await accounts.removeUser('alice')
    expect(await code({ user: 'bob', password: 'bob' })).toBe(0)
  })

  test('an account of 0.1.0 is known by its name, and keeps its Session [field-C12]', async () => {
    await start()
    await access.accounts!.addUser('alice', 'x', ['client'])
    const written = JSON.parse(readFileSync(path('accounts.json'), 'utf8'))
    expect(written.users[0].id).toMatch(/^[\w-]{16}$/)
    delete written.users[0].id
    writeFileSync(path('accounts.json'), JSON.stringify(written))
    await access.reload()
    await (await connect({ user: 'alice', password: 'x', more: stays })).vanish()
    const back = await connect({ user: 'alice', password: 'x', more: stays })
    expect(back.connack).toMatchObject({ sessionPresent: true })
    await access.accounts!.removeUser('alice')
    await access.accounts!.addUser('alice', 'x', ['client'])
    const next = await connect({ user: 'alice', password: 'x', more: stays })
    expect(next.connack).toMatchObject({ sessionPresent: false })
  })

  test('a new account does not get the Session of a user without one [field-C12]', async () => {
    execFileSync('mosquitto_passwd', ['-c', '-b', path('passwd'), 'alice', 'x'], { stdio: 'ignore' })
    await start({ passwordFiles: [path('passwd')] })
    const of = (password: string): Promise<TestClient> => connect({ user: 'alice', password, more: stays })
    const first = await of('x')
    await access.accounts!.addUser('alice', 'y', ['client'])
    await world.settle()
    // It comes back as the user of the account.
    expect(first.closed).toBe(true)
    expect((await of('y')).connack).toMatchObject({ reasonCode: 0, sessionPresent: false })
  })

  test('an unknown name is that of a former user, unless a certificate may stand for it', async () => {
    execFileSync('mosquitto_passwd', ['-c', '-b', path('passwd'), 'bob', 'x'], { stdio: 'ignore' })
    await start({ passwordFiles: [path('passwd')] })
    expect(access.isFormerUser('bob', null)).toBe(false)
    // By default a certificate may.
    expect(access.isFormerUser('carol', null)).toBe(false)
    await start({ passwordFiles: [path('passwd')], certificateUser: 'none' })
    expect(['bob', 'carol'].map((name) => access.isFormerUser(name, null))).toEqual([false, true])
    expect(access.isFormerUser('bob', 'of an account')).toBe(true)
  })
})

describe('where no rule decides', () => {
  const asks = { action: 'publish', topic: 't', qos: 0, retain: false } as const
  const anonymous = { clientId: 'c', userName: null }
  const stranger = { clientId: 'c', userName: 'stranger' }

  test('auto allows everything to clients until there is a rule about them', async () => {
    await start()
    expect([anonymous, stranger].map((who) => access.explain(who, asks).allow)).toEqual([true, true])
    await access.accounts!.addUser('alice', null)
    const [alice] = [{ clientId: 'c', userName: 'alice' }]
    expect([anonymous, stranger, alice!].map((who) => access.explain(who, asks).allow)).toEqual([
      true,
      false,
      false,
    ])
    await access.accounts!.addRules('anonymous', [])
    expect(access.explain(anonymous, asks)).toEqual({
      allow: false,
      source: 'access.default',
      rule: 'auto: there are rules, and none allows it',
    })
  })

  test.each(['allow', 'deny'] as const)('%s holds for everybody', async (otherwise) => {
    await start({ default: otherwise })
    await access.accounts!.addUser('alice', null)
    for (const who of [anonymous, stranger, { clientId: 'c', userName: 'alice' }]) {
      expect(access.explain(who, asks)).toEqual({
        allow: otherwise === 'allow',
        source: 'access.default',
        rule: otherwise,
      })
    }
  })

  test('a denied Subscription gets the configured Reason Code', async () => {
    await start({ default: 'deny', deniedSubscription: Reason.TopicFilterInvalid })
    const client = await connect({ link: { allowAnonymous: true } })
    expect(await client.subscribe('a')).toBe(Reason.TopicFilterInvalid)
  })
})
