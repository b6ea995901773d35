import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from 'node:tls'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import type { LinkInfo } from '../../../src/broker/boundary/link.ts'
import { listen } from '../../../src/transport/listen.ts'
import type { Listener, ListenerOptions } from '../../../src/transport/listener/listener.ts'
import { ReadBuffer } from '../../../src/transport/sockets/read-buffer.ts'
import type { TlsOptions } from '../../../src/transport/tls/tls.ts'
import { closing, Recorder } from '../recorder.ts'

const LIMITS = { connectTimeoutSeconds: 10 }

const fixture = (name: string) => new URL(`../../fixtures/tls/${name}`, import.meta.url).pathname
const read = (name: string) => readFileSync(fixture(name), 'utf8')
const SERVER: TlsOptions = { cert: fixture('server.pem'), key: fixture('server-key.pem') }

let recorder: Recorder
let refusals: { peer: LinkInfo; reason: string }[]
let open: Listener[]
let sockets: { destroy(): void }[]

beforeEach(() => {
  recorder = new Recorder()
  refusals = []
  open = []
  sockets = []
})

afterEach(async () => {
  vi.restoreAllMocks()
  for (const socket of sockets) socket.destroy()
  for (const { link } of recorder.links) link.destroy()
  await Promise.all(open.map((listener) => listener.close()))
})

async function listening(tls: TlsOptions = SERVER, limits = LIMITS): Promise<Listener> {
  const options: ListenerOptions = { name: 'secure', type: 'tls', port: 0, tls, allowAnonymous: false }
  const listener = await listen(options, recorder, limits, (peer, reason) => refusals.push({ peer, reason }))
  open.push(listener)
  return listener
}

function client(listener: Listener, options: ConnectionOptions = {}): TLSSocket {
  const socket = connectTls({ host: '127.0.0.1', port: listener.port, ca: read('ca.pem'), ...options })
  socket.on('error', () => {})
  sockets.push(socket)
  return socket
}

describe('a TLS listener', () => {
  test('carries bytes both ways', async () => {
    const listener = await listening()
    expect(listener.address).toBe(`mqtts://127.0.0.1:${listener.port}`)
    const socket = client(listener)
    const recorded = await recorder.at(0)
    expect(recorded.link.info).toMatchObject({
      transport: 'tls',
      listener: 'secure',
      remoteAddress: '127.0.0.1',
    })
    expect(recorded.link.info.certificate?.subjectCommonName).toBeUndefined()
    socket.write('ping')
    await recorded.until((link) => link.text === 'ping')
    recorded.link.write([Buffer.from('po'), Buffer.from('ng')], 4)
    expect(String((await once(socket, 'data'))[0])).toBe('pong')
  })

  test('reads into our memory', async () => {
    const attach = vi.spyOn(ReadBuffer.prototype, 'attach')
    client(await listening())
    await recorder.at(0)
    expect(attach.mock.results.map(({ value }) => value)).toEqual([true])
  })

  test.each([true, false])(
    'pauses a publisher in bounded memory and reads to the end (our memory: %s)',
    async (attached) => {
      if (!attached) vi.spyOn(ReadBuffer.prototype, 'attach').mockReturnValue(false)
      const listener = await listening()
      recorder.onLink = (recorded) => {
        recorded.onReceived = () => recorded.link.pause()
      }
      const socket = client(listener)
      const sent = Buffer.alloc(20_000_000, Buffer.from(Array.from({ length: 251 }, (_, byte) => byte)))
      socket.end(sent)
      const recorded = await recorder.at(0)
      await recorded.until((link) => link.receivedBytes > 0)
      // Other connections' handshakes: what would be read by now was read.
      for (let index = 1; index < 4; index++) {
        client(listener)
        await recorder.at(index)
      }
      expect(recorded.receivedBytes).toBeLessThan(1_000_000)
      recorded.onReceived = () => {}
      recorded.link.resume()
      await recorded.until((link) => link.closes.length > 0)
      expect(Buffer.concat(recorded.chunks).equals(sent)).toBe(true)
    },
  )

  test('large and many small writes arrive whole before the end', async () => {
    const listener = await listening()
    const socket = client(listener).pause()
    const recorded = await recorder.at(0)
    const expected: Buffer[] = []
    for (let i = 0; i < 3000; i++) {
      const chunks = [Buffer.alloc(i % 50 === 0 ? 300_000 : 200, `${i}-`), Buffer.alloc(100, `${i}+`)]
      expected.push(...chunks)
      recorded.link.write(chunks, chunks[0]!.length + 100)
    }
    expect(recorded.link.bufferedBytes).toBeGreaterThan(0)
    recorded.link.end()
    const got: Buffer[] = []
    socket.on('data', (chunk) => got.push(chunk))
    socket.resume()
    await closing(socket)
    expect(Buffer.concat(got).equals(Buffer.concat(expected))).toBe(true)
    await recorded.until((link) => link.closes.length > 0)
    expect(recorded.closes).toEqual([undefined])
  })

  test('end cuts off a peer that never reads', async () => {
    const listener = await listening()
    client(listener).pause()
    const recorded = await recorder.at(0)
    recorded.link.write([Buffer.alloc(64_000_000)], 64_000_000)
    recorded.link.end()
    await recorded.until((link) => link.closes.length > 0)
  })

  test('only a verified client certificate has its Common Name reported', async () => {
    const listener = await listening({ ...SERVER, ca: fixture('ca.pem'), clientCertificate: 'request' })
    client(listener, { cert: read('client.pem'), key: read('client-key.pem') })
    expect((await recorder.at(0)).link.info.certificate?.subjectCommonName).toBe('device-7')
    client(listener, { cert: read('stranger.pem'), key: read('stranger-key.pem') })
    expect((await recorder.at(1)).link.info.certificate?.subjectCommonName).toBeUndefined()
    client(listener)
    expect((await recorder.at(2)).link.info.certificate?.subjectCommonName).toBeUndefined()
  })

  test('a required client certificate keeps out clients without one', async () => {
    const listener = await listening({ ...SERVER, ca: fixture('ca.pem'), clientCertificate: 'require' })
    const stranger = { cert: read('stranger.pem'), key: read('stranger-key.pem') }
    for (const [index, [options, why]] of [
      [{}, /^a client certificate is required$/],
      [stranger, /^the client certificate CN=.+, issued by .+: .*tls\.ca \([A-Z_]+\)$/],
    ].entries() as ArrayIterator<[number, [ConnectionOptions, RegExp]]>) {
      client(listener, options)
      // They become a Link, so that CONNACK can say why: see `client-certificates.test.ts`.
      const { info } = (await recorder.at(index)).link
      expect(info.certificate).toBeUndefined()
      expect(info.certificateRefusal).toMatch(why)
    }
    client(listener, { cert: read('client.pem'), key: read('client-key.pem') })
    const { info } = (await recorder.at(2)).link
    expect(info.certificate?.subjectCommonName).toBe('device-7')
    expect(info.certificateRefusal).toBeUndefined()
  })

  test('client certificates without tls.ca are refused: every web site has one', async () => {
    for (const clientCertificate of ['request', 'require'] as const) {
      await expect(listening({ ...SERVER, clientCertificate }), clientCertificate).rejects.toMatchObject({
        key: 'tls.ca',
        message: expect.stringContaining('no authority for them is named'),
      })
    }
  })

  test('plain text is refused and reported', async () => {
    const listener = await listening()
    const socket = connect(listener.port, '127.0.0.1')
    sockets.push(socket)
    socket.on('error', () => {})
    socket.write(Buffer.from([0x10, 0x0c, 0, 4, 0x4d, 0x51, 0x54, 0x54, 4, 2, 0, 60, 0, 0]))
    socket.resume()
    await closing(socket)
    expect(recorder.links.length).toBe(0)
    expect(refusals.length).toBe(1)
    expect(refusals[0]).toMatchObject({
      peer: { listener: 'secure' },
      reason: expect.stringMatching(/^TLS handshake/),
    })
  })

  test('TLS 1.1 is refused', async () => {
    const listener = await listening()
    const socket = client(listener, {
      minVersion: 'TLSv1',
      maxVersion: 'TLSv1.1',
      ciphers: 'DEFAULT@SECLEVEL=0',
    })
    await closing(socket)
    expect(recorder.links.length).toBe(0)
  })

  test('a peer that says nothing is cut off after the connect time-out', async () => {
    const listener = await listening(SERVER, { ...LIMITS, connectTimeoutSeconds: 0.1 })
    const socket = connect(listener.port, '127.0.0.1')
    sockets.push(socket)
    socket.resume()
    await closing(socket)
    expect(refusals.length).toBeGreaterThan(0)
    expect(recorder.links.length).toBe(0)
  })

  test('a Link knows how long its handshake took', async () => {
    const listener = await listening()
    const began = performance.now()
    const raw = connect(listener.port, '127.0.0.1')
    await once(raw, 'connect')
    // The handshake begins only now.
    await new Promise((resolve) => setTimeout(resolve, 60))
    client(listener, { socket: raw })
    const { info } = (await recorder.at(0)).link
    expect(info.handshakeMs).toBeGreaterThan(20)
    expect(info.handshakeMs).toBeLessThanOrEqual(performance.now() - began)
  })

  test('a Link outlives the connect time-out', async () => {
    const listener = await listening(SERVER, { ...LIMITS, connectTimeoutSeconds: 0.2 })
    const socket = client(listener)
    const recorded = await recorder.at(0)
    // The one that says nothing goes; by then the first one's time-out has passed as well.
    const silent = connect(listener.port, '127.0.0.1')
    sockets.push(silent)
    silent.resume()
    await closing(silent)
    socket.write('alive')
    await recorded.until((link) => link.text === 'alive')
  })

  test('close cuts off unfinished handshakes', async () => {
    const listener = await listening()
    const socket = connect(listener.port, '127.0.0.1')
    sockets.push(socket)
    socket.on('error', () => {})
    await once(socket, 'connect')
    // A second connection that completes shows that the first was accepted.
    client(listener)
    await recorder.at(0)
    await listener.close()
    socket.resume()
    await closing(socket)
  })

  test('problems of certificates are explained', async () => {
    await expect(listening({ ...SERVER, cert: '/nowhere/cert.pem' })).rejects.toThrow(
      "listener 'secure': tls.cert: cannot read /nowhere/cert.pem: ENOENT",
    )
    await expect(listening({ ...SERVER, key: fixture('client-key.pem') })).rejects.toThrow(
      /cannot be used.*mismatch/i,
    )
    await expect(listening({ ...SERVER, key: fixture('README.md') })).rejects.toThrow(/cannot be used/)
    await expect(
      listen({ name: 'bare', type: 'tls', port: 0, allowAnonymous: true }, recorder, LIMITS),
    ).rejects.toThrow("listener 'bare': TLS needs a certificate and a key")
  })

  test('PEM text serves as well as a path', async () => {
    const listener = await listening({ cert: read('server.pem'), key: read('server-key.pem') })
    client(listener)
    await recorder.at(0)
  })
})
