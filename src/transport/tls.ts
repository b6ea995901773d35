/** Certificates and keys of a listener: read, checked, made into what Node's TLS takes. */
import { X509Certificate } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import { createSecureContext, type SecureContextOptions, type TlsOptions as ServerOptions } from 'node:tls'
import { ListenError } from './listen-error.ts'
import { shellWord } from './shell-word.ts'

/** Each of `cert`, `key`, `ca` and `crl` is a file's path or the PEM text itself. */
export interface TlsOptions {
  /** The server's certificate, followed by intermediate ones. */
  readonly cert: string
  readonly key: string
  /** The passphrase of an encrypted key. */
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

/** What a listener serves. */
export interface ServerCredentials {
  readonly options: SecureContextOptions
  /** When the first certificate of the chain that expires does, and from when all are valid; in ms of the wall clock. */
  readonly validTo: number
  readonly validFrom: number
  /** The server's own. */
  readonly leaf: X509Certificate
}

/** What `tls.createServer` is told of client certificates. */
export function requestOptions(tls: TlsOptions | undefined): ServerOptions {
  const clientCertificate = tls?.clientCertificate ?? 'none'
  return {
    requestCert: clientCertificate !== 'none',
    rejectUnauthorized: clientCertificate === 'require',
  }
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
  const options: SecureContextOptions = {
    cert: pem(listener, 'cert', tls.cert),
    key: privateKey(listener, tls.key),
    minVersion: tls.minimumVersion ?? 'TLSv1.2',
  }
  if (tls.passphrase !== undefined) options.passphrase = tls.passphrase
  if (tls.ca !== undefined) options.ca = pem(listener, 'ca', tls.ca)
  if (tls.crl !== undefined) options.crl = blocks(pem(listener, 'crl', tls.crl))
  try {
    if (options.ca !== undefined) expectCertificates(String(options.ca))
    createSecureContext(options)
    return { options, ...validity(String(options.cert)) }
  } catch (error) {
    throw new ListenError(
      listener,
      `the certificate and key cannot be used: ${(error as Error).message}`,
      'Check that tls.cert, tls.key, tls.ca and tls.crl are PEM, that certificate and key belong to each other, and that the passphrase is right.',
      { cause: error, key: 'tls' },
    )
  }
}

/** Everything for which `serverCredentials` would throw; the last one only where all files can be read. */
export function tlsProblems(listener: string, tls: TlsOptions): ListenError[] {
  const files = TLS_FILES.flatMap((key) => {
    const value = tls[key]
    if (value === undefined) return []
    return refusals(() => (key === 'key' ? privateKey(listener, value) : pem(listener, key, value)))
  })
  return files.length > 0 ? files : refusals(() => serverCredentials(listener, tls))
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

/** Of all certificates of a chain. Throws for what is no certificate. */
function validity(chain: string): Omit<ServerCredentials, 'options'> {
  const certificates = chain.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? []
  const parsed = certificates.map((text) => new X509Certificate(text))
  return {
    leaf: parsed[0]!,
    validFrom: Math.max(...parsed.map(({ validFrom }) => Date.parse(validFrom))),
    validTo: Math.min(...parsed.map(({ validTo }) => Date.parse(validTo))),
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
