/** Bounds the open sockets of all listeners together, counted from accept to close. */
import type { Server, Socket } from 'node:net'

/** Refuses every socket. Node 20 would take 0 as no limit. */
const NOBODY = -1

/**
 * Bounds the sockets of many servers together. Node closes sockets beyond `maxConnections` before it starts
 * TLS or HTTP, so each server is allowed its open sockets and all that are left. Infinity means no bound.
 */
export class SocketLimit {
  readonly socketsMax: number
  readonly #open = new Map<Server, number>()
  #sockets = 0

  constructor(socketsMax: number) {
    this.socketsMax = socketsMax
  }

  /** Open sockets, including those in a handshake and those that are ending. */
  get sockets(): number {
    return this.#sockets
  }

  /** Counts the sockets of this server from now on. Calls `refused` with the address of each refused peer. */
  add(server: Server, refused: (remoteAddress: string) => void): void {
    this.#open.set(server, 0)
    // One closure for all connections saves memory.
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
