import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { get, type IncomingMessage } from 'node:http'
import { connect, type Socket } from 'node:net'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import WebSocket, { type ClientOptions } from 'ws'
import type { Limit } from '../../../src/broker/boundary/events.ts'
import type { LinkInfo } from '../../../src/broker/boundary/link.ts'
import { listen } from '../../../src/transport/listen.ts'
import type { Listener, ListenerOptions } from '../../../src/transport/listener/listener.ts'
import { SocketLimit } from '../../../src/transport/listener/socket-limit.ts'
import { ReadBuffer } from '../../../src/transport/sockets/read-buffer.ts'
import { closing, Recorder } from '../recorder.ts'

const LIMITS = { connectTimeoutSeconds: 10 }
const fixture = (name: string) => new URL(`../../fixtures/tls/${name}`, import.meta.url).pathname
const TLS = { cert: fixture('server.pem'), key: fixture('server-key.pem') }
const CA = readFileSync(fixture('ca.pem'))

let recorder: Recorder
let refusals: { peer: LinkInfo; reason: string; limit?: Limit }[]
let open: Listener[]
let clients: WebSocket[]
let sockets: Socket[]

beforeEach(() => {
  recorder = new Recorder()
  refusals = []
  open = []
  clients = []
  sockets = []
})

afterEach(async () => {
  vi.restoreAllMocks()
  for (const client of clients) client.terminate()
  for (const socket of sockets) socket.destroy()
  for (const { link } of recorder.links) link.destroy()
  await Promise.all(open.map((listener) => listener.close()))
})

async function listening(options: Partial<ListenerOptions> = {}, limits = LIMITS): Promise<Listener> {
  const listener = await listen(
    { name: 'web', type: 'ws', port: 0, allowAnonymous: true, ...options },
    recorder,
    limits,
    (peer, reason, limit) => refusals.push({ peer, reason, ...(limit !== undefined && { limit }) }),
  )
  open.push(listener)
  return listener
}

function client(listener: Listener, protocols: string[] = ['mqtt'], options: ClientOptions = {}): WebSocket {
  const webSocket = new WebSocket(listener.address, protocols, { ca: CA, ...options })
  webSocket.on('error', () => {})
  clients.push(webSocket)
  return webSocket
}

function rawClient(listener: Listener): Socket {
  const socket = connect(listener.port, '127.0.0.1')
  socket.on('error', () => {})
  sockets.push(socket)
  return socket
}

/** The beginning of the answer to a handshake that says exactly this, up to the end of a refusal. */
async function handshake(
  listener: Listener,
  target: string,
  headers: Readonly<Record<string, string>>,
): Promise<string> {
  const socket = rawClient(listener)
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
  socket.write(
    `GET ${target} HTTP/1.1\r\n${lines.join('')}Connection: Upgrade\r\nUpgrade: websocket\r\n` +
      'Sec-WebSocket-Version: 13\r\n' +
      'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n',
  )
  let answered = ''
  for await (const chunk of socket) {
    answered += String(chunk)
    if (answered.startsWith('HTTP/1.1 101 ')) break
  }
  return answered
}

/** The answer to a WebSocket handshake that is refused. */
async function refusal(
  url: string,
  protocols: string[],
  options: ClientOptions = {},
): Promise<[number, string]> {
  const webSocket = new WebSocket(url, protocols, options)
  clients.push(webSocket)
  webSocket.on('error', () => {})
  const [, response] = (await once(webSocket, 'unexpected-response')) as [unknown, IncomingMessage]
  return [response.statusCode!, await body(response)]
}

async function body(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of response) chunks.push(chunk)
  return Buffer.concat(chunks).toString()
}

describe.each(['ws', 'wss'] as const)('%s', (type) => {
  const options = (): Partial<ListenerOptions> => (type === 'wss' ? { type, tls: TLS } : { type })

  test('carries bytes both ways, one binary message per write', async () => {
    const listener = await listening(options())
    expect(listener.address).toBe(`${type}://127.0.0.1:${listener.port}/mqtt`)
    const webSocket = client(listener)
    const messages: [string, boolean][] = []
    webSocket.on('message', (data, binary) => messages.push([String(data), binary]))
    const recorded = await recorder.at(0)
    expect(recorded.link.info).toMatchObject({
      transport: type,
      listener: 'web',
      remoteAddress: '127.0.0.1',
      allowAnonymous: true,
      handshakeMs: expect.any(Number),
    })
    expect(recorded.link.info.handshakeMs).toBeGreaterThan(0)
    await once(webSocket, 'open')
    webSocket.send(Buffer.from('ping'))
    await recorded.until((link) => link.text === 'ping')
    recorded.link.write([Buffer.from('po'), Buffer.from('ng')], 4)
    recorded.link.write([Buffer.from('again')], 5)
    recorded.link.end()
    await closing(webSocket)
    expect(messages).toEqual([
      ['pong', true],
      ['again', true],
    ])
    await recorded.until((link) => link.closes.length > 0)
    expect(recorded.closes).toEqual([undefined])
    expect(recorded.link.flushedBytes).toBe(9)
  })

  test('is read into our memory', async () => {
    const attach = vi.spyOn(ReadBuffer.prototype, 'attach')
    await once(client(await listening(options())), 'open')
    expect(attach.mock.results.map(({ value }) => value)).toEqual([true])
  })

  test('is read by its data events if Node does not support that', async () => {
    vi.spyOn(ReadBuffer.prototype, 'attach').mockReturnValue(false)
    const webSocket = client(await listening(options()))
    await once(webSocket, 'open')
    const recorded = await recorder.at(0)
    recorded.link.pause()
    webSocket.send(Buffer.from('as '))
    webSocket.ping()
    await new Promise((resolve) => setImmediate(resolve))
    expect(recorded.text).toBe('')
    recorded.link.resume()
    webSocket.send(Buffer.from('usual'))
    await recorded.until((link) => link.text === 'as usual')
    webSocket.close()
    await recorded.until((link) => link.closes.length > 0)
    expect(recorded.closes).toEqual([undefined])
  })

  test('each long write is one message, and its progress is visible', async () => {
    const listener = await listening(options())
    const webSocket = client(listener, ['mqtt'], { maxPayload: 0 })
    await once(webSocket, 'open')
    webSocket.pause()
    const recorded = await recorder.at(0)
    const sizes: number[] = []
    const figures = new Set<number>()
    webSocket.on('message', (data: Buffer) => sizes.push(data.length))
    const large = Buffer.alloc(40_000_000, 'l')
    recorded.link.write([Buffer.from('h'), large], large.length + 1)
    recorded.link.write([Buffer.from('s')], 1)
    recorded.link.write([Buffer.from('a'), Buffer.from('b')], 2)
    expect(recorded.link.bufferedBytes).toBeGreaterThan(1_000_000)
    const watch = setInterval(() => figures.add(recorded.link.flushedBytes), 1)
    webSocket.resume()
    await recorded.until((link) => link.drains > 0)
    clearInterval(watch)
    expect(recorded.link.bufferedBytes).toBe(0)
    expect(figures.size).toBeGreaterThan(3)
    recorded.link.end()
    await closing(webSocket)
    expect(sizes).toEqual([large.length + 1, 1, 2])
  })
})

describe('the opening handshake', () => {
  test('[MQTT-6.0.0-4] [MQTT-6.0.0-4, 3.1.1] the subprotocol mqtt is chosen', async () => {
    const listener = await listening()
    for (const [offered, chosen] of [
      [['mqtt'], 'mqtt'],
      [['mqttv3.1'], 'mqttv3.1'],
      [['mqttv3.1', 'mqtt'], 'mqtt'],
      [['soap', 'mqttv3.1', 'mqtt'], 'mqtt'],
    ] as const) {
      const webSocket = client(listener, [...offered])
      await once(webSocket, 'open')
      expect(webSocket.protocol).toBe(chosen)
    }
  })

  test(
    '[MQTT-6.0.0-3] [MQTT-6.0.0-3, 3.1.1] ' + 'a client without a known subprotocol gets an error',
    async () => {
      const listener = await listening()
      for (const offered of [[], ['soap']]) {
        const [status, text] = await refusal(listener.address, offered)
        expect(status).toBe(400)
        expect(text).toContain('subprotocol "mqtt"')
      }
      expect(recorder.links.length).toBe(0)
      expect(refusals.length).toBe(2)
    },
  )

  test('another path is not found', async () => {
    const listener = await listening({ webSocketPath: '/broker' })
    expect(listener.address).toMatch(/\/broker$/)
    const [status, text] = await refusal(listener.address.replace('/broker', '/mqtt'), ['mqtt'])
    expect(status).toBe(404)
    expect(text).toContain('/broker')
    await once(client({ ...listener, address: `${listener.address}?token=1` }), 'open')
  })

  test('a page whose origin is not listed is refused', async () => {
    const listener = await listening({ allowedOrigins: ['https://example.org'] })
    expect((await refusal(listener.address, ['mqtt'], { origin: 'https://evil.example' }))[0]).toBe(403)
    await once(client(listener, ['mqtt'], { origin: 'https://example.org' }), 'open')
    await once(client(listener), 'open')
  })

  test.each([
    ['/mqtt/', '/mqtt'],
    ['//mqtt', '/mqtt'],
    ['/mqtt/?token=1', '/mqtt'],
    ['/mqtt', '/mqtt/'],
    ['ws://localhost/mqtt', '/mqtt'],
    ['http://localhost:8083/mqtt/?token=1', '/mqtt'],
    ['WSS://localhost', '/'],
  ])('the request target %s means the path %s [field-D25]', async (target, webSocketPath) => {
    const listener = await listening({ webSocketPath })
    expect(await handshake(listener, target, { host: 'localhost' })).toMatch(/^HTTP\/1\.1 101 /)
    expect(refusals).toEqual([])
  })

  test.each(['/', '/other', '/mqtt/more', '/MQTT', 'ws://localhost:1/other', '*'])(
    'the request target %s is answered with the right one, in page and log [field-D25]',
    async (target) => {
      const listener = await listening()
      const answered = await handshake(listener, target, { host: `localhost:${listener.port}` })
      const port = target.startsWith('ws:') ? 1 : listener.port
      expect(answered).toMatch(/^HTTP\/1\.1 404 /)
      expect(answered).toContain(`MQTT over WebSocket is at ws://localhost:${port}/mqtt`)
      expect(refusals.map(({ reason }) => reason)).toEqual([
        expect.stringMatching(/the path|no path/) as unknown,
      ])
      expect(refusals[0]!.reason).toContain(`ws://localhost:${port}/mqtt`)
    },
  )

  test('a plain GET gets a readable answer', async () => {
    const listener = await listening()
    const ask = async (path: string): Promise<[number, string]> => {
      const request = get({ host: '127.0.0.1', port: listener.port, path })
      const [response] = (await once(request, 'response')) as [IncomingMessage]
      return [response.statusCode!, await body(response)]
    }
    const [status, text] = await ask('/mqtt')
    expect(status).toBe(426)
    expect(text).toContain('WebSocket')
    expect((await ask('/'))[0]).toBe(404)
  })

  test.each([
    ['nothing', Buffer.alloc(0)],
    ['half a request', Buffer.from('GET /mqtt HTTP/1.1\r\nHost: x\r\n')],
  ])('a peer that sends %s is cut off after the connect time-out', async (_name, bytes) => {
    const listener = await listening({}, { ...LIMITS, connectTimeoutSeconds: 0.1 })
    const socket = rawClient(listener)
    socket.write(bytes)
    socket.resume()
    await closing(socket)
    expect(recorder.links.length).toBe(0)
  })

  test.each([
    ['a TLS ClientHello', Buffer.from([0x16, 0x03, 0x01, 0x00, 0x05, 1, 0, 0, 1, 3])],
    ['a CONNECT', Buffer.from([0x10, 0x0c, 0, 4, 0x4d, 0x51, 0x54, 0x54, 4, 2, 0, 60, 0, 0])],
    [
      'an upgrade of an unknown version',
      Buffer.from(
        'GET /mqtt HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
          'Sec-WebSocket-Version: 1\r\n' +
          'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n',
      ),
    ],
  ])('%s is refused and closed', async (_name, bytes) => {
    const listener = await listening()
    const socket = rawClient(listener)
    socket.write(bytes)
    socket.resume()
    await closing(socket)
    expect(recorder.links.length).toBe(0)
  })

  test('close cuts off unfinished handshakes and leaves open Links', async () => {
    const listener = await listening()
    const silent = rawClient(listener)
    silent.resume()
    await once(silent, 'connect')
    const webSocket = client(listener)
    const recorded = await recorder.at(0)
    if (webSocket.readyState !== WebSocket.OPEN) await once(webSocket, 'open')
    await Promise.all([closing(silent), listener.close()])
    webSocket.send(Buffer.from('still here'))
    await recorded.until((link) => link.text === 'still here')
  })
})

describe('a page that opens a WebSocket', () => {
  /** The status of the answer to a page of this origin. */
  async function asked(listener: Listener, origin: string | undefined, host: string): Promise<number> {
    const answered = await handshake(listener, '/mqtt', { host, ...(origin !== undefined && { origin }) })
    return Number(answered.split(' ')[1])
  }

  test('is refused if clients need no password, with the key that allows it [field-D22]', async () => {
    const listener = await listening()
    const host = `127.0.0.1:${listener.port}`
    const answered = await handshake(listener, '/mqtt', { host, origin: 'https://evil.example' })
    expect(answered).toMatch(/^HTTP\/1\.1 403 /)
    expect(answered).toContain('Pages of https://evil.example may not connect to this broker')
    expect(answered).toContain(`godwit --set 'allowed_origins=["https://evil.example"]'`)
    expect(refusals).toEqual([
      {
        peer: expect.objectContaining({ listener: 'web', remoteAddress: '127.0.0.1' }),
        reason: expect.stringMatching(/^pages of https:\/\/evil\.example .*: see allowed_origins$/),
        limit: 'allowedOrigins',
      },
    ])
    expect(recorder.links.length).toBe(0)
    // Its own origin, and programs that are no browsers.
    expect(await asked(listener, `http://${host}`, host)).toBe(101)
    expect(await asked(listener, undefined, host)).toBe(101)
  })

  test('is accepted from anywhere if clients need a password [field-D22]', async () => {
    const listener = await listening({ allowAnonymous: false })
    expect(await asked(listener, 'https://anywhere.example', 'broker.example')).toBe(101)
    expect(await asked(listener, 'null', 'broker.example')).toBe(101)
  })

  test('is accepted while users exist, which end anonymous access [field-D22]', async () => {
    let hasUsers = false
    const sockets = new SocketLimit(Number.POSITIVE_INFINITY)
    const options = {
      name: 'web',
      type: 'ws',
      port: 0,
      allowAnonymous: true,
      anonymousUnlessUsers: true,
    } as const
    const room = { sockets, refused: () => {}, hasUsers: () => hasUsers }
    const listener = await listen(options, recorder, LIMITS, () => {}, room)
    open.push(listener)
    const host = `localhost:${listener.port}`
    expect(await asked(listener, 'http://page.example', host)).toBe(403)
    hasUsers = true
    expect(await asked(listener, 'http://page.example', host)).toBe(101)
    hasUsers = false
    expect(await asked(listener, 'http://page.example', host)).toBe(403)
    // A reload applies to new connections.
    listener.reconfigure({ ...options, allowedOrigins: ['http://page.example'] })
    expect(await asked(listener, 'http://page.example', host)).toBe(101)
    listener.reconfigure({ ...options, allowAnonymous: false, anonymousUnlessUsers: false })
    expect(await asked(listener, 'http://other.example', host)).toBe(101)
  })

  test('with a name that was made to point here is refused (DNS rebinding) [field-D22]', async () => {
    const listener = await listening()
    const { port } = listener
    expect(await asked(listener, `http://evil.example:${port}`, `evil.example:${port}`)).toBe(403)
    expect(await asked(listener, undefined, `evil.example:${port}`)).toBe(403)
    expect(refusals[0]!.reason).toContain("'evil.example' is not a known name of this broker")
    // The absolute form names the host that counts (RFC 9112 section 3.2.2).
    const target = `http://evil.example:${port}/mqtt`
    expect(await handshake(listener, target, { host: `localhost:${port}` })).toMatch(/ 403 /)
  })
})

describe('frames that come with the request of the handshake', () => {
  const REQUEST =
    'GET /mqtt HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
    'Sec-WebSocket-Version: 13\r\n' +
    'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n'
  const FRAME = Buffer.from([0x82, 0x82, 0, 0, 0, 0, 0x68, 0x69])

  test.each([true, false])('are read before later input (our memory: %s)', async (attached) => {
    if (!attached) vi.spyOn(ReadBuffer.prototype, 'attach').mockReturnValue(false)
    const socket = rawClient(await listening())
    socket.write(Buffer.concat([Buffer.from(REQUEST), FRAME, FRAME.subarray(0, 3)]))
    const recorded = await recorder.at(0)
    await recorded.until((link) => link.text === 'hi')
    socket.write(Buffer.concat([FRAME.subarray(3), FRAME]))
    await recorded.until((link) => link.text === 'hihihi')
  })

  test.each([true, false])('can pause the Link (our memory: %s)', async (attached) => {
    if (!attached) vi.spyOn(ReadBuffer.prototype, 'attach').mockReturnValue(false)
    const listener = await listening()
    recorder.onLink = (recorded) => {
      recorded.onReceived = () => recorded.link.pause()
    }
    const socket = rawClient(listener)
    socket.write(Buffer.concat([Buffer.from(REQUEST), FRAME]))
    const recorded = await recorder.at(0)
    await recorded.until((link) => link.text === 'hi')
    socket.write(FRAME)
    // Another connection's round trip: what would be read by now was read.
    const other = client(listener)
    await once(other, 'open')
    other.ping()
    await once(other, 'pong')
    expect(recorded.text).toBe('hi')
    recorded.link.resume()
    await recorded.until((link) => link.text === 'hihi')
  })
})

describe('an open WebSocket', () => {
  const opened = async (limits = LIMITS) => {
    const listener = await listening({}, limits)
    const webSocket = client(listener)
    await once(webSocket, 'open')
    return { webSocket, recorded: await recorder.at(0) }
  }

  test('[MQTT-6.0.0-1] [MQTT-6.0.0-1, 3.1.1] a text frame closes the connection with 1003', async () => {
    const { webSocket, recorded } = await opened()
    webSocket.send('text')
    const [code] = await closing(webSocket)
    expect(code).toBe(1003)
    await recorded.until((link) => link.closes.length > 0)
    expect(recorded.closes[0]?.message).toContain('text frame')
    expect(recorded.receivedBytes).toBe(0)
  })

  test('[MQTT-6.0.0-2] [MQTT-6.0.0-2, 3.1.1] packets may be spread over frames and fragments', async () => {
    const { webSocket, recorded } = await opened()
    webSocket.send(Buffer.from('one '), { fin: false })
    webSocket.send(Buffer.from('two '), { fin: true })
    webSocket.send(Buffer.alloc(0))
    webSocket.send(Buffer.from('three'))
    await recorded.until((link) => link.text === 'one two three')
  })

  test('a frame of 60 MB is passed on as it arrives, and pausing inside it stops the publisher', async () => {
    const { webSocket, recorded } = await opened()
    recorded.keep = false
    recorded.onReceived = () => {
      if (recorded.receivedBytes < 1_000_000) return
      recorded.onReceived = () => {}
      recorded.link.pause()
    }
    webSocket.send(Buffer.alloc(60_000_000))
    await recorded.until((link) => link.receivedBytes >= 1_000_000)
    for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve))
    expect(recorded.receivedBytes).toBeLessThan(1_200_000)
    recorded.link.resume()
    await recorded.until((link) => link.receivedBytes === 60_000_000)
  })

  test('a broken frame ends the connection and nothing else', async () => {
    const listener = await listening()
    const socket = rawClient(listener)
    socket.write(
      'GET /mqtt HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
        'Sec-WebSocket-Version: 13\r\n' +
        'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n',
    )
    const recorded = await recorder.at(0)
    socket.resume()
    socket.write(Buffer.from([0x82, 0x01, 0x41])) // not masked
    await recorded.until((link) => link.closes.length > 0)
    expect(recorded.closes[0]).toBeInstanceOf(Error)
  })

  test('pause stops the publisher in bounded memory until resume', async () => {
    const { webSocket, recorded } = await opened()
    recorded.keep = false
    recorded.link.pause()
    const count = 1000
    for (let i = 0; i < count; i++) webSocket.send(Buffer.alloc(60_000))
    // The paused side leaves its input with the publisher, so no answer to a ping comes back either.
    await new Promise((resolve) => setImmediate(resolve))
    expect(webSocket.bufferedAmount).toBeGreaterThan(30_000_000)
    expect(recorded.receivedBytes).toBe(0)
    recorded.onReceived = () => {
      recorded.link.pause()
      setImmediate(() => recorded.link.resume())
    }
    recorded.link.resume()
    await recorded.until((link) => link.receivedBytes === count * 60_000)
  })

  test('pings are answered, but not of a peer that reads nothing', async () => {
    const { webSocket, recorded } = await opened()
    webSocket.ping('hello')
    expect(String((await once(webSocket, 'pong'))[0])).toBe('hello')
    webSocket.pause()
    recorded.link.write([Buffer.alloc(32_000_000)], 32_000_000)
    const before = recorded.link.bufferedBytes
    for (let i = 0; i < 10_000; i++) webSocket.ping(Buffer.alloc(125))
    webSocket.send(Buffer.from('after the pings'))
    await recorded.until((link) => link.text === 'after the pings')
    let pongs = 0
    webSocket.on('pong', () => pongs++)
    webSocket.resume()
    await recorded.until((link) => link.drains > 0)
    expect(before).toBeGreaterThan(1_000_000)
    webSocket.ping('last')
    while (String((await once(webSocket, 'pong'))[0]) !== 'last');
    expect(pongs).toBeLessThan(10_000)
  })

  test('end cuts off a peer that never reads', async () => {
    const { webSocket, recorded } = await opened()
    webSocket.pause()
    recorded.link.write([Buffer.alloc(32_000_000)], 32_000_000)
    recorded.link.end()
    await recorded.until((link) => link.closes.length > 0)
    expect(recorded.closes.length).toBe(1)
  })

  test('destroy closes at once and is reported once', async () => {
    const { webSocket, recorded } = await opened()
    const gone = closing(webSocket)
    webSocket.send(Buffer.from('a'))
    recorded.link.destroy()
    recorded.link.destroy()
    recorded.link.write([Buffer.from('x')], 1)
    recorded.link.pause()
    recorded.link.end()
    await recorded.until((link) => link.closes.length > 0)
    await gone
    expect(recorded.closes.length).toBe(1)
    expect(recorded.callsAfterClose).toBe(0)
    expect(recorded.receivedBytes).toBe(0)
  })

  test('a client that closes or vanishes ends the Link cleanly', async () => {
    const first = await opened()
    first.webSocket.close()
    await first.recorded.until((link) => link.closes.length > 0)
    expect(first.recorded.closes).toEqual([undefined])
    const webSocket = client(open[0]!)
    await once(webSocket, 'open')
    const second = await recorder.at(1)
    webSocket.terminate()
    await second.until((link) => link.closes.length > 0)
  })

  test('a connection that the Server refuses is closed', async () => {
    const listener = await listening()
    recorder.refusing = true
    await closing(client(listener))
  })
})
