/** Passwords of CONNECT against what is stored: with a bound on the work, and at the same cost for users that do not exist. */

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

/** What an unknown user's password is checked against where nothing tells how others are stored: argon2id, of nobody's password. */
export const NOBODY: ChosenHash = {
  kind: 'argon2',
  encoded:
    '$argon2id$v=19$m=19456,t=2,p=1$GnyyDnwSEx3GwIE6gNZNMg$BmHyNfKgP9mXkR7dTSXiF6yEYuOEwQyJtUbzoPKGrVE',
}

/** The same for passwords that Godwit made; this one was thrown away. */
const GENERATED_FOR_NOBODY = parseGeneratedHash(generatePassword().encoded) as GeneratedHash

/**
 * `left`: nobody waits for the answer any more. `delayed`: nobody looked at the password, since too many were wrong. `busyBy`: the
 * limit of the queue that refused it.
 */
export type LoginResult = 'right' | 'wrong' | 'left' | 'delayed' | { readonly busyBy: FullBy }

/** Who asks to be let in as somebody. */
export interface Attempt {
  readonly userName: string
  readonly password: Buffer
  /** Undefined for a user that is not known. */
  readonly stored: PasswordHash | undefined
  /** The address, or the network of an IPv6 address. */
  readonly address: string
  /** Somebody guesses there, or guesses at this user. */
  readonly isSuspect: boolean
  /** Whether no password but a known one is to be looked at now: others failed while it waited. */
  isDelayed(): boolean
  readonly waiting: Waiting | undefined
}

/** What a log-in has us keep while it waits, beside its password and its names: its place in the queue, promises, the packet. */
const WAITING_BYTES = 3000

export class Logins {
  readonly #work: PasswordWork
  #remembered = new RememberedLogins()
  /** How an unknown user's password is checked. */
  nobody: ChosenHash = NOBODY

  constructor(work: PasswordWork) {
    this.#work = work
  }

  /** Takes over what the file has of before the restart, and remembers in it. To be called before anybody logs in. */
  rememberIn(file: LoginFile): void {
    this.#remembered = new RememberedLogins(file)
  }

  get remembered(): number {
    return this.#remembered.size
  }

  /**
   * Whether this is right without a slow hash: what was right before and is stored as it was then, and a password that Godwit made.
   * Both are looked at for everybody: no slow hash follows a wrong password that is delayed, and so the time would tell who exists.
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
   * Whether this is the password of the user: at once where that is known, and else once its turn to be hashed has come. A wrong one
   * costs as much for a user that is not known, or has a password that Godwit made: how long it takes tells neither who exists nor
   * whose password could be guessed. Rejects never.
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
      // Many devices with one password come at once: what the first of them showed to be right is right for all.
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
