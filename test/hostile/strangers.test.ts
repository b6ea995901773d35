/**
 * Peers that speak another protocol, or none, on each kind of listener: they are refused and counted, and
 * others are served. With real sockets.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect as connectTls } from 'node:tls'
import { fileURLToPath } from 'node:url'
import { connectAsync } from 'mqtt'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import WebSocket from 'ws'
import { type Broker, type BrokerEvents, createBroker, type ListenerType } from '../../src/godwit.ts'
import { packet, properties, uint16 } from '../mqtt/packets.ts'

const fixture = (name: string): string =>
  fileURLToPath(new URL(`../fixtures/tls/${name}.pem`, import.meta.url))
const TLS = { cert: fixture('server'), key: fixture('server-key') }
const CA = readFileSync(fixture('ca'))

let broker: Broker
let refusals: BrokerEvents['refused'][]

beforeEach(async () => {
  broker = await createBroker({
    listeners: [
      { type: 'tcp', port: 0 },
      { type: 'tls', port: 0, tls: { ...TLS, clientCertificate: 'none', minimumVersion: 'TLSv1.2' } },
      { type: 'ws', port: 0 },
      { type: 'wss', port: 0, tls: { ...TLS, clientCertificate: 'none', minimumVersion: 'TLSv1.2' } },
    ],
    limits: { connectTimeoutSeconds: 2 },
  })
  refusals = []
  broker.events.on('refused', (event) => refusals.push(event))
})

afterEach(async () => {
  await broker.close({ seconds: 1 })
})

function portOf(type: ListenerType): number {
  return broker.listeners.find((listener) => listener.type === type)!.port
}

/** Sends bytes, perhaps in pieces; resolves with what came back when the other side has closed. */
async function told(type: ListenerType, ...pieces: readonly (string | Buffer)[]): Promise<Buffer> {
  const socket = connect(portOf(type), '127.0.0.1')
  const answer = collect(socket)
  for (const piece of pieces) socket.write(piece)
  return answer
}

function collect(socket: Socket | ReturnType<typeof connectTls>): Promise<Buffer> {
  const chunks: Buffer[] = []
  return new Promise((resolve) => {
    socket.on('data', (chunk: Buffer) => chunks.push(chunk))
    socket.on('error', () => {})
    socket.on('close', () => resolve(Buffer.concat(chunks)))
  })
}

/** A client on each listener publishes to itself. */
async function expectService(): Promise<void> {
  for (const { address } of broker.listeners) {
    const client = await connectAsync(address, { reconnectPeriod: 0, protocolVersion: 5, ca: CA })
    const arrived = new Promise((resolve) => client.on('message', (_topic, payload) => resolve(`${payload}`)))
    await client.subscribeAsync('service', { qos: 1 })
    await client.publishAsync('service', address, { qos: 1 })
    expect(await arrived).toBe(address)
    await client.endAsync()
  }
}

const CLIENT_HELLO = Buffer.concat([Buffer.from('1603010200010001fc0303', 'hex'), Buffer.alloc(506, 7)])
const GET = 'GET / HTTP/1.1\r\nHost: broker\r\nUser-Agent: scanner\r\n\r\n'
const MQTT = packet(0x10, 'MQTT', 4, 2, uint16(60), 'wrong-door')

const STRANGERS: readonly (readonly [string, Buffer | string])[] = [
  ['TLS', CLIENT_HELLO],
  ['HTTP', GET],
  ['a PROXY protocol header', 'PROXY TCP4 192.0.2.1 192.0.2.2 4711 1883\r\n'],
  ['SSH', 'SSH-2.0-OpenSSH_9.2p1\r\n'],
  ['SMTP', 'EHLO scanner\r\n'],
  ['RDP', Buffer.from('0300002f2ae00000000000436f6f6b69653a', 'hex')],
  ['zeros', Buffer.alloc(4096)],
  ['ones', Buffer.alloc(4096, 0xff)],
]

describe('on the plain MQTT port', () => {
  test.each(STRANGERS)('%s is refused at its first byte, without an answer', async (_name, bytes) => {
    expect((await told('tcp', bytes)).length).toBe(0)
    expect(refusals).toMatchObject([{ clientId: '', link: { listener: 'tcp-0' } }])
    expect(broker.figures.connectionsRefused).toBe(1)
    await expectService()
  })

  test('a CONNECT that is garbage behind its header is refused; of 5.0, with CONNACK 0x81', async () => {
    const garbage = packet(0x10, 'MQTT', 5, 2, uint16(60), Buffer.from([0xff, 0xff, 0xff]))
    const [type, , flags, reasonCode] = await told('tcp', garbage)
    expect([type, flags, reasonCode]).toEqual([0x20, 0, 0x81])
  })
})

describe('on the TLS port', () => {
  test.each(STRANGERS.slice(1))('%s is refused and told why to the log', async (_name, bytes) => {
    await told('tls', bytes, '\r\n\r\n')
    expect(refusals).toMatchObject([{ link: { listener: 'tls-1' }, reason: expect.stringMatching(/TLS/) }])
    await expectService()
  })

  test('plain MQTT is refused', async () => {
    await told('tls', MQTT)
    expect(refusals).toMatchObject([{ reason: expect.stringMatching(/TLS/) }])
    await expectService()
  })

  test('HTTP inside TLS is refused like HTTP', async () => {
    const socket = connectTls({ port: portOf('tls'), host: '127.0.0.1', ca: CA, servername: 'localhost' })
    const answer = collect(socket)
    socket.write(GET)
    expect((await answer).length).toBe(0)
    expect(broker.figures.connectionsRefused).toBe(1)
    await expectService()
  })
})

const UPGRADE = {
  Host: 'localhost',
  Connection: 'Upgrade',
  Upgrade: 'websocket',
  'Sec-WebSocket-Version': '13',
  'Sec-WebSocket-Key': 'AAAAAAAAAAAAAAAAAAAAAA==',
  'Sec-WebSocket-Protocol': 'mqtt',
}

function upgrade(
  changes: Partial<Record<keyof typeof UPGRADE, string | undefined>>,
  line = 'GET /mqtt HTTP/1.1',
): string {
  const lines = Object.entries({ ...UPGRADE, ...changes }).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name}: ${value}\r\n`],
  )
  return `${line}\r\n${lines.join('')}\r\n`
}

describe('on the WebSocket port', () => {
  const handshakes: readonly (readonly [string, string | Buffer, number])[] = [
    ['no subprotocol', upgrade({ 'Sec-WebSocket-Protocol': undefined }), 400],
    ['another subprotocol', upgrade({ 'Sec-WebSocket-Protocol': 'chat, mqttx' }), 400],
    ['no key', upgrade({ 'Sec-WebSocket-Key': undefined }), 400],
    ['a short key', upgrade({ 'Sec-WebSocket-Key': 'AAAA' }), 400],
    ['an old version', upgrade({ 'Sec-WebSocket-Version': '7' }), 400],
    ['another protocol to upgrade to', upgrade({ Upgrade: 'h2c' }), 400],
    ['another path', upgrade({}, 'GET /chat HTTP/1.1'), 404],
    ['POST', upgrade({}, 'POST /mqtt HTTP/1.1'), 405],
    ['no upgrade at all', GET, 404],
    ['headers of 20 KB', `GET /mqtt HTTP/1.1\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`, 431],
    ['MQTT without HTTP', MQTT, 400],
    ['TLS', CLIENT_HELLO, 400],
    ['garbage', Buffer.alloc(1000, 0xfe), 400],
  ]

  test.each(handshakes)('%s is refused, answered and counted', async (_name, bytes, status) => {
    const answer = (await told('ws', bytes)).toString()
    expect(answer).toMatch(new RegExp(`^HTTP/1.1 ${status === 431 || status === 405 ? '4\\d\\d' : status} `))
    expect(refusals.length).toBe(1)
    expect(broker.figures.connectionsRefused).toBe(1)
    await expectService()
  })

  test('a handshake that never ends is cut off and counted, plain and in TLS', async () => {
    await Promise.all([
      told('ws', 'GET /mqtt HTTP/1.1\r\n'),
      told('wss', CLIENT_HELLO.subarray(0, 100)),
      told('tls'),
    ])
    expect(broker.figures.connectionsRefused).toBeGreaterThanOrEqual(3)
    await expectService()
  })

  test.each(STRANGERS.slice(1))('secure: %s is refused and counted', async (_name, bytes) => {
    await told('wss', bytes, '\r\n\r\n')
    expect(refusals).toMatchObject([{ link: { listener: 'wss-3' }, reason: expect.stringMatching(/TLS/) }])
    await expectService()
  })

  /** An open WebSocket, and what came in binary frames until it was closed, with the close's status. */
  async function opened(): Promise<{ socket: WebSocket; closed: Promise<number> }> {
    const socket = new WebSocket(`ws://127.0.0.1:${portOf('ws')}/mqtt`, 'mqtt')
    await new Promise((resolve) => socket.once('open', resolve))
    return { socket, closed: new Promise((resolve) => socket.once('close', resolve)) }
  }

  test('[MQTT-6.0.0-1] a text frame ends the connection with 1003', async () => {
    const { socket, closed } = await opened()
    socket.send(MQTT)
    socket.send('text', { binary: false })
    expect(await closed).toBe(1003)
    await expectService()
  })

  test('[MQTT-6.0.0-2] a CONNECT in fragments of one byte, each in a frame of its own, is read', async () => {
    const { socket } = await opened()
    const answered = new Promise<Buffer>((resolve) => socket.once('message', resolve))
    for (const [index, byte] of MQTT.entries())
      socket.send(Buffer.from([byte]), { fin: index === MQTT.length - 1 })
    expect(await answered).toEqual(Buffer.from([0x20, 2, 0, 0]))
    socket.terminate()
    await expectService()
  })

  test('10,000 empty fragments before a CONNECT hold nothing and harm nobody', async () => {
    const { socket } = await opened()
    const answered = new Promise<Buffer>((resolve) => socket.once('message', resolve))
    for (let number = 0; number < 10_000; number++) socket.send(Buffer.alloc(0), { fin: false })
    socket.send(MQTT, { fin: true })
    expect(await answered).toEqual(Buffer.from([0x20, 2, 0, 0]))
    expect(broker.census().memoryBytes).toBeLessThan(100_000)
    socket.terminate()
    await expectService()
  })

  test('a frame that announces 2^62 bytes is refused', async () => {
    const { socket, closed } = await opened()
    const raw = (socket as unknown as { _socket: Socket })._socket
    raw.write(Buffer.from('82ff4000000000000000aabbccdd', 'hex'))
    expect([1002, 1006, 1009]).toContain(await closed)
    await expectService()
  })

  test('an unmasked frame, a reserved bit and a fragmented ping each end the connection', async () => {
    for (const frame of ['8203100c00', 'c28100000000ff', '098000000000']) {
      const { socket, closed } = await opened()
      ;(socket as unknown as { _socket: Socket })._socket.write(Buffer.from(frame, 'hex'))
      expect([1002, 1006]).toContain(await closed)
    }
    await expectService()
  })

  test('fifty clients that announce a frame and a PUBLISH of 200 MB hold only what they sent', async () => {
    const sockets = await Promise.all(Array.from({ length: 50 }, opened))
    for (const [number, { socket }] of sockets.entries()) {
      socket.send(packet(0x10, 'MQTT', 4, 2, uint16(60), `announcer${number}`))
      const raw = (socket as unknown as { _socket: Socket })._socket
      raw.write(Buffer.from('82ff000000000c80000000000000', 'hex'))
      raw.write(Buffer.from('30ffffff5f', 'hex'))
      raw.write(Buffer.alloc(10_000))
    }
    await expect.poll(() => broker.figures.bytesReceived).toBeGreaterThan(50 * 10_000)
    expect(broker.census().memoryBytes).toBeLessThan(50 * 70_000)
    await expectService()
    for (const { socket } of sockets) socket.terminate()
  })
})

describe('floods', () => {
  test('500 connections that send nothing are cut off in time, counted, and hold up nobody', async () => {
    const silent = Array.from({ length: 500 }, () => told('tcp'))
    await expectService()
    await Promise.all(silent)
    expect(broker.figures.limits.connectTimeoutSeconds).toBe(500)
    expect(broker.census().connections).toBe(0)
  })

  test('aliases: the largest is allowed, more gets 0x94; setting one 100,000 times leaves one', async () => {
    const socket = connect(portOf('tcp'), '127.0.0.1')
    const answer = collect(socket)
    socket.write(packet(0x10, 'MQTT', 5, 2, uint16(60), properties(), 'alias'))
    const publish = (topic: string, alias: number): Buffer =>
      packet(0x30, topic, properties(0x23, uint16(alias)), Buffer.from('x'))
    const round = Buffer.concat(
      Array.from({ length: 1000 }, (_, index) => publish(`a/${index}`, (index % 64) + 1)),
    )
    for (let times = 0; times < 100; times++) socket.write(round)
    await expect.poll(() => broker.figures.publishReceived).toBe(100_000)
    await expectService()
    socket.write(publish('a', 65))
    const bytes = await answer
    expect(bytes.includes(Buffer.from([0x94]))).toBe(true)
    expect(broker.figures.limits.topicAliasMaximum).toBe(1)
  })
})

test('a broker that is stopped while retained messages are looked for stops in peace', async () => {
  const dataDirectory = mkdtempSync(join(tmpdir(), 'godwit-hostile-'))
  const listeners = [{ type: 'tcp', port: 0 }] as const
  const stored = await createBroker({ dataDirectory, durability: 'os', listeners })
  try {
    await stored.publish({ topic: 'r', payload: 'x', retain: true })
    const socket = connect(stored.listeners[0]!.port, '127.0.0.1')
    const over = collect(socket)
    const subscribed = new Promise<void>((resolve) => stored.events.on('subscribed', () => resolve()))
    socket.write(packet(0x10, 'MQTT', 5, 2, uint16(60), properties(0x11, 0, 0, 0, 100), 'stored'))
    for (let packetId = 1; packetId < 21; packetId++) {
      const filters = Array.from({ length: 500 }, (_, index) => [`f/${packetId}/${index}`, 1]).flat()
      socket.write(packet(0x82, uint16(packetId), properties(), ...filters))
    }
    await subscribed
    await stored.close({ seconds: 0 })
    await over
  } finally {
    await stored.close()
    rmSync(dataDirectory, { recursive: true })
  }
})
