import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { Events } from '../../../src/broker/boundary/events.ts'
import type { SecurityEvent } from '../../../src/broker/boundary/security.ts'
import { CertificateWatch } from '../../../src/runtime/certificates/certificate-watch.ts'
import { ListenerSet } from '../../../src/transport/listener-set.ts'
import type { TlsOptions } from '../../../src/transport/tls/tls.ts'
import { Recorder } from '../../transport/recorder.ts'
import { Authority, DAY_MS } from '../../transport/tls/authority.ts'

let directory: string
let authority: Authority
let listeners: ListenerSet
let watch: CertificateWatch
let told: SecurityEvent[]

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'godwit-'))
  authority = await Authority.create('Devices')
  told = []
})

afterEach(async () => {
  watch.stop()
  await listeners.close()
  rmSync(directory, { recursive: true, force: true })
})

async function watching(nowMs: number, more: Partial<TlsOptions> = {}): Promise<void> {
  const { certificate, key } = await authority.server(nowMs)
  const tls = { cert: certificate, key, ...more }
  listeners = new ListenerSet(new Recorder(), { connectTimeoutSeconds: 10 }, () => {})
  await listeners.openAll([{ name: 'secure', type: 'tls', port: 0, allowAnonymous: false, tls }])
  const events = new Events()
  events.on('security', (event) => told.push(event))
  watch = new CertificateWatch(listeners, events, null)
  await watch.reread()
}

test.each([
  [
    -500 * DAY_MS,
    /^expired on [\d-]+, 10\d days ago: clients refuse it$/,
    /expired 10\d days ago: clients have refused it since /,
  ],
  [5 * DAY_MS, /^is not valid before .* Is the clock right\?$/, /the certificate is not valid before /],
  [
    -380 * DAY_MS,
    /^is valid until [\d-]+, 1\d days$/,
    /the certificate expires in 1\d days; `godwit setup --renew`/,
  ],
  [0, /^is valid until [\d-]+, 39\d days$/, null],
])(
  'status and log report a certificate that was made %i ms from now [field-D25]',
  async (ms, status, log) => {
    await watching(Date.now() + ms)
    expect(watch.status(Date.now())).toEqual([
      {
        listener: 'secure',
        validFrom: expect.any(String),
        validTo: expect.any(String),
        detail: expect.stringMatching(status),
        renewed: false,
      },
    ])
    expect(told.map(({ kind, subject, detail }) => [kind, subject, detail])).toEqual(
      log === null ? [] : [['certificate-expiring', 'secure', expect.stringMatching(log)]],
    )
  },
)

test('an outdated revocation list is reported and does not replace a current one [field-C18]', async () => {
  const crl = join(directory, 'crl.pem')
  const asked = { ca: authority.issued.certificate, crl, clientCertificate: 'require' } as const
  writeFileSync(crl, await authority.crl())
  await watching(Date.now(), asked)
  expect(told).toEqual([])
  writeFileSync(crl, await authority.crlUntil(Date.now() - DAY_MS))
  await watch.reread()
  expect(told.map(({ kind, detail }) => [kind, detail])).toEqual([
    [
      'certificate-refused',
      expect.stringMatching(
        /the old certificates stay\. The list of revoked certificates by CN=Devices expired/,
      ),
    ],
  ])
  await listeners.close()
  watch.stop()
  told = []
  await watching(Date.now(), asked)
  expect(told.map(({ kind, detail }) => [kind, detail])).toEqual([
    [
      'certificate-expiring',
      expect.stringMatching(/^the list of revoked certificates by CN=Devices expired on /),
    ],
  ])
})
