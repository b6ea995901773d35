import { readFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { connect as connectTls } from 'node:tls'
import { afterEach, describe, expect, test } from 'vitest'
import type { LinkInfo } from '../../../src/broker/boundary/link.ts'
import { printable } from '../../../src/observe/printable.ts'
import { listen } from '../../../src/transport/listen.ts'
import type { Listener } from '../../../src/transport/listener/listener.ts'
import { handshakeFailure } from '../../../src/transport/tls/handshake-error.ts'

const FIXTURES = join(import.meta.dirname, '..', '..', 'fixtures', 'tls')

let open: Listener | null = null

afterEach(async () => {
  await open?.close()
  open = null
})

/** Listens; returns where, and what is told of connections that never became one. */
async function listening(type: 'tls' | 'wss'): Promise<{ port: number; told: [LinkInfo, string][] }> {
  const told: [LinkInfo, string][] = []
  const tls = {
    cert: join(FIXTURES, 'server.pem'),
    key: readFileSync(join(FIXTURES, 'server-key.pem'), 'utf8'),
  }
  const options = { name: type, type, host: '127.0.0.1', port: 0, allowAnonymous: true, tls }
  const acceptor = { accept: () => null }
  open = await listen(options, acceptor, { connectTimeoutSeconds: 10 }, (link, reason) =>
    told.push([link, reason]),
  )
  return { port: open.port, told }
}

/** Connects, sends these bytes, and leaves once the listener knows that it is there. */
async function stranger(port: number, bytes: string, leave: (socket: Socket) => void): Promise<void> {
  const socket = connect(port, '127.0.0.1')
  socket.on('error', () => {})
  await new Promise<void>((resolve) => socket.once('connect', () => resolve()))
  if (bytes !== '') await new Promise<void>((resolve) => socket.write(bytes, () => resolve()))
  leave(socket)
}

describe.each(['tls', 'wss'] as const)('a TLS handshake that fails, %s', (type) => {
  test.each([
    ['leaves without a word', '', 'the client left before it was complete'],
    ['speaks HTTP', 'GET / HTTP/1.1\r\nHost: a\r\n\r\n', 'the client speaks HTTP without TLS'],
    [
      'speaks MQTT without TLS',
      '\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01a',
      'the client does not speak TLS',
    ],
  ])('is logged with the address and a readable cause: one that %s [field-D24]', async (_, bytes, cause) => {
    const { port, told } = await listening(type)
    await stranger(port, bytes, (socket) => socket.end())
    await expect.poll(() => told.length).toBe(1)
    const [[link, reason] = []] = told
    expect([link?.remoteAddress, reason]).toEqual(['127.0.0.1', expect.stringContaining(cause)])
    expect(printable(reason!)).not.toMatch(/\\u|routines|\.c:/)
  })

  test('names what client and listener lack in common [field-D24]', async () => {
    const { port, told } = await listening(type)
    const old = {
      port,
      host: '127.0.0.1',
      rejectUnauthorized: false,
      minVersion: 'TLSv1',
      maxVersion: 'TLSv1.1',
    } as const
    connectTls({ ...old, ciphers: 'DEFAULT@SECLEVEL=0' }).on('error', () => {})
    await expect.poll(() => told.length).toBe(1)
    expect(told[0]![1]).toContain('tls.minimum_version')
    expect(told[0]![0].remoteAddress).toBe('127.0.0.1')
  })
})

test('an unknown error is logged in OpenSSL’s words, without its numbers and file names [field-D24]', () => {
  const error = Object.assign(
    new Error(
      '807C0962657F0000:error:0A00012D:SSL routines:tls_x:some new fault:../deps/openssl/ssl/x.c:1456:\n',
    ),
    { code: 'ERR_SSL_SOME_NEW_FAULT' },
  )
  expect(handshakeFailure(error)).toBe('TLS handshake: some new fault')
  expect(handshakeFailure(new Error('plain\n'))).toBe('TLS handshake: plain')
})
