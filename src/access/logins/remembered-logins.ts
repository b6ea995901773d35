/**
 * Remembers successful log-ins with chosen passwords, so that the passwords of a fleet that comes back need
 * no slow hash. Each is an HMAC over user name, stored hash and password, with a key that is never on a disk.
 * It no longer matches once the stored password changes.
 */
import { randomBytes } from 'node:crypto'
import { type LoginFile, MAC_BYTES, REMEMBERED_MAX } from '../files/login-file.ts'
import type { ChosenHash } from '../passwords/password-hash.ts'
import { HmacSha256 } from './hmac.ts'

/** The log-ins that were right. */
export class RememberedLogins {
  readonly #hmac: HmacSha256
  readonly #file: LoginFile | null
  readonly #max: number
  /** Each 32 characters of `latin1`; the one used longest ago comes first. */
  readonly #macs = new Set<string>()

  /** Starts with the log-ins that `file` kept over a restart; null if none are kept. */
  constructor(file: LoginFile | null = null, max = REMEMBERED_MAX) {
    this.#file = file
    this.#max = max
    this.#hmac = new HmacSha256(file?.key ?? randomBytes(MAC_BYTES))
    for (const mac of file?.macs ?? []) this.#keep(mac)
  }

  get size(): number {
    return this.#macs.size
  }

  /** Whether this password was right for this user while the same hash was stored. */
  has(userName: string, password: Buffer, stored: ChosenHash): boolean {
    const mac = this.#macOf(userName, password, stored)
    if (!this.#macs.has(mac)) return false
    this.#keep(mac)
    return true
  }

  /** Remembers that this password was right. */
  add(userName: string, password: Buffer, stored: ChosenHash): void {
    const mac = this.#macOf(userName, password, stored)
    const isNew = !this.#macs.has(mac)
    this.#keep(mac)
    if (isNew) this.#file?.append(mac, this.#macs)
  }

  #keep(mac: string): void {
    this.#macs.delete(mac)
    this.#macs.add(mac)
    if (this.#macs.size <= this.#max) return
    for (const oldest of this.#macs) {
      this.#macs.delete(oldest)
      return
    }
  }

  #macOf(userName: string, password: Buffer, { encoded }: ChosenHash): string {
    const [name, hash] = [Buffer.from(userName, 'utf8'), Buffer.from(encoded, 'utf8')]
    const lengths = Buffer.allocUnsafe(8)
    lengths.writeUInt32BE(name.length, 0)
    lengths.writeUInt32BE(hash.length, 4)
    return this.#hmac.of(lengths, name, hash, password).toString('latin1')
  }
}
