/**
 * HOT. Records definitions, groups, what is appended to logs, and what groups settle: in the open block and
 * in tables. See `LogStore` for each method.
 */
import type { Message } from '../../mqtt/message.ts'
import { type ByteWriter, textBytesMax } from '../format/encoding.ts'
import { type BatchOperation, LOG_TIMES_KEY, numberKey, put, QUEUE_FORMAT, Table } from '../format/format.ts'
import { RecordType } from '../format/journal-record.ts'
import { heldBytesMax, writeHeld } from '../format/log-fields.ts'
import type { Checkpointed, DirtyList } from '../journal/dirty-list.ts'
import type { OpenBlock } from '../journal/open-block.ts'
import type { DefinitionRecord, GroupRecord, HeldEntry, RememberedId, ReturnedEntry } from '../log-store.ts'
import { encodeDefinition, encodeDeleted, encodeGroup } from '../logs/definition-record.ts'
import { type GroupCheckpoints, StoredGroup } from '../logs/group-checkpoints.ts'
import { fieldsOf } from '../logs/growing-segment.ts'
import type { Log } from '../logs/log.ts'
import type { LogTimes } from '../logs/log-times.ts'
import type { StoredLogs } from '../logs/stored-logs.ts'
import type { JournalTail } from './journal-tail.ts'
import type { PendingCommit, PendingPart, RecordingParts } from './pending-commit.ts'

/** No group has this number: a run of settled entries that is not yet recorded has none. */
const NO_GROUP = 0

/** The definitions and groups that recovery found. */
export interface KnownLogs {
  readonly definitions: Map<number, DefinitionRecord>
  readonly groups: Map<number, StoredGroup>
}

export class LogRecords implements PendingPart {
  readonly #pending: PendingCommit
  readonly #block: OpenBlock
  readonly #tail: JournalTail
  readonly #sealed: () => number
  readonly #logs: StoredLogs
  readonly #checkpoints: GroupCheckpoints
  readonly #dirty: DirtyList<Checkpointed>
  readonly #times: LogTimes
  readonly #needFormat: (format: number) => void
  readonly #definitions: Map<number, DefinitionRecord>
  readonly #groups: Map<number, StoredGroup>
  // The settled run that the next record of the same group and lane may go on with.
  #runGroup = NO_GROUP
  #runLane = 0
  #runFirst = 0
  #runNext = 0

  constructor(
    { pending, tail, progress }: RecordingParts,
    logs: StoredLogs,
    checkpoints: GroupCheckpoints,
    dirty: DirtyList<Checkpointed>,
    times: LogTimes,
    needFormat: (format: number) => void,
    { definitions, groups }: KnownLogs,
  ) {
    this.#times = times
    this.#pending = pending
    this.#block = pending.block
    this.#tail = tail
    this.#sealed = () => progress.sealed
    this.#logs = logs
    this.#checkpoints = checkpoints
    this.#dirty = dirty
    this.#needFormat = needFormat
    this.#definitions = definitions
    this.#groups = groups
  }

  get isEmpty(): boolean {
    return this.#logs.isEmpty && this.#runGroup === NO_GROUP
  }

  get bytes(): number {
    return this.#logs.pendingBytes
  }

  takeNumber(): number {
    return this.#tail.takeSessionNumber()
  }

  putDefinition(definition: number, record: DefinitionRecord): void {
    this.#needFormat(QUEUE_FORMAT)
    const before = this.#definitions.get(definition)
    this.#definitions.set(definition, record)
    const logs = record.logs.map((log) => this.#logs.made(log, definition))
    if (before !== undefined && before.logs.length < logs.length) this.#widen(definition, logs)
    this.#pending.write(put(numberKey(Table.Definition, definition), encodeDefinition(record)))
  }

  deleteDefinition(definition: number): void {
    const record = this.#definitions.get(definition)
    if (record === undefined) throw new Error(`there is no definition ${definition}`)
    for (const { number, record: group } of this.#groups.values())
      if (group.definition === definition) this.deleteGroup(number)
    this.#definitions.delete(definition)
    this.#logs.discard(record.logs)
    this.#pending.write(put(numberKey(Table.Definition, definition), encodeDeleted(record)))
  }

  putGroup(group: number, record: GroupRecord): void {
    let stored = this.#groups.get(group)
    if (stored === undefined) {
      const definition = this.#definitions.get(record.definition)
      if (definition === undefined) throw new Error(`there is no definition ${record.definition}`)
      stored = new StoredGroup(
        group,
        record,
        definition.logs.map((log) => this.#logs.get(log)),
      )
      this.#groups.set(group, stored)
      this.#checkpoints.created(stored, this.#sealed(), this.#pending.operations)
    }
    stored.record = record
    this.#pending.write(put(numberKey(Table.Group, group), encodeGroup(record)))
  }

  deleteGroup(group: number): void {
    this.#flush()
    const stored = this.#group(group)
    this.#groups.delete(group)
    this.#dirty.cleaned(stored)
    this.#checkpoints.deleted(stored, this.#pending.operations)
    this.#pending.write({ type: 'del', key: numberKey(Table.Group, group) })
  }

  append(log: number, message: Message, expiresAt: number): number {
    return this.#logs.append(log, message, expiresAt)
  }

  /** For a store that is filled from records; see `LevelStore.restoreEntry`. */
  restore(log: number, sequence: number, message: Message, appendedAt: number): void {
    const fields = fieldsOf(message)
    this.#logs.add(this.#logs.get(log), sequence, fields, message.expiresAt, appendedAt, appendedAt)
  }

  settled(group: number, lane: number, first: number, next: number, bytes: number): void {
    const stored = this.#touched(group)
    const log = laneOf(stored, lane)
    if (stored.record.kind === 'queue') this.#logs.settle(log.number, first, next, bytes)
    if (this.#runGroup === group && this.#runLane === lane && this.#runNext === first) {
      this.#runNext = next
      return
    }
    this.#flush()
    this.#runGroup = group
    this.#runLane = lane
    this.#runFirst = first
    this.#runNext = next
  }

  returned(group: number, { lane, sequence, failures, attempts, due }: ReturnedEntry): void {
    const writer = this.#record(RecordType.Returned, group, 40)
    writer.varint(lane)
    writer.varint(sequence)
    writer.varint(failures)
    writer.varint(attempts)
    writer.f64(due)
  }

  held(group: number, entry: HeldEntry): void {
    writeHeld(this.#record(RecordType.Held, group, heldBytesMax(entry)), entry)
  }

  moved(group: number, lane: number, position: number): void {
    const writer = this.#record(RecordType.Moved, group, 16)
    writer.varint(lane)
    writer.varint(position)
  }

  remembered(group: number, { time, id }: RememberedId): void {
    const writer = this.#record(RecordType.Remembered, group, 8 + textBytesMax(id))
    writer.f64(time)
    writer.text(id)
  }

  touched(group: number): void {
    this.#touched(group)
  }

  /** See `Store.postpone`. */
  postpone(ms: number, since: number): void {
    if (this.#definitions.size === 0) return
    this.#times.add(ms, since)
    this.#pending.write(put(LOG_TIMES_KEY, this.#times.encoded()))
  }

  /** Appends what belongs to the block being sealed. */
  seal(operations: BatchOperation[]): void {
    this.#flush()
    this.#logs.seal(operations, (log) => this.#grown(log))
    for (const definition of this.#logs.sweep(operations))
      operations.push({ type: 'del', key: numberKey(Table.Definition, definition) })
  }

  /** Notes that blocks up to this one are durable. */
  durable(sequence: number): void {
    this.#logs.cache.durable(sequence)
  }

  /** Gives the groups of a definition its new lanes. */
  #widen(definition: number, logs: readonly Log[]): void {
    for (const group of this.#groups.values()) if (group.record.definition === definition) group.logs = logs
  }

  #grown(log: Log): void {
    this.#block.record(RecordType.Grown, log.number, 8).varint(log.next)
  }

  /** Begins a record of a group. What is settled comes before it. */
  #record(type: number, group: number, bytes: number): ByteWriter {
    this.#flush()
    this.#touched(group)
    return this.#block.record(type, group, bytes)
  }

  /** Records the settled run. */
  #flush(): void {
    const group = this.#runGroup
    if (group === NO_GROUP) return
    this.#runGroup = NO_GROUP
    const writer = this.#block.record(RecordType.Settled, group, 24)
    writer.varint(this.#runLane)
    writer.varint(this.#runFirst)
    writer.varint(this.#runNext - this.#runFirst)
  }

  #group(group: number): StoredGroup {
    const stored = this.#groups.get(group)
    if (stored === undefined) throw new Error(`there is no group ${group}`)
    return stored
  }

  #touched(group: number): StoredGroup {
    const stored = this.#group(group)
    if (stored.dirtyFrom === null) this.#dirty.touch(stored, this.#block.firstPage())
    return stored
  }
}

function laneOf({ number, logs }: StoredGroup, lane: number): Log {
  const log = logs[lane]
  if (log === undefined) throw new Error(`group ${number} has no lane ${lane}`)
  return log
}
