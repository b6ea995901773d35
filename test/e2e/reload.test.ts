import { chmod, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { connect, connectAsync, type IClientOptions, type IConnackPacket, type MqttClient } from 'mqtt'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Authority, DAY_MS } from '../transport/tls/authority.ts'
import { cleanUp, type Ended, MAIN, Program, temporaryDirectory } from './process.ts'

let directory: string
let authority: Authority
let clients: MqttClient[]
let broker: Program

beforeEach(async () => {
  directory = await temporaryDirectory()
  authority = await Authority.create()
  clients = []
  await put('ca.crt', authority.issued.certificate)
  await serve()
})

afterEach(async () => {
  await Promise.all(clients.map((client) => client.endAsync(true).catch(() => {})))
  await cleanUp()
})

const path = (name: string): string => join(directory, name)

async function put(name: string, text: string): Promise<void> {
  await writeFile(path(`${name}.new`), text, { mode: 0o600 })
  await rename(path(`${name}.new`), path(name))
}

/** A new certificate and key in the files. */
async function serve(nowMs = Date.now()): Promise<void> {
  const { certificate, key } = await authority.server(nowMs)
  await put('server.key', key)
  await put('server.crt', certificate)
}

const PLAIN = '  - {name: plain, type: tcp, port: 0}\n'
const SECURE =
  '  - {name: secure, type: tls, port: 0, allow_anonymous: true, tls: {cert: server.crt, key: server.key}}\n'
const WEB =
  '  - {name: web, type: wss, port: 0, allow_anonymous: true, tls: {cert: server.crt, key: server.key}}\n'

async function start(listeners: string, more = ''): Promise<void> {
  await configure(listeners, more)
  broker = new Program(process.execPath, [MAIN, '--data', directory])
  await broker.until((stdout) => /^godwit (listener|serves)/m.test(stdout))
}

function configure(listeners: string, more = ''): Promise<void> {
  return put('godwit.yaml', `listeners:\n${listeners}${more}`)
}

function godwit(...words: string[]): Promise<Ended> {
  return new Program(process.execPath, [MAIN, ...words, '--data', directory]).ended
}

/** The ports, in the order of the listeners. */
function ports(): number[] {
  return [...broker.stdout.matchAll(/^godwit listening on \S+:(\d+)/gm)].map(([, port]) => Number(port))
}

async function client(scheme: string, port: number, more: IClientOptions = {}): Promise<MqttClient> {
  const options = {
    ca: authority.issued.certificate,
    protocolVersion: 5,
    reconnectPeriod: 0,
    ...more,
  } as const
  const made = await connectAsync(`${scheme}://127.0.0.1:${port}${scheme === 'wss' ? '/mqtt' : ''}`, options)
  clients.push(made)
  made.on('error', () => {})
  return made
}

/** How often the log has said so. */
function times(text: string): number {
  return broker.stdout.split(text).length - 1
}

describe('certificates under load', () => {
  test('are replaced again and again: no disconnect, no message lost, all newcomers verified', async () => {
    await start(SECURE + WEB)
    const [secure, web] = ports() as [number, number]
    const subscribers = [await client('mqtts', secure), await client('wss', web)]
    const publisher = await client('mqtts', secure)
    let disconnects = 0
    for (const one of [...subscribers, publisher]) one.on('close', () => disconnects++)
    const counts = subscribers.map((subscriber) => {
      const count = { messages: 0, order: true }
      subscriber.on('message', (_, payload) => {
        count.order &&= Number(payload) === count.messages
        count.messages++
      })
      return count
    })
    for (const subscriber of subscribers) await subscriber.subscribeAsync('load/#', { qos: 1 })
    let isOver = false
    let sent = 0
    const load = (async () => {
      while (!isOver) await publisher.publishAsync('load/x', `${sent++}`, { qos: 1 })
    })()
    const seen = new Set<string>()
    for (let round = 1; round <= 4; round++) {
      await serve()
      await broker.until(() => times('"msg":"certificate loaded"') >= 2 * round)
      const newcomer = await client('mqtts', secure)
      const { stream } = newcomer as unknown as { stream: import('node:tls').TLSSocket }
      seen.add(stream.getPeerCertificate().serialNumber)
      await newcomer.endAsync()
    }
    isOver = true
    await load
    while (counts.some(({ messages }) => messages < sent))
      await new Promise((resolve) => setTimeout(resolve, 20))
    expect(seen.size).toBe(4)
    expect(disconnects).toBe(0)
    expect(counts).toEqual([
      { messages: sent, order: true },
      { messages: sent, order: true },
    ])
  })

  test('bad ones are reported with a remedy, and the old ones are still served', async () => {
    await start(SECURE)
    const [port] = ports() as [number]
    await serve(Date.now() - 500 * DAY_MS)
    await broker.until(() => times('certificate refused') === 1)
    expect(broker.stdout).toMatch(/not valid at this time; the old certificates stay/)
    await put('server.crt', 'nonsense')
    await broker.until(() => times('certificate refused') === 2)
    await rename(path('server.key'), path('renamed.key'))
    await broker.until(() => times('certificate refused') === 3)
    expect(broker.stdout).toMatch(
      /cannot read [^ ]*server\.key: ENOENT; the old certificates stay\. Check the path/,
    )
    await client('mqtts', port)
  })
})

describe('a start', () => {
  test('with a key that others can read is refused, with a command as the remedy', async () => {
    await put('godwit.yaml', `listeners:\n${SECURE}`)
    await chmod(path('server.key'), 0o644)
    const { code, stderr } = await godwit()
    expect(code).not.toBe(0)
    expect(stderr).toContain(`chmod 600 ${path('server.key')}`)
    const check = await new Program(process.execPath, [MAIN, 'check', path('godwit.yaml')]).ended
    expect([check.code, check.stderr]).toEqual([
      2,
      expect.stringContaining(`chmod 600 ${path('server.key')}`),
    ])
  })

  test('with a certificate that expires soon says so in log and $SYS', async () => {
    await serve(Date.now() - (397 - 10) * DAY_MS)
    await start(SECURE, 'sys: {interval_seconds: 1}\n')
    await broker.until(
      () => times('"msg":"certificate expires soon"') > 0 || times('certificate expiring') > 0,
    )
    expect(broker.stdout).toMatch(/^godwit certificate of listener 'secure' is valid until [\d-]+, 8 days$/m)
    expect(broker.stdout).toMatch(/expires in 8 days; `godwit setup --renew`/)
    const subscriber = await client('mqtts', ports()[0]!)
    const value = new Promise((resolve) => subscriber.once('message', (_, payload) => resolve(`${payload}`)))
    await subscriber.subscribeAsync('$SYS/broker/certificates/secure/days_to_expiry')
    expect(await value).toBe('8')
  })
})

describe('a start with an expired certificate', () => {
  test('goes on, since clients may accept it, and says so', async () => {
    await serve(Date.now() - 400 * DAY_MS)
    await start(SECURE)
    await broker.until(() => times('certificate expires soon') > 0)
    expect(broker.stdout).toMatch(/expired \d+ days ago: clients have refused it/)
    await expect(client('mqtts', ports()[0]!)).rejects.toThrow(/expired/)
    await serve()
    await broker.until(() => times('certificate loaded') > 0)
    await client('mqtts', ports()[0]!)
  })
})

describe('reload', () => {
  test('opens and closes listeners, and cuts off only the clients that the command named', async () => {
    await start(PLAIN + SECURE)
    const [plain, secure] = ports() as [number, number]
    const leaver = await client('mqtt', plain, { clientId: 'leaver' })
    const stayer = await client('mqtts', secure, { clientId: 'stayer' })
    let stays = true
    stayer.on('close', () => {
      stays = false
    })
    const told = new Promise<number | undefined>((resolve) =>
      leaver.once('disconnect', ({ reasonCode }) => resolve(reasonCode)),
    )
    const next = path('next.yaml')
    await writeFile(next, `listeners:\n${SECURE}${WEB}limits: {queue_bytes_max: 1MiB}\n`)
    const check = await new Program(process.execPath, [
      MAIN,
      ...['check', '--against-running', next, '--data', directory],
    ]).ended
    expect(check.stdout.trim().split('\n')).toEqual([
      'limits.queue_bytes_max: 268435456 -> 1048576, at once',
      'listeners.plain: tcp 127.0.0.1 port 0 -> none, at once',
      'listeners.web: none -> wss 127.0.0.1 port 0, at once',
      '1 client would be cut off:',
      "  leaver: listener 'plain' no longer exists",
    ])
    expect(leaver.connected).toBe(true)
    await rename(next, path('godwit.yaml'))
    const reload = await godwit('reload')
    expect(reload.stdout).toBe(check.stdout.replace('would be', 'was'))
    expect(await told).toBe(0x98)
    await expect(client('mqtt', plain)).rejects.toThrow(/ECONNREFUSED/)
    await stayer.publishAsync('still', 'here', { qos: 1 })
    expect(stays).toBe(true)
    const again = await godwit('reload')
    expect(again.stdout).toBe('nothing has changed\n0 clients were cut off\n')
  })

  test('a bad file is refused by command and signal, and the broker goes on', async () => {
    await start(PLAIN)
    const [plain] = ports() as [number]
    const stayer = await client('mqtt', plain)
    await configure(PLAIN, 'limits: {queue_byte_max: 1}\n')
    const { code, stderr } = await godwit('reload')
    expect((await godwit('status')).code).toBe(0)
    expect([code, stderr]).toEqual([
      1,
      expect.stringMatching(
        new RegExp(
          String.raw`^godwit: .*did you mean limits\.queue_bytes_max\?\n` +
            String.raw`Correct this and try again\. The broker keeps its old configuration\.\n` +
            String.raw`Code: GODWIT_CONFIG_INVALID\n$`,
        ),
      ),
    ])
    broker.signal('SIGHUP')
    await broker.until(() => times('configuration refused') === 2)
    // A certificate that cannot be used, beside something good: neither is taken.
    await configure(`  - {name: plain, type: tcp, port: 0, allow_anonymous: false}\n${SECURE}`)
    await put('server.crt', 'nonsense')
    const second = await new Program(process.execPath, [MAIN, 'reload', '--data', directory]).ended
    expect([second.code, second.stderr]).toEqual([1, expect.stringContaining('cannot be used')])
    await client('mqtt', plain)
    await stayer.publishAsync('still', 'here', { qos: 1 })
    expect(await readFile(path('server.crt'), 'utf8')).toBe('nonsense')
  })

  test('anonymous access that is withdrawn ends for clients that have it', async () => {
    await start(PLAIN)
    const [plain] = ports() as [number]
    const anonymous = await client('mqtt', plain, { clientId: 'anonymous' })
    const told = new Promise<number | undefined>((resolve) =>
      anonymous.once('disconnect', ({ reasonCode }) => resolve(reasonCode)),
    )
    await configure('  - {name: plain, type: tcp, port: 0, allow_anonymous: false}\n')
    broker.signal('SIGHUP')
    expect(await told).toBe(0x98)
    await expect(client('mqtt', plain)).rejects.toThrow(/[Nn]ot authorized/)
  })
})

test('withdrawn anonymous access beside users ends those clients, and users do not [field-C15]', async () => {
  const asked = '  - {name: plain, type: tcp, port: 0, allow_anonymous: true}\n'
  const bound = '  - {name: plain, type: tcp, port: 0, client_id: user}\n'
  await start(PLAIN)
  const [plain] = ports() as [number]
  const stayer = await client('mqtt', plain, { clientId: 'stayer' })
  await configure(asked)
  expect((await godwit('reload')).stdout).toContain('listeners.plain.allow_anonymous: loopback -> true')
  await godwit('user', 'add', 'anna', '--generate')
  await stayer.publishAsync('still', 'here', { qos: 1 })
  const told = new Promise<number | undefined>((resolve) =>
    stayer.once('disconnect', ({ reasonCode }) => resolve(reasonCode)),
  )
  await configure(bound)
  const { stdout } = await godwit('reload')
  expect(stdout).toContain('listeners.plain.allow_anonymous: true -> loopback')
  expect(stdout).toContain('listeners.plain.client_id: free -> user')
  expect(stdout).toContain('1 client was cut off:\n  stayer: ')
  expect(await told).toBe(0x98)
})

test('users end anonymous connections that no configuration asks for any more [field-C15]', async () => {
  await start('  - {name: plain, type: tcp, port: 0, allow_anonymous: true}\n')
  const [plain] = ports() as [number]
  const guest = await client('mqtt', plain, { clientId: 'guest' })
  const told = new Promise<number | undefined>((resolve) =>
    guest.once('disconnect', ({ reasonCode }) => resolve(reasonCode)),
  )
  await configure(PLAIN)
  expect((await godwit('reload')).stdout).toContain('0 clients were cut off')
  expect((await godwit('user', 'add', 'anna', '--generate')).stdout).toContain('1 connection ended')
  expect(await told).toBe(0x87)
})

describe('client certificates', () => {
  test('that are revoked are refused at every CONNECT, even in resumed TLS sessions', async () => {
    const device = await authority.client('device-7')
    await put('crl.pem', await authority.crl())
    const tls = '{cert: server.crt, key: server.key, ca: ca.crt, crl: crl.pem, client_certificate: request}'
    await start(`  - {name: secure, type: tls, port: 0, allow_anonymous: true, tls: ${tls}}\n`)
    const [port] = ports() as [number]
    const shown = { cert: device.certificate, key: device.key }
    const first = await client('mqtts', port, shown)
    const { stream } = first as unknown as { stream: import('node:tls').TLSSocket }
    const session = stream.getSession()
    await put('crl.pem', await authority.crl(device))
    await broker.until(() => times('certificate loaded') === 1)
    for (const more of [{}, { session }, {}]) {
      await expect(client('mqtts', port, { ...shown, ...more })).rejects.toThrow(/[Nn]ot authorized/)
    }
    expect(broker.stdout).toContain('CERT_REVOKED')
    // Without a certificate it is as anybody else.
    await client('mqtts', port)
  })
})

test('a listener has its own Server Keep Alive', async () => {
  await start(`${PLAIN}  - {name: ws, type: ws, port: 0, server_keep_alive_seconds: 300}\n`)
  const [plain, ws] = ports() as [number, number]
  const told = async (url: string): Promise<number | undefined> => {
    const one = connect(url, { protocolVersion: 5, keepalive: 20, reconnectPeriod: 0 })
    clients.push(one)
    const connack = await new Promise<IConnackPacket>((resolve) => one.once('connect', resolve))
    return connack.properties?.serverKeepAlive
  }
  expect(await told(`mqtt://127.0.0.1:${plain}`)).toBeUndefined()
  expect(await told(`ws://127.0.0.1:${ws}/mqtt`)).toBe(300)
})
