/**
 * Begins only a few TLS handshakes in each pass of the event loop. A connection with its handshake takes
 * 0.6 ms of CPU with an ECDSA key, 0.8 ms with RSA of 2,048 bits, and more on small machines. Node would
 * begin each handshake as soon as its first bytes arrive, and a pass reads from up to 1,024 sockets.
 */
import type { Socket } from 'node:net'
import type { Server, TLSSocket } from 'node:tls'
import type { Handshakes } from './peer.ts'

/** Handshakes that begin in one pass. */
export const PASS_BEGUN = 4

/** Handshakes that may end in one pass before others are paused. */
const PASS_ENDED = 8

/** Paused sockets that are read from again in one pass. */
const PASS_RESUMED = 16

/** Sockets that are paused for each one that was too much for its pass. Pausing them costs little. */
const PAUSED_AT_ONCE = 128

/** The functions that the queue calls. */
export interface HandshakeSteps {
  /** Begins a handshake. */
  begin(socket: Socket): void
  /** The peer has left before its handshake began. */
  failed(socket: Socket, error: Error): void
  /** Stops the peer's time, since it waits for us. */
  stopTime(socket: Socket): void
  startTime(socket: Socket): void
  /** Runs a callback after the event loop has read what was there. */
  defer(callback: () => void): void
}

/**
 * Holds accepted sockets until their first bytes are there and it is their turn. Peers that send nothing hold
 * no places. Once a pass has had its handshakes, sockets are no longer read from, and libuv skips them.
 */
export class HandshakeQueue {
  readonly #steps: HandshakeSteps
  /** Sockets that are read from and have sent nothing. */
  readonly #silent = new Set<Socket>()
  /** Sockets whose handshake has begun. */
  readonly #begun = new Set<Socket>()
  /** Sockets of both kinds that are not read from, the oldest first, with the set that they return to. */
  readonly #paused = new Map<Socket, Set<Socket>>()
  /** Sockets whose first bytes have arrived, the oldest first, with the number of these bytes. */
  readonly #waiting = new Map<Socket, number>()
  /** Handshakes that have begun and ended in this pass. */
  #passBegun = 0
  #passEnded = 0
  #deferred = false
  readonly #nextPass = (): void => this.#onNextPass()
  // One function for all connections saves memory.
  readonly #readable: (this: Socket) => void
  readonly #failed: (this: Socket, error: Error) => void
  readonly #closed: (this: Socket) => void

  constructor(steps: HandshakeSteps) {
    this.#steps = steps
    const queue = this
    this.#readable = function () {
      queue.#onReadable(this)
    }
    this.#failed = function (error) {
      queue.#fail(this, error)
    }
    this.#closed = function () {
      queue.#forget(this)
    }
  }

  /** Sockets that have to wait: for their handshake to begin, or to be read from. */
  get waitingCount(): number {
    return this.#waiting.size + this.#paused.size
  }

  /** Sockets before the end of their handshake. */
  get size(): number {
    return this.waitingCount + this.#silent.size + this.#begun.size
  }

  /** Adds a socket that was just accepted. */
  add(socket: Socket): void {
    socket.on('readable', this.#readable)
    socket.on('error', this.#failed)
    socket.on('close', this.#closed)
    this.#silent.add(socket)
    if (this.#paused.size > 0) this.#pause(socket, this.#silent)
  }

  /** Ends a handshake, whether it succeeded or not. Idempotent. */
  ended(socket: Socket): void {
    if (this.#paused.get(socket) === this.#begun) this.#resume(socket, this.#begun)
    if (!this.#begun.has(socket)) return
    this.#forget(socket)
    if (++this.#passEnded > PASS_ENDED) this.#pauseOthers()
    this.#countPass()
  }

  #onReadable(socket: Socket): void {
    const bytes = socket.readableLength
    // Node reports the end of the input like further bytes.
    if (bytes === (this.#waiting.get(socket) ?? 0)) {
      this.#fail(socket, Object.assign(new Error('socket hang up'), { code: 'ECONNRESET' }))
      return
    }
    const isNew = this.#silent.delete(socket)
    if (isNew && this.#waiting.size === 0 && this.#passBegun < PASS_BEGUN) {
      this.#begin(socket)
      return
    }
    this.#waiting.set(socket, bytes)
    if (!isNew) return
    this.#steps.stopTime(socket)
    this.#pauseOthers()
    this.#countPass()
  }

  #begin(socket: Socket): void {
    socket.off('readable', this.#readable)
    socket.off('error', this.#failed)
    this.#begun.add(socket)
    this.#passBegun++
    this.#countPass()
    this.#steps.begin(socket)
  }

  #fail(socket: Socket, error: Error): void {
    this.#forget(socket)
    this.#steps.failed(socket, error)
  }

  #forget(socket: Socket): void {
    this.#silent.delete(socket)
    this.#begun.delete(socket)
    this.#paused.delete(socket)
    this.#waiting.delete(socket)
    socket.off('readable', this.#readable)
    socket.off('close', this.#closed)
  }

  #pauseOthers(): void {
    let count = 0
    for (const sockets of [this.#begun, this.#silent]) {
      for (const socket of sockets) {
        if (count++ === PAUSED_AT_ONCE) return
        this.#pause(socket, sockets)
      }
    }
  }

  /** Stops reading from a socket of this set, unless this version of Node has no way to. */
  #pause(socket: Socket, from: Set<Socket>): void {
    const handle = readHandle(socket)
    if (handle === null) return
    handle.readStop()
    from.delete(socket)
    this.#paused.set(socket, from)
    this.#steps.stopTime(socket)
  }

  #resume(socket: Socket, to: Set<Socket>): void {
    this.#paused.delete(socket)
    to.add(socket)
    this.#steps.startTime(socket)
    readHandle(socket)?.readStart()
  }

  #countPass(): void {
    if (this.#deferred) return
    this.#deferred = true
    this.#steps.defer(this.#nextPass)
  }

  #onNextPass(): void {
    this.#deferred = false
    this.#passBegun = 0
    this.#passEnded = 0
    for (const socket of this.#waiting.keys()) {
      if (this.#passBegun === PASS_BEGUN) break
      this.#waiting.delete(socket)
      if (socket.destroyed) continue
      this.#steps.startTime(socket)
      this.#begin(socket)
    }
    // Those that wait are enough for the next passes, otherwise more are read from.
    let left = PASS_RESUMED - this.#waiting.size
    for (const [socket, sockets] of this.#paused) {
      if (left-- <= 0) break
      this.#resume(socket, sockets)
    }
    if (this.waitingCount > 0) this.#countPass()
  }
}

interface ReadHandle {
  readStart(): unknown
  readStop(): unknown
}

/** Returns the handle of a socket, which Node does not document; null without these functions. */
function readHandle(socket: Socket): ReadHandle | null {
  const handle: unknown = Reflect.get(socket, '_handle')
  return isReadHandle(handle) ? handle : null
}

function isReadHandle(handle: unknown): handle is ReadHandle {
  return (
    typeof handle === 'object' &&
    handle !== null &&
    typeof Reflect.get(handle, 'readStart') === 'function' &&
    typeof Reflect.get(handle, 'readStop') === 'function'
  )
}

/** Makes the handshakes of a server wait for their turn. Call this before anybody listens to its events. */
export function queueHandshakes(server: Server, handshakes: Handshakes): HandshakeQueue {
  // Node's own listener, which begins a handshake.
  const listeners = server.listeners('connection')
  server.removeAllListeners('connection')
  const queue = new HandshakeQueue({
    begin: (socket) => {
      for (const listener of listeners) listener.call(server, socket)
    },
    failed: (socket, error) => server.emit('tlsClientError', error, socket),
    stopTime: (socket) => handshakes.stopTime(socket),
    startTime: (socket) => handshakes.startTime(socket),
    defer: setImmediate,
  })
  const ended = (socket: TLSSocket): void => {
    const below = handshakes.below(socket)
    if (below !== undefined) queue.ended(below)
  }
  server.on('connection', (socket: Socket) => {
    handshakes.add(socket)
    queue.add(socket)
  })
  server.prependListener('secureConnection', ended)
  server.prependListener('tlsClientError', (_error: Error, socket: TLSSocket) => ended(socket))
  return queue
}
