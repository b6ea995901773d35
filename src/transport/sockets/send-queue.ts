/** HOT. The bytes one Link has to send: cut into pieces, one piece under way at a time, so that progress shows. */

/** Largest piece handed to the kernel at once, in bytes. */
export const PIECE_BYTES = 64 * 1024

/** From this size on, in bytes, a chunk of a long write is sent as it is instead of being copied beside others. */
const COPY_BELOW_BYTES = 16 * 1024

/** Where pieces go: a socket, or a WebSocket's frames. */
export interface Sink {
  /**
   * Sends a piece and calls `taken` later, also where it fails. Returns true when the kernel has all of it already.
   * `last` is true where the piece ends what one `write` was given.
   */
  send(piece: Buffer, last: boolean, taken: () => void): boolean
  /** The same for a piece that was gathered: in `memory` from the sink's headroom to `end`. The headroom is its own. */
  sendGathered(memory: Buffer, end: number, last: boolean, taken: () => void): boolean
  /** Nothing is left to send after it had to wait. */
  emptied(): void
}

/**
 * Buffers into which chunks are gathered. One write is under way per Link, so a buffer is free again once its
 * write was taken; where the kernel took it at once (nearly always) the next Link uses the very same one.
 */
export class ScratchBuffers {
  readonly #bytes: number
  #free: Buffer | undefined

  /** `headroom` is that of the sinks, in bytes. */
  constructor(headroom: number) {
    this.#bytes = headroom + PIECE_BYTES
  }

  take(): Buffer {
    const buffer = this.#free ?? Buffer.allocUnsafeSlow(this.#bytes)
    this.#free = undefined
    return buffer
  }

  /** Gives a buffer back that nobody reads any more. One is kept. */
  give(buffer: Buffer): void {
    this.#free = buffer
  }
}

interface Waiting {
  readonly chunk: Buffer
  /** The end of what one `write` was given. */
  readonly last: boolean
}

/**
 * What a Link sends. Framed sinks (WebSocket) have a `headroom`: bytes for what they write before a piece, at most. They keep
 * the borders between writes; others do not know any.
 */
export class Outgoing {
  readonly #sink: Sink
  readonly #headroom: number
  /** Null where a piece's memory may be read after it was taken: those get a buffer of their own each. */
  readonly #scratchBuffers: ScratchBuffers | null
  readonly #taken: () => void
  /** Lent to the write under way. */
  #scratch: Buffer | undefined
  #waiting: Waiting[] = []
  #head = 0
  /** Bytes of the chunk at `#head` that were sent. */
  #headOffset = 0
  #waitingBytes = 0
  /** Of the latest write. */
  #latestBytes = 0
  #underWayBytes = 0
  #acceptedBytes = 0
  #sentPieces = 0
  #takenPieces = 0
  #hadToWait = false
  #closed = false

  constructor(sink: Sink, headroom: number, scratchBuffers: ScratchBuffers | null) {
    this.#sink = sink
    this.#headroom = headroom
    this.#scratchBuffers = scratchBuffers
    this.#taken = () => this.#onTaken()
  }

  /** Bytes accepted and not yet taken by the kernel. */
  get bufferedBytes(): number {
    return this.#waitingBytes + this.#underWayBytes
  }

  /** Bytes the kernel took since the start. */
  get flushedBytes(): number {
    return this.#acceptedBytes - this.#waitingBytes - this.#underWayBytes
  }

  /** Sends all chunks (`bytes` in total) behind what waits. The array may be used again afterwards, the chunks not. */
  write(chunks: readonly Buffer[], bytes: number): void {
    if (this.#closed || bytes === 0) return
    this.#acceptedBytes += bytes
    this.#latestBytes = bytes
    if (this.#underWayBytes === 0 && this.#waitingBytes === 0 && bytes <= PIECE_BYTES) {
      if (chunks.length === 1 && (this.#headroom === 0 || bytes >= COPY_BELOW_BYTES)) {
        this.#send(chunks[0]!, true)
      } else this.#gather(chunks, bytes)
    } else {
      for (let i = 0; i < chunks.length; i++) {
        this.#waiting.push({ chunk: chunks[i]!, last: i === chunks.length - 1 })
      }
      this.#waitingBytes += bytes
      this.#pump()
    }
    if (this.bufferedBytes > 0) this.#hadToWait = true
  }

  /** Forgets what waits; nothing is sent and `emptied` is not called from now on. */
  close(): void {
    this.#acceptedBytes -= this.bufferedBytes
    this.#closed = true
    this.#waiting = []
    this.#head = 0
    this.#waitingBytes = 0
    this.#underWayBytes = 0
    this.#scratch = undefined
  }

  #send(piece: Buffer, last: boolean): void {
    this.#sentPieces++
    this.#underWayBytes = piece.length
    if (this.#sink.send(piece, last, this.#taken)) this.#settle()
  }

  #sendGathered(memory: Buffer, end: number, last: boolean): void {
    this.#sentPieces++
    this.#underWayBytes = end - this.#headroom
    if (this.#sink.sendGathered(memory, end, last, this.#taken)) this.#settle()
  }

  /** The piece under way was taken: its bytes are gone and its scratch buffer is nobody's. */
  #settle(): void {
    this.#underWayBytes = 0
    if (this.#scratch !== undefined) {
      this.#scratchBuffers!.give(this.#scratch)
      this.#scratch = undefined
    }
  }

  #onTaken(): void {
    this.#takenPieces++
    if (this.#closed || this.#takenPieces !== this.#sentPieces) return
    this.#settle()
    this.#pump()
    if (this.#hadToWait && this.bufferedBytes === 0) {
      this.#hadToWait = false
      this.#sink.emptied()
    }
  }

  #pump(): void {
    while (this.#underWayBytes === 0 && this.#waitingBytes > 0) this.#sendNext()
    if (this.#waitingBytes > 0) return
    if (this.#head > 0) this.#waiting = []
    this.#head = 0
  }

  /** Sends a part of a big chunk as it is, or gathers small ones. */
  #sendNext(): void {
    const { chunk, last } = this.#waiting[this.#head]!
    const left = chunk.length - this.#headOffset
    // Where writes become records, the latest is not joined to what waits before it.
    const apart = this.#scratchBuffers === null && this.#waitingBytes > this.#latestBytes
    const together = apart ? this.#waitingBytes - this.#latestBytes : this.#waitingBytes
    if (left < COPY_BELOW_BYTES) {
      this.#gatherWaiting(last && this.#headroom > 0 ? left : Math.min(PIECE_BYTES, together))
      return
    }
    const end = Math.min(chunk.length, this.#headOffset + PIECE_BYTES)
    const piece = chunk.subarray(this.#headOffset, end)
    this.#headOffset = end
    const complete = end === chunk.length
    if (complete) this.#next()
    this.#waitingBytes -= piece.length
    this.#send(piece, complete && last)
  }

  /** Up to so many bytes, or to the end of a write where that is kept. */
  #gatherWaiting(bytes: number): void {
    const target = this.#target(bytes)
    const framed = this.#headroom > 0
    let filled = this.#headroom
    let ended = false
    while (filled < target.length && this.#head < this.#waiting.length) {
      const { chunk, last } = this.#waiting[this.#head]!
      const copied = chunk.copy(target, filled, this.#headOffset)
      filled += copied
      this.#headOffset += copied
      ended = false
      if (this.#headOffset < chunk.length) break
      this.#next()
      ended = last
      if (last && framed) break
    }
    this.#waitingBytes -= filled - this.#headroom
    this.#sendGathered(target, filled, ended)
  }

  #next(): void {
    this.#head++
    this.#headOffset = 0
    if (this.#head < 1024 || this.#head * 2 < this.#waiting.length) return
    this.#waiting = this.#waiting.slice(this.#head)
    this.#head = 0
  }

  #gather(chunks: readonly Buffer[], bytes: number): void {
    const target = this.#target(bytes)
    let filled = this.#headroom
    for (let i = 0; i < chunks.length; i++) filled += chunks[i]!.copy(target, filled)
    this.#sendGathered(target, filled, true)
  }

  #target(bytes: number): Buffer {
    if (this.#scratchBuffers === null) return Buffer.allocUnsafe(this.#headroom + bytes)
    this.#scratch = this.#scratchBuffers.take()
    return this.#scratch
  }
}
