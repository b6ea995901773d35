/**
 * Generates passwords and checks them. They have 144 random bits, which nobody guesses however fast a try is.
 * So one HMAC with a salt is enough to store them, and a check takes microseconds, while argon2id takes 25 to
 * 60 ms. Nothing here may be logged.
 */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'

/** 18 bytes are 24 characters of base64url. */
const PASSWORD_BYTES = 18
const PASSWORD_CHARACTERS = 24
const SALT_BYTES = 16
const DIGEST_BYTES = 32

const PREFIX = '$godwit-generated$v=1$'

/** Salt and digest: 16 and 32 bytes in base64 without its padding. */
const SALT_AND_DIGEST = /^([A-Za-z0-9+/]{22})\$([A-Za-z0-9+/]{43})$/

const PASSWORD = /^[A-Za-z0-9_-]{24}$/

/** A stored password: HMAC-SHA-256 over the password, with the salt as its key. */
export interface GeneratedHash {
  readonly kind: 'generated'
  /** As it stands in the file. */
  readonly encoded: string
  readonly salt: Buffer
  readonly digest: Buffer
}

/** A new password, and its hash for the file. */
export interface GeneratedPassword {
  readonly password: string
  readonly encoded: string
}

/** Generates a password. Only such passwords may be stored in this way, which would be unsafe for others. */
export function generatePassword(): GeneratedPassword {
  const password = randomBytes(PASSWORD_BYTES).toString('base64url')
  const salt = randomBytes(SALT_BYTES)
  const digest = digestOf(salt, Buffer.from(password, 'latin1'))
  return { password, encoded: `${PREFIX}${unpadded(salt)}$${unpadded(digest)}` }
}

/** Whether the text claims to be the hash of a generated password. */
export function isGeneratedHash(text: string): boolean {
  return text.startsWith('$godwit-generated$')
}

/** Parses such a hash. Returns a text that says what is wrong with it. */
export function parseGeneratedHash(text: string): GeneratedHash | string {
  const parts = text.startsWith(PREFIX) ? SALT_AND_DIGEST.exec(text.slice(PREFIX.length)) : null
  if (parts === null) return `the hash of a generated password is ${PREFIX}SALT$DIGEST`
  const [salt, digest] = [parts[1]!, parts[2]!].map((part) => Buffer.from(part, 'base64'))
  if (salt!.length !== SALT_BYTES || digest!.length !== DIGEST_BYTES)
    return 'its salt has 16 bytes, its digest 32'
  return { kind: 'generated', encoded: text, salt: salt!, digest: digest! }
}

/**
 * Whether this is the password. The time taken does not tell how much of it is right. A password that Godwit
 * cannot have generated is wrong even if its hash is in the file, written by hand: such a password could be
 * guessed.
 */
export function isGeneratedPassword({ salt, digest }: GeneratedHash, password: Uint8Array): boolean {
  if (password.length !== PASSWORD_CHARACTERS) return false
  const bytes = Buffer.from(password.buffer, password.byteOffset, password.byteLength)
  const isRight = timingSafeEqual(digestOf(salt, bytes), digest)
  return isRight && PASSWORD.test(bytes.toString('latin1'))
}

function digestOf(salt: Buffer, password: Buffer): Buffer {
  return createHmac('sha256', salt).update(password).digest()
}

function unpadded(bytes: Buffer): string {
  return bytes.toString('base64').replace(/=+$/, '')
}
