/**
 * HOT. The output of one Network Connection: one sequence. What waits for a commit holds back everything behind it;
 * what is free leaves in one write at the end of the turn.
 */
import type { Link } from './link.ts'
import type { Releasable, State } from './state.ts'

interface Segment {
  readonly gate: number
  readonly chunks: readonly Buffer[]
  readonly bytes: number
  readonly credits: number
}

export class Output {
  readonly #state: State
  readonly #link: Link
  readonly #owner: Releasable
  #chunks: Buffer[] = []
  #bytes = 0
  #gate = 0
  #credits = 0
  #held: Segment[] = []
  #heldBytes = 0
  /** Bytes handed to the link or held, as of the last flush. */
  #backlog = 0
  #pushed = 0
  #written = 0
  /** Gives back what was acknowledged, once the acknowledgement was written. */
  readonly #credit: (count: number) => void

  constructor(state: State, link: Link, owner: Releasable, credit: (count: number) => void) {
    this.#state = state
    this.#link = link
    this.#owner = owner
    this.#credit = credit
  }

  /** True while as many bytes as allowed wait for the reader. A reader with nothing waiting is never congested. */
  get congested(): boolean {
    return this.#backlog + this.#bytes >= this.#state.limits.outgoingBytesMax
  }

  /** True when nothing is left to be written by us. */
  get idle(): boolean {
    return this.#chunks.length === 0 && this.#held.length === 0
  }

  /** Packets added so far, those that were discarded included. */
  get pushed(): number {
    return this.#pushed
  }

  /** Packets given to the link so far. */
  get written(): number {
    return this.#written
  }

  /** Bytes that wait here and in the link. */
  get waitingBytes(): number {
    return this.#bytes + this.#heldBytes + this.#link.bufferedBytes
  }

  /**
   * Adds a packet. It leaves when the commit `gate` is durable (0: at the end of the turn), and never before what
   * was added earlier. `credits` are given back when it was written. True when the owner has to be flushed this turn.
   */
  push(bytes: Buffer, gate: number, credits: number): boolean {
    const first = this.#chunks.length === 0
    this.#chunks.push(bytes)
    this.#bytes += bytes.length
    this.#credits += credits
    this.#pushed++
    if (gate > this.#gate) this.#gate = gate
    this.#state.figures.packetsSent++
    return first
  }

  /** Writes, or holds back, what the turn added. */
  flush(): void {
    if (this.#chunks.length > 0) {
      // A gate that was expected to be filled and was not (a message that a full queue dropped) waits for nothing.
      const gate = Math.min(this.#gate, this.#state.store.recordedSequence)
      const segment = { gate, chunks: this.#chunks, bytes: this.#bytes, credits: this.#credits }
      this.#chunks = []
      this.#bytes = 0
      this.#gate = 0
      this.#credits = 0
      if (this.#held.length > 0 || gate > this.#state.store.committedSequence) this.#hold(segment)
      else this.#write(segment.chunks, segment.bytes, segment.credits)
    }
    this.refresh()
  }

  #hold(segment: Segment): void {
    this.#held.push(segment)
    this.#heldBytes += segment.bytes
    this.#state.waiting.add(this.#owner)
  }

  /** A commit is durable: everything up to the first segment that still waits leaves in one write. */
  release(committedSequence: number): void {
    let count = 0
    let bytes = 0
    let credits = 0
    while (count < this.#held.length && this.#held[count]!.gate <= committedSequence) {
      bytes += this.#held[count]!.bytes
      credits += this.#held[count]!.credits
      count++
    }
    if (count === 0) return
    const free = this.#held.splice(0, count)
    this.#heldBytes -= bytes
    if (this.#held.length === 0) this.#state.waiting.delete(this.#owner)
    const chunks = count === 1 ? free[0]!.chunks : free.flatMap((segment) => segment.chunks)
    this.#write(chunks, bytes, credits)
    this.refresh()
  }

  #write(chunks: readonly Buffer[], bytes: number, credits: number): void {
    this.#state.figures.bytesSent += bytes
    this.#written += chunks.length
    this.#link.write(chunks, bytes)
    if (credits > 0) this.#credit(credits)
  }

  /** Takes note of what the link still has to write. */
  refresh(): void {
    this.#backlog = this.#heldBytes + this.#link.bufferedBytes
  }

  /** Nothing of what waits leaves any more. */
  discard(): void {
    this.#chunks = []
    this.#bytes = 0
    this.#gate = 0
    this.#credits = 0
    this.#held = []
    this.#heldBytes = 0
    this.#state.waiting.delete(this.#owner)
  }
}
