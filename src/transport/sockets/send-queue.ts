/** HOT. Sends the bytes of one Link in pieces. One piece is under way at a time, so that progress shows. */

/** The largest piece that the kernel gets at once. */
export const PIECE_BYTES = 64 * 1024

/** A larger chunk of a long write is sent directly instead of being copied together with others. */
const COPY_BELOW_BYTES = 16 * 1024

/** Takes the pieces: a socket, or the frames of a WebSocket. */
export interface Sink {
  /**
   * Sends a piece. Returns true if the kernel has taken all of it, or else calls `taken` later, even if it
   * fails. `last` is true if the piece is the end of one `write`.
   */
  send(piece: Buffer, last: boolean, taken: () => void): boolean
  /**
   * Sends a gathered piece, in `memory` from the sink's headroom to `end`. The sink may write into its
   * headroom.
   */
  sendGathered(memory: Buffer, end: number, last: boolean, taken: () => void): boolean
  /** Is called once everything is sent, if some of it had to wait. */
  emptied(): void
}

/**
 * Lends buffers into which chunks are gathered. A Link has one write under way, so its buffer is free once
 * that write was taken. The kernel nearly always takes it at once, and the next Link uses the same buffer.
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

  /** Takes back a buffer that nobody reads any more. Keeps one. */
  give(buffer: Buffer): void {
    this.#free = buffer
  }
}

interface Waiting {
  readonly chunk: Buffer
  /** Whether the chunk is the end of one `write`. */
  readonly last: boolean
}

/**
 * The send queue of a Link. A framed sink (WebSocket) has a `headroom`, the most bytes that it writes
 * before a piece, and keeps the boundaries between writes; other sinks have none.
 */
export class SendQueue {
  readonly #sink: Sink
  readonly #headroom: number
  /** Null if a piece may still be read after it was taken (TLS); each piece then gets its own buffer. */
  readonly #scratchBuffers: ScratchBuffers | null
  readonly #taken: () => void
  /** The buffer of the write under way. */
  #scratch: Buffer | undefined
  #waiting: Waiting[] = []
  #head = 0
  /** The sent bytes of the chunk at `#head`. */
  #headOffset = 0
  #waitingBytes = 0
  /** The bytes of the latest write. */
  #latestBytes = 0
  #underWayBytes = 0
  #acceptedBytes = 0
  #hadToWait = false
  #closed = false

  constructor(sink: Sink, headroom: number, scratchBuffers: ScratchBuffers | null) {
    this.#sink = sink
    this.#headroom = headroom
    this.#scratchBuffers = scratchBuffers
    this.#taken = () => this.#onTaken()
  }

  /** Bytes that the kernel has not taken yet. */
  get bufferedBytes(): number {
    return this.#waitingBytes + this.#underWayBytes
  }

  /** Bytes that the kernel has taken since the start. */
  get flushedBytes(): number {
    return this.#acceptedBytes - this.#waitingBytes - this.#underWayBytes
  }

  /** Queues all chunks, `bytes` in total. The caller may reuse the array afterwards, but not the chunks. */
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

  /** Drops what waits. From now on nothing is sent and `emptied` is not called. */
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
    this.#underWayBytes = piece.length
    if (this.#sink.send(piece, last, this.#taken)) this.#settle()
  }

  #sendGathered(memory: Buffer, end: number, last: boolean): void {
    this.#underWayBytes = end - this.#headroom
    if (this.#sink.sendGathered(memory, end, last, this.#taken)) this.#settle()
  }

  /** Notes that the piece under way was taken, and gives its scratch buffer back. */
  #settle(): void {
    this.#underWayBytes = 0
    if (this.#scratch !== undefined) {
      this.#scratchBuffers!.give(this.#scratch)
      this.#scratch = undefined
    }
  }

  #onTaken(): void {
    if (this.#closed) return
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

  /** Sends a part of a large chunk directly, or gathers small ones. */
  #sendNext(): void {
    const { chunk, last } = this.#waiting[this.#head]!
    const left = chunk.length - this.#headOffset
    // TLS makes a record of each write: the latest one may have to stay alone (see `Link.hidesRecords`).
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

  /** Gathers and sends at most `bytes` bytes; for framed sinks only to the end of a write. */
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
