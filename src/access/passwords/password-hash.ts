/** Passwords as they are stored: how they are hashed and checked. Nothing here may be logged. */
import { createHash, createHmac, pbkdf2, randomBytes, timingSafeEqual } from 'node:crypto'
import { createRequire } from 'node:module'
import { promisify } from 'node:util'
import {
  type GeneratedHash,
  isGeneratedHash,
  isGeneratedPassword,
  parseGeneratedHash,
} from './generated-password.ts'

const load = createRequire(import.meta.url)

/** Loaded with the first password: where nobody has one, a start need not wait for it. */
function argon2(): typeof import('@node-rs/argon2') {
  return load('@node-rs/argon2') as typeof import('@node-rs/argon2')
}

const derive = promisify(pbkdf2)

/**
 * argon2id with 19 MiB, two passes, one lane: the first choice of OWASP's cheat sheet for machines that check many, and
 * two at once take 38 MiB. 25 to 60 ms of one processor.
 */
const ARGON2ID = { memoryCost: 19_456, timeCost: 2, parallelism: 1, outputLen: 32 } as const

/** More memory (KiB), passes or lanes than this in a stored hash is refused: checking it would hold everybody up. */
const ARGON2_LIMITS = { memoryCost: 1_048_576, timeCost: 64, parallelism: 16 } as const

const PBKDF2_ITERATIONS_MAX = 10_000_000

/**
 * Of SCRAM-SHA-256. RFC 7677 asks for 4,096 at least. Whoever steals the file can try passwords against this instead of argon2id,
 * so there are more; a client has to do as many at each log-in, so there are not millions.
 */
const SCRAM_ITERATIONS = 100_000
/** For passwords that Godwit made: nobody tries 2^144 of them, so what RFC 7677 asks for is enough. */
const SCRAM_ITERATIONS_GENERATED = 4096
const SCRAM_SALT_BYTES = 16

/** What checks a SCRAM-SHA-256 exchange without knowing the password (RFC 5802 section 3). Byte strings in base64. */
export interface ScramVerifier {
  readonly iterations: number
  readonly salt: string
  readonly storedKey: string
  readonly serverKey: string
}

/** One way in which passwords that somebody chose are stored; `encoded` as it stands in the file. */
export type ChosenHash =
  | { readonly kind: 'argon2'; readonly encoded: string }
  | { readonly kind: 'sha512'; readonly encoded: string; readonly salt: Buffer; readonly digest: Buffer }
  | {
      readonly kind: 'pbkdf2-sha512'
      readonly encoded: string
      readonly iterations: number
      readonly salt: Buffer
      readonly digest: Buffer
    }

/** How the password of a user is stored: one that somebody chose, or one that Godwit made. */
export type PasswordHash = ChosenHash | GeneratedHash

/** Hashes a password with argon2id; the result says how, in the form `$argon2id$v=19$…`. Takes one of libuv's threads. */
export function hashPassword(password: Uint8Array): Promise<string> {
  return argon2().hash(password, ARGON2ID)
}

/** Derives a SCRAM-SHA-256 verifier of a password that somebody chose. Takes one of libuv's threads. */
export function scramVerifier(password: string): Promise<ScramVerifier> {
  return verifierOf(password, SCRAM_ITERATIONS)
}

/** Derives a SCRAM-SHA-256 verifier of a password that Godwit made, in a twentieth of the time. */
export function generatedScramVerifier(password: string): Promise<ScramVerifier> {
  return verifierOf(password, SCRAM_ITERATIONS_GENERATED)
}

async function verifierOf(password: string, iterations: number): Promise<ScramVerifier> {
  const salt = randomBytes(SCRAM_SALT_BYTES)
  const salted = await derive(prepared(password), salt, iterations, 32, 'sha256')
  const clientKey = createHmac('sha256', salted).update('Client Key').digest()
  return {
    iterations,
    salt: salt.toString('base64'),
    storedKey: createHash('sha256').update(clientKey).digest('base64'),
    serverKey: createHmac('sha256', salted).update('Server Key').digest('base64'),
  }
}

/** The mapping and normalisation of SASLprep (RFC 4013 sections 2.1 and 2.2). */
function prepared(password: string): string {
  return password
    .replace(/[\u00a0\u1680\u2000-\u200b\u202f\u205f\u3000]/gu, ' ')
    .replace(/\u00ad|\u034f|\u1806|[\u180b-\u180d]|[\u200c\u200d]|\u2060|[\ufe00-\ufe0f]|\ufeff/gu, '')
    .normalize('NFKC')
}

/** Reads what `accounts.json` says of a user's password. Returns what is wrong with it as text. */
export function parsePasswordHash(text: string): PasswordHash | string {
  return isGeneratedHash(text) ? parseGeneratedHash(text) : parseChosenHash(text)
}

/**
 * Reads the hash of a password that somebody chose: argon2, or `$6$…` and `$7$…` as Mosquitto writes them. Returns what is wrong
 * with it as text.
 */
export function parseChosenHash(text: string): ChosenHash | string {
  if (text.startsWith('$argon2')) return parseArgon2(text)
  const [empty, kind, ...rest] = text.split('$')
  if (empty === '' && kind === '6' && rest.length === 2) {
    const [salt, digest] = rest.map(fromBase64)
    if (salt == null || digest?.length !== 64) return 'a $6$ hash is $6$SALT$HASH in base64, HASH of 64 bytes'
    return { kind: 'sha512', encoded: text, salt, digest }
  }
  if (empty === '' && kind === '7' && rest.length === 3) {
    const iterations = /^[1-9]\d*$/.test(rest[0]!) ? Number(rest[0]) : 0
    const [salt, digest] = rest.slice(1).map(fromBase64)
    if (iterations < 1 || iterations > PBKDF2_ITERATIONS_MAX || salt == null || digest?.length !== 64) {
      return `a $7$ hash is $7$ITERATIONS$SALT$HASH, at most ${PBKDF2_ITERATIONS_MAX} iterations, SALT and HASH in base64, HASH of 64 bytes`
    }
    return { kind: 'pbkdf2-sha512', encoded: text, iterations, salt, digest }
  }
  return 'the password is not hashed, or not in a known way: $6$…, $7$… and $argon2id$… are'
}

function parseArgon2(encoded: string): ChosenHash | string {
  // Not in the `try`: what cannot be loaded is no fault of the hash.
  const { parseOptions } = argon2()
  try {
    const { memoryCost, timeCost, parallelism } = parseOptions(encoded)
    const { memoryCost: kib, timeCost: passes, parallelism: lanes } = ARGON2_LIMITS
    if (memoryCost > kib || timeCost > passes || parallelism > lanes) {
      return `argon2 with more than ${kib} KiB, ${passes} passes or ${lanes} lanes takes too long to check`
    }
    return { kind: 'argon2', encoded }
  } catch {
    return 'the argon2 hash cannot be read'
  }
}

/** Whether this is the password. Takes one of libuv's threads, but for `sha512` and `generated`. */
export async function isPassword(stored: PasswordHash, password: Uint8Array): Promise<boolean> {
  switch (stored.kind) {
    case 'generated':
      return isGeneratedPassword(stored, password)
    case 'argon2':
      return argon2().verify(stored.encoded, password)
    case 'sha512':
      return timingSafeEqual(
        createHash('sha512').update(password).update(stored.salt).digest(),
        stored.digest,
      )
    case 'pbkdf2-sha512':
      return timingSafeEqual(
        await derive(password, stored.salt, stored.iterations, stored.digest.length, 'sha512'),
        stored.digest,
      )
  }
}

/** Null for what is no base64. */
function fromBase64(text: string): Buffer | null {
  return /^[A-Za-z0-9+/]+={0,2}$/.test(text) ? Buffer.from(text, 'base64') : null
}
