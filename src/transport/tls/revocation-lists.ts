/** Lists of revoked certificates (RFC 5280 section 5): whose they are, and until when they hold. OpenSSL only says so per client. */
import { type KeyObject, verify, X509Certificate } from 'node:crypto'
import { shownName } from './key-pairs.ts'

/** How the lists of a listener stand to its authorities. */
export interface ListCoverage {
  /** Authorities that have no list of their own: OpenSSL refuses every certificate that they signed. */
  readonly missing: readonly string[]
  /** The authority whose list ends first, and when in ms of the wall clock; null where none does. */
  readonly firstEnd: { readonly authority: string; readonly endMs: number } | null
}

interface RevocationList {
  readonly issuer: string
  /** In ms of the wall clock; infinite for a list that does not say. */
  readonly nextUpdateMs: number
  isSignedBy(key: KeyObject): boolean
}

/** One value of DER: a view of its content, and of the whole. */
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

/** Digests by the DER of the signature's algorithm; null for one that its key tells. Others are left to OpenSSL. */
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
 * Compares authorities and lists, both in PEM. Node has OpenSSL check the whole chain (X509_V_FLAG_CRL_CHECK_ALL), so that each authority
 * needs a list, the one on top, too. Throws for a list that is none.
 */
export function listCoverage(authorities: readonly string[], lists: readonly string[]): ListCoverage {
  const parsed = lists.map(revocationList)
  const missing: string[] = []
  let firstEnd: ListCoverage['firstEnd'] = null
  for (const pem of authorities) {
    const certificate = new X509Certificate(pem)
    const subject = subjectOf(certificate)
    const own = parsed.filter(
      ({ issuer, isSignedBy }) => issuer === subject && isSignedBy(certificate.publicKey),
    )
    const authority = shownName(certificate.subject)
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
    throw new Error('tls.crl holds something that is no list of revoked certificates')
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
    // A key of another kind.
    return false
  }
}

function subjectOf(certificate: X509Certificate): string {
  const [outer] = values(certificate.raw)
  const fields = values(values(outer?.content)[0]?.content)
  // Explicitly tagged 0: the version.
  if (fields[0]?.tag === 0xa0) fields.shift()
  return canonicalName(fields[4]!)
}

/** Names are equal whatever the case, the spaces and the kind of their strings (RFC 5280 section 7.1). */
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

/** Undefined for what is no time: the field is optional. */
function timeOf(value: Value | undefined): number | undefined {
  if (value?.tag !== Tag.UtcTime && value?.tag !== Tag.GeneralizedTime) return undefined
  const text = value.content.toString('latin1')
  const digits = value.tag === Tag.UtcTime ? `${Number(text.slice(0, 2)) < 50 ? '20' : '19'}${text}` : text
  const [, year, month, day, hour, minute, second = '00'] =
    /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)?/.exec(digits) ?? []
  return Date.parse(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`)
}

/** The values that follow each other; what is cut off or longer than its place is left out. */
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
