/**
 * HOT. The output of one Network Connection: one sequence. What waits for a commit holds back everything behind it;
 * what is free leaves in one write at the end of the turn.
 */
import type { Link } from './link.ts'
import type { Releasable, State } from './state.ts'

/** What a waiting packet costs in memory beside its bytes: four bytes of PUBACK are a Buffer, too. */
const PACKET_BYTES = 64

interface Segment {
  readonly gate: number
  readonly chunks: readonly Buffer[]
  readonly bytes: number
  /** Memory that it takes while it waits. */
  readonly weight: number
  readonly credits: number
}

export class Output {
  readonly #state: State
  readonly #link: Link
  readonly #owner: Releasable
  #chunks: Buffer[] = []
  #bytes = 0
  /** Memory that these take while they wait. */
  #weight = 0
  #gate = 0
  #credits = 0
  #held: Segment[] = []
  #heldWeight = 0
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
    return this.#backlog + this.#weight >= this.#state.limits.outgoingBytesMax
  }

  /**
   * True while twice as much waits: deliveries have stopped long before, so these are answers to a client that asks
   * and does not read. Nothing more is read from it until it does.
   */
  get choked(): boolean {
    return this.#backlog + this.#weight >= 2 * this.#state.limits.outgoingBytesMax
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
    return this.#weight + this.#heldWeight + this.#link.bufferedBytes
  }

  /**
   * Adds a packet. It leaves when the commit `gate` is durable (0: at the end of the turn), and never before what
   * was added earlier. `credits` are given back when it was written. True when the owner has to be flushed this turn.
   */
  push(bytes: Buffer, gate: number, credits: number): boolean {
    const first = this.#chunks.length === 0
    this.#chunks.push(bytes)
    this.#bytes += bytes.length
    this.#weight += bytes.length + PACKET_BYTES
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
      const segment = {
        gate,
        chunks: this.#chunks,
        bytes: this.#bytes,
        weight: this.#weight,
        credits: this.#credits,
      }
      this.#chunks = []
      this.#bytes = 0
      this.#weight = 0
      this.#gate = 0
      this.#credits = 0
      if (this.#held.length > 0 || gate > this.#state.store.committedSequence) this.#hold(segment)
      else this.#write(segment.chunks, segment.bytes, segment.credits)
    }
    this.refresh()
  }

  #hold(segment: Segment): void {
    this.#held.push(segment)
    this.#heldWeight += segment.weight
    this.#state.waiting.add(this.#owner)
  }

  /** A commit is durable: everything up to the first segment that still waits leaves in one write. */
  release(committedSequence: number): void {
    let count = 0
    let bytes = 0
    let weight = 0
    let credits = 0
    while (count < this.#held.length && this.#held[count]!.gate <= committedSequence) {
      bytes += this.#held[count]!.bytes
      weight += this.#held[count]!.weight
      credits += this.#held[count]!.credits
      count++
    }
    if (count === 0) return
    const free = this.#held.splice(0, count)
    this.#heldWeight -= weight
    if (this.#held.length === 0) this.#state.waiting.delete(this.#owner)
    const chunks = count === 1 ? free[0]!.chunks : free.flatMap((segment) => segment.chunks)
    this.#write(chunks, bytes, credits)
    this.refresh()
  }

  #write(chunks: readonly Buffer[], bytes: number, credits: number): void {
    this.#state.figures.bytesSent += bytes
    this.#written += chunks.length
    // Behind a slow reader many small packets would cost more than their bytes.
    if (chunks.length > 1 && this.#link.bufferedBytes > 0)
      this.#link.write([Buffer.concat(chunks, bytes)], bytes)
    else this.#link.write(chunks, bytes)
    if (credits > 0) this.#credit(credits)
  }

  /** Takes note of what the link still has to write. */
  refresh(): void {
    this.#backlog = this.#heldWeight + this.#link.bufferedBytes
  }

  /** Nothing of what waits leaves any more. */
  discard(): void {
    this.#chunks = []
    this.#bytes = 0
    this.#weight = 0
    this.#gate = 0
    this.#credits = 0
    this.#held = []
    this.#heldWeight = 0
    this.#state.waiting.delete(this.#owner)
  }
}
