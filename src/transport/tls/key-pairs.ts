/** Certificates and private keys as they stand in PEM files, put together: a chain and its key for each kind of key. */
import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto'

/** A PEM text and where it is from. */
export interface PemSource {
  readonly name: string
  readonly text: string
}

/** What a TLS server shows to clients that understand this kind. */
export interface KeyPair {
  /** The server's own certificate. */
  readonly leaf: X509Certificate
  /** In PEM: the server's own, then those that authorities above it have. */
  readonly chain: string
  readonly certificates: readonly X509Certificate[]
  /** In PEM. */
  readonly key: string
  readonly kind: string
}

/** `tls` where either file may be the wrong one. */
type WrongKey = 'tls' | 'tls.cert' | 'tls.key'

/** Files that do not fit together; `key` is the listener's key that names the wrong one. */
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
 * A pair for each certificate of the server. OpenSSL alone would take the first certificate of a file and show the others as if they
 * were authorities. Throws KeyPairError for a certificate without its key, a key without its certificate, and two of one kind.
 */
export function keyPairs(
  certificates: readonly PemSource[],
  keys: readonly PemSource[],
  passphrase: string | undefined,
): KeyPair[] {
  const parsedKeys = keys.flatMap((source) => keysOf(source, passphrase))
  const chains = certificates.flatMap((source) => chainsOf(source, parsedKeys))
  const pairs = chains.map(({ source, chain }) => paired(source, chain, parsedKeys))
  const unused = parsedKeys.find(({ object }) => !pairs.some(({ leaf }) => leaf.checkPrivateKey(object)))
  if (unused !== undefined) {
    throw new KeyPairError(
      'tls',
      `key mismatch: the ${kindOf(unused.object)} key of ${unused.source} belongs to no certificate of tls.cert`,
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

/** The whole blocks of a PEM text, by what they say they are. */
export function pemBlocks(text: string, label: RegExp): string[] {
  // Keys that older OpenSSL encrypted have headers, with hyphens.
  const found = text.matchAll(/-----BEGIN ([^-]+)-----(?:[^-]|-(?!----))+-----END \1-----/g)
  return [...found].filter(([, name]) => label.test(name!)).map(([block]) => block)
}

/**
 * A distinguished name on one line, as errors show it; a longer one is cut. Node has none for an empty name, or one that OpenSSL
 * cannot write, whatever its types say.
 */
export function shownName(name: string | undefined, charactersMax = 120): string {
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

/** Each certificate of a server begins a chain, and what authorities have follows it. Who stands there twice counts once. */
function chainsOf(
  { name, text }: PemSource,
  keys: readonly Key[],
): { source: string; chain: [X509Certificate, ...X509Certificate[]] }[] {
  const found = pemBlocks(text, /^(X509 |TRUSTED )?CERTIFICATE$/).map((pem) => certificateOf(name, pem))
  if (found.length === 0) throw new KeyPairError('tls.cert', `${name} holds no whole certificate`)
  const all = [...new Map(found.map((one) => [one.fingerprint256, one])).values()]
  // Authorities of old, without extensions, do not say that they are one.
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

function paired(
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
      `key mismatch: no key of tls.key belongs to the ${kind} certificate ${shownName(leaf.subject)} of ${source}`,
    )
  }
  return { leaf, chain: chain.map(String).join(''), certificates: chain, key: key.pem, kind }
}

function kindOf({ asymmetricKeyType }: KeyObject): string {
  return KINDS[asymmetricKeyType ?? ''] ?? String(asymmetricKeyType)
}
