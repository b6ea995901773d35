/**
 * HOT. One piece of memory that accepted sockets read into. Node gives each read 64 KiB of its own and shrinks them to
 * what came: with one message a segment that was a fifth of the broker's CPU time. Here what came is copied out, packed
 * into larger slabs.
 *
 * Node documents this (`onread`) for sockets that connect, not for those that are accepted: their handle and three
 * symbols are looked up. Where one is missing, `attach` refuses and the socket is read by its 'data' events.
 */
import { Socket } from 'node:net'

/** What libuv asks for at most, in bytes. */
const READ_BYTES = 64 * 1024

/** Slabs hold what many reads brought, in bytes. One lives until the last packet in it is done with. */
const SLAB_BYTES = 256 * 1024

interface Reading {
  readonly buffer: symbol
  readonly callback: symbol
}

/** Where Node keeps what its documented `onread` sets; null where this Node does not have it. */
function findReading(): Reading | null {
  const symbols = Object.getOwnPropertySymbols(new Socket())
  const named = (name: string): symbol | undefined => symbols.find(({ description }) => description === name)
  const buffer = named('kBuffer')
  const callback = named('kBufferCb')
  return buffer === undefined || callback === undefined ? null : { buffer, callback }
}

export class ReadBuffer {
  readonly #reading: Reading | null
  readonly #buffer = Buffer.allocUnsafeSlow(READ_BYTES)
  #slab = Buffer.allocUnsafeSlow(SLAB_BYTES)
  #used = 0

  /** `reading` says where a socket keeps its read buffer; tests pass null for a Node that has none. */
  constructor(reading: Reading | null = findReading()) {
    this.#reading = reading
  }

  /**
   * Hands what the socket reads to `received`, in chunks that are the receiver's to keep. Returns false, with
   * nothing done, where the socket does not offer it.
   */
  attach(socket: Socket, received: (chunk: Buffer) => void): boolean {
    const reading = this.#reading
    const handle: unknown = Reflect.get(socket, '_handle')
    if (reading === null || typeof handle !== 'object' || handle === null) return false
    const useUserBuffer: unknown = Reflect.get(handle, 'useUserBuffer')
    if (typeof useUserBuffer !== 'function' || socket.readableLength > 0) return false
    const callback = (bytes: number): boolean => {
      received(this.#copy(bytes))
      return true
    }
    Reflect.set(socket, reading.buffer, this.#buffer)
    Reflect.set(socket, reading.callback, callback)
    useUserBuffer.call(handle, this.#buffer)
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
