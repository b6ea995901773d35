/** Reads definitions, entries of logs and groups as records. */
import type { Database } from '../files/database.ts'
import type { DamageReport } from '../format/damage.ts'
import { keyNumber, keyPosition, logKey, Table, tableRange } from '../format/format.ts'
import type { LogFlight } from '../format/log-fields.ts'
import type { CollectedJournal } from '../journal/collected-journal.ts'
import type { DefinitionRecord, RecoveredGroup } from '../log-store.ts'
import type { Log } from '../logs/log.ts'
import { LogLoader } from '../logs/log-loader.ts'
import { LogTimes } from '../logs/log-times.ts'
import { Segment, type SegmentCursor } from '../logs/segment.ts'
import type { SettledRuns } from '../logs/settled-runs.ts'
import { detachedLogs, type StoredLogs } from '../logs/stored-logs.ts'
import type { DefinitionName, EntryRecord, GroupLine, LogFlightFields, StoreRecord } from './records.ts'
import type { WallTimes } from './wall-times.ts'

export class QueueReader {
  readonly loader: LogLoader
  readonly #db: Database
  readonly #report: DamageReport
  readonly #logs: StoredLogs

  constructor(db: Database, report: DamageReport) {
    this.#db = db
    this.#report = report
    const times = new LogTimes()
    this.#logs = detachedLogs(times)
    this.loader = new LogLoader(db, this.#logs, times, report)
  }

  /** Applies the journal, and yields everything. What is damaged counts as settled. */
  async *records(journal: CollectedJournal, wallTimes: WallTimes): AsyncGenerator<StoreRecord> {
    const { loader } = this
    for (const log of this.#logs.all())
      for (const record of journal.take(log.number)) loader.record(record, Number.POSITIVE_INFINITY)
    for (const group of loader.groups.keys())
      for (const record of journal.take(group)) loader.record(record, Number.POSITIVE_INFINITY)
    await loader.finish()
    for (const [number, definition] of loader.definitions) {
      const { kind, name, origin, paused, properties, logs, owner } = definition
      yield { type: 'definition', kind, name, origin, paused, properties, lanes: logs.length, owner }
      yield* this.#entries(number, definition, wallTimes)
    }
    for (const group of loader.recovered().groups) yield this.#group(group, wallTimes)
  }

  /** Returns what a Session has in flight from a group; null if that is no longer there. */
  flight(flight: LogFlight): LogFlightFields | null {
    const group = this.loader.groups.get(flight.group)
    if (group === undefined || !this.loader.isThere(flight)) return null
    const { lane, sequence, attempt, filter, qos, retain, subscriptionIdentifiers } = flight
    return {
      ...{ of: this.#nameOf(group.record.definition), group: group.record.name },
      ...{ lane, sequence, attempt, filter, qos, retain, subscriptionIdentifiers },
    }
  }

  /** Reports values of logs that do not belong there. */
  async checkKeys(): Promise<void> {
    const iterator = this.#db.keys(tableRange(Table.Log))
    try {
      for (;;) {
        const keys = await iterator.nextv(1000)
        if (keys.length === 0) return
        for (const key of keys) this.#checkKey(key)
      }
    } finally {
      await iterator.close()
    }
  }

  #checkKey(key: Buffer): void {
    const log = this.#logs.known(keyNumber(key))
    const position = keyPosition(key)
    if (this.loader.garbage.some((each) => each.equals(key))) return
    const place = log?.directory.find(position)
    if (place?.part.first(place.index) === position) return
    if (log?.fragments.some(({ first }) => first === position)) return
    const what = `the part of log ${keyNumber(key)} from entry ${position} on is stored without being needed`
    this.#report({ what, lost: null })
  }

  async *#entries(
    number: number,
    definition: DefinitionRecord,
    wallTimes: WallTimes,
  ): AsyncGenerator<StoreRecord> {
    const { kind, name, logs } = definition
    const group = [...this.loader.groups.values()].find(
      ({ record }) => record.definition === number && record.kind === 'queue',
    )
    for (const [lane, logNumber] of logs.entries()) {
      const log = this.#logs.get(logNumber)
      const runs = group?.lane(lane) ?? null
      const of = { kind, name }
      for (const { part, index } of [...log.directory]) {
        const { first, end } = part.entry(index)
        const segment = await this.#segment(log, first)
        if (segment !== null) yield* entriesOf(segment, of, lane, runs, wallTimes)
        else {
          this.#report({
            what: `messages ${first} to ${end - 1} of ${kind} ${name} are missing or damaged`,
            lost: 'these messages',
          })
          group?.settle(lane, first, end)
        }
      }
      if (log.growing !== null) yield* entriesOf(log.growing, of, lane, runs, wallTimes)
    }
  }

  async #segment(log: Log, first: number): Promise<Segment | null> {
    const key = logKey(Table.Log, log.number, first)
    const value = await this.#db.get(key)
    if (value === undefined) return null
    try {
      return Segment.read(log.number, this.#logs.options.decoding, key, value)
    } catch {
      return null
    }
  }

  #nameOf(definition: number): DefinitionName {
    const { kind, name } = this.loader.definitions.get(definition)!
    return { kind, name }
  }

  #group(group: RecoveredGroup, wallTimes: WallTimes): GroupLine {
    const { record, lanes, returned, held, remembered, counters } = group
    return {
      ...{ type: 'group', of: this.#nameOf(record.definition), counters },
      ...{ kind: record.kind, name: record.name, filter: record.filter },
      lanes: lanes.map(({ floor, runs }) => ({ floor, runs: [...runs] })),
      returned: returned.map((entry) => ({ ...entry, due: entry.due === 0 ? 0 : wallTimes.of(entry.due) })),
      held: held.map((entry) => ({ ...entry, until: wallTimes.of(entry.until) })),
      remembered: remembered.map(({ time, id }) => ({ time: wallTimes.of(time), id })),
    }
  }
}

function* entriesOf(
  segment: Segment,
  of: DefinitionName,
  lane: number,
  runs: SettledRuns | null,
  wallTimes: WallTimes,
): Generator<EntryRecord> {
  const cursor = segment.from(0)
  while (cursor.next())
    if (runs === null || !runs.has(cursor.sequence)) yield entryOf(cursor, of, lane, wallTimes)
}

function entryOf(cursor: SegmentCursor, of: DefinitionName, lane: number, wallTimes: WallTimes): EntryRecord {
  const { sequence, qos, retain, publisher, appendedWall, expiresAt } = cursor
  return {
    ...{ type: 'entry', of, lane, sequence, qos, retain, publisher, appendedAt: Math.round(appendedWall) },
    expiresAt: wallTimes.expiry(expiresAt),
    topic: cursor.topicBytes().toString('utf8'),
    properties: Buffer.from(cursor.properties()),
    payload: Buffer.from(cursor.payload()),
  }
}
