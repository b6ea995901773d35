/**
 * HOT. Memory for the packets of a turn. Each connection writes its packets one after another, so that they
 * leave in one piece. When all of them have left at the end of the turn, the next turn uses the same memory
 * again.
 */
import type { PacketWriter } from '../../mqtt/slab.ts'

/** Small, since a single waiting packet keeps the whole block alive. */
const BLOCK_BYTES = 16 * 1024

/** Blocks that are kept for later turns; a turn that needs more allocates them. */
const BLOCKS_MAX = 64

/** Bytes that a connection takes from a block at a time. */
const TURN_BUFFER_BYTES_MIN = 64
const TURN_BUFFER_BYTES_MAX = 4096

/** Larger packets get memory of their own. */
const SHARED_BYTES_MAX = 2048

const NOTHING: Buffer = Buffer.alloc(0)

/** Memory of all connections for one turn. */
export class TurnMemory {
  /** The block that `take` took from last. */
  block: Buffer = NOTHING
  #blocks: Buffer[] = []
  /** Number of blocks that this turn has taken from. */
  #count = 0
  #used = BLOCK_BYTES
  #keepsBlocks = false
  /** A block whose bytes before `#freeFrom` may still wait to be written; the others are free. */
  #partlyFree: Buffer = NOTHING
  #freeFrom = BLOCK_BYTES

  /** Takes at most `TURN_BUFFER_BYTES_MAX` bytes of `block`. Returns where they begin. */
  take(bytes: number): number {
    if (bytes > BLOCK_BYTES - this.#used) this.#next()
    const from = this.#used
    this.#used = from + bytes
    return from
  }

  /**
   * Adds bytes to the part that ends at `end`. Returns false if the block is full or another part follows.
   */
  extend(block: Buffer, end: number, bytes: number): boolean {
    if (block !== this.block || end !== this.#used || bytes > BLOCK_BYTES - end) return false
    this.#used = end + bytes
    return true
  }

  /** Tells whether later turns may write into this memory. */
  mayOverwrite(memory: ArrayBufferLike): boolean {
    if (this.#partlyFree.buffer === memory) return true
    for (let index = 0; index < this.#blocks.length; index++) {
      if (this.#blocks[index]!.buffer === memory) return true
    }
    return false
  }

  /** Keeps the blocks of this turn from being used again: some of its output waits. */
  keepBlocks(): void {
    this.#keepsBlocks = true
  }

  /** Makes the memory free for the next turn, except for blocks with output that waits. */
  turnEnded(): void {
    if (this.#keepsBlocks) {
      this.#keepsBlocks = false
      this.#blocks = []
      this.#partlyFree = this.block
      this.#freeFrom = this.#used
    }
    this.#count = 0
    this.block = this.#partlyFree
    this.#used = this.#freeFrom
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

/** A connection's part of the memory for one turn. It takes another part when the first one is full. */
export class TurnBuffer implements PacketWriter {
  buffer: Buffer = NOTHING
  start = 0
  end = 0
  body: Buffer | null = null
  readonly #memory: TurnMemory
  #block: Buffer = NOTHING
  #used = 0
  #limit = 0
  /** Bytes that the turn before this one took. */
  #expected = TURN_BUFFER_BYTES_MIN
  #taken = 0

  constructor(memory: TurnMemory) {
    this.#memory = memory
  }

  reserve(bytes: number): void {
    this.body = null
    if (bytes > SHARED_BYTES_MAX) {
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
    this.#taken += bytes
  }

  /** Ends the turn: the connection no longer touches what it wrote. */
  release(): void {
    this.buffer = NOTHING
    this.body = null
    if (this.#taken === 0) return
    this.#expected = Math.min(Math.max(this.#taken, TURN_BUFFER_BYTES_MIN), TURN_BUFFER_BYTES_MAX)
    this.#taken = 0
    this.#block = NOTHING
    this.#used = 0
    this.#limit = 0
  }

  #extend(bytes: number): void {
    const wanted = Math.max(bytes, this.#expected)
    if (this.#memory.extend(this.#block, this.#limit, wanted)) {
      this.#limit += wanted
      return
    }
    this.#used = this.#memory.take(wanted)
    this.#block = this.#memory.block
    this.#limit = this.#used + wanted
  }
}
