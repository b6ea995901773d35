/** Certificates and keys of a listener: read, checked, made into what Node's TLS takes. */
import { X509Certificate } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import {
  createSecureContext,
  DEFAULT_CIPHERS,
  type SecureContextOptions,
  type TlsOptions as ServerOptions,
} from 'node:tls'
import { type CertificateTimes, isValidAt, timeTroubles } from './certificate-times.ts'
import { type KeyPair, KeyPairError, keyPairs, type PemSource, pemBlocks } from './key-pairs.ts'
import { ListenError } from './listen-error.ts'
import { type ListCoverage, listCoverage } from './revocation-lists.ts'
import { shellWord } from './shell-word.ts'

/** Each of `cert`, `key`, `ca` and `crl` is a file's path or the PEM text itself; of `cert` and `key` there may be several. */
export interface TlsOptions {
  /** The server's certificate for each kind of key (RSA, ECDSA), followed by intermediate ones. */
  readonly cert: string | readonly string[]
  /** In any order: the public key tells which certificate each belongs to. */
  readonly key: string | readonly string[]
  /** The passphrase of keys that are encrypted. */
  readonly passphrase?: string
  /** Authorities that sign client certificates; needed where these are asked for. */
  readonly ca?: string
  /** Lists of revoked client certificates, one of each authority. */
  readonly crl?: string
  /** `request`: clients may show a certificate; `require`: only those that show a valid one are let in. */
  readonly clientCertificate?: 'none' | 'request' | 'require'
  readonly minimumVersion?: 'TLSv1.2' | 'TLSv1.3'
}

/** The options that may name files. */
export const TLS_FILES = ['cert', 'key', 'ca', 'crl'] as const

/** Permission bits with which users that are neither the owner nor of the file's group get at it. */
const OTHERS = 0o007

/** Node's, with ECDSA before RSA. */
const CIPHERS = DEFAULT_CIPHERS.split(':')
  .toSorted((one, other) => Number(other.includes('ECDSA')) - Number(one.includes('ECDSA')))
  .toSorted((one, other) => Number(other.startsWith('TLS_')) - Number(one.startsWith('TLS_')))
  .join(':')

/** What a listener serves. */
export interface ServerCredentials extends CertificateTimes {
  readonly options: SecureContextOptions
  /** The server's own, of each kind of key. */
  readonly leaves: readonly X509Certificate[]
}

/**
 * What `tls.createServer` is told of client certificates. No handshake fails for one: `clientCertificate` judges it, and CONNACK
 * says what is wrong, where a client would only see its connection end.
 */
export function requestOptions(tls: TlsOptions | undefined): ServerOptions {
  const clientCertificate = tls?.clientCertificate ?? 'none'
  return { requestCert: clientCertificate !== 'none', rejectUnauthorized: false }
}

/** Reads the files. Throws ListenError for a missing one, a key that others may read, or what does not fit together. */
export function serverCredentials(listener: string, tls: TlsOptions | undefined): ServerCredentials {
  if (tls === undefined) {
    throw new ListenError(
      listener,
      'TLS needs a certificate and a key',
      "Name the PEM files in the listener's tls.cert and tls.key.",
    )
  }
  if ((tls.clientCertificate ?? 'none') !== 'none' && tls.ca === undefined) {
    // Node would take its own list: whoever has a certificate for a web site would be let in.
    throw new ListenError(
      listener,
      'client certificates are asked for, and nothing says whose count',
      'Name the PEM file of the authorities that sign them in tls.ca.',
      { key: 'tls.ca' },
    )
  }
  const certificates = sources(tls.cert).map((value) => source(listener, 'cert', value))
  const keys = sources(tls.key).map((value) => source(listener, 'key', value))
  const authorities = tls.ca === undefined ? undefined : pem(listener, 'ca', tls.ca)
  const lists = tls.crl === undefined ? undefined : blocks(pem(listener, 'crl', tls.crl))
  try {
    const pairs = keyPairs(certificates, keys, tls.passphrase)
    const options: SecureContextOptions = {
      cert: pairs.map(({ chain }) => chain),
      key: pairs.map(({ key }) => key),
      minVersion: tls.minimumVersion ?? 'TLSv1.2',
    }
    // Node's list puts RSA first: clients that understand both would get what costs the server twice as much.
    if (pairs.length > 1) options.ciphers = CIPHERS
    if (tls.passphrase !== undefined) options.passphrase = tls.passphrase
    if (authorities !== undefined) {
      expectCertificates(authorities)
      options.ca = authorities
    }
    if (lists !== undefined) options.crl = lists
    createSecureContext(options)
    const asks = (tls.clientCertificate ?? 'none') !== 'none'
    const listEnd = asks && lists !== undefined ? coveredBy(listener, authorities!, lists) : null
    return { options, listEnd, ...validity(pairs) }
  } catch (error) {
    if (error instanceof ListenError) throw error
    throw new ListenError(
      listener,
      `the certificate and key cannot be used: ${(error as Error).message}`,
      'Check that tls.cert, tls.key, tls.ca and tls.crl are PEM, that certificate and key belong to each other, and that the passphrase is right.',
      { cause: error, key: error instanceof KeyPairError ? error.key : 'tls' },
    )
  }
}

/**
 * Everything for which `serverCredentials` would throw, the last one only where all files can be read; with `nowMs`, what is not
 * valid at that time.
 */
export function tlsProblems(listener: string, tls: TlsOptions, nowMs?: number): ListenError[] {
  const files = TLS_FILES.flatMap((key) => {
    return sources(tls[key]).flatMap((value) => refusals(() => source(listener, key, value)))
  })
  if (files.length > 0) return files
  return refusals(() => {
    const credentials = serverCredentials(listener, tls)
    const [trouble] = nowMs === undefined ? [] : timeTroubles(credentials, nowMs)
    if (trouble === undefined) return
    const key = isValidAt(credentials, nowMs!) ? 'tls.crl' : 'tls.cert'
    const advice =
      key === 'tls.cert'
        ? '`godwit setup --renew` makes a new one if setup made it.'
        : 'Put its new list into the file; the broker reads it within seconds.'
    throw new ListenError(listener, trouble, advice, { key })
  })
}

/** The one or several values of an option; none when it is absent. */
export function sources(value: string | readonly string[] | undefined): readonly string[] {
  if (value === undefined) return []
  return typeof value === 'string' ? [value] : value
}

/** Whether an option is the PEM text itself, and no path. */
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

/** The end of the list that ends first. Throws ListenError for an authority without a list. */
function coveredBy(
  listener: string,
  authorities: string,
  lists: readonly string[],
): ListCoverage['firstEnd'] {
  const { missing, firstEnd } = listCoverage(pemBlocks(authorities, /CERTIFICATE$/), lists)
  if (missing.length === 0) return firstEnd
  throw new ListenError(
    listener,
    `tls.crl has no list by the authority ${missing.join('; nor by ')} of tls.ca: every client certificate that it signed would be refused`,
    'Add the list that it publishes to the file, or take the authority from tls.ca.',
    { key: 'tls.crl' },
  )
}

/** Of all certificates of all chains. */
function validity(pairs: readonly KeyPair[]): Pick<ServerCredentials, 'validFrom' | 'validTo' | 'leaves'> {
  const all = pairs.flatMap(({ certificates }) => certificates)
  return {
    leaves: pairs.map(({ leaf }) => leaf),
    validFrom: Math.max(...all.map(({ validFrom }) => Date.parse(validFrom))),
    validTo: Math.min(...all.map(({ validTo }) => Date.parse(validTo))),
  }
}

/** Throws for a bundle without certificates, or with a broken one: Node would take what it can and not say so. */
function expectCertificates(bundle: string): void {
  const certificates = blocks(bundle)
  const begun = bundle.match(/-----BEGIN /g)?.length ?? 0
  if (begun === 0 || begun !== certificates.length) throw new Error('tls.ca is no list of whole certificates')
  for (const text of certificates) new X509Certificate(text)
}

/** Each for itself: of several lists in one text, Node takes the first and drops the others without a word. */
function blocks(text: string): string[] {
  return text.match(/-----BEGIN ([^-]+)-----[^-]+-----END \1-----/g) ?? [text]
}

/** Who can read the key can pass for this broker: that may be its owner and a group, and nobody else. */
function privateKey(listener: string, value: string): string {
  const text = pem(listener, 'key', value)
  // Windows has no such bits; what is no key needs no secrecy, and is refused for another reason.
  if (isPem(value) || process.platform === 'win32' || !text.includes('PRIVATE KEY')) return text
  const mode = statSync(value, { throwIfNoEntry: false })?.mode ?? 0
  if ((mode & OTHERS) === 0) return text
  throw new ListenError(
    listener,
    `tls.key: every user of this machine can get at ${value} (mode ${(mode & 0o777).toString(8)})`,
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
