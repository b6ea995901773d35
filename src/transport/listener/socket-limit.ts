/** How many sockets all listeners together may have open: counted from accept to close, whatever becomes of them. */
import type { Server, Socket } from 'node:net'

/** In Node 20 0 means no limit; anything below it lets nobody in. */
const NOBODY = -1

/**
 * Bounds the sockets of many servers together. Node closes what comes beyond `maxConnections` of a server before anything
 * is made of it (no TLS, no HTTP): each server may have what it has, and what is left for all. Infinity bounds nothing.
 */
export class SocketRoom {
  readonly socketsMax: number
  readonly #open = new Map<Server, number>()
  #sockets = 0

  constructor(socketsMax: number) {
    this.socketsMax = socketsMax
  }

  /** Open sockets, those in the middle of a handshake or of their end included. */
  get sockets(): number {
    return this.#sockets
  }

  /** From now on the sockets of this server count. `refused` is called with the peer's address for each without room. */
  add(server: Server, refused: (remoteAddress: string) => void): void {
    this.#open.set(server, 0)
    // One for all: a closure for each connection would be memory for each.
    const closed = (): void => this.#count(server, -1)
    server.prependListener('connection', (socket: Socket) => {
      this.#count(server, 1)
      socket.on('close', closed)
    })
    server.on('drop', (peer) => refused(peer?.remoteAddress ?? ''))
    server.once('close', () => this.#open.delete(server))
    this.#share()
  }

  #count(server: Server, change: 1 | -1): void {
    this.#sockets += change
    const open = this.#open.get(server)
    if (open !== undefined) this.#open.set(server, open + change)
    this.#share()
  }

  #share(): void {
    const left = Math.max(0, this.socketsMax - this.#sockets)
    for (const [server, open] of this.#open) server.maxConnections = open + left || NOBODY
  }
}
