/**
 * Checkpoints: one for each Session, written at different times, so that no checkpoint stops the broker.
 *
 * A Session is dirty from the first block that changes it and that its checkpoint does not cover. The journal
 * is needed from the oldest dirty Session's block on (the watermark). A checkpoint is taken while a block is
 * sealed. It covers everything up to that block, and is written with it.
 *
 * The queue is stored in segments of up to 1,024 positions. Positions never change, so a checkpoint writes
 * only those that were added since the last one. It merges the newest segment with them if that is no larger.
 * So an entry is written again ten times at most, and a Session has a few small segments, not hundreds. Full
 * segments may be written ahead of the head value, which alone says which positions count. So a long queue is
 * checkpointed over several commits.
 *
 * A segment is deleted in the commit that replaces the head value that names it, or later. If it were deleted
 * earlier, a crash could leave a head value that names missing segments.
 */

import type { Delivery } from '../../mqtt/message.ts'
import type { SmallMap } from '../../structures/small-map.ts'
import { ByteWriter } from '../format/encoding.ts'
import { EntryFields, EntryWriter } from '../format/entry.ts'
import { type BatchOperation, numberKey, put, segmentKey, Table } from '../format/format.ts'
import { flightBytesMax, flightOf, writeFlight } from '../format/log-fields.ts'
import { IN_FLIGHT, writeHead, writeInbound } from '../format/session-record.ts'
import type { InFlight, OutboundState, Parked, QueueReader } from '../store.ts'
import type { BodyIndex, Page } from './body-index.ts'
import type { Checkpointed, DirtyList } from './dirty-list.ts'
import { ParkedEntries } from './parked-entries.ts'

const SEGMENT_POSITIONS = 1024

/** Queue positions that are stored under one key, from `from` up to, but without, `to`. */
export interface Segment {
  readonly from: number
  readonly to: number
}

/** A stored Session. */
export class StoredSession implements Checkpointed {
  /** The Server's number. */
  readonly id: number
  /** The store's own; see `format.ts`. */
  readonly number: number
  dirtyFrom: Page | null = null
  /** The topic filters of stored Subscriptions; null without any. */
  filters: SmallMap<string, true> | null = null
  /** Segments on disk, oldest first. Only in stores of 0.1.0 are there gaps, below the queue's head. */
  segments: Segment[] = []
  /** Queue positions before this one are in segments, or gone. */
  written = 0

  constructor(id: number, number: number) {
    this.id = id
    this.number = number
  }
}

/** Segments of one Session that are no longer needed. */
interface Garbage {
  readonly session: number
  readonly segments: Segment[]
}

/** Bytes of the buffer that are kept from one value to the next. */
const KEEP_BYTES = 64 * 1024

export class Checkpoints {
  readonly #dirty: DirtyList<Checkpointed>
  readonly #bodies: BodyIndex
  readonly #writer = new ByteWriter(KEEP_BYTES)
  #garbage: Garbage[] = []

  /** `dirty` is the list of all that needs a checkpoint. */
  constructor(bodies: BodyIndex, dirty: DirtyList<Checkpointed>) {
    this.#bodies = bodies
    this.#dirty = dirty
  }

  /** Notes that the block that begins at `page` changes the Session. */
  touch(session: StoredSession, page: Page): void {
    if (session.dirtyFrom === null) this.#dirty.touch(session, page)
  }

  /** Writes the empty checkpoint of a new Session, so that a missing one is always damage. */
  created(session: StoredSession, covered: number, operations: BatchOperation[]): void {
    this.#writer.clear(KEEP_BYTES)
    writeHead(this.#writer, { covered, lastPacketId: 0, queueHead: 0, queueTail: 0 })
    this.#writer.varint(0)
    this.#writer.varint(0)
    operations.push(put(numberKey(Table.CheckpointHead, session.number), this.#writer.taken()))
  }

  /** Forgets a deleted Session. */
  deleted(session: StoredSession, operations: BatchOperation[]): void {
    this.#dirty.cleaned(session)
    operations.push({ type: 'del', key: numberKey(Table.CheckpointHead, session.number) })
    this.discard(session.number, session.segments)
  }

  /**
   * Lets `sweep` delete segments step by step, from this commit on, since no head value names them any more.
   * The next start finds those that a crash leaves.
   */
  discard(session: number, segments: Segment[]): void {
    if (segments.length > 0) this.#garbage.push({ session, segments })
  }

  /**
   * Writes as much of the Session's checkpoint as `bytesMax` allows, but at least one segment. Returns the
   * bytes written. The Session is clean if `dirtyFrom` is null afterwards.
   */
  write(
    session: StoredSession,
    state: OutboundState,
    covered: number,
    bytesMax: number,
    operations: BatchOperation[],
  ): number {
    const head = state.queueHead
    const tail = state.queueTail
    let from = Math.max(session.written, head)
    let bytes = 0
    while (tail - from >= SEGMENT_POSITIONS) {
      bytes += this.#segment(session, state, from, from + SEGMENT_POSITIONS, operations)
      from += SEGMENT_POSITIONS
      if (bytes >= bytesMax) return bytes
    }
    if (tail > from) {
      from = this.#merged(session, from, state, operations)
      bytes += this.#segment(session, state, from, tail, operations)
    }
    bytes += this.#head(session, state, covered, operations)
    // They are discarded now, not earlier: until this commit the head value on disk names them.
    this.#discardBelow(session, head)
    this.#dirty.cleaned(session)
    return bytes
  }

  /** Appends deletes of discarded segments, at most `deletesMax`. */
  sweep(deletesMax: number, operations: BatchOperation[]): void {
    for (let deletes = 0; deletes < deletesMax; deletes++) {
      const garbage = this.#garbage[this.#garbage.length - 1]
      const segment = garbage?.segments.pop()
      if (garbage === undefined || segment === undefined) return
      operations.push({ type: 'del', key: segmentKey(garbage.session, segment.from) })
      if (garbage.segments.length === 0) this.#garbage.pop()
    }
  }

  #discardBelow(session: StoredSession, head: number): void {
    let gone = 0
    while (gone < session.segments.length && session.segments[gone]!.to <= head) gone++
    if (gone > 0) this.discard(session.number, session.segments.splice(0, gone))
  }

  /**
   * Removes the newest segments while they are no larger than the one to be written. Returns where the
   * segment that replaces them begins.
   */
  #merged(session: StoredSession, start: number, state: OutboundState, operations: BatchOperation[]): number {
    const { queueHead: head, queueTail: tail } = state
    let from = start
    for (;;) {
      const newest = session.segments[session.segments.length - 1]
      if (newest === undefined || newest.to !== from) return from
      if (newest.to - newest.from > tail - from || tail - newest.from > SEGMENT_POSITIONS) return from
      session.segments.pop()
      operations.push({ type: 'del', key: segmentKey(session.number, newest.from) })
      from = Math.max(newest.from, head)
    }
  }

  #segment(
    session: StoredSession,
    state: OutboundState,
    from: number,
    to: number,
    operations: BatchOperation[],
  ): number {
    const writer = this.#writer
    writer.clear(KEEP_BYTES)
    writer.varint(to)
    const entries = new SegmentWriter(this.#bodies, writer)
    state.readQueue(from, to, entries)
    if (entries.count !== to - from) throw new Error(`the queue of Session ${session.id} has a gap`)
    operations.push(put(segmentKey(session.number, from), writer.taken()))
    session.segments.push({ from, to })
    session.written = to
    return writer.length
  }

  #head(session: StoredSession, state: OutboundState, covered: number, operations: BatchOperation[]): number {
    const writer = this.#writer
    writer.clear(KEEP_BYTES)
    const { lastPacketId, queueHead, queueTail } = state
    writeHead(writer, { covered, lastPacketId, queueHead, queueTail })
    const inFlight = [...state.inFlight()]
    writer.reserve(10)
    writer.varint(inFlight.length)
    const entries = new EntryWriter(writer, this.#bodies.times)
    for (const { packetId, delivery } of inFlight)
      this.#inFlight(session, writer, entries, packetId, delivery)
    writeInbound(writer, [...state.inbound()])
    operations.push(put(numberKey(Table.CheckpointHead, session.number), writer.taken()))
    return writer.length + 64
  }

  #inFlight(
    session: StoredSession,
    writer: ByteWriter,
    entries: EntryWriter,
    packetId: number,
    delivery: InFlight['delivery'],
  ): void {
    writer.reserve(8)
    writer.u16(packetId)
    if (delivery === null) {
      writer.u8(IN_FLIGHT.released)
      return
    }
    const flight = flightOf(delivery)
    if (flight !== null) {
      writer.u8(IN_FLIGHT.log)
      writer.reserve(flightBytesMax(flight))
      writeFlight(writer, flight)
      return
    }
    writer.u8(IN_FLIGHT.body)
    const body = this.#bodies.handle(delivery.message)
    if (body === null) throw new Error(`packet ${packetId} of Session ${session.id} was never stored`)
    entries.write(delivery, body)
  }
}

/** Writes the entries of one segment. */
class SegmentWriter implements QueueReader {
  count = 0
  readonly #bodies: BodyIndex
  readonly #entries: EntryWriter
  readonly #fields = new EntryFields()

  constructor(bodies: BodyIndex, writer: ByteWriter) {
    this.#bodies = bodies
    this.#entries = new EntryWriter(writer, bodies.times)
  }

  delivery(delivery: Delivery): void {
    const body = this.#bodies.handle(delivery.message)
    if (body === null) throw new Error('a queued message was never stored')
    this.#entries.write(delivery, body)
    this.count++
  }

  parked(parked: Parked, from: number, to: number): void {
    if (!(parked instanceof ParkedEntries)) throw new Error('entries were parked by another store')
    for (let index = from; index < to; index++) {
      parked.read(index, this.#fields)
      this.#entries.writeFields(this.#fields)
    }
    this.count += to - from
  }
}
