/** Checks passwords of CONNECT. The work is bounded, and costs the same for users that do not exist. */

import type { LoginFile } from '../files/login-file.ts'
import {
  type GeneratedHash,
  generatePassword,
  isGeneratedPassword,
  parseGeneratedHash,
} from '../passwords/generated-password.ts'
import { type ChosenHash, isPassword, type PasswordHash } from '../passwords/password-hash.ts'
import type { FullBy } from './fair-queue.ts'
import { LeftError, PasswordsBusyError, type PasswordWork, type Waiting } from './password-work.ts'
import { RememberedLogins } from './remembered-logins.ts'

/** The hash that an unknown user's password is checked against by default: argon2id, of nobody's password. */
export const NOBODY: ChosenHash = {
  kind: 'argon2',
  encoded:
    '$argon2id$v=19$m=19456,t=2,p=1$GnyyDnwSEx3GwIE6gNZNMg$BmHyNfKgP9mXkR7dTSXiF6yEYuOEwQyJtUbzoPKGrVE',
}

/** The same for generated passwords; nobody knows this one. */
const GENERATED_FOR_NOBODY = parseGeneratedHash(generatePassword().encoded) as GeneratedHash

/**
 * `left`: the client left the queue. `delayed`: the password was not checked, since too many were wrong.
 * `busyBy`: the limit of the queue that refused it.
 */
export type LoginResult = 'right' | 'wrong' | 'left' | 'delayed' | { readonly busyBy: FullBy }

/** A client that asks to log in as a user. */
export interface Attempt {
  readonly userName: string
  readonly password: Buffer
  /** Undefined for an unknown user. */
  readonly stored: PasswordHash | undefined
  /** The address, or the network of an IPv6 address. */
  readonly address: string
  /** Whether wrong passwords came from there. */
  readonly isSuspect: boolean
  /** Whether only a known password is accepted now; others may have failed while this one waited. */
  isDelayed(): boolean
  readonly waiting: Waiting | undefined
}

/**
 * The bytes that a waiting log-in takes besides its password and names: its place in the queue, promises, the
 * packet.
 */
const WAITING_BYTES = 3000

/** Checks passwords, and remembers those that were right. */
export class Logins {
  readonly #work: PasswordWork
  #remembered = new RememberedLogins()
  /** The hash that an unknown user's password is checked against. */
  nobody: ChosenHash = NOBODY

  constructor(work: PasswordWork) {
    this.#work = work
  }

  /**
   * Takes over the log-ins that the file kept over the restart, and keeps new ones there. Call it before
   * anybody logs in.
   */
  rememberIn(file: LoginFile): void {
    this.#remembered = new RememberedLogins(file)
  }

  get remembered(): number {
    return this.#remembered.size
  }

  /**
   * Whether the password is known to be right without a slow hash: it was right before for the same stored
   * hash, or it is the generated one. Both are checked for every user. Otherwise the time taken would tell
   * who exists, since a delayed password has no slow hash that hides the difference.
   */
  isKnownRight({ userName, password, stored }: Attempt): boolean {
    const isGenerated = stored?.kind === 'generated'
    const chosen = stored === undefined || isGenerated ? this.nobody : stored
    const isRemembered = this.#remembered.has(userName, password, chosen)
    const isMade = isGeneratedPassword(isGenerated ? stored : GENERATED_FOR_NOBODY, password)
    if (stored === undefined) return false
    return isGenerated ? isMade : isRemembered
  }

  /**
   * Checks the password of a user: at once if no slow hash is needed, otherwise when its turn has come. A
   * wrong password takes as long for an unknown user, or for one with a generated password. So the time tells
   * neither who exists nor whose password could be guessed. Never rejects.
   */
  check(attempt: Attempt): LoginResult | Promise<LoginResult> {
    if (this.isKnownRight(attempt)) return 'right'
    return attempt.isDelayed() ? 'delayed' : this.#hashed(attempt)
  }

  async #hashed(attempt: Attempt): Promise<LoginResult> {
    const { userName, password, stored, address, isSuspect, waiting } = attempt
    const bytes = WAITING_BYTES + password.length + 2 * (userName.length + address.length)
    const isChosen = stored !== undefined && stored.kind !== 'generated'
    const hash = isChosen ? stored : this.nobody
    try {
      // Many devices with one password may come at once: the hash for the first of them serves all.
      const result = await this.#work.login(
        { address, userName, bytes, isSuspect },
        async () => {
          if (this.isKnownRight(attempt)) return 'right'
          if (attempt.isDelayed()) return 'delayed'
          return (await isPassword(hash, password)) && isChosen ? 'right' : 'wrong'
        },
        waiting,
      )
      if (result === 'right' && isChosen) this.#remembered.add(userName, password, stored)
      return result
    } catch (error) {
      if (error instanceof PasswordsBusyError) return { busyBy: error.limit }
      if (error instanceof LeftError) return 'left'
      throw error
    }
  }
}
