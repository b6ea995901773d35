/** Reads and checks the certificates and keys of a listener and turns them into options for Node's TLS. */
import { X509Certificate } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import {
  createSecureContext,
  DEFAULT_CIPHERS,
  type SecureContextOptions,
  type TlsOptions as ServerOptions,
} from 'node:tls'
import { type CertificateTimes, isValidAt, validityProblems } from './certificate-times.ts'
import { type KeyPair, KeyPairError, keyPairs, type PemSource, pemBlocks } from './key-pairs.ts'
import { ListenError } from './listen-error.ts'
import { type RevocationCoverage, revocationCoverage } from './revocation-lists.ts'
import { shellWord } from './shell-word.ts'

/** TLS options. `cert`, `key`, `ca` and `crl` are paths or PEM texts; `cert` and `key` may be lists. */
export interface TlsOptions {
  /** The server's certificate for each kind of key (RSA, ECDSA), followed by intermediate certificates. */
  readonly cert: string | readonly string[]
  /** The private keys, in any order: each is matched to its certificate. */
  readonly key: string | readonly string[]
  /** The passphrase of encrypted keys. */
  readonly passphrase?: string
  /** Authorities of client certificates; needed unless `clientCertificate` is `none`. */
  readonly ca?: string
  /** Lists of revoked client certificates, one of each authority. */
  readonly crl?: string
  /** `request`: clients may send a certificate; `require`: only clients with a valid one are accepted. */
  readonly clientCertificate?: 'none' | 'request' | 'require'
  readonly minimumVersion?: 'TLSv1.2' | 'TLSv1.3'
}

/** The options that may name files. */
export const TLS_FILES = ['cert', 'key', 'ca', 'crl'] as const

/** Permission bits of users who are neither the owner nor in the file's group. */
const OTHERS = 0o007

/** Node's ciphers, with ECDSA before RSA. */
const CIPHERS = DEFAULT_CIPHERS.split(':')
  .toSorted((one, other) => Number(other.includes('ECDSA')) - Number(one.includes('ECDSA')))
  .toSorted((one, other) => Number(other.startsWith('TLS_')) - Number(one.startsWith('TLS_')))
  .join(':')

/** The certificates and keys that a listener serves. */
export interface ServerCredentials extends CertificateTimes {
  readonly options: SecureContextOptions
  /** The server's own certificates, one for each kind of key. */
  readonly leaves: readonly X509Certificate[]
}

/**
 * Returns the options of `tls.createServer` about client certificates. A bad certificate does not fail the
 * handshake: `clientCertificate` judges it, and CONNACK explains the refusal instead of a closed
 * connection.
 */
export function clientCertificateOptions(tls: TlsOptions | undefined): ServerOptions {
  const clientCertificate = tls?.clientCertificate ?? 'none'
  return { requestCert: clientCertificate !== 'none', rejectUnauthorized: false }
}

/**
 * Reads and checks the files. Throws ListenError for a missing file, a key that others may read, or a
 * mismatch.
 */
export function serverCredentials(listener: string, tls: TlsOptions | undefined): ServerCredentials {
  if (tls === undefined) {
    throw new ListenError(
      listener,
      'TLS needs a certificate and a key',
      "Name the PEM files in the listener's tls.cert and tls.key.",
      { key: 'tls' },
    )
  }
  if ((tls.clientCertificate ?? 'none') !== 'none' && tls.ca === undefined) {
    // Node would use its own list of authorities and accept every certificate of a web site.
    throw new ListenError(
      listener,
      'client certificates are requested, but no authority for them is named',
      'Name the PEM file of the authorities that sign them in tls.ca.',
      { key: 'tls.ca' },
    )
  }
  const certificates = optionValues(tls.cert).map((value) => source(listener, 'cert', value))
  const keys = optionValues(tls.key).map((value) => source(listener, 'key', value))
  const authorities = tls.ca === undefined ? undefined : pem(listener, 'ca', tls.ca)
  const lists = tls.crl === undefined ? undefined : blocks(pem(listener, 'crl', tls.crl))
  try {
    const pairs = keyPairs(certificates, keys, tls.passphrase)
    const options: SecureContextOptions = {
      cert: pairs.map(({ chain }) => chain),
      key: pairs.map(({ key }) => key),
      minVersion: tls.minimumVersion ?? 'TLSv1.2',
    }
    // Node's list prefers RSA, which costs the server twice as much for clients that know both.
    if (pairs.length > 1) options.ciphers = CIPHERS
    if (tls.passphrase !== undefined) options.passphrase = tls.passphrase
    if (authorities !== undefined) {
      expectCertificates(authorities)
      options.ca = authorities
    }
    if (lists !== undefined) options.crl = lists
    createSecureContext(options)
    const asks = (tls.clientCertificate ?? 'none') !== 'none'
    const listEnd = asks && lists !== undefined ? firstListEnd(listener, authorities!, lists) : null
    return { options, listEnd, ...validity(pairs) }
  } catch (error) {
    if (error instanceof ListenError) throw error
    throw new ListenError(
      listener,
      `the certificate and key cannot be used: ${(error as Error).message}`,
      'Check that tls.cert, tls.key, tls.ca and tls.crl are PEM, ' +
        'that certificate and key belong to each other, and that the passphrase is right.',
      { cause: error, key: error instanceof KeyPairError ? error.key : 'tls' },
    )
  }
}

/**
 * Returns the errors that `serverCredentials` would throw, one for each file that cannot be read; with
 * `nowMs` also what is not valid at that time. Files that cannot be read hide later problems.
 */
export function tlsProblems(listener: string, tls: TlsOptions, nowMs?: number): ListenError[] {
  const files = TLS_FILES.flatMap((key) => {
    return optionValues(tls[key]).flatMap((value) => refusals(() => source(listener, key, value)))
  })
  if (files.length > 0) return files
  return refusals(() => {
    const credentials = serverCredentials(listener, tls)
    const [problem] = nowMs === undefined ? [] : validityProblems(credentials, nowMs)
    if (problem === undefined) return
    const key = isValidAt(credentials, nowMs!) ? 'tls.crl' : 'tls.cert'
    const advice =
      key === 'tls.cert'
        ? '`godwit setup --renew` makes a new one if setup made it.'
        : 'Put its new list into the file; the broker reads it within seconds.'
    throw new ListenError(listener, problem, advice, { key })
  })
}

/** Returns the values of an option as a list. */
export function optionValues(value: string | readonly string[] | undefined): readonly string[] {
  if (value === undefined) return []
  return typeof value === 'string' ? [value] : value
}

/** Whether an option is a PEM text instead of a path. */
export function isPem(value: string): boolean {
  return value.includes('-----BEGIN ')
}

function refusals(load: () => unknown): ListenError[] {
  try {
    load()
    return []
  } catch (error) {
    if (error instanceof ListenError) return [error]
    throw error
  }
}

/** Returns the list that ends first. Throws ListenError for an authority without a list. */
function firstListEnd(
  listener: string,
  authorities: string,
  lists: readonly string[],
): RevocationCoverage['firstEnd'] {
  const { missing, firstEnd } = revocationCoverage(pemBlocks(authorities, /CERTIFICATE$/), lists)
  if (missing.length === 0) return firstEnd
  throw new ListenError(
    listener,
    `tls.crl has no list by the authority ${missing.join('; nor by ')} of tls.ca: ` +
      'every client certificate of this authority would be refused',
    "Add the authority's list to the file, or remove the authority from tls.ca.",
    { key: 'tls.crl' },
  )
}

/** Returns the time in which all certificates of all chains are valid. */
function validity(pairs: readonly KeyPair[]): Pick<ServerCredentials, 'validFrom' | 'validTo' | 'leaves'> {
  const all = pairs.flatMap(({ certificates }) => certificates)
  return {
    leaves: pairs.map(({ leaf }) => leaf),
    validFrom: Math.max(...all.map(({ validFrom }) => Date.parse(validFrom))),
    validTo: Math.min(...all.map(({ validTo }) => Date.parse(validTo))),
  }
}

/** Throws for a bundle without certificates or with a broken one, which Node would silently ignore. */
function expectCertificates(bundle: string): void {
  const certificates = blocks(bundle)
  const begun = bundle.match(/-----BEGIN /g)?.length ?? 0
  if (begun === 0 || begun !== certificates.length) {
    throw new Error('tls.ca is not a list of complete certificates')
  }
  for (const text of certificates) new X509Certificate(text)
}

/** Splits a PEM text. Of several lists in one text, Node would silently use only the first. */
function blocks(text: string): string[] {
  return text.match(/-----BEGIN ([^-]+)-----[^-]+-----END \1-----/g) ?? [text]
}

/** Reads the private key. Throws ListenError if users other than its owner and group can read it. */
function privateKey(listener: string, value: string): string {
  const text = pem(listener, 'key', value)
  // Windows has no such bits. A file that is not a key is refused later.
  if (isPem(value) || process.platform === 'win32' || !text.includes('PRIVATE KEY')) return text
  const mode = statSync(value, { throwIfNoEntry: false })?.mode ?? 0
  if ((mode & OTHERS) === 0) return text
  throw new ListenError(
    listener,
    `tls.key: every user of this machine has access to ${value} (mode ${(mode & 0o777).toString(8)})`,
    `Run: chmod 600 ${shellWord(value)}`,
    { key: 'tls.key' },
  )
}

function source(listener: string, key: (typeof TLS_FILES)[number], value: string): PemSource {
  const text = key === 'key' ? privateKey(listener, value) : pem(listener, key, value)
  return { name: isPem(value) ? `the text of tls.${key}` : value, text }
}

function pem(listener: string, key: string, value: string): string {
  if (isPem(value)) return value
  try {
    return readFileSync(value, 'utf8')
  } catch (error) {
    throw new ListenError(
      listener,
      `tls.${key}: cannot read ${value}: ${(error as NodeJS.ErrnoException).code}`,
      'Check the path, and that this user may read the file.',
      { cause: error, key: `tls.${key}` },
    )
  }
}
