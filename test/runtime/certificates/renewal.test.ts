import { X509Certificate } from 'node:crypto'
import { mkdtempSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { CERTIFICATE_FILES } from '../../../src/runtime/certificates/authority-files.ts'
import { createAuthority, createServerCertificate } from '../../../src/runtime/certificates/certificates.ts'
import { Renewal } from '../../../src/runtime/certificates/renewal.ts'
import { keyPairs } from '../../../src/transport/tls/key-pairs.ts'

const DAY_MS = 86_400_000
const NOW_MS = Date.UTC(2026, 10, 22)
const NAMES = { names: ['broker.example.org', 'pi.local'], addresses: ['192.0.2.7', 'fd00::2'] }

let directory: string

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'godwit-'))
  for (const { kind, authority, server } of CERTIFICATE_FILES) {
    const issuer = await createAuthority(`Tests ${kind}`, NOW_MS, kind)
    put(authority.certificate, issuer.certificate)
    put(authority.key, issuer.key)
    const made = await createServerCertificate(issuer, NAMES, NOW_MS, { kind })
    put(server.certificate, made.certificate)
    put(server.key, made.key)
  }
  // As setup leaves it: both authorities.
  put('ca.crt', read('ca.crt') + read('ca-rsa.crt'))
})

afterEach(() => rmSync(directory, { recursive: true, force: true }))

const path = (name: string): string => join(directory, name)
const read = (name: string): string => readFileSync(path(name), 'utf8')

function put(name: string, text: string): void {
  writeFileSync(path(name), text, { mode: 0o600 })
}

const FILES = ['server.crt', 'server-rsa.crt']

test('certificates that expire soon are renewed for the same keys and names [field-E27]', async () => {
  const renewal = new Renewal(directory)
  const files = FILES.map(path)
  expect(renewal.covers(files)).toBe(true)
  const before = FILES.map((name) => new X509Certificate(read(name)))
  expect(await renewal.renew(files, NOW_MS + 300 * DAY_MS)).toEqual([])
  const late = NOW_MS + 367 * DAY_MS
  expect((await renewal.renew(files, late)).map(({ file }) => file)).toEqual(files)
  for (const [i, name] of FILES.entries()) {
    const [old, young] = [before[i]!, new X509Certificate(read(name))]
    expect(Date.parse(young.validTo)).toBe(late + 396 * DAY_MS)
    expect(young.subjectAltName).toBe(old.subjectAltName)
    expect(young.publicKey.equals(old.publicKey)).toBe(true)
    expect(young.serialNumber).not.toBe(old.serialNumber)
    expect(
      young.verify(new X509Certificate(read(CERTIFICATE_FILES[i]!.authority.certificate)).publicKey),
    ).toBe(true)
  }
  const pems = (names: string[]) => names.map((name) => ({ name, text: read(name) }))
  const pairs = keyPairs(pems(FILES), pems(['server.key', 'server-rsa.key']), undefined)
  expect(pairs.map(({ kind }) => kind)).toEqual(['ECDSA', 'RSA'])
})

test('a certificate that is not valid yet, made by a wrong clock, is renewed, too', async () => {
  const renewal = new Renewal(directory)
  const files = [path('server.crt')]
  await renewal.renew(files, NOW_MS + 900 * DAY_MS)
  expect(Date.parse(new X509Certificate(read('server.crt')).validFrom)).toBeGreaterThan(NOW_MS)
  expect(await renewal.renew(files, NOW_MS)).toEqual([{ file: files[0], until: expect.any(String) }])
  expect(Date.parse(new X509Certificate(read('server.crt')).validFrom)).toBeLessThan(NOW_MS)
})

test("without the authority's key, and for files of others, nothing is renewed", async () => {
  const renewal = new Renewal(directory)
  renameSync(path('ca.key'), path('away.key'))
  expect(renewal.covers([path('server.crt')])).toBe(false)
  expect(renewal.covers([path('server-rsa.crt')])).toBe(true)
  expect(await renewal.renew([path('server.crt')], NOW_MS + 390 * DAY_MS)).toEqual([])
  renameSync(path('away.key'), path('ca.key'))
  renameSync(path('server.crt'), path('elsewhere.crt'))
  symlinkSync('elsewhere.crt', path('server.crt'))
  expect(renewal.covers([path('server.crt')])).toBe(false)
  expect(renewal.covers(['/etc/ssl/server.crt', path('server-rsa.crt')])).toBe(false)
  expect(renewal.covers([])).toBe(false)
})

test('a certificate that cannot be renewed is reported and stays', async () => {
  const renewal = new Renewal(directory)
  const before = read('server.crt')
  const late = NOW_MS + 390 * DAY_MS
  const other = await createAuthority('Others', NOW_MS)
  put('ca.crt', other.certificate)
  expect(await renewal.renew([path('server.crt')], late)).toEqual([
    { file: path('server.crt'), problem: 'server.crt is not signed by ca.crt' },
  ])
  // Nor with a clock at which nothing of the authority is valid.
  expect(await renewal.renew([path('server-rsa.crt')], NOW_MS - 9000 * DAY_MS)).toEqual([
    { file: path('server-rsa.crt'), problem: expect.stringMatching(/^ca-rsa\.crt is valid from /) },
  ])
  expect(read('server.crt')).toBe(before)
})
