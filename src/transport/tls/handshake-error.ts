/** PURE. Explains failed TLS handshakes for readers of the log. */

const UNTRUSTED = 'the client does not trust the certificate of this listener: does it have the right ca.crt?'
const NO_TLS = 'the client does not speak TLS'

/** Explanations by the codes of Node and OpenSSL. */
const CAUSES: Readonly<Record<string, string>> = {
  ECONNRESET:
    'the client left before it was complete; it may not trust the certificate, or only probe the port',
  EPIPE: 'the client left before it was complete',
  ERR_TLS_HANDSHAKE_TIMEOUT: 'it took too long',
  ERR_SSL_HTTP_REQUEST: 'the client speaks HTTP without TLS',
  ERR_SSL_HTTPS_PROXY_REQUEST: 'the client takes this listener for an HTTP proxy',
  ERR_SSL_WRONG_VERSION_NUMBER: NO_TLS,
  ERR_SSL_UNKNOWN_PROTOCOL: NO_TLS,
  ERR_SSL_BAD_RECORD_TYPE: NO_TLS,
  ERR_SSL_PACKET_LENGTH_TOO_LONG: NO_TLS,
  ERR_SSL_RECORD_TOO_SMALL: NO_TLS,
  ERR_SSL_UNSUPPORTED_PROTOCOL: 'the client only knows versions of TLS that tls.minimum_version excludes',
  ERR_SSL_VERSION_TOO_LOW: 'the client only knows versions of TLS that tls.minimum_version excludes',
  ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION: 'the client does not know the versions of TLS that are served here',
  ERR_SSL_NO_SHARED_CIPHER:
    'client and listener have no cipher in common; old devices may need a certificate with an RSA key',
  ERR_SSL_NO_SHARED_GROUP: 'client and listener have no group for the key exchange in common',
  ERR_SSL_NO_SUITABLE_KEY_SHARE: 'client and listener have no group for the key exchange in common',
  ERR_SSL_NO_SUITABLE_SIGNATURE_ALGORITHM: 'the client cannot verify this kind of certificate',
  ERR_SSL_SSLV3_ALERT_HANDSHAKE_FAILURE: 'the client found nothing in common with the listener',
  ERR_SSL_TLSV1_ALERT_UNKNOWN_CA: UNTRUSTED,
  ERR_SSL_SSLV3_ALERT_BAD_CERTIFICATE: UNTRUSTED,
  ERR_SSL_SSLV3_ALERT_CERTIFICATE_UNKNOWN: UNTRUSTED,
  ERR_SSL_TLSV1_ALERT_DECRYPT_ERROR: UNTRUSTED,
  ERR_SSL_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE: 'the client cannot use this kind of certificate',
  ERR_SSL_SSLV3_ALERT_CERTIFICATE_EXPIRED:
    'the client finds the certificate of this listener expired: is its clock right?',
  ERR_SSL_SSLV3_ALERT_CERTIFICATE_REVOKED: 'the client finds the certificate of this listener revoked',
  ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE: 'the client sent no certificate, but one is required',
}

/**
 * OpenSSL's line, such as `807C:error:0A00009C:SSL routines:ssl3_get_record:http request:../deps/x.c:341:`
 */
const OPENSSL = /error:[0-9A-F]+:[^:]*:[^:]*:([^:\n]+)/

/** Describes a failed handshake in one line, without OpenSSL's internal details. */
export function handshakeFailure(error: NodeJS.ErrnoException): string {
  const known = error.code === undefined ? undefined : CAUSES[error.code]
  return `TLS handshake: ${known ?? OPENSSL.exec(error.message)?.[1] ?? error.message.trim()}`
}
