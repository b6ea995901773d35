/** HOT. A stream socket (TCP, TLS, unix) as a Link. */
import type { Socket } from 'node:net'
import type { Link, LinkHandler, LinkInfo } from '../../broker/boundary/link.ts'
import type { Discards } from './discards.ts'
import { EncryptedBytes } from './encrypted-bytes.ts'
import { hasTaken } from './has-taken.ts'
import { keepReading, readOn } from './keep-reading.ts'
import { LINGER_MS, LingerTimer, READ_ON_MS } from './lingering.ts'
import type { ReadBuffer, Reader } from './read-buffer.ts'
import { type ScratchBuffers, SendQueue, type Sink } from './send-queue.ts'

/**
 * A Link over a connected socket. With `scratchBuffers`, the memory of a write is reused once the socket
 * holds nothing: libuv tries every write at once (`uv_try_write`), and Node lowers `writableLength` only
 * after the kernel has copied it or it has failed. TLS encrypts later, so it gets null.
 */
export class StreamLink implements Link, Sink, Reader {
  readonly info: LinkInfo
  readonly leavesWritten: boolean
  readonly hidesRecords: boolean
  readonly #socket: Socket
  readonly #queue: SendQueue
  /** Created when the connection ends. */
  #lingerTimer: LingerTimer | undefined
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

  constructor(socket: Socket, info: LinkInfo, scratchBuffers: ScratchBuffers | null) {
    this.info = info
    this.leavesWritten = scratchBuffers !== null
    this.hidesRecords = scratchBuffers === null
    this.#socket = socket
    this.#queue = new SendQueue(this, 0, scratchBuffers)
    // The handler decides when our side ends: it may still answer input that came before the end.
    socket.allowHalfOpen = true
    keepReading(socket, true)
    socket.on('error', (error) => this.#onError(error))
    socket.on('close', () => this.#onClose())
  }

  /** Passes input to the handler from now on, read through `readBuffer` if Node supports that. */
  start(handler: LinkHandler, readBuffer: ReadBuffer): void {
    this.#handler = handler
    this.#discards = readBuffer.discards
    if (this.#socket.closed) {
      this.#onClose()
      return
    }
    if (!readBuffer.attach(this.#socket, this)) {
      this.#socket.on('data', (chunk: Buffer) => {
        if (!this.discards(chunk.length)) this.received(chunk)
      })
    }
    this.#socket.on('end', () => this.#onPeerEnd())
  }

  // ── Reader ──────────────────────────────────────────────

  discards(bytes: number): boolean {
    if (!this.#ending) return false
    this.#discards?.discarded(this.#socket, bytes)
    return true
  }

  received(chunk: Buffer): void {
    this.#handler?.received(chunk)
  }

  // ── Link ────────────────────────────────────────────────

  get bufferedBytes(): number {
    return this.#queue.bufferedBytes
  }

  get flushedBytes(): number {
    return this.#queue.flushedBytes
  }

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

  end(): void {
    if (this.#ending) return
    if (this.#broken) {
      this.destroy()
      return
    }
    this.#ending = true
    keepReading(this.#socket, false)
    this.#linger(LINGER_MS)
    // Unread input would turn our FIN into a reset, which can overtake the last packet.
    if (this.#discards === undefined) this.#socket.resume()
    else this.#discards.start(this.#socket)
    if (this.#queue.bufferedBytes === 0) this.#socket.end()
  }

  #linger(ms: number): void {
    this.#lingerTimer ??= new LingerTimer(() => this.#socket.destroy())
    this.#lingerTimer.start(ms)
  }

  destroy(): void {
    this.#ending = true
    this.#queue.close()
    this.#socket.destroy()
  }

  // ── Sink: output ────────────────────────────────────────

  send(piece: Buffer, _last: boolean, taken: () => void): boolean {
    this.#socket.write(piece, this.hidesRecords ? taken : undefined)
    return !this.hidesRecords && hasTaken(this.#socket, taken)
  }

  sendGathered(memory: Buffer, end: number, last: boolean, taken: () => void): boolean {
    return this.send(memory.subarray(0, end), last, taken)
  }

  emptied(): void {
    if (this.#ending) this.#socket.end()
    else this.#handler?.drained()
  }

  // ── events of the socket ────────────────────────────────

  #onPeerEnd(): void {
    if (!this.#ending) this.#handler?.ended(undefined)
  }

  /**
   * Handles an error. A failed read has destroyed the socket; a failed write has not, and input may still
   * be read.
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
    this.#linger(READ_ON_MS)
    // The output was dropped, so nothing waits for the peer any more.
    this.#handler.drained()
  }

  #onClose(): void {
    this.#ending = true
    this.#lingerTimer?.cancel()
    this.#queue.close()
    const handler = this.#handler
    this.#handler = undefined
    handler?.closed(this.#error)
  }
}
