/** Bounds the open sockets of all listeners together, counted from accept to close. */
import type { Server, Socket } from 'node:net'

/** Refuses every socket. Node 20 would take 0 as no limit. */
const NOBODY = -1

interface Counted {
  readonly server: Server
  /** Its open sockets. */
  open: number
}

/**
 * Bounds the sockets of many servers together. Node closes sockets beyond `maxConnections` before it starts
 * TLS or HTTP, so each server is allowed its open sockets and all that are left. Infinity means no bound.
 */
export class SocketLimit {
  readonly socketsMax: number
  readonly #servers: Counted[] = []
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
    const counted: Counted = { server, open: 0 }
    this.#servers.push(counted)
    // One closure for all connections saves memory.
    const closed = (): void => this.#count(counted, -1)
    server.prependListener('connection', (socket: Socket) => {
      this.#count(counted, 1)
      socket.on('close', closed)
    })
    server.on('drop', (peer) => refused(peer?.remoteAddress ?? ''))
    server.once('close', () => this.#servers.splice(this.#servers.indexOf(counted), 1))
    this.#share()
  }

  #count(counted: Counted, change: 1 | -1): void {
    this.#sockets += change
    counted.open += change
    this.#share()
  }

  /** Runs for each socket, so it goes by index: iterators would take 250 bytes. */
  #share(): void {
    const left = Math.max(0, this.socketsMax - this.#sockets)
    for (let i = 0; i < this.#servers.length; i++) {
      const { server, open } = this.#servers[i]!
      server.maxConnections = open + left || NOBODY
    }
  }
}
