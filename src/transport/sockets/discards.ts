/**
 * Reads input that nobody wants, a little in each pass of the event loop. Input that came after the last
 * packet must be read, since it would turn our FIN into a reset. Peers that go on sending would otherwise
 * hold the loop: libuv reads up to 32 times from one socket before it looks at the next one.
 */
import type { Socket } from 'node:net'

/** Once this much was discarded in one pass, each further read pauses its socket. */
const PASS_BYTES = 1024 * 1024

/** Sockets that begin to be read in one pass. */
const PASS_SOCKETS = 16

/** Decides which of the ended connections' sockets are read. */
export class Discards {
  readonly #defer: (callback: () => void) => void
  /** Paused sockets, the oldest first; those that are closed meanwhile stay until their turn. */
  readonly #waiting = new Set<Socket>()
  /** Bytes discarded, and sockets resumed, in this pass. */
  #bytes = 0
  #begun = 0
  #deferred = false
  readonly #next = (): void => this.#nextPass()

  /** `defer` runs a callback after the event loop has read what was there. */
  constructor(defer: (callback: () => void) => void = setImmediate) {
    this.#defer = defer
  }

  /** Sockets that are paused until it is their turn. */
  get waitingCount(): number {
    return this.#waiting.size
  }

  /** Starts to read from a socket, now or when it is its turn. */
  start(socket: Socket): void {
    if (socket.readableEnded) return
    // Makes sure that another pass follows.
    this.#count(0)
    if (this.#waiting.size === 0 && this.#begun < PASS_SOCKETS && this.#bytes < PASS_BYTES) {
      this.#begun++
      socket.resume()
    } else this.#wait(socket)
  }

  /** Counts bytes that were read from a socket, and pauses it if this pass has discarded enough. */
  discarded(socket: Socket, bytes: number): void {
    this.#count(bytes)
    if (this.#bytes >= PASS_BYTES) this.#wait(socket)
  }

  #count(bytes: number): void {
    this.#bytes += bytes
    if (this.#deferred) return
    this.#deferred = true
    this.#defer(this.#next)
  }

  #wait(socket: Socket): void {
    socket.pause()
    this.#waiting.add(socket)
  }

  #nextPass(): void {
    this.#deferred = false
    this.#bytes = 0
    this.#begun = 0
    for (const socket of this.#waiting) {
      if (this.#begun === PASS_SOCKETS) break
      this.#waiting.delete(socket)
      if (socket.destroyed) continue
      this.#begun++
      socket.resume()
    }
    if (this.#waiting.size > 0) this.#count(0)
  }
}
