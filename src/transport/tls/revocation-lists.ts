/**
 * Reads lists of revoked certificates (RFC 5280 section 5): their authorities and their ends. OpenSSL
 * reports a missing or outdated list only when a client connects.
 */
import { type KeyObject, verify, X509Certificate } from 'node:crypto'
import { displayName } from './key-pairs.ts'

/** The coverage of a listener's authorities by its lists. */
export interface RevocationCoverage {
  /** Authorities without a list: OpenSSL refuses every certificate that they signed. */
  readonly missing: readonly string[]
  /** The authority whose list ends first, and its end in ms of the wall clock; null if none ends. */
  readonly firstEnd: { readonly authority: string; readonly endMs: number } | null
}

interface RevocationList {
  readonly issuer: string
  /** The end in ms of the wall clock; infinite for a list without an end. */
  readonly nextUpdateMs: number
  isSignedBy(key: KeyObject): boolean
}

/** One value of DER, with views of its content and of the whole value. */
interface Value {
  readonly tag: number
  readonly content: Buffer
  readonly whole: Buffer
}

const Tag = {
  Integer: 0x02,
  Oid: 0x06,
  Utf8: 0x0c,
  UtcTime: 0x17,
  GeneralizedTime: 0x18,
  Universal: 0x1c,
  Bmp: 0x1e,
}

/**
 * Digests by the OID of the signature's algorithm; null if the key determines it. Signatures by other
 * algorithms are not verified here but only by OpenSSL.
 */
const DIGESTS: Readonly<Record<string, string | null>> = {
  '2a864886f70d010105': 'sha1',
  '2a864886f70d01010b': 'sha256',
  '2a864886f70d01010c': 'sha384',
  '2a864886f70d01010d': 'sha512',
  '2a8648ce3d0401': 'sha1',
  '2a8648ce3d040302': 'sha256',
  '2a8648ce3d040303': 'sha384',
  '2a8648ce3d040304': 'sha512',
  '2b6570': null,
  '2b6571': null,
}

/**
 * Compares authorities and lists, both in PEM. Node makes OpenSSL check the whole chain
 * (X509_V_FLAG_CRL_CHECK_ALL), so every authority needs a list, even the root. Throws for an invalid list.
 */
export function revocationCoverage(
  authorities: readonly string[],
  lists: readonly string[],
): RevocationCoverage {
  const parsed = lists.map(revocationList)
  const missing: string[] = []
  let firstEnd: RevocationCoverage['firstEnd'] = null
  for (const pem of authorities) {
    const certificate = new X509Certificate(pem)
    const subject = subjectOf(certificate)
    const own = parsed.filter(
      ({ issuer, isSignedBy }) => issuer === subject && isSignedBy(certificate.publicKey),
    )
    const authority = displayName(certificate.subject)
    if (own.length === 0) missing.push(authority)
    else {
      const endMs = Math.max(...own.map(({ nextUpdateMs }) => nextUpdateMs))
      if (endMs < (firstEnd?.endMs ?? Number.POSITIVE_INFINITY)) firstEnd = { authority, endMs }
    }
  }
  return { missing, firstEnd }
}

function revocationList(pem: string): RevocationList {
  const der = Buffer.from(pem.replace(/-----[^-]+-----/g, ''), 'base64')
  const [outer] = values(der)
  const [signed, algorithm, signature] = values(outer?.content)
  const fields = values(signed?.content)
  if (fields[0]?.tag === Tag.Integer) fields.shift()
  const [, issuer, thisUpdate, nextUpdate] = fields
  if (
    algorithm === undefined ||
    signature === undefined ||
    issuer === undefined ||
    thisUpdate === undefined
  ) {
    throw new Error('tls.crl contains something that is not a list of revoked certificates')
  }
  const digest = DIGESTS[values(algorithm.content)[0]?.content.toString('hex') ?? '']
  return {
    issuer: canonicalName(issuer),
    nextUpdateMs: timeOf(nextUpdate) ?? Number.POSITIVE_INFINITY,
    // The first byte of a bit string counts the bits that its last one leaves unused.
    isSignedBy: (key) =>
      digest === undefined || verifies(digest, signed!.whole, key, signature.content.subarray(1)),
  }
}

function verifies(digest: string | null, signed: Buffer, key: KeyObject, signature: Buffer): boolean {
  try {
    return verify(digest, signed, key, signature)
  } catch {
    // The key is of another kind.
    return false
  }
}

function subjectOf(certificate: X509Certificate): string {
  const [outer] = values(certificate.raw)
  const fields = values(values(outer?.content)[0]?.content)
  // The version is optional and tagged explicitly with 0.
  if (fields[0]?.tag === 0xa0) fields.shift()
  return canonicalName(fields[4]!)
}

/** Normalizes a name: case, spaces and the kind of string do not matter (RFC 5280 section 7.1). */
function canonicalName(name: Value): string {
  const parts = values(name.content).map((set) =>
    values(set.content)
      .map((attribute) => values(attribute.content))
      .map(([type, value]) => `${type?.content.toString('hex')}=${canonicalText(value)}`)
      .sort()
      .join('+'),
  )
  return JSON.stringify(parts)
}

function canonicalText(value: Value | undefined): string {
  return textOf(value).normalize('NFC').toLowerCase().trim().replace(/\s+/g, ' ')
}

function textOf(value: Value | undefined): string {
  if (value === undefined) return ''
  const { tag, content } = value
  if (tag === Tag.Bmp)
    return Buffer.from(content.subarray(0, content.length & ~1))
      .swap16()
      .toString('utf16le')
  if (tag === Tag.Universal) return content.toString('hex')
  return content.toString(tag === Tag.Utf8 ? 'utf8' : 'latin1')
}

/** Parses a time; undefined for any other value, because the field is optional. */
function timeOf(value: Value | undefined): number | undefined {
  if (value?.tag !== Tag.UtcTime && value?.tag !== Tag.GeneralizedTime) return undefined
  const text = value.content.toString('latin1')
  const digits = value.tag === Tag.UtcTime ? `${Number(text.slice(0, 2)) < 50 ? '20' : '19'}${text}` : text
  const [, year, month, day, hour, minute, second = '00'] =
    /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)?/.exec(digits) ?? []
  return Date.parse(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`)
}

/** Splits bytes into values and stops at one that is incomplete. */
function values(bytes: Buffer | undefined): Value[] {
  const found: Value[] = []
  for (let at = 0; bytes !== undefined && at + 2 <= bytes.length; ) {
    let length = bytes[at + 1]!
    let from = at + 2
    if (length >= 0x80) {
      const count = length & 0x7f
      if (count === 0 || count > 4 || from + count > bytes.length) break
      length = bytes.readUIntBE(from, count)
      from += count
    }
    if (from + length > bytes.length) break
    const content = bytes.subarray(from, from + length)
    found.push({ tag: bytes[at]!, content, whole: bytes.subarray(at, from + length) })
    at = from + length
  }
  return found
}
