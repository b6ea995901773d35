/** The other end of a socket, and those that have not become a Link yet. */
import type { Server, Socket } from 'node:net'
import type { LinkInfo } from '../broker/link.ts'
import type { ListenerContext, ListenerOptions } from './listener.ts'

/** What the Server is told about a socket, besides whatever `more` tells. */
export function linkInfo(
  options: ListenerOptions,
  socket: Socket,
  more?: Pick<LinkInfo, 'certificate' | 'certificateRefusal' | 'handshakeMs'>,
): LinkInfo {
  const { type: transport, name: listener, allowAnonymous } = options
  const remoteAddress = plainAddress(socket.remoteAddress ?? '')
  const remotePort = socket.remotePort ?? 0
  const { anonymousUnlessUsers, lenient, serverKeepAliveSeconds, inFlightMax } = options
  // Nearly always it is one of these two: joined by spreads, it would be a dictionary of 950 bytes in place of 72.
  const isPlain =
    serverKeepAliveSeconds === undefined && inFlightMax === undefined && (lenient?.length ?? 0) === 0
  if (more === undefined && isPlain) {
    return Object.freeze(
      anonymousUnlessUsers === true
        ? { transport, listener, remoteAddress, remotePort, allowAnonymous, anonymousUnlessUsers }
        : { transport, listener, remoteAddress, remotePort, allowAnonymous },
    )
  }
  return Object.freeze({
    transport,
    listener,
    remoteAddress,
    remotePort,
    allowAnonymous,
    ...(anonymousUnlessUsers === true && { anonymousUnlessUsers: true }),
    ...(lenient !== undefined && { lenient }),
    ...(serverKeepAliveSeconds !== undefined && { serverKeepAliveSeconds }),
    ...(inFlightMax !== undefined && { inFlightMax }),
    ...more,
  })
}

/** Lets sockets of this server in only as far as there is room among those of all listeners. */
export function admit({ room }: ListenerContext, server: Server): void {
  room.sockets.add(server, (remoteAddress) => room.refused(plainAddress(remoteAddress)))
}

interface Handshake {
  readonly socket: Socket
  readonly timer: NodeJS.Timeout
  /** By `performance.now`. */
  readonly startedMs: number
}

/**
 * Sockets in the middle of a handshake. A TLS socket and the TCP socket beneath it are known by the same peer
 * address. Whoever stays longer than the time-out is cut off.
 */
export class Handshakes {
  readonly #timeoutMs: number
  readonly #timedOut: (socket: Socket) => void
  readonly #pending = new Map<string, Handshake>()

  constructor(timeoutMs: number, timedOut: (socket: Socket) => void) {
    this.#timeoutMs = timeoutMs
    this.#timedOut = timedOut
  }

  get size(): number {
    return this.#pending.size
  }

  add(socket: Socket): void {
    const key = peerKey(socket)
    const timer = setTimeout(() => {
      this.#timedOut(socket)
      socket.destroy()
    }, this.#timeoutMs).unref()
    this.#pending.set(key, { socket, timer, startedMs: performance.now() })
    socket.once('close', () => this.#remove(key, socket))
  }

  /** The handshake with this peer is complete; returns the milliseconds since it was added. */
  done(socket: Socket): number {
    const key = peerKey(socket)
    const entry = this.#pending.get(key)
    if (entry === undefined) return 0
    this.#remove(key, entry.socket)
    return performance.now() - entry.startedMs
  }

  destroyAll(): void {
    for (const { socket, timer } of this.#pending.values()) {
      clearTimeout(timer)
      socket.destroy()
    }
    this.#pending.clear()
  }

  #remove(key: string, socket: Socket): void {
    const entry = this.#pending.get(key)
    if (entry?.socket !== socket) return
    clearTimeout(entry.timer)
    this.#pending.delete(key)
  }
}

function peerKey(socket: Socket): string {
  return `${socket.remoteAddress} ${socket.remotePort}`
}

/** An IPv4 address that came over an IPv6 socket is still an IPv4 address. */
export function plainAddress(address: string): string {
  return address.startsWith('::ffff:') && address.includes('.') ? address.slice(7) : address
}
