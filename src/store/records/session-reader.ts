/**
 * Reads one Session after the other from its checkpoint and its part of the journal, as records. At most one
 * Session with its queue is in memory, at 16 bytes a queued message.
 */
import type { Database } from '../files/database.ts'
import { TableCursor } from '../files/table-cursor.ts'
import type { DamageReport } from '../format/damage.ts'
import { EntryFields, MISSING_PAGE } from '../format/entry.ts'
import { keyFilter, keyNumber, keyPosition, Table } from '../format/format.ts'
import { decodeSession, decodeSubscription, readHead } from '../format/session-record.ts'
import type { PageTimes } from '../format/time-record.ts'
import { StoredSession } from '../journal/checkpoints.ts'
import type { CollectedJournal } from '../journal/collected-journal.ts'
import { Extensions } from '../journal/extensions.ts'
import type { ParkedEntries } from '../journal/parked-entries.ts'
import { MissingEntries } from '../journal/parked-queue.ts'
import { RELEASED, SessionBuilder } from '../journal/session-builder.ts'
import { SessionReplay } from '../journal/session-replay.ts'
import type { SessionRecord, SubscriptionRecord } from '../store.ts'
import type { MessageRecords } from './message-records.ts'
import type { QueueReader } from './queue-reader.ts'
import type { SessionRecordLine, StoreRecord } from './records.ts'
import type { WallTimes } from './wall-times.ts'

const SLICE_DELIVERIES = 500

/** Damage is reported once, when the Session is read. */
const NO_REPORT: DamageReport = () => {}

/** Reads how far each Session's checkpoint reaches, by the store's number of the Session. */
export async function readCovered(db: Database): Promise<Map<number, number>> {
  const covered = new Map<number, number>()
  const cursor = new TableCursor(db, Table.CheckpointHead, NO_REPORT, () => null)
  for (let value = await cursor.next(); value !== undefined; value = await cursor.next()) {
    const head = cursor.decoded(value, readHead)
    if (head !== undefined) covered.set(keyNumber(value.key), head.covered)
  }
  await cursor.close()
  return covered
}

/** The tables of Sessions, walked through side by side. */
interface Cursors {
  readonly sessions: TableCursor
  readonly heads: TableCursor
  readonly segments: TableCursor
  readonly subscriptions: TableCursor
}

/** Whatever the records of Sessions refer to. */
export interface ReaderParts {
  readonly journal: CollectedJournal
  readonly messages: MessageRecords
  readonly queues: QueueReader
}

export class SessionReader {
  readonly #db: Database
  readonly #journal: CollectedJournal
  readonly #messages: MessageRecords
  readonly #queues: QueueReader
  readonly #wallTimes: WallTimes
  readonly #report: DamageReport
  readonly #extensions = new Extensions()
  readonly #replay: SessionReplay
  /** Deliveries of the current Session that are lost. */
  #lost = 0

  constructor(
    db: Database,
    { journal, messages, queues }: ReaderParts,
    times: { readonly stored: PageTimes; readonly wall: WallTimes },
    report: DamageReport,
  ) {
    this.#db = db
    this.#journal = journal
    this.#messages = messages
    this.#queues = queues
    this.#wallTimes = times.wall
    this.#report = report
    this.#replay = new SessionReplay(this.#extensions, times.stored, report)
  }

  /**
   * Yields all Sessions with their deliveries. `expected` are the store's numbers of those that must exist.
   */
  async *records(expected: Set<number>): AsyncGenerator<StoreRecord> {
    const cursors = this.#openCursors()
    const { sessions, heads, segments, subscriptions } = cursors
    try {
      const newest = await this.#newestOfClients()
      for (let value = await sessions.next(); value !== undefined; value = await sessions.next()) {
        const session = sessions.decoded(value, decodeSession)
        if (session === undefined) continue
        const number = keyNumber(value.key)
        expected.delete(number)
        const { clientId } = session.record
        if (newest.get(clientId) === number) {
          yield* this.#session(new StoredSession(session.id, number), session.record, cursors)
        } else {
          const what = `Session ${number} of ${quoted(clientId)} was replaced by a newer one`
          this.#report({ what, lost: 'the older Session with its queue' })
        }
      }
      for (const number of expected) {
        const what = `there is no sound record of Session ${number}`
        this.#report({ what, lost: 'a whole Session with its queue' })
      }
    } finally {
      for (const cursor of [sessions, heads, segments, subscriptions]) await cursor.close()
    }
  }

  #openCursors(): Cursors {
    const open = (table: Table, lost: string | null): TableCursor =>
      new TableCursor(this.#db, table, this.#report, () => lost)
    return {
      sessions: open(Table.Session, null),
      heads: open(Table.CheckpointHead, LOST_CHECKPOINT),
      segments: open(Table.CheckpointSegment, 'the messages in it'),
      subscriptions: open(Table.Subscription, 'this Subscription'),
    }
  }

  /** The newest Session of each Client Identifier: a deletion that was lost leaves two. */
  async #newestOfClients(): Promise<Map<string, number>> {
    const newest = new Map<string, number>()
    const cursor = new TableCursor(this.#db, Table.Session, NO_REPORT, () => null)
    for (let value = await cursor.next(); value !== undefined; value = await cursor.next()) {
      const session = cursor.decoded(value, decodeSession)
      if (session !== undefined) newest.set(session.record.clientId, keyNumber(value.key))
    }
    await cursor.close()
    return newest
  }

  async *#session(
    stored: StoredSession,
    record: SessionRecord,
    cursors: Cursors,
  ): AsyncGenerator<StoreRecord> {
    this.#lost = 0
    const session = await this.#begun(stored, record, cursors.heads)
    const hasCheckpoint = session.isCertain
    await this.#readSegments(session, cursors.segments)
    this.#journal.replay(session, this.#replay)
    yield this.#sessionRecord(session, await subscriptionsOf(stored.number, cursors.subscriptions))
    yield* this.#inFlight(session)
    yield* this.#queued(session, hasCheckpoint)
    if (this.#lost > 0) {
      const what = `the queue of ${quoted(record.clientId)} has holes`
      this.#report({ what, lost: `${this.#lost} of its messages` })
    }
  }

  /** Returns the Session as its checkpoint's head value has it; uncertain when that is lost. */
  async #begun(stored: StoredSession, record: SessionRecord, heads: TableCursor): Promise<SessionBuilder> {
    const session = new SessionBuilder(stored, record, this.#extensions)
    const head = await heads.nextOf(stored.number)
    if (head === undefined) {
      const what = `Session ${quoted(record.clientId)} has no sound checkpoint`
      this.#report({ what, lost: LOST_CHECKPOINT })
      return session
    }
    heads.decoded(head, (reader) => this.#replay.begin(session, reader))
    return session.isCertain ? session : new SessionBuilder(stored, record, this.#extensions)
  }

  async #readSegments(session: SessionBuilder, cursor: TableCursor): Promise<void> {
    const next = () => cursor.nextOf(session.stored.number)
    for (let value = await next(); value !== undefined; value = await next()) {
      const from = keyPosition(value.key)
      // It was written ahead of a head value that was never written: the journal has its entries.
      if (session.isCertain && from >= session.tail) continue
      cursor.decoded(value, (reader) => {
        const segment = { from, to: reader.varint() }
        if (segment.to > session.read) this.#replay.segment(session, segment, reader)
      })
    }
    session.reach(session.tail)
  }

  #sessionRecord(
    { record, inbound, lastPacketId }: SessionBuilder,
    subscriptions: (readonly [string, SubscriptionRecord])[],
  ): SessionRecordLine {
    return {
      type: 'session',
      clientId: record.clientId,
      owner: record.owner,
      ownerId: record.ownerId,
      sessionExpirySeconds: record.expirySeconds,
      disconnectedAt: record.disconnectedAt === 0 ? null : this.#wallTimes.of(record.disconnectedAt),
      lastPacketId,
      inbound: [...inbound],
      subscriptions,
    }
  }

  async *#inFlight({ record, inFlight }: SessionBuilder): AsyncGenerator<StoreRecord> {
    const { clientId } = record
    const entries: EntryFields[] = []
    for (const slot of inFlight.values()) if (slot > RELEASED) entries.push(this.#taken(slot))
    const bodies = await this.#messages.load(entries)
    let index = 0
    for (const [packetId, slot] of inFlight) {
      if (slot === RELEASED) {
        yield { type: 'inFlight', clientId, packetId, delivery: null }
        continue
      }
      if (slot < RELEASED) {
        const delivery = this.#queues.flight(this.#replay.flights.get(slot))
        this.#replay.flights.free(slot)
        if (delivery !== null) yield { type: 'inFlight', clientId, packetId, delivery }
        continue
      }
      const body = bodies[index] ?? null
      const entry = entries[index++]!
      if (entry.page === MISSING_PAGE) {
        this.#lost++
      } else if (body === null) {
        const what = `packet ${packetId} in flight to ${quoted(clientId)} has no body`
        this.#report({ what, lost: 'this message' })
      } else {
        const message = this.#messages.recordOf(entry, body)
        if (message !== undefined) yield message
        yield { type: 'inFlight', clientId, packetId, delivery: this.#messages.deliveryOf(entry) }
      }
    }
  }

  /** Takes an entry out of its slot. */
  #taken(slot: number): EntryFields {
    const entry = new EntryFields()
    this.#replay.slots.read(slot, entry)
    this.#replay.slots.free(slot)
    return entry
  }

  async *#queued({ record, queue }: SessionBuilder, hasCheckpoint: boolean): AsyncGenerator<StoreRecord> {
    const { clientId } = record
    const seen = hasCheckpoint ? null : new Set<string>()
    for (const part of queue.parts) {
      if (part instanceof MissingEntries) {
        this.#lost += part.length
        continue
      }
      while (part.length > 0) {
        const entries = takenFrom(part).filter((entry) => seen === null || isNew(entry, seen))
        yield* this.#queuedSlice(clientId, entries)
      }
    }
  }

  async *#queuedSlice(clientId: string, entries: readonly EntryFields[]): AsyncGenerator<StoreRecord> {
    const bodies = await this.#messages.load(entries)
    for (const [index, entry] of entries.entries()) {
      const body = bodies[index] ?? null
      if (body === null) {
        this.#lost++
        continue
      }
      const message = this.#messages.recordOf(entry, body)
      if (message !== undefined) yield message
      yield { type: 'queued', clientId, delivery: this.#messages.deliveryOf(entry) }
    }
  }
}

const LOST_CHECKPOINT = 'the record of which of its messages were in flight: they may arrive twice'

/** Takes up to SLICE_DELIVERIES entries off. */
function takenFrom(part: ParkedEntries): EntryFields[] {
  const entries: EntryFields[] = []
  const count = Math.min(part.length, SLICE_DELIVERIES)
  for (let index = 0; index < count; index++) {
    const entry = new EntryFields()
    part.read(index, entry)
    entries.push(entry)
  }
  part.remove(count)
  return entries
}

/** Returns whether an entry is not a repetition. Without a checkpoint, the journal may repeat a segment. */
function isNew({ page, offset, extension }: EntryFields, seen: Set<string>): boolean {
  const name = `${page} ${offset} ${extension?.share ?? ''}`
  if (seen.has(name)) return false
  seen.add(name)
  return true
}

async function subscriptionsOf(
  number: number,
  cursor: TableCursor,
): Promise<(readonly [string, SubscriptionRecord])[]> {
  const subscriptions: (readonly [string, SubscriptionRecord])[] = []
  for (let value = await cursor.nextOf(number); value !== undefined; value = await cursor.nextOf(number)) {
    const record = cursor.decoded(value, decodeSubscription)
    if (record !== undefined) subscriptions.push([keyFilter(value.key), record])
  }
  return subscriptions
}

function quoted(clientId: string): string {
  return JSON.stringify(clientId)
}
