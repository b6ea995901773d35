/**
 * Reads a database as records, one Session after the other, without building the state that a Server needs: for
 * export, check and repair. What is damaged is reported and left out, and the rest goes on: where it is not certain
 * whether a message still has to be delivered, it is kept, so that it rather arrives twice than never.
 */

import type { Database } from '../files/database.ts'
import { TableCursor, type TableValue } from '../files/table-cursor.ts'
import { type DamageReport, refuseDamage } from '../format/damage.ts'
import type { ByteReader } from '../format/encoding.ts'
import { keyFilter, keyNumber, keyPosition, META_KEY, Table, tableName } from '../format/format.ts'
import { decodeMeta, type Meta } from '../format/meta.ts'
import { MsgpackDecoder } from '../format/msgpack.ts'
import { decodeRetained, decodeWill, isAedesKey, RETAINED_RANGE, WILL_RANGE } from '../format/retained.ts'
import { decodeTimes, PageTimes } from '../format/time-record.ts'
import {
  type CheckpointHead,
  decodeSession,
  decodeSubscription,
  readHead,
  readInbound,
} from '../journal/checkpoint.ts'
import { type Body, readPageHeader } from '../journal/journal.ts'
import {
  type Change,
  type Gap,
  type JournalContents,
  JournalReader,
  type Reference,
  referenceReader,
} from '../journal/journal-reader.ts'
import { StoredBodies } from '../journal/stored-bodies.ts'
import type { InboundPacket, SessionRecord, SubscriptionRecord, TimeDoubt } from '../store.ts'
import { StoreError } from '../store.ts'
import type { DeliveryFields, MessageBody, StoreRecord } from './records.ts'

const SLICE_DELIVERIES = 500
const SLICE_VALUES = 200
/** Offsets in a page that bodies can have: they are 16 bits. */
const OFFSETS = 0x10000

/** The head value of a checkpoint, taken apart. */
interface Checkpoint extends CheckpointHead {
  readonly inFlight: readonly (readonly [packetId: number, reference: Reference | null])[]
  readonly inbound: readonly InboundPacket[]
}

/** Stands for a delivery that is lost; it counts when it would still have to be delivered. */
const LOST = 'lost'

/** A Session while its journal records are applied to its checkpoint. */
interface Growing {
  readonly number: number
  readonly record: SessionRecord
  /** Null when it was lost. */
  readonly checkpoint: Checkpoint | null
  /** Null for one of which only PUBREL is still to be sent. */
  readonly inFlight: Map<number, Reference | typeof LOST | null>
  readonly inbound: Map<number, number>
  lastPacketId: number
  /** Behind a gap: what was sent there is not known. */
  uncertain: boolean
  /** Of the journal, oldest first; from `taken` on. */
  readonly enqueued: Reference[]
  taken: number
  lostDeliveries: number
}

export class StoreReader {
  readonly #db: Database
  readonly #directory: string
  readonly #report: DamageReport
  readonly #bodies: StoredBodies
  /** By page and offset in one number: the number of the message record. */
  readonly #numbers = new Map<number, number>()
  /** What is added to a broker time to make a wall time. */
  #wallOffset = 0
  readonly #times = new PageTimes()

  /** `report` gets every damage; when it throws, reading ends. By default it throws StoreError `corrupt`. */
  constructor(db: Database, directory: string, report: DamageReport = refuseDamage) {
    this.#db = db
    this.#directory = directory
    this.#report = report
    this.#bodies = new StoredBodies(db)
  }

  /** Everything that is stored. Throws StoreError when it is no store of ours, or of another format. */
  async *records(): AsyncGenerator<StoreRecord> {
    const meta = await this.#meta()
    await this.#bodies.open(this.#report)
    const covered = await this.#covered()
    const journal = await new JournalReader(this.#db, covered, this.#report).read(meta)
    const { brokerTime, wallTime } = journal.last ?? { brokerTime: 0, wallTime: 0 }
    this.#wallOffset = wallTime - brokerTime
    const doubt = await this.#readTimes()
    yield { type: 'start', time: Math.ceil(wallTime), doubt: this.#wallDoubt(doubt) }
    yield* this.#sessions(journal, new Set(covered.keys()))
    yield* this.#retained()
    yield* this.#wills()
  }

  /** Checks what `records` does not come across: directory, bodies that nobody needs, keys that are not ours. */
  async checkRest(): Promise<void> {
    const cursor = new TableCursor(this.#db, Table.Directory, this.#report, () => null)
    while ((await cursor.next()) !== undefined);
    await cursor.close()
    const iterator = this.#db.iterator({ highWaterMarkBytes: 1024 * 1024, fillCache: false })
    try {
      for (;;) {
        const entries = await iterator.nextv(SLICE_VALUES)
        if (entries.length === 0) return
        for (const [key, value] of entries) this.#checkKey(key, value)
      }
    } finally {
      await iterator.close()
    }
  }

  #checkKey(key: Buffer, value: Buffer): void {
    if (key[0] === Table.Journal) {
      try {
        readPageHeader(keyNumber(key), value)
      } catch {
        this.#report({ what: `${tableName(key)} does not match its checksum`, lost: 'the messages in it' })
      }
    } else if ((key[0] ?? 0xff) > Table.Time && !isAedesKey(key)) {
      this.#report({ what: `the key ${key.toString('hex').slice(0, 64)} is not one of a store`, lost: null })
    }
  }

  async #meta(): Promise<Meta | null> {
    const bytes = await this.#db.get(META_KEY)
    if (bytes === undefined && (await this.#isForeign())) {
      throw new StoreError(
        'format',
        `${this.#directory} is not a data directory of Godwit`,
        'Name another one.',
      )
    }
    try {
      if (bytes !== undefined) return decodeMeta(bytes, this.#directory)
    } catch (error) {
      if (error instanceof StoreError && error.kind === 'format') throw error
    }
    this.#report({
      what: `the description of the store is ${bytes === undefined ? 'missing' : 'damaged'}`,
      lost: null,
    })
    return null
  }

  async #isForeign(): Promise<boolean> {
    const [first] = await this.#db.keys({ limit: 1 }).all()
    return first !== undefined && (first[0] ?? 0xff) > Table.Journal
  }

  /** What is in doubt about time. */
  async #readTimes(): Promise<TimeDoubt | null> {
    let doubt: TimeDoubt | null = null
    const lost = (): string => 'which of the times were corrected: some messages may expire too early'
    const cursor = new TableCursor(this.#db, Table.Time, this.#report, lost)
    for (let value = await cursor.next(); value !== undefined; value = await cursor.next()) {
      doubt = cursor.decoded(value, (reader) => decodeTimes(reader, this.#times)) ?? doubt
    }
    await cursor.close()
    return doubt
  }

  #wallDoubt(doubt: TimeDoubt | null): TimeDoubt | null {
    return doubt === null
      ? null
      : { ms: doubt.ms, since: this.#wall(doubt.since), until: this.#wall(doubt.until) }
  }

  /** How far each Session's checkpoint reaches. */
  async #covered(): Promise<Map<number, number>> {
    const covered = new Map<number, number>()
    // Damage is reported once, when the Session is read.
    const cursor = new TableCursor(
      this.#db,
      Table.CheckpointHead,
      () => {},
      () => null,
    )
    for (let value = await cursor.next(); value !== undefined; value = await cursor.next()) {
      const head = cursor.decoded(value, readHead)
      if (head !== undefined) covered.set(keyNumber(value.key), head.covered)
    }
    await cursor.close()
    return covered
  }

  /** `expected` are the numbers of Sessions that must be there. */
  async *#sessions(journal: JournalContents, expected: Set<number>): AsyncGenerator<StoreRecord> {
    const report = this.#report
    const sessions = new TableCursor(this.#db, Table.Session, report, () => null)
    const heads = new TableCursor(
      this.#db,
      Table.CheckpointHead,
      report,
      () => 'which of its messages were under way: they may come a second time',
    )
    const segments = new TableCursor(this.#db, Table.CheckpointSegment, report, () => 'the messages in it')
    const subscriptions = new TableCursor(this.#db, Table.Subscription, report, () => 'this Subscription')
    try {
      const newest = await this.#newestOfClients()
      for (let value = await sessions.next(); value !== undefined; value = await sessions.next()) {
        const session = sessions.decoded(value, decodeSession)
        if (session === undefined) continue
        const number = keyNumber(value.key)
        expected.delete(number)
        const { clientId } = session.record
        if (newest.get(clientId) !== number) {
          const lost = 'that one, with its queue'
          report({ what: `Session ${number} of ${quoted(clientId)} was followed by a newer one`, lost })
          continue
        }
        const head = await heads.nextOf(number)
        const checkpoint = head === undefined ? undefined : heads.decoded(head, readCheckpoint)
        if (head === undefined) report(noCheckpoint(session.record.clientId))
        const growing = begun(number, session.record, checkpoint ?? null)
        const stored = this.#segments(growing, segments)
        await apply(growing, stored, journal, report)
        yield this.#session(growing, await subscriptionsOf(number, subscriptions))
        yield* this.#inFlight(growing)
        yield* this.#queued(growing, stored)
        this.#reportLost(growing)
      }
      for (const number of expected) {
        report({
          what: `there is no sound record of Session ${number}`,
          lost: 'a whole Session with its queue',
        })
      }
    } finally {
      for (const cursor of [sessions, heads, segments, subscriptions]) await cursor.close()
    }
  }

  /** The newest Session of each Client Identifier: a deletion that was lost leaves two. */
  async #newestOfClients(): Promise<Map<string, number>> {
    const newest = new Map<string, number>()
    // Damage is reported once, when the Session is read.
    const cursor = new TableCursor(
      this.#db,
      Table.Session,
      () => {},
      () => null,
    )
    for (let value = await cursor.next(); value !== undefined; value = await cursor.next()) {
      const session = cursor.decoded(value, decodeSession)
      if (session !== undefined) newest.set(session.record.clientId, keyNumber(value.key))
    }
    await cursor.close()
    return newest
  }

  #session(
    { record, inbound, lastPacketId }: Growing,
    subscriptions: (readonly [string, SubscriptionRecord])[],
  ): StoreRecord {
    return {
      type: 'session',
      clientId: record.clientId,
      owner: record.owner,
      ownerId: record.ownerId,
      sessionExpirySeconds: record.expirySeconds,
      disconnectedAt: record.disconnectedAt === 0 ? null : this.#wall(record.disconnectedAt),
      lastPacketId,
      inbound: [...inbound],
      subscriptions,
    }
  }

  /** The queue as the checkpoint has it, oldest first; null for what is lost. */
  async *#segments(session: Growing, cursor: TableCursor): AsyncGenerator<Reference | null> {
    const { checkpoint, number } = session
    const head = checkpoint?.queueHead ?? 0
    const tail = checkpoint?.queueTail ?? Number.POSITIVE_INFINITY
    let position = head
    for (let value = await cursor.nextOf(number); value !== undefined; value = await cursor.nextOf(number)) {
      const from = keyPosition(value.key)
      // Written ahead of a head value that was never written: the journal has its entries.
      if (from >= tail) continue
      const references = cursor.decoded(value, readSegment)
      if (references === undefined || from + references.length <= position) continue
      if (checkpoint !== null) for (; position < from; position++) yield null
      for (const reference of references.slice(Math.max(0, position - from))) yield reference
      position = from + references.length
    }
    if (checkpoint !== null) for (; position < tail; position++) yield null
  }

  async *#inFlight(session: Growing): AsyncGenerator<StoreRecord> {
    const { record, inFlight } = session
    const { clientId } = record
    const references = [...inFlight.values()].filter(
      (reference): reference is Reference => reference !== null && reference !== LOST,
    )
    const bodies = await this.#bodies.load(references)
    const bodyOf = new Map(references.map((reference, index) => [reference, bodies[index] ?? null]))
    for (const [packetId, reference] of inFlight) {
      if (reference === null) {
        yield { type: 'inFlight', clientId, packetId, delivery: null }
        continue
      }
      if (reference === LOST) {
        session.lostDeliveries++
        continue
      }
      const body = bodyOf.get(reference) ?? null
      if (body === null) {
        this.#report({
          what: `packet ${packetId} in flight to ${quoted(clientId)} has no body`,
          lost: 'this message',
        })
        continue
      }
      yield* this.#message(reference, body)
      yield { type: 'inFlight', clientId, packetId, delivery: this.#delivery(reference) }
    }
  }

  async *#queued(session: Growing, stored: AsyncGenerator<Reference | null>): AsyncGenerator<StoreRecord> {
    const seen = session.checkpoint === null ? new Set<string>() : null
    let slice: Reference[] = []
    for await (const reference of chained(stored, session.enqueued.slice(session.taken))) {
      if (reference === null) {
        session.lostDeliveries++
        continue
      }
      const name = `${reference.page} ${reference.offset} ${reference.share ?? ''}`
      // Without a checkpoint, the journal may tell once more what is in a segment.
      if (seen?.has(name)) continue
      seen?.add(name)
      slice.push(reference)
      if (slice.length < SLICE_DELIVERIES) continue
      yield* this.#queuedSlice(session, slice)
      slice = []
    }
    yield* this.#queuedSlice(session, slice)
  }

  async *#queuedSlice(session: Growing, slice: readonly Reference[]): AsyncGenerator<StoreRecord> {
    const { clientId } = session.record
    const bodies = await this.#bodies.load(slice)
    for (const [index, reference] of slice.entries()) {
      const body = bodies[index] ?? null
      if (body === null) {
        session.lostDeliveries++
        continue
      }
      yield* this.#message(reference, body)
      yield { type: 'queued', clientId, delivery: this.#delivery(reference) }
    }
  }

  *#message(reference: Reference, body: Body): Generator<StoreRecord> {
    const name = reference.page * OFFSETS + reference.offset
    if (this.#numbers.has(name)) return
    const number = this.#numbers.size + 1
    this.#numbers.set(name, number)
    const expiresAt = this.#deadline(this.#times.expiry(reference.page, body.expiresAt))
    yield { type: 'message', number, ...body, expiresAt }
  }

  #delivery({ page, offset, qos, retain, subscriptionIdentifiers, share }: Reference): DeliveryFields {
    const message = this.#numbers.get(page * OFFSETS + offset)!
    return { message, qos, retain, subscriptionIdentifiers, share }
  }

  #reportLost({ record, lostDeliveries }: Growing): void {
    if (lostDeliveries === 0) return
    this.#report({
      what: `the queue of ${quoted(record.clientId)} has holes`,
      lost: `${lostDeliveries} of its messages`,
    })
  }

  async *#retained(): AsyncGenerator<StoreRecord> {
    const decoder = new MsgpackDecoder()
    for await (const [key, value] of this.#range(RETAINED_RANGE)) {
      const message = this.#decoded(key, () => decodeRetained(key, value, decoder).message)
      if (message === undefined) continue
      const { payload, properties, qos, publisher } = message
      const body: MessageBody = {
        topic: message.topic.name,
        payload,
        properties,
        qos,
        retain: true,
        expiresAt: this.#deadline(message.expiresAt),
        publisher,
      }
      yield { type: 'retained', ...body }
    }
  }

  async *#wills(): AsyncGenerator<StoreRecord> {
    const decoder = new MsgpackDecoder()
    for await (const [key, value] of this.#range(WILL_RANGE)) {
      const stored = this.#decoded(key, () => decodeWill(key, value, decoder))
      if (stored === undefined) continue
      const [clientId, { will, owner, ownerId = null, dueAt, assigned = false }] = stored
      const wallDueAt = dueAt === 0 ? null : this.#wall(dueAt)
      yield { type: 'will', clientId, owner, ownerId, dueAt: wallDueAt, assigned, ...will }
    }
  }

  #decoded<T>(key: Buffer, decode: () => T): T | undefined {
    try {
      return decode()
    } catch {
      this.#report({ what: `${tableName(key)} is damaged`, lost: 'this retained message or Will' })
      return undefined
    }
  }

  async *#range(range: { gte: Buffer; lt: Buffer }): AsyncGenerator<readonly [Buffer, Buffer]> {
    const iterator = this.#db.iterator({ ...range, highWaterMarkBytes: 1024 * 1024, fillCache: false })
    try {
      for (;;) {
        const entries = await iterator.nextv(SLICE_VALUES)
        if (entries.length === 0) return
        yield* entries
      }
    } finally {
      await iterator.close()
    }
  }

  #wall(brokerTime: number): number {
    return Math.round(brokerTime + this.#wallOffset)
  }

  #deadline(expiresAt: number): number | null {
    // Never later: what is left when it is imported must not be more than it was.
    return expiresAt === Number.POSITIVE_INFINITY ? null : Math.floor(expiresAt + this.#wallOffset)
  }
}

function begun(number: number, record: SessionRecord, checkpoint: Checkpoint | null): Growing {
  return {
    number,
    record,
    checkpoint,
    inFlight: new Map(checkpoint?.inFlight ?? []),
    inbound: new Map(checkpoint?.inbound ?? []),
    lastPacketId: checkpoint?.lastPacketId ?? 0,
    uncertain: checkpoint === null,
    enqueued: [],
    taken: 0,
    lostDeliveries: 0,
  }
}

/**
 * Applies the journal to the Session; takes what was sent or dropped from `stored`. Behind a gap, what was sent cannot be
 * told from what was not: all of it stays queued.
 */
async function apply(
  session: Growing,
  stored: AsyncGenerator<Reference | null>,
  { changes, gaps }: JournalContents,
  report: DamageReport,
): Promise<void> {
  const covered = session.checkpoint?.covered ?? 0
  const ahead = gaps.filter(({ sequence }) => sequence > covered)
  for (const change of changes.get(session.number) ?? []) {
    while (ahead.length > 0 && ahead[0]!.page <= change.page) passGap(session, ahead)
    if (session.uncertain) applyUncertain(session, change)
    else if (!(await applied(session, stored, change))) {
      report({
        what: `the journal does not fit the queue of ${quoted(session.record.clientId)}`,
        lost: 'which of its messages were sent: they may come a second time',
      })
      session.uncertain = true
    }
  }
  while (ahead.length > 0) passGap(session, ahead)
}

function passGap(session: Growing, ahead: Gap[]): void {
  ahead.shift()
  session.uncertain = true
  // One that was released in the gap would swallow a new message under the same identifier.
  session.inbound.clear()
}

/** False when the change does not fit. */
async function applied(
  session: Growing,
  stored: AsyncGenerator<Reference | null>,
  change: Change,
): Promise<boolean> {
  const { inFlight, inbound } = session
  switch (change.kind) {
    case 'enqueue':
      enqueue(session, change.reference)
      return true
    case 'sent': {
      const reference = await pop(session, stored)
      if (reference === undefined) return false
      // Nothing is in flight at QoS 0: an older checkpoint than the journal goes on from.
      if (reference?.qos === 0) {
        session.lostDeliveries++
        return false
      }
      inFlight.set(change.packetId, reference ?? LOST)
      session.lastPacketId = change.packetId
      return true
    }
    case 'dropped':
      return (await pop(session, stored)) !== undefined
    case 'received': {
      const known = inFlight.delete(change.packetId)
      // PUBRELs are sent again in the order of the PUBRECs [MQTT-4.6.0-4].
      inFlight.set(change.packetId, null)
      return known || session.lostDeliveries > 0
    }
    case 'completed':
      return inFlight.delete(change.packetId) || session.lostDeliveries > 0
    case 'inboundAdded':
      inbound.set(change.packetId, change.digest)
      return true
    case 'inboundRemoved':
      inbound.delete(change.packetId)
      return true
  }
}

function applyUncertain(session: Growing, change: Change): void {
  const { inFlight, inbound } = session
  switch (change.kind) {
    case 'enqueue':
      enqueue(session, change.reference)
      return
    case 'sent':
      session.lastPacketId = change.packetId
      return
    case 'dropped':
      return
    case 'received':
      // The client waits for PUBREL and would take the next message under this identifier for a repetition.
      inFlight.delete(change.packetId)
      inFlight.set(change.packetId, null)
      return
    case 'completed':
      inFlight.delete(change.packetId)
      return
    case 'inboundAdded':
      inbound.set(change.packetId, change.digest)
      return
    case 'inboundRemoved':
      inbound.delete(change.packetId)
  }
}

function enqueue(session: Growing, reference: Reference | null): void {
  if (reference === null) session.lostDeliveries++
  else session.enqueued.push(reference)
}

/** The head of the queue: null when it is lost, undefined when the queue is empty. */
async function pop(
  session: Growing,
  stored: AsyncGenerator<Reference | null>,
): Promise<Reference | null | undefined> {
  const next = await stored.next()
  if (next.done !== true) return next.value
  return session.taken < session.enqueued.length ? session.enqueued[session.taken++]! : undefined
}

async function* chained(
  stored: AsyncGenerator<Reference | null>,
  enqueued: readonly Reference[],
): AsyncGenerator<Reference | null> {
  yield* stored
  yield* enqueued
}

function readCheckpoint(reader: ByteReader): Checkpoint {
  const head = readHead(reader)
  const entry = referenceReader(reader)
  const inFlight: [number, Reference | null][] = []
  for (let count = reader.varint(); count > 0; count--) {
    const packetId = reader.u16()
    inFlight.push([packetId, reader.u8() === 0 ? null : entry()])
  }
  const inbound: InboundPacket[] = []
  readInbound(reader, (packetId, digest) => inbound.push([packetId, digest]))
  return { ...head, inFlight, inbound }
}

/** The entries of a segment; its first position is in the key. */
function readSegment(reader: ByteReader): Reference[] {
  const to = reader.varint()
  const entry = referenceReader(reader)
  const references: Reference[] = []
  while (!reader.atEnd) references.push(entry())
  if (references.length > to) throw new RangeError('a segment has more entries than positions')
  return references
}

async function subscriptionsOf(
  number: number,
  cursor: TableCursor,
): Promise<(readonly [string, SubscriptionRecord])[]> {
  const subscriptions: (readonly [string, SubscriptionRecord])[] = []
  const next = (): Promise<TableValue | undefined> => cursor.nextOf(number)
  for (let value = await next(); value !== undefined; value = await next()) {
    const record = cursor.decoded(value, decodeSubscription)
    if (record !== undefined) subscriptions.push([keyFilter(value.key), record])
  }
  return subscriptions
}

function noCheckpoint(clientId: string) {
  return {
    what: `Session ${quoted(clientId)} has no sound checkpoint`,
    lost: 'which of its messages were under way: they may come a second time',
  }
}

function quoted(clientId: string): string {
  return JSON.stringify(clientId)
}
