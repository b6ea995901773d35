/** The certificates that a TLS listener serves: exchanged for new ones while connections go on, kept when the new are bad. */
import type { X509Certificate } from 'node:crypto'
import { type Stats, statSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import { isIP } from 'node:net'
import type { SecureContextOptions, Server } from 'node:tls'
import { type CertificateTimes, day, timeTroubles } from './certificate-times.ts'
import { ListenError } from './listen-error.ts'
import {
  isPem,
  type ServerCredentials,
  serverCredentials,
  sources,
  TLS_FILES,
  type TlsOptions,
} from './tls.ts'

/** What a look at the files led to. */
export type CertificateNews =
  /** New ones are served to whoever connects from now on. */
  | { readonly change: 'swapped' }
  /** What is there cannot be served: the old ones are. */
  | { readonly change: 'kept'; readonly problem: string; readonly advice: string }

/** Gives a TLS server its certificates. Throws ListenError when they cannot be served. */
export function servedCertificates(
  listener: string,
  tls: TlsOptions | undefined,
  server: Server,
): ServedCertificates {
  // Before they are read: what changes from here on is seen.
  const files = pathsOf(tls).map(stateNow).join('\n')
  const credentials = serverCredentials(listener, tls)
  server.setSecureContext(credentials.options)
  const swap = (options: SecureContextOptions): void => server.setSecureContext(options)
  return new ServedCertificates(listener, tls!, files, credentials, swap)
}

export class ServedCertificates {
  readonly #listener: string
  readonly #swap: (options: SecureContextOptions) => void
  #tls: TlsOptions
  #credentials: ServerCredentials
  /** The files as they were when their content was judged. */
  #judged: string
  /** The files as they were at the last look. */
  #seen: string

  /** `credentials` are served already, and from `files`; `swap` serves others. */
  constructor(
    listener: string,
    tls: TlsOptions,
    files: string,
    credentials: ServerCredentials,
    swap: (options: SecureContextOptions) => void,
  ) {
    this.#listener = listener
    this.#tls = tls
    this.#judged = files
    this.#seen = files
    this.#credentials = credentials
    this.#swap = swap
  }

  get times(): CertificateTimes {
    return this.#credentials
  }

  /** The server's own certificates, of each kind of key. */
  get leaves(): readonly X509Certificate[] {
    return this.#credentials.leaves
  }

  /** The files of `cert`, as the configuration names them. */
  get certificateFiles(): readonly string[] {
    return sources(this.#tls.cert).filter((value) => !isPem(value))
  }

  /** Whether the served certificate is for this DNS name or address. */
  covers(name: string): boolean {
    return this.#credentials.leaves.some(
      (leaf) => (isIP(name) === 0 ? leaf.checkHost(name) : leaf.checkIP(name)) !== undefined,
    )
  }

  /**
   * Looks whether the files have changed. To be called every second or so: what has changed since the last look may still be
   * written, or be one of two files, and is judged at the next look that finds it unchanged. Null when there is nothing to tell.
   */
  async look(nowMs: number): Promise<CertificateNews | null> {
    const found = await this.#files(this.#tls)
    const isSettled = found === this.#seen
    this.#seen = found
    if (found === this.#judged || !isSettled) return null
    this.#judged = found
    return this.#judge(this.#tls, nowMs)
  }

  /** Reads the files at once, whether they changed or not. Null when they hold what is served. */
  async reread(nowMs: number, tls: TlsOptions = this.#tls): Promise<CertificateNews | null> {
    this.#seen = await this.#files(tls)
    this.#judged = this.#seen
    return this.#judge(tls, nowMs)
  }

  #judge(tls: TlsOptions, nowMs: number): CertificateNews | null {
    let credentials: ServerCredentials
    try {
      credentials = serverCredentials(this.#listener, tls)
    } catch (error) {
      if (!(error instanceof ListenError)) throw error
      return { change: 'kept', problem: error.message, advice: error.advice }
    }
    this.#tls = tls
    if (isSame(credentials.options, this.#credentials.options)) return null
    // Worse than what is served: a wrong file, or a wrong clock where it came from.
    const troubles = timeTroubles(credentials, nowMs)
    if (troubles.length > timeTroubles(this.#credentials, nowMs).length) {
      return {
        change: 'kept',
        problem: `listener '${this.#listener}': what is new is not valid at this time`,
        advice: `${sentence(troubles.join('; '))} The certificate is valid from ${day(credentials.validFrom)} to ${day(credentials.validTo)}. Look at the clock, or make another one.`,
      }
    }
    // Tickets of earlier TLS sessions are worth nothing to a new context: whoever comes back is verified anew.
    this.#swap(credentials.options)
    this.#credentials = credentials
    return { change: 'swapped' }
  }

  async #files(tls: TlsOptions): Promise<string> {
    const found = pathsOf(tls).map((path) => stat(path).then(stateOf, errorCode))
    return (await Promise.all(found)).join('\n')
  }
}

function pathsOf(tls: TlsOptions | undefined): string[] {
  return TLS_FILES.flatMap((key) => sources(tls?.[key])).filter((value) => !isPem(value))
}

function stateNow(path: string): string {
  try {
    return stateOf(statSync(path))
  } catch (error) {
    return errorCode(error)
  }
}

/** A text that differs when the file differs; links were followed to their ends. */
function stateOf({ dev, ino, size, mtimeMs, ctimeMs }: Stats): string {
  return [dev, ino, size, mtimeMs, ctimeMs].join(' ')
}

function errorCode(error: unknown): string {
  return String((error as NodeJS.ErrnoException).code)
}

function sentence(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`
}

function isSame(one: SecureContextOptions, other: SecureContextOptions): boolean {
  return JSON.stringify(one) === JSON.stringify(other)
}
