/** Finds the user that a verified client certificate stands for. */
import type { ClientCertificate } from '../broker/boundary/link.ts'

/** The part of a certificate that names the user. */
export type CertificateName = 'common_name' | 'alternative_name' | 'fingerprint' | 'none'

/** A certificate that the configuration lists by its fingerprint. */
export interface ListedCertificate {
  /** SHA-256 in hexadecimal digits, with or without colons. */
  readonly fingerprint: string
  readonly user: string
}

/** Knows the users of certificates, by the configured rule and the list. */
export class CertificateUsers {
  readonly #name: CertificateName
  readonly #listed: ReadonlyMap<string, string>

  constructor(name: CertificateName, listed: readonly ListedCertificate[]) {
    this.#name = name
    this.#listed = new Map(listed.map(({ fingerprint, user }) => [plain(fingerprint), user]))
  }

  /** Whether a listed certificate stands for this user. */
  names(userName: string): boolean {
    return [...this.#listed.values()].includes(userName)
  }

  /** Returns the user; null if the certificate names none. A listed fingerprint takes precedence. */
  userOf({ subjectCommonName, subjectAltNames, fingerprint256 }: ClientCertificate): string | null {
    const fingerprint = plain(fingerprint256)
    const listed = this.#listed.get(fingerprint)
    if (listed !== undefined) return listed
    switch (this.#name) {
      case 'common_name':
        return subjectCommonName
      case 'alternative_name':
        return alternativeName(subjectAltNames)
      case 'fingerprint':
        return fingerprint
      case 'none':
        return null
    }
  }
}

/** Returns the only name; null for several, because only their order would decide between them. */
function alternativeName(names: readonly string[]): string | null {
  const [only] = names
  return only === undefined || names.length > 1 ? null : only.slice(only.indexOf(':') + 1)
}

function plain(fingerprint: string): string {
  return fingerprint.replaceAll(':', '').toLowerCase()
}
