/** HOT. A WebSocket as a Link: control packets in binary messages (MQTT 5.0 section 6). */
import type { Socket } from 'node:net'
import type { Link, LinkHandler, LinkInfo } from '../../broker/boundary/link.ts'
import { EncryptedBytes } from '../sockets/encrypted-bytes.ts'
import { keepReading, readOn } from '../sockets/keep-reading.ts'
import { LINGER_MS, Lingering, READ_ON_MS } from '../sockets/lingering.ts'
import { Outgoing, type ScratchBuffers, type Sink } from '../sockets/outgoing.ts'
import type { ReadBuffer } from '../sockets/read-buffer.ts'
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
  readonly hidesRecords: boolean
  readonly #socket: Socket
  readonly #reader: FrameReader
  readonly #outgoing: Outgoing
  readonly #lingering: Lingering
  /** Made when it is asked for. */
  #encrypted: EncryptedBytes | undefined
  #handler: LinkHandler | undefined
  #error: Error | undefined
  /** `end` or `destroy` was called: nothing more goes to the handler but `closed`. */
  #ending = false
  /** A write failed: the peer takes nothing more, but what it sent before is still to be read. */
  #broken = false
  /** The peer's stream has ended. */
  #inputEnded = false
  #closeSent = false
  /** The message under way was begun, and its last frame not sent. */
  #continuing = false

  constructor(socket: Socket, info: LinkInfo, scratchBuffers: ScratchBuffers | null) {
    this.info = info
    this.leavesWritten = scratchBuffers !== null
    this.hidesRecords = scratchBuffers === null
    this.#socket = socket
    this.#reader = new FrameReader(this)
    this.#outgoing = new Outgoing(this, HEADER_BYTES_MAX, scratchBuffers)
    this.#lingering = new Lingering(() => socket.destroy())
    // As for StreamLink: the handler says when the connection is over.
    socket.allowHalfOpen = true
    keepReading(socket, true)
    socket.on('error', (error) => this.#onError(error))
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
    this.#socket.on('end', () => this.#onPeerEnd())
    if (head.length > 0) received(head)
  }

  get bufferedBytes(): number {
    return this.#outgoing.bufferedBytes
  }

  get flushedBytes(): number {
    return this.#outgoing.flushedBytes
  }

  /** Frames that are no MQTT, such as Ping, are not among these: they can be read. */
  get arrivedBytes(): number | undefined {
    if (!this.hidesRecords) return undefined
    this.#encrypted ??= new EncryptedBytes(this.#socket)
    return this.#encrypted.look()
  }

  write(chunks: readonly Buffer[], bytes: number): void {
    if (!this.#ending && !this.#broken) this.#outgoing.write(chunks, bytes)
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
    if (this.#broken) {
      this.destroy()
      return
    }
    this.#ending = true
    keepReading(this.#socket, false)
    this.#lingering.start(LINGER_MS)
    this.#socket.resume()
    if (this.#outgoing.bufferedBytes === 0) this.#sendLast()
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
    if (this.#ending) this.#sendLast()
    else this.#handler?.drained()
  }

  #sendLast(): void {
    this.#sendClose(CloseStatus.Normal)
    if (this.#inputEnded) this.#leave()
  }

  // ── as the FrameSink of what arrives ──────────────────────────────────────────────────────────────────────

  payload(bytes: Buffer): void {
    if (!this.#ending) this.#handler?.received(bytes)
  }

  pinged(data: Buffer): void {
    if (this.#ending || this.#broken || this.#socket.writableLength >= PONG_BELOW_BYTES) return
    this.#socket.write(frame(FIN | Opcode.Pong, data))
  }

  closing(status: number | null): void {
    this.#sendClose(status)
    this.#over(undefined)
  }

  violated(status: number, message: string): void {
    this.#error ??= new Error(message)
    this.#sendClose(status, message)
    this.#over(this.#error)
  }

  #sendClose(status: number | null, reason?: string): void {
    if (this.#closeSent) return
    this.#closeSent = true
    this.#socket.write(closeFrame(status, reason))
  }

  /** A Close frame is the last of both sides: answers to what came before it cannot be sent any more. */
  #over(error: Error | undefined): void {
    this.#outgoing.close()
    if (!this.#ending) this.#handler?.ended(error)
    this.#ending = true
    this.#leave()
  }

  /** Ends our side behind what the socket holds: not for ever, the peer may not read. Input is read and discarded. */
  #leave(): void {
    if (this.#broken) {
      this.#socket.destroy()
      return
    }
    keepReading(this.#socket, false)
    this.#lingering.start(LINGER_MS)
    this.#socket.resume()
    this.#socket.end()
  }

  /** The peer's stream ended without a Close frame, or behind ours. */
  #onPeerEnd(): void {
    this.#inputEnded = true
    if (this.#ending) this.#leave()
    else this.#handler?.ended(undefined)
  }

  /** As for StreamLink: a failed read has destroyed the socket, a failed write has not. */
  #onError(error: Error): void {
    this.#error ??= error
    if (this.#socket.destroyed || this.#broken) return
    this.#broken = true
    readOn(this.#socket)
    this.#outgoing.close()
    if (this.#ending || this.#handler === undefined) {
      this.#socket.destroy()
      return
    }
    this.#lingering.start(READ_ON_MS)
    // Nothing waits for this reader any more.
    this.#handler.drained()
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
