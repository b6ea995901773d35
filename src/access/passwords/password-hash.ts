/** Hashes and checks passwords. Nothing here may be logged. */
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

/** Loaded with the first password, so that a start without passwords does not wait for it. */
function argon2(): typeof import('@node-rs/argon2') {
  return load('@node-rs/argon2') as typeof import('@node-rs/argon2')
}

const derive = promisify(pbkdf2)

/**
 * argon2id with 19 MiB, two passes and one lane: the first choice of OWASP's cheat sheet for machines that
 * check many. It takes 25 to 60 ms of one processor, and two at once take 38 MiB.
 */
const ARGON2ID = { memoryCost: 19_456, timeCost: 2, parallelism: 1, outputLen: 32 } as const

/**
 * A stored hash with more memory (KiB), passes or lanes is refused, since checking it would delay everybody.
 */
const ARGON2_LIMITS = { memoryCost: 1_048_576, timeCost: 64, parallelism: 16 } as const

const PBKDF2_ITERATIONS_MAX = 10_000_000

/**
 * Iterations of SCRAM-SHA-256. RFC 7677 asks for at least 4,096. A thief of the file could try passwords
 * against this instead of argon2id, so there are more; but a client has to compute them at each log-in, so
 * there are not millions.
 */
const SCRAM_ITERATIONS = 100_000
/** For generated passwords the minimum of RFC 7677 is enough, since nobody tries 2^144 of them. */
const SCRAM_ITERATIONS_GENERATED = 4096
const SCRAM_SALT_BYTES = 16

/** Checks a SCRAM-SHA-256 exchange without the password (RFC 5802 section 3). Byte strings are in base64. */
export interface ScramVerifier {
  readonly iterations: number
  readonly salt: string
  readonly storedKey: string
  readonly serverKey: string
}

/** The stored hash of a chosen password; `encoded` is the text in the file. */
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

/** The stored hash of a chosen or of a generated password. */
export type PasswordHash = ChosenHash | GeneratedHash

/** Hashes a password with argon2id, into the form `$argon2id$v=19$…`. Takes one of libuv's threads. */
export function hashPassword(password: Uint8Array): Promise<string> {
  return argon2().hash(password, ARGON2ID)
}

/** Derives the SCRAM-SHA-256 verifier of a password that a person chose. Takes one of libuv's threads. */
export function scramVerifier(password: string): Promise<ScramVerifier> {
  return verifierOf(password, SCRAM_ITERATIONS)
}

/**
 * Derives the SCRAM-SHA-256 verifier of a generated password with a twentieth of the iterations: nobody can
 * guess such a password, however fast the hash is.
 */
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

/** Parses the hash of a user in `accounts.json`. Returns a text that says what is wrong with it. */
export function parsePasswordHash(text: string): PasswordHash | string {
  return isGeneratedHash(text) ? parseGeneratedHash(text) : parseChosenHash(text)
}

/**
 * Parses the hash of a chosen password: argon2, or `$6$…` and `$7$…` as Mosquitto writes them. Returns a text
 * that says what is wrong with it.
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
      const form = `$7$ITERATIONS$SALT$HASH, at most ${PBKDF2_ITERATIONS_MAX} iterations`
      return `a $7$ hash is ${form}, SALT and HASH in base64, HASH of 64 bytes`
    }
    return { kind: 'pbkdf2-sha512', encoded: text, iterations, salt, digest }
  }
  return 'the password is not hashed in a known way: $6$…, $7$… or $argon2id$…'
}

function parseArgon2(encoded: string): ChosenHash | string {
  // Outside the `try`: a module that cannot be loaded is no fault of the hash.
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

/** Whether this is the password. Takes one of libuv's threads, except for `sha512` and `generated`. */
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

/** Returns null if the text is not base64. */
function fromBase64(text: string): Buffer | null {
  return /^[A-Za-z0-9+/]+={0,2}$/.test(text) ? Buffer.from(text, 'base64') : null
}
