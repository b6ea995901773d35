/** Collects the journal's records by Session, for readers that take one Session after the other. */
import type { Database } from '../files/database.ts'
import type { DamageReport } from '../format/damage.ts'
import { EntryFields } from '../format/entry.ts'
import { keyNumber, numberKey, Table, tableRange } from '../format/format.ts'
import { headerOf, type PageHeader, pageDamage } from '../format/journal-page.ts'
import { type JournalRecord, RecordType } from '../format/journal-record.ts'
import type { LogFields, LogFlight } from '../format/log-fields.ts'
import type { Meta } from '../format/meta.ts'
import type { PageTimes } from '../format/time-record.ts'
import { JournalScan, type JournalTarget, type ScanStart } from './journal-scan.ts'
import type { SessionBuilder } from './session-builder.ts'
import type { SessionReplay } from './session-replay.ts'

const SLICE_VALUES = 200
const SLICE_BYTES = 1024 * 1024

/** A place where records are missing; see `JournalTarget.gap`. */
interface Gap {
  readonly page: number
  readonly sequence: number
}

/** A copy of a record, and the page that it is from. */
class CollectedRecord implements JournalRecord {
  readonly page: number
  readonly type: number
  readonly session: number
  readonly packetId: number
  readonly digest: number
  readonly entry: EntryFields
  readonly flight: LogFlight | null
  readonly log: LogFields

  constructor(record: JournalRecord, page: number) {
    const { type, session, packetId, digest, entry, flight, log } = record
    this.page = page
    this.type = type
    this.session = session
    this.packetId = packetId
    this.digest = digest
    this.flight = flight
    this.log = log
    this.entry = NO_ENTRY
    if (
      type !== RecordType.EnqueueLatest &&
      type !== RecordType.EnqueueNear &&
      type !== RecordType.EnqueueFar
    )
      return
    this.entry = new EntryFields()
    this.entry.copy(entry)
  }
}

const NO_ENTRY = new EntryFields()

export class CollectedJournal implements JournalTarget {
  /** Broker time and wall time of the newest page; both 0 without any. */
  brokerTime = 0
  wallTime = 0
  /** Blocks up to this one are part of the Session's checkpoint. */
  readonly #covered: ReadonlyMap<number, number>
  readonly #records = new Map<number, CollectedRecord[]>()
  readonly #gaps: Gap[] = []
  #page = 0
  #sequence = 0

  private constructor(covered: ReadonlyMap<number, number>) {
    this.#covered = covered
  }

  /**
   * Reads the records that the checkpoints do not cover. `meta` is null where the store's description is
   * lost: then the scan begins where the newest unbroken run of blocks does.
   */
  static async read(
    db: Database,
    meta: Meta | null,
    covered: ReadonlyMap<number, number>,
    times: PageTimes,
    report: DamageReport,
  ): Promise<CollectedJournal> {
    const journal = new CollectedJournal(covered)
    const start = meta ?? (await newestRun(db))
    const scan = new JournalScan(start, times, journal, report)
    for await (const [key, value] of pagesFrom(db, start.scanFromPage)) scan.page(keyNumber(key), value)
    scan.end(meta)
    return journal
  }

  /** Applies the Session's records, and forgets them. */
  replay(session: SessionBuilder, replay: SessionReplay): void {
    const gaps = this.#gaps.filter(({ sequence }) => sequence > session.covered)
    let passed = 0
    for (const record of this.#records.get(session.stored.number) ?? []) {
      for (; passed < gaps.length && gaps[passed]!.page <= record.page; passed++) replay.passGap(session)
      replay.apply(session, record)
    }
    if (passed < gaps.length) replay.passGap(session)
    this.#records.delete(session.stored.number)
  }

  /** Returns the records of a group or log, and forgets them. Where some are missing, the others hold. */
  take(number: number): readonly JournalRecord[] {
    const records = this.#records.get(number) ?? []
    this.#records.delete(number)
    return records
  }

  page(header: PageHeader): void {
    this.#page = header.page
    this.#sequence = header.sequence
    this.brokerTime = header.brokerTime
    this.wallTime = header.wallTime
  }

  record(record: JournalRecord): void {
    if ((this.#covered.get(record.session) ?? 0) >= this.#sequence) return
    const collected = new CollectedRecord(record, this.#page)
    const records = this.#records.get(record.session)
    if (records === undefined) this.#records.set(record.session, [collected])
    else records.push(collected)
  }

  gap(page: number, sequence: number): void {
    this.#gaps.push({ page, sequence })
  }
}

async function newestRun(db: Database): Promise<ScanStart> {
  let run: ScanStart = { scanFromPage: 0, scanFromSequence: 0 }
  let last: PageHeader | null = null
  for await (const [key, value] of pagesFrom(db, 0)) {
    const number = keyNumber(key)
    if (pageDamage(number, value) !== null) continue
    const header = headerOf(value)
    const goesOn =
      last !== null &&
      number === last.page + 1 &&
      header.first === last.last &&
      header.sequence === last.sequence + (last.last ? 1 : 0)
    if (!goesOn && header.first) run = { scanFromPage: number, scanFromSequence: header.sequence }
    last = header
  }
  return run
}

async function* pagesFrom(db: Database, page: number): AsyncGenerator<readonly [Buffer, Buffer]> {
  const range = { gte: numberKey(Table.Journal, page), lt: tableRange(Table.Journal).lt }
  const iterator = db.iterator({ ...range, highWaterMarkBytes: SLICE_BYTES, fillCache: false })
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
