/** HOT. Copies the output of a slow reader into memory of its own. */
import type { ServerState } from '../../state/server-state.ts'

/** Output for a slow reader is copied if it is smaller than this, or its memory this many times larger. */
const COPY_BELOW_BYTES = 1024
const MEMORY_TIMES_MAX = 2

/** From this size on, in bytes, readers that wait for the same bytes share one copy. */
const SHARED_FROM_BYTES = 4096

/** Copies are written into blocks of this size that belong to the connection, in bytes. */
const SPARE_BYTES = 4096

const NOTHING: Buffer = Buffer.alloc(0)

/**
 * Copies output that may wait for long. Only its own bytes are counted, so it must not keep the memory of
 * other packets alive.
 */
export class OwnCopies {
  readonly #state: ServerState
  /** The block that copies are written into, from `#spareUsed` on. */
  #spare: Buffer = NOTHING
  #spareUsed = 0

  constructor(state: ServerState) {
    this.#state = state
  }

  /**
   * Returns chunks with the same bytes that keep no memory of others alive. Large chunks are copied once for
   * all readers. A chunk that fills most of its memory stays as it is.
   */
  of(chunks: readonly Buffer[], bytes: number): readonly Buffer[] {
    if (chunks.length === 1 && bytes >= COPY_BELOW_BYTES && isAlone(chunks[0]!)) return chunks
    if (bytes < SHARED_FROM_BYTES) return [this.#joined(chunks, 0, chunks.length, bytes)]
    const { memory } = this.#state.turn
    const kept: Buffer[] = []
    let from = 0
    let smallBytes = 0
    for (let index = 0; index < chunks.length; index++) {
      const chunk = chunks[index]!
      // Never share memory that the next turns write into: its bytes would change.
      if (chunk.length < SHARED_FROM_BYTES || memory.mayOverwrite(chunk.buffer)) {
        smallBytes += chunk.length
        continue
      }
      if (smallBytes > 0) kept.push(this.#joined(chunks, from, index, smallBytes))
      kept.push(isAlone(chunk) ? chunk : this.#state.sharedCopies.of(chunk))
      from = index + 1
      smallBytes = 0
    }
    if (smallBytes > 0) kept.push(this.#joined(chunks, from, chunks.length, smallBytes))
    return kept
  }

  #joined(chunks: readonly Buffer[], from: number, to: number, bytes: number): Buffer {
    const room = this.#room(bytes)
    let at = 0
    for (let index = from; index < to; index++) at += chunks[index]!.copy(room, at)
    return room
  }

  /** Makes room in memory of this connection, not in Node's pool, which other Buffers would keep alive. */
  #room(bytes: number): Buffer {
    if (bytes > SPARE_BYTES / 2) return Buffer.allocUnsafeSlow(bytes)
    if (bytes > this.#spare.length - this.#spareUsed) {
      this.#spare = Buffer.allocUnsafeSlow(SPARE_BYTES)
      this.#spareUsed = 0
    }
    const from = this.#spareUsed
    this.#spareUsed += bytes
    return this.#spare.subarray(from, this.#spareUsed)
  }
}

function isAlone(chunk: Buffer): boolean {
  return chunk.buffer.byteLength <= MEMORY_TIMES_MAX * chunk.length
}
