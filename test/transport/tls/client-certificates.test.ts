/** Invalid client certificates: the answers to their clients and the lines in the log. */
import 'reflect-metadata'
import { webcrypto, X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { setImmediate as nextPass } from 'node:timers/promises'
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls'
import { PemConverter, X509CertificateGenerator } from '@peculiar/x509'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import WebSocket from 'ws'
import type { Limits } from '../../../src/broker/boundary/limits.ts'
import { type Broker, type BrokerEvents, createBroker } from '../../../src/godwit.ts'
import { printable } from '../../../src/observe/printable.ts'
import { createAuthority } from '../../../src/runtime/certificates/certificates.ts'
import { clientCertificate } from '../../../src/transport/tls/client-certificate.ts'
import { revocationCoverage } from '../../../src/transport/tls/revocation-lists.ts'
import { serverCredentials, type TlsOptions } from '../../../src/transport/tls/tls.ts'
import { Authority, DAY_MS } from './authority.ts'

type Shown = Pick<ConnectionOptions, 'cert' | 'key' | 'session' | 'maxVersion'>

const CONNECT_5 = Buffer.from([
  0x10,
  0x10,
  0,
  4,
  ...Buffer.from('MQTT'),
  5,
  2,
  0,
  60,
  0,
  0,
  3,
  ...Buffer.from('dev'),
])
const CONNECT_4 = Buffer.from([
  0x10,
  0x0f,
  0,
  4,
  ...Buffer.from('MQTT'),
  4,
  2,
  0,
  60,
  0,
  3,
  ...Buffer.from('dev'),
])
const PUBLISH = Buffer.from([0x30, 0x05, 0, 1, 0x61, 0x68, 0x69])

let authority: Authority
let other: Authority
let broker: Broker
let refusals: BrokerEvents['refused'][]
let sockets: { destroy(): void }[]
/** Resolves with the TLS session of a client, which comes early in TLS 1.2 and after the handshake in 1.3. */
const sessions = new WeakMap<TLSSocket, Promise<Buffer>>()

beforeEach(async () => {
  authority = await Authority.create('Devices')
  other = await Authority.create('Strangers')
  refusals = []
  sockets = []
})

afterEach(async () => {
  for (const socket of sockets) socket.destroy()
  await broker?.close({ seconds: 0 })
})

async function start(more: Partial<TlsOptions> = {}, limits: Partial<Limits> = {}): Promise<void> {
  const { certificate, key } = await authority.server()
  const tls: TlsOptions = {
    cert: certificate,
    key,
    ca: authority.issued.certificate,
    clientCertificate: 'require',
    ...more,
  }
  const listeners = (['tls', 'wss'] as const).map((type) => ({
    name: type,
    type,
    port: 0,
    tls,
    allowAnonymous: true,
  }))
  broker = await createBroker({ listeners, limits })
  broker.events.on('refused', (event) => refusals.push(event))
}

async function opened(shown: Shown): Promise<TLSSocket> {
  const port = broker.listeners[0]!.port
  const ca = authority.issued.certificate
  const socket = connect({ host: '127.0.0.1', port, ca, ...shown })
  sockets.push(socket)
  socket.on('error', () => {})
  sessions.set(socket, new Promise((resolve) => socket.once('session', resolve)))
  await once(socket, 'secureConnect')
  return socket
}

/** All that comes back, to the end of the connection. */
async function answered(socket: TLSSocket, sent: Buffer): Promise<Buffer> {
  const chunks: Buffer[] = []
  socket.on('data', (chunk) => chunks.push(chunk))
  const closed = once(socket, 'close')
  socket.write(sent)
  await closed
  return Buffer.concat(chunks)
}

/** As anybody can make one: without a subject, and by no authority. */
async function nameless(): Promise<{ certificate: string; key: string }> {
  const curve = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' }
  const keys = await webcrypto.subtle.generateKey(curve, true, ['sign', 'verify'])
  const made = await X509CertificateGenerator.createSelfSigned({ name: '', keys, signingAlgorithm: curve })
  const key = await webcrypto.subtle.exportKey('pkcs8', keys.privateKey)
  return { certificate: made.toString('pem'), key: PemConverter.encode(key, 'PRIVATE KEY') }
}

/** Null for what is no certificate at all. */
function parsed(bytes: Buffer): X509Certificate | null {
  try {
    return new X509Certificate(bytes)
  } catch {
    return null
  }
}

const shownBy = ({ certificate, key }: { certificate: string; key: string }): Shown => ({
  cert: certificate,
  key,
})

/** CONNACK of 5.0 with 0x87 and its Reason String; the string. */
function reasonIn(connack: Buffer): string {
  // Behind a remaining length of one or two bytes.
  const flags = connack[1]! < 0x80 ? 2 : 3
  expect([connack[0], connack[flags], connack[flags + 1]]).toEqual([0x20, 0, 0x87])
  return connack.subarray(connack.indexOf(0x1f, flags) + 3).toString()
}

describe('a client whose certificate is missing or invalid', () => {
  const cases: readonly [string, () => Promise<Shown>, RegExp][] = [
    [
      'that has expired',
      async () => shownBy(await authority.client('device-7', { from: 0, to: Date.now() - DAY_MS })),
      /^the client certificate CN=device-7, issued by CN=Devices: it expired on 20\d\d-[\dT:-]+Z$/,
    ],
    [
      'that is not yet valid',
      async () =>
        shownBy(
          await authority.client('device-7', { from: Date.now() + DAY_MS, to: Date.now() + 2 * DAY_MS }),
        ),
      /^the client certificate CN=device-7, issued by CN=Devices: it is not valid before 20\d\d-[\dT:-]+Z$/,
    ],
    [
      'that another authority signed',
      async () => shownBy(await other.client('device-7')),
      new RegExp(
        '^the client certificate CN=device-7, issued by CN=Strangers: ' +
          String.raw`no authority of tls\.ca signed it \(UNABLE_TO_\w+\)$`,
      ),
    ],
    ['that is missing', async () => ({}), /^a client certificate is required$/],
  ]

  test.each(cases)(
    'one %s is refused by CONNACK with the reason, and logged [field-C18]',
    async (_kind, shown, reason) => {
      await start()
      for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
        const options = { ...(await shown()), maxVersion }
        expect(reasonIn(await answered(await opened(options), CONNECT_5))).toMatch(reason)
        expect(await answered(await opened(options), CONNECT_4)).toEqual(Buffer.from([0x20, 2, 0, 5]))
      }
      expect(refusals.length).toBe(4)
      for (const refusal of refusals) {
        expect(refusal).toMatchObject({
          clientId: 'dev',
          reasonCode: 0x87,
          reason: expect.stringMatching(reason),
          link: { listener: 'tls', remoteAddress: '127.0.0.1' },
        })
      }
      expect(broker.figures.connectionsRefused).toBe(4)
    },
  )

  test('that was revoked is refused even in a resumed TLS session [field-C18]', async () => {
    const device = await authority.client('device-7')
    await start({ crl: await authority.crl(device) })
    const why = new RegExp(
      '^the client certificate CN=device-7, issued by CN=Devices: ' +
        String.raw`it was revoked by its authority \(CERT_REVOKED\)$`,
    )
    for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
      const socket = await opened({ ...shownBy(device), maxVersion })
      expect(reasonIn(await answered(socket, CONNECT_5))).toMatch(why)
      const again = await opened({ ...shownBy(device), maxVersion, session: (await sessions.get(socket))! })
      expect(again.isSessionReused(), maxVersion).toBe(true)
      expect(reasonIn(await answered(again, CONNECT_5))).toMatch(why)
    }
  })

  test('that is missing is missing even in a resumed TLS session [field-C18]', async () => {
    await start()
    for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
      const socket = await opened({ maxVersion })
      await answered(socket, CONNECT_5)
      const again = await opened({ maxVersion, session: (await sessions.get(socket))! })
      expect(again.isSessionReused(), maxVersion).toBe(true)
      expect(reasonIn(await answered(again, CONNECT_5))).toBe('a client certificate is required')
    }
  })

  test('with a name of any length is logged with the cause [field-C18]', async () => {
    await start()
    const long = await Authority.create('x'.repeat(64))
    const shown = shownBy(await long.client('y'.repeat(60)))
    await answered(await opened(shown), CONNECT_5)
    expect(printable(refusals[0]!.reason)).toMatch(
      /^the client certificate CN=y+…, issued by CN=x+…: no .*\(UNABLE_TO_\w+\)$/,
    )
  })

  test('without any name in it is refused like any other [field-C18]', async () => {
    await start()
    const { certificate, key } = await nameless()
    const reason = /^the client certificate without a name, issued by without a name: .*\(\w+\)$/
    expect(reasonIn(await answered(await opened({ cert: certificate, key }), CONNECT_5))).toMatch(reason)
    expect(refusals).toMatchObject([{ reason: expect.stringMatching(reason) }])
  })

  test('with any other content never throws [field-C18]', async () => {
    const whole = [(await nameless()).certificate, (await other.client('device-7')).certificate]
    let random = 1
    const below = (limit: number): number => {
      random = Math.imul(random, 1_664_525) + 1_013_904_223
      return (random >>> 8) % limit
    }
    let looked = 0
    for (let round = 0; round < 4000; round++) {
      const bytes = Buffer.from(new X509Certificate(whole[round % 2]!).raw)
      for (let change = 0; change < 3; change++) bytes[below(bytes.length)] = below(256)
      const shown = parsed(bytes)
      if (shown === null) continue
      looked++
      const socket = { getPeerX509Certificate: () => shown, authorized: false, authorizationError: 'WRONG' }
      const tls: TlsOptions = { cert: '', key: '', clientCertificate: 'require' }
      const { certificateRefusal } = clientCertificate(socket as unknown as TLSSocket, tls, Date.now())
      expect(certificateRefusal).toContain('the client certificate ')
    }
    expect(looked).toBeGreaterThan(1000)
  })

  test('can do nothing but CONNECT [field-C18]', async () => {
    await start()
    const published: string[] = []
    broker.subscribe('#', ({ topic }) => published.push(topic))
    const shown = shownBy(await other.client('device-7'))
    expect((await answered(await opened(shown), Buffer.concat([CONNECT_4, PUBLISH]))).length).toBe(4)
    // Anything but CONNECT gets no answer at all.
    expect((await answered(await opened(shown), Buffer.concat([PUBLISH, CONNECT_4]))).length).toBe(0)
    expect(published).toEqual([])
    expect(broker.census()).toMatchObject({ sessions: 0, wills: 0 })
    const good = await opened(shownBy(await authority.client('device-8')))
    good.write(CONNECT_4)
    expect((await once(good, 'data'))[0]).toEqual(Buffer.from([0x20, 2, 0, 0]))
  })

  test('does not count for connections_max, however many connections it opens [field-C18]', async () => {
    await start({}, { connectionsMax: 1 })
    // Those beyond what is allowed are cut off, perhaps before their side of the handshake is complete.
    await Promise.allSettled(Array.from({ length: 80 }, () => opened({})))
    while (broker.figures.connectionsRefused < 16) await nextPass()
    expect(broker.census().connections).toBe(64)
    expect(refusals).toHaveLength(16)
    expect(refusals[0]).toMatchObject({ reason: 'a client certificate is required', reasonCode: 0x87 })
    const good = await opened(shownBy(await authority.client('device-8')))
    good.write(CONNECT_4)
    expect((await once(good, 'data'))[0]).toEqual(Buffer.from([0x20, 2, 0, 0]))
    // When they have left there is room for others of them.
    for (const socket of sockets) if (socket !== good) socket.destroy()
    while (broker.census().connections > 1) await nextPass()
    expect(reasonIn(await answered(await opened({}), CONNECT_5))).toBe('a client certificate is required')
  })

  test('over secure WebSocket is refused by CONNACK, too [field-C18]', async () => {
    await start()
    const ca = authority.issued.certificate
    const { cert, key } = shownBy(await other.client('device-7'))
    const webSocket = new WebSocket(broker.listeners[1]!.address, 'mqtt', {
      ca,
      cert: cert as string,
      key: key as string,
    })
    sockets.push({ destroy: () => webSocket.terminate() })
    await once(webSocket, 'open')
    webSocket.send(CONNECT_5)
    const [connack] = (await once(webSocket, 'message')) as [Buffer]
    expect(reasonIn(connack)).toContain('no authority of tls.ca signed it')
  })
})

describe('lists of revoked certificates', () => {
  const credentials = async (ca: string, crl: string, clientCertificate: 'none' | 'require' = 'require') => {
    const { certificate, key } = await authority.server()
    return serverCredentials('secure', { cert: certificate, key, ca, crl, clientCertificate })
  }

  test('without one of each authority are refused [field-C18]', async () => {
    const ca = authority.issued.certificate + other.issued.certificate
    await expect(credentials(ca, await authority.crl())).rejects.toMatchObject({
      message:
        "listener 'secure': tls.crl has no list by the authority CN=Strangers of tls.ca: every " +
        'client certificate of this authority would be refused',
      advice: "Add the authority's list to the file, or remove the authority from tls.ca.",
      key: 'tls.crl',
    })
    const { listEnd } = await credentials(ca, (await authority.crl()) + (await other.crl()))
    expect(listEnd?.endMs).toBeGreaterThan(Date.now())
    // Nobody is asked for a certificate: nothing would be refused.
    expect((await credentials(ca, await authority.crl(), 'none')).listEnd).toBeNull()
  })

  test('of an authority that only has the same name do not count [field-C18]', async () => {
    const namesake = await Authority.create('Devices')
    await expect(credentials(authority.issued.certificate, await namesake.crl())).rejects.toThrow(
      /no list by the authority CN=Devices/,
    )
  })

  test('have the end of the first of them [field-C18]', async () => {
    const ended = Date.parse('2026-11-01T12:00:00Z')
    const lists = [await authority.crl(), await authority.crlUntil(0), await other.crlUntil(ended)]
    const authorities = [authority, other].map(({ issued }) => issued.certificate)
    expect(revocationCoverage(authorities, lists)).toEqual({
      missing: [],
      firstEnd: { authority: 'CN=Strangers', endMs: ended },
    })
    expect(() => revocationCoverage(authorities, [authority.issued.key])).toThrow(
      /not a list of revoked certificates/,
    )
  })

  test('match whatever the case and the kind of string of their names [field-C18]', async () => {
    const shouting = await Authority.create('DEVICES  ')
    const { firstEnd, missing } = revocationCoverage([shouting.issued.certificate], [await shouting.crl()])
    expect([missing, firstEnd?.authority]).toEqual([[], expect.stringMatching(/DEVICES/)])
    const plain = await createAuthority('Devices', Date.now())
    expect(revocationCoverage([plain.certificate], [await shouting.crl()]).missing).toEqual(['CN=Devices'])
  })
})
