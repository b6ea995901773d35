/** Passwords of CONNECT against what is stored: with a bound on the work, and at the same cost for users that do not exist. */
import { isGeneratedPassword } from './generated-password.ts'
import type { LoginFile } from './login-file.ts'
import { type ChosenHash, isPassword, type PasswordHash } from './password-hash.ts'
import { PasswordsBusyError, type PasswordWork } from './password-work.ts'
import { RememberedLogins } from './remembered-logins.ts'

/** What an unknown user's password is checked against where nothing tells how others are stored: argon2id, of nobody's password. */
export const NOBODY: ChosenHash = {
  kind: 'argon2',
  encoded:
    '$argon2id$v=19$m=19456,t=2,p=1$GnyyDnwSEx3GwIE6gNZNMg$BmHyNfKgP9mXkR7dTSXiF6yEYuOEwQyJtUbzoPKGrVE',
}

export type LoginResult = 'right' | 'wrong' | 'busy'

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
    return this.#remembered.has(userName, password, stored)
      ? 'right'
      : this.#hashed(password, stored, userName)
  }

  async #hashed(password: Buffer, stored: ChosenHash, userName: string | null): Promise<LoginResult> {
    try {
      const isRight = await this.#work.run(() => isPassword(stored, password))
      if (!isRight || userName === null) return 'wrong'
      this.#remembered.add(userName, password, stored)
      return 'right'
    } catch (error) {
      if (error instanceof PasswordsBusyError) return 'busy'
      throw error
    }
  }
}
