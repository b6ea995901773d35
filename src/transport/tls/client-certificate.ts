/** Reads and judges the TLS certificate of a client. */
import type { X509Certificate } from 'node:crypto'
import type { TLSSocket } from 'node:tls'
import type { ClientCertificate, LinkInfo } from '../../broker/boundary/link.ts'
import { displayName } from './key-pairs.ts'
import type { TlsOptions } from './tls.ts'

/** One name of a certificate in Node's notation, which quotes misleading characters like JSON. */
const ALTERNATIVE_NAME = /([A-Za-z][A-Za-z ]*):("(?:[^"\\]|\\.)*"|[^,]*)(?:, |$)/g

/** Names in a refusal are cut off here: the log cuts texts at 256 characters, and the cause comes last. */
const NAME_CHARACTERS_MAX = 60

/** Explanations of the OpenSSL codes that clients meet in practice. */
const EXPLANATIONS: Readonly<Record<string, string>> = {
  CERT_HAS_EXPIRED: 'an authority above it has expired',
  CERT_NOT_YET_VALID: 'an authority above it is not yet valid',
  CERT_REVOKED: 'it was revoked by its authority',
  UNABLE_TO_GET_ISSUER_CERT: 'no authority of tls.ca signed it',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'no authority of tls.ca signed it',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'no authority of tls.ca signed it',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'it is self-signed and not in tls.ca',
  SELF_SIGNED_CERT_IN_CHAIN: 'no authority of tls.ca signed it',
  CERT_SIGNATURE_FAILURE: 'its signature is not by the authority that it names',
  UNABLE_TO_GET_CRL: 'tls.crl has no list by its authority',
  CRL_HAS_EXPIRED: 'the list of revoked certificates by its authority is out of date',
  CRL_NOT_YET_VALID: 'the list of revoked certificates by its authority is not yet valid',
  INVALID_PURPOSE: 'it is not a certificate for clients',
}

/**
 * Returns the certificate of a client after the handshake, or the reason why it is missing or invalid.
 * OpenSSL has verified it against `ca` and `crl`: in this handshake, or when a resumed TLS session began.
 * New files create new ticket keys, so no session outlives the old files. A resumed session may have no
 * certificate, or one that has expired since, so both are checked here.
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
  const reason = whyNot(shown, socket, nowMs)
  if (reason === null) return { certificate: identityOf(shown) }
  const name = (full: string): string => displayName(full, NAME_CHARACTERS_MAX)
  const whose = `${name(shown.subject)}, issued by ${name(shown.issuer)}`
  return { certificateRefusal: `the client certificate ${whose}: ${reason}` }
}

/**
 * Returns the reason to refuse a certificate, or null. Its own dates explain more than a code about the
 * chain.
 */
function whyNot(shown: X509Certificate, socket: TLSSocket, nowMs: number): string | null {
  const code = socket.authorized ? null : codeOf(socket)
  if (nowMs > Date.parse(shown.validTo)) return `it expired on ${secondText(shown.validTo)}`
  if (nowMs < Date.parse(shown.validFrom)) return `it is not valid before ${secondText(shown.validFrom)}`
  if (code === null) return null
  const meaning = EXPLANATIONS[code]
  return meaning === undefined ? code : `${meaning} (${code})`
}

/** Formats a time to the second, such as `2027-10-01T12:00:00Z`. */
function secondText(time: string): string {
  return new Date(time).toISOString().replace('.000Z', 'Z')
}

/** Returns the fields that identify the holder of a certificate. */
export function identityOf(certificate: X509Certificate): ClientCertificate {
  const name: unknown = certificate.toLegacyObject().subject?.CN
  return {
    subjectCommonName: typeof name === 'string' && name !== '' ? name : null,
    subjectAltNames: alternativeNames(certificate.subjectAltName ?? ''),
    fingerprint256: certificate.fingerprint256,
  }
}

/** Parses Node's text of subject alternative names. */
export function alternativeNames(text: string): string[] {
  return [...text.matchAll(ALTERNATIVE_NAME)].map(([, kind = '', name = '']) => {
    const plain: unknown = name.startsWith('"') ? JSON.parse(name) : name
    return `${kind}:${String(plain)}`
  })
}

/** Returns OpenSSL's code of a failed verification, such as CERT_REVOKED. */
function codeOf(socket: TLSSocket): string {
  const { authorizationError: error } = socket
  return String(error instanceof Error ? error.message : error)
}
