/**
 * Reads a LevelDB back into Sessions, retained messages and Wills, and checks every value on the way.
 *
 * It reads the tables and each Session's checkpoint first, then the journal's pages from `Meta.scanFromPage`
 * to the end. A record is applied to a Session only when its checkpoint does not cover the block. LevelDB
 * drops damaged batches from its log without a word. The scan therefore begins early enough to contain every
 * block that may still lie in that log, so that such a hole is always seen.
 *
 * Recovery is strict: any damage ends it with a StoreError, so that a start never loses a message silently.
 */
import type { Message } from '../../mqtt/message.ts'
import { ChurnMap } from '../../structures/churn-map.ts'
import { SmallMap } from '../../structures/small-map.ts'
import type { KnownLogs } from '../commit/log-records.ts'
import type { Database } from '../files/database.ts'
import { type DamageReport, refuseDamage } from '../format/damage.ts'
import { ByteReader } from '../format/encoding.ts'
import { EntryFields, MISSING_PAGE } from '../format/entry.ts'
import {
  corrupt,
  INDEXED_PAGES,
  keyFilter,
  keyNumber,
  keyPosition,
  LOSS,
  numberKey,
  Table,
  tableRange,
  unsealed,
} from '../format/format.ts'
import { readForwards } from '../format/forward-record.ts'
import type { PageHeader } from '../format/journal-page.ts'
import { type JournalRecord, RecordType } from '../format/journal-record.ts'
import { deliveryOf } from '../format/log-fields.ts'
import type { Meta } from '../format/meta.ts'
import { MsgpackDecoder } from '../format/msgpack.ts'
import { decodeRetained, decodeWill, RETAINED_RANGE, WILL_RANGE } from '../format/retained.ts'
import { decodeSession, decodeSubscription } from '../format/session-record.ts'
import { decodeTimes, type StoredDoubt } from '../format/time-record.ts'
import { type BodyIndex, type Forward, type ForwardGroup, Page } from '../journal/body-index.ts'
import { type Checkpoints, StoredSession } from '../journal/checkpoints.ts'
import type { Checkpointed, DirtyList } from '../journal/dirty-list.ts'
import type { Extensions } from '../journal/extensions.ts'
import { JournalScan, type JournalTarget } from '../journal/journal-scan.ts'
import { ParkedEntries } from '../journal/parked-entries.ts'
import { MissingEntries } from '../journal/parked-queue.ts'
import { RELEASED, SessionBuilder } from '../journal/session-builder.ts'
import { SessionReplay } from '../journal/session-replay.ts'
import { LogLoader } from '../logs/log-loader.ts'
import type { LogTimes } from '../logs/log-times.ts'
import type { StoredLogs } from '../logs/stored-logs.ts'
import {
  type InFlight,
  type ParkedFlight,
  type Recovered,
  type RecoveredSession,
  StoreError,
  type WillRecord,
} from '../store.ts'
import type { HeapGuard } from './heap-guard.ts'

/** Values that are read at once. */
const SLICE_VALUES = 1000

/** The input of a recovery; `bodies` and `checkpoints` are empty, and it fills them. */
export interface RecoveryInput {
  readonly db: Database
  readonly meta: Meta
  readonly bodies: BodyIndex
  readonly checkpoints: Checkpoints
  /** Receives all that a checkpoint does not cover. */
  readonly dirty: DirtyList<Checkpointed>
  readonly logs: StoredLogs
  readonly logTimes: LogTimes
  /** Receives the extensions of everything that is parked. */
  readonly extensions: Extensions
  readonly guard: HeapGuard
  /** The bytes that a page adds to `Page.writtenBefore`, with its share of the batch. */
  readonly pageCostBytes: (value: Buffer) => number
}

export interface RecoveryResult {
  readonly recovered: Recovered
  readonly sessions: ChurnMap<number, StoredSession>
  readonly known: KnownLogs
  readonly lastSequence: number
  readonly doubt: StoredDoubt | null
  readonly nextPage: number
  readonly nextSession: number
  /** Sum of the costs of the pages that were scanned. */
  readonly writtenBytes: number
  /**
   * Keys of values that nothing refers to, such as segments that were written ahead of a head value which a
   * crash prevented. Delete them before anything is recorded: their entries come out of the journal, perhaps
   * under other positions.
   */
  readonly ahead: readonly Buffer[]
}

/** Changes nothing in the database. Throws StoreError, `corrupt` mostly. */
export async function recover(input: RecoveryInput): Promise<RecoveryResult> {
  return new Recovery(input).run()
}

/** Refuses a store whose journal is damaged. */
const refuse: DamageReport = ({ what }, cause) => {
  throw corrupt(what, LOSS.messages, cause)
}

class Recovery {
  readonly #input: RecoveryInput
  readonly #db: Database
  /** By the store's number. */
  readonly #sessions = new Map<number, SessionBuilder>()
  readonly #replay: SessionReplay
  readonly #logs: LogLoader
  readonly #ahead: Buffer[] = []
  readonly #entry = new EntryFields()
  #doubt: StoredDoubt | null = null

  constructor(input: RecoveryInput) {
    this.#input = input
    this.#db = input.db
    this.#replay = new SessionReplay(input.extensions, input.bodies.times, refuse)
    this.#logs = new LogLoader(input.db, input.logs, input.logTimes, refuseDamage)
  }

  async run(): Promise<RecoveryResult> {
    await this.#readTimes()
    await this.#readPageIndex()
    await this.#readForwards()
    await this.#readSessions()
    await this.#readHeads()
    await this.#readSegments()
    await this.#readSubscriptions()
    await this.#logs.read()
    const { last, writtenBytes } = await this.#scan()
    this.#countBodies()
    await this.#logs.finish()
    const known = this.#knownLogs()
    const { retained, retainedLive } = await this.#readRetained()
    const wills = await this.#readWills()
    this.#releasePages()
    this.#input.guard.check()
    const stored = new ChurnMap<number, StoredSession>()
    for (const { stored: each } of this.#sessions.values()) stored.set(each.id, each)
    const { brokerTime, wallTime, bootTime } = last
    return {
      recovered: {
        ...{ brokerTime, wallTime, bootTime, doubt: this.#doubt },
        ...{ sessions: this.#handOver(), retained, retainedLive, wills },
        checkMemory: () => this.#input.guard.check(),
        ...(known.definitions.size > 0 && { logs: this.#logs.recovered() }),
      },
      sessions: stored,
      known,
      lastSequence: last.sequence,
      doubt: this.#doubt,
      nextPage: last.page + 1,
      nextSession: last.nextSession,
      writtenBytes,
      ahead: [...this.#ahead, ...this.#logs.garbage],
    }
  }

  async #readTimes(): Promise<void> {
    await this.#table(Table.Time, (_key, reader) => {
      this.#doubt = decodeTimes(reader, this.#input.bodies.times)
    })
  }

  async #readPageIndex(): Promise<void> {
    await this.#table(Table.PageIndex, (key, reader) => {
      const first = keyNumber(key) * INDEXED_PAGES
      for (let index = 0; index < INDEXED_PAGES && !reader.atEnd; index++) {
        const bytes = reader.varint()
        if (bytes === 0 || first + index >= this.#input.meta.scanFromPage) continue
        const page = new Page(first + index, 0, 0)
        page.bytes = bytes
        this.#input.bodies.addPage(page)
      }
    })
  }

  async #readForwards(): Promise<void> {
    await this.#table(Table.Forward, (key, reader) => {
      const group: ForwardGroup = { page: keyNumber(key), forwards: new Map<number, Forward>() }
      readForwards(reader, (nameOffset, number, offset) => {
        // A page of the scan is not in the index yet; `recoverForwards` puts the real one in.
        const page = new Page(number, 0, 0)
        group.forwards.set(nameOffset, { group, nameOffset, page, offset, nextPage: null, nextOffset: 0 })
      })
      this.#input.bodies.groups.set(group.page, group)
    })
  }

  async #readSessions(): Promise<void> {
    const clientIds = new Set<string>()
    await this.#table(Table.Session, (key, reader) => {
      const { id, record } = decodeSession(reader)
      const { size } = clientIds.add(record.clientId)
      if (size === this.#sessions.size)
        throw corrupt('two of its Sessions have the same Client Identifier', LOSS.session)
      const stored = new StoredSession(id, keyNumber(key))
      this.#sessions.set(stored.number, new SessionBuilder(stored, record, this.#input.extensions))
      this.#input.guard.sessions++
    })
  }

  async #readHeads(): Promise<void> {
    await this.#table(Table.CheckpointHead, (key, reader) => {
      const session = this.#sessions.get(keyNumber(key))
      if (session === undefined) return
      this.#replay.begin(session, reader)
      session.stored.written = session.head
    })
    for (const [number, session] of this.#sessions) {
      if (!session.isCertain) throw corrupt(`Session ${number} has no checkpoint`, LOSS.session)
    }
  }

  async #readSegments(): Promise<void> {
    await this.#table(Table.CheckpointSegment, (key, reader) => {
      const number = keyNumber(key)
      const segment = { from: keyPosition(key), to: reader.varint() }
      const session = this.#sessions.get(number)
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
      this.#replay.segment(session, segment, reader)
    })
    for (const session of this.#sessions.values()) session.reach(session.tail)
  }

  async #readSubscriptions(): Promise<void> {
    await this.#table(Table.Subscription, (key, reader) => {
      const session = this.#sessions.get(keyNumber(key))
      if (session === undefined) throw corrupt(`Session ${keyNumber(key)} is missing`, LOSS.session)
      const filter = keyFilter(key)
      session.subscriptions.set(filter, decodeSubscription(reader))
      this.#input.guard.subscribed(session.subscriptions.size)
      session.stored.filters ??= new SmallMap()
      session.stored.filters.set(filter, true)
    })
  }

  /** Applies the journal. Returns its last page's header, and the sum of the costs of its pages. */
  async #scan(): Promise<{ last: PageHeader; writtenBytes: number }> {
    const { meta, bodies } = this.#input
    const pages = new ScannedPages(this.#input, this.#sessions, this.#replay, this.#logs)
    const scan = new JournalScan(meta, bodies.times, pages, refuse)
    const range = { gte: numberKey(Table.Journal, meta.scanFromPage), lt: tableRange(Table.Journal).lt }
    await this.#each(range, (key, value) => scan.page(keyNumber(key), value))
    return { last: scan.end(meta)!, writtenBytes: pages.writtenBytes }
  }

  /** Counts the references to each body. Throws StoreError when an entry or a body is missing. */
  #countBodies(): void {
    const { bodies } = this.#input
    const entry = this.#entry
    for (const { stored, queue, inFlight } of this.#sessions.values()) {
      for (const part of queue.parts) {
        if (part instanceof MissingEntries) throw missing(stored)
        for (let index = 0; index < part.length; index++) {
          part.read(index, entry)
          bodies.recoverParked(entry)
        }
      }
      for (const slot of inFlight.values()) {
        if (slot <= RELEASED) continue
        this.#replay.slots.read(slot, entry)
        if (entry.page === MISSING_PAGE) throw missing(stored)
        bodies.recoverParked(entry)
      }
    }
    bodies.recoverForwards()
  }

  async #readRetained(): Promise<Required<Pick<Recovered, 'retained' | 'retainedLive'>>> {
    const decoder = new MsgpackDecoder()
    const retained: Message[] = []
    const retainedLive: (readonly [string, number])[] = []
    await this.#each(RETAINED_RANGE, (key, value) => {
      const { message, liveAt } = decodeRetained(key, value, decoder)
      retained.push(message)
      this.#input.guard.retainedMessages++
      if (liveAt > 0) retainedLive.push([message.topic.name, liveAt])
    })
    return { retained, retainedLive }
  }

  async #readWills(): Promise<Recovered['wills']> {
    const decoder = new MsgpackDecoder()
    const wills: (readonly [string, WillRecord])[] = []
    await this.#each(WILL_RANGE, (key, value) => wills.push(decodeWill(key, value, decoder)))
    return wills
  }

  /** Hands over one Session after the other, and forgets it. */
  *#handOver(): Generator<RecoveredSession, void, undefined> {
    for (const [number, session] of this.#sessions) {
      this.#input.guard.handOver(session.subscriptions.size)
      this.#sessions.delete(number)
      yield {
        id: session.stored.id,
        record: session.record,
        subscriptions: session.subscriptions,
        inFlight: this.#flight(session),
        // None is missing: `#countBodies` would have refused that.
        queue: session.queue.parts as readonly ParkedEntries[],
        queueHead: session.head + session.queue.taken,
        lastPacketId: session.lastPacketId,
        inbound: [...session.inbound],
      }
    }
  }

  #flight({ inFlight }: SessionBuilder): ParkedFlight | readonly InFlight[] {
    if (inFlight.size === 0) return []
    for (const slot of inFlight.values()) if (slot < RELEASED) return this.#flightWithLogs(inFlight)
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
      this.#replay.slots.read(slot, this.#entry)
      into.add(this.#entry)
      this.#replay.slots.free(slot)
    }
    return { packetIds, parked }
  }

  /** As objects, without what is no longer in its log. */
  #flightWithLogs(inFlight: ReadonlyMap<number, number>): InFlight[] {
    const found: InFlight[] = []
    for (const [packetId, slot] of inFlight) {
      if (slot < RELEASED) {
        const flight = this.#replay.flights.get(slot)
        this.#replay.flights.free(slot)
        if (this.#logs.isThere(flight)) found.push({ packetId, delivery: deliveryOf(flight) })
      } else if (slot === RELEASED) {
        found.push({ packetId, delivery: null })
      } else {
        this.#replay.slots.read(slot, this.#entry)
        this.#replay.slots.free(slot)
        const message = this.#input.bodies.unpark(this.#entry)
        found.push({ packetId, delivery: this.#entry.deliveryOf(message) })
      }
    }
    return found
  }

  #knownLogs(): KnownLogs {
    for (const discarded of this.#logs.deleted.values()) this.#input.logs.discard(discarded)
    return { definitions: this.#logs.definitions, groups: this.#logs.stored }
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

/** Adds the scanned pages to the index of bodies, and applies their records. */
class ScannedPages implements JournalTarget {
  writtenBytes = 0
  readonly #input: RecoveryInput
  readonly #sessions: ReadonlyMap<number, SessionBuilder>
  readonly #replay: SessionReplay
  readonly #logs: LogLoader
  /** The first page of the current block; the page number 0 stands for none. */
  #first = new Page(0, 0, 0)

  constructor(
    input: RecoveryInput,
    sessions: ReadonlyMap<number, SessionBuilder>,
    replay: SessionReplay,
    logs: LogLoader,
  ) {
    this.#input = input
    this.#logs = logs
    this.#sessions = sessions
    this.#replay = replay
  }

  page(header: PageHeader, value: Buffer): void {
    const writtenBefore = header.first ? this.writtenBytes : this.#first.writtenBefore
    const page = new Page(header.page, header.sequence, writtenBefore)
    page.bytes = value.length
    if (header.first) this.#first = page
    this.#input.bodies.addPage(page)
    this.writtenBytes += this.#input.pageCostBytes(value)
  }

  record(record: JournalRecord): void {
    if (record.type > RecordType.LogSent) {
      const group = this.#logs.record(record, this.#first.sequence)
      if (group !== null) this.#input.dirty.touch(group, this.#first)
      return
    }
    const session = this.#sessions.get(record.session)
    if (session === undefined || session.covered >= this.#first.sequence) return
    this.#input.checkpoints.touch(session.stored, this.#first)
    this.#replay.apply(session, record)
  }

  gap(): void {
    throw new Error('a strict scan has no gaps')
  }
}

function missing({ number }: StoredSession): StoreError {
  return corrupt(`part of the queue of Session ${number} is missing`, LOSS.messages)
}
