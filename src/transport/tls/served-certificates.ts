/**
 * Serves the certificates of a TLS listener and replaces them when the files change, unless the new ones
 * are bad.
 */
import type { X509Certificate } from 'node:crypto'
import { type Stats, statSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import { isIP } from 'node:net'
import type { SecureContextOptions, Server } from 'node:tls'
import { type CertificateTimes, dateText, validityProblems } from './certificate-times.ts'
import { ListenError } from './listen-error.ts'
import {
  isPem,
  optionValues,
  type ServerCredentials,
  serverCredentials,
  TLS_FILES,
  type TlsOptions,
} from './tls.ts'

/** The result of a check of the files. */
export type CertificateUpdate =
  /** New certificates are served to new connections. */
  | { readonly change: 'swapped' }
  /** The new certificates are bad, so the old ones are still served. */
  | { readonly change: 'kept'; readonly problem: string; readonly advice: string }

/** Gives a TLS server its certificates. Throws ListenError if they cannot be served. */
export function serveCertificates(
  listener: string,
  tls: TlsOptions | undefined,
  server: Server,
): ServedCertificates {
  // Take the state of the files before reading them, so that no later change is missed.
  const files = pathsOf(tls).map(stateNow).join('\n')
  const credentials = serverCredentials(listener, tls)
  server.setSecureContext(credentials.options)
  const swap = (options: SecureContextOptions): void => server.setSecureContext(options)
  return new ServedCertificates(listener, tls!, files, credentials, swap)
}

/** Holds the certificates that a listener serves and watches their files. */
export class ServedCertificates {
  readonly #listener: string
  readonly #swap: (options: SecureContextOptions) => void
  #tls: TlsOptions
  #credentials: ServerCredentials
  /** The state of the files when their content was last judged. */
  #judged: string
  /** The state of the files at the last check. */
  #seen: string

  /** `credentials` come from `files` and are already served; `swap` serves others. */
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

  /** The server's own certificates, one for each kind of key. */
  get leaves(): readonly X509Certificate[] {
    return this.#credentials.leaves
  }

  /** The files of `cert`, as the configuration names them. */
  get certificateFiles(): readonly string[] {
    return optionValues(this.#tls.cert).filter((value) => !isPem(value))
  }

  /** Whether a served certificate is valid for this DNS name or address. */
  covers(name: string): boolean {
    return this.#credentials.leaves.some(
      (leaf) => (isIP(name) === 0 ? leaf.checkHost(name) : leaf.checkIP(name)) !== undefined,
    )
  }

  /**
   * Checks whether the files have changed. Call it about once a second: a file that changed since the last
   * check may be incomplete, or its key may still be missing, so new files are judged at the first check
   * that finds them unchanged. Returns null if there is nothing to report.
   */
  async check(nowMs: number): Promise<CertificateUpdate | null> {
    const found = await this.#files(this.#tls)
    const isSettled = found === this.#seen
    this.#seen = found
    if (found === this.#judged || !isSettled) return null
    this.#judged = found
    return this.#judge(this.#tls, nowMs)
  }

  /** Reads the files now, changed or not. Returns null if their content is served already. */
  async reread(nowMs: number, tls: TlsOptions = this.#tls): Promise<CertificateUpdate | null> {
    this.#seen = await this.#files(tls)
    this.#judged = this.#seen
    return this.#judge(tls, nowMs)
  }

  #judge(tls: TlsOptions, nowMs: number): CertificateUpdate | null {
    let credentials: ServerCredentials
    try {
      credentials = serverCredentials(this.#listener, tls)
    } catch (error) {
      if (!(error instanceof ListenError)) throw error
      return { change: 'kept', problem: error.message, advice: error.advice }
    }
    this.#tls = tls
    if (isSame(credentials.options, this.#credentials.options)) return null
    // The new files are worse than the old ones: a wrong file, or one made with a wrong clock.
    const problems = validityProblems(credentials, nowMs)
    if (problems.length > validityProblems(this.#credentials, nowMs).length) {
      return {
        change: 'kept',
        problem: `listener '${this.#listener}': the new files are not valid at this time`,
        advice:
          `${sentence(problems.join('; '))} ` +
          `The certificate is valid from ${dateText(credentials.validFrom)} ` +
          `to ${dateText(credentials.validTo)}. Check the clock, or make another certificate.`,
      }
    }
    // A new context rejects tickets of earlier TLS sessions, so every client is verified again.
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
  return TLS_FILES.flatMap((key) => optionValues(tls?.[key])).filter((value) => !isPem(value))
}

function stateNow(path: string): string {
  try {
    return stateOf(statSync(path))
  } catch (error) {
    return errorCode(error)
  }
}

/** Returns a text that changes when the file changes. `stat` has followed links. */
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
