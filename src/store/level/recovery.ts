/**
 * Reads a LevelDB back into Sessions, retained messages and Wills, and checks every value on the way.
 *
 * First the tables and each Session's checkpoint, then the journal's pages from `Meta.scanFromPage` to the end: their
 * numbers and those of their blocks must be contiguous. A record is applied to a Session only when its checkpoint
 * does not cover the block. LevelDB drops damaged batches from its log without a word; the scan therefore begins
 * early enough to contain every block that may still lie in that log, so that such a hole is always seen.
 */
import { type Message, NO_IDENTIFIERS } from '../../mqtt/message.ts'
import { ChurnMap } from '../../structures/churn-map.ts'
import { SmallMap } from '../../structures/small-map.ts'
import type { Database } from '../files/database.ts'
import { ByteReader } from '../format/encoding.ts'
import { EntryFields, EntryReader, readIdentifiers } from '../format/entry.ts'
import { EntrySlots } from '../format/entry-slots.ts'
import type { Extensions } from '../format/extensions.ts'
import {
  corrupt,
  DIRECTORY_PAGES,
  keyFilter,
  keyNumber,
  keyPosition,
  LOSS,
  numberKey,
  Table,
  tableRange,
  unsealed,
} from '../format/format.ts'
import type { Meta } from '../format/meta.ts'
import { MsgpackDecoder } from '../format/msgpack.ts'
import { decodeRetained, decodeWill, RETAINED_RANGE, WILL_RANGE } from '../format/retained.ts'
import { decodeTimes, type StoredDoubt } from '../format/time-record.ts'
import { type Bodies, type Forward, type ForwardGroup, Page } from '../journal/bodies.ts'
import {
  type Checkpoints,
  decodeSession,
  decodeSubscription,
  readHead,
  readInbound,
  StoredSession,
} from '../journal/checkpoint.ts'
import { type PageHeader, RecordType, readPageHeader, skipBody } from '../journal/journal.ts'
import { ParkedEntries } from '../journal/parked.ts'
import {
  type ParkedFlight,
  type Recovered,
  type RecoveredSession,
  type SessionRecord,
  StoreError,
  type SubscriptionRecord,
  type WillRecord,
} from '../store.ts'
import type { HeapGuard } from './heap-guard.ts'

/** Values that are read at once. */
const SLICE_VALUES = 1000
const EXTENDED = 0x08
const DELIVERY_FLAGS = 0x07

/** What recovery is given; `bodies` and `checkpoints` are empty and are filled. */
export interface RecoveryInput {
  readonly db: Database
  readonly meta: Meta
  readonly bodies: Bodies
  readonly checkpoints: Checkpoints
  /** Of all that is parked. */
  readonly extensions: Extensions
  readonly guard: HeapGuard
  /** What a page adds to `Page.writtenBefore`, with its share of the batch. */
  readonly pageCostBytes: (value: Buffer) => number
}

export interface RecoveryResult {
  readonly recovered: Recovered
  readonly sessions: ChurnMap<number, StoredSession>
  readonly lastSequence: number
  readonly doubt: StoredDoubt | null
  readonly nextPage: number
  readonly nextSession: number
  /** Sum of the costs of the pages that were scanned. */
  readonly writtenBytes: number
  /**
   * Keys of segments that were written ahead of a head value which a crash prevented. They are to be deleted before
   * anything is recorded: their entries come out of the journal, perhaps under other positions.
   */
  readonly ahead: readonly Buffer[]
}

/** Changes nothing in the database. Throws StoreError, `corrupt` mostly. */
export async function recover(input: RecoveryInput): Promise<RecoveryResult> {
  return new Recovery(input).run()
}

const NOTHING_IN_FLIGHT: ReadonlyMap<number, number> = new Map()
const NO_INBOUND: ReadonlyMap<number, number> = new Map()
/** In the place of an entry: PUBREC came. */
const RELEASED = -1

/** A Session while it is put together. There may be very many, most of which have little. */
class Growing {
  readonly stored: StoredSession
  readonly record: SessionRecord
  readonly subscriptions = new SmallMap<string, SubscriptionRecord>()
  covered = 0
  lastPacketId = 0
  /** Of the checkpoint. */
  head = 0
  tail = 0
  /** Positions before this one were read from segments. */
  read = 0
  readonly queue: GrowingQueue
  /** Slots of entries by packet identifier; RELEASED where PUBREC came. */
  inFlight = NOTHING_IN_FLIGHT
  /** Digests by packet identifier. */
  inbound = NO_INBOUND
  hasHead = false

  constructor(stored: StoredSession, record: SessionRecord, extensions: Extensions) {
    this.stored = stored
    this.record = record
    this.queue = new GrowingQueue(extensions)
  }

  /** `inFlight`, to be changed. */
  get ownInFlight(): Map<number, number> {
    const own = this.inFlight === NOTHING_IN_FLIGHT ? new Map() : (this.inFlight as Map<number, number>)
    this.inFlight = own
    return own
  }

  /** `inbound`, to be changed. */
  get ownInbound(): Map<number, number> {
    const own = this.inbound === NO_INBOUND ? new Map() : (this.inbound as Map<number, number>)
    this.inbound = own
    return own
  }
}

class Recovery {
  readonly #input: RecoveryInput
  readonly #db: Database
  readonly #growing = new Map<number, Growing>()
  readonly #ahead: Buffer[] = []
  readonly #entry = new EntryFields()
  /** Of what is in flight. */
  readonly #slots: EntrySlots
  #doubt: StoredDoubt | null = null
  #writtenBytes = 0

  constructor(input: RecoveryInput) {
    this.#input = input
    this.#db = input.db
    this.#slots = new EntrySlots(input.extensions)
  }

  async run(): Promise<RecoveryResult> {
    await this.#times()
    await this.#directory()
    await this.#forwards()
    await this.#sessions()
    await this.#heads()
    await this.#segments()
    await this.#subscriptions()
    const last = await this.#scan()
    this.#finished()
    const decoder = new MsgpackDecoder()
    const retained: Message[] = []
    const wills: (readonly [string, WillRecord])[] = []
    const retainedLive: (readonly [string, number])[] = []
    await this.#each(RETAINED_RANGE, (key, value) => {
      const { message, liveAt } = decodeRetained(key, value, decoder)
      retained.push(message)
      this.#input.guard.retainedMessages++
      if (liveAt > 0) retainedLive.push([message.topic.name, liveAt])
    })
    await this.#each(WILL_RANGE, (key, value) => wills.push(decodeWill(key, value, decoder)))
    this.#releasePages()
    this.#input.guard.check()
    const stored = new ChurnMap<number, StoredSession>()
    for (const { stored: each } of this.#growing.values()) stored.set(each.id, each)
    const { brokerTime, wallTime, bootTime } = last
    return {
      recovered: {
        ...{ brokerTime, wallTime, bootTime, doubt: this.#doubt },
        ...{ sessions: this.#grown(), retained, retainedLive, wills },
        checkMemory: () => this.#input.guard.check(),
      },
      sessions: stored,
      lastSequence: last.sequence,
      doubt: this.#doubt,
      nextPage: last.page + 1,
      nextSession: last.nextSession,
      writtenBytes: this.#writtenBytes,
      ahead: this.#ahead,
    }
  }

  async #times(): Promise<void> {
    await this.#table(Table.Time, (_key, reader) => {
      this.#doubt = decodeTimes(reader, this.#input.bodies.times)
    })
  }

  async #directory(): Promise<void> {
    await this.#table(Table.Directory, (key, reader) => {
      const first = keyNumber(key) * DIRECTORY_PAGES
      for (let index = 0; index < DIRECTORY_PAGES && !reader.atEnd; index++) {
        const bytes = reader.varint()
        if (bytes === 0 || first + index >= this.#input.meta.scanFromPage) continue
        const page = new Page(first + index, 0, 0)
        page.bytes = bytes
        this.#input.bodies.addPage(page)
      }
    })
  }

  async #forwards(): Promise<void> {
    await this.#table(Table.Forward, (key, reader) => {
      const group: ForwardGroup = { page: keyNumber(key), forwards: new Map<number, Forward>() }
      for (let count = reader.varint(); count > 0; count--) {
        const nameOffset = reader.u16()
        const number = reader.varint()
        // A page of the scan is not in the index yet; `recoverForwards` puts the real one in.
        const page = new Page(number, 0, 0)
        const offset = reader.u16()
        group.forwards.set(nameOffset, { group, nameOffset, page, offset, nextPage: null, nextOffset: 0 })
      }
      this.#input.bodies.groups.set(group.page, group)
    })
  }

  async #sessions(): Promise<void> {
    const clientIds = new Set<string>()
    await this.#table(Table.Session, (key, reader) => {
      const { id, record } = decodeSession(reader)
      const { size } = clientIds.add(record.clientId)
      if (size === this.#growing.size)
        throw corrupt('two of its Sessions have one Client Identifier', LOSS.session)
      const stored = new StoredSession(id, keyNumber(key))
      this.#growing.set(stored.number, new Growing(stored, record, this.#input.extensions))
      this.#input.guard.sessions++
    })
  }

  async #heads(): Promise<void> {
    await this.#table(Table.CheckpointHead, (key, reader) => {
      const session = this.#growing.get(keyNumber(key))
      if (session === undefined) return
      const head = readHead(reader)
      session.hasHead = true
      session.covered = head.covered
      session.lastPacketId = head.lastPacketId
      session.head = head.queueHead
      session.read = head.queueHead
      session.tail = head.queueTail
      session.stored.written = head.queueHead
      const entries = new EntryReader(reader, this.#input.bodies.times)
      for (let count = reader.varint(); count > 0; count--) {
        const packetId = reader.u16()
        const isReleased = reader.u8() === 0
        if (!isReleased) entries.read(this.#entry)
        session.ownInFlight.set(packetId, isReleased ? RELEASED : this.#slots.put(this.#entry))
      }
      readInbound(reader, (packetId, digest) => session.ownInbound.set(packetId, digest))
    })
    for (const [number, session] of this.#growing) {
      if (!session.hasHead) throw corrupt(`Session ${number} has no checkpoint`, LOSS.session)
    }
  }

  async #segments(): Promise<void> {
    await this.#table(Table.CheckpointSegment, (key, reader) => {
      const number = keyNumber(key)
      const segment = { from: keyPosition(key), to: reader.varint() }
      const session = this.#growing.get(number)
      if (session === undefined || segment.to <= session.head) {
        this.#input.checkpoints.discard(number, [segment])
        return
      }
      if (segment.from >= session.tail) {
        this.#ahead.push(key)
        return
      }
      session.stored.segments.push(segment)
      session.stored.written = segment.to
      this.#pass(session, segment.from)
      const entries = new EntryReader(reader, this.#input.bodies.times)
      for (let position = segment.from; position < segment.to; position++) {
        entries.read(this.#entry)
        if (position !== session.read) continue
        session.queue.push(this.#entry)
        session.read++
      }
    })
    for (const session of this.#growing.values()) this.#pass(session, session.tail)
  }

  /**
   * Notes that the entries before this position which were not read are missing. That is damage unless the journal says
   * that all of them are gone: Godwit 0.1.0 could delete a segment before the head value that still named it.
   */
  #pass(session: Growing, position: number): void {
    if (position <= session.read) return
    session.queue.skip(position - session.read)
    session.read = position
  }

  async #subscriptions(): Promise<void> {
    await this.#table(Table.Subscription, (key, reader) => {
      const session = this.#growing.get(keyNumber(key))
      if (session === undefined) throw corrupt(`Session ${keyNumber(key)} is missing`, LOSS.session)
      const filter = keyFilter(key)
      session.subscriptions.set(filter, decodeSubscription(reader))
      this.#input.guard.subscribed(session.subscriptions.size)
      session.stored.filters ??= new SmallMap()
      session.stored.filters.set(filter, true)
    })
  }

  /** Applies the journal; returns its last page's header. */
  async #scan(): Promise<PageHeader> {
    const { meta } = this.#input
    let last: PageHeader | null = null
    let nextPage = meta.scanFromPage
    let block: Block | null = null
    const range = { gte: numberKey(Table.Journal, meta.scanFromPage), lt: tableRange(Table.Journal).lt }
    await this.#each(range, (key, value) => {
      if (keyNumber(key) !== nextPage) throw this.#gap(nextPage, keyNumber(key))
      const header = readPageHeader(nextPage++, value)
      const expected = last === null ? meta.scanFromSequence : last.last ? last.sequence + 1 : last.sequence
      if (header.sequence !== expected || header.first !== (last === null || last.last)) {
        throw corrupt(`block ${expected} of the journal is incomplete`, LOSS.messages)
      }
      if (header.first || block === null) block = new Block(this.#input.bodies, header, this.#writtenBytes)
      this.#writtenBytes += this.#input.pageCostBytes(value)
      this.#page(block, block.page(header.page, value), value, header.bytes)
      last = header
    })
    const end = last as PageHeader | null
    if (end === null || !end.last) throw this.#gap(nextPage, nextPage)
    if (end.sequence < meta.sequence || (meta.clean && end.sequence !== meta.sequence)) {
      throw corrupt(`its journal ends at block ${end.sequence}, not at ${meta.sequence}`, LOSS.messages)
    }
    return end
  }

  #gap(expected: number, found: number): StoreError {
    const what =
      found === expected
        ? `the journal ends before page ${expected}`
        : `pages ${expected} to ${found - 1} of the journal are missing`
    return corrupt(what, LOSS.messages)
  }

  #page(block: Block, page: Page, value: Buffer, headerBytes: number): void {
    const reader = new ByteReader(value, headerBytes)
    try {
      while (!reader.atEnd) this.#record(block, page, reader)
    } catch (error) {
      if (error instanceof StoreError) throw error
      throw corrupt(`journal page ${page.number} cannot be decoded`, LOSS.messages, error)
    }
  }

  #record(block: Block, page: Page, reader: ByteReader): void {
    const type = reader.u8()
    if (type === RecordType.Body) {
      this.#body(block, page, reader)
      return
    }
    if (type === RecordType.MovedBody) {
      skipBody(reader, this.#entry)
      return
    }
    const number = reader.varint()
    const known = this.#growing.get(number)
    const session = known !== undefined && known.covered < block.sequence ? known : undefined
    if (session !== undefined) this.#input.checkpoints.touch(session.stored, block.firstPage)
    switch (type) {
      case RecordType.EnqueueLatest:
      case RecordType.EnqueueNear: {
        const entry = type === RecordType.EnqueueLatest ? block.latest : block.near(reader)
        readReference(reader, entry)
        session?.queue.push(entry)
        return
      }
      case RecordType.EnqueueFar: {
        new EntryReader(reader, this.#input.bodies.times).read(this.#entry)
        session?.queue.push(this.#entry)
        return
      }
      case RecordType.Sent: {
        const packetId = reader.u16()
        if (session === undefined) return
        session.queue.shift(this.#entry)
        session.ownInFlight.set(packetId, this.#slots.put(this.#entry))
        session.lastPacketId = packetId
        return
      }
      case RecordType.Dropped:
        session?.queue.shift(this.#entry)
        return
      case RecordType.Received: {
        const packetId = reader.u16()
        if (session === undefined) return
        this.#land(session, packetId)
        // PUBRELs are sent again in the order of the PUBRECs [MQTT-4.6.0-4].
        session.ownInFlight.set(packetId, RELEASED)
        return
      }
      case RecordType.Completed: {
        const packetId = reader.u16()
        if (session !== undefined) this.#land(session, packetId)
        return
      }
      case RecordType.InboundAdded: {
        const packetId = reader.u16()
        session?.ownInbound.set(packetId, 0)
        return
      }
      case RecordType.InboundDigest: {
        const packetId = reader.u16()
        const digest = reader.u48()
        session?.ownInbound.set(packetId, digest)
        return
      }
      case RecordType.InboundRemoved: {
        const packetId = reader.u16()
        session?.ownInbound.delete(packetId)
        return
      }
      default:
        throw new RangeError(`record type ${type} is not known`)
    }
  }

  /** It is not in flight any more. */
  #land(session: Growing, packetId: number): void {
    const slot = session.inFlight.get(packetId)
    if (slot === undefined) throw new RangeError(`packet ${packetId} is not in flight`)
    if (slot !== RELEASED) this.#slots.free(slot)
    session.ownInFlight.delete(packetId)
  }

  #body(block: Block, page: Page, reader: ByteReader): void {
    const offset = reader.at
    const entry = block.body(page.number, offset)
    skipBody(reader, entry)
    entry.expiresAt = this.#input.bodies.times.expiry(entry.page, entry.expiresAt)
  }

  /** Everything was read: counts who needs which body. Throws StoreError when something is missing. */
  #finished(): void {
    const { bodies } = this.#input
    const entry = this.#entry
    for (const { stored, queue, inFlight } of this.#growing.values()) {
      for (const part of queue.parts) {
        if (part instanceof MissingEntries) throw missing(stored)
        for (let index = 0; index < part.length; index++) {
          part.read(index, entry)
          bodies.recoverParked(entry)
        }
      }
      for (const slot of inFlight.values()) {
        if (slot === RELEASED) continue
        this.#slots.read(slot, entry)
        if (entry.page === MISSING_PAGE) throw missing(stored)
        bodies.recoverParked(entry)
      }
    }
    bodies.recoverForwards()
  }

  /** Hands over one Session after the other, and forgets it. */
  *#grown(): Generator<RecoveredSession, void, undefined> {
    for (const [number, session] of this.#growing) {
      this.#input.guard.handOver(session.subscriptions.size)
      this.#growing.delete(number)
      yield {
        id: session.stored.id,
        record: session.record,
        subscriptions: session.subscriptions,
        inFlight: this.#flight(session),
        queue: session.queue.parked(),
        queueHead: session.head + session.queue.taken,
        lastPacketId: session.lastPacketId,
        inbound: [...session.inbound],
      }
    }
  }

  #flight({ inFlight }: Growing): ParkedFlight | readonly [] {
    if (inFlight.size === 0) return []
    const packetIds = new Int32Array(inFlight.size)
    const parked: ParkedEntries[] = []
    let into: ParkedEntries | null = null
    let index = 0
    for (const [packetId, slot] of inFlight) {
      packetIds[index++] = slot === RELEASED ? -packetId : packetId
      if (slot === RELEASED) continue
      if (into === null || into.full) {
        into = new ParkedEntries(this.#input.extensions)
        parked.push(into)
      }
      this.#slots.read(slot, this.#entry)
      into.add(this.#entry)
      this.#slots.free(slot)
    }
    return { packetIds, parked }
  }

  #releasePages(): void {
    for (const page of this.#input.bodies.pages.values()) {
      if (page.number < this.#input.meta.scanFromPage) this.#input.bodies.pageReleased(page)
    }
  }

  async #table(table: Table, read: (key: Buffer, reader: ByteReader) => void): Promise<void> {
    await this.#each(tableRange(table), (key, value) => {
      const reader = new ByteReader(unsealed(key, value))
      try {
        read(key, reader)
      } catch (error) {
        if (error instanceof StoreError) throw error
        throw corrupt(`the value of key ${key.toString('hex')} cannot be decoded`, LOSS.session, error)
      }
    })
  }

  async #each(range: { gte: Buffer; lt: Buffer }, read: (key: Buffer, value: Buffer) => void): Promise<void> {
    const iterator = this.#db.iterator({ ...range, highWaterMarkBytes: 1024 * 1024 })
    try {
      for (;;) {
        const entries = await iterator.nextv(SLICE_VALUES)
        if (entries.length === 0) return
        for (const [key, value] of entries) read(key, value)
        this.#input.guard.check()
      }
    } finally {
      await iterator.close()
    }
  }
}

function missing({ number }: StoredSession): StoreError {
  return corrupt(`part of the queue of Session ${number} is missing`, LOSS.messages)
}

/** The page of an entry that is missing; pages count from 1. */
const MISSING_PAGE = 0

/** Consecutive entries whose segment is missing. */
class MissingEntries {
  length: number

  constructor(length: number) {
    this.length = length
  }
}

type Part = ParkedEntries | MissingEntries

const NO_PARTS: readonly Part[] = Object.freeze([])

/** The entries of a queue, parked from the beginning. */
class GrowingQueue {
  /** How many were taken off. */
  taken = 0
  readonly #extensions: Extensions
  /** Oldest first; none is empty. */
  #parts: readonly Part[] = NO_PARTS
  #newest: ParkedEntries | null = null

  constructor(extensions: Extensions) {
    this.#extensions = extensions
  }

  get parts(): readonly Part[] {
    return this.#parts
  }

  get #own(): Part[] {
    if (this.#parts === NO_PARTS) this.#parts = []
    return this.#parts as Part[]
  }

  push(entry: EntryFields): void {
    if (this.#newest === null || this.#newest.full) {
      this.#newest = new ParkedEntries(this.#extensions)
      this.#own.push(this.#newest)
    }
    this.#newest.add(entry)
  }

  /** Appends entries that are missing. */
  skip(count: number): void {
    this.#own.push(new MissingEntries(count))
    this.#newest = null
  }

  /** All entries, none of which is missing. */
  parked(): readonly ParkedEntries[] {
    return this.#parts as readonly ParkedEntries[]
  }

  /** Moves the oldest entry into `into`, with MISSING_PAGE for one that is missing. Throws RangeError when there is none. */
  shift(into: EntryFields): void {
    const oldest = this.#parts[0]
    if (oldest === undefined) throw new RangeError('the queue is empty')
    if (oldest instanceof MissingEntries) {
      oldest.length--
      into.page = MISSING_PAGE
    } else {
      oldest.read(0, into)
      oldest.remove(1)
    }
    this.taken++
    if (oldest.length > 0) return
    this.#own.shift()
    if (this.#parts.length === 0) this.#newest = null
  }
}

/** The block that is being scanned. */
class Block {
  readonly sequence: number
  readonly firstPage: Page
  /** Values of its pages so far, for records that name an earlier body of the block. */
  readonly #values: Buffer[] = []
  readonly #entry = new EntryFields()
  readonly #bodies: Bodies
  #hasBody = false
  readonly #near = new EntryFields()

  constructor(bodies: Bodies, header: PageHeader, writtenBefore: number) {
    this.#bodies = bodies
    this.sequence = header.sequence
    this.firstPage = new Page(header.page, header.sequence, writtenBefore)
  }

  /** The entry of the latest body, to be completed for each delivery. */
  get latest(): EntryFields {
    if (!this.#hasBody) throw new RangeError('an enqueue without a body')
    return this.#entry
  }

  /** The entry of a body that begins here, to be filled. */
  body(page: number, offset: number): EntryFields {
    this.#hasBody = true
    this.#entry.page = page
    this.#entry.offset = offset
    return this.#entry
  }

  /** The entry of the earlier body that a record names. */
  near(reader: ByteReader): EntryFields {
    const index = reader.varint()
    const offset = reader.u16()
    const value = this.#values[index]
    if (value === undefined) throw new RangeError(`no page ${index} in the block`)
    this.#near.page = this.firstPage.number + index
    this.#near.offset = offset
    skipBody(new ByteReader(value, offset), this.#near)
    this.#near.expiresAt = this.#bodies.times.expiry(this.#near.page, this.#near.expiresAt)
    return this.#near
  }

  /** The Page of this number, added to the index. */
  page(number: number, value: Buffer): Page {
    const { sequence, writtenBefore } = this.firstPage
    const page = number === this.firstPage.number ? this.firstPage : new Page(number, sequence, writtenBefore)
    page.bytes = value.length
    this.#values.push(value)
    this.#bodies.addPage(page)
    return page
  }
}

/** Completes the entry of a body with what its delivery adds. */
function readReference(reader: ByteReader, entry: EntryFields): void {
  const flags = reader.u8()
  // Both keep the delivery's QoS and RETAIN in the same bits.
  entry.flags = (entry.flags & ~DELIVERY_FLAGS) | (flags & DELIVERY_FLAGS)
  entry.extension = null
  if ((flags & EXTENDED) === 0) return
  const count = reader.varint()
  const subscriptionIdentifiers = count > 0 ? readIdentifiers(reader, count) : NO_IDENTIFIERS
  const share = reader.text()
  entry.extension = { subscriptionIdentifiers, share: share === '' ? null : share }
}
