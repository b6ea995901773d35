/** Passwords of CONNECT against what is stored: with a bound on the work, and at the same cost for users that do not exist. */
import { createHmac, randomBytes } from 'node:crypto'
import type { FullBy } from './fair-queue.ts'
import { isGeneratedPassword } from './generated-password.ts'
import { type ChosenHash, isPassword, type PasswordHash } from './password-hash.ts'
import { LeftError, PasswordsBusyError, type PasswordWork, type Waiting } from './password-work.ts'

/** Log-ins that are remembered, so that a fleet which comes back is not hashed again: about 200 bytes each. */
const REMEMBERED_MAX = 16_384

/** What an unknown user's password is checked against where nothing tells how others are stored: argon2id, of nobody's password. */
export const NOBODY: ChosenHash = {
  kind: 'argon2',
  encoded:
    '$argon2id$v=19$m=19456,t=2,p=1$GnyyDnwSEx3GwIE6gNZNMg$BmHyNfKgP9mXkR7dTSXiF6yEYuOEwQyJtUbzoPKGrVE',
}

/** `left`: nobody waits for the answer any more. `busyBy`: the limit of the queue that refused it. */
export type LoginResult = 'right' | 'wrong' | 'left' | { readonly busyBy: FullBy }

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
  readonly waiting: Waiting | undefined
}

/** What a log-in has us keep while it waits, beside its password and its names: its place in the queue, promises, the packet. */
const WAITING_BYTES = 3000

export class Logins {
  readonly #work: PasswordWork
  /** Known to this process alone. */
  readonly #key = randomBytes(32)
  /** What a password was right for, by an HMAC over user name and password; the one used longest ago first. */
  readonly #remembered = new Map<string, PasswordHash>()
  /** How an unknown user's password is checked. */
  nobody: ChosenHash = NOBODY

  constructor(work: PasswordWork) {
    this.#work = work
  }

  get remembered(): number {
    return this.#remembered.size
  }

  /**
   * Whether this is right without a slow hash: what was right before and is stored as it was then, and a password that Godwit made.
   */
  isKnownRight({ userName, password, stored }: Attempt): boolean {
    if (stored === undefined) return false
    if (stored.kind === 'generated') return isGeneratedPassword(stored, password)
    const key = this.#keyOf(userName, password)
    if (this.#remembered.get(key) !== stored) return false
    this.#remember(key, stored)
    return true
  }

  /**
   * Whether this is the password of the user: at once where that is known, and else once its turn to be hashed has come. A wrong one
   * costs as much for a user that is not known, or has a password that Godwit made: how long it takes tells neither who exists nor
   * whose password could be guessed. Rejects never.
   */
  check(attempt: Attempt): LoginResult | Promise<LoginResult> {
    return this.isKnownRight(attempt) ? 'right' : this.#hashed(attempt)
  }

  async #hashed(attempt: Attempt): Promise<LoginResult> {
    const { userName, password, stored, address, isSuspect, waiting } = attempt
    const bytes = WAITING_BYTES + password.length + 2 * (userName.length + address.length)
    const isChosen = stored !== undefined && stored.kind !== 'generated'
    const hash = isChosen ? stored : this.nobody
    try {
      // Many devices with one password come at once: what the first of them showed to be right is right for all.
      const isRight = await this.#work.login(
        { address, userName, bytes, isSuspect },
        async () => this.isKnownRight(attempt) || (await isPassword(hash, password)),
        waiting,
      )
      if (!isRight || !isChosen) return 'wrong'
      this.#remember(this.#keyOf(userName, password), stored)
      return 'right'
    } catch (error) {
      if (error instanceof PasswordsBusyError) return { busyBy: error.limit }
      if (error instanceof LeftError) return 'left'
      throw error
    }
  }

  #remember(key: string, stored: PasswordHash): void {
    this.#remembered.delete(key)
    this.#remembered.set(key, stored)
    if (this.#remembered.size <= REMEMBERED_MAX) return
    for (const oldest of this.#remembered.keys()) {
      this.#remembered.delete(oldest)
      return
    }
  }

  #keyOf(userName: string, password: Buffer): string {
    const name = Buffer.from(userName, 'utf8')
    const length = Buffer.allocUnsafe(4)
    length.writeUInt32BE(name.length)
    return createHmac('sha256', this.#key).update(length).update(name).update(password).digest('base64')
  }
}
