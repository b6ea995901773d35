/** The other end of a socket, and those that have not become a Link yet. */
import type { Server, Socket } from 'node:net'
import type { LinkInfo } from '../../broker/boundary/link.ts'
import type { ListenerContext, ListenerOptions } from './listener.ts'

/** What the Server is told about a socket, besides whatever `more` tells. */
export function linkInfo(
  options: ListenerOptions,
  socket: Socket,
  more?: Pick<LinkInfo, 'certificate' | 'certificateRefusal' | 'handshakeMs'>,
): LinkInfo {
  const { type: transport, name: listener, allowAnonymous } = options
  const peer = socket.remoteAddress === undefined ? beneath(socket) : socket
  const remoteAddress = plainAddress(peer.remoteAddress ?? '')
  const remotePort = peer.remotePort ?? 0
  const { anonymousUnlessUsers, lenient, serverKeepAliveSeconds, inFlightMax, clientIdRule } = options
  // Nearly always it is one of these two: joined by spreads, it would be a dictionary of 950 bytes in place of 72.
  const isPlain =
    serverKeepAliveSeconds === undefined &&
    inFlightMax === undefined &&
    clientIdRule === undefined &&
    (lenient?.length ?? 0) === 0
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
    ...(clientIdRule !== undefined && { clientIdRule }),
    ...(lenient !== undefined && { lenient }),
    ...(serverKeepAliveSeconds !== undefined && { serverKeepAliveSeconds }),
    ...(inFlightMax !== undefined && { inFlightMax }),
    ...more,
  })
}

/**
 * The socket that a TLS socket was made of: it knows its peer also when that has left, having been asked before. Node documents
 * no way to it; without it the address is missing, as it is where the peer left before it was accepted.
 */
function beneath(socket: Socket): Socket {
  return (socket as Socket & { readonly _parent?: Socket | null })._parent ?? socket
}

/** Lets sockets of this server in only as far as there is room among those of all listeners. */
export function admit({ room }: ListenerContext, server: Server): void {
  turnAwayBanned(room, server)
  room.sockets.add(server, (remoteAddress) => room.refused(plainAddress(remoteAddress)))
}

/**
 * Cuts sockets of banned addresses off before anything is made of them, TLS above all. Listeners of `connection` are called in their
 * order and none can keep the others from it: so the event itself is held back.
 */
function turnAwayBanned({ isBanned }: ListenerContext['room'], server: Server): void {
  if (isBanned === undefined) return
  const emit = server.emit.bind(server) as (event: string | symbol, ...args: unknown[]) => boolean
  server.emit = (event: string | symbol, ...args: unknown[]): boolean => {
    const [socket] = args as [Socket | undefined]
    if (event !== 'connection' || !isBanned(plainAddress(socket?.remoteAddress ?? ''))) {
      return emit(event, ...args)
    }
    socket!.destroy()
    return true
  }
}

/** A timer that rings so many ms too late tells that the process stood still, and not the peer. */
const LATE_MS = 1000

/** What timers can count, in ms: 25 days. For the time-outs of Node itself, which do not know when the process stood still. */
export const TIMER_MS_MAX = 2 ** 31 - 1

interface Handshake {
  readonly socket: Socket
  timer: NodeJS.Timeout | undefined
  /** By `performance.now`. */
  readonly startedMs: number
}

/**
 * Sockets in the middle of a handshake. A TLS socket and the TCP socket beneath it are known by the same addresses and ports of
 * both ends, which no two open sockets share. Whoever stays longer than the time-out is cut off.
 */
export class Handshakes {
  readonly #timeoutMs: number
  readonly #timedOut: (socket: Socket) => void
  /** A socket that is gone already has no addresses: it stands for itself. */
  readonly #pending = new Map<string | Socket, Handshake>()

  constructor(timeoutMs: number, timedOut: (socket: Socket) => void) {
    this.#timeoutMs = timeoutMs
    this.#timedOut = timedOut
  }

  get size(): number {
    return this.#pending.size
  }

  add(socket: Socket): void {
    const key = endsOf(socket) ?? socket
    const handshake: Handshake = { socket, timer: undefined, startedMs: performance.now() }
    // The one before with the same ends is gone, or the kernel would not have taken this one.
    this.#forget(key, this.#pending.get(key))
    this.#pending.set(key, handshake)
    this.#watch(handshake)
    socket.once('close', () => this.#forget(key, handshake))
  }

  /** The handshake with this peer is complete; returns the milliseconds since it was added. */
  done(socket: Socket): number {
    const key = endsOf(socket) ?? socket
    const handshake = this.#pending.get(key)
    if (handshake === undefined) return 0
    this.#forget(key, handshake)
    return performance.now() - handshake.startedMs
  }

  destroyAll(): void {
    for (const { socket, timer } of this.#pending.values()) {
      clearTimeout(timer)
      socket.destroy()
    }
    this.#pending.clear()
  }

  #watch(handshake: Handshake): void {
    if (this.#timeoutMs > TIMER_MS_MAX) return
    const dueMs = performance.now() + this.#timeoutMs
    handshake.timer = setTimeout(() => {
      // The process stood still: the peer could not get on, and gets its time.
      if (performance.now() - dueMs > LATE_MS) this.#watch(handshake)
      else {
        this.#timedOut(handshake.socket)
        handshake.socket.destroy()
      }
    }, this.#timeoutMs).unref()
  }

  #forget(key: string | Socket, handshake: Handshake | undefined): void {
    if (handshake === undefined) return
    clearTimeout(handshake.timer)
    if (this.#pending.get(key) === handshake) this.#pending.delete(key)
  }
}

/** Addresses and ports of both ends; undefined for a socket that has none any more. */
function endsOf({ remoteAddress, remotePort, localAddress, localPort }: Socket): string | undefined {
  if (remoteAddress === undefined || localAddress === undefined) return undefined
  return `${remoteAddress} ${remotePort} ${localAddress} ${localPort}`
}

/** An IPv4 address that came over an IPv6 socket is still an IPv4 address. */
export function plainAddress(address: string): string {
  return address.startsWith('::ffff:') && address.includes('.') ? address.slice(7) : address
}
