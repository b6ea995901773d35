/** What has come over TLS before anything of it can be read: a record is 16 KiB at most, which is long on a slow link. */
import { Socket } from 'node:net'

/** Counts the encrypted bytes of records that were not whole. Looked at now and then; costs nothing in between. */
export class EncryptedBytes {
  readonly #socket: Socket
  #arrivedBytes = 0
  /** Of the socket below TLS, and of what it came to, at the last look. */
  #encrypted = 0
  #decrypted = 0

  constructor(socket: Socket) {
    this.#socket = socket
  }

  /**
   * Grows with what came since the last look, unless something could be read meanwhile: then that tells more. Undefined
   * without TLS, or where a Node keeps the socket below elsewhere.
   */
  look(): number | undefined {
    const below: unknown = Reflect.get(this.#socket, '_parent')
    if (!(below instanceof Socket)) return undefined
    const encrypted = below.bytesRead
    const decrypted = this.#socket.bytesRead
    if (decrypted === this.#decrypted) this.#arrivedBytes += encrypted - this.#encrypted
    this.#encrypted = encrypted
    this.#decrypted = decrypted
    return this.#arrivedBytes
  }
}
