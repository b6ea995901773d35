/**
 * Names, reads and replaces the files of certificates and keys that `godwit setup` makes in a data
 * directory.
 */
import { X509Certificate } from 'node:crypto'
import { link, open, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { syncDirectory } from '../../store/files/data-directory.ts'
import { alternativeNames } from '../../transport/tls/client-certificate.ts'
import { pemBlocks } from '../../transport/tls/key-pairs.ts'
import type { KeyKind, ServerNames } from './certificates.ts'
import { shortAddress } from './machine.ts'

/** The files of one kind of key: an authority, and the server certificate that it signs. */
export interface CertificateFiles {
  readonly kind: KeyKind
  readonly authority: { readonly certificate: string; readonly key: string }
  readonly server: { readonly certificate: string; readonly key: string }
}

/**
 * The files of both kinds of keys; most clients use the first. Devices that only know RSA cannot verify
 * signatures of an ECDSA authority, so RSA has an authority of its own.
 */
export const CERTIFICATE_FILES: readonly [CertificateFiles, CertificateFiles] = [
  {
    kind: 'ECDSA',
    authority: { certificate: 'ca.crt', key: 'ca.key' },
    server: { certificate: 'server.crt', key: 'server.key' },
  },
  {
    kind: 'RSA',
    authority: { certificate: 'ca-rsa.crt', key: 'ca-rsa.key' },
    server: { certificate: 'server-rsa.crt', key: 'server-rsa.key' },
  },
]

/** The owner of a written file. */
export interface FileOwner {
  readonly uid: number
  readonly gid: number
}

/** Returns the first certificate of a PEM text: `ca.crt` holds those of both authorities. */
export function firstCertificate(text: string): string {
  return `${pemBlocks(text, /CERTIFICATE$/)[0] ?? text}\n`
}

/** Returns the names and addresses in a server certificate. */
export function serverNamesOf(certificate: string): ServerNames {
  const all = alternativeNames(new X509Certificate(certificate).subjectAltName ?? '')
  const of = (kind: string): string[] =>
    all.filter((name) => name.startsWith(kind)).map((name) => name.slice(kind.length))
  return { names: of('DNS:'), addresses: of('IP Address:').map(shortAddress) }
}

/**
 * Writes a file durably, as a whole or not at all. A `new` file is put in place by a link, which never
 * replaces a file that somebody else has just made. `owner` is null for the current user. Rejects with the
 * error of the file system.
 */
export async function writeWhole(
  directory: string,
  name: string,
  text: string,
  { mode, how, owner }: { mode: number; how: 'new' | 'replace'; owner: FileOwner | null },
): Promise<void> {
  const path = join(directory, name)
  const partial = `${path}.${process.pid}.partial`
  try {
    const file = await open(partial, 'wx', mode)
    try {
      await file.chmod(mode)
      if (owner !== null) await file.chown(owner.uid, owner.gid)
      await file.writeFile(text)
      await file.sync()
    } finally {
      await file.close()
    }
    if (how === 'replace') await rename(partial, path)
    else await link(partial, path)
    await syncDirectory(directory)
  } finally {
    await rm(partial, { force: true })
  }
}
