/** Explains to the operator why a listener cannot listen. */
import type { ErrorCode } from '../../errors.ts'

/** A listener cannot listen; the message says why. */
export class ListenError extends Error {
  override readonly name = 'ListenError'
  readonly code: ErrorCode
  /** The name of the listener. */
  readonly listener: string
  /** Advice for the operator, as a sentence. */
  readonly advice: string
  /** This machine does not have the address. */
  readonly missingAddress: boolean
  /** The listener's configuration key with the wrong value, such as `tls.cert`; undefined if none is. */
  readonly key: string | undefined

  constructor(
    listener: string,
    message: string,
    advice: string,
    options: ErrorOptions & { code?: ErrorCode; key?: string } = {},
  ) {
    super(`listener '${listener}': ${message}`, options)
    this.listener = listener
    this.advice = advice
    this.key = options.key
    this.code = options.code ?? (this.key === undefined ? 'GODWIT_LISTEN_FAILED' : 'GODWIT_TLS_FILES')
    this.missingAddress = this.code === 'GODWIT_LISTEN_NO_ADDRESS'
  }
}

/**
 * Turns an error of a server's `listen` into a ListenError. `where` is the address as the operator knows
 * it.
 */
export function toListenError(listener: string, where: string, error: NodeJS.ErrnoException): ListenError {
  const options = { cause: error }
  switch (error.code) {
    case 'EADDRINUSE':
      return new ListenError(
        listener,
        `${where} is in use by another program`,
        `Stop that program (perhaps another broker), or give this listener another port.`,
        { ...options, code: 'GODWIT_LISTEN_IN_USE' },
      )
    case 'EACCES':
    case 'EPERM':
      return new ListenError(
        listener,
        `this user may not listen on ${where}`,
        where.startsWith('unix:')
          ? 'Choose a directory in which this user may create files.'
          : 'Ports below 1024 need root or CAP_NET_BIND_SERVICE: choose a higher port, or grant it.',
        { ...options, code: 'GODWIT_LISTEN_NOT_ALLOWED' },
      )
    case 'EADDRNOTAVAIL':
    case 'EAFNOSUPPORT':
      return new ListenError(
        listener,
        `this machine does not have the address of ${where}`,
        'Use an address that one of its network interfaces has, 0.0.0.0 for all of IPv4, or :: for all.',
        { ...options, code: 'GODWIT_LISTEN_NO_ADDRESS' },
      )
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return new ListenError(
        listener,
        `the host name of ${where} is not known`,
        'Use an IP address, or a name that this machine can resolve.',
        { ...options, code: 'GODWIT_LISTEN_UNKNOWN_HOST' },
      )
    default:
      return new ListenError(
        listener,
        `cannot listen on ${where}: ${error.message}`,
        'Choose another address for this listener.',
        options,
      )
  }
}
