/**
 * Reads a database as records, one Session after the other, without building the state that a Server needs:
 * for export, check and repair. The DamageReport decides whether damage ends the reading. If it does not, the
 * damaged part is left out, and the rest goes on: a message that may still have to be delivered is kept.
 */
import type { Database } from '../files/database.ts'
import { TableCursor } from '../files/table-cursor.ts'
import { type DamageReport, refuseDamage } from '../format/damage.ts'
import { isOfQueues, keyNumber, META_KEY, Table, tableName } from '../format/format.ts'
import { pageDamage } from '../format/journal-page.ts'
import { decodeMeta, type Meta } from '../format/meta.ts'
import { MsgpackDecoder } from '../format/msgpack.ts'
import { decodeRetained, decodeWill, isAedesKey, RETAINED_RANGE, WILL_RANGE } from '../format/retained.ts'
import { decodeTimes, PageTimes } from '../format/time-record.ts'
import { CollectedJournal } from '../journal/collected-journal.ts'
import { StoredBodies } from '../journal/stored-bodies.ts'
import { StoreError, type TimeDoubt } from '../store.ts'
import { MessageRecords } from './message-records.ts'
import { QueueReader } from './queue-reader.ts'
import type { RetainedRecord, StoreRecord, WillLine } from './records.ts'
import { readCovered, SessionReader } from './session-reader.ts'
import { WallTimes } from './wall-times.ts'

const SLICE_VALUES = 200

export class RecordReader {
  readonly #db: Database
  readonly #directory: string
  readonly #report: DamageReport

  /** `report` is told of all damage. Reading ends when it throws; the default throws StoreError `corrupt`. */
  constructor(db: Database, directory: string, report: DamageReport = refuseDamage) {
    this.#db = db
    this.#directory = directory
    this.#report = report
  }

  /**
   * Yields everything that is stored. Throws StoreError if this is not a store of Godwit, or one of a later
   * format.
   */
  async *records(): AsyncGenerator<StoreRecord> {
    const db = this.#db
    const report = this.#report
    const meta = await this.#meta()
    const bodies = new StoredBodies(db)
    await bodies.open(report)
    const times = new PageTimes()
    const doubt = await this.#readTimes(times)
    const covered = await readCovered(db)
    const sessionNumbers = new Set(covered.keys())
    const queues = new QueueReader(db, report)
    await queues.loader.read()
    for (const group of queues.loader.groups.values()) covered.set(group.number, group.covered)
    const journal = await CollectedJournal.read(db, meta, covered, times, report)
    const wallTimes = new WallTimes(journal.brokerTime, journal.wallTime)
    const hasQueues = queues.loader.definitions.size > 0
    yield { type: 'start', time: Math.ceil(journal.wallTime), doubt: wallTimes.doubt(doubt), hasQueues }
    yield* queues.records(journal, wallTimes)
    const messages = new MessageRecords(bodies, times, wallTimes)
    const parts = { journal, messages, queues }
    const sessions = new SessionReader(db, parts, { stored: times, wall: wallTimes }, report)
    yield* sessions.records(sessionNumbers)
    await queues.checkKeys()
    yield* this.#retained(wallTimes)
    yield* this.#wills(wallTimes)
  }

  /**
   * Checks the values that `records` does not read: the page index, bodies that no Session needs, and keys
   * that do not belong in a store.
   */
  async checkRest(): Promise<void> {
    const cursor = new TableCursor(this.#db, Table.PageIndex, this.#report, () => null)
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
      const what = pageDamage(keyNumber(key), value)
      if (what !== null) this.#report({ what, lost: 'the messages in it' })
    } else if ((key[0] ?? 0xff) > Table.Time && !isOfQueues(key) && !isAedesKey(key)) {
      this.#report({
        what: `the key ${key.toString('hex').slice(0, 64)} does not belong in a store`,
        lost: null,
      })
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
    return first !== undefined && (first[0] ?? 0xff) > Table.Journal && !isOfQueues(first)
  }

  /** Reads the value about time into `times`. Returns the part of time that is in doubt. */
  async #readTimes(times: PageTimes): Promise<TimeDoubt | null> {
    let doubt: TimeDoubt | null = null
    const lost = (): string => 'corrections of times: some messages may expire too early'
    const cursor = new TableCursor(this.#db, Table.Time, this.#report, lost)
    for (let value = await cursor.next(); value !== undefined; value = await cursor.next()) {
      doubt = cursor.decoded(value, (reader) => decodeTimes(reader, times)) ?? doubt
    }
    await cursor.close()
    return doubt
  }

  async *#retained(wallTimes: WallTimes): AsyncGenerator<RetainedRecord> {
    const decoder = new MsgpackDecoder()
    for await (const [key, value] of this.#range(RETAINED_RANGE)) {
      const message = this.#decoded(key, () => decodeRetained(key, value, decoder).message)
      if (message === undefined) continue
      const { payload, properties, qos, publisher } = message
      const topic = message.topic.name
      const expiresAt = wallTimes.expiry(message.expiresAt)
      yield { type: 'retained', topic, payload, properties, qos, retain: true, expiresAt, publisher }
    }
  }

  async *#wills(wallTimes: WallTimes): AsyncGenerator<WillLine> {
    const decoder = new MsgpackDecoder()
    for await (const [key, value] of this.#range(WILL_RANGE)) {
      const stored = this.#decoded(key, () => decodeWill(key, value, decoder))
      if (stored === undefined) continue
      const [clientId, { will, owner, ownerId = null, dueAt, assigned = false }] = stored
      const wallDueAt = dueAt === 0 ? null : wallTimes.of(dueAt)
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
}
