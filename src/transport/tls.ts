/** Certificates and keys of a listener, and who a client's certificate says it is. */
import { readFileSync } from 'node:fs'
import {
  createSecureContext,
  type SecureContextOptions,
  type TlsOptions as ServerOptions,
  type TLSSocket,
} from 'node:tls'
import type { LinkInfo } from '../broker/link.ts'
import { ListenError } from './listen-error.ts'

/** Each of `cert`, `key` and `ca` is a file's path or the PEM text itself. */
export interface TlsOptions {
  /** The server's certificate, followed by intermediate ones. */
  readonly cert: string
  readonly key: string
  /** The passphrase of an encrypted key. */
  readonly passphrase?: string
  /** Authorities that sign client certificates; the system's when absent. */
  readonly ca?: string
  /** `request`: clients may show a certificate; `require`: only those that show a valid one are let in. */
  readonly clientCertificate?: 'none' | 'request' | 'require'
  readonly minimumVersion?: 'TLSv1.2' | 'TLSv1.3'
}

/** What `tls.createServer` needs. Throws ListenError for a missing file or what does not fit together. */
export function tlsServerOptions(listener: string, tls: TlsOptions | undefined): ServerOptions {
  if (tls === undefined) {
    throw new ListenError(
      listener,
      'TLS needs a certificate and a key',
      "Name the PEM files in the listener's tls.cert and tls.key.",
    )
  }
  const secure: SecureContextOptions = {
    cert: pem(listener, 'cert', tls.cert),
    key: pem(listener, 'key', tls.key),
    minVersion: tls.minimumVersion ?? 'TLSv1.2',
  }
  if (tls.passphrase !== undefined) secure.passphrase = tls.passphrase
  if (tls.ca !== undefined) secure.ca = pem(listener, 'ca', tls.ca)
  try {
    createSecureContext(secure)
  } catch (error) {
    throw new ListenError(
      listener,
      `the certificate and key cannot be used: ${(error as Error).message}`,
      'Check that tls.cert and tls.key are PEM, belong to each other, and that the passphrase is right.',
      { cause: error, key: 'tls' },
    )
  }
  const clientCertificate = tls.clientCertificate ?? 'none'
  return {
    ...secure,
    requestCert: clientCertificate !== 'none',
    rejectUnauthorized: clientCertificate === 'require',
  }
}

/** Everything for which `tlsServerOptions` would throw; the last one only where all files can be read. */
export function tlsProblems(listener: string, tls: TlsOptions): ListenError[] {
  const files = (['cert', 'key', 'ca'] as const).flatMap((key) => {
    const value = tls[key]
    return value === undefined ? [] : refusals(() => pem(listener, key, value))
  })
  return files.length > 0 ? files : refusals(() => tlsServerOptions(listener, tls))
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

/** The Common Name of a client certificate that was verified; nothing without one. */
export function verifiedSubject(socket: TLSSocket): Pick<LinkInfo, 'certificateCommonName'> {
  if (!socket.authorized) return {}
  const name: unknown = socket.getPeerCertificate().subject?.CN
  return typeof name === 'string' && name !== '' ? { certificateCommonName: name } : {}
}

function pem(listener: string, key: string, value: string): string {
  if (value.includes('-----BEGIN ')) return value
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
