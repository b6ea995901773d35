/** Private certificate authorities and the server certificates that they sign, for OpenSSL, browsers and devices. */
import 'reflect-metadata'
import { createHash, createPrivateKey, createPublicKey, randomBytes, webcrypto } from 'node:crypto'
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

/** Of the authority and of what it signs: ECDSA for everybody, RSA for devices that know nothing else. */
export type KeyKind = 'ECDSA' | 'RSA'

/** P-256 and 2048 bits: the one is quick, the other the most that old devices take. */
const ALGORITHMS = {
  ECDSA: { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' },
  RSA: {
    name: 'RSASSA-PKCS1-v1_5',
    modulusLength: 2048,
    publicExponent: new Uint8Array([1, 0, 1]),
    hash: 'SHA-256',
  },
} as const

/** Makes an authority that signs itself and may sign no other authorities. `nowMs` is the time of the wall clock. */
export async function createAuthority(
  commonName: string,
  nowMs: number,
  kind: KeyKind = 'ECDSA',
): Promise<Issued> {
  const algorithm = ALGORITHMS[kind]
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])
  const name = distinguishedName(commonName)
  const certificate = await X509CertificateGenerator.create(
    {
      serialNumber: serialNumber(),
      issuer: name,
      subject: name,
      ...validity(nowMs, AUTHORITY_DAYS),
      signingAlgorithm: algorithm,
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

/**
 * Makes a server's certificate, of the authority's kind, for `key` in PEM or for a new one. Throws for an authority whose
 * certificate or key is none, and for a key of another kind.
 */
export async function createServerCertificate(
  authority: Issued,
  { names, addresses }: ServerNames,
  nowMs: number,
  { kind = 'ECDSA', key }: { readonly kind?: KeyKind; readonly key?: string } = {},
): Promise<Issued> {
  const issuer = new X509Certificate(authority.certificate)
  const algorithm = ALGORITHMS[kind]
  const keys =
    key === undefined
      ? await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])
      : await importedKeys(key, algorithm)
  // Without encipherment, the oldest key exchange of RSA is closed to devices that know no other.
  const usage = KeyUsageFlags.digitalSignature | (kind === 'RSA' ? KeyUsageFlags.keyEncipherment : 0)
  const extensions: Extension[] = [
    new BasicConstraintsExtension(false, undefined, true),
    new KeyUsagesExtension(usage, true),
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
      signingAlgorithm: algorithm,
      publicKey: keys.publicKey,
      signingKey: await signingKey(authority.key, algorithm),
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

type Algorithm = (typeof ALGORITHMS)[KeyKind]

function signingKey(pem: string, algorithm: Algorithm): Promise<webcrypto.CryptoKey> {
  return webcrypto.subtle.importKey('pkcs8', PemConverter.decodeFirst(pem), algorithm, true, ['sign'])
}

/** A key that is there already, in whichever PEM form OpenSSL writes. */
async function importedKeys(pem: string, algorithm: Algorithm): Promise<webcrypto.CryptoKeyPair> {
  const { subtle } = webcrypto
  const key = createPrivateKey(pem)
  const pkcs8 = key.export({ type: 'pkcs8', format: 'der' })
  const spki = createPublicKey(key).export({ type: 'spki', format: 'der' })
  return {
    privateKey: await subtle.importKey('pkcs8', pkcs8, algorithm, true, ['sign']),
    publicKey: await subtle.importKey('spki', spki, algorithm, true, ['verify']),
  }
}

async function issued(certificate: X509Certificate, key: webcrypto.CryptoKey): Promise<Issued> {
  const exported = await webcrypto.subtle.exportKey('pkcs8', key)
  return {
    certificate: `${certificate.toString('pem')}\n`,
    key: `${PemConverter.encode(exported, 'PRIVATE KEY')}\n`,
  }
}
