import { X509Certificate } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import {
  createAuthority,
  createServerCertificate,
  fingerprint,
} from '../../../src/runtime/certificates/certificates.ts'

const DAY_MS = 86_400_000
const NOW_MS = Date.UTC(2026, 10, 22)
const NAMES = { names: ['broker.example.org'], addresses: ['192.0.2.7', 'fd00::2'] }

describe('certificates', () => {
  test('an authority can sign only servers', async () => {
    const authority = new X509Certificate((await createAuthority('Tests', NOW_MS)).certificate)
    expect(authority.ca).toBe(true)
    expect(authority.verify(authority.publicKey)).toBe(true)
    expect(Date.parse(authority.validTo) - NOW_MS).toBeGreaterThan(3649 * DAY_MS)
  })

  test('a server certificate has its names and addresses, is signed, and is no authority', async () => {
    const issued = await createAuthority('Tests', NOW_MS)
    const authority = new X509Certificate(issued.certificate)
    const server = new X509Certificate((await createServerCertificate(issued, NAMES, NOW_MS)).certificate)
    expect(server.checkIssued(authority)).toBe(true)
    expect(server.verify(authority.publicKey)).toBe(true)
    expect(server.ca).toBe(false)
    expect(server.checkHost('broker.example.org')).toBe('broker.example.org')
    expect(server.checkHost('other.example.org')).toBeUndefined()
    expect(server.checkIP('192.0.2.7')).toBe('192.0.2.7')
    expect(server.checkIP('fd00::2')).toBe('fd00::2')
    expect(server.keyUsage).toEqual(['1.3.6.1.5.5.7.3.1'])
    expect((Date.parse(server.validTo) - Date.parse(server.validFrom)) / DAY_MS).toBe(397)
    expect(fingerprint(server.toString())).toBe(server.fingerprint256)
  })

  test('do not outlive their authority and are unique', async () => {
    const issued = await createAuthority('Tests', NOW_MS)
    const late = NOW_MS + 3600 * DAY_MS
    const one = new X509Certificate((await createServerCertificate(issued, NAMES, late)).certificate)
    const other = new X509Certificate((await createServerCertificate(issued, NAMES, late)).certificate)
    expect(one.validTo).toBe(new X509Certificate(issued.certificate).validTo)
    expect(one.serialNumber).not.toBe(other.serialNumber)
    expect(one.publicKey.equals(other.publicKey)).toBe(false)
  })

  test('long names are cut in the Common Name and kept among the alternative names', async () => {
    const issued = await createAuthority('x'.repeat(200), NOW_MS)
    const name = `${'a'.repeat(60)}.${'b'.repeat(60)}.example.org`
    const made = await createServerCertificate(issued, { names: [name], addresses: [] }, NOW_MS)
    expect(new X509Certificate(made.certificate).checkHost(name)).toBe(name)
  })
})
