/**
 * Counts TLS bytes that cannot be decrypted yet: a record of up to 16 KiB takes long to arrive on a slow
 * link.
 */
import { Socket } from 'node:net'

/** Counts the encrypted bytes of incomplete records. Costs nothing between two calls of `measure`. */
export class EncryptedBytes {
  readonly #socket: Socket
  #arrivedBytes = 0
  /** The bytes read until the last call, before and after decryption. */
  #encrypted = 0
  #decrypted = 0

  constructor(socket: Socket) {
    this.#socket = socket
  }

  /**
   * Returns a sum that grows with the encrypted bytes since the last call, unless some were decrypted,
   * which is proof enough of progress. Undefined without TLS, or if Node keeps the underlying socket
   * elsewhere.
   */
  measure(): number | undefined {
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
