/**
 * Renews the server certificates that `godwit setup` made, if the key of their authority is in the data
 * directory.
 */
import { X509Certificate } from 'node:crypto'
import { existsSync, readFileSync, realpathSync } from 'node:fs'
import { join } from 'node:path'
import {
  CERTIFICATE_FILES,
  type CertificateFiles,
  firstCertificate,
  serverNamesOf,
  writeWhole,
} from './authority-files.ts'

/** A certificate is renewed from so many days before its end. */
export const RENEWAL_DAYS = 30

const DAY_MS = 86_400_000

/** The result of a renewal; `file` is the path of the certificate. */
export type RenewalResult =
  | { readonly file: string; readonly until: string }
  | { readonly file: string; readonly problem: string }

/** Renews the certificates in one data directory. */
export class Renewal {
  readonly #directory: string

  constructor(directory: string) {
    this.#directory = directory
  }

  /** Whether the broker can renew all of these certificates. */
  covers(files: readonly string[]): boolean {
    return files.length > 0 && files.every((file) => this.#kindOf(file) !== undefined)
  }

  /**
   * Renews each of these certificates that expires soon or is not valid yet, with the same key and names.
   * Listeners watch the files and serve the new certificate within seconds. Never rejects.
   */
  async renew(files: readonly string[], nowMs: number): Promise<RenewalResult[]> {
    const results: RenewalResult[] = []
    for (const file of files) {
      const kind = this.#kindOf(file)
      if (kind === undefined) continue
      try {
        const until = await this.#renewFile(kind, nowMs)
        if (until !== null) results.push({ file, until })
      } catch (error) {
        results.push({ file, problem: error instanceof Error ? error.message : String(error) })
      }
    }
    return results
  }

  /** Returns undefined for a file that setup did not make, or if the authority's key is elsewhere. */
  #kindOf(file: string): CertificateFiles | undefined {
    return CERTIFICATE_FILES.find(
      ({ server, authority }) =>
        this.#isOwn(file, server.certificate) && existsSync(this.#path(authority.key)),
    )
  }

  /** Renews a certificate and returns its new end; null if it is not due. */
  async #renewFile({ kind, authority, server }: CertificateFiles, nowMs: number): Promise<string | null> {
    const read = (name: string): string => readFileSync(this.#path(name), 'utf8')
    const old = read(server.certificate)
    const { validFrom, validTo } = new X509Certificate(old)
    const isNear = nowMs > Date.parse(validTo) - RENEWAL_DAYS * DAY_MS || nowMs < Date.parse(validFrom)
    if (!isNear) return null
    const issuer = { certificate: firstCertificate(read(authority.certificate)), key: read(authority.key) }
    const parsed = new X509Certificate(issuer.certificate)
    if (!new X509Certificate(old).checkIssued(parsed)) {
      throw new Error(`${server.certificate} is not signed by ${authority.certificate}`)
    }
    // If the clock is far off, clients would refuse the new certificate, too.
    if (nowMs < Date.parse(parsed.validFrom) || nowMs > Date.parse(parsed.validTo) - DAY_MS) {
      throw new Error(`${authority.certificate} is valid from ${parsed.validFrom} to ${parsed.validTo}`)
    }
    // Nothing else in a broker needs these 20 packages, so they are loaded about once a year.
    const { createServerCertificate } = await import('./certificates.ts')
    const made = await createServerCertificate(issuer, serverNamesOf(old), nowMs, {
      kind,
      key: read(server.key),
    })
    const options = { mode: 0o644, how: 'replace', owner: null } as const
    await writeWhole(this.#directory, server.certificate, made.certificate, options)
    return new X509Certificate(made.certificate).validTo
  }

  #path(name: string): string {
    return join(this.#directory, name)
  }

  /**
   * Whether the path leads to that file in our directory. The target of a link elsewhere is not ours to
   * replace.
   */
  #isOwn(file: string, name: string): boolean {
    try {
      return realpathSync(file) === join(realpathSync(this.#directory), name)
    } catch {
      return false
    }
  }
}
