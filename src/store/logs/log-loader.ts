/**
 * Reads definitions, logs and groups from a database: for a start, and for check, export and repair. The
 * DamageReport decides how strict it is. What a lenient one lets pass counts as settled, and as told.
 */
import type { Database } from '../files/database.ts'
import { TableCursor, type TableValue } from '../files/table-cursor.ts'
import type { DamageReport } from '../format/damage.ts'
import { keyNumber, keyPosition, logKey, Table } from '../format/format.ts'
import { type JournalRecord, RecordType } from '../format/journal-record.ts'
import type { LogFlight } from '../format/log-fields.ts'
import type { Segment as IdPart } from '../journal/checkpoints.ts'
import type { DefinitionRecord, RecoveredLogs } from '../log-store.ts'
import { decodeDefinition, decodeGroup } from './definition-record.ts'
import { GroupBuilder } from './group-builder.ts'
import { StoredGroup } from './group-checkpoints.ts'
import { GrowingSegment } from './growing-segment.ts'
import { Fragment, type Log } from './log.ts'
import type { Part, SegmentPlace } from './log-directory.ts'
import type { LogTimes } from './log-times.ts'
import { FRAGMENT, headerOf, Segment } from './segment.ts'
import type { SettledRuns } from './settled-runs.ts'
import type { StoredLogs } from './stored-logs.ts'

/** Values of fragments that are read at once. */
const SLICE_VALUES = 64

export class LogLoader {
  readonly definitions = new Map<number, DefinitionRecord>()
  /** Logs of definitions that are being deleted, by definition. */
  readonly deleted = new Map<number, readonly number[]>()
  readonly groups = new Map<number, GroupBuilder>()
  /** Parts of remembered ids on disk, by group. */
  readonly #parts = new Map<number, IdPart[]>()
  /** The same groups as the store keeps them. */
  readonly stored = new Map<number, StoredGroup>()
  /** Keys that nothing refers to. */
  readonly garbage: Buffer[] = []
  readonly #db: Database
  readonly #logs: StoredLogs
  readonly #times: LogTimes
  readonly #report: DamageReport
  /** By log: the sequence that its next entry gets at least, by the journal. */
  readonly #grown = new Map<number, number>()

  constructor(db: Database, logs: StoredLogs, times: LogTimes, report: DamageReport) {
    this.#db = db
    this.#logs = logs
    this.#times = times
    this.#report = report
  }

  /** Reads the tables. */
  async read(): Promise<void> {
    await this.#table(Table.LogTimes, (reader) => this.#times.read(reader))
    await this.#table(Table.Definition, (reader, { key }) => {
      const record = decodeDefinition(reader)
      const number = keyNumber(key)
      if ('kind' in record) this.definitions.set(number, record)
      else this.deleted.set(number, record.logs)
      for (const log of record.logs) this.#logs.made(log, number)
    })
    await this.#table(Table.LogDirectory, (reader, { key }) => {
      const log = this.#logs.known(keyNumber(key))
      if (log === null) this.#unknown(key)
      else log.directory.read(keyPosition(key), reader)
    })
    await this.#readGroups()
    for (const log of this.#logs.all()) await this.#fragments(log)
  }

  /**
   * Applies a journal record, unless the group's checkpoint covers its block. Returns the group if it is
   * changed.
   */
  record(record: JournalRecord, sequence: number): StoredGroup | null {
    if (record.type === RecordType.Grown) {
      this.#grown.set(record.session, Math.max(record.log.sequence, this.#grown.get(record.session) ?? 0))
      return null
    }
    const group = this.groups.get(record.session)
    if (group === undefined || group.covered >= sequence) return null
    group.apply(record)
    return this.stored.get(group.number)!
  }

  /** Whether what a Session has in flight is still there. */
  isThere({ group, lane, sequence }: LogFlight): boolean {
    const builder = this.groups.get(group)
    return builder !== undefined && !builder.lane(lane).has(sequence)
  }

  /** Counts what is left of each log, once the journal was applied. */
  async finish(): Promise<void> {
    const queues = new Map<number, GroupBuilder>()
    for (const group of this.groups.values())
      if (group.record.kind === 'queue') queues.set(group.record.definition, group)
    for (const [number, definition] of this.definitions) {
      const group = queues.get(number)
      if (definition.kind === 'queue' && group === undefined) {
        this.#report({ what: `queue ${definition.name} has no group`, lost: `queue ${definition.name}` })
        this.definitions.delete(number)
        continue
      }
      for (const [lane, log] of definition.logs.entries()) {
        await this.#count(this.#logs.get(log), definition, lane, group ?? null)
      }
    }
  }

  recovered(): RecoveredLogs {
    return {
      definitions: Array.from(this.definitions, ([number, record]) => ({ number, record })),
      groups: Array.from(this.groups.values(), (group) => group.recovered()),
    }
  }

  async #readGroups(): Promise<void> {
    await this.#table(Table.Group, (reader, { key }) => {
      const group = new GroupBuilder(keyNumber(key), decodeGroup(reader))
      if (this.definitions.has(group.record.definition)) this.groups.set(group.number, group)
      else this.#unknown(key)
    })
    await this.#table(Table.GroupCheckpoint, (reader, { key }) => {
      const group = this.groups.get(keyNumber(key))
      const position = keyPosition(key)
      if (group === undefined) this.#unknown(key)
      else if (position === 0) group.begin(reader)
      else {
        const part = group.remembered(position - 1, reader)
        if (part === null) this.garbage.push(key)
        else this.#partsOf(group.number).push(part)
      }
    })
    for (const group of this.groups.values()) {
      const name = this.#nameOf(group)
      if (!group.isCertain)
        this.#report({ what: `${name} has no sound checkpoint`, lost: 'what of it was acknowledged' })
      else if (group.lacksIds) this.#report({ what: `message-ids of ${name} are missing`, lost: 'these ids' })
      this.#store(group)
    }
  }

  #store({ number, record }: GroupBuilder): void {
    const { logs } = this.definitions.get(record.definition)!
    const stored = new StoredGroup(
      number,
      record,
      logs.map((log) => this.#logs.get(log)),
    )
    stored.remembered = this.#parts.get(number) ?? []
    stored.written = stored.remembered[stored.remembered.length - 1]?.to ?? 0
    this.stored.set(number, stored)
  }

  #partsOf(group: number): IdPart[] {
    let parts = this.#parts.get(group)
    if (parts === undefined) {
      parts = []
      this.#parts.set(group, parts)
    }
    return parts
  }

  /** Reads the fragments of a log, and makes its growing segment of them. */
  async #fragments(log: Log): Promise<void> {
    const { end } = log.directory
    const range = { gte: logKey(Table.Log, log.number, end), lt: logKey(Table.Log, log.number + 1, 0) }
    const iterator = this.#db.iterator({ ...range, highWaterMarkBytes: 256 * 1024, fillCache: false })
    try {
      for (;;) {
        const entries = await iterator.nextv(SLICE_VALUES)
        if (entries.length === 0) break
        for (const [key, value] of entries) this.#fragment(log, key, value)
      }
    } finally {
      await iterator.close()
    }
    this.#logs.recovered(log)
  }

  #fragment(log: Log, key: Buffer, value: Buffer): void {
    const name = this.#logName(log)
    const first = keyPosition(key)
    let segment: Segment
    try {
      segment = Segment.read(log.number, this.#logs.options.decoding, key, value)
    } catch (error) {
      const what = `messages of ${name} from ${first} on are damaged`
      this.#report({ what, lost: 'these messages' }, error)
      this.garbage.push(key)
      return
    }
    const isFragment = headerOf(value).kind === FRAGMENT && segment.first === first
    if (!isFragment || (log.growing !== null && first < log.growing.end)) {
      const what = `messages ${first} to ${segment.end - 1} of ${name} are stored twice, or in a wrong place`
      this.#report({ what, lost: 'these messages' })
      this.garbage.push(key)
      return
    }
    addFragment(log, segment)
  }

  /** Counts what is left of a log, and looks for entries that are missing. */
  async #count(
    log: Log,
    { name, kind }: DefinitionRecord,
    lane: number,
    group: GroupBuilder | null,
  ): Promise<void> {
    const runs = group?.lane(lane) ?? null
    const missing = (first: number, next: number): void => {
      if (runs === null) return
      for (let from = runs.firstUnsettled(first); from < next; from = runs.firstUnsettled(next)) {
        const what = `messages ${from} to ${next - 1} of ${kind} ${name} are missing`
        this.#report({ what, lost: 'these messages' })
        group!.settle(lane, from, next)
      }
    }
    let expected = runs?.floor ?? 0
    for (const part of log.directory.parts()) {
      for (let index = 0; index < part.length; index++) {
        if (part.left(index) === 0) continue
        missing(expected, part.first(index))
        expected = part.end(index)
        log.wall = part.wall(index)
        log.time = part.time(index)
        if (isWhole(part, index, runs)) {
          log.bytes += part.bytes(index)
          log.messages += part.left(index)
        } else await this.#countLeft(log, { part, index }, runs!, group!, lane)
      }
    }
    for (const fragment of log.fragments) {
      missing(expected, fragment.first)
      expected = fragment.end
      if (runs !== null) fragment.left -= runs.countIn(fragment.first, fragment.end) - gapsIn(fragment)
      log.messages += fragment.left
      log.bytes +=
        runs === null || fragment.left === fragment.count ? fragment.bytes : bytesIn(log, fragment, runs)
    }
    const known = Math.max(this.#grown.get(log.number) ?? 0, group?.nexts[lane] ?? 0)
    log.next = Math.max(1, expected, runs?.end ?? 0, known)
    missing(expected, log.next)
  }

  /** Counts what is left of a segment of which something is settled. */
  async #countLeft(
    log: Log,
    place: SegmentPlace,
    runs: SettledRuns,
    group: GroupBuilder,
    lane: number,
  ): Promise<void> {
    const first = place.part.first(place.index)
    const end = place.part.end(place.index)
    log.bytes += await this.#bytesLeft(log, place, runs, group, lane)
    // A segment that is damaged is settled by now.
    const left = end - first - runs.countIn(first, end)
    log.messages += left
    this.#logs.recoveredSegment(log, place, left)
  }

  /** Reads a segment of which something is settled. */
  async #bytesLeft(
    log: Log,
    { part, index }: SegmentPlace,
    runs: SettledRuns,
    group: GroupBuilder,
    lane: number,
  ): Promise<number> {
    const first = part.first(index)
    const end = part.end(index)
    if (runs.countIn(first, end) === end - first) return 0
    const key = logKey(Table.Log, log.number, first)
    try {
      const value = await this.#db.get(key)
      if (value === undefined) throw new Error('it is missing')
      const cursor = Segment.read(log.number, this.#logs.options.decoding, key, value).from(0)
      let bytes = 0
      while (cursor.next()) if (!runs.has(cursor.sequence)) bytes += cursor.size
      return bytes
    } catch (error) {
      const what = `messages ${first} to ${end - 1} of ${this.#logName(log)} are missing or damaged`
      this.#report({ what, lost: 'these messages' }, error)
      group.settle(lane, first, end)
      return 0
    }
  }

  #unknown(key: Buffer): void {
    this.#report({ what: `key ${key.toString('hex')} belongs to no definition`, lost: null })
    this.garbage.push(key)
  }

  #logName({ definition, number }: Log): string {
    const record = this.definitions.get(definition)
    return record === undefined ? `log ${number}, which is being deleted` : `${record.kind} ${record.name}`
  }

  #nameOf({ record }: GroupBuilder): string {
    const definition = this.definitions.get(record.definition)!
    const name = `${definition.kind} ${definition.name}`
    return record.name === '' ? name : `group ${record.name} of ${name}`
  }

  async #table(
    table: Table,
    read: (reader: Parameters<Parameters<TableCursor['decoded']>[1]>[0], value: TableValue) => void,
  ): Promise<void> {
    const cursor = new TableCursor(this.#db, table, this.#report, () => 'queues, or what is in them')
    try {
      for (let value = await cursor.next(); value !== undefined; value = await cursor.next()) {
        const found = value
        cursor.decoded(found, (reader) => read(reader, found))
      }
    } finally {
      await cursor.close()
    }
  }
}

/** Adds the entries of a stored fragment to the growing segment of its log. */
function addFragment(log: Log, stored: Segment): void {
  const { wall, time } = stored
  log.growing ??= new GrowingSegment(log.number, stored.decoding, stored.first, wall, time)
  const { growing } = log
  const fragment = new Fragment(stored.first, growing.stop)
  const cursor = stored.from(0)
  while (cursor.next()) {
    const { sequence, qos, retain, publisher, storedExpiry, appendedAt, size } = cursor
    const [topic, properties, payload] = [cursor.topicBytes(), cursor.properties(), cursor.payload()]
    growing.add(sequence, appendedAt, storedExpiry, { qos, retain, publisher, topic, properties, payload })
    fragment.count++
    fragment.bytes += size
    fragment.expiry = Math.min(fragment.expiry, storedExpiry)
    log.wall = Math.max(log.wall, cursor.appendedWall)
    log.time = appendedAt
  }
  fragment.end = growing.end
  fragment.left = fragment.count
  fragment.isWritten = true
  log.fragments.push(fragment)
}

/** Whether nothing of a stored segment is settled. */
function isWhole(part: Part, index: number, runs: SettledRuns | null): boolean {
  if (runs === null) return true
  const first = part.first(index)
  const end = part.end(index)
  return end - first - runs.countIn(first, end) === part.left(index)
}

/** Number of sequences of a fragment that have no entry. */
function gapsIn({ first, end, count }: Fragment): number {
  return end - first - count
}

function bytesIn({ growing }: Log, { first, end }: Fragment, runs: SettledRuns): number {
  let bytes = 0
  const cursor = growing!.from(first)
  while (cursor.next() && cursor.sequence < end) if (!runs.has(cursor.sequence)) bytes += cursor.size
  return bytes
}
