/**
 * HOT. Lets accepted sockets read into one shared buffer and copies their input into slabs. Node would
 * allocate 64 KiB for each read and shrink it, which took a fifth of the broker's CPU time with one message
 * per segment.
 *
 * Node documents this (`onread`) only for sockets that connect. For accepted sockets we look up their
 * handle and internal symbols; if one is missing, `attach` returns false and the socket is read by its
 * 'data' events.
 */
import { Socket } from 'node:net'
import { Discards } from './discards.ts'

/** The most bytes that libuv reads at once. */
const READ_BYTES = 64 * 1024

/** A slab holds the input of many reads. It lives until the last packet in it is no longer used. */
const SLAB_BYTES = 256 * 1024

/** The keys of a socket's properties for its read buffer and for the callback after each read. */
interface ReadSymbols {
  readonly buffer: symbol
  readonly callback: symbol
}

/** A socket as it is in Node, which may differ in another version. */
type InnerSocket = Socket & {
  readonly _handle?: { useUserBuffer?(buffer: Buffer): void } | null
  [symbol: symbol]: unknown
}

/** Takes the input of one socket. */
export interface Reader {
  /** Tells whether the next `bytes` bytes are unwanted, and counts them if so. */
  discards(bytes: number): boolean
  received(chunk: Buffer): void
}

/** Finds the symbols that `onread` sets; null if this version of Node does not have them. */
function findReadSymbols(): ReadSymbols | null {
  const symbols = Object.getOwnPropertySymbols(new Socket())
  const named = (name: string): symbol | undefined => symbols.find(({ description }) => description === name)
  const buffer = named('kBuffer')
  const callback = named('kBufferCb')
  return buffer === undefined || callback === undefined ? null : { buffer, callback }
}

/** The shared read buffer of many sockets. */
export class ReadBuffer {
  /** Discards the input of the same sockets once their connections have ended. */
  readonly discards = new Discards()
  readonly #symbols: ReadSymbols | null
  readonly #buffer = Buffer.allocUnsafeSlow(READ_BYTES)
  #slab = Buffer.allocUnsafeSlow(SLAB_BYTES)
  #used = 0

  /** Tests pass null, as for a Node without the symbols. */
  constructor(symbols: ReadSymbols | null = findReadSymbols()) {
    this.#symbols = symbols
  }

  /**
   * Passes the socket's input to the reader in chunks that it may keep. Returns false and does
   * nothing if the socket does not support it.
   */
  attach(socket: Socket, reader: Reader): boolean {
    const symbols = this.#symbols
    const inner = socket as InnerSocket
    const handle = inner._handle
    if (symbols === null || typeof handle?.useUserBuffer !== 'function' || socket.readableLength > 0)
      return false
    inner[symbols.buffer] = this.#buffer
    inner[symbols.callback] = (bytes: number): boolean => {
      if (!reader.discards(bytes)) reader.received(this.#copy(bytes))
      return true
    }
    handle.useUserBuffer(this.#buffer)
    return true
  }

  #copy(bytes: number): Buffer {
    if (bytes > SLAB_BYTES - this.#used) {
      this.#slab = Buffer.allocUnsafeSlow(SLAB_BYTES)
      this.#used = 0
    }
    const from = this.#used
    const slab = this.#slab
    this.#used = from + bytes
    this.#buffer.copy(slab, from, 0, bytes)
    return slab.subarray(from, this.#used)
  }
}
