import { once } from 'node:events'
import { chmodSync, mkdtempSync, renameSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { listen } from '../../../src/transport/listen.ts'
import type { Listener } from '../../../src/transport/listener/listener.ts'
import { alternativeNames } from '../../../src/transport/tls/client-certificate.ts'
import type { TlsOptions } from '../../../src/transport/tls/tls.ts'
import { Recorder } from '../recorder.ts'
import { Authority, DAY_MS } from './authority.ts'

let directory: string
let authority: Authority
let recorder: Recorder
let listeners: Listener[]
let sockets: TLSSocket[]

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'godwit-'))
  authority = await Authority.create()
  recorder = new Recorder()
  listeners = []
  sockets = []
  await serve()
})

afterEach(async () => {
  for (const socket of sockets) socket.destroy()
  for (const { link } of recorder.links) link.destroy()
  await Promise.all(listeners.map((listener) => listener.close()))
  rmSync(directory, { recursive: true, force: true })
})

const path = (name: string): string => join(directory, name)

/** Puts a file in the place of another, as careful programs do. */
function put(name: string, text: string, mode = 0o600): void {
  writeFileSync(path(`${name}.new`), text, { mode })
  renameSync(path(`${name}.new`), path(name))
}

/** A new certificate and key in the files. */
async function serve(by = authority, nowMs = Date.now()): Promise<void> {
  const { certificate, key } = await by.server(nowMs)
  put('server.crt', certificate)
  put('server.key', key)
}

async function listening(more: Partial<TlsOptions> = {}, type: 'tls' | 'wss' = 'tls'): Promise<Listener> {
  const tls = { cert: path('server.crt'), key: path('server.key'), ...more }
  const options = { name: 'secure', type, port: 0, tls, allowAnonymous: false } as const
  const listener = await listen(options, recorder, { connectTimeoutSeconds: 10 })
  listeners.push(listener)
  return listener
}

/** The serial number of what is served to a new connection. */
async function client(listener: Listener, options: ConnectionOptions = {}): Promise<TLSSocket> {
  const ca = authority.issued.certificate
  const socket = connect({ host: '127.0.0.1', port: listener.port, ca, ...options })
  sockets.push(socket)
  await once(socket, 'secureConnect')
  return socket
}

const served = (socket: TLSSocket): string => socket.getPeerCertificate().serialNumber

/** As often as it takes for a change to be judged. */
async function looked(listener: Listener, nowMs = Date.now()) {
  const first = await listener.certificates!.check(nowMs)
  return first ?? (await listener.certificates!.check(nowMs))
}

describe('replaced certificates', () => {
  for (const type of ['tls', 'wss'] as const) {
    test(`${type}: new ones are served to new connections, and old connections go on`, async () => {
      const listener = await listening({}, type)
      expect(await looked(listener)).toBeNull()
      const old = await client(listener)
      await serve()
      expect(await looked(listener)).toEqual({ change: 'swapped' })
      expect(await looked(listener)).toBeNull()
      const young = await client(listener)
      expect(served(young)).not.toBe(served(old))
      expect(old.destroyed).toBe(false)
      if (type === 'wss') return
      old.write('still here')
      await (await recorder.at(0)).until((link) => link.text === 'still here')
    })
  }

  test('two files are judged only when both are there', async () => {
    const listener = await listening()
    await looked(listener)
    const { certificate, key } = await authority.server()
    put('server.key', key)
    expect(await listener.certificates!.check(Date.now())).toBeNull()
    put('server.crt', certificate)
    expect(await listener.certificates!.check(Date.now())).toBeNull()
    expect(await listener.certificates!.check(Date.now())).toEqual({ change: 'swapped' })
  })

  test('the target of a link is watched', async () => {
    const one = await authority.server()
    const other = await authority.server()
    for (const [name, { certificate, key }] of Object.entries({ one, other })) {
      writeFileSync(path(`${name}.crt`), certificate)
      writeFileSync(path(`${name}.key`), key, { mode: 0o600 })
    }
    const point = (name: string): void => {
      for (const kind of ['crt', 'key']) {
        unlinkSync(path(`server.${kind}`))
        symlinkSync(`${name}.${kind}`, path(`server.${kind}`))
      }
    }
    point('one')
    const listener = await listening()
    await looked(listener)
    const before = served(await client(listener))
    point('other')
    expect(await looked(listener)).toEqual({ change: 'swapped' })
    expect(served(await client(listener))).not.toBe(before)
  })

  test.each([
    [
      'that do not belong together',
      async () => put('server.key', (await authority.server()).key),
      /mismatch/,
    ],
    ['that are no certificates', async () => put('server.crt', 'nothing'), /cannot be used/],
    ['that are gone', async () => renameSync(path('server.crt'), path('elsewhere')), /cannot read .*ENOENT/],
    ['that have expired', async () => serve(authority, Date.now() - 400 * DAY_MS), /not valid at this time/],
    ['that hold later', async () => serve(authority, Date.now() + 3 * DAY_MS), /not valid at this time/],
    ['whose key others may read', async () => chmodSync(path('server.key'), 0o644), /mode 644/],
  ])('those %s are not served: the old ones stay, which is reported once', async (_, spoil, problem) => {
    const listener = await listening()
    await looked(listener)
    const before = served(await client(listener))
    await spoil()
    const news = await looked(listener)
    expect(news).toMatchObject({ change: 'kept', problem: expect.stringMatching(problem) })
    expect(await looked(listener)).toBeNull()
    expect(served(await client(listener))).toBe(before)
    await serve()
    expect(await looked(listener)).toEqual({ change: 'swapped' })
    expect(served(await client(listener))).not.toBe(before)
  })

  test('have the earliest end in the chain', async () => {
    const listener = await listening()
    const days = (listener.certificates!.times.validTo - Date.now()) / DAY_MS
    expect(days).toBeGreaterThan(395)
    expect(days).toBeLessThan(397)
  })
})

describe('the key', () => {
  test('a key that others can read is refused with the command that helps', async () => {
    chmodSync(path('server.key'), 0o604)
    await expect(listening()).rejects.toMatchObject({
      message: expect.stringContaining('every user of this machine has access to'),
      advice: `Run: chmod 600 ${path('server.key')}`,
    })
    chmodSync(path('server.key'), 0o640)
    await listening()
  })
})

describe('TLS sessions', () => {
  /** A connection that has been given a session, and that session. */
  async function session(listener: Listener, options: ConnectionOptions): Promise<Buffer> {
    const socket = await client(listener, options)
    const [found] = (
      socket.getProtocol() === 'TLSv1.3' ? await once(socket, 'session') : [socket.getSession()]
    ) as [Buffer]
    socket.destroy()
    return found
  }

  test('one file may hold several revocation lists', async () => {
    const other = await Authority.create('Others')
    const revoked = await other.client('device-9')
    put('crl.pem', `${await authority.crl()}\n${await other.crl(revoked)}\n`)
    put('ca.pem', `${authority.issued.certificate}${other.issued.certificate}`)
    const tls = { ca: path('ca.pem'), crl: path('crl.pem'), clientCertificate: 'request' } as const
    const listener = await listening(tls)
    const good = await authority.client('device-7')
    await client(listener, { cert: good.certificate, key: good.key })
    expect((await recorder.at(0)).link.info.certificate?.subjectCommonName).toBe('device-7')
    await client(listener, { cert: revoked.certificate, key: revoked.key })
    expect((await recorder.at(1)).link.info.certificateRefusal).toMatch(/CERT_REVOKED/)
  })

  test('a new authority replaces the old one: only its clients are accepted', async () => {
    const other = await Authority.create('Others')
    put('ca.pem', authority.issued.certificate)
    const listener = await listening({ ca: path('ca.pem'), clientCertificate: 'request' })
    const [old, young] = [await authority.client('old'), await other.client('young')]
    const shownOld = { cert: old.certificate, key: old.key }
    const ticket = await session(listener, shownOld)
    put('ca.pem', other.issued.certificate)
    expect(await looked(listener)).toEqual({ change: 'swapped' })
    await client(listener, { ...shownOld, session: ticket })
    expect((await recorder.at(1)).link.info.certificateRefusal).toMatch(/UNABLE_TO|SELF_SIGNED/)
    await client(listener, { cert: young.certificate, key: young.key })
    expect((await recorder.at(2)).link.info.certificate?.subjectCommonName).toBe('young')
    const whole = other.issued.certificate
    for (const bad of [
      'nonsense',
      '',
      whole.slice(0, 300),
      whole + whole.slice(0, 300),
      whole.replace('MII', 'AAA'),
    ]) {
      put('ca.pem', bad)
      expect(await looked(listener)).toMatchObject({ change: 'kept' })
    }
    await client(listener, { cert: young.certificate, key: young.key })
    expect((await recorder.at(3)).link.info.certificate?.subjectCommonName).toBe('young')
  })

  for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
    const versions = { maxVersion, minVersion: maxVersion }

    test(`${maxVersion}: are resumed, with the client's certificate`, async () => {
      const listener = await listening({ ca: authority.issued.certificate, clientCertificate: 'require' })
      const { certificate: cert, key } = await authority.client('device-7')
      const ticket = await session(listener, { ...versions, cert, key })
      const socket = await client(listener, { ...versions, cert, key, session: ticket })
      expect(socket.isSessionReused()).toBe(true)
      const { info } = (await recorder.at(1)).link
      expect(info.certificate).toMatchObject({
        subjectCommonName: 'device-7',
        subjectAltNames: ['DNS:device-7.example.org', 'URI:urn:device:device-7'],
        fingerprint256: expect.stringMatching(/^([0-9A-F]{2}:){31}[0-9A-F]{2}$/),
      })
      expect(info.certificateRefusal).toBeUndefined()
    })

    test(`${maxVersion}: of a certificate revoked since then is refused`, async () => {
      put('crl.pem', await authority.crl())
      const tls = {
        ca: authority.issued.certificate,
        crl: path('crl.pem'),
        clientCertificate: 'request',
      } as const
      const listener = await listening(tls)
      await looked(listener)
      const device = await authority.client('device-7')
      const other = await authority.client('device-8')
      const shown = { ...versions, cert: device.certificate, key: device.key }
      const ticket = await session(listener, shown)
      expect((await recorder.at(0)).link.info.certificate?.subjectCommonName).toBe('device-7')
      put('crl.pem', await authority.crl(device))
      expect(await looked(listener)).toEqual({ change: 'swapped' })
      const socket = await client(listener, { ...shown, session: ticket })
      expect(socket.isSessionReused()).toBe(false)
      const { info } = (await recorder.at(1)).link
      expect(info.certificate).toBeUndefined()
      expect(info.certificateRefusal).toMatch(/CERT_REVOKED/)
      // Its session, which began after that, is as refused as itself.
      const second = await session(listener, shown)
      await client(listener, { ...shown, session: second })
      expect((await recorder.at(3)).link.info.certificateRefusal).toMatch(/CERT_REVOKED/)
      await client(listener, { ...versions, cert: other.certificate, key: other.key })
      expect((await recorder.at(4)).link.info.certificate?.subjectCommonName).toBe('device-8')
    })

    test(`${maxVersion}: of a certificate that has expired since is refused`, async () => {
      const listener = await listening({ ca: authority.issued.certificate, clientCertificate: 'require' })
      const { certificate: cert, key } = await authority.client('device-7', { to: Date.now() + 2000 })
      const shown = { ...versions, cert, key }
      const ticket = await session(listener, shown)
      const { info: before } = (await recorder.at(0)).link
      expect(before.certificateRefusal).toBeUndefined()
      // A certificate's times are whole seconds.
      await new Promise((resolve) => setTimeout(resolve, 2100))
      const socket = await client(listener, { ...shown, session: ticket })
      expect(socket.isSessionReused()).toBe(true)
      expect((await recorder.at(1)).link.info.certificateRefusal).toMatch(/it expired on/)
    })

    test(`${maxVersion}: that began without a certificate do not help where one is required`, async () => {
      const listener = await listening({ ca: authority.issued.certificate, clientCertificate: 'request' })
      const ticket = await session(listener, versions)
      // The same listener, and so the same keys for tickets, now asks for more.
      listener.reconfigure({
        name: 'secure',
        type: 'tls',
        allowAnonymous: false,
        tls: { cert: path('server.crt'), key: path('server.key'), clientCertificate: 'require' },
      })
      const socket = await client(listener, { ...versions, session: ticket })
      expect(socket.isSessionReused()).toBe(true)
      expect((await recorder.at(1)).link.info.certificateRefusal).toBe('a client certificate is required')
    })
  }
})

test('misleading names of a certificate are kept apart', () => {
  expect(alternativeNames('DNS:a.example.org, IP Address:127.0.0.1')).toEqual([
    'DNS:a.example.org',
    'IP Address:127.0.0.1',
  ])
  expect(alternativeNames('DNS:"a, DNS:admin", URI:urn:x')).toEqual(['DNS:a, DNS:admin', 'URI:urn:x'])
  expect(alternativeNames('')).toEqual([])
})
