/** HOT. A stream socket (TCP, TLS, unix) as a Link. */
import type { Socket } from 'node:net'
import type { Link, LinkHandler, LinkInfo } from '../../broker/boundary/link.ts'
import { EncryptedBytes } from './encrypted-bytes.ts'
import { keepReading, readOn } from './keep-reading.ts'
import { LINGER_MS, Lingering, READ_ON_MS } from './lingering.ts'
import { Outgoing, type ScratchBuffers, type Sink } from './outgoing.ts'
import type { ReadBuffer } from './read-buffer.ts'

/**
 * A Link over a connected socket. With `scratchBuffers`, memory of a write is used again as soon as the socket has
 * nothing left: libuv tries every write at once (`uv_try_write`), and Node calls the write's callback, which
 * lowers `writableLength`, only for what the kernel has copied or what failed. TLS encrypts later: null there.
 */
export class StreamLink implements Link, Sink {
  readonly info: LinkInfo
  readonly leavesWritten: boolean
  readonly hidesRecords: boolean
  readonly #socket: Socket
  readonly #outgoing: Outgoing
  /** Made when the connection ends. */
  #lingering: Lingering | undefined
  /** Made when it is asked for. */
  #encrypted: EncryptedBytes | undefined
  #handler: LinkHandler | undefined
  #error: Error | undefined
  /** `end` or `destroy` was called: nothing more goes to the handler but `closed`. */
  #ending = false
  /** A write failed: the peer takes nothing more, but what it sent before is still to be read. */
  #broken = false

  constructor(socket: Socket, info: LinkInfo, scratchBuffers: ScratchBuffers | null) {
    this.info = info
    this.leavesWritten = scratchBuffers !== null
    this.hidesRecords = scratchBuffers === null
    this.#socket = socket
    this.#outgoing = new Outgoing(this, 0, scratchBuffers)
    // The handler says when it has handled what came before the end of input, and has answered it.
    socket.allowHalfOpen = true
    keepReading(socket, true)
    socket.on('error', (error) => this.#onError(error))
    socket.on('close', () => this.#onClose())
  }

  /** Hands what arrives to the handler from now on, read through `readBuffer` where Node lets us. */
  start(handler: LinkHandler, readBuffer: ReadBuffer): void {
    this.#handler = handler
    if (this.#socket.closed) {
      this.#onClose()
      return
    }
    const received = (chunk: Buffer): void => {
      if (!this.#ending) handler.received(chunk)
    }
    if (!readBuffer.attach(this.#socket, received)) this.#socket.on('data', received)
    this.#socket.on('end', () => this.#onPeerEnd())
  }

  get bufferedBytes(): number {
    return this.#outgoing.bufferedBytes
  }

  get flushedBytes(): number {
    return this.#outgoing.flushedBytes
  }

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

  end(): void {
    if (this.#ending) return
    if (this.#broken) {
      this.destroy()
      return
    }
    this.#ending = true
    keepReading(this.#socket, false)
    this.#linger(LINGER_MS)
    // Unread input would turn our FIN into a reset, which can overtake the last packet: read on and discard.
    this.#socket.resume()
    if (this.#outgoing.bufferedBytes === 0) this.#socket.end()
  }

  #linger(ms: number): void {
    this.#lingering ??= new Lingering(() => this.#socket.destroy())
    this.#lingering.start(ms)
  }

  destroy(): void {
    this.#ending = true
    this.#outgoing.close()
    this.#socket.destroy()
  }

  send(piece: Buffer, _last: boolean, taken: () => void): boolean {
    this.#socket.write(piece, taken)
    return this.#socket.writableLength === 0
  }

  sendGathered(memory: Buffer, end: number, last: boolean, taken: () => void): boolean {
    return this.send(memory.subarray(0, end), last, taken)
  }

  emptied(): void {
    if (this.#ending) this.#socket.end()
    else this.#handler?.drained()
  }

  #onPeerEnd(): void {
    if (!this.#ending) this.#handler?.ended(undefined)
  }

  /** A failed read has destroyed the socket; a failed write has not, since what came before may not have been read. */
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
    this.#linger(READ_ON_MS)
    // Nothing waits for this reader any more.
    this.#handler.drained()
  }

  #onClose(): void {
    this.#ending = true
    this.#lingering?.cancel()
    this.#outgoing.close()
    const handler = this.#handler
    this.#handler = undefined
    handler?.closed(this.#error)
  }
}
