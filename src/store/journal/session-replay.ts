/**
 * HOT. Puts Sessions together from their checkpoints and the journal. This file alone says what a stored
 * value or a journal record means for a Session: recovery, check, export and repair all go through it.
 *
 * The DamageReport decides how strict it is. A lenient one leads to uncertain Sessions: it is not known which
 * of their messages were sent. All of them stay queued, since a message may arrive twice but must not be
 * lost.
 */

import type { DamageReport } from '../format/damage.ts'
import type { ByteReader } from '../format/encoding.ts'
import { EntryFields, EntryReader, MISSING_PAGE } from '../format/entry.ts'
import { type JournalRecord, RecordType } from '../format/journal-record.ts'
import { readFlight } from '../format/log-fields.ts'
import { IN_FLIGHT, readHead, readInbound } from '../format/session-record.ts'
import type { PageTimes } from '../format/time-record.ts'
import type { Segment } from './checkpoints.ts'
import { EntrySlots, FlightSlots } from './entry-slots.ts'
import type { Extensions } from './extensions.ts'
import { RELEASED, type SessionBuilder } from './session-builder.ts'

export class SessionReplay {
  /** Entries that are in flight. */
  readonly slots: EntrySlots
  /** Entries of logs that are in flight. */
  readonly flights = new FlightSlots()
  readonly #times: PageTimes
  readonly #report: DamageReport
  readonly #entry = new EntryFields()

  constructor(extensions: Extensions, times: PageTimes, report: DamageReport) {
    this.slots = new EntrySlots(extensions)
    this.#times = times
    this.#report = report
  }

  /** Begins a Session with the head value of its checkpoint. Throws when it cannot be decoded. */
  begin(session: SessionBuilder, reader: ByteReader): void {
    const { covered, lastPacketId, queueHead, queueTail } = readHead(reader)
    session.covered = covered
    session.lastPacketId = lastPacketId
    session.head = queueHead
    session.read = queueHead
    session.tail = queueTail
    const entries = new EntryReader(reader, this.#times)
    for (let count = reader.varint(); count > 0; count--) {
      const packetId = reader.u16()
      session.ownInFlight.set(packetId, this.#inFlight(reader.u8(), reader, entries))
    }
    readInbound(reader, (packetId, digest) => session.ownInbound.set(packetId, digest))
    session.isCertain = true
  }

  #inFlight(kind: number, reader: ByteReader, entries: EntryReader): number {
    if (kind === IN_FLIGHT.released) return RELEASED
    if (kind === IN_FLIGHT.log) return this.flights.put(readFlight(reader))
    entries.read(this.#entry)
    return this.slots.put(this.#entry)
  }

  /**
   * Appends the entries of a segment to the queue; `reader` has read its end position. Segments come in the
   * order of their positions. Throws when it cannot be decoded.
   */
  segment(session: SessionBuilder, { from, to }: Segment, reader: ByteReader): void {
    // Godwit 0.1.0 could delete a segment before the head value that still named it. Missing entries are
    // therefore damage only if the journal does not say that all of them are gone.
    session.reach(from)
    const entries = new EntryReader(reader, this.#times)
    for (let position = from; position < to; position++) {
      entries.read(this.#entry)
      if (position !== session.read) continue
      session.queue.push(this.#entry)
      session.read++
    }
  }

  /** Applies a journal record that the checkpoint does not cover. */
  apply(session: SessionBuilder, record: JournalRecord): void {
    switch (record.type) {
      case RecordType.EnqueueLatest:
      case RecordType.EnqueueNear:
      case RecordType.EnqueueFar:
        session.queue.push(record.entry)
        return
      case RecordType.Sent:
        this.#sent(session, record.packetId)
        return
      case RecordType.Dropped:
        this.#dropped(session)
        return
      case RecordType.LogSent:
        this.#launch(session, record.packetId, this.flights.put(record.flight!))
        session.lastPacketId = record.packetId
        return
      case RecordType.Received:
        this.#land(session, record.packetId)
        // PUBRELs are sent again in the order of the PUBRECs [MQTT-4.6.0-4]. An uncertain Session needs it,
        // too: the client waits for PUBREL, and would take the next message under this identifier for a
        // repetition.
        session.ownInFlight.set(record.packetId, RELEASED)
        return
      case RecordType.Completed:
        this.#land(session, record.packetId)
        return
      case RecordType.InboundAdded:
      case RecordType.InboundDigest:
        session.ownInbound.set(record.packetId, record.digest)
        return
      case RecordType.InboundRemoved:
        session.ownInbound.delete(record.packetId)
    }
  }

  /** Goes on after journal records that were lost. */
  passGap(session: SessionBuilder): void {
    session.isCertain = false
    // An identifier that was released in the gap would swallow a new message.
    if (session.inbound.size > 0) session.ownInbound.clear()
  }

  /** Moves the head of the queue to the packets in flight. */
  #sent(session: SessionBuilder, packetId: number): void {
    if (!session.isCertain) {
      session.lastPacketId = packetId
      return
    }
    const entry = this.#entry
    if (!session.queue.peek(entry)) {
      this.#contradict(session, 'the queue is empty')
      return
    }
    // Such a message is never in flight. The checkpoint must be older than the one that the journal
    // continues.
    if (entry.page !== MISSING_PAGE && entry.deliveryQoS === 0) {
      this.#contradict(session, `packet ${packetId} has QoS 0`)
      return
    }
    session.queue.shift()
    this.#launch(session, packetId, this.slots.put(entry))
    session.lastPacketId = packetId
  }

  /**
   * Adds a packet that is in flight. One of a log that was left out at an earlier start may have had its
   * number.
   */
  #launch(session: SessionBuilder, packetId: number, slot: number): void {
    const earlier = session.inFlight.get(packetId)
    if (earlier !== undefined && earlier < RELEASED) this.#land(session, packetId)
    session.ownInFlight.set(packetId, slot)
  }

  #dropped(session: SessionBuilder): void {
    if (!session.isCertain) return
    if (session.queue.parts.length > 0) session.queue.shift()
    else this.#contradict(session, 'the queue is empty')
  }

  /** Removes a packet that was in flight. */
  #land(session: SessionBuilder, packetId: number): void {
    const slot = session.inFlight.get(packetId)
    if (slot === undefined) {
      if (session.isCertain) this.#contradict(session, `packet ${packetId} is not in flight`)
      return
    }
    if (slot > RELEASED) this.slots.free(slot)
    else if (slot < RELEASED) this.flights.free(slot)
    session.ownInFlight.delete(packetId)
  }

  #contradict(session: SessionBuilder, why: string): void {
    const damage = {
      what: `the journal does not fit the queue of ${JSON.stringify(session.record.clientId)}`,
      lost: 'the record of which of its messages were sent: they may arrive twice',
    }
    this.#report(damage, new RangeError(why))
    session.isCertain = false
  }
}
