/**
 * Users and rights on the real process: the rights of mosquitto_pub and MQTT.js, and changes while they are
 * connected.
 */
import { existsSync, writeFileSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { connectAsync, type IClientOptions, type MqttClient } from 'mqtt'
import { afterEach, describe, expect, test } from 'vitest'
import { aclRights, parseAclFile } from '../../src/access/acl-file.ts'
import { BrokerProcess, cleanUp, type Ended, MAIN, Program, temporaryDirectory } from './process.ts'

/** Debian puts it where not everybody looks for programs. */
const MOSQUITTO = existsSync('/usr/sbin/mosquitto') ? '/usr/sbin/mosquitto' : 'mosquitto'

const clients: MqttClient[] = []

afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.endAsync(true)))
  await cleanUp()
})

async function connected(port: number, options: IClientOptions): Promise<MqttClient> {
  const client = await connectAsync(
    `mqtt://127.0.0.1:${port}`,
    { reconnectPeriod: 0, protocolVersion: 5, ...options },
    false,
  )
  clients.push(client)
  return client
}

function godwit(data: string, ...words: string[]): Promise<Ended> {
  return new Program(process.execPath, [MAIN, ...words, '--data', data]).ended
}

/** Adds a user; its password is the last line. */
async function userAdded(data: string, name: string, ...words: string[]): Promise<string> {
  const { code, stdout, stderr } = await godwit(data, 'user', 'add', name, '--generate', ...words)
  expect(code, stderr).toBe(0)
  const password = stdout.trimEnd().split('\n').at(-1)!
  expect(password).toMatch(/^[A-Za-z0-9_-]{16,}$/)
  return password
}

async function done(data: string, ...words: string[]): Promise<string> {
  const { code, stdout, stderr } = await godwit(data, ...words)
  expect(code, `${words.join(' ')}\n${stderr}`).toBe(0)
  return stdout
}

/** `mosquitto_pub` at QoS 1; its exit code. */
async function published(port: number, topic: string, ...words: string[]): Promise<number | null> {
  const args = ['-p', String(port), '-q', '1', '-t', topic, '-m', 'x', ...words]
  const { code, stderr } = await new Program('mosquitto_pub', args).ended
  return code === 0 && stderr.includes('failed') ? 1 : code
}

async function filesHold(directory: string, secret: string): Promise<string[]> {
  const names = await readdir(directory, { recursive: true, withFileTypes: true })
  const found: string[] = []
  for (const entry of names) {
    if (!entry.isFile()) continue
    const path = join(entry.parentPath, entry.name)
    if ((await readFile(path)).includes(secret)) found.push(path)
  }
  return found
}

describe('users, roles and passwords', () => {
  test(
    'are added before the start and while the broker runs; wrong passwords are refused, and none is ' +
      'written down',
    async () => {
      const data = await temporaryDirectory()
      const early = await userAdded(data, 'early')
      const broker = await BrokerProcess.start({
        data,
        words: ['--set', 'allow_anonymous=false'],
      })
      const { port } = broker
      const late = await userAdded(data, 'late')
      await done(
        data,
        'role',
        'add',
        'sensor',
        'allow publish sensors/%u/# qos 0-1',
        'allow subscribe commands/%u',
      )
      const device = await userAdded(data, 'device-7', '--role', 'sensor')
      const as = (user: string, password: string): string[] => ['-u', user, '-P', password]
      const matrix: [string, string[], number][] = [
        ['a/b', as('early', early), 0],
        ['a/b', as('late', late), 0],
        ['a/b', as('late', early), 5],
        ['a/b', as('nobody', early), 5],
        ['a/b', [], 5],
        ['$SYS/x', as('late', late), 1],
        ['sensors/device-7/temperature', as('device-7', device), 0],
        ['sensors/device-8/temperature', as('device-7', device), 1],
        ['a/b', as('device-7', device), 1],
      ]
      for (const [topic, words, expected] of matrix) {
        const isIn = (await published(port, topic, '-V', '5', ...words)) === 0
        expect([topic, words[1] ?? '', isIn]).toEqual([topic, words[1] ?? '', expected === 0])
      }
      const client = await connected(port, { username: 'device-7', password: device })
      await expect(client.subscribeAsync('commands/device-8')).rejects.toThrow()
      await client.subscribeAsync('commands/device-7')
      expect(
        await done(
          data,
          'explain',
          'access',
          '--user',
          'device-7',
          '--publish',
          'sensors/device-7/x',
          '--qos',
          '2',
        ),
      ).toContain('denied')
      expect(
        await done(data, 'explain', 'access', '--user', 'device-7', '--publish', 'sensors/device-7/x'),
      ).toContain('decided by role sensor: allow publish sensors/%u/# qos 0-1')
      const gone = new Promise((resolve) => client.once('disconnect', resolve))
      await done(data, 'user', 'disable', 'device-7')
      expect(await gone).toMatchObject({ reasonCode: 0x87 })
      expect(await published(port, 'sensors/device-7/x', ...as('device-7', device))).not.toBe(0)
      const users = JSON.parse(await done(data, 'user', 'list', '--json')) as {
        name: string
        disabled: boolean
      }[]
      expect(users.map(({ name, disabled }) => [name, disabled])).toEqual([
        ['device-7', true],
        ['early', false],
        ['late', false],
      ])
      const { stdout, stderr } = await broker.stop()
      for (const secret of [early, late, device]) {
        expect(stdout + stderr).not.toContain(secret)
        expect(await filesHold(data, secret)).toEqual([])
      }
    },
  )

  test('a stolen Client Identifier gets nothing', async () => {
    const data = await temporaryDirectory()
    const [alice, mallory] = [await userAdded(data, 'alice'), await userAdded(data, 'mallory')]
    const { port } = await BrokerProcess.start({ data })
    const session = { clientId: 'device', clean: false, properties: { sessionExpiryInterval: 3600 } } as const
    const owner = await connected(port, { ...session, username: 'alice', password: alice })
    await owner.subscribeAsync('letters', { qos: 1 })
    await owner.endAsync(true)
    const writer = await connected(port, { username: 'mallory', password: mallory })
    await writer.publishAsync('letters', 'for alice', { qos: 1 })
    for (const clean of [true, false]) {
      const theft = connected(port, { ...session, clean, username: 'mallory', password: mallory })
      await expect(theft).rejects.toThrow(/Not authorized/)
    }
    await expect(connected(port, session)).rejects.toThrow(/Not authorized/)
    const got: string[] = []
    const options = {
      ...session,
      username: 'alice',
      password: alice,
      reconnectPeriod: 0,
      protocolVersion: 5,
    } as const
    const again = (await import('mqtt')).connect(`mqtt://127.0.0.1:${port}`, options)
    clients.push(again)
    await new Promise<void>((resolve) => {
      again.on('message', (_, payload) => {
        got.push(payload.toString())
        resolve()
      })
    })
    expect(got).toEqual(['for alice'])
  })
})

test('rights that change under load hold as soon as the command is answered', async () => {
  const data = await temporaryDirectory()
  await done(data, 'role', 'add', 'reader', 'allow subscribe load/#')
  await done(data, 'role', 'add', 'writer', 'allow publish load/#')
  const reading = await userAdded(data, 'reader', '--role', 'reader')
  const writing = await userAdded(data, 'writer', '--role', 'writer')
  const { port } = await BrokerProcess.start({ data })
  const writer = await connected(port, { username: 'writer', password: writing })
  let sent = 0
  let isOver = false
  const flood = (async () => {
    while (!isOver) {
      await Promise.all(
        Array.from({ length: 20 }, () => {
          sent++
          return writer.publishAsync(`load/${sent % 7}`, String(sent), { qos: sent % 2 === 0 ? 1 : 0 })
        }),
      )
    }
  })()
  for (let round = 0; round < 5; round++) {
    let last = 0
    const reader = await connected(port, { username: 'reader', password: reading })
    reader.on('message', (_, payload) => {
      last = Number(payload.toString())
    })
    await reader.subscribeAsync('load/#', { qos: 1 })
    while (last === 0) await new Promise((resolve) => setTimeout(resolve, 5))
    const closed = new Promise<void>((resolve) => reader.once('close', () => resolve()))
    await done(data, 'role', 'revoke', 'reader', 'reader')
    // Messages from now on, after the answer to the command, reach nobody.
    const boundary = sent
    await closed
    expect(last).toBeLessThanOrEqual(boundary)
    const denied = await connected(port, { username: 'reader', password: reading })
    await expect(denied.subscribeAsync('load/1')).rejects.toThrow()
    await done(data, 'role', 'grant', 'reader', 'reader')
  }
  isOver = true
  await flood
})

describe("Mosquitto's acl_file", () => {
  const ACL = `# for everybody without a name
topic read public/#
topic readwrite open/+
topic write in
topic deny public/secret/#

user alice
topic alice/only
topic read  news/with spaces
topic deny news/#
topic readwrite news/+
topic write $SYS/x
topic # 
user bob
topic read +/b
pattern readwrite clients/%c/#
pattern write users/%u/in
pattern read users/%u/out
pattern deny users/%u/out/secret
pattern read everybody/reads
`
  const WHO = [
    { clientId: 'an', userName: null },
    { clientId: 'c1', userName: 'alice' },
    { clientId: 'c2', userName: 'bob' },
    { clientId: 'c3', userName: 'carol' },
    { clientId: 'c/4', userName: 'da/ve' },
    { clientId: 'c5', userName: 'pl+us' },
    { clientId: 'h#sh', userName: 'bob' },
  ]
  const TOPICS = [
    ...[
      'public/a',
      'public',
      'public/secret/a',
      'open/a',
      'open/a/b',
      'in',
      'alice/only',
      'news/with spaces',
    ],
    ...[
      'news/a',
      'other/b',
      'b/b',
      'clients/c1/x',
      'clients/c2',
      'clients/c/4/x',
      'users/alice/in',
      'users/bob/out',
    ],
    ...[
      'users/bob/out/secret',
      'users/da/ve/in',
      'everybody/reads',
      'clients/h#sh/x',
      'users/carol/out',
      'x/y/z',
    ],
  ].filter((topic) => !topic.includes('#'))

  async function freePort(): Promise<number> {
    const server = createServer()
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const address = server.address()
    await new Promise((resolve) => server.close(resolve))
    return typeof address === 'object' && address !== null ? address.port : 0
  }

  test('means the same here as in Mosquitto, for every client and topic', async () => {
    const directory = await temporaryDirectory()
    const acl = join(directory, 'acl')
    // `root` may everything: it looks at what arrives, and publishes what others read.
    writeFileSync(acl, `${ACL}user root\ntopic readwrite #\n`)
    const port = await freePort()
    writeFileSync(
      join(directory, 'mosquitto.conf'),
      `listener ${port} 127.0.0.1\nallow_anonymous true\nacl_file ${acl}\nuser root\n`,
    )
    const program = new Program(MOSQUITTO, ['-c', join(directory, 'mosquitto.conf')])
    for (;;) {
      try {
        await connected(port, { clientId: 'probe', username: 'root' })
        break
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 20))
      }
    }
    const root = await connected(port, { clientId: 'root', username: 'root' })
    const arrived = new Set<string>()
    root.on('message', (topic, payload) => arrived.add(`${payload} ${topic}`))
    await root.subscribeAsync('#', { qos: 1 })
    const read = new Set<string>()
    for (const { clientId, userName } of WHO) {
      const client = await connected(port, { clientId, ...(userName !== null && { username: userName }) })
      client.on('message', (topic, payload) => {
        if (payload.toString() === 'root') read.add(`${clientId} ${topic}`)
      })
      await client.subscribeAsync('#', { qos: 1 })
      for (const topic of TOPICS) await client.publishAsync(topic, clientId, { qos: 1 }).catch(() => {})
    }
    for (const topic of TOPICS) await root.publishAsync(topic, 'root', { qos: 1 })
    await root.publishAsync('end', 'root', { qos: 1 })
    // Everything that is delivered to a client comes before the answer to its next packet.
    for (const client of clients) await client.unsubscribeAsync('nothing')
    await program.kill()
    const file = parseAclFile(`${ACL}user root\ntopic readwrite #\n`, acl)
    for (const identity of WHO) {
      const rights = aclRights(file, identity)
      for (const topic of TOPICS) {
        const about = `${identity.clientId} ${topic}`
        const publish = rights.decide({ action: 'publish', topic, qos: 1, retain: false })?.allow ?? false
        const receive = rights.decide({ action: 'receive', topic })?.allow ?? false
        expect([about, publish, receive]).toEqual([about, arrived.has(about), read.has(about)])
      }
    }
  })
})
