/** HOT. A WebSocket as a Link, with control packets in binary messages (MQTT 5.0 section 6). */
import type { Socket } from 'node:net'
import type { Link, LinkHandler, LinkInfo } from '../../broker/boundary/link.ts'
import type { Discards } from '../sockets/discards.ts'
import { EncryptedBytes } from '../sockets/encrypted-bytes.ts'
import { hasTaken } from '../sockets/has-taken.ts'
import { keepReading, readOn } from '../sockets/keep-reading.ts'
import { LINGER_MS, LingerTimer, READ_ON_MS } from '../sockets/lingering.ts'
import type { ReadBuffer, Reader } from '../sockets/read-buffer.ts'
import { type ScratchBuffers, SendQueue, type Sink } from '../sockets/send-queue.ts'
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

/** If more bytes wait for the peer, its pings are not answered: it would not read the answers either. */
const PONG_BELOW_BYTES = 16 * 1024

/**
 * A Link over a socket with an open WebSocket. Each `write` becomes one message, in fragments if it is
 * long, with its header in the memory in front of it. `scratchBuffers` as for StreamLink.
 */
export class WebSocketLink implements Link, Sink, FrameSink, Reader {
  readonly info: LinkInfo
  readonly leavesWritten: boolean
  readonly hidesRecords: boolean
  readonly #socket: Socket
  readonly #reader: FrameReader
  readonly #queue: SendQueue
  readonly #lingerTimer: LingerTimer
  /** Created when it is first needed. */
  #encrypted: EncryptedBytes | undefined
  #handler: LinkHandler | undefined
  /** Set by `start`. */
  #discards: Discards | undefined
  #error: Error | undefined
  /** `end` or `destroy` was called; the handler only gets `closed` from now on. */
  #ending = false
  /** A write failed: the peer takes nothing more, but its earlier input is still read. */
  #broken = false
  /** The peer's stream has ended. */
  #inputEnded = false
  #closeSent = false
  /** Whether the current message has begun and its last frame is not sent yet. */
  #continuing = false

  constructor(socket: Socket, info: LinkInfo, scratchBuffers: ScratchBuffers | null) {
    this.info = info
    this.leavesWritten = scratchBuffers !== null
    this.hidesRecords = scratchBuffers === null
    this.#socket = socket
    this.#reader = new FrameReader(this)
    this.#queue = new SendQueue(this, HEADER_BYTES_MAX, scratchBuffers)
    this.#lingerTimer = new LingerTimer(() => socket.destroy())
    // As in StreamLink, the handler decides when our side ends.
    socket.allowHalfOpen = true
    keepReading(socket, true)
    socket.on('error', (error) => this.#onError(error))
    socket.on('close', () => this.#onClose())
  }

  /**
   * Passes input to the handler from now on, read through `readBuffer` if Node supports that; `head` came
   * earlier.
   */
  start(handler: LinkHandler, head: Buffer, readBuffer: ReadBuffer): void {
    this.#handler = handler
    this.#discards = readBuffer.discards
    if (this.#socket.closed) {
      this.#onClose()
      return
    }
    if (readBuffer.attach(this.#socket, this)) this.#socket.resume()
    else {
      this.#socket.on('data', (chunk: Buffer) => {
        if (!this.discards(chunk.length)) this.received(chunk)
      })
    }
    this.#socket.on('end', () => this.#onPeerEnd())
    if (head.length > 0) this.received(head)
  }

  // ── Reader ──────────────────────────────────────────────

  /** Counts input after the end, but never refuses it: the peer's Close frame may be in it. */
  discards(bytes: number): boolean {
    if (this.#ending) this.#discards?.discarded(this.#socket, bytes)
    return false
  }

  received(chunk: Buffer): void {
    this.#reader.push(chunk)
  }

  // ── Link ────────────────────────────────────────────────

  get bufferedBytes(): number {
    return this.#queue.bufferedBytes
  }

  get flushedBytes(): number {
    return this.#queue.flushedBytes
  }

  /** Does not count frames without MQTT, such as Ping, which can be decrypted. */
  get arrivedBytes(): number | undefined {
    if (!this.hidesRecords) return undefined
    this.#encrypted ??= new EncryptedBytes(this.#socket)
    return this.#encrypted.measure()
  }

  write(chunks: readonly Buffer[], bytes: number): void {
    if (!this.#ending && !this.#broken) this.#queue.write(chunks, bytes)
  }

  pause(): void {
    if (!this.#ending) this.#socket.pause()
  }

  resume(): void {
    if (!this.#ending) this.#socket.resume()
  }

  /**
   * Sends a Close frame after everything else; the peer's own ends the connection (RFC 6455 section 7.1.1).
   */
  end(): void {
    if (this.#ending) return
    if (this.#broken) {
      this.destroy()
      return
    }
    this.#ending = true
    keepReading(this.#socket, false)
    this.#lingerTimer.start(LINGER_MS)
    this.#discardInput()
    if (this.#queue.bufferedBytes === 0) this.#sendLast()
  }

  destroy(): void {
    this.#ending = true
    this.#queue.close()
    this.#socket.destroy()
  }

  // ── Sink: output ────────────────────────────────────────

  send(piece: Buffer, last: boolean, taken: () => void): boolean {
    const header = Buffer.allocUnsafe(HEADER_BYTES_MAX)
    const start = writeHeader(header, HEADER_BYTES_MAX, this.#firstByte(last), piece.length)
    const socket = this.#socket
    socket.cork()
    socket.write(header.subarray(start))
    socket.write(piece, this.hidesRecords ? taken : undefined)
    socket.uncork()
    return !this.hidesRecords && hasTaken(socket, taken)
  }

  sendGathered(memory: Buffer, end: number, last: boolean, taken: () => void): boolean {
    const start = writeHeader(memory, HEADER_BYTES_MAX, this.#firstByte(last), end - HEADER_BYTES_MAX)
    this.#socket.write(memory.subarray(start, end), this.hidesRecords ? taken : undefined)
    return !this.hidesRecords && hasTaken(this.#socket, taken)
  }

  /** Returns the first byte of the next frame, which ends a message if `last` is true. */
  #firstByte(last: boolean): number {
    const opcode = this.#continuing ? Opcode.Continuation : Opcode.Binary
    this.#continuing = !last
    return last ? FIN | opcode : opcode
  }

  emptied(): void {
    if (this.#ending) this.#sendLast()
    else this.#handler?.drained()
  }

  /** Sends our Close frame after all other output. */
  #sendLast(): void {
    this.#sendClose(CloseStatus.Normal)
    if (this.#inputEnded) this.#leave()
  }

  // ── FrameSink: input ────────────────────────────────────────

  payload(bytes: Buffer): void {
    if (!this.#ending) this.#handler?.received(bytes)
  }

  pinged(data: Buffer): void {
    if (this.#ending || this.#broken || this.#socket.writableLength >= PONG_BELOW_BYTES) return
    this.#socket.write(frame(FIN | Opcode.Pong, data))
  }

  closing(status: number | null): void {
    this.#sendClose(status)
    this.#closed(undefined)
  }

  violated(status: number, message: string): void {
    this.#error ??= new Error(message)
    this.#sendClose(status, message)
    this.#closed(this.#error)
  }

  #sendClose(status: number | null, reason?: string): void {
    if (this.#closeSent) return
    this.#closeSent = true
    this.#socket.write(closeFrame(status, reason))
  }

  /** Ends the connection after a Close frame, which is the last frame in each direction. */
  #closed(error: Error | undefined): void {
    this.#queue.close()
    if (!this.#ending) this.#handler?.ended(error)
    this.#ending = true
    this.#leave()
  }

  /** Ends our side after the buffered bytes. Cuts the peer off if it does not read them. Discards input. */
  #leave(): void {
    if (this.#broken) {
      this.#socket.destroy()
      return
    }
    keepReading(this.#socket, false)
    this.#lingerTimer.start(LINGER_MS)
    this.#discardInput()
    this.#socket.end()
  }

  /** Reads on, but only the peer's Close frame still matters. */
  #discardInput(): void {
    if (this.#discards === undefined) this.#socket.resume()
    else this.#discards.start(this.#socket)
  }

  /** The peer's stream ended without a Close frame, or after ours. */
  #onPeerEnd(): void {
    this.#inputEnded = true
    if (this.#ending) this.#leave()
    else this.#handler?.ended(undefined)
  }

  /**
   * Handles an error. As in StreamLink, a failed read has destroyed the socket, but a failed write has not.
   */
  #onError(error: Error): void {
    this.#error ??= error
    if (this.#socket.destroyed || this.#broken) return
    this.#broken = true
    readOn(this.#socket)
    this.#queue.close()
    if (this.#ending || this.#handler === undefined) {
      this.#socket.destroy()
      return
    }
    this.#lingerTimer.start(READ_ON_MS)
    // The output was dropped, so nothing waits for the peer any more.
    this.#handler.drained()
  }

  #onClose(): void {
    this.#ending = true
    this.#lingerTimer.cancel()
    this.#queue.close()
    const handler = this.#handler
    this.#handler = undefined
    handler?.closed(this.#error)
  }
}
