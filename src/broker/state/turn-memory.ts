/**
 * HOT. Memory for the packets of a turn. Each connection writes its own behind each other, so that they leave as one slice;
 * when all have left at the end of the turn, the next turn writes into the same memory.
 */
import type { PacketWriter } from '../../mqtt/slab.ts'

/** As small as this since a single waiting packet keeps all of it alive. */
const BLOCK_BYTES = 16 * 1024

/** Blocks that are used again: what more a turn needs is made anew. */
const BLOCKS_MAX = 64

/** What a connection takes at least, and what is still taken from a block for one, in bytes. */
const STRETCH_BYTES_MIN = 64
const STRETCH_BYTES_MAX = 4096

/** Larger packets get memory of their own. */
const PLACED_BYTES_MAX = 2048

const NOTHING: Buffer = Buffer.alloc(0)

export class TurnMemory {
  /** The block of the stretch that was taken last. */
  block: Buffer = NOTHING
  #blocks: Buffer[] = []
  /** How many of these this turn has taken from. */
  #count = 0
  #used = BLOCK_BYTES
  #waits = false
  /** A block of which the bytes up to `#behind` wait, or did: what is behind them is as good as any. */
  #begun: Buffer = NOTHING
  #behind = BLOCK_BYTES

  /** Takes so many bytes of `block`, at most `STRETCH_BYTES_MAX`, and returns where they begin. */
  take(bytes: number): number {
    if (bytes > BLOCK_BYTES - this.#used) this.#next()
    const from = this.#used
    this.#used = from + bytes
    return from
  }

  /** Lengthens a stretch that was the last to be taken; false where there is no room, or another one is behind it. */
  lengthen(block: Buffer, end: number, bytes: number): boolean {
    if (block !== this.block || end !== this.#used || bytes > BLOCK_BYTES - end) return false
    this.#used = end + bytes
    return true
  }

  /** Whether the next turns may write into this memory. */
  uses(memory: ArrayBufferLike): boolean {
    if (this.#begun.buffer === memory) return true
    for (let index = 0; index < this.#blocks.length; index++) {
      if (this.#blocks[index]!.buffer === memory) return true
    }
    return false
  }

  /** Something of this turn waits, and its memory with it. */
  waits(): void {
    this.#waits = true
  }

  /** Everything has been handed over. What waits keeps its blocks; the next turn goes on behind it. */
  turnEnded(): void {
    if (this.#waits) {
      this.#waits = false
      this.#blocks = []
      this.#begun = this.block
      this.#behind = this.#used
    }
    this.#count = 0
    this.block = this.#begun
    this.#used = this.#behind
  }

  #next(): void {
    if (this.#count === this.#blocks.length) {
      const block = Buffer.allocUnsafeSlow(BLOCK_BYTES)
      if (this.#count < BLOCKS_MAX) this.#blocks.push(block)
      else this.#count--
      this.block = block
    } else {
      this.block = this.#blocks[this.#count]!
    }
    this.#count++
    this.#used = 0
  }
}

/** The memory of one connection's turn: a stretch, and another one where it does not do. */
export class Stretch implements PacketWriter {
  buffer: Buffer = NOTHING
  start = 0
  end = 0
  body: Buffer | null = null
  readonly #memory: TurnMemory
  #block: Buffer = NOTHING
  #used = 0
  #limit = 0
  /** What the turn before this one took, in bytes. */
  #expected = STRETCH_BYTES_MIN
  #placed = 0

  constructor(memory: TurnMemory) {
    this.#memory = memory
  }

  reserve(bytes: number): void {
    this.body = null
    if (bytes > PLACED_BYTES_MAX) {
      this.buffer = Buffer.allocUnsafe(bytes)
      this.start = 0
      this.end = bytes
      return
    }
    if (bytes > this.#limit - this.#used) this.#extend(bytes)
    this.buffer = this.#block
    this.start = this.#used
    this.#used += bytes
    this.end = this.#used
    this.#placed += bytes
  }

  /** The turn is over: what was placed is not touched any more, and not added to. */
  leave(): void {
    this.buffer = NOTHING
    this.body = null
    if (this.#placed === 0) return
    this.#expected = Math.min(Math.max(this.#placed, STRETCH_BYTES_MIN), STRETCH_BYTES_MAX)
    this.#placed = 0
    this.#block = NOTHING
    this.#used = 0
    this.#limit = 0
  }

  #extend(bytes: number): void {
    const wanted = Math.max(bytes, this.#expected)
    if (this.#memory.lengthen(this.#block, this.#limit, wanted)) {
      this.#limit += wanted
      return
    }
    this.#used = this.#memory.take(wanted)
    this.#block = this.#memory.block
    this.#limit = this.#used + wanted
  }
}
