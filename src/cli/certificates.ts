/** A private certificate authority and the server certificates that it signs: EC P-256, for OpenSSL, browsers and devices. */
import 'reflect-metadata'
import { createHash, randomBytes, webcrypto } from 'node:crypto'
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  type Extension,
  KeyUsageFlags,
  KeyUsagesExtension,
  Name,
  PemConverter,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from '@peculiar/x509'

/** PEM texts. */
export interface Issued {
  readonly certificate: string
  readonly key: string
}

/** Whom a server certificate is for. */
export interface ServerNames {
  /** DNS names, at least one name or address. */
  readonly names: readonly string[]
  /** IPv4 and IPv6 addresses. */
  readonly addresses: readonly string[]
}

const DAY_MS = 86_400_000

const AUTHORITY_DAYS = 3652

/** What browsers accept at most of public authorities, so that no client minds. */
const SERVER_DAYS = 397

/** Clocks of devices and machines are behind by so much. */
const BACKDATED_MS = DAY_MS

/** Of a Common Name (RFC 5280 appendix A.1). */
const COMMON_NAME_CHARACTERS_MAX = 64

const CURVE = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const

/** Makes an authority that signs itself and may sign no other authorities. `nowMs` is the time of the wall clock. */
export async function createAuthority(commonName: string, nowMs: number): Promise<Issued> {
  const keys = await webcrypto.subtle.generateKey(CURVE, true, ['sign', 'verify'])
  const name = distinguishedName(commonName)
  const certificate = await X509CertificateGenerator.create(
    {
      serialNumber: serialNumber(),
      issuer: name,
      subject: name,
      ...validity(nowMs, AUTHORITY_DAYS),
      signingAlgorithm: CURVE,
      publicKey: keys.publicKey,
      signingKey: keys.privateKey,
      extensions: [
        new BasicConstraintsExtension(true, 0, true),
        new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
        await SubjectKeyIdentifierExtension.create(keys.publicKey),
      ],
    },
    webcrypto,
  )
  return issued(certificate, keys.privateKey)
}

/** Makes a server's key and certificate. Throws for an authority whose certificate or key is none. */
export async function createServerCertificate(
  authority: Issued,
  { names, addresses }: ServerNames,
  nowMs: number,
): Promise<Issued> {
  const issuer = new X509Certificate(authority.certificate)
  const keys = await webcrypto.subtle.generateKey(CURVE, true, ['sign', 'verify'])
  const extensions: Extension[] = [
    new BasicConstraintsExtension(false, undefined, true),
    new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
    new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth]),
    new SubjectAlternativeNameExtension([
      ...names.map((value) => ({ type: 'dns', value }) as const),
      ...addresses.map((value) => ({ type: 'ip', value }) as const),
    ]),
    await SubjectKeyIdentifierExtension.create(keys.publicKey),
    await AuthorityKeyIdentifierExtension.create(issuer),
  ]
  const certificate = await X509CertificateGenerator.create(
    {
      serialNumber: serialNumber(),
      issuer: issuer.subjectName,
      subject: distinguishedName(names[0] ?? addresses[0] ?? ''),
      ...validity(nowMs, SERVER_DAYS, issuer.notAfter.getTime()),
      signingAlgorithm: CURVE,
      publicKey: keys.publicKey,
      signingKey: await signingKey(authority.key),
      extensions,
    },
    webcrypto,
  )
  return issued(certificate, keys.privateKey)
}

/** SHA-256 over a certificate's DER, as `AB:CD:…`, which is what `openssl x509 -fingerprint -sha256` shows. */
export function fingerprint(certificate: string): string {
  const digest = createHash('sha256')
    .update(Buffer.from(new X509Certificate(certificate).rawData))
    .digest('hex')
  return digest.toUpperCase().match(/../g)!.join(':')
}

function distinguishedName(commonName: string): Name {
  return new Name([{ CN: [{ utf8String: commonName.slice(0, COMMON_NAME_CHARACTERS_MAX) }] }])
}

/** Positive, 16 random bytes: nobody can foretell what is signed (CA/Browser Forum Baseline Requirements 7.1). */
function serialNumber(): string {
  const bytes = randomBytes(16)
  bytes[0] = (bytes[0]! & 0x7f) | 0x40
  return bytes.toString('hex')
}

/** Not longer than the authority's own. */
function validity(
  nowMs: number,
  days: number,
  endMs = Number.POSITIVE_INFINITY,
): { notBefore: Date; notAfter: Date } {
  const from = Math.floor((nowMs - BACKDATED_MS) / 1000) * 1000
  return { notBefore: new Date(from), notAfter: new Date(Math.min(from + days * DAY_MS, endMs)) }
}

function signingKey(pem: string): Promise<webcrypto.CryptoKey> {
  return webcrypto.subtle.importKey('pkcs8', PemConverter.decodeFirst(pem), CURVE, false, ['sign'])
}

async function issued(certificate: X509Certificate, key: webcrypto.CryptoKey): Promise<Issued> {
  const exported = await webcrypto.subtle.exportKey('pkcs8', key)
  return {
    certificate: `${certificate.toString('pem')}\n`,
    key: `${PemConverter.encode(exported, 'PRIVATE KEY')}\n`,
  }
}
