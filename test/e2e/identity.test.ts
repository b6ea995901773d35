/** The owners of Sessions, over restarts of the real process, with the real commands and clients. */
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { connect as connectSocket } from 'node:net'
import { join } from 'node:path'
import { connect, type IClientOptions, type IConnackPacket, type MqttClient } from 'mqtt'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { Authority } from '../transport/tls/authority.ts'
import {
  BrokerProcess,
  cleanUp,
  type Ended,
  MAIN,
  MosquittoSub,
  mosquittoPub,
  Program,
  temporaryDirectory,
} from './process.ts'

const clients: MqttClient[] = []

afterEach(async () => {
  for (const client of clients.splice(0)) client.end(true)
  await cleanUp()
})

function godwit(data: string, ...words: string[]): Promise<Ended> {
  return new Program(process.execPath, [MAIN, ...words, '--data', data]).ended
}

async function done(data: string, ...words: string[]): Promise<string> {
  const { code, stdout, stderr } = await godwit(data, ...words)
  expect(code, `${words.join(' ')}\n${stdout}${stderr}`).toBe(0)
  return stdout
}

/** The output of the command, and the password that it made. */
async function userAdded(data: string, ...words: string[]): Promise<{ text: string; password: string }> {
  const lines = (await done(data, 'user', 'add', ...words, '--generate')).trimEnd().split('\n')
  return { text: lines.slice(0, -1).join('\n'), password: lines.at(-1)! }
}

/** Connects. Resolves with the client, its CONNACK, and its messages. */
async function arrived(
  port: number,
  clientId: string,
  options: IClientOptions = {},
): Promise<{ client: MqttClient; connack: IConnackPacket; messages: string[] }> {
  const client = connect(`mqtt://127.0.0.1:${port}`, {
    clientId,
    clean: false,
    reconnectPeriod: 0,
    ...options,
  })
  clients.push(client)
  const messages: string[] = []
  client.on('message', (_, payload) => messages.push(payload.toString()))
  const connack = await new Promise<IConnackPacket>((resolve, reject) => {
    client.once('connect', resolve)
    client.once('error', reject)
  })
  return { client, connack, messages }
}

async function reached(url: string, options: IClientOptions): Promise<IConnackPacket> {
  const client = connect(url, { reconnectPeriod: 0, ...options })
  clients.push(client)
  return new Promise((resolve, reject) => {
    client.once('connect', resolve)
    client.once('error', reject)
  })
}

/** Resolves once the broker has noticed that its clients have left. */
async function nobodyIsConnected(data: string): Promise<void> {
  await vi.waitFor(async () => expect(await done(data, 'status')).toMatch(/^clients +0 connected/m), {
    timeout: 60_000,
  })
}

/** Resolves once a message came that was published after all others. */
async function caughtUp(
  port: number,
  { client, messages }: Awaited<ReturnType<typeof arrived>>,
  ...as: string[]
) {
  await client.subscribeAsync('last', { qos: 1 })
  await mosquittoPub(port, '-q', '1', '-t', 'last', '-m', 'last', ...as)
  while (messages.at(-1) !== 'last') await new Promise((resolve) => client.once('message', resolve))
  return messages.slice(0, -1)
}

describe('a user who tried the broker without passwords', () => {
  test('and adds users keeps the Client Identifier and starts afresh [field-C12] [field-C15]', async () => {
    const broker = await BrokerProcess.start()
    const { data, port } = broker
    const kitchen = await MosquittoSub.start(port, ['-c', '-i', 'kitchen', '-q', '1', '-t', 'home/#'])
    await kitchen.vanish()
    await mosquittoPub(port, '-q', '1', '-t', 'home/door', '-m', 'of the time before')
    const online = await arrived(port, 'hall', {
      protocolVersion: 5,
      properties: { sessionExpiryInterval: 600 },
    })
    const told = new Promise((resolve) => online.client.once('disconnect', resolve))
    const { text, password } = await userAdded(data, 'anna')
    expect(await told).toMatchObject({ reasonCode: 0x87 })
    expect(text).toContain('1 connection ended (1 without credentials)')
    expect(text).toMatch(
      new RegExp(
        String.raw`^2 Sessions of clients without credentials \((kitchen, hall|hall, kitchen); ` +
          String.raw`1 message waiting\): each ends when a user takes`,
        'm',
      ),
    )
    await broker.crash()
    await broker.restart()
    const as = { username: 'anna', password }
    await expect(arrived(port, 'kitchen')).rejects.toThrow(/not authorized/i)
    const anna = await arrived(port, 'kitchen', as)
    expect(anna.connack).toMatchObject({ sessionPresent: false, returnCode: 0 })
    expect(await caughtUp(port, anna, '-u', 'anna', '-P', password)).toEqual([])
    anna.client.end(true)
    expect(broker.program.stdout).toMatch(
      /"detail":"of clients without credentials; Subscriptions: 1, messages: 1"/,
    )
    expect(await done(data, 'status')).toMatch(/^ownerless +1 Session without an owner ended/m)
    await broker.crash()
    await broker.restart()
    expect((await arrived(port, 'kitchen', as)).connack).toMatchObject({ sessionPresent: true })
  })

  test('is told in the log when anonymous access ends and begins again [field-C15]', async () => {
    const broker = await BrokerProcess.start({ words: ['--set', 'log.format=json'] })
    await userAdded(broker.data, 'anna')
    await done(broker.data, 'user', 'remove', 'anna')
    await done(broker.data, 'role', 'remove', 'client')
    const { stdout, stderr } = await broker.stop()
    const codes = [...(stdout + stderr).matchAll(/"security":"(S42\d)"/g)].map(([, code]) => code)
    expect(codes).toEqual(['S426', 'S423'])
  })
})

describe('a user name that is used again', () => {
  test('is another user: nothing is inherited, and user remove tells what is left [field-C12]', async () => {
    const data = await temporaryDirectory()
    const first = await userAdded(data, 'anna')
    const broker = await BrokerProcess.start({ data })
    const { port } = broker
    const left = await arrived(port, 'c', { username: 'anna', password: first.password })
    await left.client.subscribeAsync('secret', { qos: 1 })
    await left.client.endAsync(true)
    await nobodyIsConnected(data)
    await mosquittoPub(
      port,
      '-q',
      '1',
      '-t',
      'secret',
      '-m',
      'for the first',
      '-u',
      'anna',
      '-P',
      first.password,
    )
    const removed = await done(data, 'user', 'remove', 'anna')
    expect(removed).toContain('1 Session of anna (c; 1 message waiting) left; no other user gets them')
    expect(removed).toContain('godwit session delete --user anna --yes')
    expect(await done(data, 'session', 'list')).toMatch(/^c +anna \(removed\) /m)
    const second = await userAdded(data, 'anna')
    expect(second.text).toContain(
      '1 Session of an earlier user anna (c; 1 message waiting): not given to this user',
    )
    await broker.crash()
    await broker.restart()
    const next = await arrived(port, 'c', { username: 'anna', password: second.password })
    expect(next.connack).toMatchObject({ sessionPresent: false })
    expect(await caughtUp(port, next, '-u', 'anna', '-P', second.password)).toEqual([])
    const all = await done(data, 'user', 'remove', 'anna', '--delete-sessions')
    expect(all).toContain('1 connection ended')
    expect(all).toContain('1 Session of anna (c) deleted')
    await broker.crash()
    await broker.restart()
    expect(await done(data, 'session', 'list')).toBe('no Sessions\n')
    await broker.stop()
    const offline = await userAdded(data, 'bert')
    expect(offline.password).not.toBe('')
    const refused = await godwit(data, 'user', 'remove', 'bert', '--delete-sessions')
    expect(refused).toMatchObject({ code: 1 })
    expect(refused.stderr).toContain('--delete-sessions needs a running broker')
    expect(await done(data, 'user', 'list')).toContain('bert')
  })
})

describe('rights that are taken away for a while', () => {
  test.each(['with the broker running', 'while no broker runs'])(
    'delete nothing of an absent device, %s [field-C14]',
    async (when) => {
      const data = await temporaryDirectory()
      const { password } = await userAdded(data, 'device')
      const admin = await userAdded(data, 'boss')
      const as = ['-u', 'boss', '-P', admin.password]
      const broker = await BrokerProcess.start({ data })
      const device = { username: 'device', password }
      const first = await arrived(broker.port, 'd', device)
      await first.client.subscribeAsync('commands', { qos: 1 })
      await first.client.endAsync(true)
      await nobodyIsConnected(data)
      await mosquittoPub(broker.port, '-q', '1', '-t', 'commands', '-m', 'before', ...as)
      if (when !== 'with the broker running') await broker.stop()
      const disabled = await done(data, 'user', 'disable', 'device')
      if (when === 'with the broker running') {
        expect(disabled).toContain('1 Subscription of 1 Session suspended until they are allowed again')
      } else await broker.restart()
      await mosquittoPub(broker.port, '-q', '1', '-t', 'commands', '-m', 'while disabled', ...as)
      expect(await done(data, 'status')).toMatch(/^Subscriptions +0, and 1 not allowed at present$/m)
      expect(await done(data, 'subscription', 'list')).toMatch(
        /^d +device +commands +1 +not allowed at present$/m,
      )
      await broker.crash()
      await broker.restart()
      const enabled = await done(data, 'user', 'enable', 'device')
      expect(enabled).toContain('1 Subscription active again')
      await mosquittoPub(broker.port, '-q', '1', '-t', 'commands', '-m', 'after', ...as)
      const back = await arrived(broker.port, 'd', device)
      expect(back.connack).toMatchObject({ sessionPresent: true })
      expect(await caughtUp(broker.port, back, ...as)).toEqual(['before', 'after'])
    },
  )

  test('the command tells which connections and Wills it ended [field-C14]', async () => {
    const data = await temporaryDirectory()
    const { password } = await userAdded(data, 'device')
    const broker = await BrokerProcess.start({ data })
    const will = { topic: 'lost', payload: Buffer.from('x'), qos: 1, retain: false } as const
    const online = await arrived(broker.port, 'd', { username: 'device', password, will })
    const closed = new Promise<void>((resolve) => online.client.once('close', () => resolve()))
    const disabled = await done(data, 'user', 'disable', 'device')
    expect(disabled).toContain('1 connection ended')
    expect(disabled).toContain('1 Will of ended connections not published: no longer allowed')
    await closed
  })
})

/** Sessions of 3.1.1, which never expire, of clients that have left. */
async function leftBehind(port: number, count: number, prefix: string): Promise<void> {
  let next = 0
  const one = async (): Promise<void> => {
    while (next < count) {
      const clientId = Buffer.from(`${prefix}${next++}`)
      const head = Buffer.from([
        0x10,
        12 + clientId.length,
        0,
        4,
        0x4d,
        0x51,
        0x54,
        0x54,
        4,
        0,
        0,
        0,
        0,
        clientId.length,
      ])
      const socket = connectSocket(port, '127.0.0.1')
      socket.write(Buffer.concat([head, clientId]))
      await once(socket, 'data')
      socket.end(Buffer.from([0xe0, 0]))
      await once(socket, 'close')
    }
  }
  await Promise.all(Array.from({ length: 64 }, one))
}

describe('very many Sessions that nobody needs', () => {
  const COUNT = Number(process.env.TEST_SESSIONS ?? 3000)

  test('are deleted by one command, durably, while others are served [field-A4]', async () => {
    const broker = await BrokerProcess.start({ words: ['--durability', 'os'] })
    const { data, port } = broker
    await leftBehind(port, COUNT, 'junk-')
    const other = await arrived(port, 'other')
    await other.client.subscribeAsync('ping', { qos: 1 })
    const dry = await done(data, 'session', 'delete', '--client', 'junk-*', '--older-than', '0s', '--dry-run')
    expect(dry).toContain(`would delete ${COUNT} Sessions`)
    const began = performance.now()
    const deleting = done(data, 'session', 'delete', '--client', 'junk-*', '--yes')
    await other.client.publishAsync('ping', 'meanwhile', { qos: 1 })
    expect(await deleting).toContain(`deleted ${COUNT} Sessions (0 of connected clients, `)
    if (process.env.TEST_SESSIONS !== undefined) console.log(`${performance.now() - began} ms`)
    await broker.crash()
    await broker.restart()
    const { rows } = JSON.parse(await done(data, 'session', 'list', '--json'))
    expect(rows.map(({ clientId }: { clientId: string }) => clientId)).toEqual(['other'])
  })

  test('end by session_expiry_seconds_max at reload and start, as check announces [field-A4]', async () => {
    const data = await temporaryDirectory()
    const file = join(data, 'godwit.yaml')
    const configure = (more: string): Promise<void> =>
      writeFile(file, `listeners: [{name: mqtt, type: tcp, port: 0}]\n${more}`)
    let port = 0
    const start = async (): Promise<Program> => {
      const program = new Program(process.execPath, [MAIN, '--data', data])
      await program.until((stdout) => /^godwit try:/m.test(stdout))
      port = Number(/listening on mqtt:\/\/[^\s]+:(\d+)$/m.exec(program.stdout)![1])
      return program
    }
    await configure('')
    let program = await start()
    await leftBehind(port, 500, 'old-')
    await arrived(port, 'here')
    await configure('limits: {session_expiry_seconds_max: 0}\n')
    const preview = await done(data, 'check', file, '--against-running')
    expect(preview).toContain('limits.session_expiry_seconds_max: unlimited -> 0, at once')
    expect(preview).toContain(
      '500 Sessions of absent clients would end at once by session_expiry_seconds_max',
    )
    expect(preview).toContain('1 Session would expire sooner')
    const report = await done(data, 'reload')
    expect(report).toContain('500 Sessions of absent clients ended')
    await program.kill()
    await configure('')
    program = await start()
    expect(JSON.parse(await done(data, 'session', 'list', '--json')).rows).toHaveLength(0)
    await leftBehind(port, 400, 'again-')
    await program.kill()
    await configure('limits: {session_expiry_seconds_max: 0}\n')
    program = await start()
    expect(program.stdout).toContain('session_expiry_seconds_max: 400 Sessions have ended')
    await program.kill()
    await configure('')
    program = await start()
    expect(JSON.parse(await done(data, 'session', 'list', '--json')).rows).toHaveLength(0)
  })
})

describe('client_id', () => {
  test('binds on TCP, WebSocket and TLS by listener, and refusals have a reason [field-C12]', async () => {
    const data = await temporaryDirectory()
    const authority = await Authority.create()
    const server = await authority.server(Date.now())
    const device = await authority.client('device-7')
    const secret = { mode: 0o600 }
    await writeFile(join(data, 'ca.crt'), authority.issued.certificate)
    await writeFile(join(data, 'server.crt'), server.certificate)
    await writeFile(join(data, 'server.key'), server.key, secret)
    await writeFile(
      join(data, 'godwit.yaml'),
      `client_id: user
log: {format: json}
listeners:
  - {name: tcp, type: tcp, port: 0}
  - {name: ws, type: ws, port: 0}
  - name: tls
    type: tls
    port: 0
    client_id: certificate
    tls: {cert: server.crt, key: server.key, ca: ca.crt, client_certificate: require}
  - {name: free, type: tcp, port: 0, client_id: free}
`,
    )
    const { password } = await userAdded(data, 'anna')
    const program = new Program(process.execPath, [MAIN, '--data', data])
    await program.until((stdout) => /^godwit try:/m.test(stdout))
    const urls = [...program.stdout.matchAll(/^godwit listening on (\S+)$/gm)].map(([, url]) => url!)
    const anna = { username: 'anna', password }
    const shown = { ca: authority.issued.certificate, cert: device.certificate, key: device.key }
    const rows: [number, string, IClientOptions, boolean][] = [
      [0, 'anna', anna, true],
      [0, 'anna/phone', anna, true],
      [0, 'phone', anna, false],
      [1, 'anna/web', anna, true],
      [1, 'web', anna, false],
      [2, 'device-7', shown, true],
      [2, 'device-8', shown, false],
      [3, 'phone', anna, true],
    ]
    for (const [at, clientId, options, isIn] of rows) {
      const arriving = reached(urls[at]!.replace(/^mqtt(s?):/, 'mqtt$1:'), { clientId, ...options })
      if (isIn) expect(await arriving, clientId).toMatchObject({ returnCode: 0 })
      else await expect(arriving, clientId).rejects.toThrow(/identifier rejected/i)
    }
    expect(program.stdout).toContain('neither the user name nor begins with it and / (client_id: user)')
    expect(program.stdout).toContain("is not the certificate's Common Name (client_id: certificate)")
    expect(JSON.parse(await done(data, 'status', '--json')).counted.limited).toMatchObject({
      clientIdRule: 3,
    })
  })
})
