/** HOT. A WebSocket as a Link: control packets in binary messages (MQTT 5.0 section 6). */
import type { Socket } from 'node:net'
import type { Link, LinkHandler, LinkInfo } from '../broker/link.ts'
import { Lingering } from './lingering.ts'
import { Outgoing, type ScratchBuffers, type Sink } from './outgoing.ts'
import type { ReadBuffer } from './read-buffer.ts'
import {
  CloseStatus,
  closeFrame,
  FIN,
  FrameReader,
  type FrameSink,
  frame,
  HEADER_BYTES_MAX,
  Opcode,
  writeHeader,
} from './websocket-frames.ts'

/** Bytes that may wait for a reader before its pings are left unanswered: it would not read the answers either. */
const PONG_BELOW_BYTES = 16 * 1024

/**
 * A Link over a socket whose WebSocket is open. Each `write` is one message, in fragments when long; its header stands in
 * the memory before it. `scratchBuffers` as for StreamLink.
 */
export class WebSocketLink implements Link, Sink, FrameSink {
  readonly info: LinkInfo
  readonly leavesWritten: boolean
  readonly #socket: Socket
  readonly #reader: FrameReader
  readonly #outgoing: Outgoing
  readonly #lingering: Lingering
  #handler: LinkHandler | undefined
  #error: Error | undefined
  /** `end` or `destroy` was called, or the peer closed: nothing more goes to the handler but `closed`. */
  #ending = false
  #closeSent = false
  /** The message under way was begun, and its last frame not sent. */
  #continuing = false

  constructor(socket: Socket, info: LinkInfo, scratchBuffers: ScratchBuffers | null) {
    this.info = info
    this.leavesWritten = scratchBuffers !== null
    this.#socket = socket
    this.#reader = new FrameReader(this)
    this.#outgoing = new Outgoing(this, HEADER_BYTES_MAX, scratchBuffers)
    this.#lingering = new Lingering(() => socket.destroy())
    socket.on('error', (error) => {
      this.#error ??= error
    })
    socket.on('close', () => this.#onClose())
  }

  /** Hands what arrives to the handler from now on, read through `readBuffer` where Node lets us; `head` has arrived already. */
  start(handler: LinkHandler, head: Buffer, readBuffer: ReadBuffer): void {
    this.#handler = handler
    if (this.#socket.closed) {
      this.#onClose()
      return
    }
    const received = (chunk: Buffer): void => this.#reader.push(chunk)
    if (readBuffer.attach(this.#socket, received)) this.#socket.resume()
    else this.#socket.on('data', received)
    this.#socket.on('end', () => this.#leave())
    if (head.length > 0) received(head)
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
    if (!this.#ending) this.#socket.pause()
  }

  resume(): void {
    if (!this.#ending) this.#socket.resume()
  }

  /** Says so in a Close frame when all is sent; the peer's own ends the connection (RFC 6455 section 7.1.1). */
  end(): void {
    if (this.#ending) return
    this.#ending = true
    this.#lingering.start()
    this.#socket.resume()
    if (this.#outgoing.bufferedBytes === 0) this.#sendClose(CloseStatus.Normal)
  }

  destroy(): void {
    this.#ending = true
    this.#outgoing.close()
    this.#socket.destroy()
  }

  // ── as the Sink of what is sent ───────────────────────────────────────────────────────────────────────────

  send(piece: Buffer, last: boolean, taken: () => void): boolean {
    const header = Buffer.allocUnsafe(HEADER_BYTES_MAX)
    const start = writeHeader(header, HEADER_BYTES_MAX, this.#firstByte(last), piece.length)
    const socket = this.#socket
    socket.cork()
    socket.write(header.subarray(start))
    socket.write(piece, taken)
    socket.uncork()
    return socket.writableLength === 0
  }

  sendGathered(memory: Buffer, end: number, last: boolean, taken: () => void): boolean {
    const start = writeHeader(memory, HEADER_BYTES_MAX, this.#firstByte(last), end - HEADER_BYTES_MAX)
    this.#socket.write(memory.subarray(start, end), taken)
    return this.#socket.writableLength === 0
  }

  /** Of the next frame, which ends a message where `last` says so. */
  #firstByte(last: boolean): number {
    const opcode = this.#continuing ? Opcode.Continuation : Opcode.Binary
    this.#continuing = !last
    return last ? FIN | opcode : opcode
  }

  emptied(): void {
    if (this.#ending) this.#sendClose(CloseStatus.Normal)
    else this.#handler?.drained()
  }

  // ── as the FrameSink of what arrives ──────────────────────────────────────────────────────────────────────

  payload(bytes: Buffer): void {
    if (!this.#ending) this.#handler?.received(bytes)
  }

  pinged(data: Buffer): void {
    if (this.#ending || this.#socket.writableLength >= PONG_BELOW_BYTES) return
    this.#socket.write(frame(FIN | Opcode.Pong, data))
  }

  closing(status: number | null): void {
    this.#sendClose(status)
    this.#leave()
  }

  violated(status: number, message: string): void {
    this.#error ??= new Error(message)
    this.#sendClose(status, message)
    this.#leave()
  }

  #sendClose(status: number | null, reason?: string): void {
    if (this.#closeSent) return
    this.#closeSent = true
    this.#socket.write(closeFrame(status, reason))
  }

  /** Ends our side behind what the socket holds: not for ever, the peer may not read. Input is read and discarded. */
  #leave(): void {
    this.#ending = true
    this.#outgoing.close()
    this.#lingering.start()
    this.#socket.resume()
    this.#socket.end()
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
