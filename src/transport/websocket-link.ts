/** HOT. A WebSocket as a Link: control packets in binary messages (MQTT 5.0 section 6). */
import type { Duplex } from 'node:stream'
import type { WebSocket } from 'ws'
import type { Link, LinkHandler, LinkInfo } from '../broker/link.ts'
import { Lingering } from './lingering.ts'
import { Outgoing, type Sink } from './outgoing.ts'

/** Bytes that may wait for a reader before its pings are left unanswered: it would not read the answers either. */
const PONG_BELOW_BYTES = 16 * 1024

const FINAL = Object.freeze({ binary: true, compress: false, fin: true })
const CONTINUED = Object.freeze({ binary: true, compress: false, fin: false })

const UNSUPPORTED_DATA = 1003
const NORMAL = 1000

/** A Link over an open WebSocket (made with `autoPong: false`). Each `write` is one message, in fragments when long. */
export class WebSocketLink implements Link, Sink {
  readonly info: LinkInfo
  readonly #webSocket: WebSocket
  readonly #socket: Duplex
  readonly #outgoing: Outgoing
  readonly #lingering: Lingering
  #handler: LinkHandler | undefined
  #error: Error | undefined
  #ending = false

  /** `socket` is what the WebSocket was made from. */
  constructor(webSocket: WebSocket, socket: Duplex, info: LinkInfo) {
    this.info = info
    this.#webSocket = webSocket
    this.#socket = socket
    this.#outgoing = new Outgoing(this, true, null)
    this.#lingering = new Lingering(() => webSocket.terminate())
    webSocket.on('error', (error) => {
      this.#error ??= error
      this.#ending = true
      this.#lingering.start()
    })
    webSocket.on('close', () => this.#onClose())
  }

  /** Hands what arrives to the handler from now on. */
  start(handler: LinkHandler): void {
    this.#handler = handler
    if (this.#webSocket.readyState === this.#webSocket.CLOSED) {
      this.#onClose()
      return
    }
    this.#webSocket.on('message', (data: Buffer, isBinary: boolean) => this.#onMessage(data, isBinary))
    this.#webSocket.on('ping', (data: Buffer) => {
      if (this.#socket.writableLength < PONG_BELOW_BYTES) this.#webSocket.pong(data)
    })
    this.#socket.on('end', () => this.#onPeerEnd())
  }

  get bufferedBytes(): number {
    return this.#outgoing.bufferedBytes
  }

  get flushedBytes(): number {
    return this.#outgoing.flushedBytes
  }

  write(chunks: readonly Buffer[], bytes: number): void {
    if (!this.#ending) this.#outgoing.write(chunks, bytes)
  }

  pause(): void {
    if (!this.#ending) this.#webSocket.pause()
  }

  resume(): void {
    if (!this.#ending) this.#webSocket.resume()
  }

  end(): void {
    if (this.#ending) return
    this.#ending = true
    this.#lingering.start()
    this.#webSocket.resume()
    if (this.#outgoing.bufferedBytes === 0) this.#webSocket.close(NORMAL)
  }

  destroy(): void {
    this.#ending = true
    this.#outgoing.close()
    this.#webSocket.terminate()
  }

  send(piece: Buffer, last: boolean, taken: () => void): boolean {
    this.#webSocket.send(piece, last ? FINAL : CONTINUED, taken)
    return this.#webSocket.bufferedAmount === 0
  }

  emptied(): void {
    if (this.#ending) this.#webSocket.close(NORMAL)
    else this.#handler?.drained()
  }

  #onMessage(data: Buffer, isBinary: boolean): void {
    if (this.#ending) return
    if (isBinary) {
      // ws may hand out a view of what it read; the handler owns the chunk, and ws never writes to it again.
      if (data.length > 0) this.#handler?.received(data)
      return
    }
    // [MQTT-6.0.0-1] any other type of data frame closes the Network Connection.
    this.#error = new Error('a WebSocket text frame was received; MQTT is sent in binary frames')
    this.#ending = true
    this.#lingering.start()
    this.#webSocket.close(UNSUPPORTED_DATA, 'MQTT is sent in binary frames')
  }

  /** ws ends the socket as well once it has sent what it holds: not for ever, the peer may not read. */
  #onPeerEnd(): void {
    this.#ending = true
    this.#outgoing.close()
    this.#lingering.start()
  }

  #onClose(): void {
    this.#ending = true
    this.#lingering.cancel()
    this.#outgoing.close()
    const handler = this.#handler
    this.#handler = undefined
    handler?.closed(this.#error)
  }
}
