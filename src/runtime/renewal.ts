/** A running broker renews the server certificates that `godwit setup` made, while the key of their authority is in its data directory. */
import { X509Certificate } from 'node:crypto'
import { existsSync, readFileSync, realpathSync } from 'node:fs'
import { join } from 'node:path'
import { firstCertificate, KINDS, type KindFiles, namesIn, writeWhole } from './authority-files.ts'

/** From so many days before its end on. */
export const RENEWAL_DAYS = 30

const DAY_MS = 86_400_000

/** What a renewal led to; `file` is the path of the certificate. */
export type Renewed =
  | { readonly file: string; readonly until: string }
  | { readonly file: string; readonly problem: string }

export class Renewal {
  readonly #directory: string

  constructor(directory: string) {
    this.#directory = directory
  }

  /** Whether the broker could make another one of every certificate among these files. */
  covers(files: readonly string[]): boolean {
    return files.length > 0 && files.every((file) => this.#kindOf(file) !== undefined)
  }

  /**
   * Makes another one for each of these files whose certificate ends soon or is not valid yet, with the same key and names. The files
   * are watched: a listener serves the new one within seconds. Never rejects.
   */
  async renew(files: readonly string[], nowMs: number): Promise<Renewed[]> {
    const results: Renewed[] = []
    for (const file of files) {
      const kind = this.#kindOf(file)
      if (kind === undefined) continue
      try {
        const until = await this.#renewed(kind, nowMs)
        if (until !== null) results.push({ file, until })
      } catch (error) {
        results.push({ file, problem: error instanceof Error ? error.message : String(error) })
      }
    }
    return results
  }

  /** Undefined for a file that is not setup's, and while the authority's key is elsewhere. */
  #kindOf(file: string): KindFiles | undefined {
    return KINDS.find(
      ({ server, authority }) =>
        this.#isOwn(file, server.certificate) && existsSync(this.#path(authority.key)),
    )
  }

  /** Null where there is no need. */
  async #renewed({ kind, authority, server }: KindFiles, nowMs: number): Promise<string | null> {
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
    // With a clock that is far off, all that comes of it would be refused as well.
    if (nowMs < Date.parse(parsed.validFrom) || nowMs > Date.parse(parsed.validTo) - DAY_MS) {
      throw new Error(`${authority.certificate} is valid from ${parsed.validFrom} to ${parsed.validTo}`)
    }
    // Nothing else of a broker needs it (20 packages), so that it is loaded once a year.
    const { createServerCertificate } = await import('./certificates.ts')
    const made = await createServerCertificate(issuer, namesIn(old), nowMs, { kind, key: read(server.key) })
    const options = { mode: 0o644, how: 'replace', owner: null } as const
    await writeWhole(this.#directory, server.certificate, made.certificate, options)
    return new X509Certificate(made.certificate).validTo
  }

  #path(name: string): string {
    return join(this.#directory, name)
  }

  /** Whether this way leads to that file. A link in its place leads to somebody else's, which is not ours to replace. */
  #isOwn(file: string, name: string): boolean {
    try {
      return realpathSync(file) === join(realpathSync(this.#directory), name)
    } catch {
      return false
    }
  }
}
