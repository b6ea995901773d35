/** Who a client's TLS certificate says it is, and whether that still holds. */
import type { X509Certificate } from 'node:crypto'
import type { TLSSocket } from 'node:tls'
import type { ClientCertificate, LinkInfo } from '../broker/link.ts'
import type { TlsOptions } from './tls.ts'

/** One name of a certificate, as Node writes it: quoted like JSON where it has characters that could mislead. */
const ALTERNATIVE_NAME = /([A-Za-z][A-Za-z ]*):("(?:[^"\\]|\\.)*"|[^,]*)(?:, |$)/g

/**
 * The certificate of a client whose handshake is complete, or why it does not do. OpenSSL verified it against `ca` and `crl`,
 * in a resumed TLS session when that began: new ones give new ticket keys, so that no session outlives them. Time goes on in a
 * resumed session, and one may come from a handshake without a certificate: both are looked at here.
 */
export function clientCertificate(
  socket: TLSSocket,
  tls: TlsOptions | undefined,
  nowMs: number,
): Pick<LinkInfo, 'certificate' | 'certificateRefusal'> {
  const mode = tls?.clientCertificate ?? 'none'
  if (mode === 'none') return {}
  const shown = socket.getPeerX509Certificate()
  if (shown === undefined) {
    return mode === 'require' ? { certificateRefusal: 'a client certificate is required' } : {}
  }
  if (!socket.authorized) return { certificateRefusal: `the client certificate: ${reasonOf(socket)}` }
  if (nowMs > Date.parse(shown.validTo)) return { certificateRefusal: 'the client certificate has expired' }
  if (nowMs < Date.parse(shown.validFrom)) {
    return { certificateRefusal: 'the client certificate is not yet valid' }
  }
  return { certificate: identityOf(shown) }
}

/** What identifies its holder. */
export function identityOf(certificate: X509Certificate): ClientCertificate {
  const name: unknown = certificate.toLegacyObject().subject?.CN
  return {
    subjectCommonName: typeof name === 'string' && name !== '' ? name : null,
    subjectAltNames: alternativeNames(certificate.subjectAltName ?? ''),
    fingerprint256: certificate.fingerprint256,
  }
}

/** Node's text of subject alternative names as a list. */
export function alternativeNames(text: string): string[] {
  return [...text.matchAll(ALTERNATIVE_NAME)].map(([, kind = '', name = '']) => {
    const plain: unknown = name.startsWith('"') ? JSON.parse(name) : name
    return `${kind}:${String(plain)}`
  })
}

/** Node names the failure by OpenSSL's code, such as CERT_REVOKED. */
function reasonOf(socket: TLSSocket): string {
  const { authorizationError: error } = socket
  return String(error instanceof Error ? error.message : error)
}
