/**
 * Makes private certificate authorities and server certificates that OpenSSL, browsers and devices accept.
 */
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

/** A certificate and its key as PEM texts. */
export interface IssuedCertificate {
  readonly certificate: string
  readonly key: string
}

/** The names and addresses of a server certificate, at least one in all. */
export interface ServerNames {
  /** DNS names. */
  readonly names: readonly string[]
  /** IPv4 and IPv6 addresses. */
  readonly addresses: readonly string[]
}

const DAY_MS = 86_400_000

const AUTHORITY_DAYS = 3652

/** The longest validity that browsers accept from public authorities, so that every client accepts it. */
const SERVER_DAYS = 397

/** Certificates are valid from a day ago, because clocks of devices may be slow. */
const BACKDATED_MS = DAY_MS

/** The longest Common Name (RFC 5280 appendix A.1). */
const COMMON_NAME_CHARACTERS_MAX = 64

/**
 * The kind of key of an authority and its certificates: ECDSA for most clients, RSA for devices that need
 * it.
 */
export type KeyKind = 'ECDSA' | 'RSA'

/** P-256 is fast; 2048 bits are the most that old devices accept. */
const ALGORITHMS = {
  ECDSA: { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' },
  RSA: {
    name: 'RSASSA-PKCS1-v1_5',
    modulusLength: 2048,
    publicExponent: new Uint8Array([1, 0, 1]),
    hash: 'SHA-256',
  },
} as const

/** Makes a self-signed authority that cannot sign other authorities. `nowMs` is wall time. */
export async function createAuthority(
  commonName: string,
  nowMs: number,
  kind: KeyKind = 'ECDSA',
): Promise<IssuedCertificate> {
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
  return toPem(certificate, keys.privateKey)
}

/**
 * Makes a server certificate for `key`, in PEM, or for a new key. `kind` is that of the authority. Throws
 * for an authority whose certificate or key is invalid, and for a key of another kind.
 */
export async function createServerCertificate(
  authority: IssuedCertificate,
  { names, addresses }: ServerNames,
  nowMs: number,
  { kind = 'ECDSA', key }: { readonly kind?: KeyKind; readonly key?: string } = {},
): Promise<IssuedCertificate> {
  const issuer = new X509Certificate(authority.certificate)
  const algorithm = ALGORITHMS[kind]
  const keys =
    key === undefined
      ? await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])
      : await importKeys(key, algorithm)
  // Devices that only know the oldest key exchange of RSA need keyEncipherment.
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
  return toPem(certificate, keys.privateKey)
}

/** Returns the SHA-256 fingerprint as `AB:CD:…`, like `openssl x509 -fingerprint -sha256`. */
export function fingerprint(certificate: string): string {
  const digest = createHash('sha256')
    .update(Buffer.from(new X509Certificate(certificate).rawData))
    .digest('hex')
  return digest.toUpperCase().match(/../g)!.join(':')
}

function distinguishedName(commonName: string): Name {
  return new Name([{ CN: [{ utf8String: commonName.slice(0, COMMON_NAME_CHARACTERS_MAX) }] }])
}

/**
 * Returns 16 random bytes as a positive number, so that nobody can predict the signed content (CA/Browser
 * Forum Baseline Requirements 7.1).
 */
function serialNumber(): string {
  const bytes = randomBytes(16)
  bytes[0] = (bytes[0]! & 0x7f) | 0x40
  return bytes.toString('hex')
}

/** Returns the validity from now on, at most until `endMs`. */
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

/** Imports an existing key in any PEM form that OpenSSL writes. */
async function importKeys(pem: string, algorithm: Algorithm): Promise<webcrypto.CryptoKeyPair> {
  const { subtle } = webcrypto
  const key = createPrivateKey(pem)
  const pkcs8 = key.export({ type: 'pkcs8', format: 'der' })
  const spki = createPublicKey(key).export({ type: 'spki', format: 'der' })
  return {
    privateKey: await subtle.importKey('pkcs8', pkcs8, algorithm, true, ['sign']),
    publicKey: await subtle.importKey('spki', spki, algorithm, true, ['verify']),
  }
}

async function toPem(certificate: X509Certificate, key: webcrypto.CryptoKey): Promise<IssuedCertificate> {
  const exported = await webcrypto.subtle.exportKey('pkcs8', key)
  return {
    certificate: `${certificate.toString('pem')}\n`,
    key: `${PemConverter.encode(exported, 'PRIVATE KEY')}\n`,
  }
}
