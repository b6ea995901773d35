/** Passwords of CONNECT against what is stored: with a bound on the work, and at the same cost for users that do not exist. */
import { createHmac, randomBytes } from 'node:crypto'
import { isGeneratedPassword } from './generated-password.ts'
import { type ChosenHash, isPassword, type PasswordHash } from './password-hash.ts'
import { PasswordsBusyError, type PasswordWork } from './password-work.ts'

/** Log-ins that are remembered, so that a fleet which comes back is not hashed again: about 200 bytes each. */
const REMEMBERED_MAX = 16_384

/** What an unknown user's password is checked against where nothing tells how others are stored: argon2id, of nobody's password. */
export const NOBODY: ChosenHash = {
  kind: 'argon2',
  encoded:
    '$argon2id$v=19$m=19456,t=2,p=1$GnyyDnwSEx3GwIE6gNZNMg$BmHyNfKgP9mXkR7dTSXiF6yEYuOEwQyJtUbzoPKGrVE',
}

export type LoginResult = 'right' | 'wrong' | 'busy'

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
   * Whether this is the password of a user of whom `stored` is known; undefined for a user that is not known. What was
   * right before and is stored as it was then is right at once, and so is a password that Godwit made. A wrong one costs as much for
   * such a user as for one that is not known: how long it takes tells neither who exists nor whose password could be guessed.
   */
  check(
    userName: string,
    password: Buffer,
    stored: PasswordHash | undefined,
  ): LoginResult | Promise<LoginResult> {
    if (stored === undefined) return this.#hashed(password, this.nobody, null)
    if (stored.kind === 'generated') {
      return isGeneratedPassword(stored, password) ? 'right' : this.#hashed(password, this.nobody, null)
    }
    const key = this.#keyOf(userName, password)
    if (this.#remembered.get(key) === stored) {
      this.#remember(key, stored)
      return 'right'
    }
    return this.#hashed(password, stored, key)
  }

  async #hashed(password: Buffer, stored: ChosenHash, key: string | null): Promise<LoginResult> {
    try {
      const isRight = await this.#work.run(() => isPassword(stored, password))
      if (!isRight || key === null) return 'wrong'
      this.#remember(key, stored)
      return 'right'
    } catch (error) {
      if (error instanceof PasswordsBusyError) return 'busy'
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
