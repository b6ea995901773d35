/** Describes the peers of sockets, and bounds sockets that are not Links yet. */
import type { Server, Socket } from 'node:net'
import type { LinkInfo } from '../../broker/boundary/link.ts'
import type { ListenerContext, ListenerOptions } from './listener.ts'

/** Describes a socket for the Server, together with the fields of `more`. */
export function linkInfo(
  options: ListenerOptions,
  socket: Socket,
  more?: Pick<LinkInfo, 'certificate' | 'certificateRefusal' | 'handshakeMs'>,
): LinkInfo {
  const { type: transport, name: listener, allowAnonymous } = options
  const peer = socket.remoteAddress === undefined ? innerSocket(socket) : socket
  const remoteAddress = plainAddress(peer.remoteAddress ?? '')
  const remotePort = peer.remotePort ?? 0
  const { anonymousUnlessUsers, lenient, serverKeepAliveSeconds, inFlightMax, clientIdRule } = options
  // Two literals cover nearly all sockets. An object built by spreads takes 950 bytes instead of 72.
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
 * Returns the socket beneath a TLS socket, which still knows the address of a peer that has left. Node does
 * not document it; without it the address is missing.
 */
function innerSocket(socket: Socket): Socket {
  return (socket as Socket & { readonly _parent?: Socket | null })._parent ?? socket
}

/** Applies bans and the limit of open sockets to this server. */
export function admit({ shared }: Pick<ListenerContext, 'shared'>, server: Server): void {
  turnAwayBanned(shared, server)
  shared.sockets.add(server, (remoteAddress) => shared.refused(plainAddress(remoteAddress)))
}

/**
 * Closes sockets of banned addresses before anything is done for them, above all TLS. It suppresses the
 * `connection` event itself, because no listener of an event can stop the others.
 */
function turnAwayBanned({ isBanned }: ListenerContext['shared'], server: Server): void {
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

/** A timer that fires this late shows that the process was paused: the peer may not be to blame. */
const LATE_MS = 1000

/**
 * The longest timer, 25 days. It replaces Node's own time-outs, which do not notice when the process was
 * paused.
 */
export const TIMER_MS_MAX = 2 ** 31 - 1

interface Handshake {
  readonly socket: Socket
  timer: NodeJS.Timeout | undefined
  /** The start by `performance.now`, later by the time that the peer has waited for us. */
  startedMs: number
  /** Since when the peer waits for us; undefined if we wait for the peer. */
  stoppedMs: number | undefined
}

/**
 * Holds the sockets in a handshake and closes those that take too long. Addresses and ports of both ends
 * identify a TLS socket and the TCP socket beneath it; no other open socket shares them.
 */
export class Handshakes {
  readonly #timeoutMs: number
  readonly #timedOut: (socket: Socket) => void
  /** Handshakes by both ends, or by the socket itself if it is already closed and has no addresses. */
  readonly #pending = new Map<string | Socket, Handshake>()

  constructor(timeoutMs: number, timedOut: (socket: Socket) => void) {
    this.#timeoutMs = timeoutMs
    this.#timedOut = timedOut
  }

  /** Number of sockets in a handshake. */
  get size(): number {
    return this.#pending.size
  }

  /** Starts the time-out of a socket's handshake. */
  add(socket: Socket): void {
    const key = endsOf(socket) ?? socket
    const handshake: Handshake = {
      socket,
      timer: undefined,
      startedMs: performance.now(),
      stoppedMs: undefined,
    }
    // An earlier socket with the same ends must be closed, or the kernel would not have accepted this one.
    this.#forget(key, this.#pending.get(key))
    this.#pending.set(key, handshake)
    this.#watch(handshake, this.#timeoutMs)
    socket.once('close', () => this.#forget(key, handshake))
  }

  /** Stops the time of a peer that has to wait for us. Idempotent. */
  stopTime(socket: Socket): void {
    const handshake = this.#find(socket)
    if (handshake === undefined || handshake.stoppedMs !== undefined) return
    clearTimeout(handshake.timer)
    handshake.stoppedMs = performance.now()
  }

  /** Goes on with the time of a peer that has waited. Idempotent. */
  startTime(socket: Socket): void {
    const handshake = this.#find(socket)
    if (handshake?.stoppedMs === undefined) return
    const tookMs = handshake.stoppedMs - handshake.startedMs
    handshake.startedMs = performance.now() - tookMs
    handshake.stoppedMs = undefined
    this.#watch(handshake, Math.max(0, this.#timeoutMs - tookMs))
  }

  /** Returns the TCP socket beneath the TLS socket of an incomplete handshake. */
  below(socket: Socket): Socket | undefined {
    return this.#find(socket)?.socket
  }

  /**
   * Ends the time-out of a complete handshake. Returns its duration in ms without the time that the peer has
   * waited, or 0 if it is not known.
   */
  done(socket: Socket): number {
    const handshake = this.#find(socket)
    if (handshake === undefined) return 0
    this.#forget(endsOf(socket) ?? socket, handshake)
    return performance.now() - handshake.startedMs
  }

  /** Closes all sockets in a handshake. */
  destroyAll(): void {
    for (const { socket, timer } of this.#pending.values()) {
      clearTimeout(timer)
      socket.destroy()
    }
    this.#pending.clear()
  }

  #find(socket: Socket): Handshake | undefined {
    return this.#pending.get(endsOf(socket) ?? socket)
  }

  #watch(handshake: Handshake, afterMs: number): void {
    if (afterMs > TIMER_MS_MAX) return
    const dueMs = performance.now() + afterMs
    handshake.timer = setTimeout(() => {
      // The process was paused, so the peer gets its full time again.
      if (performance.now() - dueMs > LATE_MS) this.#watch(handshake, this.#timeoutMs)
      else {
        this.#timedOut(handshake.socket)
        handshake.socket.destroy()
      }
    }, afterMs).unref()
  }

  #forget(key: string | Socket, handshake: Handshake | undefined): void {
    if (handshake === undefined) return
    clearTimeout(handshake.timer)
    if (this.#pending.get(key) === handshake) this.#pending.delete(key)
  }
}

/** Returns addresses and ports of both ends; undefined if the socket has already lost them. */
function endsOf({ remoteAddress, remotePort, localAddress, localPort }: Socket): string | undefined {
  if (remoteAddress === undefined || localAddress === undefined) return undefined
  return `${remoteAddress} ${remotePort} ${localAddress} ${localPort}`
}

/** Returns an IPv4 address without the prefix that an IPv6 socket adds. */
export function plainAddress(address: string): string {
  return address.startsWith('::ffff:') && address.includes('.') ? address.slice(7) : address
}
