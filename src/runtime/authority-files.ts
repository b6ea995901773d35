/** The files of certificates and keys that `godwit setup` makes in a data directory: what they are called and how they are replaced. */
import { X509Certificate } from 'node:crypto'
import { link, open, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { syncDirectory } from '../store/files/data-directory.ts'
import { alternativeNames } from '../transport/tls/client-certificate.ts'
import { pemBlocks } from '../transport/tls/key-pairs.ts'
import type { KeyKind, ServerNames } from './certificates.ts'
import { shortAddress } from './machine.ts'

/** What there is of one kind of key: an authority, and the server's certificate that it signs. */
export interface KindFiles {
  readonly kind: KeyKind
  readonly authority: { readonly certificate: string; readonly key: string }
  readonly server: { readonly certificate: string; readonly key: string }
}

/**
 * The ones for everybody come first. Devices that know RSA only can verify nothing that an ECDSA authority signed, so that RSA has an
 * authority of its own.
 */
export const KINDS: readonly [KindFiles, KindFiles] = [
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

/** Who writes, and so whose the file becomes; null for whoever runs this. */
export interface FileOwner {
  readonly uid: number
  readonly gid: number
}

/** The first certificate of a PEM text: `ca.crt` holds those of both authorities. */
export function firstCertificate(text: string): string {
  return `${pemBlocks(text, /CERTIFICATE$/)[0] ?? text}\n`
}

/** Whom a server certificate is for. */
export function namesIn(certificate: string): ServerNames {
  const all = alternativeNames(new X509Certificate(certificate).subjectAltName ?? '')
  const of = (kind: string): string[] =>
    all.filter((name) => name.startsWith(kind)).map((name) => name.slice(kind.length))
  return { names: of('DNS:'), addresses: of('IP Address:').map(shortAddress) }
}

/**
 * Writes a whole file or none, durably. A `new` one takes nobody's place: a link cannot replace a file that somebody made
 * meanwhile. Rejects with what the disk says.
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
