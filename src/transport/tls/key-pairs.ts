/** Matches certificates and private keys from PEM files: a chain and its key for each kind of key. */
import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto'

/** A PEM text and the name of its origin. */
export interface PemSource {
  readonly name: string
  readonly text: string
}

/** A certificate chain and its key, for clients that support this kind of key. */
export interface KeyPair {
  /** The server's own certificate. */
  readonly leaf: X509Certificate
  /** In PEM: the server's own certificate and then those of its authorities. */
  readonly chain: string
  /** The certificates of the chain. */
  readonly certificates: readonly X509Certificate[]
  /** In PEM. */
  readonly key: string
  /** The kind of key, such as `RSA` or `ECDSA`. */
  readonly kind: string
}

/** The configuration key that names the wrong file; `tls` if it may be either. */
type WrongKey = 'tls' | 'tls.cert' | 'tls.key'

/** Certificates and keys do not match, or cannot be read. */
export class KeyPairError extends Error {
  override readonly name = 'KeyPairError'
  readonly key: WrongKey

  constructor(key: WrongKey, message: string, options?: ErrorOptions) {
    super(message, options)
    this.key = key
  }
}

const KINDS: Readonly<Record<string, string>> = {
  rsa: 'RSA',
  'rsa-pss': 'RSA-PSS',
  ec: 'ECDSA',
  ed25519: 'Ed25519',
  ed448: 'Ed448',
}

interface Key {
  readonly source: string
  readonly pem: string
  readonly object: KeyObject
}

/**
 * Returns a pair for each certificate of the server. OpenSSL alone would use the first certificate of a
 * file and send the others as authorities. Throws KeyPairError for a certificate without its key, a key
 * without its certificate, and two certificates for one kind of key.
 */
export function keyPairs(
  certificates: readonly PemSource[],
  keys: readonly PemSource[],
  passphrase: string | undefined,
): KeyPair[] {
  const parsedKeys = keys.flatMap((source) => keysOf(source, passphrase))
  const chains = certificates.flatMap((source) => chainsOf(source, parsedKeys))
  const pairs = chains.map(({ source, chain }) => pairOf(source, chain, parsedKeys))
  const unused = parsedKeys.find(({ object }) => !pairs.some(({ leaf }) => leaf.checkPrivateKey(object)))
  if (unused !== undefined) {
    throw new KeyPairError(
      'tls',
      `key mismatch: the ${kindOf(unused.object)} key of ${unused.source} ` +
        'belongs to no certificate of tls.cert',
    )
  }
  const kinds = pairs.map(({ kind }) => kind)
  const twice = kinds.find((kind, i) => kinds.indexOf(kind) !== i)
  if (twice !== undefined) {
    throw new KeyPairError(
      'tls.cert',
      `there are two certificates for ${twice} keys, and a server can show one of each kind`,
    )
  }
  return pairs
}

/** Returns the complete blocks of a PEM text whose labels match. */
export function pemBlocks(text: string, label: RegExp): string[] {
  // Keys encrypted by old versions of OpenSSL have headers, which contain hyphens.
  const found = text.matchAll(/-----BEGIN ([^-]+)-----(?:[^-]|-(?!----))+-----END \1-----/g)
  return [...found].filter(([, name]) => label.test(name!)).map(([block]) => block)
}

/**
 * Formats a distinguished name on one line for errors and cuts off a long one. Despite its types, Node
 * returns undefined for an empty name and for one that OpenSSL cannot write.
 */
export function displayName(name: string | undefined, charactersMax = 120): string {
  const plain = name?.replaceAll('\n', ', ') ?? ''
  if (plain === '') return 'without a name'
  return plain.length > charactersMax ? `${plain.slice(0, charactersMax - 1)}…` : plain
}

function keysOf({ name, text }: PemSource, passphrase: string | undefined): Key[] {
  const blocks = pemBlocks(text, /PRIVATE KEY$/)
  if (blocks.length === 0) throw new KeyPairError('tls.key', `${name} holds no whole private key`)
  return blocks.map((pem) => {
    try {
      const object = createPrivateKey({ key: pem, ...(passphrase !== undefined && { passphrase }) })
      return { source: name, pem, object }
    } catch (error) {
      const message = `the key of ${name} cannot be read: ${(error as Error).message}`
      throw new KeyPairError('tls.key', message, { cause: error })
    }
  })
}

/** Splits the certificates into chains: each server certificate begins one. Duplicates count once. */
function chainsOf(
  { name, text }: PemSource,
  keys: readonly Key[],
): { source: string; chain: [X509Certificate, ...X509Certificate[]] }[] {
  const found = pemBlocks(text, /^(X509 |TRUSTED )?CERTIFICATE$/).map((pem) => certificateOf(name, pem))
  if (found.length === 0) throw new KeyPairError('tls.cert', `${name} holds no whole certificate`)
  const all = [...new Map(found.map((one) => [one.fingerprint256, one])).values()]
  // Old authorities without extensions are not marked as authorities.
  const isAuthority = (one: X509Certificate): boolean =>
    one.ca || all.some((other) => other !== one && other.checkIssued(one))
  const isOwn = (one: X509Certificate): boolean =>
    keys.some(({ object }) => one.checkPrivateKey(object)) || !isAuthority(one)
  const first = all.find(isOwn) ?? all[0]!
  const chains: { source: string; chain: [X509Certificate, ...X509Certificate[]] }[] = [
    { source: name, chain: [first] },
  ]
  for (const one of all) {
    if (one === first) continue
    if (isOwn(one)) chains.push({ source: name, chain: [one] })
    else chains.at(-1)!.chain.push(one)
  }
  return chains
}

function certificateOf(source: string, pem: string): X509Certificate {
  try {
    return new X509Certificate(pem)
  } catch (error) {
    const message = `a certificate of ${source} cannot be read: ${(error as Error).message}`
    throw new KeyPairError('tls.cert', message, { cause: error })
  }
}

function pairOf(
  source: string,
  chain: readonly [X509Certificate, ...X509Certificate[]],
  keys: readonly Key[],
): KeyPair {
  const [leaf] = chain
  const kind = kindOf(leaf.publicKey)
  const key = keys.find(({ object }) => leaf.checkPrivateKey(object))
  if (key === undefined) {
    throw new KeyPairError(
      'tls',
      'key mismatch: no key of tls.key belongs to ' +
        `the ${kind} certificate ${displayName(leaf.subject)} of ${source}`,
    )
  }
  return { leaf, chain: chain.map(String).join(''), certificates: chain, key: key.pem, kind }
}

function kindOf({ asymmetricKeyType }: KeyObject): string {
  return KINDS[asymmetricKeyType ?? ''] ?? String(asymmetricKeyType)
}
