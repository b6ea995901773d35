/**
 * HOT. The output of one Network Connection, one sequence of packets. A packet that waits for a commit holds
 * back all packets behind it. The others leave in one write at the end of the turn.
 */
import { writeAcknowledge } from '../../../mqtt/codec/acknowledge.ts'
import type { AcknowledgeType, ProtocolVersion } from '../../../mqtt/packet.ts'
import type { Link } from '../../boundary/link.ts'
import type { CommitWaiter, ServerState } from '../../state/server-state.ts'
import { TurnBuffer } from '../../state/turn-memory.ts'
import { UNITS } from '../../state/work.ts'
import { OwnCopies } from './own-copies.ts'

/** Memory that a waiting packet takes besides its bytes, at most: a Buffer of its own. */
const PACKET_BYTES = 64

/** Shared and always empty, since most output leaves at the end of its turn. */
const NOTHING_HELD: Segment[] = []

/**
 * The output of this many turns waits for commits without a copy. With more, the disk is slow, and copies
 * pay.
 */
const HELD_TURNS = 8

/** A client that waited for one of this many blocks before the open one is not company. See `CommitPace`. */
const RECENT_BLOCKS = 2

/**
 * Over TLS the last packet of a write gets a write of its own (`Link.hidesRecords`), but only for this many
 * writes to a connection that was idle, and then for one in this many ms.
 */
const APART_MAX = 16
const APART_MS = 1000

interface Segment {
  readonly durableAt: number
  readonly chunks: readonly Buffer[]
  readonly bytes: number
  readonly packets: number
  /** The size of its last packet. */
  readonly lastBytes: number
  /** The memory that it takes while it waits. */
  readonly weight: number
  readonly credits: number
}

/** The Network Connection whose output it is. */
export interface OutputOwner extends CommitWaiter {
  /** Called for written acknowledgements: `count` messages no longer count against Receive Maximum. */
  credited(count: number): void
}

export class Output {
  readonly #state: ServerState
  readonly #link: Link
  readonly #owner: OutputOwner
  /** Made with the first packet that is written into it. */
  #turnBuffer: TurnBuffer | null = null
  /** The only chunk; nearly always there is no other. */
  #chunk: Buffer | null = null
  /** All chunks, if there are several. */
  #chunks: Buffer[] | null = null
  #bytes = 0
  #packets = 0
  /** The size of the packet that was added last. */
  #lastBytes = 0
  /** The latest packets, not a chunk yet, since the next packet may lie right behind them: their memory. */
  #run: Buffer | null = null
  #runStart = 0
  #runEnd = 0
  #durableAt = 0
  #credits = 0
  #held = NOTHING_HELD
  #heldWeight = 0
  /** The block that output last waited for, and the broker time at which that began. */
  #waitedFor = 0
  #waitedAt: number
  /** Whether the turn's output has an answer to something the client asked for. */
  #answers = false
  /** Bytes handed to the link or held, as of the last flush. */
  #backlog = 0
  /** Copies of output that waits; null while nothing does. */
  #copies: OwnCopies | null = null
  #pushed = 0
  #written = 0
  /** In broker time. It is ahead by `APART_MS` for each recent write whose last packet was written alone. */
  #apartUntil = 0

  constructor(state: ServerState, link: Link, owner: OutputOwner) {
    this.#state = state
    this.#link = link
    this.#owner = owner
    this.#waitedAt = state.now()
  }

  /**
   * True while as many bytes as allowed wait for the reader. A reader with nothing waiting is never
   * congested.
   */
  get congested(): boolean {
    return this.#backlog + this.#weight >= this.#state.limits.outgoingBytesMax
  }

  /**
   * True while twice as much waits: deliveries have stopped long before, so these are answers to a client
   * that asks and does not read. Nothing more is read from it until it does.
   */
  get backpressured(): boolean {
    return this.#backlog + this.#weight >= 2 * this.#state.limits.outgoingBytesMax
  }

  /** The memory that the packets of this turn would take if they waited. */
  get #weight(): number {
    return this.#bytes + this.#packets * PACKET_BYTES
  }

  /** True while no packet waits here to be written. */
  get idle(): boolean {
    return this.#packets === 0 && this.#held.length === 0
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
   * Adds a packet. It leaves when the commit `durableAt` is durable (0: at the end of the turn), and never
   * before what was added earlier. `credits` are given back when it was written. Returns true for the first
   * packet of the turn: the owner then has to be flushed.
   */
  push(bytes: Buffer, durableAt: number, credits: number): boolean {
    this.#answers = true
    return this.pushPart(bytes, 0, bytes.length, durableAt, credits)
  }

  /** The same for a packet that is a part of a buffer. */
  pushPart(buffer: Buffer, start: number, end: number, durableAt: number, credits: number): boolean {
    if (this.#run !== buffer || this.#runEnd !== start) {
      if (this.#run !== null) this.#endRun()
      this.#run = buffer
      this.#runStart = start
    }
    this.#runEnd = end
    return this.#add(end - start, durableAt, credits)
  }

  /** Memory for packets that are this connection's alone, valid for the turn. */
  get turnBuffer(): TurnBuffer {
    return this.#turnBuffer ?? this.#makeTurnBuffer()
  }

  #makeTurnBuffer(): TurnBuffer {
    this.#turnBuffer = new TurnBuffer(this.#state.turn.memory)
    return this.#turnBuffer
  }

  /** The same for PUBACK, PUBREC, PUBREL or PUBCOMP. */
  acknowledge(
    type: AcknowledgeType,
    version: ProtocolVersion,
    packetId: number,
    reasonCode: number,
    durableAt: number,
    credits: number,
  ): boolean {
    const turnBuffer = this.#turnBuffer ?? this.#makeTurnBuffer()
    writeAcknowledge(turnBuffer, type, version, packetId, reasonCode)
    if (type !== 'pubrel') this.#answers = true
    return this.pushPart(turnBuffer.buffer, turnBuffer.start, turnBuffer.end, durableAt, credits)
  }

  /** Adds the rest of the packet that was added last: bytes that lie elsewhere. */
  pushBody(bytes: Buffer): void {
    if (this.#run !== null) this.#endRun()
    this.#addChunk(bytes)
    this.#bytes += bytes.length
    this.#lastBytes += bytes.length
  }

  /**
   * Drops the packet that was just encoded. If the turn has no other packet it is not flushed, so the memory
   * is released here.
   */
  abandon(): void {
    if (this.#packets === 0) this.#turnBuffer?.release()
  }

  #endRun(): void {
    const run = this.#run!
    const isWhole = this.#runStart === 0 && this.#runEnd === run.length
    const chunk = isWhole ? run : run.subarray(this.#runStart, this.#runEnd)
    this.#run = null
    this.#addChunk(chunk)
  }

  #addChunk(chunk: Buffer): void {
    if (this.#chunk === null) this.#chunk = chunk
    else if (this.#chunks === null) this.#chunks = [this.#chunk, chunk]
    else this.#chunks.push(chunk)
  }

  #add(bytes: number, durableAt: number, credits: number): boolean {
    const first = this.#packets === 0
    this.#bytes += bytes
    this.#lastBytes = bytes
    this.#packets++
    this.#credits += credits
    this.#pushed++
    if (durableAt > this.#durableAt) this.#durableAt = durableAt
    this.#state.counters.packetsSent++
    return first
  }

  /** Writes, or holds back, what the turn added. */
  flush(): void {
    if (this.#packets > 0) {
      if (this.#run !== null) this.#endRun()
      // A full queue may have dropped the message: without a record in the open block, wait for earlier ones.
      const durableAt = Math.min(this.#durableAt, this.#state.store.recordedSequence)
      const chunks = this.#chunks ?? [this.#chunk!]
      const bytes = this.#bytes
      const packets = this.#packets
      const lastBytes = this.#lastBytes
      const weight = this.#weight
      const credits = this.#credits
      const answers = this.#answers
      this.#empty()
      if (this.#held.length > 0 || durableAt > this.#state.store.committedSequence) {
        const kept = this.#held.length < HELD_TURNS ? chunks : this.#ownCopies(chunks, bytes)
        if (kept === chunks) this.#state.turn.memory.keepBlocks()
        this.#hold({ durableAt, chunks: kept, bytes, packets, lastBytes, weight, credits })
        this.#waits(durableAt, answers)
      } else this.#write(chunks, bytes, packets, lastBytes, credits)
    }
    this.refresh()
  }

  #empty(): void {
    this.#turnBuffer?.release()
    this.#chunk = null
    this.#chunks = null
    this.#run = null
    this.#bytes = 0
    this.#packets = 0
    this.#durableAt = 0
    this.#credits = 0
    this.#answers = false
  }

  #hold(segment: Segment): void {
    if (this.#held === NOTHING_HELD) this.#held = []
    this.#held.push(segment)
    this.#heldWeight += segment.weight
    this.#state.waiting.add(this.#owner)
  }

  /**
   * Notes that output waits, and whether its client is company for the commit. A client is company at most
   * once in a pace, and a subscriber is none, so a publisher that is alone never waits, however many commits
   * the acknowledgements of its subscribers cause.
   */
  #waits(durableAt: number, answers: boolean): void {
    const state = this.#state
    const now = state.now()
    const isRecent = durableAt - this.#waitedFor <= RECENT_BLOCKS || now - this.#waitedAt < state.store.paceMs
    if (answers && !isRecent) state.company++
    this.#waitedFor = durableAt
    this.#waitedAt = now
  }

  /** Writes, after a commit, everything up to the first segment that still waits, in one write. */
  release(committedSequence: number): void {
    const held = this.#held
    let count = 0
    let bytes = 0
    let packets = 0
    let weight = 0
    let credits = 0
    while (count < held.length && held[count]!.durableAt <= committedSequence) {
      bytes += held[count]!.bytes
      packets += held[count]!.packets
      weight += held[count]!.weight
      credits += held[count]!.credits
      count++
    }
    if (count === 0) return
    const { lastBytes } = held[count - 1]!
    const chunks = count === 1 ? held[0]!.chunks : held.slice(0, count).flatMap((segment) => segment.chunks)
    this.#held = count === held.length ? NOTHING_HELD : held.slice(count)
    this.#heldWeight -= weight
    if (this.#held.length === 0) this.#state.waiting.delete(this.#owner)
    this.#write(chunks, bytes, packets, lastBytes, credits)
    this.refresh()
  }

  #write(
    chunks: readonly Buffer[],
    bytes: number,
    packets: number,
    lastBytes: number,
    credits: number,
  ): void {
    this.#state.counters.bytesSent += bytes
    this.#state.work.units += UNITS.write + ((bytes / UNITS.bytesEach) | 0)
    this.#written += packets
    const link = this.#link
    const written = link.bufferedBytes > 0 ? this.#ownCopies(chunks, bytes) : chunks
    if (packets > 1 && link.hidesRecords === true && this.#mayWriteApart()) {
      link.write(withoutLast(written, lastBytes), bytes - lastBytes)
      link.write(lastOf(written, lastBytes), lastBytes)
    } else link.write(written, bytes)
    if (written === chunks && (link.bufferedBytes > 0 || link.leavesWritten !== true))
      this.#state.turn.memory.keepBlocks()
    if (credits > 0) this.#owner.credited(credits)
  }

  /**
   * False in a stream of packets: the next write comes soon, and one more TLS record for each would be
   * expensive.
   */
  #mayWriteApart(): boolean {
    const now = this.#state.now()
    if (this.#apartUntil - now > (APART_MAX - 1) * APART_MS) return false
    this.#apartUntil = Math.max(this.#apartUntil, now) + APART_MS
    return true
  }

  /** Takes note of what the link still has to write. */
  refresh(): void {
    this.#backlog = this.#heldWeight + this.#link.bufferedBytes
    if (this.#backlog === 0) this.#copies = null
  }

  #ownCopies(chunks: readonly Buffer[], bytes: number): readonly Buffer[] {
    this.#copies ??= new OwnCopies(this.#state)
    return this.#copies.of(chunks, bytes)
  }

  /** Drops all packets that have not left. */
  discard(): void {
    this.#empty()
    this.#held = NOTHING_HELD
    this.#heldWeight = 0
    this.#state.waiting.delete(this.#owner)
  }
}

/** All but the last bytes of some chunks. */
function withoutLast(chunks: readonly Buffer[], lastBytes: number): readonly Buffer[] {
  let index = chunks.length - 1
  let left = lastBytes
  while (chunks[index]!.length <= left) left -= chunks[index--]!.length
  const kept = chunks.slice(0, index + 1)
  if (left > 0) kept[index] = kept[index]!.subarray(0, kept[index]!.length - left)
  return kept
}

/** The last bytes of some chunks. */
function lastOf(chunks: readonly Buffer[], lastBytes: number): readonly Buffer[] {
  let index = chunks.length - 1
  let left = lastBytes
  while (chunks[index]!.length < left) left -= chunks[index--]!.length
  const kept = chunks.slice(index)
  if (left < kept[0]!.length) kept[0] = kept[0]!.subarray(kept[0]!.length - left)
  return kept
}
